"""Samples at another rate and loudness, and files out, with the real ffmpeg: what is written, and by which ffmpeg."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from audiocraft_ext.audio import Clip, OutputFormat, decode, encode, ffmpeg_path, normalise, resample
from audiocraft_ext.errors import Cancelled
from tests.support.audio_files import RATE, chords, ffmpeg, snr_db

pytestmark = pytest.mark.usefixtures("one_thread")


# Resampling and loudness


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 44_099, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_resampling_keeps_length_and_content(rate: int, channels: int) -> None:
    low = torch.sin(2 * torch.pi * 440 * torch.arange(2 * rate) / rate)[None]
    got = resample(Clip(low, rate), 32_000, channels)
    assert got.shape[0] == channels
    assert got.shape[1] == 64_000
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(got.shape[1]) / 32_000).expand(channels, -1)
    assert snr_db(got[:, 1000:-1000], expected[:, 1000:-1000]) > 60


@pytest.mark.parametrize("rate", [44_100, 44_099, 192_000, 767_999, 768_000])
def test_less_than_one_sample_at_the_new_rate_becomes_one(rate: int) -> None:
    assert resample(Clip(torch.ones(1, 1), rate), 32_000, 2).shape == (2, 1)


def test_resampling_at_a_common_rate_is_audiocrafts() -> None:
    from audiocraft_ext.upstream import convert_audio

    assert torch.equal(resample(Clip(chords(), RATE), 32_000, 1), convert_audio(chords(), RATE, 32_000, 1))


@pytest.mark.parametrize("strategy", ["loudness", "clip", "peak", "rms"])
@pytest.mark.parametrize("gain", [0.01, 1.0, 20.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_normalising_is_audiocrafts(strategy: str, gain: float, channels: int) -> None:
    from audiocraft_ext.upstream import normalize_audio

    samples = chords(channels=channels) * gain
    before = samples.clone()
    expected = normalize_audio(samples.clone(), strategy=strategy, sample_rate=RATE)
    got = normalise(samples, RATE, strategy)  # type: ignore[arg-type]
    assert torch.equal(got, expected)
    assert torch.equal(samples, before)
    assert got.abs().max() <= 1


@pytest.mark.parametrize("strategy", ["loudness", "clip", "peak", "rms"])
@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(torch.zeros(2, 32_000), id="silence"),
        pytest.param(torch.zeros(1, 1), id="one silent sample"),
        pytest.param(torch.full((1, 32_000), 1e-6), id="less than half a step"),
    ],
)
def test_silence_stays_silence(strategy: str, samples: Tensor) -> None:
    assert torch.equal(normalise(samples, 32_000, strategy), samples)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["loudness", "clip", "peak", "rms"])
@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(torch.ones(1, 32_000), id="a constant, inaudible to the meter"),
        pytest.param(torch.tensor([[0.5], [-0.5]]).repeat(1, 32_000), id="a constant out of phase"),
        pytest.param(chords(1, 1) * torch.tensor([[1.0], [-1.0]]), id="out of phase: the mono mix is silent"),
        pytest.param(torch.nn.functional.pad(torch.full((1, 10), 3.0), (0, 64_000)), id="a click in silence"),
        pytest.param(torch.full((2, 1), 0.3), id="one sample"),
        pytest.param(chords(0.1) * 1e6, id="far above full scale"),
    ],
)
def test_nothing_normalises_to_nan_or_above_full_scale(strategy: str, samples: Tensor) -> None:
    got = normalise(samples, 32_000, strategy)  # type: ignore[arg-type]
    assert got.shape == samples.shape
    assert got.isfinite().all()
    assert got.abs().max() <= 1


def test_a_tenth_of_a_second_gets_the_loudness_of_its_loop() -> None:
    short = torch.randn(1, 3_200, generator=torch.Generator().manual_seed(1)) * 0.01
    looped = short.repeat(1, 10)
    gain, gain_of_loop = (float(normalise(x, 32_000, "loudness").norm() / x.norm()) for x in (short, looped))
    assert gain == pytest.approx(gain_of_loop, rel=0.05)


# Writing


def tags_of(path: Path) -> dict[str, str]:
    """What ffmpeg, another program as far as this goes, reads back."""
    lines = ffmpeg("-i", path, "-f", "ffmetadata", "-").decode().replace("\\\n", "\x00").splitlines()[1:]
    pairs = (line.split("=", 1) for line in lines)
    return {name: value.replace("\x00", "\n").replace("\\", "") for name, value in pairs}


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("duration_s", [0.1, 1.0, 12_345 / 32_000])
def test_a_wav_has_16_bits_and_exactly_the_samples_given(tmp_path: Path, channels: int, duration_s: float) -> None:
    samples = chords(duration_s, channels, 32_000)
    encode(samples, 32_000, tmp_path / "a.wav", "wav", {"title": "x"})
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.subtype, info.samplerate, info.channels, info.frames) == ("PCM_16", 32_000, *samples.shape)
    written, _ = soundfile.read(tmp_path / "a.wav", dtype="int16", always_2d=True)
    assert np.array_equal(written.T, (samples * 2**15).round().short().numpy())


def test_full_scale_does_not_wrap_around(tmp_path: Path) -> None:
    encode(torch.tensor([[1.0, -1.0, 1.5, -1.5]]), 32_000, tmp_path / "a.wav", "wav", {})
    written, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert written.tolist() == [32767, -32768, 32767, -32768]


@pytest.mark.parametrize("format", ["wav", "mp3"])
def test_the_audio_is_byte_for_byte_what_audio_write_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: OutputFormat
) -> None:
    from audiocraft.data.audio import audio_write

    import audiocraft_ext.upstream  # noqa: F401  (audiocraft imports only through its stand-ins)

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").symlink_to(ffmpeg_path())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)  # audiocraft knows only this one
    samples = chords(1, 2, 32_000) * 5
    audio_write(tmp_path / "theirs", samples, 32_000, format=format, strategy="loudness", log_clipping=False)
    encode(normalise(samples, 32_000, "loudness"), 32_000, tmp_path / f"ours.{format}", format, {})
    ours, theirs = (
        ffmpeg("-i", tmp_path / f"{whose}.{format}", "-c", "copy", "-f", "data", "-map", "0:a", "-")
        for whose in ("ours", "theirs")
    )
    assert ours == theirs


def test_an_mp3_has_320_kbit_per_second_throughout_and_the_right_length(tmp_path: Path) -> None:
    samples = chords(3, 2, 32_000)
    encode(samples, 32_000, tmp_path / "a.mp3", "mp3", {"title": "x"})
    packets = ffmpeg("-i", tmp_path / "a.mp3", "-c", "copy", "-f", "framehash", "-").decode().splitlines()
    sizes = {int(line.split(",")[4]) for line in packets if not line.startswith("#")}
    assert sizes == {144 * 320_000 // 32_000}
    clip = decode(tmp_path / "a.mp3")
    assert clip.samples.shape == samples.shape
    assert snr_db(clip.samples, samples) > 25


@pytest.mark.parametrize("format", ["wav", "mp3"])
def test_tags_come_back_as_they_were(tmp_path: Path, format: OutputFormat) -> None:
    title = "drums; bass = #1 \\ 'quoted' \"twice\" + ünï 🎵\nsecond line"
    others = {"prompt": "p" * 200_000, "seed": "0", "temperature": "1.0", "nul": "a\0b\r\n"}
    encode(chords(0.1), RATE, tmp_path / f"a.{format}", format, {"title": title, "comment": "mine", **others})
    raw = ffmpeg("-i", tmp_path / f"a.{format}", "-f", "ffmetadata", "-").decode()
    assert "ünï 🎵" in raw
    tags = tags_of(tmp_path / f"a.{format}")
    assert tags["title"] == title.replace("\\", "")
    comment = raw.split("comment=", 1)[1].splitlines()[0]
    unescaped = comment.replace("\\\\", "\0").replace("\\", "").replace("\0", "\\")
    assert json.loads(unescaped) == {"comment": "mine", **others}


def test_a_seed_alone_is_readable_by_every_player_as_the_comment(tmp_path: Path) -> None:
    encode(chords(0.1), RATE, tmp_path / "a.wav", "wav", {"title": "x", "seed": "0"})
    assert b"ICMT" in (tmp_path / "a.wav").read_bytes()[:200]
    assert json.loads(tags_of(tmp_path / "a.wav")["comment"]) == {"seed": "0"}


def test_a_prompt_that_is_not_valid_unicode_does_not_fail(tmp_path: Path) -> None:
    encode(chords(0.1), RATE, tmp_path / "a.wav", "wav", {"title": "x\ud800y", "prompt": "\udfff"})
    assert tags_of(tmp_path / "a.wav")["title"] == "x?y"


def test_a_failed_write_leaves_the_old_file_and_no_half_one(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_text("old")
    with pytest.raises(RuntimeError, match="mp3"):
        encode(torch.zeros(40, 100), 32_000, tmp_path / "a.mp3", "mp3", {})  # no mp3 has 40 channels
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp3"]
    assert (tmp_path / "a.mp3").read_text() == "old"


def test_the_pinned_ffmpeg_comes_before_one_on_the_path_and_one_that_is_named_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ffmpeg").symlink_to(ffmpeg_path())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "imageio_ffmpeg" in ffmpeg_path()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/opt/ffmpeg")
    assert ffmpeg_path() == "/opt/ffmpeg"
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert ffmpeg_path() == str(tmp_path / "ffmpeg")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="no ffmpeg"):
        ffmpeg_path()


def leave() -> None:
    raise Cancelled


def test_a_long_clip_is_written_whole(tmp_path: Path) -> None:
    samples = chords(1).repeat(1, 120)  # 42 MB, more than a pipe holds, and a second of an mp3's encoder
    encode(samples, RATE, tmp_path / "a.wav", "wav", {})
    assert soundfile.info(tmp_path / "a.wav").frames == samples.shape[1]
    encode(samples, RATE, tmp_path / "a.mp3", "mp3", {})
    assert soundfile.info(tmp_path / "a.mp3").duration == pytest.approx(120, abs=0.1)


def test_writing_ends_when_the_caller_leaves_and_no_file_is_left(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):  # an mp3 of twenty minutes takes longer than a tenth of a second
        encode(torch.zeros(2, 20 * 60 * 48_000), 48_000, tmp_path / "a.mp3", "mp3", {}, check=leave)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_to_write_is_told_though_its_reason_is_no_text(tmp_path: Path) -> None:
    # The last five hundred bytes of a reason may begin within a letter; of these two, one does.
    for name in ("a", "aa"):
        path = tmp_path.joinpath(*(["ü" * 120] * 3), name, "a.wav")
        with pytest.raises(RuntimeError, match="could not write the wav"):
            encode(torch.zeros(1, 100), 48_000, path, "wav", {})
