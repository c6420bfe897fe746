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
    from audiocraft_ext.engine.transformer import WeightBias


class TritonBackend(CUDABackend):
    """``CUDABackend`` with Triton kernels, which read no more of the cache than is valid."""

    _n_arrived = torch.empty(0)  # made for the first table

    def linear(self, matrix: "WeightBias", norm: "WeightBias | None" = None, gelu: bool = False) -> Linear:
        """In int8, by a kernel for the rows of a step; for a prompt's many rows, the weight is dequantised."""
        if not self.is_int8:
            return super().linear(matrix, norm, gelu)
        from audiocraft_ext.engine.backends import triton_linear

        integers, scale = quantize(matrix.weight)
        norm = norm and norm.float()

        def product(x: Tensor, residual: Tensor | None = None) -> Tensor:
            if norm is not None:
                x = functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, NORM_EPS).to(self.dtype)
            if len(x) > triton_linear.MAX_MATMUL_ROWS:
                y = functional.linear(x, dequantize(integers, scale).to(x.dtype), matrix.bias)
            else:
                y = triton_linear.matmul_int8(x, integers, scale)
                y = y if matrix.bias is None else y + matrix.bias
            y = functional.gelu(y) if gelu else y
            return y if residual is None else residual.add_(y)

        return product

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
