"""The backend for CUDA with Triton's kernels, in the same graph."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from audiocraft_ext.engine.backends.cuda import CUDABackend
from audiocraft_ext.engine.backends.torch import NORM_EPS, Linear, StepAttention
from audiocraft_ext.engine.kv_cache import KVCache
from audiocraft_ext.engine.quantize import dequantize, quantize

if TYPE_CHECKING:
    from audiocraft_ext.engine.slots import SlotTable


class TritonBackend(CUDABackend):
    """``CUDABackend`` with Triton kernels, which read no more of the cache than is valid."""

    _n_arrived = torch.empty(0)  # made for the first table

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """In int8, by a kernel for the rows of a step; for a prompt's many rows, the weight is dequantised."""
        if not self.is_int8:
            return super().linear(weight, bias)
        from audiocraft_ext.engine.backends import triton_linear

        integers, scale = quantize(weight)

        def product(x: Tensor) -> Tensor:
            if len(x) > triton_linear.MAX_MATMUL_ROWS:
                return functional.linear(x, dequantize(integers, scale).to(x.dtype), bias)
            y = triton_linear.matmul_int8(x, integers, scale)
            return y if bias is None else y + bias

        return product

    def add_norm(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        from audiocraft_ext.engine.backends import triton_linear

        return triton_linear.add_norm(x, y, weight, bias, NORM_EPS, self.dtype)

    def attention(self, cache: KVCache, rows: Tensor) -> StepAttention:
        return TritonAttention(cache, rows)

    def sample(self, table: "SlotTable", slots: Tensor, logits: Tensor, rows: tuple[Tensor, Tensor]) -> None:
        from audiocraft_ext.engine.backends import triton_sampling

        if self._n_arrived.shape != table.step.shape:
            self._n_arrived = torch.zeros_like(table.step, dtype=torch.int32)
        triton_sampling.sample(table, slots, logits, rows, self._n_arrived)


class TritonAttention(StepAttention):
    """A step's attention, split over each row's valid positions; for all rows of the cache, in order."""

    def __init__(self, cache: KVCache, rows: Tensor) -> None:
        from audiocraft_ext.engine.backends.triton_attention import Attend

        n_rows, n_heads, _, head_dim = cache.keys[0].shape
        assert len(rows) == n_rows
        self.cache, self.rows = cache, rows
        self._lengths = torch.zeros_like(rows)
        self._attend = Attend(n_rows, n_heads, head_dim, cache.n_positions, rows.device)
        self._cross_attend = Attend(n_rows, n_heads, head_dim, max(cache.cross_capacity, 1), rows.device)

    def update(self, positions: Tensor) -> None:
        self._lengths.copy_(torch.where(positions == self.cache.n_positions - 1, 0, positions + 1))

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        return self._attend(qkv[:, 0], keys, values, self._lengths, qkv[:, 1:])

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        keys, values = self.cache.cross_keys[layer], self.cache.cross_values[layer]
        return self._cross_attend(query, keys, values, self.cache.cross_lengths, None)
