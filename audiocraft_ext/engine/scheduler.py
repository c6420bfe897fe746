"""Who is decoded next: jobs wait in line, take a free slot, are fed their prompt in pieces, then step together.

Host-side bookkeeping alone: no tensor is touched here.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Job:
    """One clip to make, at most a window long.

    prompt [K, T0] of codes that are given; prefix [R, P, D] and cross [R, T', D] are the conditions as the transformer
    takes them, R = 2 (with and without the caller's conditions) or 1 without guidance. `noise_step` is how many steps
    the same seed has sampled before. `on_step(done, total)` is called after each step, and with zeros in line; what it
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
        """Positions T' that are cross-attended to."""
        return 0 if self.cross is None else self.cross.shape[1]


@dataclass(eq=False)
class Running:
    """A job in its slot: `step` comes next, `n_prefilled` of its `inputs` [R, P + first step, D] are in the cache."""

    job: Job
    future: Future[Tensor]
    submitted_at: float = field(default_factory=time.monotonic)
    slot: int = -1
    first_step: int = 0
    step: int = 0
    stop: int = 0
    inputs: Tensor | None = None
    n_prefilled: int = 0

    @property
    def is_prefilling(self) -> bool:
        return self.inputs is not None

    def report(self) -> None:
        """Tells the job how far it is; raises what the job raises."""
        self.job.on_step(self.step - self.first_step, self.stop - self.first_step)


class Scheduler:
    """N slots, and the line before them. ``submit`` and ``close`` may be called from any thread, all else from one."""

    def __init__(self, n_slots: int) -> None:
        self.slots: list[Running | None] = [None] * n_slots
        self._waiting: deque[Running] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def submit(self, job: Job) -> Future[Tensor]:
        """Puts a job in line; its frames [K, T] come by the future."""
        entry = Running(job, Future())
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.append(entry)
            self._changed.notify()
        return entry.future

    def close(self) -> None:
        """Lets ``wait`` return False; what is unfinished is cancelled by the engine's thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def wait(self) -> bool:
        """Sleeps until there is something to do; False once closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._waiting or any(entry is not None for entry in self.slots)
            )
            return not self._closed

    def admit(self) -> Iterator[Running]:
        """Jobs that have just got a slot, in the order in which they came."""
        while None in self.slots:
            with self._changed:
                if not self._waiting:
                    return
                entry = self._waiting.popleft()
            entry.slot = self.slots.index(None)
            self.slots[entry.slot] = entry
            yield entry

    def waiting(self) -> list[Running]:
        """The line, as it is now."""
        with self._changed:
            return list(self._waiting)

    def prefilling(self) -> Running | None:
        """Whose prompt is fed next: the job that has been in its slot longest."""
        entries = [entry for entry in self.slots if entry is not None and entry.is_prefilling]
        return min(entries, key=lambda entry: entry.submitted_at, default=None)

    def decoding(self) -> list[Running]:
        """Jobs whose prompts are in the cache, by slot."""
        return [entry for entry in self.slots if entry is not None and not entry.is_prefilling]

    def finish(self, entry: Running, outcome: Tensor | BaseException) -> None:
        """Frees a job's slot or place in line and hands over what became of it."""
        if entry.slot >= 0:
            self.slots[entry.slot] = None
        else:
            with self._changed:
                self._waiting.remove(entry)
        if isinstance(outcome, BaseException):
            entry.future.set_exception(outcome)
        else:
            entry.future.set_result(outcome)
