"""URLs that fail, never end, are slow or lead nowhere."""

import asyncio
import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from audiocraft_ext.audio import upload
from audiocraft_ext.audio.read import ReadLimits
from audiocraft_ext.audio.upload import download
from audiocraft_ext.errors import InputError

CONTENT = bytes(range(100))
LOCATIONS = {
    "/moved": "/good",
    "/loop": "/loop",
    "/nowhere": "http://[::1",
    "/latin": "http://\xff\xfe:x/\xff",
    "/hostless": "file:///etc/passwd",
}


class Handler(BaseHTTPRequestHandler):
    """Each path is a way to answer; /endless and the "drip" ones go on until the reader leaves."""

    def do_GET(self) -> None:
        with suppress(OSError):  # the reader has left
            getattr(self, "_" + self.path[1:].replace("-", "_"), self._none)()

    def _none(self) -> None:
        if self.path in LOCATIONS:
            self._head(302, Location=LOCATIONS[self.path])
        else:
            self.send_error(404)

    def _head(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _good(self) -> None:
        self._head(Content_Length=str(len(CONTENT)))
        self.wfile.write(CONTENT)

    def _broken(self) -> None:
        self._head(Content_Length="101")
        self.wfile.write(CONTENT)

    def _gzip(self) -> None:
        self._head(Content_Encoding="gzip")
        self.wfile.write(gzip.compress(CONTENT))

    def _cut_gzip(self) -> None:
        self._head(Content_Encoding="gzip")
        self.wfile.write(gzip.compress(CONTENT)[:-30])

    def _endless(self) -> None:
        self._head()
        while True:
            self.wfile.write(bytes(10_000))

    def _endless_redirect(self) -> None:
        self._head(302, Location="/good")
        while True:
            self.wfile.write(bytes(10_000))

    def _body_drip(self) -> None:
        self._head()
        self._drip()

    def _header_drip(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        self._drip()

    def _redirect_drip(self) -> None:
        self._head(302, Location="/header-drip")

    def _drip(self) -> None:
        while True:
            self.wfile.write(b"x")
            time.sleep(0.05)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.mark.parametrize("path", ["/good", "/gzip", "/moved", "/endless-redirect"])
def test_a_url_is_downloaded_whole(url: str, tmp_path: Path, path: str) -> None:
    asyncio.run(download(url + path, tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/none", "answers 404 Not Found"),
        ("/broken", "cannot be fetched"),
        ("/cut-gzip", "cannot be fetched"),
        ("/loop", "answers 302 Found"),
        ("/nowhere", "answers 302 Found"),
        ("/latin", "cannot be fetched|answers 302 Found"),
        ("/hostless", "cannot be fetched"),
        ("/endless", "more than 0.1 MB"),
        ("/body-drip", "took longer than 0.5 s"),
        ("/header-drip", "took longer than 0.5 s"),
        ("/redirect-drip", "took longer than 0.5 s"),
    ],
)
def test_a_failing_url_is_refused_by_name(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, problem: str
) -> None:
    monkeypatch.setattr(upload, "TIMEOUT_S", 0.5)
    start = time.monotonic()
    with pytest.raises(InputError, match=f"^input_audio: .*({problem})"):
        asyncio.run(download(url + path, tmp_path / "got", limits=ReadLimits(file_bytes=100_000)))
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x.wav", "http://", "http://[::1", "http://a\x7f.b", "http://\udcff"]
)
def test_an_unreachable_host_is_refused_by_name(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="cannot be fetched"):
        asyncio.run(download(url, tmp_path / "got"))


@pytest.mark.parametrize("path", ["/body-drip", "/header-drip", "/redirect-drip", "/endless"])
def test_a_cancel_ends_a_download_at_once(url: str, tmp_path: Path, path: str) -> None:
    async def cancelled_after_s() -> float:
        task = asyncio.create_task(download(url + path, tmp_path / "got"))
        await asyncio.sleep(0.3)
        start = time.monotonic()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        return time.monotonic() - start

    assert asyncio.run(cancelled_after_s()) < 0.3
