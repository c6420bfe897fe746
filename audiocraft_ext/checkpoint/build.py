"""Components, located and read → audiocraft's own modules on a device, ready to generate.

audiocraft's builders do the work, except where they would download: conditioners and public codecs.
"""

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from audiocraft_ext import memory, upstream
from audiocraft_ext.checkpoint.demucs import load_demucs
from audiocraft_ext.checkpoint.locate.pretrained import DEMUCS
from audiocraft_ext.checkpoint.locate.source import model_type
from audiocraft_ext.checkpoint.read import huggingface
from audiocraft_ext.checkpoint.read.config import config_errors
from audiocraft_ext.checkpoint.read.diagnosis import first_few
from audiocraft_ext.checkpoint.read.files import load_pickle
from audiocraft_ext.checkpoint.read.formats import (
    CheckpointFiles,
    CodecFile,
    LanguageModelFile,
    TransformersModel,
    recognise,
)
from audiocraft_ext.checkpoint.read.tensors import State
from audiocraft_ext.codec.dac import DacCodec
from audiocraft_ext.conditioning import ChromaConditioner, StemConditioner, TextConditioner
from audiocraft_ext.errors import CheckpointError

# Training keys: with them the builders would use a cache path of the training machine, follow its evaluation clips
# instead of the caller's, or fail.
_CHROMA_TRAINING_KEYS = ("cache_path", "eval_wavs", "n_eval_wavs")
_ARGS_TRAINING_KEYS = ("merge_text_conditions_p", "drop_desc_p")
_OURS = ("t5", "chroma", "chroma_stem")


def candidate_dtypes(device: str) -> list[torch.dtype]:
    """The transformer's dtype on a device, as in audiocraft; then the fallback if that overflows."""
    return [torch.float32] if device == "cpu" else [torch.float16, torch.bfloat16]


def build_lm(files: CheckpointFiles, device: str, dtype: torch.dtype | None = None) -> upstream.LMModel:
    """The LM in eval mode, its transformer in ``dtype``, by default the first of ``candidate_dtypes``.

    ``lm.cfg`` is the config, as audiocraft's loader sets it. Takes the weights out of ``files``. Raises
    ``CheckpointError``.
    """
    dtype = dtype or candidate_dtypes(device)[0]
    with upstream.skip_init(), config_errors("language model"):
        lm = _assemble(files, device, dtype, on_meta=True)
    for key, value in lm.state_dict().items():
        if key.endswith(".chroma.spec.window"):  # computed; only some formats store them
            files.lm.state.setdefault(key, value)
    _load_weights(lm, files.lm.state, device, "language model", dtype)
    return lm.eval()


def untrained_lm(config: DictConfig, folder: Path, device: str) -> upstream.LMModel:
    """The LM that a solver config describes, initialised by audiocraft; ``folder`` has its pretrained models."""
    no_codec = CodecFile(config, state={})
    files = CheckpointFiles(folder, LanguageModelFile(config, {}), no_codec)
    return _assemble(files, device, torch.float32, on_meta=False).to(device)


def _assemble(files: CheckpointFiles, device: str, dtype: torch.dtype, on_meta: bool) -> upstream.LMModel:
    """The LM in fp32, its transformer without weights or initialised on the CPU, its conditioners on ``device``."""
    config = deepcopy(files.lm.config)
    OmegaConf.set_struct(config, False)
    config.device, config.dtype = device, str(dtype).removeprefix("torch.")
    OmegaConf.resolve(config.conditioners)  # before its references to the rest of the config are cut off
    dim, settings = config.transformer_lm.dim, config.conditioners
    args = settings.pop("args", {})
    config.conditioners = {"args": {key: args[key] for key in args if key not in _ARGS_TRAINING_KEYS}}
    ours = {name: settings.pop(name) for name in list(settings) if settings[name].model in _OURS}
    for name, other in settings.items():
        if other.model != "lut" or other.lut.tokenizer != "noop":
            raise CheckpointError(
                f"The conditioner {name!r} is of the kind {other.model!r}, which is not supported: text (t5) and "
                "melody (chroma_stem) are, MusicGen-Style is not."
            )
    provider = upstream.builders.get_conditioner_provider(dim, OmegaConf.merge(config, {"conditioners": settings}))
    for name, own in ours.items():
        provider.conditioners[name] = _build_conditioner(own, config, files, device).to(device)
    if "self_wav" in provider.conditioners:
        # As MusicGen.get_pretrained does: without it the melody's prefix is another one.
        provider.conditioners["self_wav"].match_len_on_eval = True
        provider.conditioners["self_wav"]._use_masking = False
    with upstream.skip_init(on_meta=True) if on_meta else nullcontext():
        lm = upstream.builders.get_lm_model(OmegaConf.merge(config, {"device": "cpu", "dtype": "float32"}))
    if lm.fuser.cond2fuse.keys() != provider.conditioners.keys():
        raise ValueError(
            f"its fuser has {list(lm.fuser.cond2fuse)}; its conditioners are {list(provider.conditioners)}"
        )
    if not config.dataset.segment_duration > 0:
        raise ValueError("dataset.segment_duration is not positive")
    lm.condition_provider = provider
    lm.cfg = config
    return lm


