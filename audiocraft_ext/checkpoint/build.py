"""(config, state dict) → audiocraft's own modules, on a device, ready to generate.

Everything is built by audiocraft's builders, except what they would download: conditioners and public codecs.
"""

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from torch import nn

from audiocraft_ext.checkpoint import parts, solver_config
from audiocraft_ext.checkpoint.formats import (
    CodecFile,
    Contents,
    LanguageModelFile,
    TransformersFile,
    load_pickle,
    model_type_of,
)
from audiocraft_ext.checkpoint.separator import load_separator
from audiocraft_ext.checkpoint.tensors import State
from audiocraft_ext.codec.dac import DacCodec
from audiocraft_ext.conditioning import ChromaConditioner, StemConditioner, TextConditioner
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.memory import FilePages
from audiocraft_ext.upstream import (
    AutoTokenizer,
    BaseConditioner,
    CompressionModel,
    DacConfig,
    DacModel,
    EncodecConfig,
    EncodecModel,
    HFEncodecCompressionModel,
    LMModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    builders,
    skip_init,
    transformers_logging,
)

# Training-time keys, most of which audiocraft's own loader drops too: builders would act on a cache path of the
# trainer's machine, follow the clips of its evaluation instead of the caller's, or refuse the others.
_TRAINING_KEYS = (
    "conditioners.self_wav.chroma_stem.cache_path",
    "conditioners.self_wav.chroma_stem.eval_wavs",
    "conditioners.self_wav.chroma_stem.n_eval_wavs",
    "conditioners.args.merge_text_conditions_p",
    "conditioners.args.drop_desc_p",
)
_N_SHOWN = 5


class CodecKind(NamedTuple):
    """A codec of transformers', and how audiocraft is told of it."""

    model: Any
    config: Any
    codec: Callable[[Any], CompressionModel]


# By the model type in their config.json.
_TRANSFORMERS_CODECS = {
    "encodec": CodecKind(EncodecModel, EncodecConfig, HFEncodecCompressionModel),
    "dac": CodecKind(DacModel, DacConfig, DacCodec),
}
_OURS = ("t5", "chroma", "chroma_stem")


def dtypes_on(device: str) -> list[torch.dtype]:
    """What a transformer is in on a device, as audiocraft has it; then what to fall back on where that overflows."""
    return [torch.float32] if device == "cpu" else [torch.float16, torch.bfloat16]


def build_lm(
    file: LanguageModelFile,
    folder: Path,
    device: str,
    text_encoder: TransformersFile | None = None,
    dtype: torch.dtype | None = None,
) -> LMModel:
    """The file's LM in eval mode, its transformer in ``dtype``: where none is given, the first of ``dtypes_on``.

    The text encoder is the one given, else the one that the config names, found from the checkpoint's ``folder`` on as
    ``parts`` does. ``lm.cfg`` is the config, as audiocraft's loader leaves it.
    """
    dtype = dtype or dtypes_on(device)[0]
    with skip_init(), solver_config.built("language model"):
        lm = _assemble(file.config, folder, device, dtype, text_encoder)
    # The window of a melody's spectrum is computed, and kept by some formats only.
    windows = {key: value for key, value in lm.state_dict().items() if key.endswith(".chroma.spec.window")}
    _give(lm, windows | file.state, device, "language model", dtype)
    return lm.eval()


@solver_config.built("language model")
def named_parts(contents: Contents) -> list[str]:
    """The models beside its own that building ``contents`` asks ``parts`` for."""
    names = [contents.codec.pretrained] if isinstance(contents.codec, CodecFile) else []
    conditioners = [settings for name, settings in contents.lm.config.conditioners.items() if name != "args"]
    if contents.text_encoder is None:
        names += [settings.t5.name for settings in conditioners if settings.model == "t5"]
    names += [parts.DEMUCS for settings in conditioners if settings.model == "chroma_stem"]
    return [name for name in names if name is not None]


