"""The ffmpeg that is run, and one that hangs: killed by a cancel or at the time limit."""

import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from pydub.exceptions import CouldntEncodeError

from audiocraft_ext.audio import write as writing
from audiocraft_ext.audio.ffmpeg import ffmpeg_path, stream_output
from audiocraft_ext.audio.read import ReadLimits, read
from audiocraft_ext.audio.write import write
from audiocraft_ext.errors import Cancelled, InputError
from audiocraft_ext.progress import Progress
from tests.support.processes import children

SECOND = torch.zeros(1, 32_000)


@pytest.fixture
def hanging_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(script))


def test_a_named_ffmpeg_comes_first_then_the_pinned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ffmpeg").symlink_to(ffmpeg_path())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "imageio_ffmpeg" in ffmpeg_path()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/opt/ffmpeg")
    assert ffmpeg_path() == "/opt/ffmpeg"


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
@pytest.mark.usefixtures("hanging_ffmpeg")
def test_a_cancel_kills_a_hanging_ffmpeg_at_once(tmp_path: Path, source: Path) -> None:
    before = children()
    for use in (
        lambda progress: read(source, progress=progress),
        lambda progress: write(SECOND, 32_000, tmp_path / "a.mp3", "mp3", {}, progress),
    ):
        progress, start = Progress(), time.monotonic()
        threading.Timer(0.3, progress.stop).start()
        with pytest.raises(Cancelled):
            use(progress)
        assert time.monotonic() - start < 2
    assert children() <= before
    assert not (tmp_path / "a.mp3").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
@pytest.mark.usefixtures("hanging_ffmpeg")
def test_a_hanging_ffmpeg_is_killed_at_the_time_limit(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_MP3_TIMEOUT_S", 0.2)
    start = time.monotonic()
    with pytest.raises(InputError, match=r"longer than 0\.2 s"):
        read(source, limits=ReadLimits(wall_s=0.2))
    with pytest.raises(CouldntEncodeError):
        write(SECOND, 32_000, tmp_path / "a.mp3", "mp3", {})
    assert time.monotonic() - start < 4


def test_a_prediction_that_is_cancelled_already_reads_and_writes_nothing(tmp_path: Path, source: Path) -> None:
    progress = Progress()
    progress.stop()
    with pytest.raises(Cancelled):
        read(source, progress=progress)
    for format in ("wav", "mp3"):
        with pytest.raises(Cancelled):
            write(SECOND, 32_000, tmp_path / f"a.{format}", format, {}, progress)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="not every system has these limits")
def test_the_child_has_its_limits_from_its_start(source: Path) -> None:
    command = ["/bin/sh", "-c", "ulimit -v; ulimit -t; ulimit -f; ulimit -c"]
    with source.open("rb") as file:
        output = b"".join(stream_output(command, file, Progress(), timeout_s=5.0, memory_bytes=1 << 30))
    assert output.split() == [b"1048576", b"6", b"0", b"0"]


def test_an_ffmpeg_that_does_not_exist_is_no_fault_of_the_file(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(FileNotFoundError, match="/nowhere/ffmpeg"):
        read(source)
