"""A checkpoint's files → configs, state dicts and transformers' models, recognised by content, not by name.

| format | recognised by | read by |
| --- | --- | --- |
| audiocraft's export | ``best_state`` and ``xp.cfg``; a codec's may be ``pretrained`` alone | here |
| the fine-tuner's ``trained_model.tar`` (a torch file, despite its name) | ``xp.cfg`` and ``model`` | here |
| dora's ``checkpoint.th`` | ``fsdp_best_state``, ``best_state``, ``model``, in this order | here |
| continue-from, Lightning, a bare state dict | an ``emb.0.weight`` somewhere; the config is inferred | here |
| our own, written by ``convert.py`` | safetensors with ``xp.cfg`` in the header; a codec in a folder | here |
| Hugging Face | ``config.json`` with the model type ``musicgen`` or ``musicgen_melody`` | transformers |
| an adapter (LoRA and its kin) | ``adapter_config.json``; merged into its base, which is located, too | PEFT |
"""

import hashlib
import logging
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from audiocraft_ext.checkpoint.locate import hub, pretrained, source
from audiocraft_ext.checkpoint.locate.source import CODEC_TYPES, model_type, read_json
from audiocraft_ext.checkpoint.read import adapter, files, huggingface, infer, variants
from audiocraft_ext.checkpoint.read.config import config_errors, read_config
from audiocraft_ext.checkpoint.read.diagnosis import describe_unrecognized
from audiocraft_ext.checkpoint.read.states import LM_KEY, find_weights
from audiocraft_ext.checkpoint.read.tensors import State
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import PreTrainedModel

_log = logging.getLogger(__name__)

BASE_HASH = "base_model_sha256"  # what our trainer adds to an adapter's auto_mapping, which PEFT lets pass
_SUPPORTED = (
    "Supported are audiocraft's export (state_dict.bin), the fine-tuner's trained_model.tar, dora's checkpoint.th, a "
    "bare or Lightning state dict, a Hugging Face MusicGen, a LoRA adapter of one, and what script/convert-weights "
    "writes."
)

# The folder of an adapter, and how much of it is merged: 1 is all
AdapterStrength = tuple[Path, float]


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
class TransformersModel:
    """A codec or text encoder of transformers', on the CPU, and the folder with its tokenizer."""

    model: PreTrainedModel
    folder: Path


@dataclass(frozen=True)
class CheckpointFiles:
    """The models in one checkpoint; without ``text_encoder``, the LM's config names one.

    ``path`` is the file or folder with all of them. A ``codec`` that is named instead of included is a public one.
    """

    path: Path
    lm: LanguageModelFile
    codec: CodecFile | TransformersModel | str
    text_encoder: TransformersModel | None = None

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
        names = [] if self.codec_name is None else [self.codec_name]
        with config_errors("language model"):
            conditioners = [settings for name, settings in self.lm.config.conditioners.items() if name != "args"]
            if self.text_encoder is None:
                names += [str(settings.t5.name) for settings in conditioners if settings.model == "t5"]
            names += [pretrained.DEMUCS for settings in conditioners if settings.model == "chroma_stem"]
        return {name: pretrained.locate_model(name, self.folder) for name in names}


def read(path: Path, more: Sequence[AdapterStrength] = ()) -> CheckpointFiles:
    """The models in a file or folder, with more adapters merged after its own.

    Raises ``CheckpointError`` if it has no LM, or cannot be read.
    """
    root, adapters = base_and_adapters(path)
    for folder, _ in more:
        _compare_base(folder, root, is_base=bool(adapters))
    merged = [*((folder, 1.0) for folder in adapters), *more]
    if is_huggingface(root, is_base=bool(adapters)):
        return _read_huggingface(root, merged, folder=adapters[-1] if adapters else root)
    return _read_audiocraft(root, merged)


def base_and_adapters(path: Path) -> tuple[Path, list[Path]]:
    """The checkpoint at ``path``, or the base of the adapter there, and the adapters to merge into it, in order."""
    root, adapters = root_of(path), list[Path]()
    while is_adapter(root):
        if root in adapters:
            raise CheckpointError(f"The adapter in {root.name} names itself as its base (base_model_name_or_path).")
        adapters.insert(0, root)
        root = root_of(_base_path(root))
        _compare_base(adapters[0], root, is_base=True)
    return root, adapters


def _compare_base(folder: Path, base: Path, is_base: bool) -> None:
    trained_on = (read_json(folder / adapter.CONFIG).get("auto_mapping") or {}).get(BASE_HASH)
    if trained_on is not None and hash_of(base, is_base) not in str(trained_on).split():
        _log.warning("The adapter in %s was trained on another base than %s: name its own.", folder.name, base)


def hashes_of_base(name: str) -> str:
    """``hash_of`` of both forms of a base, which the hub may have: an adapter's own, and the one that is played."""
    return " ".join(hash_of(root_of(source.locate(name, is_base)), is_base) for is_base in (True, False))


