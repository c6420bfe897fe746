"""The melody conditioner of Meta's checkpoints against audiocraft's own with the same small Demucs."""

import random
from typing import Any

import demucs.pretrained
import pytest
import torch
from torch import Tensor

from audiocraft_ext.conditioning import StemConditioner
from audiocraft_ext.upstream import ChromaStemConditioner, WavCondition
from tests.support import tiny_components
from tests.support.tiny import SAMPLE_RATE

SETTINGS: dict[str, Any] = {
    "output_dim": 8,
    "sample_rate": SAMPLE_RATE,
    "n_chroma": 12,
    "radix2_exp": 12,
    "duration": 4,
    "match_len_on_eval": True,
}


def clip(seconds: float, channels: int, sample_rate: int = SAMPLE_RATE) -> Any:
    generator = torch.Generator().manual_seed(0)
    n_samples = int(seconds * sample_rate)
    wav = 0.3 * torch.randn(1, channels, n_samples, generator=generator)
    return WavCondition(wav, torch.tensor([n_samples]), [sample_rate], [None], [None])


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> ChromaStemConditioner:
    """audiocraft's, by its own ``__init__``, which downloads the small Demucs and draws the longest shift."""
    monkeypatch.setattr(demucs.pretrained, "get_model", lambda name: tiny_components.demucs().eval())
    monkeypatch.setattr(random, "randint", lambda low, high: high)
    return ChromaStemConditioner(**SETTINGS).eval()


def ours(of: ChromaStemConditioner) -> StemConditioner:
    conditioner = StemConditioner(tiny_components.demucs(), **SETTINGS).eval()
    conditioner.load_state_dict(of.state_dict())
    return conditioner


@pytest.mark.parametrize("seconds", [1, 3.3, 5, 30])
@pytest.mark.parametrize("channels", [1, 2])
def test_chroma_equals_audiocraft_s(theirs: ChromaStemConditioner, channels: int, seconds: float) -> None:
    melody = clip(seconds, channels)
    chroma: Tensor = theirs._get_wav_embedding(melody)
    torch.testing.assert_close(ours(theirs)._get_wav_embedding(melody), chroma, rtol=0, atol=0)
    assert chroma.std() > 0
    for mine, original in zip(ours(theirs)(melody), theirs(melody), strict=True):
        torch.testing.assert_close(mine, original, rtol=0, atol=0)


def test_only_the_window_and_its_lookahead_are_separated(
    theirs: ChromaStemConditioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    separated_s, conditioner = [], ours(theirs)
    separate = conditioner._get_stemmed_wav

    def record(wav: Tensor, sample_rate: int) -> Tensor:
        separated_s.append(wav.shape[-1] / sample_rate)
        return separate(wav, sample_rate)

    monkeypatch.setattr(conditioner, "_get_stemmed_wav", record)
    conditioner._get_wav_embedding(clip(300, 1))
    assert separated_s == [4 + 1 + 2 * 1]  # the window, a spectrum and two of Demucs' segments


def test_chroma_at_another_rate_and_without_a_clip_equals_audiocraft_s(theirs: ChromaStemConditioner) -> None:
    none = WavCondition(torch.zeros(1, 1, 1), torch.tensor([0]), [SAMPLE_RATE], [None], [None])
    for melody in (clip(2, 2, sample_rate=44100), none):
        expected = theirs._get_wav_embedding(melody)
        torch.testing.assert_close(ours(theirs)._get_wav_embedding(melody), expected, rtol=0, atol=0)


def test_the_same_clip_always_gives_the_same_melody(theirs: ChromaStemConditioner) -> None:
    conditioner = ours(theirs)
    melody = clip(3, 2)
    first = conditioner._get_stemmed_wav(melody.wav, SAMPLE_RATE)
    random.seed(1)
    assert torch.equal(conditioner._get_stemmed_wav(melody.wav, SAMPLE_RATE), first)


def test_demucs_is_not_in_the_conditioner_s_state_dict(theirs: ChromaStemConditioner) -> None:
    assert ours(theirs).state_dict().keys() == theirs.state_dict().keys()
    assert not any("demucs" in name for name in theirs.state_dict())
