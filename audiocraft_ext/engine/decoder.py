"""The transformer over a cache: inputs of some rows → logits. Knows nothing of requests, patterns or sampling.

The arithmetic is that of audiocraft's ``StreamingTransformer`` with pre-normalised layers (its ``norm_first``), sine or
rotary positions or both, and GELU. Cross-attention keys and values are computed once a request, not once a step.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from audiocraft_ext.engine.attention import Attention
from audiocraft_ext.engine.cache import Cache, stored
from audiocraft_ext.engine.linear import Kernels, Linear, Quantize, make_linear

_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Affine:
    """A checkpoint's weight [out, in] of a matrix or [D] of a norm, and its bias [out], if it has one."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class LayerWeights:
    """One layer; q, k and v are stacked [3 D, D]. The cross-attention parts are there in all layers or in none."""

    norm_self: Affine
    qkv: Affine
    out: Affine
    norm_feed: Affine
    up: Affine
    down: Affine
    norm_cross: Affine | None = None
    cross_query: Affine | None = None
    cross_key_value: Affine | None = None
    cross_out: Affine | None = None


@dataclass(frozen=True)
class Weights:
    """A language model. `layers` may be a generator: each is dropped when its fast form is made."""

    embeddings: Tensor  # [K, V + 1, D]
    layers: Iterable[LayerWeights]
    out_norm: Affine
    heads: Affine  # [K V, D]
    n_heads: int
    feed_width: int  # outputs of `up`
    has_sines: bool = True
    has_rotations: bool = False
    max_period: float = 10_000.0
    positional_scale: float = 1.0


class _Norm:
    """A layer norm's weights in fp32."""

    def __init__(self, affine: Affine) -> None:
        self.weight, self.bias = affine.weight.float(), None if affine.bias is None else affine.bias.float()


def add_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    """Adds y [M, D] to the fp32 residual x [M, D] in place; its layer norm [M, D] in `dtype`."""
    x += y
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps).to(dtype)


class _Layer:
    """A layer's weights in their fast forms."""

    def __init__(self, weights: LayerWeights, fast: Callable[[Affine], Linear]) -> None:
        self.norm_self, self.qkv, self.out = _Norm(weights.norm_self), fast(weights.qkv), fast(weights.out)
        self.norm_feed, self.up, self.down = _Norm(weights.norm_feed), fast(weights.up), fast(weights.down)
        self.has_cross = weights.norm_cross is not None
        if self.has_cross:
            assert weights.norm_cross is not None
            assert weights.cross_query is not None
            assert weights.cross_key_value is not None
            assert weights.cross_out is not None
            self.norm_cross, self.cross_query = _Norm(weights.norm_cross), fast(weights.cross_query)
            self.cross_key_value, self.cross_out = fast(weights.cross_key_value), fast(weights.cross_out)


