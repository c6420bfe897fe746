"""The backend for CUDA with Triton's kernels, in the same graph."""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from audiocraft_ext.engine.backends.cuda import CUDABackend
from audiocraft_ext.engine.backends.torch import Linear, Sampler, StepAttention
from audiocraft_ext.engine.kv_cache import KVCache

if TYPE_CHECKING:
    from audiocraft_ext.engine.slots import SlotTable
    from audiocraft_ext.engine.step import Step
    from audiocraft_ext.engine.transformer import WeightBias


class TritonBackend(CUDABackend):
    """``CUDABackend`` with Triton kernels, which read no more of the cache than is valid.

    A step is of the busy slots, filled up to a power of two. The cache is int8 where weights are: for 16 clips, it is
    most of what a step reads.
    """

    reads_masked = False
    has_int8_cache = True

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        # Of products, one after the other, by their number of outputs: what programs that share out the inputs have
        # added up, and how many of them have arrived.
        self.scratch: dict[int, tuple[Tensor, Tensor]] = {}

    def linear(self, matrix: "WeightBias", norm: "WeightBias | None" = None, gelu: bool = False) -> Linear:
        from audiocraft_ext.engine.backends.triton_linear import TritonLinear

        return TritonLinear(matrix, norm, gelu, self)

    def attention(self, cache: KVCache, rows: Tensor) -> StepAttention:
        return TritonAttention(cache, rows)

    def prepare(self, step: "Step") -> None:
        from audiocraft_ext.engine.backends import triton_inputs

        assert isinstance(step.attention, TritonAttention)
        tables = step.transformer.embeddings, step.transformer.sines, step.transformer.rotary
        triton_inputs.prepare(step.table, step.row_slots, tables, step.inputs, step.rotary, step.attention.lengths)

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

        n_heads, head_dim = cache.keys[0].shape[1], cache.head_dim
        self.cache, self.rows = cache, rows
        self.lengths = torch.zeros_like(rows)
        self._attend = Attend(len(rows), n_heads, head_dim, cache.n_positions, rows.device)
        self._cross_attend = Attend(len(rows), n_heads, head_dim, max(cache.cross_capacity, 1), rows.device)

    def update(self, positions: Tensor) -> None:
        self.lengths.copy_(torch.where(positions == self.cache.n_positions - 1, 0, positions + 1))

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        return self._attend(qkv[:, 0], keys, values, self.rows, self.lengths, qkv[:, 1:])

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        keys, values = self.cache.cross_keys[layer], self.cache.cross_values[layer]
        return self._cross_attend(query, keys, values, self.rows, self.cache.cross_lengths, None)
