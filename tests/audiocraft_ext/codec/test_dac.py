"""Checkpoints with Descript's codec: a small one with random weights, in transformers' format."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from audiocraft_ext import checkpoint
from audiocraft_ext.audio.read import Clip
from audiocraft_ext.checkpoint.convert import convert
from audiocraft_ext.codec.dac import DacCodec
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.upstream import DacConfig, DacModel
from tests.support import tiny

NAME = "dac_44khz"
SAMPLE_RATE = 44100
HOP = 512


def random_dac() -> DacModel:
    sizes: dict[str, Any] = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "downsampling_ratios": [2, 4, 8, 8]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DacModel(DacConfig(n_codebooks=4, codebook_size=tiny.CARD, sampling_rate=SAMPLE_RATE, **sizes))
        for name, weight in model.named_parameters():
            if name.endswith("codebook.weight"):  # transformers initialises them so small that all tokens decode alike
                weight.data.normal_()
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text checkpoint that names the codec as audiocraft does, with the codec in the same folder."""
    place = tiny.write(tmp_path_factory.mktemp("dac"), "text", sample_rate=SAMPLE_RATE)
    torch.save({"pretrained": NAME}, place / "compression_state_dict.bin")
    random_dac().save_pretrained(place / NAME)
    return place


def noise(seconds: float) -> Clip:
    generator = torch.Generator().manual_seed(0)
    return Clip(0.3 * torch.randn(1, int(seconds * SAMPLE_RATE), generator=generator), SAMPLE_RATE)


@torch.no_grad()
def test_tokens_and_samples_equal_transformers_own() -> None:
    model, samples = random_dac(), noise(1).samples[None, :, : 80 * HOP]
    codec = DacCodec(model)
    codes, scale = codec.encode(samples)
    assert scale is None
    assert torch.equal(codes, model.encode(samples).audio_codes)
    assert codes.unique().numel() > tiny.CARD // 4
    assert torch.equal(codec.decode(codes)[:, 0], model.decode(audio_codes=codes).audio_values)


@pytest.mark.parametrize("n_samples", [1, HOP - 1, HOP + 1, 5 * HOP])
def test_a_partial_frame_is_padded(n_samples: int) -> None:
    codes, _ = DacCodec(random_dac()).encode(torch.randn(1, 1, n_samples))
    assert codes.shape == (1, 4, -(-n_samples // HOP))


def test_the_number_of_codebooks_can_be_reduced() -> None:
    codec = DacCodec(random_dac())
    codec.set_num_codebooks(2)
    assert (codec.num_codebooks, codec.total_codebooks) == (2, 4)
    assert codec.encode(torch.randn(1, 1, HOP))[0].shape == (1, 2, 1)


# 45 s are decoded in chunks, and exceed the window.
@pytest.mark.parametrize(("duration", "clip"), [(2, None), (3, noise(1.3)), (45, None)])
def test_a_clip_is_exactly_as_long_as_requested(folder: Path, duration: int, clip: Clip | None) -> None:
    loaded = checkpoint.load(str(folder), "cpu")
    assert isinstance(loaded.codec, DacCodec)
    model = Model(loaded, EngineSettings())
    audio: dict[str, Any] = {"input_audio": "clip", "continuation": True} if clip else {}
    samples = model.generate(Request(prompt="x", duration=duration, seed=1, **audio), clip, Progress())
    model.close()
    assert samples.shape == (1, duration * SAMPLE_RATE)
    assert samples.std() > 0
    silent = samples[0].flip(0).abs().cummax(0).values.eq(0).sum()
    assert silent < 2 * HOP, "the end is missing"


@torch.no_grad()
def test_convert_includes_the_codec_that_a_checkpoint_names(folder: Path, tmp_path: Path) -> None:
    convert(str(folder), tmp_path / "out")
    codes = torch.randint(tiny.CARD, (1, 4, 20), generator=torch.Generator().manual_seed(0))
    original, converted = (checkpoint.load(str(place), "cpu").codec for place in (folder, tmp_path / "out"))
    assert torch.equal(converted.decode(codes, None), original.decode(codes, None))


def test_other_transformers_models_are_refused_as_codecs(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = tmp_path / NAME / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "mimi"}))
    with pytest.raises(CheckpointError, match="codec dac_44khz is 'mimi'"):
        checkpoint.load(str(tmp_path), "cpu")
