"""How far one prediction is: a tqdm line for its logs, and the flag that stops it.

The line has the form that Replicate's clients read a percentage from: ``37%|███▋      | 148/400 [...]``.
"""

import sys
import threading

from tqdm import tqdm

from audiocraft_ext.errors import Cancelled


class _Line(tqdm):
    # tqdm's monitor thread would redraw a stalled line into the logs of whichever prediction runs then.
    monitor_interval = 0


class Progress:
    """The frames of one prediction, counted by the thread that makes them and stopped from any other."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._line: _Line | None = None
        self.n_frames = 0

    def stop(self) -> None:
        """Makes the next ``check`` raise."""
        self._stopped.set()

    def check(self) -> None:
        """Raises ``Cancelled`` once ``stop`` was called."""
        if self._stopped.is_set():
            raise Cancelled

    def reach(self, n_frames: int, total: int) -> None:
        """``n_frames`` of ``total`` are made; a line is written at most once a second. Raises ``Cancelled``."""
        self.check()
        if self._line is None:
            # Position 0 for all: tqdm would move the cursor up and down between the lines of concurrent predictions.
            self._line = _Line(total=total, unit="frame", mininterval=1, position=0, file=sys.stderr)
        self._line.update(n_frames - self.n_frames)
        self.n_frames = n_frames

    def close(self) -> None:
        """Ends the line."""
        if self._line is not None:
            self._line.close()
