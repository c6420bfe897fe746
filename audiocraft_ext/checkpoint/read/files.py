"""One file of weights → the dict in it. Runs no code from it, and knows nothing of what the dict means.

Safetensors contain data alone; pickles are loaded ``weights_only``, with OmegaConf's classes.
"""

from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

from audiocraft_ext.checkpoint.read import tensors
from audiocraft_ext.errors import CheckpointError

_CONFIG_CLASSES: list[Any] = [DictConfig, ListConfig, AnyNode, ContainerMetadata, Metadata, Any, defaultdict]
_CONFIG_CLASSES += [dict, list, int]


class _Unread:
    """In the place of numpy's scalars and dtypes, which only a trainer's history has: their bytes are never parsed."""

    def __init__(self, *parts: Any) -> None:
        pass

    __setstate__ = __init__


_NUMPY = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_SAFE: list[Any] = [*_CONFIG_CLASSES, *((_Unread, name) for name in _NUMPY)]
_ZIP = b"PK\x03\x04"  # torch.save's since version 1.6; before, it began with the pickle of a magic number
_LEGACY = b"\x80\x02\x8a\x0a" + torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")


def load(file: Path) -> dict[Any, Any]:
    """A torch or safetensors file as a dict; {} for any other file. Raises ``CheckpointError`` for a damaged one."""
    if tensors.is_safetensors(file):
        return tensors.read(file)
    with file.open("rb") as opened:
        is_torch = opened.read(len(_LEGACY)).startswith((_ZIP, _LEGACY))
    return load_pickle(file) if is_torch else {}


def load_pickle(file: Path) -> dict[Any, Any]:
    """The dict in a torch file, memory-mapped unless it is older than torch 1.6; raises ``CheckpointError``."""
    try:
        with torch.serialization.safe_globals(_SAFE), file.open("rb") as opened:
            is_zip = opened.read(len(_ZIP)) == _ZIP
            payload = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except UnpicklingError as error:
        unsafe: list[str] = []
        with torch.serialization.safe_globals(_SAFE), suppress(ValueError):  # for files older than torch 1.6
            unsafe = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
        wanted = ", ".join(unsafe) or "more than data"
        raise CheckpointError(
            f"{file.name} is refused: its pickle asks for {wanted:.200}. Save a state dict."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        problem = str(error).splitlines()[0]
        if "TorchScript" in problem:  # torch would advise to load it unsafely
            raise CheckpointError(f"{file.name} is a TorchScript archive. Save a state dict.") from error
        raise CheckpointError(
            f"{file.name} is damaged or not a torch file: {problem}. Download or copy it again."
        ) from error
    return payload if isinstance(payload, dict) else {}
