"""Find ffmpeg, and run it in a confined child that a cancel or a time limit kills. Knows nothing of audio formats."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from audiocraft_ext.progress import Progress

# Pass only these variables to ffmpeg; secrets stay here.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_PIPE_BYTES = 1 << 20


def ffmpeg_path() -> str:
    """The ffmpeg to run: ``IMAGEIO_FFMPEG_EXE``, else the pinned wheel's own, else the one on PATH.

    Not PATH first: it parses untrusted files, and a distribution's may be years behind. Raises RuntimeError if there is
    no ffmpeg.
    """
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        pass
    if found := shutil.which("ffmpeg"):
        return found
    raise RuntimeError("There is no ffmpeg: pip install imageio-ffmpeg, or put one on PATH.")


def stream_output(
    command: list[str], stdin: BinaryIO, progress: Progress, *, timeout_s: float, memory_bytes: int
) -> Generator[bytes]:
    """Yield a confined child's standard output in chunks; closing the generator kills the child.

    Raises ``Cancelled``, TimeoutError after ``timeout_s``, CalledProcessError if a signal ended the child: over its
    memory or CPU limit, or a crash. An exit status alone is no error: ffmpeg also sets one after reading all that a
    damaged file contains.
    """
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    child = subprocess.Popen(
        command, bufsize=0, stdin=stdin, stdout=pipe, stderr=null, env=environment, start_new_session=True
    )
    assert child.stdout is not None
    try:
        _set_rlimits(child.pid, memory_bytes, cpu_s=int(timeout_s) + 1)
        with kill_on_cancel(child.kill, progress, timeout_s) as timed_out:
            while chunk := child.stdout.read(_PIPE_BYTES):
                yield chunk
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=1)
        progress.check()
        if timed_out.is_set():
            raise TimeoutError
        if (child.returncode or 0) < 0:
            raise subprocess.CalledProcessError(child.returncode, command[0])
    finally:
        child.kill()
        child.stdout.close()
        child.wait()


@contextmanager
def kill_on_cancel(kill: Callable[[], None], progress: Progress, timeout_s: float) -> Iterator[threading.Event]:
    """Within, call ``kill`` as soon as the prediction is cancelled, or after ``timeout_s``, which sets the event."""
    timed_out = threading.Event()

    def expire() -> None:
        timed_out.set()
        kill()

    timer = threading.Timer(timeout_s, expire)
    timer.daemon = True
    timer.start()
    try:
        with progress.on_cancel(kill):
            yield timed_out
    finally:
        timer.cancel()


def child_killer() -> Callable[[], None]:
    """A function that kills the processes this thread has started since, callable from any thread. Linux only.

    For a library that starts ffmpeg itself and waits for it. Elsewhere the function does nothing.
    """
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")

    def pids() -> set[int]:
        with suppress(FileNotFoundError):
            return {int(pid) for pid in children.read_text().split()}
        return set()

    others = pids()

    def kill() -> None:
        for pid in pids() - others:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return kill


def _set_rlimits(pid: int, memory_bytes: int, cpu_s: int) -> None:
    """Limit a child's address space and CPU time, and forbid it to write to any file. Linux only.

    From outside and after the start, since `preexec_fn` is not safe in a process with threads. The child has begun its
    own start-up by then, but a file takes longer to decode, and limits count what was used before.
    """
    if sys.platform != "linux":
        return
    import resource

    wanted = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    with suppress(ProcessLookupError):
        for kind, value in wanted.items():
            _, hard = resource.prlimit(pid, kind)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.prlimit(pid, kind, (value, value))
