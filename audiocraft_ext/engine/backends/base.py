"""The interface of a backend: what the engine asks of the device that it runs on. Knows nothing of jobs.

A row of any result depends on the same row of the inputs alone, added up in a fixed order: that is what makes a job's
tokens the same alone and in company. A backend that needs a fixed number of rows for it steps all slots.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from audiocraft_ext.engine.kv_cache import KVCache

NORM_EPS = 1e-5

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


class Step(Protocol):
    """A decoding step in three parts, on tensors that stay where they are. The middle one is all layers and logits."""

    n_rows: int

    def prepare(self) -> None: ...

    def forward(self) -> None: ...

    def sample(self) -> None: ...

    def idle(self) -> AbstractContextManager[None]:
        """Within, running the step changes the state of no slot."""


class CapturedStep(Protocol):
    """A step that is captured when it first runs, and replayed from then on."""

    def run(self) -> None: ...

    def reset(self) -> None:
        """Drop what was captured: some tensor has been reallocated."""


class Backend(Protocol):
    """One device, and the fastest way to compute there what a decoding step needs."""

    device: torch.device
    dtype: torch.dtype  # of weights and activations; residuals are fp32
    cache_dtype: torch.dtype
    prefill_positions: int  # of a prompt, fed between two steps of the others: a newcomer must not hold them up
    steps_all_slots: bool  # at every step, idle ones too; else the busy ones alone
    is_host: bool  # reading a value of a tensor waits for nothing
    reads_masked: bool  # attention multiplies positions beyond a row's length by 0: NaN there must be cleared

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """The product with a weight [out, in] and bias [out], in its fastest form."""

    def add_norm(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Add y [B, D] to the fp32 residual x [B, D] in place; its layer norm [B, D] in ``dtype``."""

    def apply_rotary(self, qkv: Tensor, factors: Tensor) -> Tensor:
        """[B, 3, H, Dh] with queries and keys rotated by complex factors [B, Dh / 2]; may overwrite qkv."""

    def gelu(self, x: Tensor) -> Tensor:
        """Exact GELU of x [B, D]; may overwrite it."""

    def attention(self, cache: KVCache, rows: Tensor) -> StepAttention:
        """A step's attention for rows [B] of the cache; what `rows` contains may change between steps."""

    def capture(self, step: Step) -> CapturedStep: ...

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor: ...

    def to_host(self, x: Tensor) -> Tensor: ...

    def fitting_slots(self, n_requested: int, slot_bytes: int) -> int:
        """As many slots as requested, or fewer: those whose rows keep apart, and that fit into the free memory."""

    def synchronize_caller(self) -> None:
        """Wait for what the calling thread has queued on the device: the engine's thread reads it."""

    def engine_thread(self) -> AbstractContextManager[None]:
        """What the engine's thread runs in: its cores, its stream."""
