"""The backends for CUDA: a whole step as one CUDA graph, of plain torch's operations or with Triton's kernels."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from audiocraft_ext.engine.backends.torch import NORM_EPS, CaptureError, Linear, StepAttention, TorchBackend
from audiocraft_ext.engine.kv_cache import KVCache
from audiocraft_ext.engine.quantize import dequantize, quantize

if TYPE_CHECKING:
    from audiocraft_ext.engine.slots import SlotTable
    from audiocraft_ext.engine.step import Step

_N_WARM_UPS = 3
# Of the free memory, for the slots. The rest is for the codec, the text encoder and cross-attention, which for a window
# of 30 s takes a third as much as the slots at most.
_MEMORY_SHARE = 0.6
# Of streams: a codec's long kernels, on the default stream, would delay each of a step's short ones. Kernels in a graph
# keep that of the stream that they were captured on.
_HIGH_PRIORITY = -1


class CUDABackend(TorchBackend):
    """Plain torch in a CUDA graph, on a stream of its own."""

    prefill_positions = 1024
    is_host = False
    is_self_checked = True
    cross_positions = 128

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        # Sums in half precision, by which cuBLAS may join the parts of a product, would differ from plain ones.
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False

    def capture(self, step: "Step") -> Callable[[], None]:
        return CUDAGraphStep(step) if self.captures else step.run_eagerly

    def fitting_slots(self, n_requested: int, slot_bytes: int) -> int:
        free, _ = torch.cuda.mem_get_info(self.device)
        # Memory that torch's allocator has reserved and not handed out is free too.
        free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return slots_that_fit(int(_MEMORY_SHARE * free), slot_bytes, n_requested)

    def synchronize_caller(self) -> None:
        torch.cuda.current_stream(self.device).synchronize()

    @contextmanager
    def engine_thread(self) -> Iterator[None]:
        # cuDNN's attention plans each new shape, and prompts are of any length.
        torch.backends.cuda.enable_cudnn_sdp(False)
        # On the default stream, codecs decode and conditions are computed meanwhile.
        stream = torch.cuda.Stream(self.device, priority=_HIGH_PRIORITY)
        with super().engine_thread(), torch.cuda.stream(stream):
            yield
            with suppress(RuntimeError):
                torch.cuda.current_stream().synchronize()  # before what it reads is freed


class TritonBackend(CUDABackend):
    """``CUDABackend`` with Triton kernels, which read no more of the cache than is valid."""

    _n_arrived = torch.empty(0)  # made for the first table

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """In int8, by a kernel for the rows of a step; for a prompt's many rows, the weight is dequantised."""
        if not self.is_int8:
            return super().linear(weight, bias)
        from audiocraft_ext.engine.backends import triton_kernels

        integers, scale = quantize(weight)

        def product(x: Tensor) -> Tensor:
            if len(x) > triton_kernels.MAX_MATMUL_ROWS:
                return functional.linear(x, dequantize(integers, scale).to(x.dtype), bias)
            y = triton_kernels.matmul_int8(x, integers, scale)
            return y if bias is None else y + bias

        return product

    def add_norm(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        from audiocraft_ext.engine.backends import triton_kernels

        return triton_kernels.add_norm(x, y, weight, bias, NORM_EPS, self.dtype)

    def attention(self, cache: KVCache, rows: Tensor) -> StepAttention:
        return TritonAttention(cache, rows)

    def sample(self, table: "SlotTable", slots: Tensor, logits: Tensor, rows: tuple[Tensor, Tensor]) -> None:
        from audiocraft_ext.engine.backends import triton_sampling

        if self._n_arrived.shape != table.step.shape:
            self._n_arrived = torch.zeros_like(table.step, dtype=torch.int32)
        triton_sampling.sample(table, slots, logits, rows, self._n_arrived)


def slots_that_fit(n_bytes: int, slot_bytes: int, n_requested: int) -> int:
    """`n_requested` slots, or the largest power of two of them that fits into `n_bytes`; at least one.

    How a product adds up may depend on its number of rows: with a little more or less memory at the next start, the
    same seed must give the same file.
    """
    n_fitting = max(1, n_bytes // slot_bytes)
    return n_requested if n_requested <= n_fitting else 1 << (n_fitting.bit_length() - 1)


class TritonAttention(StepAttention):
    """A step's attention, split over each row's valid positions; for all rows of the cache, in order."""

    def __init__(self, cache: KVCache, rows: Tensor) -> None:
        from audiocraft_ext.engine.backends.triton_kernels import Attend

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


class CUDAGraphStep:
    """A step as one CUDA graph, replayed with a single launch."""

    def __init__(self, step: "Step") -> None:
        self._step = step
        self._graph: torch.cuda.CUDAGraph | None = None
        self._last_replay = torch.cuda.Event()

    def __call__(self) -> None:
        if self._graph is None:
            self._graph = self._capture()
        self._graph.replay()
        # The host stays one step ahead: enough to keep the device busy, little enough to stop a cancelled job at once.
        self._last_replay.synchronize()  # at the first, there is nothing to wait for
        self._last_replay.record()

    def _capture(self) -> torch.cuda.CUDAGraph:
        is_active, stream = self._step.table.is_active, torch.cuda.current_stream()
        was_active, pool = is_active.clone(), torch.cuda.graph_pool_handle()
        is_active.zero_()  # meanwhile no slot advances
        try:
            return self._record(pool)
        except Exception as error:
            # torch leaves neither the stream nor the pool of a capture that cannot be ended.
            torch.cuda.set_stream(stream)
            for release in (torch._C._cuda_endAllocateToPool, torch._C._cuda_releasePool):
                with suppress(RuntimeError):  # it was released, or never begun
                    release(torch.cuda.current_device(), pool)
            raise CaptureError(f"{type(error).__name__}: {error}") from error
        finally:
            is_active.copy_(was_active)

    def _record(self, pool: Any) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream(priority=_HIGH_PRIORITY)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_N_WARM_UPS):
                self._step.run_eagerly()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads decode audio and compute conditions meanwhile: only this thread's calls are checked.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._step.run_eagerly()
        return graph