def build_codec(
    file: CodecFile | TransformersModel | str, pretrained: Mapping[str, Path], device: str
) -> upstream.CompressionModel:
    """The mono codec in eval mode, fp32, from its file or by its public name; raises ``CheckpointError``."""
    match file:
        case str(name):
            folder, what = pretrained[name], f"codec {name}"
            if model_type(folder) is not None:
                return _wrap_codec(huggingface.load_codec(folder, what), device)
            exported = min(folder.glob("*state_dict.bin"))
            export = recognise(load_pickle(exported))
            if not isinstance(export, CodecFile):
                raise CheckpointError(f"The {what} is incomplete: {exported.name} needs 'best_state' and 'xp.cfg'.")
            return build_codec(export, pretrained, device)
        case TransformersModel(model):
            return _wrap_codec(model, device)
    with warnings.catch_warnings(), upstream.skip_init(), config_errors("codec"):
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about the weight_norm in SEANet
        codec = upstream.builders.get_compression_model(OmegaConf.merge(file.config, {"device": device}))
    _load_weights(codec, file.state, device, "codec")
    return codec.eval()


def _wrap_codec(model: upstream.PreTrainedModel, device: str) -> upstream.CompressionModel:
    wrap = DacCodec if isinstance(model, upstream.DacModel) else upstream.HFEncodecCompressionModel
    codec: upstream.CompressionModel = wrap(model.float()).to(device).eval()
    return codec


def _build_conditioner(
    settings: DictConfig, config: DictConfig, files: CheckpointFiles, device: str
) -> upstream.BaseConditioner:
    dim, duration = config.transformer_lm.dim, config.dataset.segment_duration
    match settings.model:
        case "chroma":
            return ChromaConditioner(output_dim=dim, duration=duration, device=device, **settings.chroma)
        case "chroma_stem":
            demucs, stem = load_demucs(files.model_folders[DEMUCS]), settings.chroma_stem
            stem = {key: stem[key] for key in stem if key not in _CHROMA_TRAINING_KEYS}
            return StemConditioner(demucs, output_dim=dim, duration=duration, device=device, **stem)
    if files.text_encoder is not None:
        encoder = files.text_encoder.model.float()
        tokenizer = _load_tokenizer(upstream.AutoTokenizer, files.text_encoder.folder)
    else:
        folder = files.model_folders[settings.t5.name]
        encoder = huggingface.load_text_encoder(folder, f"text encoder {settings.t5.name}")
        tokenizer = _load_tokenizer(upstream.T5Tokenizer, folder)
    return TextConditioner(tokenizer, encoder, dim, device, settings.t5)


def _load_tokenizer(kind: Any, folder: Path) -> upstream.PreTrainedTokenizerBase:
    try:
        if not any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model")):
            raise OSError("it has no vocabulary.")  # transformers would take every word for an unknown one
        return kind.from_pretrained(folder, trust_remote_code=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the tokenizers library, which is in Rust, is not an Exception
        problem = f"The tokenizer in {folder.name} cannot be loaded: {' '.join(str(error).split()):.200}"
        raise CheckpointError(f"{problem} Copy its base's tokenizer.json and tokenizer_config.json there.") from error


def _load_weights(
    module: nn.Module, state: State, device: str, what: str, transformer_dtype: torch.dtype = torch.float32
) -> None:
    """Replace all of the module's weights by ``state``, with neither missing nor extra ones: floats become fp32, the
    transformer's parameters ``transformer_dtype``. Empties ``state`` on the way: of both, only one weight takes memory
    twice.
    """
    converted, mappings = {}, memory.clean_mappings()
    tables = {name for name, _ in module.named_buffers(remove_duplicate=False)}  # in fp32 in audiocraft, too
    for key in list(state):
        value = state.pop(key)
        dtype = transformer_dtype if key.startswith("transformer.") and key not in tables else torch.float32
        converted[key] = value.to(device, dtype if value.is_floating_point() else value.dtype).contiguous()
        if converted[key] is not value:
            memory.drop_pages(value, mappings)
    try:
        missing, extra = module.load_state_dict(converted, strict=False, assign=True)
        problems = [
            f"{first_few(names)} {is_}" for names, is_ in ((missing, "missing"), (extra, "unexpected")) if names
        ]
    except RuntimeError as error:  # wrong shapes: its first line is a heading
        problems = [first_few(line.strip().rstrip(".") for line in str(error).splitlines()[1:])]
    if problems:
        raise CheckpointError(f"The {what}'s weights do not fit its config: {'; '.join(problems)}.")
    module.to(device)  # buffers that are not in the checkpoint
