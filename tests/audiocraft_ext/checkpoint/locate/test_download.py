"""Downloads from a server on this machine that breaks off, changes its files, and refuses."""

import hashlib
import logging
import random
import re
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from audiocraft_ext.checkpoint.locate import download as module
from audiocraft_ext.checkpoint.locate.download import download, redact_url
from audiocraft_ext.errors import CheckpointError
from tests.support.loopback import File, Server, serving

MODEL = random.Random(0).randbytes(3_000_000)
OTHER = random.Random(1).randbytes(3_000_000)
PATH = "/someone/trained_model.tar"
_CLOCK_TICK_S = 0.02  # file systems tell times by the kernel's coarse clock


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "_BACKOFF_S", (0.0,) * len(module._BACKOFF_S))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        server.files[PATH] = File(MODEL)
        yield server


def parts(cache: Path) -> list[Path]:
    return list(cache.rglob("*.part"))


def test_a_file_keeps_its_name_and_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    first = download(server.url(PATH), tmp_path)
    assert first.name == "trained_model.tar"
    assert first.read_bytes() == MODEL
    server.files[PATH].content = OTHER  # under the same ETag: who reads it again would see it
    assert download(server.url(PATH), tmp_path) == first
    assert first.read_bytes() == MODEL


def test_equal_file_names_of_different_urls_never_collide(server: Server, tmp_path: Path) -> None:
    server.files["/another/trained_model.tar"] = File(OTHER)
    urls = [server.url(PATH), server.url("/another/trained_model.tar"), server.url(PATH + "?version=2")]
    files = [download(url, tmp_path) for url in urls]
    assert len(set(files)) == 3
    assert [file.read_bytes() for file in files] == [MODEL, OTHER, MODEL]


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified", None])
def test_changed_content_is_downloaded_beside_the_old(server: Server, tmp_path: Path, validator: str | None) -> None:
    def send(content: bytes, version: str) -> None:
        server.files[PATH] = File(content, etag=None, headers={validator: version} if validator else {})

    send(MODEL, '"1"')
    first = download(server.url(PATH), tmp_path)
    send(OTHER, '"2"')
    assert download(server.url(PATH), tmp_path).read_bytes() == OTHER
    assert first.read_bytes() == (MODEL if validator else OTHER)


def test_a_broken_download_resumes_while_it_makes_progress(server: Server, tmp_path: Path) -> None:
    # More often than there are pauses: as long as something arrives, it is tried again.
    server.files[PATH] = File(MODEL, stops_after=300_000, n_stops=7)
    assert download(server.url(PATH), tmp_path).read_bytes() == MODEL
    assert "bytes=300000-" in server.ranges()
    assert not parts(tmp_path)


def test_a_stalled_download_resumes(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.1)
    server.files[PATH] = File(MODEL, stops_after=300_000, n_stops=1, waits_s=0.3)
    assert download(server.url(PATH), tmp_path).read_bytes() == MODEL
    assert server.ranges() == [None, "bytes=300000-"]


@pytest.mark.parametrize("file", [{"knows_ranges": False}, {"etag": 'W/"weak"', "knows_ranges": False}, {"etag": None}])
def test_a_server_without_ranges_is_asked_for_the_whole_file(server: Server, tmp_path: Path, file: dict) -> None:
    server.files[PATH] = File(MODEL, **file, stops_after=300_000, n_stops=2)
    assert download(server.url(PATH), tmp_path).read_bytes() == MODEL


def test_a_later_call_resumes(server: Server, tmp_path: Path) -> None:
    server.files[PATH] = File(MODEL, knows_ranges=False, stops_after=300_000, n_stops=99)
    with pytest.raises(CheckpointError, match="peer closed connection"):
        download(server.url(PATH), tmp_path)
    server.files[PATH] = File(MODEL)
    assert download(server.url(PATH), tmp_path).read_bytes() == MODEL
    assert server.asked[-1][1]["Range"] == "bytes=300000-"
    assert server.asked[-1][1]["If-Range"] == '"1"'


def test_a_partial_file_of_other_content_is_not_resumed(server: Server, tmp_path: Path) -> None:
    server.files[PATH] = File(MODEL, knows_ranges=False, stops_after=300_000, n_stops=99)
    with pytest.raises(CheckpointError):
        download(server.url(PATH), tmp_path)
    server.files[PATH] = File(OTHER, etag='"2"')
    assert download(server.url(PATH), tmp_path).read_bytes() == OTHER
    assert not parts(tmp_path)


def test_a_complete_part_of_a_killed_process_is_kept(server: Server, tmp_path: Path) -> None:
    file = download(server.url(PATH), tmp_path)
    file.rename(file.parents[1] / "content.part")
    assert download(server.url(PATH), tmp_path) == file
    assert file.read_bytes() == MODEL
    assert server.ranges() == [None, f"bytes={len(MODEL)}-"]


