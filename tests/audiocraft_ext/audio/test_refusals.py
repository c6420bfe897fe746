"""Broken, malicious and oversized files, with the real ffmpeg: each is refused, and no other file is read."""

import io
import os
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from audiocraft_ext.audio.read import ReadLimits, read
from audiocraft_ext.errors import InputError
from tests.support.audio_files import RATE, chords, ffmpeg, write
from tests.support.broken_files import sources
from tests.support.malicious_files import DISGUISES, SCRIPTS
from tests.support.processes import children

pytestmark = pytest.mark.usefixtures("one_thread")


def refusal(path: Path, *window: float, **limits: float) -> InputError:
    before = children()
    with pytest.raises(InputError) as caught:
        read(path, *window, limits=ReadLimits(**limits))  # type: ignore[arg-type]
    assert children() <= before, "a child is left behind"
    message = str(caught.value)
    assert str(path) not in message
    assert path.name not in message
    assert "ffmpeg" not in message
    return caught.value


def zipped_mp3(source: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("song.mp3", ffmpeg("-i", source, "-id3v2_version", "0", "-f", "mp3", "-"))
    return file.getvalue()


NOT_AUDIO: dict[str, Callable[[Path], bytes]] = {
    "one byte": lambda _: b"\0",
    "text": lambda _: b"This is a song about a file that is not one.\n" * 100,
    "utf-16 text": lambda _: ("\ufeff" + "not a song\n" * 500).encode("utf-16-le"),
    "json": lambda _: b'{"prompt": "drums"}',
    "html": lambda _: b"<!doctype html><title>404</title>",
    "zeros": lambda _: bytes(100_000),
    "noise": lambda _: np.random.default_rng(0).bytes(100_000),
    "png": lambda _: ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=d=1", "-frames:v", "1", "-c:v", "png", "-f", "image2pipe", "-"
    ),
    "jpeg": lambda _: ffmpeg("-f", "lavfi", "-i", "testsrc2=d=1", "-frames:v", "1", "-f", "mjpeg", "-"),
    "zip with an mp3": zipped_mp3,
    "midi": lambda _: b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\4\0\xff\x2f\0",
    "half a magic number": lambda _: b"RIFF",
    "avi": lambda _: b"RIFF\0\1\0\0AVI LIST" + bytes(100),
    "an ID3 tag alone": lambda _: b"ID3\3\0\0\0\0\0\x0a" + bytes(10),
    "an ID3 tag past the end": lambda _: b"ID3\3\0\0\x7f\x7f\x7f\x7f" + bytes(10),
}


@pytest.mark.parametrize("what", NOT_AUDIO)
def test_a_file_that_is_not_audio_is_refused(tmp_path: Path, source: Path, what: str) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(NOT_AUDIO[what](source))
    error = refusal(path)
    assert error.field == "input_audio"
    assert "not audio" in str(error)
    assert "wav" in str(error)


@pytest.mark.parametrize("n_tags", [3, 1_000_000])
def test_many_empty_tags_before_an_mp3_take_no_time(tmp_path: Path, source: Path, n_tags: int) -> None:
    mp3 = ffmpeg("-i", source, "-id3v2_version", "0", "-f", "mp3", "-")
    (tmp_path / "a.mp3").write_bytes(b"ID3\3\0\0\0\0\0\0" * n_tags + mp3)
    start = time.monotonic()
    try:
        assert read(tmp_path / "a.mp3").duration_s == pytest.approx(2, abs=0.1)
    except InputError:
        assert n_tags > 3
    assert time.monotonic() - start < 5


SCRIPT_FILES = [("alone", script) for script in SCRIPTS]
SCRIPT_FILES += [(disguise, "HLS") for disguise in ("after an ID3 tag", "after a wav's magic")]


@pytest.mark.parametrize(("disguise", "script"), SCRIPT_FILES)
def test_a_playlist_or_script_is_refused(tmp_path: Path, source: Path, disguise: str, script: str) -> None:
    """It names a real wav; nothing of its two seconds may come out."""
    text = SCRIPTS[script].format(path=source, url=f"file://{source}").encode()
    (tmp_path / "song.wav").write_bytes(DISGUISES[disguise](text))
    refusal(tmp_path / "song.wav")


