"""What only a CUDA device can show; ``make gpu-check`` runs these."""

import pytest
import torch

from audiocraft_ext import checkpoint
from audiocraft_ext.audio import Clip
from audiocraft_ext.checkpoint.source import EMBEDDED
from audiocraft_ext.language_model import Settings
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from tests.audiocraft_ext.test_request import AUDIO, DEFAULTS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(checkpoint.load(str(EMBEDDED), "cuda"), Settings(consume=False))


def test_the_lm_is_half_precision_and_the_codec_single(model: Model) -> None:
    assert next(model.checkpoint.lm.transformer.parameters()).dtype == torch.float16
    assert next(model.checkpoint.codec.parameters()).dtype == torch.float32


@pytest.mark.parametrize("mode", ["text", "melody", "continuation"])
def test_a_seed_repeats_its_samples_in_every_mode(model: Model, mode: str) -> None:
    clip = None
    inputs = {**DEFAULTS, "prompt": "electro at 120 BPM", "duration": 4, "seed": 5}
    if mode != "text":
        generator = torch.Generator().manual_seed(0)
        clip = Clip(0.2 * torch.randn(1, 3 * model.sample_rate, generator=generator), model.sample_rate)
        inputs |= {"input_audio": AUDIO, "continuation": mode == "continuation"}
    request = Request.checked(**inputs)
    first, again = (model.generate(request, clip, Progress()) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (1, 4 * model.sample_rate)
    assert first.isfinite().all()
    assert first.std() > 0.001
