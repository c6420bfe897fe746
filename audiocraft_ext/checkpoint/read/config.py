"""A checkpoint's solver config: stored form → OmegaConf tree, and one sentence for whatever is wrong with it."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from audiocraft_ext.errors import CheckpointError

_MAX_CHARACTERS = 1 << 20  # MusicGen's have 20 kB
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_config(stored: Any) -> DictConfig:
    """The config that a checkpoint stores as ``xp.cfg``: YAML text, or OmegaConf's own object.

    Raises ``CheckpointError`` for text that is not YAML or not a mapping, or has aliases: a few nested ones can expand
    beyond any memory.
    """
    # A config may refer to its own keys, but not to this machine's environment: its values reach messages and logs.
    OmegaConf.clear_resolver("oc.env")
    try:
        if isinstance(stored, str):
            if len(stored) > _MAX_CHARACTERS:
                raise ValueError(f"it has {len(stored)} characters; the limit is {_MAX_CHARACTERS}")
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(stored, Loader=_Loader)):
                raise ValueError("it has YAML aliases (*name), which are not supported: write the values out")
        config = OmegaConf.create(stored) if stored is not None else None
    except (ValueError, TypeError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise CheckpointError(f"The checkpoint's config (xp.cfg) cannot be read: {_clause(error)}.") from error
    if not isinstance(config, DictConfig):
        raise CheckpointError("The checkpoint's config (xp.cfg) cannot be read: it is not a mapping.")
    return config


@contextmanager
def config_errors(model: str) -> Iterator[None]:
    """Turn any error of code that reads a config or builds a ``model`` from it into a ``CheckpointError``.

    The builders validate little: a missing key or a value of the wrong type ends in an assert of audiocraft's or an
    error of torch's.
    """
    try:
        yield
    except (CheckpointError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise CheckpointError(f"No {model} can be built from the checkpoint's config: {_clause(error)}.") from error


def _clause(error: Exception) -> str:
    """An error as a clause; a bare assert as its line of code, which names the value at fault."""
    text = str(error).partition("object_type=")[0]  # OmegaConf's name for an internal class
    if not text:
        text = f"{traceback.extract_tb(error.__traceback__)[-1].line} is false".removeprefix("assert ")
    return " ".join(text.split())[:300].rstrip(".")
