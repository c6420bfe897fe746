"""Run predictions off the event loop: upload → clip → samples → file.

Owns the model, the worker threads, the files' lifetime, cancellation and the health probe. Knows nothing of cog.
"""

import asyncio
import contextvars
import logging
import os
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from audiocraft_ext import checkpoint, memory, musicgen
from audiocraft_ext.adapters import Adapters
from audiocraft_ext.audio.ffmpeg import ffmpeg_path
from audiocraft_ext.audio.loudness import normalize
from audiocraft_ext.audio.read import Clip, read
from audiocraft_ext.audio.source import decode_data_url
from audiocraft_ext.audio.upload import download
from audiocraft_ext.audio.write import write
from audiocraft_ext.engine.backends.threads import num_threads, prepare_thread, request_streams, set_own_num_threads
from audiocraft_ext.errors import InputError
from audiocraft_ext.progress import Progress, SilentProgress
from audiocraft_ext.request import Request, check_window_shorter_than_duration
from audiocraft_ext.settings import Settings

# The caller of ``predict`` reads the file as soon as it returns, and never deletes it.
KEEP_OUTPUT_S = 60.0
# A shorter wait is the time to the engine's next step, not a queue.
NOTABLE_QUEUE_S = 0.5
# How long a thread may run Python before another gets the interpreter's lock. torch releases it at every operation of a
# decoding step, and a thread that computes in Python then keeps it this long: with the default, 5 ms, decoding beside
# one took sixty to a hundred times as long (benchmarks/LOG.md).
SWITCH_INTERVAL_S = 1e-4
# How long a cancelled prediction waits for its thread. Work that takes longer to stop, like a chunk of MultiBand
# Diffusion, is left behind.
CANCEL_S = 0.8

_log = logging.getLogger(__name__)


class ServerError(RuntimeError):
    """A prediction that failed through no fault of its caller; the message is all that the caller sees of it."""


@dataclass(frozen=True)
class Prediction:
    """A finished file, deleted after ``KEEP_OUTPUT_S``, and the prediction's metrics by name."""

    path: Path
    metrics: dict[str, float | str]


