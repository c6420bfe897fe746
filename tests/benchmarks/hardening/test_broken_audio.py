"""A sample of the broken audio; all of it is ``python -m benchmarks.hardening.broken_audio``."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import httpx
import pytest

from audiocraft_ext.audio.ffmpeg import ffmpeg_path
from benchmarks.hardening.broken_audio import decode_all, requests_with
from tests.support.access_monitor import AccessMonitor
from tests.support.broken_files import KINDS, broken_files
from tests.support.client import send_all
from tests.support.malicious_files import malicious_files

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="the monitor watches by inotify")]


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[AccessMonitor]:
    with AccessMonitor(tmp_path) as monitor:
        yield monitor


def test_a_broken_file_is_read_or_refused(tmp_path: Path) -> None:
    decoded = decode_all(broken_files(150, seed=1), tmp_path)
    assert decoded.failures == []
    assert sum(counter.total() for counter in decoded.outcomes.values()) == 150
    assert decoded.slowest_s < 10


def test_a_file_or_url_named_in_audio_is_not_opened(tmp_path: Path, monitor: AccessMonitor) -> None:
    (tmp_path / "files").mkdir()
    decoded = decode_all(islice(malicious_files(monitor.canary), 0, None, 7), tmp_path / "files")
    assert decoded.failures == []
    assert monitor.counts() == (0, 0)


def test_broken_audio_over_http_is_served_or_refused(server: httpx.Client, monitor: AccessMonitor) -> None:
    files = chain(broken_files(30, seed=2), islice(malicious_files(monitor.canary), 0, None, 31))
    tally = send_all(str(server.base_url), requests_with((file for file in files if len(file.data) < 10**6), seed=2))
    assert tally.failures == []
    assert monitor.counts() == (0, 0)
    assert server.get("/health-check").json()["status"] == "READY"


def test_the_monitor_sees_an_ffmpeg_without_restrictions(tmp_path: Path, monitor: AccessMonitor) -> None:
    scripts = {file.name: file.data for file in malicious_files(monitor.canary) if file.kind == "script alone"}
    (tmp_path / "song").write_bytes(scripts["concat list.mp3"])
    command = [
        ffmpeg_path(),
        "-v",
        "quiet",
        "-safe",
        "0",
        "-f",
        "concat",
        "-i",
        str(tmp_path / "song"),
        "-f",
        "null",
        "-",
    ]
    subprocess.run(command, check=True)
    n_opened, n_connected = monitor.counts()
    assert n_opened > 0
    assert n_connected == 0
    subprocess.run([ffmpeg_path(), "-v", "quiet", "-i", monitor.canary.url, "-f", "null", "-"])
    assert monitor.counts()[1] > 0


def test_the_same_seed_makes_the_same_files_of_every_kind() -> None:
    first, again, other = (list(broken_files(200, seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert {file.kind for file in first} == {kind.__name__.replace("_", " ") for kind in KINDS}
