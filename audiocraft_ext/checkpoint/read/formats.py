"""A checkpoint's files → configs and state dicts, recognised by content, not by name.

| format | recognised by |
| --- | --- |
| audiocraft's export | ``best_state`` and ``xp.cfg``; a codec's may be ``pretrained`` alone |
| the fine-tuner's ``trained_model.tar`` (a torch file, despite its name) | ``xp.cfg`` and ``model`` |
| dora's ``checkpoint.th`` | ``fsdp_best_state``, ``best_state``, ``model``, in this order |
| continue-from, Lightning, a bare state dict | an ``emb.0.weight`` somewhere; the config is inferred from shapes |
| our own, written by ``convert.py`` | safetensors with ``xp.cfg`` in the header; transformers' codec in a folder |
| Hugging Face | ``config.json`` with the model type ``musicgen`` or ``musicgen_melody`` |
| PEFT LoRA | ``adapter_config.json``; merged into its base, which is located, too |

No file can run code: safetensors contain data alone, and pickles are loaded ``weights_only``, with OmegaConf's classes.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

from audiocraft_ext.checkpoint.locate import pretrained, source
from audiocraft_ext.checkpoint.locate.source import CODEC_TYPES, model_type, read_json
from audiocraft_ext.checkpoint.read import huggingface, infer, tensors
from audiocraft_ext.checkpoint.read.config import config_errors, read_config
from audiocraft_ext.checkpoint.read.diagnosis import describe_unrecognized
from audiocraft_ext.checkpoint.read.tensors import State
from audiocraft_ext.errors import CheckpointError

_CONFIG_CLASSES: list[Any] = [DictConfig, ListConfig, AnyNode, ContainerMetadata, Metadata, Any, defaultdict]
_CONFIG_CLASSES += [dict, list, int]
_LM_KEY = "emb.0.weight"
_ADAPTER = "adapter_config.json"
_SUPPORTED = (
    "Supported are audiocraft's export (state_dict.bin), the fine-tuner's trained_model.tar, dora's checkpoint.th, a "
    "bare or Lightning state dict, a Hugging Face MusicGen, a LoRA adapter of one, and what script/convert-weights "
    "writes."
)


@dataclass(frozen=True)
class LanguageModelFile:
    """A MusicGen LM: its solver config, its state dict under audiocraft's names, and whether it was stored in int8."""

    config: DictConfig
    state: State
    is_int8: bool = False


@dataclass(frozen=True)
class CodecFile:
    """A codec of audiocraft's own: its config and state dict."""

    config: DictConfig
    state: State


@dataclass(frozen=True)
class TransformersFile:
    """A codec or text encoder in transformers' own form: config, state dict, and the folder with its tokenizer."""

    config: dict[str, Any]
    state: State
    folder: Path


@dataclass(frozen=True)
class CheckpointFiles:
    """The models in one checkpoint; without ``text_encoder``, the LM's config names one.

    ``path`` is the file or folder with all of them. A ``codec`` that is named instead of included is a public one.
    """

    path: Path
    lm: LanguageModelFile
    codec: CodecFile | TransformersFile | str
    text_encoder: TransformersFile | None = None

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def codec_name(self) -> str | None:
        """The public name of the codec; None for one that the checkpoint includes."""
        return self.codec if isinstance(self.codec, str) else None

    @cached_property
    def model_folders(self) -> dict[str, Path]:
        """The folder of each pretrained model that the checkpoint names; raises ``CheckpointError`` without one.

        Only an optional decoder is located later, at its first use: MultiBand Diffusion, which is over 1 GB.
        """
        names = [self.codec_name] if self.codec_name else []
        with config_errors("language model"):
            conditioners = [settings for name, settings in self.lm.config.conditioners.items() if name != "args"]
            if self.text_encoder is None:
                names += [settings.t5.name for settings in conditioners if settings.model == "t5"]
            names += [pretrained.DEMUCS for settings in conditioners if settings.model == "chroma_stem"]
        return {name: pretrained.locate_model(name, self.folder) for name in names}


def read(path: Path) -> CheckpointFiles:
    """The models in a file or folder; raises ``CheckpointError`` if it has no LM, or cannot be read."""
    root = root_of(path)
    if is_adapter(root):
        base = read_json(root / _ADAPTER).get("base_model_name_or_path")
        return _read_huggingface(_base_folder(str(base), root), adapter=root)
    return _read_huggingface(root) if _is_huggingface(root) else _read_audiocraft(root)


def root_of(path: Path) -> Path:
    """``path``, or its folder if it is one of several files of a Hugging Face model or adapter."""
    folder = path.parent
    if path.is_dir() or not (is_adapter(folder) or _is_huggingface(folder)):
        return path
    return path if isinstance(recognise(_load(path)), LanguageModelFile) else folder


def is_adapter(folder: Path) -> bool:
    """Whether a folder contains a PEFT adapter."""
    return (folder / _ADAPTER).is_file()


def _is_huggingface(folder: Path) -> bool:
    # Meta's own repositories have both an export and Hugging Face's form; only the export is fetched.
    return model_type(folder) in huggingface.MODEL_TYPES and any(folder.glob("*.safetensors"))


def _base_folder(base: str, beside: Path) -> Path:
    """An adapter's base: like any model that a checkpoint names, or any weights string."""
    try:
        is_name = pretrained.NAME.fullmatch(base) is not None
        folder = (pretrained.find_local_model(base, beside) if is_name else None) or source.locate(base)
    except CheckpointError as error:
        raise CheckpointError(f"The adapter's base model cannot be located. {error}") from error
    if not _is_huggingface(folder):
        raise CheckpointError(f"The adapter's base, {base}, is not a Hugging Face MusicGen.")
    return folder


