"""The transformer over a cache: inputs of some rows → logits. Knows nothing of jobs, patterns, sampling or devices.

The arithmetic is that of audiocraft's ``StreamingTransformer`` with pre-normalised layers (its ``norm_first``), sine or
rotary positions or both, and GELU. Cross-attention keys and values are computed once a job, not once a step.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from audiocraft_ext.engine.backends.torch import Linear, PrefillAttention, StepAttention, TorchBackend
from audiocraft_ext.engine.kv_cache import KVCache

Matrix = TypeVar("Matrix")


@dataclass(frozen=True)
class WeightBias:
    """The weight [out, in] of a matrix or [D] of a norm, and its bias [out] or [D], if it has one."""

    weight: Tensor
    bias: Tensor | None = None

    def float(self) -> "WeightBias":
        return WeightBias(self.weight.float(), None if self.bias is None else self.bias.float())


@dataclass(frozen=True)
class CrossAttention(Generic[Matrix]):
    """A layer's cross-attention; k and v are stacked [2 D, D]."""

    norm: WeightBias
    query: Matrix
    key_value: Matrix
    out: Matrix


@dataclass(frozen=True)
class Layer(Generic[Matrix]):
    """One layer, its matrices as a checkpoint's ``WeightBias`` or as the backend's ``Linear``; qkv is [3 D, D]."""

    norm_self: WeightBias
    qkv: Matrix
    out: Matrix
    norm_ffn: WeightBias
    up: Matrix
    down: Matrix
    cross: CrossAttention[Matrix] | None = None  # in all layers or in none


@dataclass(frozen=True)
class Weights:
    """A language model. `layers` may be a generator: each is dropped once the backend has its own form of it."""

    embeddings: Tensor  # [K, V + 1, D]
    layers: Iterable[Layer[WeightBias]]
    out_norm: WeightBias
    heads: WeightBias  # [K V, D]
    n_heads: int
    has_sines: bool = True
    rotary_frequencies: Tensor | None = None  # [Dh / 2] on the host, radians a position
    max_period: float = 10_000.0
    positional_scale: float = 1.0


