"""Uploads by URL that fail, never end or are slow, opened as cog opens them."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cog
import pytest

from audiocraft_ext.audio import upload
from audiocraft_ext.audio.read import ReadLimits
from audiocraft_ext.audio.upload import download_upload
from audiocraft_ext.errors import Cancelled, InputError
from audiocraft_ext.progress import Progress


class Handler(BaseHTTPRequestHandler):
    """/endless sends without end, /slow a byte periodically, /broken less than it promised, /good a hundred bytes."""

    def do_GET(self) -> None:
        if self.path == "/none":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path in ("/broken", "/good"):
            self.send_header("Content-Length", "100")
        self.end_headers()
        try:
            self.wfile.write(bytes(10 if self.path == "/broken" else 100))
            while self.path in ("/endless", "/slow"):
                self.wfile.write(bytes(10_000 if self.path == "/endless" else 1))
                time.sleep(0 if self.path == "/endless" else 0.05)
        except OSError:  # the reader has left
            pass

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_url_and_a_data_url_are_downloaded_whole(url: str, tmp_path: Path) -> None:
    for source, content in ((f"{url}/good", bytes(100)), ("data:audio/wav;base64,UklGRg==", b"RIFF")):
        download_upload(cog.File.validate(source), tmp_path / "got", Progress())
        assert (tmp_path / "got").read_bytes() == content


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/none", "answers 404 Not Found"),
        ("/broken", "cannot be fetched"),
        ("/endless", "more than 0.1 MB"),
        ("/slow", "took longer than 0.3 s"),
    ],
)
def test_a_failing_url_is_refused_by_name(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, problem: str
) -> None:
    monkeypatch.setattr(upload, "TIMEOUT_S", 0.3)
    start = time.monotonic()
    with pytest.raises(InputError, match=f"^input_audio: .*{problem}"):
        download_upload(
            cog.File.validate(url + path), tmp_path / "got", Progress(), limits=ReadLimits(file_bytes=100_000)
        )
    assert time.monotonic() - start < 2


def test_an_unreachable_host_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be fetched"):
        download_upload(cog.File.validate("http://127.0.0.1:1/x.wav"), tmp_path / "got", Progress())


def test_a_cancel_ends_a_slow_download_at_its_next_chunk(url: str, tmp_path: Path) -> None:
    progress = Progress()
    threading.Timer(0.3, progress.stop).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        download_upload(cog.File.validate(f"{url}/slow"), tmp_path / "got", progress)
    assert time.monotonic() - start < 2
