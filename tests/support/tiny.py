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

CODEC_CONFIG: dict[str, Any] = {
    "compression_model": "encodec",
    "device": "cpu",
    "encodec": {
        "autoencoder": "seanet",
        "quantizer": "rvq",
        "sample_rate": SAMPLE_RATE,
        "channels": 1,
        "causal": False,
        "renormalize": False,
    },
    "seanet": {
        "dimension": 16,
        "channels": 1,
        "n_filters": 2,
        "n_residual_layers": 1,
        "ratios": [8, 5, 4, 4],
        "norm": "weight_norm",
        "lstm": 0,
        "encoder": {},
        "decoder": {},
    },
    "rvq": {"n_q": 4, "bins": CARD, "kmeans_init": False},
}


def lm_config(kind: Kind) -> dict[str, Any]:
    """A small LM's solver config: text kinds cross-attend to the prompt, melody kinds prepend all conditions."""
    is_stereo, is_melody = "stereo" in kind, "melody" in kind
    n_q, delays = (8, [0, 0, 1, 1, 2, 2, 3, 3]) if is_stereo else (4, [0, 1, 2, 3])
    conditioners: dict[str, Any] = {
        "description": {"model": "t5", "t5": {"name": "text_encoder", "finetune": False}},
    }
    if is_melody:
        chroma = {"sample_rate": SAMPLE_RATE, "n_chroma": 12, "radix2_exp": 12, "argmax": True}
        conditioners["self_wav"] = {"model": "chroma", "chroma": chroma}
    return {
        "lm_model": "transformer_lm",
        "device": "cpu",
        "dtype": "float32",
        "dataset": {"segment_duration": WINDOW_S},
        "interleave_stereo_codebooks": {"use": is_stereo, "per_timestep": False},
        "codebooks_pattern": {"modeling": "delay", "delay": {"delays": delays, "flatten_first": 0}},
        "classifier_free_guidance": {"training_dropout": 0.1, "inference_coef": 3.0},
        "attribute_dropout": {},
        "fuser": {
            "cross_attention_pos_emb": False,
            "sum": [],
            "input_interpolate": [],
            "cross": [] if is_melody else ["description"],
            "prepend": ["self_wav", "description"] if is_melody else [],
        },
        "conditioners": conditioners,
        "transformer_lm": {
            "n_q": n_q,
            "card": CARD,
            "dim": 128,
            "num_heads": 2,
            "num_layers": 2,
            "hidden_scale": 4,
            "dropout": 0.0,
            "causal": True,
            # When streaming, audiocraft 1.3.0 counts rotary positions correctly only in its custom attention.
            "custom": kind == "rotary",
            "memory_efficient": kind != "rotary",
            "bias_proj": False,
            "bias_ff": False,
            "bias_attn": False,
            "norm_first": True,
            "norm": "layer_norm",
            "activation": "gelu",
            "weight_init": "gaussian",
            "depthwise_init": "current",
            "zero_bias_init": True,
            "positional_embedding": "sin_rope" if kind == "rotary" else "sin",
            "cross_attention": not is_melody,
        },
    }


def write(folder: Path, kind: Kind, seed: int = 0) -> Path:
    """Write a checkpoint of ``kind`` with random weights to ``folder``; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(TEXT_ENCODER, folder / "text_encoder", dirs_exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = builders.get_compression_model(OmegaConf.create(CODEC_CONFIG))
        lm = build.untrained_lm(OmegaConf.create(lm_config(kind)), folder, "cpu")
    export(folder / "compression_state_dict.bin", codec.state_dict(), CODEC_CONFIG)
    export(folder / "state_dict.bin", lm.state_dict(), lm_config(kind))
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
