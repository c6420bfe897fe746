"""Servers on this machine: a file server that fails as real ones do, and a Hugging Face hub."""

import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import unquote


@dataclass
class File:
    """The response at a path. Its next ``n_stops`` responses break off after ``stops_after`` bytes, or stall for
    ``waits_s``."""

    content: bytes
    etag: str | None = '"1"'
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    knows_ranges: bool = True
    stops_after: int = 0
    n_stops: int = 0
    waits_s: float = 0


class Server(ThreadingHTTPServer):
    """``files`` by path without the query ("*": any other); ``asked`` is each request's path and headers."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.files: dict[str, File] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []

    def handle_error(self, *details: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may hang up
            super().handle_error(*details)

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.asked]


class FileHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        files = self.server.files
        file = files.get(self.path.partition("?")[0]) or files.get("*") or File(b"not here", status=404)
        start, end = self._start(file), len(file.content)
        self.send_response(file.status if not start else 206 if start < end else 416)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}" if start < end else f"bytes */{end}")
        for name, value in {"ETag": file.etag, **file.headers}.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "GET":
            self._send(file, start)

    def _start(self, file: File) -> int:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        current = self.headers.get("If-Range", file.etag) == file.etag
        return int(wanted[1]) if wanted and current and file.knows_ranges else 0

    def _send(self, file: File, start: int) -> None:
        if not file.n_stops:
            self.wfile.write(file.content[start:])
            return
        file.n_stops -= 1
        self.wfile.write(file.content[start:][: file.stops_after])
        time.sleep(file.waits_s)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


class HubHandler(FileHandler):
    """The part of the hub's protocol that snapshot_download uses; ``files`` are by ``owner/name/path``.

    ``someone/gated`` opens for the token "good", and nothing for "bad"; revisions are main and v1.
    """

    COMMIT: ClassVar[str] = hashlib.sha1(b"the only commit").hexdigest()

    def do_GET(self) -> None:
        route = re.fullmatch(
            r"/(?:api/models/)?(?P<name>[^/]+/[^/]+)/(?P<verb>revision|tree|resolve)/(?P<revision>[^/?]+)/?(?P<path>[^?]*).*",
            unquote(self.path),
        )
        if route is None:
            self._json(404, {})  # not about a repository
            return
        self.server.asked.append((self.path, dict(self.headers)))
        files = {path: file for path, file in self.server.files.items() if path.startswith(route["name"] + "/")}
        if self.headers.get("Authorization") == "Bearer bad":
            self._json(401, {}, "", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif not files:
            self._json(404, {}, "RepoNotFound")
        elif route["revision"] not in ("main", "v1", self.COMMIT):
            self._json(404, {}, "RevisionNotFound")
        elif route["verb"] == "revision":
            self._json(200, {"id": route["name"], "sha": self.COMMIT, "siblings": []})
        elif route["verb"] == "tree":
            self._json(200, [self._entry(route["name"], path) for path in files])
        elif route["name"] == "someone/gated" and self.headers.get("Authorization") != "Bearer good":
            self._json(403, {}, "GatedRepo")
        elif file := files.get(f"{route['name']}/{route['path']}"):
            self._resolve(file)
        else:
            self._json(404, {}, "EntryNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _entry(self, name: str, path: str) -> dict[str, Any]:
        content = self.server.files[path].content
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": path.removeprefix(name + "/"), "size": len(content), "oid": oid}

    def _resolve(self, file: File) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(file.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.COMMIT)
        self.send_header("Content-Length", str(len(file.content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(file.content)

    def _json(self, status: int, answer: Any, error_code: str = "", headers: dict[str, str] | None = None) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        for header, value in {
            "X-Error-Code": error_code,
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            if value:
                self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def published(folder: Path, name: str) -> dict[str, File]:
    """The files of a folder as those of the hub's repository ``name``."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {f"{name}/{path.relative_to(folder).as_posix()}": File(path.read_bytes()) for path in paths}


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler] = FileHandler) -> Iterator[Server]:
    with Server(handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
