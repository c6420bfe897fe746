"""How loud the files are that callers get, as an independent meter hears them: ffmpeg's EBU R128."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiocraft_ext import audio
from weights.demo.train import synth

SONGS = {
    "drums alone": frozenset({"kick", "snare", "hats"}),
    "no drums": frozenset({"bass", "arp", "pad"}),
    "everything": frozenset(synth.INSTRUMENTS),
}
TARGET_LUFS = -14.0


def written(instruments: frozenset[str], gain: float, strategy: audio.NormalizationStrategy, folder: Path) -> Path:
    """Eight seconds of the synthesiser's music at some gain, normalised, as the file that a caller gets."""
    rng = np.random.default_rng(3)
    song = synth.Song(120, 9, "minor", "calm", instruments)
    samples = gain * torch.from_numpy(synth.render(song, synth.draw_score(song, rng), 400))[None]
    path = folder / "clip.wav"
    audio.encode(audio.normalise(samples, synth.SAMPLE_RATE, strategy), synth.SAMPLE_RATE, path, "wav", {})
    return path


def loudness_lufs(path: Path) -> float:
    command = [audio.ffmpeg_path(), "-nostats", "-i", str(path), "-af", "ebur128=framelog=quiet", "-f", "null", "-"]
    heard = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return float(re.findall(r"I:\s+(-?[\d.]+) LUFS", heard)[-1])


@pytest.mark.parametrize("gain", [0.05, 1.0])
@pytest.mark.parametrize("instruments", SONGS.values(), ids=SONGS)
def test_music_has_fourteen_lufs_within_half_a_decibel(
    instruments: frozenset[str], gain: float, tmp_path: Path
) -> None:
    path = written(instruments, gain, "loudness", tmp_path)
    assert loudness_lufs(path) == pytest.approx(TARGET_LUFS, abs=0.5)
    samples, _ = soundfile.read(path)
    # At that level drums clip, as upstream's do, bit for bit (test_audio.py): 0.35 % of the samples of drums alone.
    assert (np.abs(samples) >= 1 - 2**-15).mean() < 0.005


@pytest.mark.parametrize("strategy", ["loudness", "clip", "peak", "rms"])
def test_nothing_exceeds_full_scale(strategy: audio.NormalizationStrategy, tmp_path: Path) -> None:
    samples, _ = soundfile.read(written(SONGS["everything"], 4.0, strategy, tmp_path))
    assert np.abs(samples).max() <= 1
    loud = torch.from_numpy(samples)[None]
    # Samples that ran over would have come out at the other end of the scale: steps of two.
    assert loud.diff().abs().max() < 1