def sine_table(n: int, width: int, max_period: float) -> Tensor:
    """Sine embeddings [n, D], cosines first; in fp32: phases above 1024 are off by up to half a radian in fp16."""
    half = torch.arange(width // 2, dtype=torch.float32)
    phase = torch.arange(n, dtype=torch.float32)[:, None] / max_period ** (half / (width // 2 - 1))
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def rotary_table(n: int, width: int, max_period: float, scale: float) -> Tensor:
    """Complex factors [n, Dh / 2] that turn pairs of a head's numbers by their position, as in audiocraft's RoPE."""
    frequency = max_period ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle = torch.arange(n, dtype=torch.float32)[:, None] * frequency
    return torch.polar(torch.ones_like(angle), angle) * scale + (1 - scale)


def rotated(qkv: Tensor, turn: Tensor) -> Tensor:
    """[M, 3, H, Dh] with queries and keys turned by complex factors [M, Dh / 2]."""
    pairs = torch.view_as_complex(qkv[:, :2].float().unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(pairs * turn[:, None, None]).flatten(-2)
    return torch.cat([turned.to(qkv.dtype), qkv[:, 2:]], dim=1)


def fitting_kernels(device: torch.device, dtype: torch.dtype, head_width: int, feed_width: int) -> Kernels:
    """Those of our kernels that there are on a device for a model whose heads and feed-forward have these widths."""
    if device.type == "cuda":
        try:
            from audiocraft_ext.engine import cuda_kernels
        except ImportError:
            return "none"
        return "cuda" if cuda_kernels.is_available(device, head_width) else "none"
    try:
        from audiocraft_ext.engine.backends import cpu_kernels
    except ImportError:
        return "none"
    return "cpu" if dtype == torch.float32 and cpu_kernels.is_available(head_width, feed_width) else "none"


def cache_dtype_of(dtype: torch.dtype, quantize: Quantize, kernels: Kernels) -> torch.dtype:
    """In what a decoder keeps keys and values."""
    return torch.int8 if quantize == "int8" and kernels == "cpu" else dtype


class PositionEncoding(NamedTuple):
    """Of positions [M]: what is added to their inputs, [M, D], and what turns their queries and keys, [M, Dh / 2]."""

    sines: Tensor
    turns: Tensor | None


class Decoder:
    """A language model over the cache of `n_rows` rows of `n_positions` positions each."""

    def __init__(
        self,
        weights: Weights,
        n_rows: int,
        n_positions: int,
        quantize: Quantize = "none",
        kernels: Kernels | None = None,
    ) -> None:
        """`kernels` are those that are used beside plain torch; None means the device's, where they fit the model.

        In int8 on the CPU so is the cache: late steps of several clips read more of it than of weights.
        """
        self.device, self.dtype = weights.embeddings.device, weights.embeddings.dtype
        self.n_codebooks, n_tokens, self.width = weights.embeddings.shape
        self.cardinality = n_tokens - 1
        self.n_heads = weights.n_heads
        head_width = self.width // self.n_heads
        self.kernels = kernels or fitting_kernels(self.device, self.dtype, head_width, weights.feed_width)
        self._fused_add_norm = add_norm
        self._rotated: Callable[[Tensor, Tensor], Tensor] = rotated
        self._gelu: Callable[[Tensor], Tensor] = functional.gelu
        if self.kernels == "cuda":
            from audiocraft_ext.engine import cuda_kernels

            self._fused_add_norm = cuda_kernels.add_norm
        elif self.kernels == "cpu":
            from audiocraft_ext.engine.backends import cpu_kernels

            self._fused_add_norm, self._rotated = cpu_kernels.add_norm, cpu_kernels.apply_rotary
            self._gelu = cpu_kernels.gelu

        def fast(affine: Affine) -> Linear:
            return make_linear(affine.weight, affine.bias, quantize, self.kernels)

        self.layers = [_Layer(layer, fast) for layer in weights.layers]
        self.out_norm, self.heads = _Norm(weights.out_norm), fast(weights.heads)
        # One table for all codebooks, so that an input is one gather and one sum.
        self.embeddings = weights.embeddings.reshape(-1, self.width)
        self._offsets = torch.arange(self.n_codebooks, device=self.device) * n_tokens
        sines = sine_table(n_positions, self.width, weights.max_period) * weights.positional_scale
        self._sines = sines.to(self.device) if weights.has_sines else None
        turns = rotary_table(n_positions, head_width, weights.max_period, weights.positional_scale)
        self._turns = turns.to(self.device) if weights.has_rotations else None
        cache_dtype = cache_dtype_of(self.dtype, quantize, self.kernels)
        self.cache = Cache(len(self.layers), n_rows, self.n_heads, head_width, n_positions, cache_dtype, self.device)

    def embed(self, tokens: Tensor) -> Tensor:
        """Summed embeddings [..., D] in fp32 of tokens [..., K]."""
        return self.embeddings[tokens + self._offsets].float().sum(-2)

    def write_cross(self, first_row: int, states: Tensor) -> None:
        """Computes the cross-attention of rows from `first_row` on to `states` [R', T', D]; the cache may move."""
        n_rows, length, _ = states.shape
        self.cache.reserve_cross(length)
        rows = slice(first_row, first_row + n_rows)
        self.cache.cross_lengths[rows] = length
        for i, layer in enumerate(self.layers):
            both = layer.cross_key_value(states.reshape(-1, self.width).to(self.dtype))
            both = stored(both.view(n_rows, length, 2, self.n_heads, -1), self.cache.dtype).permute(2, 0, 3, 1, 4)
            self.cache.cross_keys[i][rows, :, :length], self.cache.cross_values[i][rows, :, :length] = both

    def forward(self, inputs: Tensor, position: Tensor, attention: Attention) -> Tensor:
        """Normed hidden states [M, D] of inputs [M, D] at positions [M], which `attention` lays out in rows."""
        return self.run_layers(inputs.clone(), self.encoded(position), attention)

    def encoded(self, position: Tensor) -> PositionEncoding:
        """What the transformer is told of positions [M]."""
        return PositionEncoding(
            torch.zeros(len(position), self.width, device=self.device)
            if self._sines is None
            else self._sines[position],
            None if self._turns is None else self._turns[position],
        )

    def run_layers(self, x: Tensor, encoding: PositionEncoding, attention: Attention) -> Tensor:
        """Normed hidden states [M, D] of the fp32 residual x [M, D], which is written over."""
        heads, turn = (self.n_heads, self.width // self.n_heads), encoding.turns
        normed = self._add_norm(x, encoding.sines, self.layers[0].norm_self)
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv(normed).view(-1, 3, *heads)
            made = layer.out(attention.self_attention(i, qkv if turn is None else self._rotated(qkv, turn)))
            if layer.has_cross:
                query = layer.cross_query(self._add_norm(x, made, layer.norm_cross))
                made = layer.cross_out(attention.cross_attention(i, query.view(-1, *heads)))
            made = layer.down(self._gelu(layer.up(self._add_norm(x, made, layer.norm_feed))))
            is_last = i + 1 == len(self.layers)
            normed = self._add_norm(x, made, self.out_norm if is_last else self.layers[i + 1].norm_self)
        return normed

    def _add_norm(self, x: Tensor, y: Tensor, norm: _Norm) -> Tensor:
        """Adds y [M, D] to the residual x [M, D] and norms the sum for the next weight matrix."""
        return self._fused_add_norm(x, y, norm.weight, norm.bias, _NORM_EPS, self.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [M, K, V] in fp32 of normed hidden states [M, D]."""
        return self.heads(hidden).float().view(-1, self.n_codebooks, self.cardinality)
