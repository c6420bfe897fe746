"""audiocraft's ``LMModel`` → the engine's weights, and whether the engine can run it. Knows nothing of requests."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from audiocraft_ext import memory
from audiocraft_ext.engine.decoder import Affine, LayerWeights, Weights
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


def _affine(module: Any, dtype: torch.dtype | None = None) -> Affine:
    weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
    return Affine(weight.to(dtype), None if bias is None else bias.to(dtype))


def _layers(lm: LMModel, consume: bool) -> Iterator[LayerWeights]:
    for i, layer in enumerate(lm.transformer.layers):
        attention, cross = layer.self_attn, layer.cross_attention
        parts: dict[str, Affine] = {}
        if cross is not None:
            weight, bias = cross.in_proj_weight.detach(), cross.in_proj_bias
            cuts = (slice(None, lm.dim), slice(lm.dim, None))
            query, key_value = (Affine(weight[cut], None if bias is None else bias.detach()[cut]) for cut in cuts)
            parts = {
                "norm_cross": _affine(layer.norm_cross),
                "cross_query": query,
                "cross_key_value": key_value,
                "cross_out": _affine(cross.out_proj),
            }
        bias = None if attention.in_proj_bias is None else attention.in_proj_bias.detach()
        yield LayerWeights(
            norm_self=_affine(layer.norm1),
            qkv=Affine(attention.in_proj_weight.detach(), bias),
            out=_affine(attention.out_proj),
            norm_feed=_affine(layer.norm2),
            up=_affine(layer.linear1),
            down=_affine(layer.linear2),
            **parts,
        )
        if consume:
            lm.transformer.layers[i] = nn.Identity()
            memory.trim()


def engine_weights(lm: LMModel, consume: bool) -> Weights:
    """The LM's weights in its transformer's dtype; with `consume`, each layer leaves the LM once it has been taken."""
    dtype = lm.transformer.layers[0].linear1.weight.dtype
    heads = [_affine(linear, dtype) for linear in lm.linears]
    biases = [head.bias for head in heads if head.bias is not None]
    return Weights(
        embeddings=torch.stack([embedding.weight.detach() for embedding in lm.emb]).to(dtype),
        layers=_layers(lm, consume),
        out_norm=_affine(lm.out_norm),
        heads=Affine(torch.cat([head.weight for head in heads]), torch.cat(biases) if biases else None),
        n_heads=lm.transformer.layers[0].self_attn.num_heads,
        feed_width=lm.transformer.layers[0].linear1.out_features,
        has_sines="sin" in lm.transformer.positional_embedding,
        has_rotations="rope" in lm.transformer.positional_embedding,
        max_period=lm.transformer.max_period,
        positional_scale=lm.transformer.positional_scale,
    )
