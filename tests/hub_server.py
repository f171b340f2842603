"""A server that stands in for the Hugging Face hub: one repository, served to its real client."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "owner/name"


class _Hub(BaseHTTPRequestHandler):
    def __init__(self, *args: Any, folder: Path, asked: list[str], **kwargs: Any) -> None:
        self.folder, self.asked = folder, asked
        super().__init__(*args, **kwargs)

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            self._json([self._entry(file) for file in sorted(self.folder.rglob("*"))])
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            self._json({"id": REPOSITORY, "sha": COMMIT, "siblings": []})
        else:
            self._file(body=True)

    def _entry(self, file: Path) -> dict[str, Any]:
        entry: dict[str, Any] = {"path": file.relative_to(self.folder).as_posix()}
        if file.is_dir():
            return {**entry, "type": "directory", "oid": "0" * 40, "size": 0}
        data = file.read_bytes()
        entry |= {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}
        if file.suffix == ".safetensors":
            sha256 = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
        return entry

    def _json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        self.wfile.write(data)

    def _file(self, *, body: bool) -> None:
        name = self.path.partition("?")[0].removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")
        file = self.folder / name
        if not self.path.startswith(f"/{REPOSITORY}/") or not file.is_file():
            missing = "EntryNotFound" if self.path.startswith(f"/{REPOSITORY}/") else "RepoNotFound"
            self._head(404, {"X-Error-Code": missing, "Content-Length": "0"})
            return
        data = file.read_bytes()
        kind = hashlib.sha256 if file.suffix == ".safetensors" else hashlib.sha1
        self._head(
            200,
            {
                "Content-Length": str(len(data)),
                "ETag": f'"{kind(data).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
            },
        )
        if body:
            self.asked.append(name)
            self.wfile.write(data)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def hub_serving(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The hub has `folder` as its one repository; gives the names of files that were fetched.

    `cache` is the client's cache folder. Afterwards nothing is reachable.
    """
    from huggingface_hub import close_session, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    for word in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(word, raising=False)
    asked: list[str] = []
    host = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, folder=folder, asked=asked))
    thread = threading.Thread(target=host.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{host.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    close_session()
    try:
        yield asked
    finally:
        host.shutdown()
        host.server_close()
        thread.join()
        close_session()
