"""The interface of a backend: what the engine asks of the device that it runs on. Knows nothing of jobs.

A row of any result depends on the same row of the inputs alone, added up in a fixed order: that is what makes a job's
tokens the same alone and in company. A backend that needs a fixed number of rows for it steps all slots.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from audiocraft_ext.engine.backends.threads import set_own_num_threads
from audiocraft_ext.engine.kv_cache import KVCache

if TYPE_CHECKING:
    from audiocraft_ext.engine.step import Step

NORM_EPS = 1e-5
# A narrower model's operations are too short to be divided among cores: threads wait for each other longer than they
# work, most of all where another program uses a core (benchmarks/LOG.md).
_MIN_DIM_OF_ALL_CORES = 512

# x [B, in] → x W^T + b [B, out]
Linear = Callable[[Tensor], Tensor]


class Attention(Protocol):
    """Attention of the inputs of one pass, layer by layer."""

    def self_attention(self, layer: int, qkv: Tensor) -> Tensor:
        """[B, H Dh] from [B, 3, H, Dh]; keys and values go to the cache first."""

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        """[B, H Dh] from [B, H, Dh]."""


class StepAttention(Attention, Protocol):
    """Attention of one position of each of some rows."""

    def update(self, positions: Tensor) -> None:
        """Set the position [B] of each row's input; the cache's last one is an idle row's."""


class EagerStep:
    """A step that is not captured: each operation is called by itself."""

    def __init__(self, step: "Step") -> None:
        self._step = step

    def run(self) -> None:
        self._step.prepare()
        self._step.forward()
        self._step.sample()

    def reset(self) -> None:
        """Drop what was captured: some tensor has been reallocated. The next run captures again."""


class Backend(ABC):
    """One device, and the fastest way to compute there what a decoding step needs."""

    prefill_positions = 128  # of a prompt, fed between two steps of the others: a newcomer must not delay them
    steps_all_slots = True  # at every step, idle ones too; else the busy ones alone
    is_host = True  # reading a value of a tensor waits for nothing
    reads_masked = True  # attention multiplies positions beyond a row's length by 0: NaN there must be cleared

    def __init__(self, device: torch.device, dtype: torch.dtype, dim: int, is_int8: bool, captures: bool) -> None:
        """`dtype` is that of weights and activations; residuals are fp32. `is_int8` asks for weights in int8."""
        self.device, self.dtype, self.is_int8, self.captures = device, dtype, is_int8, captures
        self._n_threads = torch.get_num_threads() if dim >= _MIN_DIM_OF_ALL_CORES else 1

    @abstractmethod
    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """The product with a weight [out, in] and bias [out], in its fastest form."""

    @abstractmethod
    def add_norm(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Add y [B, D] to the fp32 residual x [B, D] in place; its layer norm [B, D] in ``dtype``."""

    @abstractmethod
    def apply_rotary(self, qkv: Tensor, factors: Tensor) -> Tensor:
        """[B, 3, H, Dh] with queries and keys rotated by complex factors [B, Dh / 2]; may overwrite qkv."""

    @abstractmethod
    def gelu(self, x: Tensor) -> Tensor:
        """Exact GELU of x [B, D]; may overwrite it."""

    @abstractmethod
    def attention(self, cache: KVCache, rows: Tensor) -> StepAttention:
        """A step's attention for rows [B] of the cache; what `rows` contains may change between steps."""

    @property
    def cache_dtype(self) -> torch.dtype:
        return self.dtype

    def capture(self, step: "Step") -> EagerStep:
        """The step as it is run: captured when it first runs, and replayed from then on."""
        return EagerStep(step)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def to_host(self, x: Tensor) -> Tensor:
        return x.cpu()

    def fitting_slots(self, n_requested: int, slot_bytes: int) -> int:
        """As many slots as requested, or fewer: those whose rows keep apart, and that fit into the free memory."""
        del n_requested, slot_bytes
        return 1  # idle slots cost as much as busy ones

    def synchronize_caller(self) -> None:  # noqa: B027, nothing is queued where the host computes
        """Wait for what the calling thread has queued on the device: the engine's thread reads it."""

    @contextmanager
    def engine_thread(self) -> Iterator[None]:
        """The context of the engine's thread: its cores, its stream."""
        set_own_num_threads(self._n_threads)
        yield