def _read_huggingface(folder: Path, adapter: Path | None = None) -> CheckpointFiles:
    config = read_json(folder / "config.json")
    state = huggingface.read_weights(folder)
    if adapter is not None:
        pickled = adapter / "adapter_model.bin"
        weights = huggingface.read_weights(adapter) or (load_pickle(pickled) if pickled.is_file() else {})
        state = huggingface.merge_adapter(state, weights, read_json(adapter / _ADAPTER))
    lm_state = huggingface.to_audiocraft(state)
    if _LM_KEY not in lm_state:
        raise CheckpointError(f"{folder} has the config of a Hugging Face MusicGen, but another model's safetensors.")
    lm_config = infer.infer_config(lm_state, config["decoder"]["num_attention_heads"])
    codec, text_encoder = (
        TransformersFile({"model_type": kind} | config[name], huggingface.strip_prefix(state, f"{name}."), folder)
        for name, kind in (("audio_encoder", "encodec"), ("text_encoder", "t5"))
    )
    return CheckpointFiles(adapter or folder, LanguageModelFile(lm_config, lm_state), codec, text_encoder)


def _read_audiocraft(path: Path) -> CheckpointFiles:
    models: dict[str, LanguageModelFile] = {}
    codecs: dict[str, CodecFile | str] = {}
    others: dict[str, dict[Any, Any]] = {}
    entries = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in filter(Path.is_file, entries):
        payload = _load(file)
        match recognise(payload):
            case LanguageModelFile() as model:
                models[file.name] = model
            case None:
                others[file.name] = find_weights(payload) or payload
            case codec:
                codecs[file.name] = codec
    if not models:
        problem = describe_unrecognized(codecs, others)
        raise CheckpointError(f"{path} has no MusicGen language model: {problem}. {_SUPPORTED}")
    for found, what in ((models, "language models"), (codecs, "codecs")):
        if len(found) > 1:
            raise CheckpointError(f"{path} has {len(found)} {what}, {', '.join(found)}: keep one, or name one file.")
    lm = next(iter(models.values()))
    if codecs:
        return CheckpointFiles(path, lm, next(iter(codecs.values())))
    for folder in entries:
        if model_type(folder) in CODEC_TYPES:
            own = TransformersFile(read_json(folder / "config.json"), huggingface.read_weights(folder), folder)
            return CheckpointFiles(path, lm, own)
    return CheckpointFiles(path, lm, _codec_named_in(lm.config))


def recognise(payload: dict[Any, Any]) -> LanguageModelFile | CodecFile | str | None:
    """The model in a file's payload, or a public codec's name, if there is one."""
    if "pretrained" in payload:
        return str(payload["pretrained"])
    state = find_weights(payload)
    if state is None:
        return None
    config = read_config(payload["xp.cfg"]) if "xp.cfg" in payload else None
    if _LM_KEY not in state:
        return CodecFile(config, state) if config is not None and "encodec" in config else None
    # MAGNeT and JASCO have MusicGen's names for their weights, but generate tokens in other ways.
    kind = "transformer_lm" if config is None else config.get("lm_model", "transformer_lm")
    if kind != "transformer_lm":
        raise CheckpointError(
            f"The language model is of the kind {kind!r}, not a MusicGen: MAGNeT and JASCO are not supported."
        )
    return LanguageModelFile(config or infer.infer_config(state), state, payload.get("is_int8") is True)


def _load(file: Path) -> dict[Any, Any]:
    """A torch or safetensors file as a dict; {} for any other file."""
    if tensors.is_safetensors(file):
        return tensors.read(file)
    with file.open("rb") as opened:
        return load_pickle(file) if opened.read(4) == b"PK\x03\x04" else {}  # torch.save writes a zip


def load_pickle(file: Path) -> dict[Any, Any]:
    """The dict in a torch file, memory-mapped, without running anything in it; raises ``CheckpointError``."""
    try:
        with torch.serialization.safe_globals(_CONFIG_CLASSES):
            payload = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        wanted = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(file)) or "more than data"
        raise CheckpointError(f"{file.name} is refused: its pickle asks for {wanted:.200}.") from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        problem = str(error).splitlines()[0]
        raise CheckpointError(
            f"{file.name} is damaged or not a torch file: {problem}. Download or copy it again."
        ) from error
    return payload if isinstance(payload, dict) else {}


def find_weights(payload: dict[Any, Any]) -> State | None:
    """The best weights in a training checkpoint, without the prefix of a wrapper such as Lightning or DDP."""
    for name in ("fsdp_best_state", "best_state", "model", "state_dict", None):
        found = payload if name is None else payload.get(name)
        if isinstance(found, dict) and isinstance(found.get("model"), dict):
            found = found["model"]
        if isinstance(found, dict) and any(isinstance(value, torch.Tensor) for value in found.values()):
            prefix = next((key.removesuffix(_LM_KEY) for key in found if str(key).endswith(_LM_KEY)), "")
            return huggingface.strip_prefix(found, prefix) if prefix else found
    return None


def _codec_named_in(config: DictConfig) -> str:
    """``//pretrained/facebook/encodec_32khz`` in an LM's config is the public codec of that name."""
    name = str(config.get("compression_model_checkpoint", ""))
    if not name.startswith("//pretrained/"):
        raise CheckpointError(
            f"The language model's codec, {name!r}, is not a public one (//pretrained/owner/name): put its "
            "compression_state_dict.bin beside the language model, and name the folder of both."
        )
    return name.removeprefix("//pretrained/")
