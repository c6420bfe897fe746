"""The backend for CUDA with Triton's kernels, in the same graph."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from audiocraft_ext.engine.backends.cuda import CUDABackend
from audiocraft_ext.engine.backends.torch import Linear, StepAttention
from audiocraft_ext.engine.kv_cache import KVCache

if TYPE_CHECKING:
    from audiocraft_ext.engine.slots import SlotTable
    from audiocraft_ext.engine.transformer import Transformer, WeightBias


class TritonBackend(CUDABackend):
    """``CUDABackend`` with Triton kernels, which read no more of the cache than is valid."""

    _n_arrived = torch.empty(0)  # made for the first table

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

    def prepare(
        self,
        transformer: "Transformer",
        table: "SlotTable",
        slots: Tensor,
        inputs: Tensor,
        rotary: Tensor | None,
        attention: StepAttention,
    ) -> None:
        from audiocraft_ext.engine.backends import triton_inputs

        assert isinstance(attention, TritonAttention)
        tables = transformer.embeddings, transformer.sines, transformer.rotary
        triton_inputs.prepare(table, slots, tables, inputs, rotary, attention.lengths)

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
        self.lengths = torch.zeros_like(rows)
        self._attend = Attend(n_rows, n_heads, head_dim, cache.n_positions, rows.device)
        self._cross_attend = Attend(n_rows, n_heads, head_dim, max(cache.cross_capacity, 1), rows.device)

    def update(self, positions: Tensor) -> None:
        self.lengths.copy_(torch.where(positions == self.cache.n_positions - 1, 0, positions + 1))

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        return self._attend(qkv[:, 0], keys, values, self.lengths, qkv[:, 1:])

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        keys, values = self.cache.cross_keys[layer], self.cache.cross_values[layer]
        return self._cross_attend(query, keys, values, self.cache.cross_lengths, None)
