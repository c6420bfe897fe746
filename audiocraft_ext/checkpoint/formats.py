"""What a checkpoint's files are, by their content, never by their name → (config, state dict) of LM and codec.

| format | recognised by |
| --- | --- |
| audiocraft's export | ``best_state`` and ``xp.cfg``; a codec's may be ``pretrained`` alone |
| the fine-tuner's ``trained_model.tar`` (a torch file, in spite of its name) | ``xp.cfg`` and ``model`` |
| dora's ``checkpoint.th`` | ``fsdp_best_state``, ``best_state``, ``model``, in this order |
| continue-from, Lightning, a bare state dict | an ``emb.0.weight`` somewhere; the config is inferred from shapes |
| our own, what ``convert.py`` writes | safetensors whose header holds ``xp.cfg``; transformers' codec in a folder |
| Hugging Face | ``config.json`` with the model type ``musicgen`` or ``musicgen_melody`` |
| PEFT LoRA | ``adapter_config.json``; its base is loaded, and it is merged |

Nothing in a file can run code: safetensors hold none, and pickles are loaded ``weights_only``, with the classes of an
OmegaConf config let through one by one.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

from audiocraft_ext.checkpoint import diagnosis, huggingface, infer, parts, solver_config, source, tensors
from audiocraft_ext.checkpoint.tensors import State
from audiocraft_ext.errors import CheckpointError

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
# The model types of Hugging Face's codecs.
CODEC_TYPES = ("encodec", "dac")
_LM_KEY = "emb.0.weight"
_ADAPTER = "adapter_config.json"
_READABLE = (
    "Readable are audiocraft's export (state_dict.bin), the fine-tuner's trained_model.tar, dora's checkpoint.th, a "
    "bare or Lightning state dict, a Hugging Face MusicGen, a LoRA adapter of one, and what script/convert-weights "
    "writes."
)


@dataclass(frozen=True)
class LanguageModelFile:
    """A MusicGen LM: its solver config and its state dict, under audiocraft's names."""

    config: DictConfig
    state: State


@dataclass(frozen=True)
class CodecFile:
    """A codec: its own config and state dict, or the name of a public one."""

    pretrained: str | None
    config: DictConfig | None
    state: State | None


@dataclass(frozen=True)
class TransformersFile:
    """A model in transformers' own form: its config, its state dict, and the folder where a tokenizer is."""

    config: dict[str, Any]
    state: State
    folder: Path
    pretrained: ClassVar[None] = None  # it brings its weights, and names no public codec


@dataclass(frozen=True)
class Contents:
    """All that one checkpoint holds; ``text_encoder`` None is one that the LM's config names."""

    lm: LanguageModelFile
    codec: CodecFile | TransformersFile
    text_encoder: TransformersFile | None


def read(path: Path) -> Contents:
    """The models in a file or folder; an LM alone names its codec and its text encoder in its config.

    Raises ``CheckpointError`` where no LM is found, or what is found cannot be read.
    """
    root = root_of(path)
    if is_adapter(root):
        base = _json(root / _ADAPTER).get("base_model_name_or_path")
        return _read_huggingface(_base_folder(str(base), root), adapter=root)
    return _read_huggingface(root) if _is_huggingface(root) else _read_audiocraft(root)


def root_of(path: Path) -> Path:
    """``path``, or the folder of the Hugging Face model or adapter of which it is a file, and not a model by itself."""
    folder = path.parent
    if path.is_dir() or not (is_adapter(folder) or _is_huggingface(folder)):
        return path
    return path if isinstance(_recognise(_load(path)), LanguageModelFile) else folder


def is_adapter(folder: Path) -> bool:
    """Whether a PEFT adapter lies in a folder."""
    return (folder / _ADAPTER).is_file()


# --------------------------------------------------------------------------------------------------- Hugging Face


def _is_huggingface(folder: Path) -> bool:
    # Meta's own repositories hold an export and Hugging Face's form, of which the export alone is fetched.
    return model_type_of(folder) in huggingface.MODEL_TYPES and any(folder.glob("*.safetensors"))


def model_type_of(folder: Path) -> str | None:
    """What Hugging Face's ``config.json`` in a folder says that the model is, if there is one."""
    config = folder / "config.json"
    return _json(config).get("model_type") if config.is_file() else None


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"{file.name} is damaged: {error}. Fetch or copy it anew.") from error
    return content if isinstance(content, dict) else {}


def _base_folder(base: str, beside: Path) -> Path:
    """An adapter's base: as any model that a checkpoint names, in its folder, in ``weights/``, or where it says."""
    try:
        is_name = parts.NAME.fullmatch(base) is not None
        folder = (parts.local_folder_of(base, beside) if is_name else None) or source.fetch(base)
    except CheckpointError as error:
        raise CheckpointError(f"The adapter's base model cannot be had. {error}") from error
    if not _is_huggingface(folder):
        raise CheckpointError(f"The adapter's base, {base}, is no Hugging Face MusicGen.")
    return folder


def _adapter_weights(folder: Path) -> State:
    if any(folder.glob("*.safetensors")):
        return huggingface.read_weights(folder)
    if not (pickled := folder / "adapter_model.bin").is_file():
        raise CheckpointError(f"An {_ADAPTER} without adapter_model.safetensors or adapter_model.bin.")
    return load_pickle(pickled)


