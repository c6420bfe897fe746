"""Writing: samples, tags, and files that appear complete or not at all."""

import json
import os
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from pydub.exceptions import CouldntEncodeError

from audiocraft_ext.audio.ffmpeg import ffmpeg_path
from audiocraft_ext.audio.loudness import normalize
from audiocraft_ext.audio.read import read
from audiocraft_ext.audio.write import write
from audiocraft_ext.request import OutputFormat
from tests.support.audio_files import RATE, chords, ffmpeg, snr_db

pytestmark = pytest.mark.usefixtures("one_thread")
INPUTS: dict[str, Any] = {"prompt": "kick", "duration": 8, "top_p": 0.0, "continuation": False, "seed": 0}


# Samples


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("duration_s", [0.1, 1.0, 12_345 / 32_000])
def test_a_wav_has_16_bits_and_exactly_the_samples_given(tmp_path: Path, channels: int, duration_s: float) -> None:
    samples = chords(duration_s, channels, 32_000)
    write(samples, 32_000, tmp_path / "a.wav", "wav", INPUTS)
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.subtype, info.samplerate, info.channels, info.frames) == ("PCM_16", 32_000, *samples.shape)
    written, _ = soundfile.read(tmp_path / "a.wav", dtype="int16", always_2d=True)
    assert np.array_equal(written.T, (samples * 2**15).round().short().numpy())


@pytest.mark.parametrize("format", ["wav", "mp3"])
def test_full_scale_does_not_wrap_around(tmp_path: Path, format: OutputFormat) -> None:
    samples = torch.tensor([[1.0, -1.0, 1.5, -1.5]]).repeat_interleave(4000, dim=1)
    write(samples, 32_000, tmp_path / f"a.{format}", format, {})
    written = read(tmp_path / f"a.{format}").samples[0, 2000::4000]
    assert written.tolist() == pytest.approx([1, -1, 1, -1], abs=2**-15 if format == "wav" else 0.3)


@pytest.fixture
def audio_write_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which audiocraft's `audio_write` finds our ffmpeg."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").symlink_to(ffmpeg_path())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)  # audiocraft knows only this one
    return tmp_path


# Largest difference ever measured between decoded samples: 0 for wav. For mp3, LAME gets 32-bit integers instead of
# floats: 0 in mono, 4.2e-4 of full scale in stereo (r.m.s. 80 dB below the signal).
@pytest.mark.parametrize(("format", "tolerance"), [("wav", 0.0), ("mp3", 1e-3)])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_samples_are_those_of_audio_write(
    audio_write_file: Path, format: OutputFormat, tolerance: float, channels: int
) -> None:
    from audiocraft.data.audio import audio_write

    import audiocraft_ext.upstream  # noqa: F401  (audiocraft imports only through its stand-ins)

    folder, samples = audio_write_file, chords(3, channels, 32_000) * 5
    audio_write(folder / "theirs", samples, 32_000, format=format, strategy="loudness", log_clipping=False)
    write(normalize(samples, 32_000, "loudness"), 32_000, folder / f"ours.{format}", format, INPUTS)
    ours, theirs = (read(folder / f"{name}.{format}").samples for name in ("ours", "theirs"))
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance


def test_every_value_between_two_steps_is_rounded_as_audio_write_rounds_it(audio_write_file: Path) -> None:
    from audiocraft.data.audio import audio_write

    import audiocraft_ext.upstream  # noqa: F401  (audiocraft imports only through its stand-ins)

    samples = torch.arange(-(2**17), 2**17).float()[None] / 2**17  # a quarter of a step apart, so ties are among them
    audio_write(audio_write_file / "theirs", samples, 32_000, strategy="clip", peak_clip_headroom_db=0)
    write(samples, 32_000, audio_write_file / "ours.wav", "wav", {})
    ours, theirs = (soundfile.read(audio_write_file / f"{name}.wav", dtype="int16")[0] for name in ("ours", "theirs"))
    assert np.array_equal(ours, theirs)


