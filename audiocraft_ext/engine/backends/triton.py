"""The backend for CUDA with Triton's kernels, in the same graph."""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from audiocraft_ext.engine.backends.cuda import CUDABackend
from audiocraft_ext.engine.backends.torch import NORM_EPS, Linear, Sampler, StepAttention
from audiocraft_ext.engine.kv_cache import KVCache
from audiocraft_ext.engine.quantize import dequantize, quantize

if TYPE_CHECKING:
    from audiocraft_ext.engine.slots import SlotTable


class TritonBackend(CUDABackend):
    """``CUDABackend`` with Triton kernels, which read no more of the cache than is valid.

    A step is of the busy slots, filled up to a power of two. The cache is int8 where weights are: for 16 clips, it is
    most of what a step reads.
    """

    reads_masked = False
    has_int8_cache = True

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

    def step_sizes(self, n_slots: int) -> list[int]:
        return [*(1 << i for i in range((n_slots - 1).bit_length())), n_slots]

    def sampler(self, table: "SlotTable") -> Sampler:
        from audiocraft_ext.engine.backends import triton_sampling

        n_arrived = torch.zeros_like(table.step, dtype=torch.int32)
        return partial(triton_sampling.sample, table, n_arrived=n_arrived)


class TritonAttention(StepAttention):
    """A step's attention, split over each row's valid positions."""

    def __init__(self, cache: KVCache, rows: Tensor) -> None:
        from audiocraft_ext.engine.backends.triton_attention import Attend

        _, n_heads, _, _ = cache.keys[0].shape
        head_dim = cache.head_dim
        self.cache, self.rows = cache, rows
        self._lengths, self._cross_lengths = torch.zeros_like(rows), torch.zeros_like(rows)
        self._attend = Attend(len(rows), n_heads, head_dim, cache.n_positions, rows.device)
        self._cross_attend = Attend(len(rows), n_heads, head_dim, max(cache.cross_capacity, 1), rows.device)

    def update(self, positions: Tensor) -> None:
        self._lengths.copy_(torch.where(positions == self.cache.n_positions - 1, 0, positions + 1))
        torch.index_select(self.cache.cross_lengths, 0, self.rows, out=self._cross_lengths)

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        return self._attend(qkv[:, 0], keys, values, self.rows, self._lengths, qkv[:, 1:])

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        keys, values = self.cache.cross_keys[layer], self.cache.cross_values[layer]
        return self._cross_attend(query, keys, values, self.rows, self._cross_lengths, None)
