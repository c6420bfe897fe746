"""A checkpoint's solver config: what is stored → OmegaConf's tree. What is wrong with one is told in a sentence."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from audiocraft_ext.errors import CheckpointError

_LONGEST_TEXT = 1 << 20  # MusicGen's have 20 kB
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(stored: Any) -> DictConfig:
    """The config that a checkpoint holds as ``xp.cfg``: YAML text, or OmegaConf's own object.

    Raises ``CheckpointError`` for text that is no YAML, is no mapping, or has aliases: a few of them, nested, can stand
    for more than fits any memory.
    """
    # A config may refer to its own keys, and to nothing of whoever loads it: what it says ends up in messages and logs.
    OmegaConf.clear_resolver("oc.env")
    try:
        if isinstance(stored, str):
            if len(stored) > _LONGEST_TEXT:
                raise ValueError(f"{len(stored)} characters, where {_LONGEST_TEXT} are allowed")
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(stored, Loader=_Parser)):
                raise ValueError("it has aliases (*name), which are to be written out")
        config = OmegaConf.create(stored) if stored is not None else None
    except (ValueError, TypeError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise CheckpointError(f"The checkpoint's config (xp.cfg) cannot be read: {_shown(error)}.") from error
    if not isinstance(config, DictConfig):
        raise CheckpointError("The checkpoint's config (xp.cfg) cannot be read: it is no mapping of names to values.")
    return config


@contextmanager
def built(what: str) -> Iterator[None]:
    """For what reads a config or builds a model of it: whatever is raised there is the config's fault.

    The builders check little. A key missing, or a value of a wrong kind, ends in an assert of audiocraft's or an error
    of torch's, which becomes a ``CheckpointError`` here.
    """
    try:
        yield
    except (CheckpointError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        message = f"The checkpoint's config describes no {what} that can be built: {_shown(error)}."
        raise CheckpointError(message) from error


def _shown(error: Exception) -> str:
    """An error as a clause; a bare assert by the line of code that it is, which names what it found wrong."""
    text = str(error).partition("object_type=")[0]  # OmegaConf's name of a class of ours
    if not text:
        text = f"{traceback.extract_tb(error.__traceback__)[-1].line} does not hold".removeprefix("assert ")
    return " ".join(text.split())[:300].rstrip(".")