def test_a_pinned_file_is_verified_once_and_needs_no_server(server: Server, tmp_path: Path) -> None:
    url = f"{server.url(PATH)}#sha256={hashlib.sha256(MODEL).hexdigest().upper()}"
    file = download(url, tmp_path)
    n_asked = len(server.asked)
    assert download(url, tmp_path) == file
    assert len(server.asked) == n_asked


def test_a_wrong_checksum_is_refused_and_the_file_deleted(server: Server, tmp_path: Path) -> None:
    wanted = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(CheckpointError, match=f"{hashlib.sha256(MODEL).hexdigest()}, not {wanted}"):
        download(f"{server.url(PATH)}#sha256={wanted}", tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 100]


@pytest.mark.parametrize("fragment", ["sha256=12", "md5=d41d8cd98f00b204e9800998ecf8427e", "top"])
def test_a_fragment_that_is_not_a_checksum_is_refused(server: Server, tmp_path: Path, fragment: str) -> None:
    with pytest.raises(CheckpointError, match="#sha256="):
        download(f"{server.url(PATH)}#{fragment}", tmp_path)


def test_without_a_server_the_newest_copy_is_used_and_logged(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.url(PATH + "?signature=SECRET")
    download(url, tmp_path)
    time.sleep(_CLOCK_TICK_S)
    server.files[PATH] = File(OTHER, etag='"2"')
    newest = download(url, tmp_path)
    server.files[PATH] = File(b"", status=503)
    assert download(url, tmp_path) == newest
    server.shutdown()
    server.server_close()
    with caplog.at_level(logging.INFO):
        assert download(url, tmp_path).read_bytes() == OTHER
    assert "using the newest cached copy" in caplog.text
    assert "SECRET" not in caplog.text


def test_a_version_served_again_becomes_the_newest(server: Server, tmp_path: Path) -> None:
    for content, etag in ((MODEL, '"1"'), (OTHER, '"2"'), (MODEL, '"1"')):
        server.files[PATH] = File(content, etag=etag)
        last = download(server.url(PATH), tmp_path)
        time.sleep(_CLOCK_TICK_S)
    server.files[PATH] = File(b"", status=503)
    assert download(server.url(PATH), tmp_path) == last


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (File(b"", status=404), "answers 404; check the address"),
        (File(b"", status=401), "answers 401"),
        (File(b"", status=403), "answers 403; the link may have expired"),
        (File(b"", status=416), "answers 416"),
        (File(b"", status=418), "answers 418"),
        (File(b"", status=503), "answers 503"),
        (File(b"<html>", headers={"Content-Type": "text/html; charset=utf-8"}), "web page"),
        (File(b"", status=302, headers={"Location": "http://example.org/?SECRET"}), r"example\.org/ .*only https"),
        (File(b"", status=302, headers={"Location": PATH + "?SECRET"}), "TooManyRedirects"),
        (File(MODEL, knows_ranges=False, stops_after=9, n_stops=99), "peer closed connection.* resumes the download"),
    ],
)
def test_no_failure_reveals_the_secrets_of_a_url(server: Server, tmp_path: Path, file: File, problem: str) -> None:
    server.files[PATH] = file
    url = server.url(PATH + "?signature=SECRET").replace("http://", "http://user:SECRET@")
    with pytest.raises(CheckpointError, match=problem) as caught:
        download(url, tmp_path)
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://host.invalid/model.tar?SECRET", "not known"),
        ("https://127.0.0.1:1/model.tar?SECRET", "refused"),
        ("https://SECRET@[model.tar?SECRET", "not valid"),
        ("http://example.org/model.tar?SECRET", "only https"),
        ("http://127.0.0.1.example.org/model.tar?SECRET", "only https"),
        ("http://localhost:80@example.org/model.tar?SECRET", "only https"),
        ("s3://bucket/model.tar?SECRET", "only https"),
        ("file:///etc/passwd", "only https"),
    ],
)
@pytest.mark.usefixtures("server")
def test_only_reachable_https_servers_are_used(tmp_path: Path, url: str, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem) as caught:
        download(url, tmp_path)
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


def test_a_server_without_a_valid_certificate_is_not_used(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="SSL"):
        download(server.url(PATH).replace("http://", "https://"), tmp_path)


def test_concurrent_calls_download_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda _: download(server.url(PATH), tmp_path), range(2))
    assert first == second
    assert first.read_bytes() == MODEL
    assert not parts(tmp_path)


@pytest.mark.parametrize("path", ["/", "/..", "/a/%2e%2e%2fb", "/%00.tar", "/" + "x" * 200])
def test_no_url_names_a_file_outside_its_folder(server: Server, tmp_path: Path, path: str) -> None:
    server.files = {"*": File(MODEL)}
    file = download(server.url(path), tmp_path)
    assert len(file.relative_to(tmp_path).parts) == 3
    assert re.fullmatch(r"\w[\w.-]*", file.name)


def test_redact_url_drops_user_query_and_fragment() -> None:
    assert redact_url("https://user:pass@host:8/a/b.tar?key=1#sha256=2") == "https://host:8/a/b.tar"
    assert redact_url("someone/model@v1") == "someone/model@v1"
