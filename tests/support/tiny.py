"""Real MusicGen checkpoints with random weights, small enough for a test: text, melody and stereo kinds.

Built by audiocraft's own builders and written in its export format, so that tests load them like any checkpoint. Their
text encoder is the embedded checkpoint's.
"""

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import OmegaConf

from audiocraft_ext.checkpoint import build
from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.upstream import builders

Kind = Literal["text", "melody", "stereo", "melody stereo", "rotary"]
KINDS: tuple[Kind, ...] = ("text", "melody", "stereo")

CARD = 64
SAMPLE_RATE = 32000
WINDOW_S = 20  # audiocraft's own MusicGen needs more than 18: its stride is fixed
TEXT_ENCODER = EMBEDDED / "text_encoder"

# Each config has the keys that Meta's have, down to those that only its trainer reads.
CODEC_CONFIG: dict[str, Any] = {
    "solver": "compression",
    "sample_rate": SAMPLE_RATE,
    "channels": 1,
    "device": "cpu",
    "dtype": "float32",
    "compression_model": "encodec",
    "encodec": {
        "autoencoder": "seanet",
        "quantizer": "rvq",
        "sample_rate": "${sample_rate}",
        "channels": "${channels}",
        "causal": False,
        "renormalize": False,
    },
    "seanet": {
        "dimension": 16,
        "channels": "${channels}",
        "causal": "${encodec.causal}",
        "n_filters": 2,
        "n_residual_layers": 1,
        "ratios": [8, 5, 4, 4],
        "activation": "ELU",
        "activation_params": {"alpha": 1.0},
        "norm": "weight_norm",
        "norm_params": {},
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 7,
        "dilation_base": 2,
        "pad_mode": "constant",
        "true_skip": True,
        "compress": 2,
        "lstm": 0,
        "disable_norm_outer_blocks": 0,
        "encoder": {},
        "decoder": {"trim_right_ratio": 1.0, "final_activation": None, "final_activation_params": None},
    },
    "rvq": {
        "n_q": 4,
        "q_dropout": False,
        "bins": CARD,
        "decay": 0.99,
        "kmeans_init": False,  # Meta's, true, would draw the codebooks from the first audio
        "kmeans_iters": 50,
        "threshold_ema_dead_code": 2,
        "orthogonal_reg_weight": 0.0,
        "orthogonal_reg_active_codes_only": False,
    },
    "no_quant": {},
}
_TRANSFORMER: dict[str, Any] = {
    "dim": 128,
    "num_heads": 2,
    "num_layers": 2,
    "hidden_scale": 4,
    "n_q": 4,
    "card": CARD,
    "dropout": 0.0,
    "emb_lr": None,
    "activation": "gelu",
    "norm_first": True,
    "bias_ff": False,
    "bias_attn": False,
    "bias_proj": False,
    "past_context": None,
    "causal": True,
    "custom": False,
    "memory_efficient": True,
    "attention_as_float32": False,
    "layer_scale": None,
    "positional_embedding": "sin",
    "xpos": False,
    "checkpointing": "none",
    "weight_init": "gaussian",
    "depthwise_init": "current",
    "zero_bias_init": True,
    "norm": "layer_norm",
    "cross_attention": False,  # also of those that cross-attend: audiocraft's builder goes by the fuser
    "qk_layer_norm": False,
    "qk_layer_norm_cross": False,
    "attention_dropout": None,
    "kv_repeat": 1,
    "two_step_cfg": False,
}


def lm_config(kind: Kind) -> dict[str, Any]:
    """A small LM's solver config: text kinds cross-attend to the prompt, melody kinds prepend all conditions."""
    is_stereo, is_melody = "stereo" in kind, "melody" in kind
    n_q, delays = (8, [0, 0, 1, 1, 2, 2, 3, 3]) if is_stereo else (4, [0, 1, 2, 3])
    t5 = {"name": "text_encoder", "finetune": False, "word_dropout": 0.3, "normalize_text": False}
    conditioners: dict[str, Any] = {"description": {"model": "t5", "t5": t5}}
    if is_melody:
        chroma = {"sample_rate": "${sample_rate}", "n_chroma": 12, "radix2_exp": 12, "argmax": True}
        conditioners["self_wav"] = {"model": "chroma", "chroma": chroma}
    dropout = {"args": {"active_on_eval": False}, "text": {}, "wav": {"self_wav": 0.5}}
    # When streaming, audiocraft 1.3.0 counts rotary positions correctly only in its custom attention.
    rotary = {"custom": True, "memory_efficient": False, "positional_embedding": "sin_rope"}
    return {
        "solver": "musicgen",
        "lm_model": "transformer_lm",
        "sample_rate": SAMPLE_RATE,
        "channels": 2 if is_stereo else 1,
        "device": "cuda",
        "dtype": "float32",
        "autocast": True,
        "autocast_dtype": "float16",
        "tokens": {"padding_with_special_token": False},
        "dataset": {"segment_duration": WINDOW_S, "train": {"merge_text_p": 0.25, "drop_desc_p": 0.5}},
        "optim": {"updates_per_epoch": 2000, "ema": {"use": True, "updates": "${optim.updates_per_epoch}"}},
        "interleave_stereo_codebooks": {"use": is_stereo, "per_timestep": False},
        "codebooks_pattern": {
            "modeling": "delay",
            "delay": {"delays": delays, "flatten_first": 0, "empty_initial": 0},
            "unroll": {"flattening": [0, 1, 2, 3], "delays": [0, 0, 0, 0]},
            "music_lm": {"group_by": 2},
            "coarse_first": {"delays": [0, 0, 0]},
        },
        "classifier_free_guidance": {"training_dropout": 0.3, "inference_coef": 3.0},
        "attribute_dropout": dropout if is_melody else {},
        "fuser": {
            "cross_attention_pos_emb": False,
            "cross_attention_pos_emb_scale": 1,
            "sum": [],
            "prepend": ["self_wav", "description"] if is_melody else [],
            "cross": [] if is_melody else ["description"],
            "input_interpolate": [],
        },
        "conditioners": conditioners,
        "transformer_lm": _TRANSFORMER | {"n_q": n_q} | (rotary if kind == "rotary" else {}),
    }


def write(folder: Path, kind: Kind, seed: int = 0, **config: Any) -> Path:
    """Write a checkpoint of ``kind`` with random weights to ``folder``; ``config`` replaces keys of ``lm_config``."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(TEXT_ENCODER, folder / "text_encoder", dirs_exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = builders.get_compression_model(OmegaConf.create(CODEC_CONFIG))
        lm = build.untrained_lm(OmegaConf.create(lm_config(kind) | config), folder, "cpu")
    export(folder / "compression_state_dict.bin", codec.state_dict(), CODEC_CONFIG)
    export(folder / "state_dict.bin", lm.state_dict(), lm_config(kind) | config)
    return folder


def export(path: Path, state: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """Write the format of audiocraft's ``export``: the weights, and the config as YAML text."""
    package = {"best_state": state, "xp.cfg": OmegaConf.to_yaml(OmegaConf.create(config)), "version": "1.3.0"}
    torch.save({**package, "exported": True}, path)


def overflow(package: dict[str, Any]) -> None:
    """Scale an export's weights so that activations reach 10^5, too large for fp16, and results stay the same."""
    for name, weight in package["best_state"].items():
        if "linear1" in name or "linear2" in name:
            weight.mul_(1e5 if "linear1" in name else 1e-5)
