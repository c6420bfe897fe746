"""Meta's codec, known by its sizes where a checkpoint holds its weights and not its name."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from audiocraft_ext.checkpoint import build
from audiocraft_ext.checkpoint.compatibility import public_name
from audiocraft_ext.checkpoint.locate.pretrained import DIFFUSION_CODEC
from audiocraft_ext.checkpoint.read import formats
from audiocraft_ext.upstream import CompressionModel, EncodecConfig, EncodecModel, builders
from tests.support import tiny

# Meta's, with few filters: how wide the convolutions are does not show in tokens or latents.
METAS: dict[str, Any] = {
    "num_filters": 4,
    "hidden_size": 128,
    "codebook_size": 2048,
    "codebook_dim": 128,
    "sampling_rate": 32000,
    "upsampling_ratios": [8, 5, 4, 4],
    "target_bandwidths": [2.2],
    "normalize": False,
    "use_causal_conv": False,
}
ANOTHER_S: list[dict[str, Any]] = [
    {"sampling_rate": 16000, "upsampling_ratios": [8, 5, 4, 2]},
    {"upsampling_ratios": [8, 5, 4, 2]},
    {"target_bandwidths": [4.4]},
    {"codebook_size": 1024, "target_bandwidths": [2.0]},
    {"hidden_size": 64, "codebook_dim": 64},
]


def huggingface_s(**changes: Any) -> CompressionModel:
    model = EncodecModel(EncodecConfig(**{**METAS, **changes}))
    return build.build_codec(formats.TransformersModel(model, Path()), {}, "cpu")


def test_meta_s_codec_is_recognised_in_either_format() -> None:
    assert public_name(None, huggingface_s()) == DIFFUSION_CODEC
    config = tiny.CODEC_CONFIG
    sizes = {"rvq": {**config["rvq"], "bins": 2048}, "seanet": {**config["seanet"], "dimension": 128}}
    settings = OmegaConf.create({**config, **sizes})
    exported = formats.CodecFile(settings, builders.get_compression_model(settings).state_dict())
    assert public_name(None, build.build_codec(exported, {}, "cpu")) == DIFFUSION_CODEC


@pytest.mark.parametrize("changes", ANOTHER_S, ids=lambda changes: ", ".join(changes))
def test_a_codec_of_other_sizes_is_not_meta_s(changes: dict[str, Any]) -> None:
    assert public_name(None, huggingface_s(**changes)) is None


def test_a_named_codec_keeps_its_name() -> None:
    assert public_name("someone/codec", huggingface_s()) == "someone/codec"
