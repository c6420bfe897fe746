"""How far one prediction is: tqdm's line for its logs, now and then, and the flag that stops it.

The line has the form that Replicate's clients read a percentage from, ``37%|███▋      | 148/400 [...]``. They take the
last line of the logs that matches, and split at newlines only: a bar redrawn after carriage returns stays at 0 % there.
"""

import sys
import threading

from tqdm import tqdm

from audiocraft_ext.errors import Cancelled


class _Line(tqdm):
    # tqdm's monitor thread would redraw a stalled line into the logs of whichever prediction runs then.
    monitor_interval = 0

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """A line of its own for each state, and none for the start."""
        if self.n > 0:
            print(msg or str(self), file=self.fp, flush=True)


class Progress:
    """The frames of one prediction, counted by the thread that makes them and stopped from any other.

    ``queue_s`` is how long it waited in line for the decoder.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._line: _Line | None = None
        self.n_frames = 0
        self.queue_s = 0.0

    def stop(self) -> None:
        """Makes the next ``check`` raise."""
        self._stopped.set()

    def check(self) -> None:
        """Raises ``Cancelled`` once ``stop`` was called."""
        if self._stopped.is_set():
            raise Cancelled

    def reach(self, n_frames: int, total: int) -> None:
        """``n_frames`` of ``total`` are made; a line is written every two seconds at most. Raises ``Cancelled``."""
        self.check()
        if self._line is None:
            self._line = _Line(total=total, unit="frame", mininterval=2, file=sys.stderr)
        self._line.update(n_frames - self.n_frames)
        self.n_frames = n_frames

    def close(self) -> None:
        """Ends the line."""
        if self._line is not None:
            self._line.refresh()
            self._line.disable = True  # tqdm's own close would add an empty line