def test_an_mp3_has_320_kbit_per_second_throughout_and_the_right_length(tmp_path: Path) -> None:
    samples = chords(3, 2, 32_000)
    write(samples, 32_000, tmp_path / "a.mp3", "mp3", INPUTS)
    packets = ffmpeg("-i", tmp_path / "a.mp3", "-c", "copy", "-f", "framehash", "-").decode().splitlines()
    sizes = {int(line.split(",")[4]) for line in packets if not line.startswith("#")}
    assert sizes == {144 * 320_000 // 32_000}
    clip = read(tmp_path / "a.mp3")
    assert clip.samples.shape == samples.shape
    assert snr_db(clip.samples, samples) > 25


# Tags


def wav_tags(path: Path) -> dict[str, str]:
    """The RIFF INFO tags of a wav, read by its specification; its ID3 tag, for other players, says the same."""
    data = path.read_bytes()
    assert struct.unpack_from("<I", data, 4) == (len(data) - 8,)
    tags, at = {}, data.index(b"INFO") + 4
    end = at - 4 + struct.unpack_from("<I", data, at - 8)[0]
    while at < end:
        name, size = struct.unpack_from("<4sI", data, at)
        tags[name.decode()] = data[at + 8 : at + 8 + size].removesuffix(b"\0").decode()
        at += 8 + size + size % 2
    assert (at, data[end : end + 4]) == (end, b"id3 ")
    size = struct.unpack_from("<I", data, end + 4)[0]
    id3, n_id3 = id3_tags(data[end + 8 :])
    assert list(id3.values()) == list(tags.values())
    assert (n_id3, data[end + 8 + size + size % 2 :][:4]) == (size, b"data")
    return tags


def mp3_tags(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    tags, end = id3_tags(data)
    assert data[end] == 0xFF, "the first frame of sound"
    return tags


def id3_tags(data: bytes) -> tuple[dict[str, str], int]:
    """ID3v2.3 frames, read by their specification, and their end; of COMM, language and description are checked."""
    assert data[:6] == b"ID3\3\0\0"
    end = 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    tags, at = {}, 10
    while at < end:
        name, size = struct.unpack_from(">4sI", data, at)
        encoding, body = data[at + 10], data[at + 11 : at + 10 + size]
        assert encoding == 1, "UTF-16"
        if name == b"COMM":
            language, description, body = body[:3], body[3:7], body[7:]
            assert (language, description) == (b"eng", b"\xff\xfe\0\0")
        tags[name.decode()] = body.decode("utf-16")
        at += 10 + size
    return tags, end


def tags_of(path: Path) -> dict[str, str]:
    """Title and comment by our own reading of the format, which ffmpeg's agrees with."""
    tags = wav_tags(path) if path.suffix == ".wav" else mp3_tags(path)
    read_back = ffmpeg("-i", path, "-f", "ffmetadata", "-").decode().replace("\\\n", "\x00").splitlines()[1:]
    theirs = dict(line.split("=", 1) for line in read_back)
    names = {"INAM": "title", "TIT2": "title", "ICMT": "comment", "COMM": "comment"}
    tags = {names[name]: text for name, text in tags.items()}
    assert {name: text.replace("\\", "").replace("\n", "\x00") for name, text in tags.items()} == {
        name: text.replace("\\", "") for name, text in theirs.items() if name in tags
    }
    return tags


@pytest.mark.parametrize("format", ["wav", "mp3"])
def test_the_comment_is_the_inputs_as_json_and_the_title_the_prompt(tmp_path: Path, format: OutputFormat) -> None:
    prompt = "drums; bass = #1 \\ 'quoted' \"twice\" + ünï 🎵\nsecond line"
    inputs = {**INPUTS, "prompt": prompt}
    write(chords(0.1), RATE, tmp_path / f"a.{format}", format, inputs)
    tags = tags_of(tmp_path / f"a.{format}")
    assert tags["title"] == prompt
    assert tags["comment"].startswith('{"prompt":')
    assert '"duration":8,"top_p":0.0,"continuation":false,"seed":0}' in tags["comment"]  # numbers, and no strings
    assert json.loads(tags["comment"]) == inputs
    assert read(tmp_path / f"a.{format}").duration_s == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("format", ["wav", "mp3"])
@pytest.mark.parametrize("inputs", [{"seed": 1}, {"seed": 1, "prompt": ""}, {"prompt": " \n"}])
def test_there_is_no_empty_title(tmp_path: Path, format: OutputFormat, inputs: dict[str, Any]) -> None:
    write(chords(0.1), RATE, tmp_path / f"a.{format}", format, inputs)
    tags = tags_of(tmp_path / f"a.{format}")
    assert tags.keys() == {"comment"}
    assert json.loads(tags["comment"]) == inputs


@pytest.mark.parametrize("format", ["wav", "mp3"])
def test_a_prompt_of_any_length_and_characters_is_written(tmp_path: Path, format: OutputFormat) -> None:
    prompt = "a\0b\r\n" + "p" * 200_000
    write(chords(0.1), RATE, tmp_path / f"a.{format}", format, {"prompt": prompt})
    tags = (wav_tags if format == "wav" else mp3_tags)(tmp_path / f"a.{format}")
    assert ("ab\r\n" + "p" * 95) in tags.values()
    assert json.loads(tags["ICMT" if format == "wav" else "COMM"]) == {"prompt": prompt}
    write(chords(0.1), RATE, tmp_path / f"b.{format}", format, {"prompt": "x\ud800y"})
    assert tags_of(tmp_path / f"b.{format}") == {"title": "x?y", "comment": '{"prompt":"x?y"}'}


# Files


@pytest.mark.parametrize("format", ["wav", "mp3"])
def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: OutputFormat
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    (tmp_path / f"a.{format}").write_text("old")
    # No mp3 has 40 channels, no wav 70,000.
    with pytest.raises((CouldntEncodeError, struct.error)):
        write(torch.zeros(40 if format == "mp3" else 70_000, 100), 32_000, tmp_path / f"a.{format}", format, {})
    assert {path.name for path in tmp_path.iterdir()} == {f"a.{format}", "scratch"}
    assert (tmp_path / f"a.{format}").read_text() == "old"
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("format", ["wav", "mp3"])
def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: OutputFormat) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write(chords(1), RATE, tmp_path / f"a.{format}", format, {})
        assert list(tmp_path.iterdir()) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_long_clip_is_written_whole(tmp_path: Path) -> None:
    samples = chords(1).repeat(1, 120)  # more than a pipe's buffer
    write(samples, RATE, tmp_path / "a.wav", "wav", {})
    assert soundfile.info(tmp_path / "a.wav").frames == samples.shape[1]
    write(samples, RATE, tmp_path / "a.mp3", "mp3", {})
    assert soundfile.info(tmp_path / "a.mp3").duration == pytest.approx(120, abs=0.1)


def test_importing_and_writing_leave_pydub_as_it_was(tmp_path: Path) -> None:
    from pydub import AudioSegment

    before = AudioSegment.converter
    write(chords(0.1), RATE, tmp_path / "a.mp3", "mp3", {})
    assert AudioSegment.converter == before