def untrained_lm(config: DictConfig, folder: Path, device: str) -> LMModel:
    """The LM that a solver config describes, with weights drawn as audiocraft draws them."""
    return _assemble(config, folder, device, torch.float32, None).to(device)


def _assemble(
    config: DictConfig, folder: Path, device: str, dtype: torch.dtype, text_encoder: TransformersFile | None
) -> LMModel:
    """The LM with its transformer on the CPU, in fp32, and its conditioners on ``device``."""
    config = deepcopy(config)
    OmegaConf.set_struct(config, False)
    config.device, config.dtype = device, str(dtype).removeprefix("torch.")
    for key in _TRAINING_KEYS:
        _drop(config, key)
    OmegaConf.resolve(config.conditioners)  # while its references to the rest of the config still reach it
    dim, settings = config.transformer_lm.dim, config.conditioners
    config.conditioners = {"args": settings.pop("args", {})}
    ours = {name: settings.pop(name) for name in list(settings) if settings[name].model in _OURS}
    _refuse_what_audiocraft_cannot_build(settings)
    provider = builders.get_conditioner_provider(dim, OmegaConf.merge(config, {"conditioners": settings}))
    for name, own in ours.items():
        provider.conditioners[name] = _conditioner(own, config, folder, device, text_encoder).to(device)
    if "self_wav" in provider.conditioners:
        # MusicGen.get_pretrained does this; building without it silently changes the melody's prefix.
        provider.conditioners["self_wav"].match_len_on_eval = True
        provider.conditioners["self_wav"]._use_masking = False
    lm = builders.get_lm_model(OmegaConf.merge(config, {"device": "cpu", "dtype": "float32"}))
    lm.condition_provider = provider
    lm.cfg = config
    return lm


def build_codec(file: CodecFile | TransformersFile, folder: Path, device: str) -> CompressionModel:
    """The mono codec in eval mode, fp32; a public one is found from the checkpoint's ``folder`` on."""
    if isinstance(file, TransformersFile):
        kind = codec_kind(file.config.get("model_type", "encodec"))
        model = _pretrained(kind.model, "codec", config=kind.config(**file.config), state_dict=file.state)
        return kind.codec(model).to(device).eval()
    if file.pretrained is not None:
        return _public_codec(file.pretrained, parts.folder_of(file.pretrained, folder), device)
    assert file.config is not None
    assert file.state is not None
    with warnings.catch_warnings(), skip_init(), solver_config.built("codec"):
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of the weight_norm that SEANet is built with
        codec = builders.get_compression_model(OmegaConf.merge(file.config, {"device": device}))
    _give(codec, file.state, device, "codec")
    return codec.eval()


def codec_kind(model_type: str, what: str = "codec") -> CodecKind:
    """What a codec of transformers' is, by its model type; raises ``CheckpointError`` for one that is not served."""
    if model_type not in _TRANSFORMERS_CODECS:
        raise CheckpointError(f"The {what} is no codec that is served: its config says {model_type!r}.")
    return _TRANSFORMERS_CODECS[model_type]


def _public_codec(name: str, folder: Path, device: str) -> CompressionModel:
    """transformers' EnCodec or DAC, or an audiocraft export."""
    if model_type := model_type_of(folder):
        kind = codec_kind(model_type, f"codec {name}")
        return kind.codec(_pretrained(kind.model, f"codec {name}", folder)).to(device).eval()
    exported = min(folder.glob("*state_dict.bin"))
    package = load_pickle(exported)
    if not {"xp.cfg", "best_state"} <= package.keys():
        raise CheckpointError(f"The codec {name} is no codec: {exported.name} holds {', '.join(map(repr, package))}.")
    file = CodecFile(None, solver_config.read(package["xp.cfg"]), package["best_state"])
    return build_codec(file, folder, device)


def _drop(config: DictConfig, key: str) -> None:
    *parents, last = key.split(".")
    node: Any = config
    for parent in parents:
        node = node.get(parent) or {}
    node.pop(last, None)


