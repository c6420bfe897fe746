"""The backend in plain torch, on any device: the oracle of the others, and what runs where they cannot."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from audiocraft_ext.engine.backends.base import NORM_EPS, Backend, Linear, StepAttention
from audiocraft_ext.engine.kv_cache import KVCache, dequantize_kv
from audiocraft_ext.engine.quantize import dequantize, quantize


class TorchBackend(Backend):
    """A product's bits depend on its number of rows, so all slots are stepped; int8 rounds the weights and no more."""

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        if self.is_int8:
            weight = dequantize(*quantize(weight)).to(weight.dtype)
        return partial(functional.linear, weight=weight, bias=bias)

    def add_norm(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x += y
        return functional.layer_norm(x, x.shape[-1:], weight, bias, NORM_EPS).to(self.dtype)

    def apply_rotary(self, qkv: Tensor, factors: Tensor) -> Tensor:
        pairs = torch.view_as_complex(qkv[:, :2].float().unflatten(-1, (-1, 2)).contiguous())
        rotated = torch.view_as_real(pairs * factors[:, None, None]).flatten(-2)
        return torch.cat([rotated.to(qkv.dtype), qkv[:, 2:]], dim=1)

    def gelu(self, x: Tensor) -> Tensor:
        return functional.gelu(x)

    def attention(self, cache: KVCache, rows: Tensor) -> StepAttention:
        return MaskedAttention(cache, rows)


class PrefillAttention:
    """Attention of consecutive positions [start, stop) of neighbouring rows; B = R C, position by position in a row."""

    def __init__(self, cache: KVCache, rows: slice, start: int, stop: int, n_cross: int) -> None:
        self.cache, self.rows, self.positions, self.n_cross = cache, rows, slice(start, stop), n_cross
        reach = torch.arange(stop, device=cache.keys[0].device)
        self.mask = reach <= reach[start:, None]

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        query, keys, values = qkv.view(self._n_rows, -1, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
        cached = self.cache.update(layer, self.rows, self.positions, keys, values)
        keys, values = (dequantize_kv(part[:, :, : self.positions.stop], qkv.dtype) for part in cached)
        out = scaled_dot_product_attention(query, keys, values, self.mask)
        return out.transpose(1, 2).reshape(len(qkv), -1)

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        cached = self.cache.cross(layer, self.rows)
        keys, values = (dequantize_kv(part[:, :, : self.n_cross], query.dtype) for part in cached)
        heads = query.view(self._n_rows, -1, *query.shape[1:]).transpose(1, 2)
        return scaled_dot_product_attention(heads, keys, values).transpose(1, 2).reshape(len(query), -1)

    @property
    def _n_rows(self) -> int:
        return int(self.rows.stop - self.rows.start)


class MaskedAttention:
    """A step's attention over the whole cache, masked: shapes and host know no lengths."""

    def __init__(self, cache: KVCache, rows: Tensor) -> None:
        self.cache, self.rows = cache, rows
        self._reach = torch.arange(max(cache.n_positions, cache.cross_capacity), device=rows.device)

    def update(self, positions: Tensor) -> None:
        self._positions = positions
        self._mask = self._reach[: self.cache.n_positions] <= positions[:, None]
        # A row without a job reads position 0: a row with nothing to read would give NaN.
        lengths = self.cache.cross_lengths[self.rows].clamp(min=1)
        self._cross_mask = self._reach[: self.cache.cross_capacity] < lengths[:, None]

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        query, keys, values = qkv.unbind(1)
        return self._attend(query, *self.cache.update(layer, self.rows, self._positions, keys, values), self._mask)

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        return self._attend(query, *self.cache.cross(layer, self.rows), self._cross_mask)

    @staticmethod
    def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """[B, H Dh] from query [B, H, Dh], cached [B, H, S, ...] and mask [B, S]."""
        keys, values = dequantize_kv(keys, query.dtype), dequantize_kv(values, query.dtype)
        out = scaled_dot_product_attention(query[:, :, None], keys, values, mask[:, None, None])
        return out.flatten(1)
