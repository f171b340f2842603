"""A server that stands in for the hub: data sets, served to the real `datasets` library."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


Files = Mapping[str, bytes]


class DatasetHub(ThreadingHTTPServer):
    """`sets` are its data sets, {name: {path: content}}; `asked` the files that were fetched."""

    daemon_threads = True

    def __init__(self, sets: Mapping[str, Files]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sets = sets
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: DatasetHub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        found = re.fullmatch(r"(/api)?/datasets/([^/]+/[^/]+)(?:/(\w+)/[^/]+)?/?(.*)", path)
        if found is None or found[2] not in self.server.sets:
            self._head(404, {"X-Error-Code": "RepoNotFound", "Content-Length": "0"})
            return
        files, verb, below = self.server.sets[found[2]], found[3], found[4]
        if verb == "resolve":
            self._file(found[2], below, body)
        elif verb == "tree":
            self._json([_entry(one, files[one]) for one in files if one.startswith(below)])
        else:
            siblings = [{"rfilename": one} for one in files]
            self._json({"id": found[2], "sha": COMMIT, "siblings": siblings, "gated": False})

    def _file(self, name: str, path: str, body: bool) -> None:
        data = self.server.sets[name].get(path)
        if data is None:
            self._head(404, {"X-Error-Code": "EntryNotFound", "Content-Length": "0"})
            return
        tag = hashlib.sha1(data).hexdigest()
        length = str(len(data))
        self._head(200, {"Content-Length": length, "X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'})
        if body:
            self.server.asked.append(f"{name}/{path}")
            self.wfile.write(data)

    def _json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        self.wfile.write(data)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def _entry(path: str, data: bytes) -> dict[str, Any]:
    tag = hashlib.sha1(data).hexdigest()
    return {"type": "file", "path": path, "size": len(data), "oid": tag}


def files_of(config: str, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, bytes]:
    """The files of a data set of one configuration, {split: its rows}."""
    files = {
        f"{config}/{split}.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()
        for split, rows in splits.items()
    }
    named = "".join(f"  - {{split: {one}, path: {config}/{one}.jsonl}}\n" for one in splits)
    head = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{named}---\n"
    return {"README.md": head.encode(), **files}


@contextmanager
def dataset_hub(sets: Mapping[str, Files]) -> Iterator[DatasetHub]:
    """The hub until the block ends."""
    with DatasetHub(sets) as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
