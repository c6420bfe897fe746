"""A malformed config, or one that describes no model, is refused in a sentence with the reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint.read.config import read_config
from audiocraft_ext.errors import CheckpointError
from tests.support import tiny

SECRET = "an environment's value"
NESTED_ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("[1, 2]", "it is not a mapping"),
        (None, "it is not a mapping"),
        ("a: [", "did not find expected node"),
        ("a: ]", "did not find expected node"),
        (5, "unsupported type: 'int'"),
        ('!!python/object/apply:os.system ["touch executed"]', "could not determine a constructor"),
        (NESTED_ALIASES, "it has YAML aliases"),
        ("a: " + "x" * (1 << 20), "characters; the limit is 1048576"),
        ("a: " + "[" * 2000 + "]" * 2000, "recursion"),
    ],
)
def test_a_malformed_config_is_refused_with_the_reason(
    stored: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=rf"^The checkpoint's config \(xp.cfg\) cannot be read: .*{message}"):
        read_config(stored)
    assert not list(tmp_path.iterdir())


def test_omegaconf_s_own_object_is_a_config() -> None:
    assert read_config(OmegaConf.create({"a": {"b": 1}})) == read_config("a: {b: 1}")


def _no_dim(config: DictConfig) -> None:
    del config["transformer_lm"]["dim"]


def _no_conditioners(config: DictConfig) -> None:
    del config["conditioners"]


def _text_for_a_number(config: DictConfig) -> None:
    config.transformer_lm.dim = "wide"


def _heads_that_do_not_divide(config: DictConfig) -> None:
    config.transformer_lm.num_heads = 7


def _a_reference_to_itself(config: DictConfig) -> None:
    config.transformer_lm.dim = "${transformer_lm.dim}"


def _a_size_that_fits_nowhere(config: DictConfig) -> None:
    config.transformer_lm.dim = 2 * 10**9


def _the_environment(config: DictConfig) -> None:
    config.conditioners.description.t5.name = "${oc.env:MUSICGEN_TEST_SECRET}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_no_dim, "Missing key dim"),
        (_no_conditioners, "Missing key conditioners"),
        (_text_for_a_number, "empty"),
        (_heads_that_do_not_divide, "num_heads == 0 is false"),
        (_a_reference_to_itself, "Recursive interpolation"),
        (_a_size_that_fits_nowhere, "allocate"),
        (_the_environment, "Unsupported interpolation type oc.env"),
    ],
)
def test_a_config_that_builds_no_model_is_refused_with_the_reason(
    change: Callable[[DictConfig], None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSICGEN_TEST_SECRET", SECRET)
    folder = tiny.write(tmp_path, "text")
    package = torch.load(folder / "state_dict.bin")
    config = OmegaConf.create(package["xp.cfg"])
    OmegaConf.set_struct(config, False)
    assert isinstance(config, DictConfig)
    change(config)
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, folder / "state_dict.bin")
    with pytest.raises(CheckpointError, match=message) as refused:
        checkpoint.load(str(folder), "cpu")
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)
