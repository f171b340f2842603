"""A server on the loopback that speaks OpenAI's chat protocol as a test wants it to."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any] | str]]
"""A request -> the state and the body of its answer: JSON, or the text of a page."""


class OpenAIServer(http.server.ThreadingHTTPServer):
    """`asked` are all chat requests, in the order in which they came."""

    daemon_threads = True

    def __init__(self, answer: Answer, model: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.model = answer, model
        self.asked: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: OpenAIServer

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            self._send(200, "<html>A page.</html>")
            return
        self._send(200, {"object": "list", "data": [{"id": self.server.model, "object": "model"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(request)
        self._send(*self.server.answer(request))

    def _send(self, status: int, content: dict[str, Any] | str) -> None:
        is_page = isinstance(content, str)
        body = content.encode() if is_page else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if is_page else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def openai_server(answer: Answer, model: str = "a-model") -> Iterator[OpenAIServer]:
    """A server until the block ends."""
    with OpenAIServer(answer, model) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def completion(content: str, **choice: Any) -> tuple[int, dict[str, Any]]:
    """A whole answer of that text."""
    message = {"role": "assistant", "content": content}
    return 200, {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }
