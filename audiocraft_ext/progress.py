"""How far one prediction is: tqdm's line for its logs, now and then, and the flag that stops it.

The line has the form that Replicate's clients read a percentage from, ``37%|███▋      | 148/400 [...]``. They take the
last line of the logs that matches, and split at newlines only: a bar redrawn after carriage returns stays at 0 % there.
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
    """One kind of step, counted. Of tqdm the line alone: its bars share a lock, which one that fails keeps."""

    def __init__(self, total: int, unit: str, context: contextvars.Context) -> None:
        self.n = 0
        self._context = context
        self._total = total
        self._unit = unit
        self._started_at = self._shown_at = time.monotonic()
        self._n_shown = 0

    def reach(self, n: int) -> None:
        self.n = n
        if n == self._total or time.monotonic() - self._shown_at >= _LINE_EVERY_S:
            self.show()

    def show(self) -> None:
        """Writes the line, if it says anything new."""
        if self.n > self._n_shown:
            self._n_shown = self.n
            self._shown_at = time.monotonic()
            elapsed_s = self._shown_at - self._started_at
            line = tqdm.format_meter(self.n, self._total, elapsed_s, unit=self._unit)
            self._context.copy().run(print, line, file=sys.stderr, flush=True)


class Progress:
    """The frames of one prediction, counted by the thread that makes them and stopped from any other.

    ``queue_s`` is how long it waited in line, for a thread and for the decoder. What comes after the frames and takes
    its time, the passes of MultiBand Diffusion, has a line of its own.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._stop_lock = threading.RLock()
        self._on_cancel: list[Callable[[], None]] = []
        # cog tells predictions' logs apart by their context, and the engine's thread, which counts frames, has none.
        self._context = contextvars.copy_context()
        self._lines: dict[str, _Line] = {}
        self._asked_at = time.monotonic()
        self.queue_s = 0.0

    @property
    def n_frames(self) -> int:
        """The frames made so far."""
        return self._lines["frame"].n if "frame" in self._lines else 0

    def begin(self) -> None:
        """Its work begins; until now it has waited. Raises ``Cancelled``."""
        self.check()
        self.queue_s += time.monotonic() - self._asked_at

    def stop(self) -> None:
        """Make the next ``check`` raise, and call what ``on_cancel`` registered."""
        with self._stop_lock:
            self._stopped.set()
            for callback in self._on_cancel:
                callback()

    @contextmanager
    def on_cancel(self, callback: Callable[[], None]) -> Iterator[None]:
        """Within, ``stop`` calls ``callback`` in its own thread, so it must be quick. Raises ``Cancelled``."""
        with self._stop_lock:
            self.check()
            self._on_cancel.append(callback)
        try:
            yield
        finally:
            with self._stop_lock:
                self._on_cancel.remove(callback)

    def check(self) -> None:
        """Raises ``Cancelled`` once ``stop`` was called."""
        if self._stopped.is_set():
            raise Cancelled

    @contextmanager
    def holding(self, lock: threading.Lock) -> Iterator[None]:
        """Within, the lock is held; who waits for it is still stopped. Raises ``Cancelled``."""
        while not lock.acquire(timeout=_LOCK_POLL_S):
            self.check()
        try:
            yield
        finally:
            lock.release()

    def reach(self, n: int, total: int, unit: str = "frame") -> None:
        """``n`` of ``total`` are made; a line is written every two seconds at most. Raises ``Cancelled``."""
        self.check()
        self._lines.setdefault(unit, _Line(total, unit, self._context)).reach(n)

    def close(self) -> None:
        """Writes how far it came."""
        for line in self._lines.values():
            line.show()


class SilentProgress(Progress):
    """That of the server's own trial clips: it can be stopped, and writes nothing."""

    def reach(self, n: int, total: int, unit: str = "frame") -> None:
        self.check()
