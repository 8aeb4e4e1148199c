"""A stand-in for the Hugging Face hub on loopback: it answers what huggingface_hub asks as the hub does, faults and all.

Seen of huggingface_hub 2.4 (`Hub.requests` after a download): the tree of a commit (`/api/models/ID/tree/COMMIT`), then of
each file a HEAD and a GET of `/ID/resolve/COMMIT/FILE`; for a branch first `/api/models/ID/revision/NAME`. Large ones (LFS)
redirect to another host, with their SHA-256 as ETag; small ones have the SHA-1 that git gives them. There is no Xet here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "x" * 34  # reads whatever is gated
LFS = (".safetensors", ".bin", ".pth", ".parquet", ".model")


@dataclass(frozen=True)
class Repository:
    """A repository at its one commit. `gated`: only TOKEN reads its files."""

    id: str
    folder: Path
    commit: str
    kind: Literal["models", "datasets"] = "models"
    gated: bool = False

    def files(self) -> dict[str, Path]:
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in found}


@dataclass
class Fault:
    """What goes wrong `times` times with requests that match: a status, or the body cut or changed after some bytes.

    drop: the connection ends after `after` bytes of the body. truncate: so does the body, whose length is said to be that.
    corrupt: a byte is another one. slow: `seconds` pass before the answer. A number is the status of the answer.
    """

    path: str  # a regular expression
    what: Literal["drop", "truncate", "corrupt", "slow"] | int
    times: int = 10**6
    method: str = "GET"
    after: int = 1000
    seconds: float = 0.0


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None


@dataclass
class Hub:
    """The repositories, the faults to come, and what was asked so far."""

    repositories: list[Repository]
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, kind: str, name: str) -> Repository | None:
        return next((r for r in self.repositories if (r.kind, r.id) == (kind, name)), None)

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def fetched(self) -> set[str]:
        """The names of the files whose content was asked for."""
        paths = {request.path for request in self.requests if request.method == "GET"}
        return {path.split("/resolve/")[1].partition("/")[2] for path in paths if "/resolve/" in path}


API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/(tree|revision)/([^/]+))?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path, self.headers.get("Range")))
        fault = self.hub.fault(self.command, path)
        if fault and fault.what == "slow":
            time.sleep(fault.seconds)
        if fault and isinstance(fault.what, int):
            self._send(fault.what, b"the stand-in fails", {"Retry-After": "0"})
        elif path.startswith("/large/"):
            self._content(Path(path.removeprefix("/large")), fault)
        elif found := API.fullmatch(path):
            self._api(*found.groups())
        elif found := FILE.fullmatch(path):
            self._file(*found.groups(), fault=fault)
        else:
            self._send(404, b"no such page")

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _found(self, kind: str, name: str, revision: str) -> Repository | None:
        """The repository; None after the refusal was sent."""
        repository = self.hub.find(kind, name)
        if repository is None:  # also of a private one the hub says no more
            self._refuse(401, "RepoNotFound")
        elif revision not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound")
        else:
            return repository
        return None

    def _api(self, kind: str, name: str, what: str | None, revision: str | None) -> None:
        repository = self._found(kind, name, revision or "main")
        if repository is None:
            return
        files = repository.files()
        answer: object = {
            "id": repository.id,
            "sha": repository.commit,
            "private": False,
            "gated": "manual" if repository.gated else False,
            "siblings": [{"rfilename": file} for file in files],
        }
        if what == "tree":
            answer = [_entry(file, path) for file, path in files.items()]
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(
        self, prefix: str | None, name: str, revision: str, file: str, *, fault: Fault | None = None
    ) -> None:
        repository = self._found("datasets" if prefix else "models", name, revision)
        if repository is None:
            return
        authorization = self.headers.get("Authorization")
        if repository.gated and authorization != f"Bearer {TOKEN}":
            self._refuse(403 if authorization else 401, "GatedRepo")
        elif (path := repository.files().get(file)) is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", repository.commit)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif file.endswith(LFS):
            size, etag = path.stat().st_size, _sha256(path)
            headers = {"X-Repo-Commit": repository.commit, "X-Linked-Size": str(size)}
            # To another host, as the hub sends to its CDN: on the same one the HEAD would follow, and find no ETag.
            headers |= {
                "X-Linked-ETag": f'"{etag}"',
                "Location": f"http://localhost:{self.server.server_port}/large{path}",
            }
            self._send(302, b"", headers)
        else:
            self._content(path, fault, {"X-Repo-Commit": repository.commit, "ETag": f'"{_sha1(path)}"'})

    def _content(self, path: Path, fault: Fault | None, headers: dict[str, str] | None = None) -> None:
        body, status = path.read_bytes(), 200
        headers = {"Accept-Ranges": "bytes", **(headers or {})}
        if fault and fault.what == "corrupt":
            body = body[: fault.after] + bytes([body[fault.after] ^ 1]) + body[fault.after + 1 :]
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first = int(wanted[1])
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            body, status = body[first:], 206
        if fault and fault.what == "truncate":
            body = body[: fault.after]
        if fault and fault.what == "drop" and self.command == "GET":
            headers["Content-Length"] = str(len(body))
            body = body[: fault.after]
            self.close_connection = True
        self._send(status, body, headers)


def _entry(file: str, path: Path) -> dict[str, object]:
    size = path.stat().st_size
    entry: dict[str, object] = {"type": "file", "path": file, "size": size, "oid": _sha1(path)}
    if file.endswith(LFS):
        entry["lfs"] = {"oid": _sha256(path), "size": size, "pointerSize": 134}
    return entry


_KNOWN: dict[tuple[str, Path, int], str] = {}


def _sha256(path: Path) -> str:
    key = ("sha256", path, path.stat().st_mtime_ns)
    if key not in _KNOWN:
        _KNOWN[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _KNOWN[key]


def _sha1(path: Path) -> str:
    """As git names a file's content."""
    key = ("sha1", path, path.stat().st_mtime_ns)
    if key not in _KNOWN:
        body = path.read_bytes()
        _KNOWN[key] = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
    return _KNOWN[key]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients leave slow answers: nothing to say."""


@contextlib.contextmanager
def served(hub: Hub) -> Iterator[str]:
    """The address under which the hub answers, on this machine alone."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
