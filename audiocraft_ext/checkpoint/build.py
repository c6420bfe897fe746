"""(config, state dict) → audiocraft's own modules, on a device, ready to generate.

Everything is built by audiocraft's builders, except the conditioners that need no download here.
"""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import (
    AutoTokenizer,
    EncodecConfig,
    EncodecModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)
from transformers.utils import logging as transformers_logging

from audiocraft_ext.checkpoint.formats import CodecFile, LanguageModelFile, TransformersFile
from audiocraft_ext.checkpoint.huggingface import State
from audiocraft_ext.conditioners import ChromaConditioner, TextConditioner
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import BaseConditioner, CompressionModel, HFEncodecCompressionModel, LMModel, builders

# Training-time keys that audiocraft's own loader drops too: builders would act on a cache path of the trainer's machine
# or refuse the others.
_TRAINING_KEYS = (
    "conditioners.self_wav.chroma_stem.cache_path",
    "conditioners.args.merge_text_conditions_p",
    "conditioners.args.drop_desc_p",
)


def build_lm(
    file: LanguageModelFile, folder: Path, device: str, text_encoder: TransformersFile | None = None
) -> LMModel:
    """The file's LM in eval mode: fp32 on the CPU; on CUDA, as audiocraft loads it, its transformer in fp16.

    The text encoder is the one given, else one that lies in ``folder`` under the config's name for it, else the public
    one of that name, from the Hugging Face cache or hub. ``lm.cfg`` is the config, as audiocraft's loader leaves it.
    """
    # Built without memory, then given the file's own tensors: no random initialisation, no second copy.
    lm = _assemble(file.config, folder, device, text_encoder, skeleton_device="meta")
    _give(lm, file.state, device, "language model")
    return lm.eval()


def untrained_lm(config: DictConfig, folder: Path, device: str) -> LMModel:
    """The LM that a solver config describes, with weights drawn as audiocraft draws them."""
    return _assemble(config, folder, device, None, skeleton_device=device)


def _assemble(
    config: DictConfig, folder: Path, device: str, text_encoder: TransformersFile | None, skeleton_device: str
) -> LMModel:
    """The LM with its transformer on ``skeleton_device`` and its conditioners on ``device``."""
    config = deepcopy(config)
    OmegaConf.set_struct(config, False)
    config.device, config.dtype = device, "float32" if device == "cpu" else "float16"
    for key in _TRAINING_KEYS:
        _drop(config, key)
    OmegaConf.resolve(config.conditioners)  # while its references to the rest of the config still reach it
    dim, settings = config.transformer_lm.dim, config.conditioners
    config.conditioners = {"args": settings.pop("args", {})}
    ours = {name: settings.pop(name) for name in list(settings) if settings[name].model in ("t5", "chroma")}
    provider = builders.get_conditioner_provider(dim, OmegaConf.merge(config, {"conditioners": settings}))
    for name, own in ours.items():
        provider.conditioners[name] = _conditioner(own, config, folder, device, text_encoder).to(device)
    if "self_wav" in provider.conditioners:
        # MusicGen.get_pretrained does this; building without it silently changes the melody's prefix.
        provider.conditioners["self_wav"].match_len_on_eval = True
        provider.conditioners["self_wav"]._use_masking = False
    with torch.device(skeleton_device):
        lm = builders.get_lm_model(OmegaConf.merge(config, {"device": skeleton_device}))
    lm.condition_provider = provider
    lm.cfg = config
    return lm


def build_codec(file: CodecFile | TransformersFile, device: str) -> CompressionModel:
    """The mono codec in eval mode, fp32; a public one comes from the Hugging Face cache or hub."""
    if isinstance(file, TransformersFile):
        encodec = _from_transformers(EncodecModel, EncodecConfig(**file.config), file.state, "codec")
        return HFEncodecCompressionModel(encodec).to(device).eval()
    if file.pretrained is not None:
        try:
            return CompressionModel.get_pretrained(file.pretrained, device=device).eval()
        except OSError as error:
            raise CheckpointError(
                f"The codec {file.pretrained} is not in the local Hugging Face cache and the hub cannot be reached."
            ) from error
    assert file.config is not None
    assert file.state is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of the weight_norm that SEANet is built with
        codec = builders.get_compression_model(OmegaConf.merge(file.config, {"device": device}))
    _give(codec, file.state, device, "codec")
    return codec.eval()


def _drop(config: DictConfig, key: str) -> None:
    *parents, last = key.split(".")
    node: Any = config
    for parent in parents:
        node = node.get(parent) or {}
    node.pop(last, None)


def _conditioner(
    settings: DictConfig, config: DictConfig, folder: Path, device: str, text_encoder: TransformersFile | None
) -> BaseConditioner:
    dim = config.transformer_lm.dim
    if settings.model == "chroma":
        return ChromaConditioner(
            output_dim=dim, duration=config.dataset.segment_duration, device=device, **settings.chroma
        )
    encoder, tokenizer = _text_encoder(settings.t5.name, folder, text_encoder)
    return TextConditioner(tokenizer, encoder, dim, device, finetune=settings.t5.get("finetune", False))


def _text_encoder(
    name: str, folder: Path, file: TransformersFile | None
) -> tuple[T5EncoderModel, PreTrainedTokenizerBase]:
    transformers_logging.disable_progress_bar()
    if file is not None:
        encoder = _from_transformers(T5EncoderModel, T5Config(**file.config), file.state, "text encoder")
        return encoder, AutoTokenizer.from_pretrained(file.folder)
    place = folder / name if (folder / name).is_dir() else name
    try:
        return (
            T5EncoderModel.from_pretrained(place, dtype=torch.float32),
            T5Tokenizer.from_pretrained(place),
        )
    except OSError as error:
        raise CheckpointError(
            f"The text encoder {name} is neither in the checkpoint's folder nor in the local Hugging Face cache, and "
            "the hub cannot be reached."
        ) from error


def _from_transformers(kind: Any, config: Any, state: State, what: str) -> Any:
    """A transformers model with all of its weights from ``state``, in fp32."""
    model, report = kind.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
    )
    if report["missing_keys"]:
        raise CheckpointError(f"The {what} lacks weights: {', '.join(sorted(report['missing_keys'])[:5])}.")
    return model


def _give(module: nn.Module, state: State, device: str, what: str) -> None:
    """Puts ``state`` in the place of the module's own weights, in their dtypes; all must fit, and none be left over."""
    dtypes = {key: value.dtype for key, value in module.state_dict().items()}
    state = {key: value.to(device, dtypes.get(key, value.dtype)) for key, value in state.items()}
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"The {what}'s weights do not fit its config: {error}") from error
