"""The config that shapes give, compared with the one that was written."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.checkpoint.read import formats, infer
from audiocraft_ext.errors import CheckpointError
from tests.support import checkpoint_formats, tiny
from tests.support.tiny import KINDS


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_formats.write_parts(tmp_path_factory.mktemp("parts"))


def common_keys(ours: Any, theirs: Any) -> tuple[Any, Any]:
    """Both configs with the keys that both have, at any depth."""
    if not isinstance(ours, DictConfig):
        return ours, theirs
    pairs = {key: common_keys(ours[key], theirs[key]) for key in ours if key in theirs}
    return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_give_the_config_that_was_written(kind: tiny.Kind, parts: Path) -> None:
    lm = checkpoint_formats.language_model(kind, parts)
    inferred, written = infer.infer_config(lm.state), OmegaConf.create(checkpoint_formats.config_of(kind))
    written.transformer_lm.cross_attention = bool(written.fuser.cross)  # as audiocraft's builder does
    for key in ("transformer_lm", "fuser", "codebooks_pattern", "interleave_stereo_codebooks", "dataset"):
        ours, theirs = common_keys(inferred[key], written[key])
        assert ours == theirs, key
    assert inferred.compression_model_checkpoint == written.compression_model_checkpoint
    assert set(inferred.conditioners) == set(written.conditioners)


def test_cross_attention_with_a_prepended_melody_is_inferred() -> None:
    lm = formats.read(EMBEDDED).lm
    inferred, written = infer.infer_config(lm.state), lm.config
    assert inferred.fuser.cross == written.fuser.cross == ["description"]
    assert inferred.fuser.prepend == written.fuser.prepend == ["self_wav"]
    assert inferred.transformer_lm.cross_attention is True


def test_the_log_says_what_was_inferred_and_what_assumed(parts: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        infer.infer_config(checkpoint_formats.language_model("stereo", parts).state)
    assert "from its shapes: 8 codebooks of 64, 2 layers of 192, text, text encoder text_encoder." in caplog.text
    assert "3 heads, a window of 30 s, codec facebook/encodec_32khz" in caplog.text


def test_a_missing_weight_that_determines_a_size_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"the weight 'transformer\.layers\.0\.linear1\.weight' is missing"):
        infer.infer_config({"emb.0.weight": torch.zeros(3, 4), "transformer.layers.0.norm1.weight": torch.zeros(4)})
