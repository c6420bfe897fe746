"""What a checkpoint's files are, by their content, never by their name → (config, state dict).

Read here: audiocraft's export (``best_state``), the fine-tuner's ``trained_model.tar`` (``model``; a pickle in spite of
its name) and dora's ``checkpoint.th`` (``fsdp_best_state`` and ``best_state`` around ``model``). Nothing in a file can
run code: pickles are loaded ``weights_only``, with the classes of an OmegaConf config let through one by one.
"""

import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode
from torch import Tensor

from audiocraft_ext.errors import CheckpointError

State = dict[str, Tensor]
_CONFIG_CLASSES: list[Any] = [
    DictConfig,
    ListConfig,
    AnyNode,
    ContainerMetadata,
    Metadata,
    Any,
    dict,
    list,
    int,
    defaultdict,
]


@dataclass(frozen=True)
class LanguageModelFile:
    """A MusicGen LM: its solver config and its state dict."""

    config: DictConfig
    state: State


@dataclass(frozen=True)
class CodecFile:
    """A codec: either its own config and state dict, or the name of a public one."""

    pretrained: str | None
    config: DictConfig | None
    state: State | None


def read(path: Path) -> tuple[LanguageModelFile, CodecFile]:
    """The LM and the codec in a file or folder; an LM file alone names its codec in its config.

    Raises ``CheckpointError`` where no LM is found, or what is found cannot be read.
    """
    models: list[LanguageModelFile] = []
    codecs: list[CodecFile] = []
    for file in _torch_files(path):
        match _recognise(load_pickle(file)):
            case LanguageModelFile() as model:
                models.append(model)
            case CodecFile() as codec:
                codecs.append(codec)
    if len(models) != 1:
        raise CheckpointError(
            f"{path} holds {len(models)} MusicGen language models where one is expected. Readable are audiocraft's "
            "export (state_dict.bin), the fine-tuner's trained_model.tar and dora's checkpoint.th."
        )
    return models[0], codecs[0] if codecs else _codec_named_in(models[0].config)


def _torch_files(path: Path) -> Iterator[Path]:
    """The files that torch.save has written (zip archives since torch 1.6)."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return (file for file in files if file.is_file() and zipfile.is_zipfile(file))


def load_pickle(file: Path) -> dict[Any, Any]:
    """The dict in a torch file, memory-mapped, nothing in it run; raises ``CheckpointError``."""
    try:
        with torch.serialization.safe_globals(_CONFIG_CLASSES):
            payload = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        wanted = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(file)) or "more than data"
        raise CheckpointError(f"{file.name} is refused: its pickle asks for {wanted:.200}.") from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{file.name} is damaged or no torch file: {error}") from error
    return payload if isinstance(payload, dict) else {}


def _recognise(payload: dict[str, Any]) -> LanguageModelFile | CodecFile | None:
    if "pretrained" in payload:
        return CodecFile(payload["pretrained"], None, None)
    if "xp.cfg" not in payload:
        return None
    config = OmegaConf.create(payload["xp.cfg"])
    assert isinstance(config, DictConfig)
    state = _weights(payload)
    if "transformer_lm" in config:
        return LanguageModelFile(config, state)
    return CodecFile(None, config, state)


def _weights(payload: dict[str, Any]) -> State:
    """The best weights of an export (flat), of a dora checkpoint (averaged, if training kept any) or of a fine-tune."""
    for name in ("fsdp_best_state", "best_state"):
        best = payload.get(name) or {}
        state = best.get("model", best)
        if state:
            return state
    if payload.get("model"):
        return payload["model"]
    raise CheckpointError(f"The checkpoint holds no weights; its entries are {', '.join(sorted(payload))}.")


def _codec_named_in(config: DictConfig) -> CodecFile:
    """``//pretrained/facebook/encodec_32khz`` in an LM's config is the public codec of that name."""
    name = str(config.get("compression_model_checkpoint", ""))
    if not name.startswith("//pretrained/"):
        raise CheckpointError(
            f"The language model's codec is {name or 'not named'!r}, which is no public one. "
            "Put its compression_state_dict.bin beside it."
        )
    return CodecFile(name.removeprefix("//pretrained/"), None, None)
