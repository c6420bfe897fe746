"""Loudness: audiocraft's scaling, and the level of finished files by an independent meter, ffmpeg's EBU R128."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from audiocraft_ext.audio.ffmpeg import ffmpeg_path
from audiocraft_ext.audio.loudness import normalize
from audiocraft_ext.audio.write import write
from audiocraft_ext.request import NormalizationStrategy
from tests.support.audio_files import RATE, chords
from weights.demo.train import synth

SONGS = {
    "drums alone": frozenset({"kick", "snare", "hats"}),
    "no drums": frozenset({"bass", "arp", "pad"}),
    "everything": frozenset(synth.INSTRUMENTS),
}
TARGET_LUFS = -14.0


def music(instruments: frozenset[str], gain: float) -> Tensor:
    """Eight seconds [1, N] of the demo synthesizer, at some gain."""
    rng = np.random.default_rng(3)
    song = synth.Song(120, 9, "minor", "calm", instruments)
    return gain * torch.from_numpy(synth.render(song, synth.draw_score(song, rng), 400))[None]


def finished_file(samples: Tensor, folder: Path) -> Path:
    """The file as a caller receives it."""
    write(samples, synth.SAMPLE_RATE, folder / "clip.wav", "wav", {})
    return folder / "clip.wav"


def loudness_lufs(path: Path) -> float:
    command = [ffmpeg_path(), "-nostats", "-i", str(path), "-af", "ebur128=framelog=quiet", "-f", "null", "-"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return float(re.findall(r"I:\s+(-?[\d.]+) LUFS", report)[-1])


@pytest.mark.parametrize("gain", [0.05, 1.0])
@pytest.mark.parametrize("instruments", SONGS.values(), ids=SONGS)
def test_music_has_fourteen_lufs_within_half_a_decibel(
    instruments: frozenset[str], gain: float, tmp_path: Path
) -> None:
    path = finished_file(normalize(music(instruments, gain), synth.SAMPLE_RATE, "loudness"), tmp_path)
    assert loudness_lufs(path) == pytest.approx(TARGET_LUFS, abs=0.5)
    samples, _ = soundfile.read(path)
    # At that level drums clip, as upstream's do, bit for bit (below): 0.35 % of the samples of drums alone.
    assert (np.abs(samples) >= 1 - 2**-15).mean() < 0.005


@pytest.mark.parametrize("strategy", ["loudness", "clip", "peak", "rms"])
def test_nothing_exceeds_full_scale(strategy: NormalizationStrategy, tmp_path: Path) -> None:
    normalized = normalize(music(SONGS["everything"], 4.0), synth.SAMPLE_RATE, strategy)
    assert normalized.abs().max() <= 1
    samples, _ = soundfile.read(finished_file(normalized, tmp_path))
    # An overflow would wrap around to the other end of the scale.
    assert np.abs(samples - normalized[0].numpy()).max() <= 2**-15


@pytest.mark.parametrize("strategy", ["loudness", "clip", "peak", "rms"])
@pytest.mark.parametrize("gain", [0.01, 1.0, 20.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_normalizing_is_audiocrafts(strategy: str, gain: float, channels: int) -> None:
    from audiocraft_ext.upstream import normalize_audio

    samples = chords(channels=channels) * gain
    before = samples.clone()
    expected = normalize_audio(samples.clone(), strategy=strategy, sample_rate=RATE)
    got = normalize(samples, RATE, strategy)  # type: ignore[arg-type]
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
    assert torch.equal(normalize(samples, 32_000, strategy), samples)  # type: ignore[arg-type]


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
def test_nothing_normalizes_to_nan_or_above_full_scale(strategy: str, samples: Tensor) -> None:
    got = normalize(samples, 32_000, strategy)  # type: ignore[arg-type]
    assert got.shape == samples.shape
    assert got.isfinite().all()
    assert got.abs().max() <= 1


def test_a_tenth_of_a_second_gets_the_loudness_of_its_loop() -> None:
    short = torch.randn(1, 3_200, generator=torch.Generator().manual_seed(1)) * 0.01
    looped = short.repeat(1, 10)
    gain, gain_of_loop = (float(normalize(x, 32_000, "loudness").norm() / x.norm()) for x in (short, looped))
    assert gain == pytest.approx(gain_of_loop, rel=0.05)
