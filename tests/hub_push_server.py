"""A server that stands in for the Hugging Face hub where files are sent: one repository, in memory.

It speaks what huggingface_hub's real client asks for when it pushes, by LFS and by xet; it counts
what was sent, and can fail on purpose. What xet stores goes into a folder, through hf-xet's own
code, which is why the content of such files is not seen here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

TOKEN = "hf_thisIsNoRealTokenButLooksLikeOne"
LARGE = 10_000_000


@dataclass
class Hub:
    """What the hub has and what it was asked. `fail` may answer a request with a status instead."""

    store: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    puts: Counter[str] = field(default_factory=Counter)
    asked: list[str] = field(default_factory=list)
    commits: list[list[str]] = field(default_factory=list)
    private: bool | None = None
    account: str = "me"
    role: str | None = None
    organizations: list[str] = field(default_factory=list)
    address: str = ""
    contents: dict[str, bytes] = field(default_factory=dict)
    fail: Callable[[str, str], int | None] = lambda method, path: None

    def sizes(self) -> dict[str, int]:
        """{file: bytes} of the repository."""
        return {path: entry["size"] for path, entry in self.files.items()}

    def forget(self) -> None:
        """Be as on the first day."""
        self.private = None
        for held in (self.files, self.objects, self.puts, self.asked, self.commits):
            held.clear()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, *args: Any, hub: Hub, **kwargs: Any) -> None:
        self.hub = hub
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{method} {path}")
        status = self.hub.fail(method, path)
        if status is not None:
            self._json({"error": "on purpose"}, status)
        elif f"Bearer {TOKEN}" != self.headers.get("Authorization") and method != "PUT":
            self._json({"error": "no"}, 401)
        elif "/resolve/" in path:
            self._file(path.partition("/resolve/")[2].partition("/")[2], method)
        else:
            self._route(method, path, body)

    def _route(self, method: str, path: str, body: bytes) -> None:
        hub = self.hub
        if path == "/api/whoami-v2":
            token = {"auth": {"type": "access_token", "accessToken": {"role": hub.role}}}
            self._json(
                {
                    "name": hub.account,
                    "type": "user",
                    "orgs": [{"type": "org", "name": name} for name in hub.organizations],
                    **(token if hub.role else {}),
                }
            )
        elif path == "/api/repos/create":
            asked = json.loads(body)
            if hub.private is not None:
                self._json({"url": f"{hub.address}/{hub.account}/{asked['name']}"}, 409)
                return
            hub.private = asked["visibility"] == "private"
            self._json({"url": f"{hub.address}/{hub.account}/{asked['name']}"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            self._json({"files": [self._mode(file) for file in json.loads(body)["files"]]})
        elif "/tree/" in path:
            self._json(list(hub.files.values()))
        elif "/xet-write-token/" in path:
            self._xet_token()
        elif path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif method == "PUT":
            self._put(path.rpartition("/")[2], body)
        elif path.startswith("/verify/"):
            self._json({})
        elif "/commit/" in path:
            self._commit(body)
        else:
            self._json({"id": "me/name", "sha": f"{len(hub.commits):040x}",
                        "private": bool(hub.private), "siblings": []})  # fmt: skip

    def _file(self, path: str, method: str) -> None:
        """A file that is no LFS, as its client fetches it."""
        data = self.hub.contents[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{self.hub.files[path]["oid"]}"')
        self.send_header("X-Repo-Commit", f"{len(self.hub.commits):040x}")
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(data)

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        sample = base64.b64decode(file["sample"])
        is_lfs = file["size"] >= LARGE or b"\0" in sample
        there = self.hub.files.get(file["path"], {})
        oid = there.get("lfs", there).get("oid")
        mode = "lfs" if is_lfs else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _batch(self, asked: dict[str, Any]) -> None:
        found = []
        for entry in asked["objects"]:
            answer = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.hub.objects:
                address = self.hub.address
                answer["actions"] = {
                    "upload": {"href": f"{address}/put/{entry['oid']}"},
                    "verify": {"href": f"{address}/verify/{entry['oid']}"},
                }
            found.append(answer)
        self._json({"transfer": "basic", "objects": found})

    def _put(self, oid: str, body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.puts[oid] += 1
        self.hub.objects[oid] = len(body)
        self._json({})

    def _xet_token(self) -> None:
        where = f"local://{self.hub.store}"
        facts = {"casUrl": where, "exp": 4102444800, "accessToken": "xet"}
        headers = {"X-Xet-Cas-Url": where, "X-Xet-Token-Expiration": "4102444800",
                   "X-Xet-Access-Token": "xet"}  # fmt: skip
        self._json(facts, headers=headers)

    def _commit(self, body: bytes) -> None:
        changed = []
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                data = base64.b64decode(value["content"])
                oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                self._add(value["path"], {"oid": oid, "size": len(data)})
                self.hub.contents[value["path"]] = data
            elif entry["key"] == "lfsFile":
                lfs = {"oid": value["oid"], "size": value["size"], "pointerSize": 134}
                self._add(value["path"], {"oid": "0" * 40, "size": value["size"], "lfs": lfs})
            else:
                continue
            changed.append(value["path"])
        self.hub.commits.append(changed)
        commit = f"{len(self.hub.commits):040x}"
        self._json({"commitOid": commit, "commitUrl": f"{self.hub.address}/me/name/commit/{commit}",
                    "success": True})  # fmt: skip

    def _add(self, path: str, entry: dict[str, Any]) -> None:
        self.hub.files[path] = {"type": "file", "path": path, **entry}

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, word in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, word)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def hub_to_push_to(folder: Path) -> Iterator[Hub]:
    """A hub on this machine, with nothing in it; `folder` is where xet keeps what it gets."""
    hub = Hub(folder)
    host = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub=hub))
    hub.address = f"http://127.0.0.1:{host.server_address[1]}"
    thread = threading.Thread(target=host.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        host.shutdown()
        host.server_close()
        thread.join()


def point_client_at(hub: Hub, monkeypatch: pytest.MonkeyPatch, *, xet: bool = False) -> None:
    """The client in this process talks to it, with a login."""
    from huggingface_hub import close_session, constants, hf_api

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(hf_api.constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        hub.address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for word in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(word, raising=False)
    close_session()
