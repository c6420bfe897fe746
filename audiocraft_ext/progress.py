"""The progress of one prediction: tqdm lines for its log, its time in the queue, and cancellation.

The lines have the form from which Replicate's clients read a percentage, ``37%|███▋      | 148/400 [...]``. They parse
the last matching line of the log and split at newlines only: a bar redrawn after carriage returns stays at 0 % there.
"""

import contextvars
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from audiocraft_ext.errors import Cancelled

_LINE_EVERY_S = 2.0
_LOCK_POLL_S = 0.1


class _Line:
    """The count of one unit. Of tqdm only the format: its bars share a lock, which a failing one keeps."""

    def __init__(self, total: int, unit: str, context: contextvars.Context) -> None:
        self.n = 0
        self._context = context
        self._total = total
        self._unit = unit
        self._started_at = self._shown_at = time.monotonic()
        self._n_shown = 0

    def update(self, n: int) -> None:
        self.n = n
        if n == self._total or time.monotonic() - self._shown_at >= _LINE_EVERY_S:
            self.show()

    def show(self) -> None:
        """Print the line, if it has changed."""
        if self.n > self._n_shown:
            self._n_shown = self.n
            self._shown_at = time.monotonic()
            elapsed_s = self._shown_at - self._started_at
            line = tqdm.format_meter(self.n, self._total, elapsed_s, unit=self._unit)
            self._context.copy().run(print, line, file=sys.stderr, flush=True)


class Progress:
    """Updated by the threads that do the work, stopped from any other.

    ``queue_s`` is the time it waited, for a thread and for the engine. Each unit of work, frames and then the passes of
    MultiBand Diffusion, has a line of its own.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._stop_lock = threading.RLock()
        self._on_cancel: list[Callable[[], None]] = []
        # cog assigns output to predictions by their context; the engine's thread counts frames outside it.
        self._context = contextvars.copy_context()
        self._lines: dict[str, _Line] = {}
        self._queued_at: float | None = None
        self.queue_s = 0.0

    @property
    def n_frames(self) -> int:
        """Frames generated so far."""
        return self._lines["frame"].n if "frame" in self._lines else 0

    def enqueue(self) -> None:
        """Start counting ``queue_s``, until ``dequeue`` or the next ``update``."""
        self._queued_at = time.monotonic()

    def dequeue(self) -> None:
        """Work begins. Raises ``Cancelled``."""
        self.check()
        if self._queued_at is not None:
            self.queue_s += time.monotonic() - self._queued_at
            self._queued_at = None

    def stop(self) -> None:
        """Cancel: the next ``check`` raises, and the callbacks of ``on_cancel`` are called."""
        with self._stop_lock:
            self._stopped.set()
            for callback in self._on_cancel:
                callback()

    @contextmanager
    def on_cancel(self, callback: Callable[[], None]) -> Iterator[None]:
        """``stop`` calls ``callback``, in the thread that stops, so it must be quick. Raises ``Cancelled``."""
        with self._stop_lock:
            self.check()
            self._on_cancel.append(callback)
        try:
            yield
        finally:
            with self._stop_lock:
                self._on_cancel.remove(callback)

    def check(self) -> None:
        """Raise ``Cancelled`` if ``stop`` was called."""
        if self._stopped.is_set():
            raise Cancelled

    @contextmanager
    def acquire(self, lock: threading.Lock) -> Iterator[None]:
        """Acquire a lock, and release it at the end; raises ``Cancelled`` while it waits."""
        while not lock.acquire(timeout=_LOCK_POLL_S):
            self.check()
        try:
            yield
        finally:
            lock.release()

    def update(self, n: int, total: int, unit: str = "frame") -> None:
        """``n`` of ``total`` are done; prints a line every two seconds at most. Raises ``Cancelled``."""
        self.dequeue()
        if unit not in self._lines:
            self._lines[unit] = _Line(total, unit, self._context)
        self._lines[unit].update(n)

    def close(self) -> None:
        """Print the final counts."""
        for line in self._lines.values():
            line.show()


class SilentProgress(Progress):
    """Progress of the server's own probes: it can be stopped, and prints nothing."""

    def update(self, n: int, total: int, unit: str = "frame") -> None:
        self.dequeue()
