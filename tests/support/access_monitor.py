"""A file and a URL on this machine, and whoever opens one of them. Knows nothing of who might. Linux only (inotify)."""

import ctypes
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.support.broken_files import wav
from tests.support.malicious_files import Bait

_IN_ACCESS, _IN_OPEN = 0x1, 0x20


class Witness:
    """As a context: lays ``bait`` in a folder, and counts ``n_opened`` and ``n_connected`` from then on."""

    def __init__(self, folder: Path) -> None:
        self.sentinel = folder / "sentinel.wav"
        self.n_opened = self.n_connected = 0

    def __enter__(self) -> "Witness":
        self.sentinel.write_bytes(wav(bytes(16_000)))
        libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if libc.inotify_add_watch(self._inotify, os.fsencode(self.sentinel), _IN_ACCESS | _IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), "the sentinel cannot be watched")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.bait = Bait(self.sentinel, f"http://127.0.0.1:{self._listener.getsockname()[1]}/sentinel.wav")
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                self.n_connected += 1
                connection.close()

    def look(self) -> tuple[int, int]:
        """How often the file was opened or read, and the listener connected to, so far."""
        with suppress(BlockingIOError):
            # An event is 16 bytes where a file is watched: it has no name of its own.
            self.n_opened += len(os.read(self._inotify, 1 << 16)) // 16
        return self.n_opened, self.n_connected

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.close(self._inotify)