def sine_table(n: int, dim: int, max_period: float) -> Tensor:
    """Sine embeddings [n, D], cosines first; in fp32: phases above 1024 are off by up to half a radian in fp16."""
    half = torch.arange(dim // 2, dtype=torch.float32)
    phase = torch.arange(n, dtype=torch.float32)[:, None] / max_period ** (half / (dim // 2 - 1))
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def rotary_table(n: int, frequencies: Tensor, scale: float) -> Tensor:
    """Complex rotary factors [n, Dh / 2] of n positions, as in audiocraft's RoPE."""
    angle = torch.arange(n, dtype=torch.float32)[:, None] * frequencies
    return torch.polar(torch.ones_like(angle), angle) * scale + (1 - scale)


class Transformer:
    """A language model on a backend, and the cache of `n_rows` rows of `n_positions` positions each."""

    def __init__(self, weights: Weights, n_rows: int, n_positions: int, backend: TorchBackend) -> None:
        self.backend = backend
        self.n_codebooks, n_tokens, self.dim = weights.embeddings.shape
        self.vocabulary = n_tokens - 1
        self.n_heads, head_dim = weights.n_heads, self.dim // weights.n_heads
        self.layers: list[Layer[Linear]] = []
        self._zero_has_value = False  # a state of zeros, in cross-attention
        for layer in weights.layers:
            self._zero_has_value |= layer.cross is not None and layer.cross.key_value.bias is not None
            self.layers.append(_pack(layer, backend))
        self._heads = backend.linear(weights.heads, weights.out_norm)
        # One table for all codebooks, so that an input is one gather and one sum.
        self.embeddings = weights.embeddings.reshape(-1, self.dim)
        self._offsets = torch.arange(self.n_codebooks, device=backend.device) * n_tokens
        sines = sine_table(n_positions, self.dim, weights.max_period) * weights.positional_scale
        self.sines = (sines if weights.has_sines else torch.zeros_like(sines)).to(backend.device)
        self.rotary: Tensor | None = None
        if (frequencies := weights.rotary_frequencies) is not None:
            self.rotary = rotary_table(n_positions, frequencies, weights.positional_scale).to(backend.device)
        shape = (len(self.layers), n_rows, self.n_heads, n_positions, head_dim)
        self.cache = KVCache(shape, backend.cache_dtype, backend.zeros)
        if self.layers[0].cross is not None:
            self.cache.reserve_cross(backend.cross_positions)

    def embed(self, tokens: Tensor) -> Tensor:
        """Summed embeddings [..., D] in fp32 of tokens [..., K]."""
        return self.embeddings[tokens + self._offsets].float().sum(-2)

    def position_encoding(self, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Sines [B, D] to add to inputs at positions [B], and rotary factors [B, Dh / 2] of their queries and keys."""
        rotary = None if self.rotary is None else self.rotary.index_select(0, positions)
        return self.sines.index_select(0, positions), rotary

    def cache_cross_kv(self, first_row: int, states: Tensor) -> None:
        """Write the cross-attention keys and values of rows from `first_row` on to `states` [R, T', D]."""
        n_rows, length, _ = states.shape
        self.cache.reserve_cross(length)
        rows = slice(first_row, first_row + n_rows)
        # Over values of zeros, as a text model's unconditional ones are, attention is zero: nothing is read of them.
        is_read = states.flatten(1).any(1) | self._zero_has_value
        self.cache.cross_lengths[rows] = torch.where(is_read, length, 0)
        inputs = states.reshape(-1, self.dim).to(self.backend.dtype)
        for i, layer in enumerate(self.layers):
            assert layer.cross is not None
            keys_values = layer.cross.key_value(inputs)
            self.cache.write_cross(i, rows, keys_values.view(n_rows, length, 2, self.n_heads, -1))

    def prefill(self, inputs: Tensor, row: int, start: int, n_cross: int) -> Tensor:
        """Hidden states [R, C, D] of inputs [R, C, D] at positions from `start` on, in rows from `row` on."""
        n_rows, stop = len(inputs), start + inputs.shape[1]
        attention = PrefillAttention(self.cache, slice(row, row + n_rows), start, stop, n_cross)
        positions = torch.arange(start, stop, device=self.backend.device).repeat(n_rows)
        sines, rotary = self.position_encoding(positions)
        return self.run_layers(inputs.reshape(-1, self.dim) + sines, rotary, attention).view(inputs.shape)

    def run_layers(self, x: Tensor, rotary: Tensor | None, attention: PrefillAttention | StepAttention) -> Tensor:
        """Add all layers to the residual x [B, D] in fp32, in place; sines are in it. Returns it."""
        heads = (self.n_heads, self.dim // self.n_heads)
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv(x).view(-1, 3, *heads)
            if rotary is not None:
                qkv = self.backend.apply_rotary(qkv, rotary)
            layer.out(attention.self_attention(i, qkv), x)
            if layer.cross is not None:
                layer.cross.out(attention.cross_attention(i, layer.cross.query(x).view(-1, *heads)), x)
            layer.down(layer.up(x), x)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [B, K, V] in the backend's type of hidden states [B, D] in fp32."""
        return self._heads(hidden).view(-1, self.n_codebooks, self.vocabulary)


def _pack(layer: Layer[WeightBias], backend: TorchBackend) -> Layer[Linear]:
    """The layer with its matrices in the backend's form, each with the norm of its input."""
    linear, packed = backend.linear, None
    if (cross := layer.cross) is not None:
        query = linear(cross.query, cross.norm)
        packed = CrossAttention(cross.norm, query, linear(cross.key_value), linear(cross.out))
    qkv, out = linear(layer.qkv, layer.norm_self), linear(layer.out)
    up, down = linear(layer.up, layer.norm_ffn, gelu=True), linear(layer.down)
    return Layer(layer.norm_self, qkv, out, layer.norm_ffn, up, down, packed)
