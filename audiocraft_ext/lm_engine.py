"""audiocraft's ``LMModel`` → the engine that decodes it, or None where the engine does not support it.

Knows nothing of requests.
"""

import logging

import torch
from torch import Tensor

from audiocraft_ext.engine.cache import row_bytes
from audiocraft_ext.engine.decoder import Decoder
from audiocraft_ext.engine.engine import ROWS_PER_SLOT, Engine
from audiocraft_ext.engine.linear import MAX_ROWS
from audiocraft_ext.engine.pattern import DelayPattern
from audiocraft_ext.errors import InputError
from audiocraft_ext.lm_weights import engine_weights, unsupported
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.upstream import LMModel

_log = logging.getLogger(__name__)

# Positions for a prompt's text tokens, prepended or cross-attended to: some 400 words. Growing the cache for one prompt
# grows it for all slots.
_TEXT_POSITIONS = 512
# The rest is for the codec, the text encoder and cross-attention, which for a window of 30 s takes at most a third as
# much as the slots.
_MEMORY_SHARE = 0.6


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
    device, dtype = lm.emb[0].weight.device, lm.transformer.layers[0].linear1.weight.dtype
    pattern = DelayPattern(tuple(lm.pattern_provider.delays), lm.special_token_id)
    n_steps = pattern.n_steps(n_frames)
    n_positions = n_steps + capacity(lm, "prepend") + 1
    n_slots = _fitting_slots(lm, settings, n_positions, device, dtype)
    weights = engine_weights(lm, settings.consume)
    decoder = Decoder(weights, ROWS_PER_SLOT * n_slots, n_positions, settings.quantize, settings.kernels)
    return Engine(decoder, pattern, n_slots, n_steps, use_graph=settings.use_graph)


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


def _fitting_slots(
    lm: LMModel, settings: EngineSettings, n_positions: int, device: torch.device, dtype: torch.dtype
) -> int:
    """The slots asked for, or as many as the CPU's kernels keep apart or as fit into most of the free memory."""
    if device.type == "cpu":
        return min(settings.n_slots, MAX_ROWS // ROWS_PER_SLOT)
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own cache
    slot = ROWS_PER_SLOT * row_bytes(len(lm.transformer.layers), lm.dim, n_positions, dtype)
    return slots_that_fit(int(_MEMORY_SHARE * free), slot, settings.n_slots)


def slots_that_fit(n_bytes: int, slot_bytes: int, n_requested: int) -> int:
    """``n_requested`` slots, or the largest power of two of them that fits; at least one.

    The order of a product's sums may depend on its number of rows: with a little more or less memory at the next start,
    the same seed should still give the same file.
    """
    n_fitting = max(1, n_bytes // slot_bytes)
    return n_requested if n_requested <= n_fitting else 1 << (n_fitting.bit_length() - 1)
