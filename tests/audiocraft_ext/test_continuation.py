"""The seam of a continuation on the embedded checkpoint, whose codec was trained on music like the excerpts."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from audiocraft_ext import checkpoint
from audiocraft_ext.audio.read import Clip
from audiocraft_ext.audio.resample import resample
from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.codec import chunked
from audiocraft_ext.errors import Cancelled
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from tests.support.requests import AUDIO
from weights.demo.train import synth

SEAM_S = 0.05  # to either side


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(checkpoint.load(str(EMBEDDED), "cpu"), EngineSettings())


def excerpt(seconds: float, sample_rate: int, n_channels: int) -> Clip:
    """The synthesiser's own music."""
    rng = np.random.default_rng(7)
    song = synth.Song(120, 9, "minor", "calm", frozenset(synth.INSTRUMENTS))
    wav = torch.from_numpy(synth.render(song, synth.draw_score(song, rng), round(seconds * synth.FRAME_RATE) + 1))
    clip = resample(Clip(wav[None], synth.SAMPLE_RATE), sample_rate, 1)
    return Clip(clip[:, : round(seconds * sample_rate)].expand(n_channels, -1), sample_rate)


def steps(samples: Tensor) -> Tensor:
    """How far each sample [N] is from the next."""
    return samples.diff().abs()


# 8 s is the window: 11 s are longer than it, and keep their head.
@pytest.mark.parametrize(
    ("seconds", "sample_rate", "n_channels", "duration"),
    [(3.2, 32000, 1, 6), (2.5, 44100, 2, 5), (7.99, 32000, 1, 10), (11.1, 48000, 2, 14)],
)
def test_the_seam_is_inaudible(model: Model, seconds: float, sample_rate: int, n_channels: int, duration: int) -> None:
    clip = excerpt(seconds, sample_rate, n_channels)
    request = Request(prompt="calm", input_audio=AUDIO, continuation=True, duration=duration, seed=3)
    samples = model.generate(request, clip, Progress())[0]
    assert len(samples) == duration * model.sample_rate
    seam, width = int(seconds * model.sample_rate), int(SEAM_S * model.sample_rate)
    around = samples[seam - width : seam + width]
    # No click: no larger step than the music has elsewhere. No gap: neither side of it is silent.
    elsewhere = torch.cat([samples[: seam - width], samples[seam + width :]])
    assert steps(around).max() <= steps(elsewhere).max()
    assert around[:width].std() > 0.1 * elsewhere.std()
    assert around[width:].std() > 0.1 * elsewhere.std()


@torch.no_grad()
def test_the_excerpt_is_the_codec_s_reconstruction_of_it(model: Model) -> None:
    clip = excerpt(3.2, 32000, 1)
    request = Request(prompt="calm", input_audio=AUDIO, continuation=True, duration=6, seed=3)
    samples = model.generate(request, clip, Progress())
    codec = model.checkpoint.codec
    reconstruction = codec.decode(codec.encode(clip.samples[None])[0], None)[0]
    n_before_the_seam = reconstruction.shape[-1] - 4 * synth.FRAME  # the decoder looks a few frames ahead
    torch.testing.assert_close(samples[:, :n_before_the_seam], reconstruction[:, :n_before_the_seam], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_long_excerpt_has_the_tokens_of_the_whole_and_can_be_cancelled(model: Model) -> None:
    clip, progress, codec = excerpt(32.01, 32000, 1), Progress(), model.checkpoint.codec
    assert torch.equal(chunked.encode(codec, clip.samples[None], progress), codec.encode(clip.samples[None])[0])
    request = Request(prompt="calm", input_audio=AUDIO, continuation=True, duration=40, seed=3)
    lengths = []

    def stop(_: Any, inputs: tuple[Tensor], __: Tensor) -> None:
        lengths.append(inputs[0].shape[-1] / model.sample_rate)
        progress.stop()

    hook = codec.encoder.register_forward_hook(stop)
    with pytest.raises(Cancelled):
        model.generate(request, clip, progress)
    hook.remove()
    assert lengths == [chunked.CHUNK_S + chunked.PADDING_S]  # the first chunk has nothing before it
