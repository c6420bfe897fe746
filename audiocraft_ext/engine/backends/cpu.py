"""The backend for a CPU: fp32 by compiled kernels (``cpu_kernels``), busy rows alone, the cache in int8 beside int8.

The engine's thread should be the only one that computes on several cores. OpenMP keeps a team of threads for each
thread that does, and puts them all to sleep between two operations once there are more of them than cores: a step of
300 small operations then takes almost twice as long.
"""

import math
import mmap
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from audiocraft_ext.engine.backends import cpu_kernels, llvm_jit
from audiocraft_ext.engine.backends.cpu_kernels import LANES, MAX_ROWS
from audiocraft_ext.engine.backends.threads import AdaptiveThreads
from audiocraft_ext.engine.backends.torch import Linear, StepAttention, TorchBackend
from audiocraft_ext.engine.kv_cache import ROWS_PER_SLOT, KVCache
from audiocraft_ext.engine.quantize import is_int8_exact, quantize

if TYPE_CHECKING:
    from audiocraft_ext.engine.step import Step
    from audiocraft_ext.engine.transformer import WeightBias


class CPUBackend(TorchBackend):
    """Compiled kernels; the cache is int8 where weights are: late steps of several clips read more of it."""

    reads_masked = False
    has_int8_cache = True
    apply_rotary = staticmethod(cpu_kernels.apply_rotary)

    def linear(self, matrix: "WeightBias", norm: "WeightBias | None" = None, gelu: bool = False) -> Linear:
        return CPULinear(matrix, norm, gelu, self.is_int8)

    def step_sizes(self, n_slots: int) -> list[int]:
        return []

    def attention(self, cache: KVCache, rows: Tensor) -> StepAttention:
        return CPUAttention(cache, rows)

    def capture(self, step: "Step") -> Callable[[], None]:
        # torch multiplies matrices of more rows, and its calls are not recorded.
        return RecordedStep(step) if self.captures and step.n_rows <= MAX_ROWS else step.run_eagerly

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Fresh pages, which the system provides when they are written to: unused positions cost nothing."""
        return torch.frombuffer(mmap.mmap(-1, math.prod(shape) * dtype.itemsize), dtype=dtype).view(shape)

    def fitting_slots(self, n_requested: int, slot_bytes: int) -> int:
        del slot_bytes
        return min(n_requested, MAX_ROWS // ROWS_PER_SLOT)


class CPULinear(Linear):
    """A product by kernels; weights that int8 represents exactly are kept in int8 in any case.

    With int8 asked for, activations are rounded to 16 bits: 0.003 % of error beside the weights' 1 %.
    """

    def __init__(self, matrix: "WeightBias", norm: "WeightBias | None", gelu: bool, is_int8: bool) -> None:
        super().__init__(matrix, norm, gelu, torch.float32)
        weight, bias = matrix.weight, matrix.bias
        self._packed_dtype = torch.int16 if is_int8 and cpu_kernels.can_use_int16(weight.shape[1]) else torch.float32
        is_int8 = is_int8 or is_int8_exact(weight)
        self.weight, self.scale = quantize(weight) if is_int8 else (weight.contiguous(), torch.ones(len(weight)))
        self.bias: Tensor = torch.zeros(len(weight)) if bias is None else bias.contiguous()

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if len(x) > MAX_ROWS and self.weight.dtype != torch.int8:  # a prompt's
            return super().__call__(x, residual)
        if self.norm is not None:
            x = cpu_kernels.norm(x, self.norm.weight, self.norm.bias)
        return cpu_kernels.matmul(x, self.weight, self.scale, self.bias, residual, self.gelu, self._packed_dtype)


class CPUAttention(StepAttention):
    """A step's attention that reads each row up to its length."""

    def __init__(self, cache: KVCache, rows: Tensor) -> None:
        self.cache, self.rows = cache, rows
        self._lengths, self._cross_lengths = torch.zeros(2, len(rows), dtype=torch.int64)
        # A vector of -inf follows the last score.
        n_scores = max(cache.n_positions, cache.cross_capacity) + LANES
        self._scores = torch.empty(len(rows), cache.keys[0].shape[1], n_scores)

    def update(self, positions: Tensor) -> None:
        torch.add(positions, 1, out=self._lengths)
        torch.index_select(self.cache.cross_lengths, 0, self.rows, out=self._cross_lengths)
        self._cross_lengths.clamp_(min=1)  # the kernel reads a position at least: a null row's value there is 0

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        cached, new = (self.cache.keys[layer], self.cache.values[layer]), qkv[:, 1:]
        return cpu_kernels.attend(qkv[:, 0], *cached, new, self.rows, self._lengths, self._scores)

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        cached = self.cache.cross_keys[layer], self.cache.cross_values[layer]
        return cpu_kernels.attend(query, *cached, None, self.rows, self._cross_lengths, self._scores)


class RecordedStep:
    """A step whose kernel calls are recorded once and replayed by one. MusicGen small's has 300: 6 ms of Python."""

    def __init__(self, step: "Step") -> None:
        self._step = step
        self._replay: Callable[[int], None] | None = None
        self._threads = AdaptiveThreads(torch.get_num_threads())

    def __call__(self) -> None:
        self._step.prepare()
        if self._replay is None:  # also after one that failed half-way
            self._replay = llvm_jit.record(self._step.forward)
        else:
            start = time.perf_counter()
            self._replay(self._threads.n)
            self._threads.record(time.perf_counter() - start)
        self._step.sample()
