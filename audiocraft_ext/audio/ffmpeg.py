"""Find ffmpeg, and run it in a confined child that a cancel or a time limit kills. Knows nothing of audio formats."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from audiocraft_ext.progress import Progress

# Pass only these variables to ffmpeg; secrets stay here.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH")
_PIPE_BYTES = 1 << 20
_NOT_STARTED = (126, 127)  # a shell's exit status for a program that it cannot run


def ffmpeg_path() -> str:
    """The ffmpeg to run: ``IMAGEIO_FFMPEG_EXE``, else the pinned wheel's own, else the one on PATH.

    Not PATH first: it parses untrusted files, and a distribution's may be years behind. RuntimeError without one.
    """
    try:
        import imageio_ffmpeg  # here: a machine that only runs `make gpu-check` may lack the wheel
    except ImportError:
        if found := shutil.which("ffmpeg"):
            return found
        raise RuntimeError("There is no ffmpeg: pip install imageio-ffmpeg, or put one on PATH.") from None
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def stream_output(
    command: list[str], stdin: BinaryIO, progress: Progress, *, timeout_s: float, memory_bytes: int
) -> Generator[bytes]:
    """Yield a confined child's standard output in chunks; closing the generator kills the child.

    The child cannot write to any file. Raises ``Cancelled``, TimeoutError after ``timeout_s``, CalledProcessError if a
    signal ended the child: over its memory or CPU limit, or a crash. An exit status alone is no error: ffmpeg also sets
    one after reading all that a damaged file contains.
    """
    # Limits that the system does not have, or that are lower already, are left as they are.
    limits = f"ulimit -v {memory_bytes >> 10}; ulimit -t {int(timeout_s) + 1}; ulimit -f 0; ulimit -c 0"
    confined = ["/bin/sh", "-c", f'{limits}; exec "$@"', "sh", *command]
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    deadline = time.monotonic() + timeout_s
    with subprocess.Popen(
        confined, bufsize=0, stdin=stdin, stdout=pipe, stderr=null, env=environment, start_new_session=True
    ) as child:
        assert child.stdout is not None
        try:
            with kill_on_cancel(child.kill, progress, timeout_s):
                while chunk := child.stdout.read(_PIPE_BYTES):
                    yield chunk
                with suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=1)
            progress.check()
            if time.monotonic() >= deadline:
                raise TimeoutError
            if child.returncode in _NOT_STARTED:
                raise FileNotFoundError(command[0])
            if (child.returncode or 0) < 0:
                raise subprocess.CalledProcessError(child.returncode, command[0])
        finally:
            child.kill()


@contextmanager
def kill_on_cancel(kill: Callable[[], None], progress: Progress, timeout_s: float) -> Iterator[None]:
    """Within, call ``kill`` as soon as the prediction is cancelled, or after ``timeout_s``."""
    timer = threading.Timer(timeout_s, kill)
    timer.daemon = True
    timer.start()
    try:
        with progress.on_cancel(kill):
            yield
    finally:
        timer.cancel()


def child_killer() -> Callable[[], None]:
    """A function that kills the processes this thread has started since, callable from any thread. Linux only.

    For a library that starts ffmpeg itself and waits for it. Elsewhere the function does nothing.
    """
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")

    def pids() -> set[str]:
        return set(children.read_text().split()) if children.exists() else set()

    others = pids()

    def kill() -> None:
        for pid in pids() - others:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    return kill