def hash_of(path: Path, is_base: bool = True) -> str:
    """A SHA-256 of the sizes and samples of the files that are read of a checkpoint: gigabytes in no time."""
    digest = hashlib.sha256()
    if is_huggingface(path, is_base):
        files = huggingface.weight_files(path)
    else:
        files = [file for file in _entries(path) if path.is_file() or file in source.candidates(path)]
    for file in (file for file in files if file.stat().st_size):
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            digest.update(f"{len(data)} ".encode() + data[:: len(data) // 4096 + 1])
    return digest.hexdigest()


def root_of(path: Path) -> Path:
    """``path``, or its folder if it is one of several files of a Hugging Face model or adapter."""
    folder = path.parent
    if path.is_dir() or not (is_adapter(folder) or is_huggingface(folder)):
        return path
    return path if isinstance(recognise(files.load(path)), LanguageModelFile) else folder


def is_adapter(folder: Path) -> bool:
    """Whether a folder contains a PEFT adapter."""
    return (folder / adapter.CONFIG).is_file()


def is_huggingface(folder: Path, is_base: bool = False) -> bool:
    """Whether a folder is read as transformers' MusicGen; ``is_base`` is for an adapter's base."""
    # Meta's own repositories have both forms, and so has a snapshot of one that other programs or adapters use, too.
    has_export = hub.is_snapshot(folder) and (folder / hub.EXPORT).exists()
    return (
        model_type(folder) in huggingface.MODEL_TYPES
        and hub.detect_layout(folder, hub.TRANSFORMERS_LAYOUTS) is not None
        and (is_base or not has_export)
    )


def _entries(path: Path) -> list[Path]:
    """The files and folders of a checkpoint; of a hub's snapshot, those alone that are fetched of it."""
    if not path.is_dir():
        return [path]
    if hub.is_snapshot(path):
        return sorted({path / file.relative_to(path).parts[0] for file in hub.checkpoint_files(path)})
    return sorted(path.iterdir())


def _base_path(folder: Path) -> Path:
    """The base of an adapter: like any model that a checkpoint names, or any weights string."""
    config = read_json(folder / adapter.CONFIG)
    base, revision = str(config.get("base_model_name_or_path") or ""), config.get("revision")
    try:
        if not base:
            raise CheckpointError("It is not named.")
        is_name = pretrained.NAME.fullmatch(base) is not None
        local = pretrained.find_local_model(base, folder) if is_name else None
        is_hubs = is_name and revision and not Path(base).exists()
        return local or source.locate(f"{base}@{revision}" if is_hubs else base, is_base=True)
    except CheckpointError as error:
        hint = f"Set base_model_name_or_path in {adapter.CONFIG}"
        raise CheckpointError(f"The adapter's base model cannot be located. {error} {hint}.") from error


def _read_huggingface(root: Path, adapters: Sequence[AdapterStrength], folder: Path) -> CheckpointFiles:
    """The models in a folder of transformers' MusicGen, with adapters merged into them."""
    model = huggingface.load_musicgen(root, torch.float32 if adapters else "auto")
    for merged, strength in adapters:
        adapter.merge(model, merged, strength)
    codec, text_encoder = (TransformersModel(part, root) for part in (model.audio_encoder, model.text_encoder))
    decoder, state = model.config.decoder, huggingface.take_language_model(model)
    config = infer.infer_config(state, decoder)
    return CheckpointFiles(folder, LanguageModelFile(config, state), codec, text_encoder)


def _read_audiocraft(path: Path, adapters: Sequence[AdapterStrength]) -> CheckpointFiles:
    models: dict[str, LanguageModelFile] = {}
    codecs: dict[str, CodecFile | str] = {}
    others: dict[str, dict[Any, Any]] = {}
    entries = _entries(path)
    for file in filter(Path.is_file, entries):
        payload = files.load(file)
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
    for merged, strength in adapters:
        lm = LanguageModelFile(lm.config, adapter.merge_state(lm.state, merged, strength))
    if codecs:
        return CheckpointFiles(path, lm, next(iter(codecs.values())))
    for folder in entries:
        if model_type(folder) in CODEC_TYPES:
            return CheckpointFiles(path, lm, TransformersModel(huggingface.load_codec(folder), folder))
    return CheckpointFiles(path, lm, _codec_named_in(lm.config))


@config_errors("language model")
def recognise(payload: dict[Any, Any]) -> LanguageModelFile | CodecFile | str | None:
    """The model in a file's payload, or a public codec's name, if there is one."""
    state = find_weights(payload)
    if "pretrained" in payload and LM_KEY not in (state or ()):
        return str(payload["pretrained"])
    if state is None:
        return None
    config = read_config(payload["xp.cfg"]) if "xp.cfg" in payload else None
    if LM_KEY not in state:
        return CodecFile(config, state) if config is not None and "encodec" in config else None
    # MAGNeT and JASCO have MusicGen's names for their weights, but generate tokens in other ways.
    kind = "transformer_lm" if config is None else config.get("lm_model", "transformer_lm")
    if kind != "transformer_lm":
        raise CheckpointError(
            f"The language model is of the kind {kind!r}, not a MusicGen: MAGNeT and JASCO are not supported."
        )
    config, state = variants.normalize(config or infer.infer_config(state), state)
    return LanguageModelFile(config, state, payload.get("is_int8") is True)


@config_errors("language model")
def _codec_named_in(config: DictConfig) -> str:
    """``//pretrained/facebook/encodec_32khz`` in an LM's config is the public codec of that name."""
    name = str(config.get("compression_model_checkpoint", ""))
    if not name.startswith("//pretrained/"):
        raise CheckpointError(
            f"The language model's codec, {name!r}, is not a public one (//pretrained/owner/name): put its "
            "compression_state_dict.bin beside the language model, and name the folder of both."
        )
    return name.removeprefix("//pretrained/")