def _refuse_what_audiocraft_cannot_build(conditioners: DictConfig) -> None:
    for name, settings in conditioners.items():
        if settings.model != "lut" or settings.lut.tokenizer != "noop":
            raise CheckpointError(
                f"The checkpoint's condition {name!r} is of the kind {settings.model!r}, which audiocraft 1.3.0 cannot "
                "build: text (t5) and melody (chroma_stem) are served, and MusicGen-Style is not."
            )


def _conditioner(
    settings: DictConfig, config: DictConfig, folder: Path, device: str, text_encoder: TransformersFile | None
) -> BaseConditioner:
    dim, duration = config.transformer_lm.dim, config.dataset.segment_duration
    match settings.model:
        case "chroma":
            return ChromaConditioner(output_dim=dim, duration=duration, device=device, **settings.chroma)
        case "chroma_stem":
            demucs = load_separator(parts.folder_of(parts.DEMUCS, folder))
            return StemConditioner(demucs, output_dim=dim, duration=duration, device=device, **settings.chroma_stem)
    encoder, tokenizer = _text_encoder(settings.t5.name, folder, text_encoder)
    return TextConditioner(tokenizer, encoder, dim, device, finetune=settings.t5.get("finetune", False))


def _text_encoder(
    name: str, folder: Path, file: TransformersFile | None
) -> tuple[T5EncoderModel, PreTrainedTokenizerBase]:
    if file is not None:
        config = T5Config(**file.config)
        encoder = _pretrained(T5EncoderModel, "text encoder", config=config, state_dict=file.state)
        return encoder, _tokenizer(AutoTokenizer, file.folder)
    place = parts.folder_of(name, folder)
    return _pretrained(T5EncoderModel, f"text encoder {name}", place), _tokenizer(T5Tokenizer, place)


def _tokenizer(kind: Any, folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(folder, trust_remote_code=False)
        return tokenizer
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the tokenizers library, which is in Rust, is no Exception
        raise CheckpointError(f"The tokenizer in {folder.name} cannot be loaded: {error!s:.300}") from error


def _pretrained(kind: Any, what: str, folder: Path | None = None, **options: Any) -> Any:
    """A transformers model in fp32, from a folder or a ``state_dict``, with all its weights: transformers itself draws
    those that are missing at random."""
    transformers_logging.disable_progress_bar()
    try:
        with skip_init():
            model, report = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise CheckpointError(f"The {what} cannot be loaded: {error!s:.300}") from error
    if report["missing_keys"]:
        raise CheckpointError(f"The {what} lacks weights: {_some(sorted(report['missing_keys']))}.")
    return model


def _give(module: nn.Module, state: State, device: str, what: str, transformer: torch.dtype = torch.float32) -> None:
    """Puts ``state`` in the place of the module's own weights: its transformer's in that dtype, all others in fp32.

    All must fit, and none be left over. The module's own were never touched, and memory never touched is never taken.
    """
    pages, given = FilePages(), {}
    for key, value in state.items():
        dtype = transformer if key.startswith("transformer.") else torch.float32
        given[key] = value.to(device, dtype) if value.is_floating_point() else value.to(device)
        if given[key] is not value:
            pages.release(value)
    try:
        lacking, left_over = module.load_state_dict(given, strict=False, assign=True)
    except RuntimeError as error:  # of sizes: its first line is a heading
        problems = [line.strip().rstrip(".") for line in str(error).splitlines()[1:]]
        raise CheckpointError(f"The {what}'s weights do not fit its config: {_some(problems)}.") from error
    if lacking or left_over:
        problems = [f"{_some(names)} {is_}" for names, is_ in ((lacking, "missing"), (left_over, "left over")) if names]
        raise CheckpointError(f"The {what}'s weights do not fit its config: {'; '.join(problems)}.")
    module.to(device)  # buffers that no checkpoint holds


def _some(names: list[str]) -> str:
    return ", ".join(names[:_N_SHOWN]) + (f" and {len(names) - _N_SHOWN} more" if len(names) > _N_SHOWN else "")
