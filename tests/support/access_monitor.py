"""Count accesses to a canary file and connections to a canary URL. Knows no reader. Linux only (inotify)."""

import ctypes
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.support.broken_files import wav
from tests.support.malicious_files import Canary

_IN_ACCESS, _IN_OPEN = 0x1, 0x20


class AccessMonitor:
    """Context manager: puts a ``canary`` into a folder, and counts how often it is opened or connected to."""

    def __init__(self, folder: Path) -> None:
        self.canary_file = folder / "canary.wav"
        self.n_opened = self.n_connected = 0

    def __enter__(self) -> "AccessMonitor":
        self.canary_file.write_bytes(wav(bytes(16_000)))
        libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if libc.inotify_add_watch(self._inotify, os.fsencode(self.canary_file), _IN_ACCESS | _IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), "the file cannot be watched")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.canary = Canary(self.canary_file, f"http://127.0.0.1:{self._listener.getsockname()[1]}/canary.wav")
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                self.n_connected += 1
                connection.close()

    def counts(self) -> tuple[int, int]:
        """Opens and reads of the file, and connections to the listener, so far."""
        with suppress(BlockingIOError):
            # An event is 16 bytes where a file is watched: it has no name of its own.
            self.n_opened += len(os.read(self._inotify, 1 << 16)) // 16
        return self.n_opened, self.n_connected

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.close(self._inotify)
