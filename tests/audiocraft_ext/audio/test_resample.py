"""Samples at another rate: length, content, and audiocraft's own at common rates."""

import pytest
import torch

from audiocraft_ext.audio.read import Clip
from audiocraft_ext.audio.resample import resample
from tests.support.audio_files import RATE, chords, snr_db

pytestmark = pytest.mark.usefixtures("one_thread")


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
