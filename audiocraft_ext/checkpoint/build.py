"""(config, state dict) → audiocraft's own modules, on a device, ready to generate.

Everything is built by audiocraft's builders, except the one conditioner that is ours.
"""

import json
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers.utils import logging as transformers_logging

from audiocraft_ext.checkpoint.formats import CodecFile, LanguageModelFile, State
from audiocraft_ext.conditioners import ChromaConditioner
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import CompressionModel, LMModel, T5Conditioner, builders

# Training-time keys that audiocraft's own loader drops too: builders would act on a cache path of the trainer's machine
# or refuse the others.
_TRAINING_KEYS = (
    "conditioners.self_wav.chroma_stem.cache_path",
    "conditioners.args.merge_text_conditions_p",
    "conditioners.args.drop_desc_p",
)


def build_lm(file: LanguageModelFile, folder: Path, device: str) -> LMModel:
    """The file's LM in eval mode; ``lm.cfg`` is its config, as audiocraft's loader leaves it."""
    lm = untrained_lm(file.config, folder, device)
    _load_strictly(lm, file.state, "language model")
    return lm.eval()


def untrained_lm(config: DictConfig, folder: Path, device: str) -> LMModel:
    """The LM that a solver config describes: fp32 on the CPU and fp16 on CUDA, as audiocraft loads it.

    A text encoder that lies in ``folder`` under the config's name for it is used instead of the hub's.
    """
    config = deepcopy(config)
    OmegaConf.set_struct(config, False)
    config.device, config.dtype = device, "float32" if device == "cpu" else "float16"
    for key in _TRAINING_KEYS:
        _drop(config, key)
    _point_to_local_text_encoder(config, folder)
    own_chroma = _take_own_chroma(config)
    transformers_logging.disable_progress_bar()
    lm = builders.get_lm_model(config)
    if own_chroma is not None:
        lm.condition_provider.conditioners["self_wav"] = ChromaConditioner(
            output_dim=config.transformer_lm.dim, duration=config.dataset.segment_duration, device=device, **own_chroma
        ).to(device)
    if "self_wav" in lm.condition_provider.conditioners:
        # MusicGen.get_pretrained does this; building without it silently changes the melody's prefix.
        lm.condition_provider.conditioners["self_wav"].match_len_on_eval = True
        lm.condition_provider.conditioners["self_wav"]._use_masking = False
    lm.cfg = config
    return lm


def build_codec(file: CodecFile, device: str) -> CompressionModel:
    """The mono codec in eval mode, fp32; a public one comes from the Hugging Face cache or hub."""
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
    _load_strictly(codec, file.state, "codec")
    return codec.eval()


def _drop(config: DictConfig, key: str) -> None:
    *parents, last = key.split(".")
    node: Any = config
    for parent in parents:
        node = node.get(parent) or {}
    node.pop(last, None)


def _point_to_local_text_encoder(config: DictConfig, folder: Path) -> None:
    for conditioner in (config.get("conditioners") or {}).values():
        if not isinstance(conditioner, DictConfig) or conditioner.get("model") != "t5":
            continue
        local = folder / conditioner.t5.name
        if local.is_dir():
            conditioner.t5.name = str(local)
            # audiocraft knows the public T5s by a list of names and widths.
            T5Conditioner.MODELS_DIMS[str(local)] = json.loads((local / "config.json").read_text())["d_model"]
            if str(local) not in T5Conditioner.MODELS:
                T5Conditioner.MODELS.append(str(local))


def _take_own_chroma(config: DictConfig) -> dict[str, Any] | None:
    """Removes a ``chroma`` conditioner from the config, since audiocraft's builders do not know it; its settings."""
    melody = (config.get("conditioners") or {}).get("self_wav")
    if melody is None or melody.model != "chroma":
        return None
    del config.conditioners["self_wav"]
    return dict(melody.chroma)


def _load_strictly(module: nn.Module, state: State, what: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"The {what}'s weights do not fit its config: {error}") from error
