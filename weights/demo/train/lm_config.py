"""The solver config of the embedded language model, as audiocraft's builders take it."""

from typing import Any

from weights.demo.train import codec
from weights.demo.train.synth import FRAME_RATE
from weights.demo.train.tokens import CHROMA, CLIP_FRAMES

LM_CONFIG: dict[str, Any] = {
    "solver": "musicgen",
    "lm_model": "transformer_lm",
    "sample_rate": codec.CODEC_CONFIG["sample_rate"],
    "channels": 1,
    "dataset": {"segment_duration": CLIP_FRAMES // FRAME_RATE},
    "interleave_stereo_codebooks": {"use": False},
    "codebooks_pattern": {
        "modeling": "delay",
        "delay": {"delays": [0, 1, 2, 3], "flatten_first": 0, "empty_initial": 0},
    },
    "transformer_lm": {
        "dim": 256,
        "num_heads": 4,
        "num_layers": 6,
        "hidden_scale": 4,
        "n_q": 4,
        "card": 512,
        "dropout": 0.0,
        "emb_lr": None,
        "activation": "gelu",
        "norm_first": True,
        "bias_ff": False,
        "bias_attn": False,
        "bias_proj": False,
        "past_context": None,
        "causal": True,
        # Streaming, audiocraft 1.3.0 counts rotary positions along the wrong axis in its memory-efficient attention.
        "custom": True,
        "memory_efficient": False,
        "attention_as_float32": False,
        "layer_scale": None,
        "positional_embedding": "sin_rope",
        "xpos": False,
        "checkpointing": "none",
        "weight_init": "gaussian",
        "depthwise_init": "current",
        "zero_bias_init": True,
        "norm": "layer_norm",
        "cross_attention": True,
        "qk_layer_norm": False,
        "qk_layer_norm_cross": False,
        "attention_dropout": None,
        "kv_repeat": 1,
        "two_step_cfg": False,
    },
    "fuser": {
        "cross_attention_pos_emb": False,
        "cross_attention_pos_emb_scale": 1.0,
        "sum": [],
        "cross": ["description"],
        "prepend": ["self_wav"],
        "input_interpolate": [],
    },
    "conditioners": {
        "args": {},
        "self_wav": {"model": "chroma", "chroma": CHROMA},
        "description": {
            "model": "t5",
            "t5": {"name": "text_encoder", "finetune": False, "word_dropout": 0.0, "normalize_text": False},
        },
    },
    "classifier_free_guidance": {"training_dropout": 0.12, "inference_coef": 3.0},
    "attribute_dropout": {},
}
