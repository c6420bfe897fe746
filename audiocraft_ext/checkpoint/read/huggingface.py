"""transformers' own models, loaded by transformers; its MusicGen's language model under audiocraft's names.

transformers decides which of a folder's files are the weights, and which of them are tied or computed. Its MusicGen
contains three models: the LM (``decoder.*``), its T5 (``text_encoder.*``) and its codec (``audio_encoder.*``).
"""

import re
from pathlib import Path
from typing import Any

import torch

from audiocraft_ext import memory, upstream
from audiocraft_ext.checkpoint.locate import hub
from audiocraft_ext.checkpoint.locate.source import CODEC_TYPES, model_type, read_json, shards
from audiocraft_ext.checkpoint.read import files, states
from audiocraft_ext.checkpoint.read.diagnosis import first_few
from audiocraft_ext.checkpoint.read.tensors import State
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import PreTrainedModel

MODEL_TYPES = ("musicgen", "musicgen_melody")
# Settings that change the music: the part of the config, the key, transformers' default, the supported values.
_SUPPORTED = (
    ("audio_encoder", "model_type", "encodec", CODEC_TYPES),
    ("text_encoder", "model_type", "t5", ("t5",)),
    ("decoder", "activation_function", "gelu", ("gelu", "relu")),
)

_LAYER = r"decoder\.model\.decoder\.layers\.(\d+)\."
# transformers' name for a weight → audiocraft's. q, k and v, one matrix in audiocraft, are concatenated after.
_RENAMES = [
    (r"decoder\.model\.decoder\.embed_tokens\.(\d+)\.", r"emb.\1."),
    (r"decoder\.lm_heads\.(\d+)\.", r"linears.\1."),
    (r"decoder\.model\.decoder\.layer_norm\.", r"out_norm."),
    (_LAYER + r"self_attn\.", r"transformer.layers.\1.self_attn."),
    (_LAYER + r"encoder_attn\.", r"transformer.layers.\1.cross_attention."),
    (_LAYER + r"self_attn_layer_norm\.", r"transformer.layers.\1.norm1."),
    (_LAYER + r"encoder_attn_layer_norm\.", r"transformer.layers.\1.norm_cross."),
    (_LAYER + r"final_layer_norm\.", r"transformer.layers.\1.norm2."),
    (_LAYER + r"fc([12])\.", r"transformer.layers.\1.linear\2."),
    (r"enc_to_dec_proj\.", r"condition_provider.conditioners.description.output_proj."),
    (r"audio_enc_to_dec_proj\.", r"condition_provider.conditioners.self_wav.output_proj."),
]


def load_musicgen(folder: Path, dtype: torch.dtype | str = "auto") -> Any:
    """transformers' MusicGen or MusicGen Melody on the CPU, by default in the dtype that the folder says.

    Raises ``CheckpointError`` for weights that are missing or not MusicGen's, and settings that audiocraft lacks.
    """
    config = read_json(folder / "config.json")
    for part, key, default, supported in _SUPPORTED:
        settings = config.get(part)
        value = settings.get(key, default) if isinstance(settings, dict) else default
        _check_supported(f"{part}'s {key}", value, supported)
    _check_supported("melody's chroma_length", config.get("chroma_length", 235), (235,))  # frames in 30 s
    model, names = _from_pretrained(upstream.MUSICGENS[config["model_type"]], "Hugging Face MusicGen", folder, dtype)
    # Sinusoidal position embeddings are computed; the encoders have weights that only training, or T5's decoder, uses.
    extra = [name for name in sorted(names - model.state_dict().keys()) if not _is_encoder_or_computed(name)]
    if extra:
        raise CheckpointError(
            f"The Hugging Face checkpoint has weights that its config has no place for: {first_few(extra)}."
        )
    return model


def load_codec(folder: Path, what: str = "codec", dtype: torch.dtype | str = torch.float32) -> PreTrainedModel:
    """A codec on the CPU; raises ``CheckpointError``, also for one of an unsupported kind."""
    kind = str(model_type(folder))
    _check_supported(what, kind, CODEC_TYPES)
    return _from_pretrained(upstream.CODECS[kind], what, folder, dtype)[0]


