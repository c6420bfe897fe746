"""A checkpoint in any form that is read → one folder with all that it needs, in the form that loads fastest, offline.

The language model and a codec of its own become safetensors in our form (``tensors.py``); what is Hugging Face's, a T5
or an EnCodec, stays in its own, without what is not needed of it.
"""

import re
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from torch import Tensor

from audiocraft_ext.checkpoint import formats, parts, source, tensors
from audiocraft_ext.checkpoint.build import codec_kind
from audiocraft_ext.checkpoint.formats import CodecFile, Contents, TransformersFile
from audiocraft_ext.checkpoint.tensors import State
from audiocraft_ext.engine.quantize import is_int8_exact
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import T5Config, T5EncoderModel, transformers_logging

Dtype = Literal["float32", "float16", "bfloat16", "int8"]

LM_FILE = "language_model.safetensors"
CODEC_FILE = "codec.safetensors"
CODEC_FOLDER = "codec"
# What the engine multiplies by in int8. All else, a fiftieth of MusicGen small, keeps its type, as in the engine.
_MATRIX = re.compile(r"(transformer\.layers|linears)\..*weight")
_TOKENIZER_FILES = ("tokenizer*", "spiece.model", "special_tokens_map.json", "added_tokens.json")


def convert(weights: str, out: Path, dtype: Dtype | None = None) -> None:
    """Writes the checkpoint that ``weights`` names (path, https URL or hub id) to the new folder ``out``.

    ``dtype`` is that of the language model, None the one that it has; codec and text encoder keep theirs. In int8 are
    the matrices that the engine multiplies by, as it makes them for ``MUSICGEN_QUANTIZE=int8``: it gives the tokens
    that it gives with the original.

    The folder appears whole or not at all. Raises ``CheckpointError`` in a sentence, also for a full disk.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"{out} exists and is no empty folder: name a new one, or delete it.")
    path = source.fetch(weights)
    contents = formats.read(path)
    out = out.absolute()
    scratch = out.with_name(f"{out.name}.part")
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # a killed process left it
        scratch.mkdir(parents=True)
        _write(contents, path if path.is_dir() else path.parent, scratch, dtype)
        scratch.rename(out)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{out} cannot be written: {error}. Free some room, or name another place.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(contents: Contents, folder: Path, out: Path, dtype: Dtype | None) -> None:
    """Everything in ``contents``, and what its config names, found from its ``folder`` on."""
    transformers_logging.disable_progress_bar()
    config = deepcopy(contents.lm.config)
    OmegaConf.set_struct(config, False)
    _write_codec(contents.codec, config, folder, out)
    for conditioner in config.conditioners.values():
        if conditioner.get("model") == "t5":
            _write_text_encoder(contents.text_encoder, conditioner.t5.name, folder, out)
        elif conditioner.get("model") == "chroma_stem":
            _copy(parts.folder_of(parts.DEMUCS, folder), out / parts.DEMUCS)
    if diffusion := parts.local_diffusion(folder):
        shutil.copy(diffusion, out / parts.DIFFUSION_FILE)
    state = contents.lm.state
    if dtype is None and _was_int8(state):
        dtype = "int8"
    if dtype not in (None, "int8"):
        state = _cast(state, getattr(torch, str(dtype)))
    tensors.write(out / LM_FILE, state, OmegaConf.to_yaml(config), is_matrix if dtype == "int8" else None)
    for file in filter(Path.is_file, out.rglob("*")):
        file.chmod(0o644)  # safetensors makes files that their owner alone can read


def _cast(state: State, dtype: torch.dtype) -> State:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}


def _was_int8(state: State) -> bool:
    """Whether no matrix loses anything in int8: it has been there before."""
    matrices = (value for name, value in state.items() if is_matrix(name, value))
    return all(is_int8_exact(matrix.float()) for matrix in matrices)


def is_matrix(name: str, value: Tensor) -> bool:
    """Whether a language model's weight is one that is stored in int8."""
    return _MATRIX.fullmatch(name) is not None and value.dim() == 2


def _write_codec(codec: CodecFile | TransformersFile, config: DictConfig, folder: Path, out: Path) -> None:
    """The codec, and its name in the language model's ``config`` if it is a public one."""
    if isinstance(codec, TransformersFile):
        kind = codec_kind(codec.config.get("model_type", "encodec"))
        _in_own_type(kind.model, kind.config, codec).save_pretrained(out / CODEC_FOLDER)
    elif codec.pretrained is None:
        assert codec.state is not None
        tensors.write(out / CODEC_FILE, codec.state, OmegaConf.to_yaml(codec.config))
    else:
        place = parts.folder_of(codec.pretrained, folder)
        if model_type := formats.model_type_of(place):
            kind = codec_kind(model_type, f"codec {codec.pretrained}")
            kind.model.from_pretrained(place, dtype="auto").save_pretrained(out / codec.pretrained)
        else:  # an audiocraft export
            _copy(place, out / codec.pretrained)
        config.compression_model_checkpoint = f"//pretrained/{codec.pretrained}"


def _write_text_encoder(file: TransformersFile | None, name: str, folder: Path, out: Path) -> None:
    """The T5 under its name, without the decoder that public ones have."""
    place = parts.folder_of(name, folder) if file is None else file.folder
    if file is None:
        encoder = T5EncoderModel.from_pretrained(place, dtype="auto")
    else:
        encoder = _in_own_type(T5EncoderModel, T5Config, file)
    encoder.save_pretrained(out / name)
    for pattern in _TOKENIZER_FILES:
        for tokenizer in place.glob(pattern):
            shutil.copy(tokenizer, out / name)


def _in_own_type(model: Any, config: Any, file: TransformersFile) -> Any:
    dtype = next(value.dtype for value in file.state.values() if value.is_floating_point())
    return model.from_pretrained(None, config=config(**file.config), state_dict=file.state, dtype=dtype)


def _copy(part: Path, out: Path) -> None:
    out.mkdir(parents=True)
    for file in parts.files_in(part):
        shutil.copy(file, out)
