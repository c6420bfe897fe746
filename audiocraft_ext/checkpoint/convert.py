"""A checkpoint in any supported format → one folder with everything it needs, in the format that loads fastest.

audiocraft's LM and codec become safetensors in our own form (``read/tensors.py``); transformers' T5, EnCodec and DAC
keep theirs, reduced to the weights in use.
"""

import re
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Literal

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from torch import Tensor

from audiocraft_ext.checkpoint.locate.pretrained import DIFFUSION_FILE, find_diffusion, model_files
from audiocraft_ext.checkpoint.locate.source import locate, model_type
from audiocraft_ext.checkpoint.read import formats, huggingface, tensors
from audiocraft_ext.checkpoint.read.formats import CheckpointFiles, CodecFile, TransformersModel
from audiocraft_ext.checkpoint.read.tensors import State
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import transformers_logging

Dtype = Literal["float32", "float16", "bfloat16", "int8"]

LM_FILE = "language_model.safetensors"
CODEC_FILE = "codec.safetensors"
CODEC_FOLDER = "codec"
# The matrices that the engine multiplies in int8. All else, a fiftieth of MusicGen small, keeps its dtype.
_MATRIX = re.compile(r"(transformer\.layers|linears)\..*weight")
# Computed, not trained; an error of a frequency grows with the position that it is multiplied by.
_TABLE = re.compile(r".*\.(rope\.frequencies|spec\.window)")
_TOKENIZER_FILES = ("tokenizer*", "spiece.model", "special_tokens_map.json", "added_tokens.json")


def convert(weights: str, out: Path, dtype: Dtype | None = None) -> None:
    """Write the checkpoint that ``weights`` names (path, https URL or hub id) to the new folder ``out``.

    ``dtype`` is the language model's, by default unchanged; codec and text encoder keep theirs. int8 quantises the
    matrices as the engine does for ``MUSICGEN_QUANTIZE=int8``, and gives the tokens that it gives with the original.

    The folder appears whole or not at all. Raises ``CheckpointError``, also for a full disk.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"{out} exists and is not an empty folder: name a new one, or delete it.")
    files = formats.read(locate(weights))
    out = out.absolute()
    scratch = out.with_name(f"{out.name}.part")
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
        scratch.mkdir(parents=True)
        write(files, scratch, dtype)
        scratch.rename(out)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{out} cannot be written: {error}. Free some space, or choose another place.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write(files: CheckpointFiles, out: Path, dtype: Dtype | None) -> None:
    """Write a checkpoint's files to the empty folder ``out``, as ``convert`` does."""
    transformers_logging.disable_progress_bar()
    config = deepcopy(files.lm.config)
    OmegaConf.set_struct(config, False)
    if isinstance(files.codec, CodecFile):
        tensors.write(out / CODEC_FILE, files.codec.state, OmegaConf.to_yaml(files.codec.config))
    elif isinstance(files.codec, TransformersModel):
        _write_transformers(files.codec, out / CODEC_FOLDER)
    else:
        config.compression_model_checkpoint = f"//pretrained/{files.codec}"
    for name, folder in files.model_folders.items():
        _write_pretrained(name, folder, name == files.codec_name, out / name)
    if files.text_encoder is not None:
        _write_transformers(files.text_encoder, out / config.conditioners.description.t5.name)
    if diffusion := find_diffusion(files.folder):
        shutil.copy(diffusion, out / DIFFUSION_FILE)
    state, in_int8 = files.lm.state, dtype == "int8" or (dtype is None and files.lm.is_int8)
    if dtype is not None and not in_int8:
        state = to_dtype(state, getattr(torch, dtype))
    tensors.write(out / LM_FILE, state, OmegaConf.to_yaml(config), is_matrix if in_int8 else None)
    for file in filter(Path.is_file, out.rglob("*")):
        file.chmod(0o644)  # safetensors makes files readable by their owner alone


def to_dtype(state: State, dtype: torch.dtype) -> State:
    """A language model's weights in `dtype`, its tables and integers as they are."""
    return {
        name: value.to(dtype) if value.is_floating_point() and not _TABLE.fullmatch(name) else value
        for name, value in state.items()
    }


def is_matrix(name: str, value: Tensor) -> bool:
    """Whether a language model's weight is quantised in int8."""
    return _MATRIX.fullmatch(name) is not None and value.dim() == 2


def _write_transformers(file: TransformersModel, out: Path) -> None:
    file.model.save_pretrained(out)
    _copy_tokenizer(file.folder, out)


def _write_pretrained(name: str, folder: Path, is_codec: bool, out: Path) -> None:
    """A model that the config names, under its name: transformers' without unused weights, others as they are."""
    if model_type(folder) is None:
        out.mkdir(parents=True)
        for file in model_files(folder):
            shutil.copy(file, out)
        return
    load, what = (huggingface.load_codec, "codec") if is_codec else (huggingface.load_text_encoder, "text encoder")
    _write_transformers(TransformersModel(load(folder, f"{what} {name}", "auto"), folder), out)


def _copy_tokenizer(folder: Path, out: Path) -> None:
    for file in (file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern)):
        shutil.copy(file, out)
