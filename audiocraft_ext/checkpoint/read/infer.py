"""The shapes of an LM's weights → the solver config that builds it, for checkpoints without one.

Assumed as in Meta's MusicGen: heads of 64, a window of 30 s, EnCodec at 32 kHz, the delay pattern.
"""

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from audiocraft_ext.errors import CheckpointError

log = logging.getLogger(__name__)

HEAD_DIM = 64
_WINDOW_S = 30
_CODEC = "facebook/encodec_32khz"
_T5_OF_WIDTH = {512: "t5-small", 768: "t5-base", 1024: "t5-large"}
_TEXT = "condition_provider.conditioners.description.output_proj.weight"
_MELODY = "condition_provider.conditioners.self_wav.output_proj.weight"
_FIRST_LAYER = "transformer.layers.0."


def infer_config(state: dict[str, Tensor], decoder: Any = None) -> DictConfig:
    """The config of the LM with these weights, under audiocraft's names.

    ``decoder``, transformers' config of it, says what shapes do not; without one, assumptions are logged. Raises
    ``CheckpointError`` if a weight that determines a size is missing, or has another number of dimensions.
    """
    try:
        transformer = _transformer(state)
        conditioners = _conditioners(state)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        problem = f"the weight {error} is missing" if isinstance(error, KeyError) else f"wrong shapes ({error})"
        raise CheckpointError(f"The checkpoint has no config, and its sizes cannot be inferred: {problem}.") from error
    n_q, crosses, has_melody = transformer["n_q"], transformer["cross_attention"], "self_wav" in conditioners
    is_stereo = n_q == 8
    if decoder is not None:
        transformer |= {"num_heads": decoder.num_attention_heads, "activation": decoder.activation_function}
        is_stereo = decoder.audio_channels == 2
    else:
        log.warning(
            "No config in the checkpoint; from its shapes: %d codebooks of %d, %d layers of %d, %s, text encoder %s. "
            "Assumed, as in Meta's: %d heads, a window of %d s, codec %s.",
            *(transformer[size] for size in ("n_q", "card", "num_layers", "dim")),
            "melody" if has_melody else "text",
            *(conditioners["description"]["t5"]["name"], transformer["num_heads"], _WINDOW_S, _CODEC),
        )
    delays = [k // 2 if is_stereo else k for k in range(n_q)]  # left and right share a delay
    return OmegaConf.create(
        {
            "lm_model": "transformer_lm",
            "compression_model_checkpoint": f"//pretrained/{_CODEC}",
            "compression_model_n_q": n_q // 2 if is_stereo else n_q,
            "dataset": {"segment_duration": _WINDOW_S},
            "interleave_stereo_codebooks": {"use": is_stereo, "per_timestep": False},
            "codebooks_pattern": {"modeling": "delay", "delay": {"delays": delays, "flatten_first": 0}},
            "classifier_free_guidance": {"training_dropout": 0.2, "inference_coef": 3.0},
            "attribute_dropout": {},
            "fuser": {
                "cross_attention_pos_emb": False,
                "sum": [],
                "input_interpolate": [],
                "cross": ["description"] * crosses,
                "prepend": ["self_wav"] * has_melody + ["description"] * (not crosses),
            },
            "conditioners": conditioners,
            "transformer_lm": transformer,
        }
    )


def _transformer(state: dict[str, Tensor]) -> dict[str, Any]:
    special_and_card, dim = state["emb.0.weight"].shape
    return {
        "n_q": sum(key.startswith("emb.") for key in state),
        "card": special_and_card - 1,
        "dim": dim,
        "num_heads": dim // HEAD_DIM,
        "num_layers": len({key.split(".")[2] for key in state if key.startswith("transformer.layers.")}),
        "hidden_scale": state[_FIRST_LAYER + "linear1.weight"].shape[0] / dim,
        "dropout": 0.0,
        "causal": True,
        "custom": False,
        "memory_efficient": True,
        "bias_proj": "linears.0.bias" in state,
        "bias_ff": _FIRST_LAYER + "linear1.bias" in state,
        "bias_attn": _FIRST_LAYER + "self_attn.in_proj_bias" in state,
        "norm_first": "out_norm.weight" in state,
        "norm": "layer_norm",
        "activation": "gelu",
        "positional_embedding": "sin",
        "cross_attention": any(".cross_attention." in key for key in state),
    }


def _conditioners(state: dict[str, Tensor]) -> dict[str, Any]:
    name = _T5_OF_WIDTH.get(state[_TEXT].shape[1], "text_encoder")
    t5 = {"name": name, "finetune": False, "word_dropout": 0.0, "normalize_text": False}
    conditioners: dict[str, Any] = {"description": {"model": "t5", "t5": t5}}
    if _MELODY in state:
        chroma = {"sample_rate": 32000, "n_chroma": state[_MELODY].shape[1], "radix2_exp": 14, "argmax": True}
        conditioners["self_wav"] = {"model": "chroma_stem", "chroma_stem": {**chroma, "match_len_on_eval": False}}
    return conditioners