def _read_huggingface(folder: Path, adapter: Path | None = None) -> Contents:
    config = _json(folder / "config.json")
    state = huggingface.read_weights(folder)
    if adapter is not None:
        state = huggingface.merge_adapter(state, _adapter_weights(adapter), _json(adapter / _ADAPTER))
    lm_state = huggingface.to_audiocraft(state)
    if _LM_KEY not in lm_state:
        raise CheckpointError(f"{folder} has the config of a Hugging Face MusicGen, and safetensors of something else.")
    return Contents(
        LanguageModelFile(infer.config_of(lm_state, config["decoder"]["num_attention_heads"]), lm_state),
        TransformersFile(config["audio_encoder"], huggingface.part(state, "audio_encoder."), folder),
        TransformersFile(config["text_encoder"], huggingface.part(state, "text_encoder."), folder),
    )


# ------------------------------------------------------------------------------------------------------ audiocraft


def _read_audiocraft(path: Path) -> Contents:
    models: dict[str, LanguageModelFile] = {}
    codecs: dict[str, CodecFile] = {}
    others: dict[str, dict[Any, Any]] = {}
    entries = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in filter(Path.is_file, entries):
        payload = _load(file)
        match _recognise(payload):
            case LanguageModelFile() as model:
                models[file.name] = model
            case CodecFile() as codec:
                codecs[file.name] = codec
            case None:
                others[file.name] = payload
    if not models:
        raise CheckpointError(f"{path} holds no MusicGen language model: {diagnosis.of(codecs, others)}. {_READABLE}")
    for found, what in ((models, "language models"), (codecs, "codecs")):
        if len(found) > 1:
            raise CheckpointError(
                f"{path} holds {len(found)} {what}, {', '.join(found)}: leave one in it, or name one."
            )
    lm = next(iter(models.values()))
    own_codec = next(iter(codecs.values()), None) or _transformers_codec_in(entries)
    return Contents(lm, own_codec or _codec_named_in(lm.config), None)


def _transformers_codec_in(folders: list[Path]) -> TransformersFile | None:
    """The first that is a folder with Hugging Face's EnCodec or DAC."""
    for folder in folders:
        if model_type_of(folder) in CODEC_TYPES:
            return TransformersFile(_json(folder / "config.json"), huggingface.read_weights(folder), folder)
    return None


def _recognise(payload: dict[Any, Any]) -> LanguageModelFile | CodecFile | None:
    """The model in a file's payload, if there is one."""
    if "pretrained" in payload:
        return CodecFile(payload["pretrained"], None, None)
    state = weights_in(payload)
    if state is None:
        return None
    config = solver_config.read(payload["xp.cfg"]) if "xp.cfg" in payload else None
    if _LM_KEY in state:
        _refuse_other_models(config)
        return LanguageModelFile(config or infer.config_of(state), state)
    return CodecFile(None, config, state) if config is not None and "encodec" in config else None


def _refuse_other_models(config: DictConfig | None) -> None:
    """MAGNeT and JASCO have MusicGen's names for their weights, and make tokens in other ways."""
    kind = "transformer_lm" if config is None else config.get("lm_model", "transformer_lm")
    if kind != "transformer_lm":
        raise CheckpointError(
            f"The language model is of the kind {kind!r}, and no MusicGen: MAGNeT and JASCO are not served."
        )


def _load(file: Path) -> dict[Any, Any]:
    """A torch or safetensors file as a dict, our own form as audiocraft's export; empty for any other file."""
    if tensors.is_safetensors(file):
        state, config = tensors.read(file)
        return {"best_state": state, "xp.cfg": config} if config is not None else dict(state)
    with file.open("rb") as opened:
        return load_pickle(file) if opened.read(4) == b"PK\x03\x04" else {}  # torch.save writes a zip


def load_pickle(file: Path) -> dict[Any, Any]:
    """The dict in a torch file, memory-mapped, nothing in it run; raises ``CheckpointError``."""
    try:
        with torch.serialization.safe_globals(_CONFIG_CLASSES):
            payload = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        wanted = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(file)) or "more than data"
        raise CheckpointError(f"{file.name} is refused: its pickle asks for {wanted:.200}.") from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        why = str(error).splitlines()[0]
        raise CheckpointError(f"{file.name} is damaged or no torch file: {why}. Fetch or copy it anew.") from error
    return payload if isinstance(payload, dict) else {}


def weights_in(payload: dict[Any, Any]) -> State | None:
    """The best weights in a checkpoint, without the prefix of whatever module held the model at training."""
    for name in ("fsdp_best_state", "best_state", "model", "state_dict", None):
        found = payload if name is None else payload.get(name)
        if isinstance(found, dict) and isinstance(found.get("model"), dict):
            found = found["model"]
        if isinstance(found, dict) and any(isinstance(value, torch.Tensor) for value in found.values()):
            return _without_prefix(found)
    return None


def _without_prefix(state: State) -> State:
    """Lightning and wrappers like DDP put ``model.`` or the like before an LM's names."""
    prefix = next((key.removesuffix(_LM_KEY) for key in state if key.endswith(_LM_KEY)), "")
    return huggingface.part(state, prefix) if prefix else state


def _codec_named_in(config: DictConfig) -> CodecFile:
    """``//pretrained/facebook/encodec_32khz`` in an LM's config is the public codec of that name."""
    name = str(config.get("compression_model_checkpoint", ""))
    if not name.startswith("//pretrained/"):
        raise CheckpointError(
            f"The language model's codec is {name or 'not named'!r}, which is no public one. "
            "Put its compression_state_dict.bin beside it, and name the folder of both."
        )
    return CodecFile(name.removeprefix("//pretrained/"), None, None)
