"""Which job is decoded next: jobs wait in line, take a free slot, prefill their prompt in pieces, then decode together.

Host-side bookkeeping alone: no tensor is touched here.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum, auto
from heapq import heappop, heappush

from torch import Tensor


@dataclass(frozen=True)
class Job:
    """One clip to generate, at most a window long.

    prompt [K, T0] of given codes; prefix [R, P, D] and cross [R, T', D] are the conditions as the transformer takes
    them, R = 2 (with and without the caller's conditions) or 1 without guidance. `noise_step` is how many steps the
    same seed has sampled before. `on_step(done, total)` is called after each step, and with zeros while
    waiting; an exception from it ends the job.
    """

    prompt: Tensor
    n_frames: int
    prefix: Tensor
    cross: Tensor | None = None
    guidance: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    seed: int = 0
    noise_step: int = 0
    on_step: Callable[[int, int], None] = lambda done, total: None

    @property
    def n_rows(self) -> int:
        """Rows R of the transformer that this job takes."""
        return self.prefix.shape[0]

    @property
    def cross_length(self) -> int:
        """Cross-attention positions T'."""
        return 0 if self.cross is None else self.cross.shape[1]


class Status(Enum):
    """Where a job in flight is: each comes after the one before, and any may be followed by the last."""

    WAITING = auto()
    PREFILLING = auto()
    DECODING = auto()
    FINISHED = auto()


@dataclass(eq=False)
class Sequence:
    """A job in flight: `step` comes next, `n_prefilled` of its `inputs` [R, P + first step, D] are in the cache."""

    job: Job
    uniform_bits: Tensor  # [S', K] of the steps to sample
    future: Future[Tensor]
    status: Status = Status.WAITING
    slot: int = -1
    first_step: int = 0
    step: int = 0
    stop: int = 0
    inputs: Tensor | None = None
    n_prefilled: int = 0

    def report(self) -> None:
        """Tell the job how far it is; raises what the job raises."""
        self.job.on_step(self.step - self.first_step, self.stop - self.first_step)


class Scheduler:
    """N slots and the jobs in flight. ``submit`` and ``close`` may be called from any thread, all else from one."""

    def __init__(self, n_slots: int) -> None:
        self._free = list(range(n_slots))  # a heap: a slot that was never used has taken no memory yet
        self._sequences: list[Sequence] = []  # in order of submission
        self._changed = threading.Condition()
        self._closed = False

    def submit(self, job: Job, uniform_bits: Tensor) -> Future[Tensor]:
        """Put a job in line, with its noise; the future gives its frames [K, T]."""
        sequence = Sequence(job, uniform_bits, Future())
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._sequences.append(sequence)
            self._changed.notify()
        return sequence.future

    def close(self) -> None:
        """Let ``wait`` return False; the engine's thread ends unfinished jobs."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def wait(self) -> bool:
        """Sleep until there is something to do; False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._sequences)
            return not self._closed

    def unfinished(self, status: Status | None = None) -> list[Sequence]:
        """Every job of a status, or of any, in order of submission."""
        with self._changed:
            return [sequence for sequence in self._sequences if status in (None, sequence.status)]

    def admit(self) -> list[Sequence]:
        """Give free slots to the jobs in line, first come first served."""
        admitted = self.unfinished(Status.WAITING)[: len(self._free)]
        for sequence in admitted:
            sequence.slot, sequence.status = heappop(self._free), Status.PREFILLING
        return admitted

    def finish(self, sequence: Sequence, outcome: Tensor | BaseException) -> None:
        """Free a job's slot or place in line, and set its future to the outcome."""
        with self._changed:
            self._sequences.remove(sequence)
        if sequence.status is not Status.WAITING:
            heappush(self._free, sequence.slot)
        sequence.status = Status.FINISHED
        if isinstance(outcome, BaseException):
            sequence.future.set_exception(outcome)
        else:
            sequence.future.set_result(outcome)
