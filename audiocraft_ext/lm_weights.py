"""audiocraft's ``LMModel`` → the engine's weights, and whether the engine can run it. Knows nothing of requests."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from audiocraft_ext import memory
from audiocraft_ext.engine.transformer import CrossAttention, Layer, WeightBias, Weights
from audiocraft_ext.upstream import DelayedPatternProvider, LMModel


def unsupported(lm: LMModel) -> str | None:
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
        has_rotary="rope" in lm.transformer.positional_embedding,
        max_period=lm.transformer.max_period,
        positional_scale=lm.transformer.positional_scale,
    )
