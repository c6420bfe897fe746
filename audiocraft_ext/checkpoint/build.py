"""Components, located and read → audiocraft's own modules on a device, ready to generate.

audiocraft's builders do the work, except where they would download: conditioners and public codecs.
"""

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from torch import nn

from audiocraft_ext import memory, upstream
from audiocraft_ext.checkpoint.demucs import load_demucs
from audiocraft_ext.checkpoint.locate.pretrained import DEMUCS
from audiocraft_ext.checkpoint.locate.source import model_type
from audiocraft_ext.checkpoint.read.config import config_errors
from audiocraft_ext.checkpoint.read.diagnosis import first_few
from audiocraft_ext.checkpoint.read.formats import (
    CheckpointFiles,
    CodecFile,
    LanguageModelFile,
    TransformersFile,
    load_pickle,
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


# transformers' classes and audiocraft's wrappers around them, by the model type in config.json.
_CODECS: dict[str, tuple[Any, Callable[[Any], upstream.CompressionModel]]] = {
    "encodec": (upstream.EncodecModel, upstream.HFEncodecCompressionModel),
    "dac": (upstream.DacModel, DacCodec),
}


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
    lm.condition_provider = provider
    lm.cfg = config
    return lm


def build_codec(
    file: CodecFile | TransformersFile | str, pretrained: Mapping[str, Path], device: str
) -> upstream.CompressionModel:
    """The mono codec in eval mode, fp32, from its file or by its public name; raises ``CheckpointError``."""
    match file:
        case str(name):
            folder, what = pretrained[name], f"codec {name}"
            kind = model_type(folder)
            if kind is not None:
                return _wrap_codec(kind, what, folder, device)
            exported = min(folder.glob("*state_dict.bin"))
            export = recognise(load_pickle(exported))
            if not isinstance(export, CodecFile):
                raise CheckpointError(f"The {what} is incomplete: {exported.name} needs 'best_state' and 'xp.cfg'.")
            return build_codec(export, pretrained, device)
        case TransformersFile():
            return _wrap_codec(file.config["model_type"], "codec", file, device)
    with warnings.catch_warnings(), upstream.skip_init(), config_errors("codec"):
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about the weight_norm in SEANet
        codec = upstream.builders.get_compression_model(OmegaConf.merge(file.config, {"device": device}))
    _load_weights(codec, file.state, device, "codec")
    return codec.eval()


def codec_classes(kind: str, what: str = "codec") -> tuple[Any, Callable[[Any], upstream.CompressionModel]]:
    """transformers' class for a model type, and audiocraft's wrapper; ``CheckpointError`` for an unsupported one."""
    if kind not in _CODECS:
        raise CheckpointError(f"The {what} is of the type {kind!r}; {' and '.join(_CODECS)} are supported.")
    return _CODECS[kind]


def _wrap_codec(kind: str, what: str, source: Path | TransformersFile, device: str) -> upstream.CompressionModel:
    model, wrap = codec_classes(kind, what)
    return wrap(_from_pretrained(model, what, source)).to(device).eval()


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
    name = settings.t5.name
    file = files.text_encoder or files.model_folders[name]
    encoder = _from_pretrained(upstream.T5EncoderModel, f"text encoder {name}", file)
    if isinstance(file, TransformersFile):
        tokenizer = _load_tokenizer(upstream.AutoTokenizer, file.folder)
    else:
        tokenizer = _load_tokenizer(upstream.T5Tokenizer, file)
    return TextConditioner(tokenizer, encoder, dim, device, finetune=settings.t5.get("finetune", False))


def _load_tokenizer(kind: Any, folder: Path) -> upstream.PreTrainedTokenizerBase:
    try:
        return kind.from_pretrained(folder, trust_remote_code=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the tokenizers library, which is in Rust, is not an Exception
        raise CheckpointError(f"The tokenizer in {folder.name} cannot be loaded: {error!s:.300}") from error


def _from_pretrained(kind: Any, what: str, source: Path | TransformersFile) -> Any:
    """A transformers model in fp32, from a folder or a file already read; it must have all weights."""
    upstream.transformers_logging.disable_progress_bar()
    try:
        options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
        if isinstance(source, TransformersFile):
            options |= {"config": kind.config_class(**source.config), "state_dict": source.state}
        with upstream.skip_init():
            model, report = kind.from_pretrained(source if isinstance(source, Path) else None, **options)
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise CheckpointError(f"The {what} cannot be loaded: {error!s:.300}") from error
    if missing := report["missing_keys"]:
        raise CheckpointError(f"The {what} lacks weights: {first_few(sorted(missing))}. Download or copy it again.")
    return model


def _load_weights(
    module: nn.Module, state: State, device: str, what: str, transformer_dtype: torch.dtype = torch.float32
) -> None:
    """Replace all of the module's weights by ``state``, with neither missing nor extra ones: floats become fp32, the
    transformer's ``transformer_dtype``. Empties ``state`` on the way: of both, only one weight takes memory twice.
    """
    converted, mappings = {}, memory.clean_mappings()
    for key in list(state):
        value = state.pop(key)
        dtype = transformer_dtype if key.startswith("transformer.") else torch.float32
        converted[key] = value.to(device, dtype if value.is_floating_point() else value.dtype)
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
