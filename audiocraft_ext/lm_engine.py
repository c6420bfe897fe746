"""audiocraft's ``LMModel`` → the engine that decodes it, or None where the engine does not support it.

Knows nothing of requests.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from audiocraft_ext import memory
from audiocraft_ext.engine import backends
from audiocraft_ext.engine.backends.torch import TorchBackend
from audiocraft_ext.engine.engine import Engine, NotFiniteError
from audiocraft_ext.engine.kv_cache import ROWS_PER_SLOT, kv_bytes_per_row
from audiocraft_ext.engine.pattern import DelayPattern
from audiocraft_ext.engine.self_check import SelfCheck
from audiocraft_ext.engine.transformer import CrossAttention, Layer, Transformer, WeightBias, Weights
from audiocraft_ext.errors import InputError
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.upstream import DelayedPatternProvider, LMModel

_log = logging.getLogger(__name__)

# Positions for a prompt's text tokens, prepended or cross-attended to: some 400 words. Growing the cache for one prompt
# grows it for all slots.
_TEXT_POSITIONS = 512


class EngineError(RuntimeError):
    """The engine fails here: load the model again with the ``simpler`` settings."""

    def __init__(self, message: str, simpler: EngineSettings) -> None:
        super().__init__(message)
        self.simpler = simpler


def build_engine(lm: LMModel, n_frames: int, settings: EngineSettings, self_check: bool = False) -> Engine | None:
    """The engine for an LM whose window is ``n_frames`` long; None for audiocraft's own loop.

    Moves the LM's weights into the engine, unless the settings keep them in both. With `self_check`, a backend that
    asks for it is compared with plain torch. Raises ``EngineError``, and ``NotFiniteError`` of the self-check.
    """
    if settings.engine == "upstream":
        return None
    reason = reason_unsupported(lm)
    if reason is not None:
        _log.warning("The engine does not support this language model: %s. audiocraft's own loop decodes it.", reason)
        return None
    layer = lm.transformer.layers[0]
    backend = backends.choose(
        layer.linear1.weight,
        layer.self_attn.num_heads,
        quantize=settings.quantize,
        name=settings.backend,
        capture=settings.capture,
    )
    try:
        return _build(lm, n_frames, settings, backend, self_check and backend.is_self_checked)
    except NotFiniteError:
        raise
    except Exception as error:  # of kernels, compilers and drivers: of whatever kind
        name = backends.simpler(backend)
        simpler = replace(settings, backend=name) if name else replace(settings, engine="upstream")
        what = f"The engine ({backend.description}) fails here: {type(error).__name__}: {error}"
        raise EngineError(f"{what}. In its place: {name or 'audiocraft'}", simpler) from error


def _build(lm: LMModel, n_frames: int, settings: EngineSettings, backend: TorchBackend, self_check: bool) -> Engine:
    pattern = DelayPattern(tuple(lm.pattern_provider.delays), lm.special_token_id)
    n_steps = pattern.n_steps(n_frames)
    n_positions = n_steps + capacity(lm, "prepend") + 1
    n_layers, n_heads = len(lm.transformer.layers), lm.transformer.layers[0].self_attn.num_heads
    row_bytes = kv_bytes_per_row(n_layers, n_heads, n_positions, lm.dim // n_heads, backend.cache_dtype)
    n_slots = backend.fitting_slots(settings.n_slots, ROWS_PER_SLOT * row_bytes)
    weights = engine_weights(lm, settings.consume)
    check = SelfCheck(weights, pattern, n_steps, backend) if self_check else None
    if check:
        weights = replace(weights, layers=check.layers())
    transformer = Transformer(weights, ROWS_PER_SLOT * n_slots, n_positions, backend)
    engine = Engine(transformer, pattern, n_slots, n_steps)
    if check:
        engine.self_check = check.compare(engine)
    else:
        engine.call(engine.capture_steps)
    return engine


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


def reason_unsupported(lm: LMModel) -> str | None:
    """Why the engine cannot run an LM; None if it can. Meta's checkpoints and their fine-tunes can all be run."""
    provider, transformer = lm.pattern_provider, lm.transformer
    is_delayed = isinstance(provider, DelayedPatternProvider)
    if not is_delayed or provider.flatten_first or provider.empty_initial:
        return "its codebook pattern is not the delay pattern"
    if lm.out_norm is None or (transformer.rope is not None and transformer.rope.xpos is not None):
        return "its layers are not pre-normalised, or its rotary positions decay"
    if lm.fuser.fuse2cond.get("sum") or lm.fuser.fuse2cond.get("input_interpolate"):
        return "its conditions are summed into the input"
    for layer in transformer.layers:
        attention = layer.self_attn
        if not attention.custom or attention.kv_repeat != 1 or attention.qk_layer_norm or attention.past_context:
            return "its attention repeats, normalises or bounds its keys"
        if layer.activation is not nn.functional.gelu or not isinstance(layer.layer_scale_1, nn.Identity):
            return "its layers are scaled, or their activation is not GELU"
    return None


def _weight_bias(module: Any, dtype: torch.dtype | None = None) -> WeightBias:
    weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
    return WeightBias(weight.to(dtype), None if bias is None else bias.to(dtype))


def _cross_attention(layer: Any, dim: int) -> CrossAttention[WeightBias] | None:
    cross = layer.cross_attention
    if cross is None:
        return None
    weight, bias = cross.in_proj_weight.detach(), cross.in_proj_bias
    cuts = (slice(None, dim), slice(dim, None))
    query, key_value = (WeightBias(weight[cut], None if bias is None else bias.detach()[cut]) for cut in cuts)
    return CrossAttention(_weight_bias(layer.norm_cross), query, key_value, _weight_bias(cross.out_proj))


def _layers(lm: LMModel, consume: bool) -> Iterator[Layer[WeightBias]]:
    for i, layer in enumerate(lm.transformer.layers):
        attention = layer.self_attn
        bias = None if attention.in_proj_bias is None else attention.in_proj_bias.detach()
        yield Layer(
            norm_self=_weight_bias(layer.norm1),
            qkv=WeightBias(attention.in_proj_weight.detach(), bias),
            out=_weight_bias(attention.out_proj),
            norm_ffn=_weight_bias(layer.norm2),
            up=_weight_bias(layer.linear1),
            down=_weight_bias(layer.linear2),
            cross=_cross_attention(layer, lm.dim),
        )
        if consume:
            lm.transformer.layers[i] = nn.Identity()
            memory.trim()


def engine_weights(lm: LMModel, consume: bool) -> Weights:
    """The LM's weights in its transformer's dtype; with `consume`, each layer leaves the LM once it has been taken."""
    dtype = lm.transformer.layers[0].linear1.weight.dtype
    heads = [_weight_bias(linear, dtype) for linear in lm.linears]
    biases = [head.bias for head in heads if head.bias is not None]
    return Weights(
        embeddings=torch.stack([embedding.weight.detach() for embedding in lm.emb]).to(dtype),
        layers=_layers(lm, consume),
        out_norm=_weight_bias(lm.out_norm),
        heads=WeightBias(torch.cat([head.weight for head in heads]), torch.cat(biases) if biases else None),
        n_heads=lm.transformer.layers[0].self_attn.num_heads,
        has_sines="sin" in lm.transformer.positional_embedding,
        rotary_frequencies=None if lm.transformer.rope is None else lm.transformer.rope.frequencies.float().cpu(),
        max_period=lm.transformer.max_period,
        positional_scale=lm.transformer.positional_scale,
    )
