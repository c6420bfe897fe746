"""audiocraft's ``LMModel`` → the engine that decodes it, or None where the engine does not support it.

Knows nothing of requests.
"""

import logging

from torch import Tensor

from audiocraft_ext.engine import backends
from audiocraft_ext.engine.engine import Engine
from audiocraft_ext.engine.kv_cache import ROWS_PER_SLOT, kv_bytes_per_row
from audiocraft_ext.engine.pattern import DelayPattern
from audiocraft_ext.engine.transformer import Transformer
from audiocraft_ext.errors import InputError
from audiocraft_ext.lm_weights import engine_weights, unsupported
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.upstream import LMModel

_log = logging.getLogger(__name__)

# Positions for a prompt's text tokens, prepended or cross-attended to: some 400 words. Growing the cache for one prompt
# grows it for all slots.
_TEXT_POSITIONS = 512


def build_engine(lm: LMModel, n_frames: int, settings: EngineSettings) -> Engine | None:
    """The engine for an LM whose window is ``n_frames`` long; None for audiocraft's own loop.

    Moves the LM's weights into the engine, unless the settings keep them in both.
    """
    if settings.engine == "upstream":
        return None
    reason = unsupported(lm)
    if reason is not None:
        _log.warning("The engine does not support this language model: %s. audiocraft's own loop decodes it.", reason)
        return None
    pattern = DelayPattern(tuple(lm.pattern_provider.delays), lm.special_token_id)
    n_steps = pattern.n_steps(n_frames)
    n_positions = n_steps + capacity(lm, "prepend") + 1
    layer = lm.transformer.layers[0]
    backend = backends.choose(
        layer.linear1.weight,
        layer.self_attn.num_heads,
        quantize=settings.quantize,
        name=settings.backend,
        capture=settings.capture,
    )
    slot_bytes = ROWS_PER_SLOT * kv_bytes_per_row(len(lm.transformer.layers), lm.dim, n_positions, backend.dtype)
    n_slots = backend.fitting_slots(settings.n_slots, slot_bytes)
    weights = engine_weights(lm, settings.consume)
    return Engine(Transformer(weights, ROWS_PER_SLOT * n_slots, n_positions, backend), pattern, n_slots, n_steps)


def capacity(lm: LMModel, fuse_method: str) -> int:
    """Positions for conditions that the LM's fuser prepends ("prepend") or cross-attends to ("cross").

    A text takes up to ``_TEXT_POSITIONS``, a melody as many as the LM's window has frames of chroma.
    """
    names, conditioners = lm.fuser.fuse2cond.get(fuse_method, []), lm.condition_provider.conditioners
    melody = sum(getattr(conditioners[name], "chroma_len", 0) for name in names if name in conditioners)
    return melody + (_TEXT_POSITIONS if names else 0)


def check_capacity(lm: LMModel, prefix: Tensor, cross: Tensor | None) -> None:
    """Raise ``InputError`` for conditions, prefix [B, P, D] and cross [B, T, D], of a prompt that is too long."""
    lengths = {"prepend": prefix.shape[1], "cross": 0 if cross is None else cross.shape[1]}
    for fuse_method, length in lengths.items():
        if length > (limit := capacity(lm, fuse_method)):
            what = "tokens with the melody" if fuse_method == "prepend" else "tokens"
            problem = f"it has {length} {what}; this checkpoint takes at most {limit}."
            raise InputError("prompt", problem, "Use fewer words.")