def load_text_encoder(folder: Path, what: str, dtype: torch.dtype | str = torch.float32) -> PreTrainedModel:
    """The encoder of a T5 on the CPU; raises ``CheckpointError``."""
    return _from_pretrained(upstream.T5EncoderModel, what, folder, dtype)[0]


def take_language_model(model: PreTrainedModel) -> State:
    """The LM's weights under audiocraft's names, moved out of a ``load_musicgen`` model, which keeps its encoders."""
    state: State = {name: value for name, value in model.state_dict().items() if not _is_encoder_or_computed(name)}
    for part in (part for name, part in model.named_children() if not _is_encoder_or_computed(f"{name}.")):
        part.to("meta")  # frees each weight as soon as the state dict drops it
    renamed: State = {}
    for key in list(state):
        theirs, ours = next(rename for rename in _RENAMES if re.match(rename[0], key))
        renamed[re.sub(theirs, ours, key, count=1)] = state.pop(key)
    join_thirds(renamed)
    # Between equal widths transformers has no projection, where audiocraft always has one.
    identity = torch.eye(model.config.decoder.hidden_size, dtype=renamed[states.LM_KEY].dtype)
    for name in ["description"] + ["self_wav"] * hasattr(model.config, "num_chroma"):
        projection = f"condition_provider.conditioners.{name}.output_proj."
        renamed.setdefault(projection + "weight", identity)
        renamed.setdefault(projection + "bias", torch.zeros_like(identity[0]))
    return renamed


def join_thirds(state: State) -> None:
    """Replace each attention's q, k and v by the one matrix that audiocraft has of them; likewise their biases."""
    for key in [key for key in state if re.search(r"\.q_proj\.(weight|bias)$", key)]:
        attention, kind = key.split("q_proj.")
        thirds = [state.pop(f"{attention}{name}_proj.{kind}") for name in "qkv"]
        state[f"{attention}in_proj_{kind}"] = torch.cat(thirds)
        del thirds
        memory.trim()


def _is_encoder_or_computed(name: str) -> bool:
    return name.startswith(("text_encoder.", "audio_encoder.")) or ".embed_positions." in name


def _from_pretrained(kind: Any, what: str, folder: Path, dtype: torch.dtype | str) -> tuple[PreTrainedModel, set[str]]:
    """A model with all of its weights, and the names of the weights in its files."""
    if (folder / "adapter_config.json").exists():  # transformers would load the base that it names instead
        raise CheckpointError(
            f"The {what} in {folder.name} has an adapter in its folder: merge it first, or remove it."
        )
    upstream.transformers_logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True, "trust_remote_code": False}
    options["ignore_mismatched_sizes"] = True  # reported below
    try:
        stored = _read_weights(folder)
        with upstream.skip_init():
            if any(map(states.is_wrapped, stored)):
                stored = states.unwrap(stored)
                config = kind.config_class.from_pretrained(folder, local_files_only=True)
                model, report = kind.from_pretrained(None, config=config, state_dict=stored, **options)
            else:
                model, report = kind.from_pretrained(folder, local_files_only=True, **options)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # it validates little: a wrong value ends in an error of any kind
        raise CheckpointError(f"The {what} cannot be loaded: {' '.join(str(error).split()):.300}") from error
    if missing := report["missing_keys"]:
        raise CheckpointError(f"The {what} lacks weights: {first_few(sorted(missing))}. Download or copy it again.")
    if others := sorted(report["mismatched_keys"]):
        sizes = (f"{name} is {list(stored_size)} instead of {list(size)}" for name, stored_size, size in others)
        raise CheckpointError(f"The {what}'s weights do not fit its config: {first_few(sizes)}.")
    return model, set(stored)


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers chooses."""
    name = str(hub.detect_layout(folder, hub.TRANSFORMERS_LAYOUTS))
    return [folder / name for name in (shards(folder / name) if name.endswith(".json") else [name])]


def _read_weights(folder: Path) -> State:
    """The weights in ``weight_files``, memory-mapped."""
    return {key: value for file in weight_files(folder) for key, value in files.load(file).items()}


def _check_supported(what: str, value: Any, supported: tuple[Any, ...]) -> None:
    if value not in supported:
        raise CheckpointError(f"The {what} is {value!r}; {' and '.join(map(str, supported))} are supported.")
