"""A proxy on the loopback that counts the chat requests which go through it."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_LARGEST = 1 << 20
"""Bytes of a request at most."""


class CountingProxy(http.server.ThreadingHTTPServer):
    """`asked` counts the last message of every chat request that was answered."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target)
        self.asked: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: CountingProxy

    def do_GET(self) -> None:
        self._pass_on(b"")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        assert length < _LARGEST
        self._pass_on(self.rfile.read(length))

    def _pass_on(self, body: bytes) -> None:
        target = self.server.target
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
        kept = ("authorization", "content-type", "accept")
        headers = {name: value for name, value in self.headers.items() if name.lower() in kept}
        try:
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status == 200 and self.path.endswith("/chat/completions"):
            self.server.asked[json.loads(body)["messages"][-1]["content"]] += 1
        try:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            pass  # who asked was killed

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def counting_proxy(target: str) -> Iterator[CountingProxy]:
    """A proxy of the server at `target` until the block ends."""
    with CountingProxy(target) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
