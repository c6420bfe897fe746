"""Tempo and key of music whose truth is known; nothing where there is neither."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from audiocraft_ext.audio.read import Clip
from audiocraft_ext.training.labels import describe, key_name, tempo_bpm

RATE = 22_050


def tones(*steps: float, n_s: float = 8.0) -> NDArray[np.float32]:
    """Semitones above A3, together."""
    t = np.arange(round(n_s * RATE)) / RATE
    return np.asarray(0.1 * sum(np.sin(2 * np.pi * 220 * 2 ** (step / 12) * t) for step in steps), np.float32)


def clicks(bpm: float, n_s: float = 12.0) -> NDArray[np.float32]:
    """One on each beat, louder on each fourth, softer between beats."""
    noise = np.random.default_rng(0).standard_normal(RATE // 50)
    samples = np.zeros(round(n_s * RATE))
    for i, start in enumerate(np.arange(0, len(samples) - len(noise), 30 / bpm * RATE).astype(int)):
        samples[start : start + len(noise)] += noise * (0.4 if i % 8 == 0 else 0.2 if i % 2 == 0 else 0.05)
    return samples.astype(np.float32)


@pytest.mark.parametrize("bpm", [80, 92, 104, 120, 133, 150])
def test_tempo_is_within_two_percent(bpm: int) -> None:
    assert tempo_bpm(clicks(bpm)) == pytest.approx(bpm, rel=0.02)


@pytest.mark.parametrize("root", range(12))
@pytest.mark.parametrize(
    ("mode", "scale"), [("major", (0, 4, 7, 12, 5, 9, 0, 7)), ("minor", (0, 3, 7, 12, 5, 8, 0, 7))]
)
def test_key_has_root_and_mode(root: int, mode: str, scale: tuple[int, ...]) -> None:
    name = ("A", "A#", "B", "C", "C#", "D", "D#", "E", "F", "F#", "G", "G#")[root]
    assert key_name(tones(*(root + step for step in scale), n_s=4.0)) == f"{name} {mode}"


def test_noise_silence_and_steady_tones_have_no_tempo() -> None:
    noise = (0.1 * np.random.default_rng(0).standard_normal(8 * RATE)).astype(np.float32)
    for samples in (noise, np.zeros(8 * RATE, np.float32), tones(0), tones(0, 7)):
        assert tempo_bpm(samples) is None
    assert key_name(noise) is None
    assert key_name(np.zeros(8 * RATE, np.float32)) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "120 bpm, A minor"),
        ("fast, at 118 BPM", "A minor"),
        ("a tune in Db major", "120 bpm"),
        ("C# min, 118bpm", ""),
        ("a minor incident, 80s synths", "120 bpm"),  # it may be the key
    ],
)
def test_what_the_user_says_is_not_labelled_again(words: str, expected: str) -> None:
    mix = clicks(120, 8.0) + tones(0, 3, 7, 12)
    assert describe(Clip(torch.from_numpy(np.stack([mix, mix])), RATE), words) == expected
