"""Which job is decoded next: jobs wait in line, take a free slot, prefill their prompt in pieces, then decode together.

Host-side bookkeeping alone: no tensor is touched here.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum, auto

from torch import Tensor


@dataclass(frozen=True)
class Job:
    """One clip to generate, at most a window long.

    prompt [K, T0] of given codes; prefix [R, P, D] and cross [R, T', D] are the conditions as the transformer takes
    them, R = 2 (with and without the caller's conditions) or 1 without guidance. `noise_step` is how many steps the
    same seed has sampled before. `on_step(done, total)` is called after each step, and with zeros in line; what it
    raises ends the job.
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
    future: Future[Tensor]
    status: Status = Status.WAITING
    submitted_at: float = field(default_factory=time.monotonic)
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
    """N slots and the line before them. ``submit`` and ``close`` may be called from any thread, all else from one."""

    def __init__(self, n_slots: int) -> None:
        self._slots: list[Sequence | None] = [None] * n_slots
        self._waiting: deque[Sequence] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def submit(self, job: Job) -> Future[Tensor]:
        """Put a job in line; the future gives its frames [K, T]."""
        sequence = Sequence(job, Future())
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.append(sequence)
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
            self._changed.wait_for(lambda: self._closed or self._waiting or any(self._slots))
            return not self._closed

    def admit(self) -> Iterator[Sequence]:
        """Give free slots to the jobs in line, first come first served."""
        while None in self._slots:
            with self._changed:
                if not self._waiting:
                    return
                sequence = self._waiting.popleft()
            sequence.slot, sequence.status = self._slots.index(None), Status.PREFILLING
            self._slots[sequence.slot] = sequence
            yield sequence

    def waiting(self) -> list[Sequence]:
        """The line, as it is now."""
        with self._changed:
            return list(self._waiting)

    def prefilling(self) -> Sequence | None:
        """The job whose prompt is fed next: the earliest submitted."""
        sequences = self._with(Status.PREFILLING)
        return min(sequences, key=lambda sequence: sequence.submitted_at, default=None)

    def decoding(self) -> list[Sequence]:
        """Jobs whose prompts are in the cache, by slot."""
        return self._with(Status.DECODING)

    def unfinished(self) -> list[Sequence]:
        """Every job in a slot or in line."""
        return [*filter(None, self._slots), *self.waiting()]

    def _with(self, status: Status) -> list[Sequence]:
        return [sequence for sequence in self._slots if sequence is not None and sequence.status is status]

    def finish(self, sequence: Sequence, outcome: Tensor | BaseException) -> None:
        """Free a job's slot or place in line, and set its future to the outcome."""
        if sequence.status is Status.WAITING:
            with self._changed:
                self._waiting.remove(sequence)
        else:
            self._slots[sequence.slot] = None
        sequence.status = Status.FINISHED
        if isinstance(outcome, BaseException):
            sequence.future.set_exception(outcome)
        else:
            sequence.future.set_result(outcome)