def test_a_script_after_an_mp3_is_ignored(tmp_path: Path, source: Path) -> None:
    text = SCRIPTS["HLS"].format(path=source, url=f"file://{source}").encode()
    (tmp_path / "song.mp3").write_bytes(DISGUISES["after an mp3"](text))
    (tmp_path / "bare.mp3").write_bytes(sources()["bare.mp3"])
    assert torch.equal(read(tmp_path / "song.mp3").samples, read(tmp_path / "bare.mp3").samples)


def wav(rate: int = RATE, channels: int = 1, data: bytes = bytes(4000)) -> bytes:
    block = channels * 2
    header = struct.pack("<HHIIHH", 1, channels, rate, rate * block % 2**32, block % 2**16, 16)
    return b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0" + header + b"data" + struct.pack("<I", len(data)) + data


@pytest.mark.parametrize(
    "data",
    [
        wav(rate=0),
        wav(rate=100),
        wav(rate=1_000_000),
        wav(rate=4_000_000_000),
        wav(channels=0),
        wav(channels=65_535),
        wav(channels=65),
        wav(data=b""),
        wav()[:30],
        b"fLaC" + bytes(100),
        b"OggS" + bytes(100),
        b"\x1a\x45\xdf\xa3" + bytes(100),
        b"\0\0\0\x18ftypM4A " + bytes(100),
        b"FORM\0\0\1\0AIFF" + bytes(100),
    ],
)
def test_an_absurd_or_broken_header_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    assert refusal(tmp_path / "a.wav").field == "input_audio"


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:d=1", "-c:v", "mpeg4", tmp_path / "a.mp4")
    assert "not audio" in str(refusal(tmp_path / "a.mp4"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert "empty" in str(refusal(tmp_path / "a.wav"))


def test_a_folder_a_pipe_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path, tmp_path / "missing.wav", tmp_path / "pipe.wav"):
        assert "cannot be read" in str(refusal(path))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 32767.0])
def test_samples_that_are_not_finite_or_far_above_full_scale_are_refused(tmp_path: Path, value: float) -> None:
    samples = chords().clone()
    samples[1, 70_000] = value
    write(tmp_path / "a.wav", samples, subtype="FLOAT")
    assert "±1" in str(refusal(tmp_path / "a.wav"))
    assert torch.equal(
        read(tmp_path / "a.wav", 0, 1).samples, samples[:, :RATE]
    )  # outside the window they are not read


@pytest.mark.parametrize("start_s", [2, 3, 1e6])
def test_a_start_at_or_past_the_end_names_the_start_and_the_length(source: Path, start_s: float) -> None:
    error = refusal(source, start_s)
    assert error.field == "continuation_start"
    assert "lasts 2.00 s" in str(error)


@pytest.mark.parametrize("end_s", [None, 10**300 + 1])
def test_a_start_beyond_64_bits_is_past_the_end(source: Path, end_s: int | None) -> None:
    for start_s in (2**62, 2**63, 10**300):
        with pytest.raises(InputError, match=r"lasts 2\.00 s") as caught:
            read(source, start_s, end_s)
        assert caught.value.field == "continuation_start"


@pytest.mark.parametrize("end_s", [1.0, 0.5, 0.0])
def test_an_empty_window_is_refused(source: Path, end_s: float) -> None:
    assert refusal(source, 1.0, end_s).field == "continuation_end"


def test_each_limit_is_named_when_it_is_reached(source: Path) -> None:
    assert "the limit is 0.5 MB" in str(refusal(source, file_bytes=500_000))
    assert "longer than 0.025 minutes" in str(refusal(source, clip_s=1.5))
    assert "more than 0.1 MB" in str(refusal(source, window_bytes=100_000))
    assert "longer than 0.001 s" in str(refusal(source, wall_s=0.001))
    assert read(source, 0, 1, limits=ReadLimits(clip_s=1.5)).duration_s == 1


def test_the_decoder_dies_at_its_memory_limit(source: Path) -> None:
    assert refusal(source, memory_bytes=64 << 20).field == "input_audio"


def test_a_small_file_of_forty_minutes_is_refused(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-t", "2400", "-c:a", "flac", tmp_path / "a.flac")
    assert (tmp_path / "a.flac").stat().st_size < 500_000
    assert "longer than 30 minutes" in str(refusal(tmp_path / "a.flac"))