class Service:
    """A loaded model, and the predictions that run on it."""

    def __init__(self, weights: str | None, settings: Settings, max_concurrency: int) -> None:
        """Load ``weights``, a path, https URL or hub id; None is ``checkpoint.default_weights``'s choice."""
        start = time.perf_counter()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.max_duration_s = settings.max_duration_s
        ffmpeg_path()  # mp3s and input audio need it: without it, fail here
        self._folder = tempfile.TemporaryDirectory(prefix="musicgen-")
        # Read when cuBLAS starts. Without it cuDNN's LSTM, a part of EnCodec, may sum in another order each time.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # In a thread that ends, and its team of OpenMP threads with it (why: engine.backends.cpu).
        with ThreadPoolExecutor(1, "loader", set_own_num_threads, (num_threads(),)) as loader:
            chosen = checkpoint.default_weights(weights)
            loading = loader.submit(musicgen.load, chosen, settings.device, settings.engine, settings.smoke_test)
            self.model: musicgen.Model = loading.result()
        self._adapters = Adapters(self.model, chosen, settings.device, settings.adapters, settings.max_adapters)
        n_threads = 1 if settings.device == "cpu" and self.model.engine is not None else num_threads()
        thread_settings = n_threads, request_streams(settings.device)
        # Twice the slots: a cancelled prediction's thread works on to the end of its chunk.
        self._threads = ThreadPoolExecutor(2 * max_concurrency, "prediction", prepare_thread, thread_settings)
        self._n_running = 0
        self._is_failing = False
        self.probe: asyncio.Task[None] | None = None
        self._load_s: float | None = time.perf_counter() - start

    @property
    def folder(self) -> Path:
        """Uploads and results, while they exist."""
        return Path(self._folder.name)

    def close(self) -> None:
        """Release the model's memory, the threads and the files, before another is loaded."""
        self._adapters.close()
        self.model.close()
        self._threads.shutdown(cancel_futures=True)
        self._folder.cleanup()
        del self.model, self._adapters
        memory.collect()

    async def is_healthy(self) -> bool:
        """Whether predictions succeed, as far as known. While they fail, each call starts another probe."""
        if self._is_failing:
            self._start_probe()
        return not self._is_failing

    @asynccontextmanager
    async def input_file(self, source: Any, progress: Progress) -> AsyncIterator[Any]:
        """``source`` itself, or the local file with the content of a URL (http, https, data), deleted at the end.

        Raises ``InputError`` where it cannot be read.
        """
        scheme = source[:16].partition(":")[0].strip().lower() if isinstance(source, str) else ""
        if scheme not in ("http", "https", "data"):
            yield source
            return
        path = self._new_path()
        try:
            if scheme == "data":
                await self._in_thread(path, progress, lambda: path.write_bytes(decode_data_url(source)))
            else:
                await download(source.strip(), path)
            yield path
        finally:
            path.unlink(missing_ok=True)

    async def predict(self, request: Request, progress: Progress) -> Prediction:
        """The request's file and metrics; a cancelled task stops it at its next frame."""
        start = time.perf_counter()
        path = self._new_path(f".{request.output_format}")
        self._n_running += 1
        try:
            await self._in_thread(path, progress, self._predict, request, path, progress)
        finally:
            progress.close()
            self._n_running -= 1
            asyncio.get_running_loop().call_later(KEEP_OUTPUT_S, self._clean_up, path)
        realtime_factor = request.duration / (time.perf_counter() - start)
        metrics: dict[str, float | str] = {"frames": progress.n_frames, "engine": self.model.engine_name}
        metrics["realtime_factor"] = round(realtime_factor, 3)
        if progress.queue_s > NOTABLE_QUEUE_S:
            metrics["queue_s"] = round(progress.queue_s, 3)
        if self._load_s is not None and not isinstance(progress, SilentProgress):  # to a caller, not to the probe
            metrics["load_s"], self._load_s = round(self._load_s, 3), None
        return Prediction(path, metrics)

    def _predict(self, request: Request, path: Path, progress: Progress) -> None:
        """Request → conditions → tokens → samples → file; in a worker thread."""
        progress.dequeue()
        clip = self._read_clip(request, progress)
        with self._adapters.model(request.adapters, progress) as model:
            samples = model.generate(request, clip, progress)
        samples = normalize(samples, self.model.sample_rate, request.normalization_strategy)
        progress.check()
        write(samples, self.model.sample_rate, path, request.output_format, request.description(), progress)
        progress.check()

    def _read_clip(self, request: Request, progress: Progress) -> Clip | None:
        """The request's window of its input audio."""
        if request.input_audio is None:
            return None
        start_s, end_s, max_s = request.continuation_start, request.continuation_end, self.model.max_input_s(request)
        clip = read(request.input_audio, start_s, end_s, max_s=max_s, progress=progress)
        if request.continuation:
            check_window_shorter_than_duration(clip.duration_s, request.duration)
        return clip

    @contextmanager
    def caller_errors(self) -> Iterator[None]:
        """Pass ``InputError`` on; log any other error and raise ``ServerError`` with its reference in the log."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            reference = uuid.uuid4().hex[:8]
            # Outside the prediction's context, by which cog tells what belongs to the answer.
            contextvars.Context().run(_log.error, "Error %s", reference, exc_info=error)
            self._start_probe()
            if isinstance(error, torch.OutOfMemoryError):
                message = f"The server ran out of memory ({reference}). Ask for a shorter clip, or try again later."
                raise ServerError(message) from None
            raise ServerError(f"The server failed; its log says why ({reference}).") from None
        self._is_failing = False

    def _start_probe(self) -> None:
        if self.probe is None or self.probe.done():
            self.probe = asyncio.get_running_loop().create_task(self._probe(), context=contextvars.Context())

    async def _probe(self) -> None:
        """Generate one second, as mp3, which needs ffmpeg: the failed prediction may merely have been too large."""
        try:
            request = Request(prompt="", duration=1, output_format="mp3")
            (await self.predict(request, SilentProgress())).path.unlink()
            self._is_failing = False
        except Exception as error:
            _log.error("Predictions fail: %s", error)
            self._is_failing = True

    async def _in_thread(self, path: Path, progress: Progress, work: Callable[..., object], *arguments: Any) -> None:
        """Run ``work``, which writes ``path``, in a worker thread; on a cancel or an error no file is left."""
        # Not asyncio.to_thread: it has hardly more threads than cores, and work that waits for one cannot be stopped.
        # The context is copied as there, since cog assigns output to predictions by it.
        run = partial(contextvars.copy_context().run, work, *arguments)
        progress.enqueue()
        future = asyncio.get_running_loop().run_in_executor(self._threads, run)
        try:
            await asyncio.shield(future)
        except BaseException:

            def discard(done: asyncio.Future[object]) -> None:
                path.unlink(missing_ok=True)
                if not done.cancelled():
                    done.exception()  # retrieved, or asyncio would log it

            progress.stop()
            future.add_done_callback(discard)
            await asyncio.wait([future], timeout=CANCEL_S)
            raise

    def _new_path(self, suffix: str = "") -> Path:
        return self.folder / (uuid.uuid4().hex + suffix)

    def _clean_up(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        # Under load, malloc soon reuses what it has freed.
        if self._n_running == 0:
            memory.trim()
