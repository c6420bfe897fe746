"""The backend for CUDA: a whole step of plain torch's operations as one CUDA graph."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch

from audiocraft_ext.engine.backends.torch import CaptureError, ReplayError, TorchBackend

if TYPE_CHECKING:
    from audiocraft_ext.engine.step import Step

_N_WARM_UPS = 3
# Of the free memory, for the slots. The rest is for the codec, the text encoder and cross-attention, which for a window
# of 30 s takes a third as much as the slots at most.
_MEMORY_SHARE = 0.6
# Of streams: a codec's long kernels, on the default stream, would delay each of a step's short ones. Kernels in a graph
# keep that of the stream that they were captured on.
_HIGH_PRIORITY = -1
# A capture begins by synchronising the device and freeing memory, which must not happen within another engine's.
_capture_lock = threading.Lock()


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
        self._pool: Any = None

    def capture(self, step: "Step") -> Callable[[], None]:
        if not self.captures:
            return step.run_eagerly
        # One for all graphs, which are replayed one at a time and leave nothing in it that another reads.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        return CUDAGraphStep(step, self._pool)

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


def slots_that_fit(n_bytes: int, slot_bytes: int, n_requested: int) -> int:
    """`n_requested` slots, or the largest power of two of them that fits into `n_bytes`; at least one.

    How a product adds up may depend on its number of rows: with a little more or less memory at the next start, the
    same seed must give the same file.
    """
    n_fitting = max(1, n_bytes // slot_bytes)
    return n_requested if n_requested <= n_fitting else 1 << (n_fitting.bit_length() - 1)


class CUDAGraphStep:
    """A step as one CUDA graph, replayed with a single launch."""

    def __init__(self, step: "Step", pool: Any) -> None:
        self._step, self._pool = step, pool
        self._graph: torch.cuda.CUDAGraph | None = None
        self._last_replay = torch.cuda.Event()

    def __call__(self) -> None:
        if self._graph is None:
            self._graph = self._capture()
        try:
            self._graph.replay()
            # The host stays one step ahead: enough to keep the device busy, little enough to stop a cancelled job at
            # once.
            self._last_replay.synchronize()  # at the first, there is nothing to wait for
            self._last_replay.record()
        except Exception as error:
            raise ReplayError(f"A captured step failed: {type(error).__name__}: {error}") from error

    def _capture(self) -> torch.cuda.CUDAGraph:
        is_active, stream = self._step.table.is_active, torch.cuda.current_stream()
        was_active = is_active.clone()
        is_active.zero_()  # meanwhile no slot advances
        try:
            with _capture_lock:
                return self._record()
        except Exception as error:
            # torch leaves neither the stream nor the pool of a capture that cannot be ended.
            torch.cuda.set_stream(stream)
            with suppress(RuntimeError):  # of one that never began, or was ended, the first raises
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
                torch._C._cuda_releasePool(torch.cuda.current_device(), self._pool)
            raise CaptureError(f"{type(error).__name__}: {error}") from error
        finally:
            is_active.copy_(was_active)

    def _record(self) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream(priority=_HIGH_PRIORITY)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_N_WARM_UPS):
                self._step.run_eagerly()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads decode audio and compute conditions meanwhile: only this thread's calls are checked.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            self._step.run_eagerly()
        return graph
