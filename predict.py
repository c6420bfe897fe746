"""The Predictor: the 14 inputs of the model's page. Validate, generate, write the file.

The only file that imports cog. cog's schema generator reads it as text, so the ``Input(...)`` literals stay here; what
they mean is in ``audiocraft_ext/request.py`` and in the README's table.
"""

import asyncio
import contextvars
import logging
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, Optional

import cog
import torch
from cog import BasePredictor, File, Input, Path

from audiocraft_ext import audio, checkpoint, memory, musicgen
from audiocraft_ext.engine.backends.threads import set_own_num_threads
from audiocraft_ext.errors import InputError
from audiocraft_ext.fetch import fetch
from audiocraft_ext.progress import Progress, SilentProgress
from audiocraft_ext.request import Request, refuse_window_as_long_as_duration
from audiocraft_ext.switches import Switches

# cog reads the number of @cog.concurrent as text: it has to stand there as a literal too.
MAX_CONCURRENCY = 16
# cog reads a prediction's file as soon as predict returns, and never deletes it.
KEEP_OUTPUT_S = 60.0
# Less is the time until the decoder's next step, not a wait in line.
NOTABLE_QUEUE_S = 0.5
# Where cog makes two folders for each prediction, which it leaves.
COG_FOLDER = Path("/tmp/coglet/predictions")
COG_ID = "_coglet_prediction_id"
# How long a thread may compute in Python before another has its turn. At each operation of a decoding step, torch gives
# up the lock, and a thread that computes in Python keeps it this long: with the default, 5 ms, decoding took sixty
# to a hundred times as long beside one (benchmarks/LOG.md).
SWITCH_INTERVAL_S = 1e-4
# How long a cancelled prediction waits for its work to end. What takes longer, like a URL that sends nothing, ends
# without it.
CANCEL_S = 0.8

log = logging.getLogger(__name__)


class ServerError(RuntimeError):
    """A prediction that failed through no fault of its caller; the message is all that the caller sees of it."""


class Predictor(BasePredictor):
    """Any MusicGen checkpoint, served."""

    def setup(self, weights: Optional[str] = None) -> None:
        """Loads the checkpoint: ``weights`` (a path, https URL or hub id), else what ``chosen_weights`` chooses."""
        logging.basicConfig(format="%(message)s")
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        start = time.perf_counter()
        switches = Switches.read(MAX_CONCURRENCY)
        self.max_duration_s = switches.max_duration_s
        audio.ffmpeg_path()  # without one no prediction would succeed: fail here
        chosen = checkpoint.chosen_weights(str(weights) if weights else None)
        self.outputs = tempfile.TemporaryDirectory(prefix="musicgen-")
        if hasattr(self, "model"):  # set up again: the former weights go before the next ones come
            self.model.close()
            del self.model
            memory.collect()
        n_cores = torch.get_num_threads()
        # A thread that ends, and its team of OpenMP threads with it (why: engine.engine).
        with ThreadPoolExecutor(1, "loader", set_own_num_threads, (n_cores,)) as loader:
            loading = loader.submit(musicgen.load, chosen, switches.device, switches.settings, switches.smoke_test)
            self.model: musicgen.Model = loading.result()
        n_threads = 1 if switches.device == "cpu" and self.model.has_own_thread else n_cores
        # More than slots: who waits for a URL that sends nothing keeps a thread when the slot is free again.
        self.threads = ThreadPoolExecutor(2 * MAX_CONCURRENCY, "prediction", set_own_num_threads, (n_threads,))
        self.running: set[str] = set()
        self.is_failing = False
        self.trial: asyncio.Task[None] | None = None
        self.load_s: float | None = time.perf_counter() - start

    async def healthcheck(self) -> bool:
        """Whether predictions succeed, as far as known. While they do not, each check tries once more (``_try``)."""
        if self.is_failing:
            self._start_trial()
        return not self.is_failing

    @cog.concurrent(max=16)
    async def predict(
        self,
        prompt: Optional[str] = Input(
            default=None,
            description="A description of the music you want to generate.",
        ),
        input_audio: Optional[File] = Input(
            default=None,
            description="An audio file that will influence the generated music. If `continuation` is `True`, the generated music will be a continuation of the audio file. Otherwise, the generated music will mimic the audio file's melody.",  # noqa: E501
        ),
        duration: int = Input(
            default=8,
            description="Duration of the generated audio in seconds.",
        ),
        continuation: bool = Input(
            default=False,
            description="If `True`, generated music will continue `melody`. Otherwise, generated music will mimic `audio_input`'s melody.",  # noqa: E501
        ),
        continuation_start: int = Input(
            default=0,
            ge=0,
            description="Start time of the audio file to use for continuation.",
        ),
        continuation_end: Optional[int] = Input(
            default=None,
            ge=0,
            description="End time of the audio file to use for continuation. If -1 or None, will default to the end of the audio clip.",  # noqa: E501
        ),
        multi_band_diffusion: bool = Input(
            default=False,
            description="If `True`, the EnCodec tokens will be decoded with MultiBand Diffusion.",
        ),
        normalization_strategy: str = Input(
            default="loudness",
            choices=["loudness", "clip", "peak", "rms"],
            description="Strategy for normalizing audio.",
        ),
        top_k: int = Input(
            default=250,
            description="Reduces sampling to the k most likely tokens.",
        ),
        top_p: float = Input(
            default=0.0,
            description="Reduces sampling to tokens with cumulative probability of p. When set to `0` (default), top_k sampling is used.",  # noqa: E501
        ),
        temperature: float = Input(
            default=1.0,
            description="Controls the 'conservativeness' of the sampling process. Higher temperature means more diversity.",  # noqa: E501
        ),
        classifier_free_guidance: int = Input(
            default=3,
            description="Increases the influence of inputs on the output. Higher values produce lower-varience outputs that adhere more closely to inputs.",  # noqa: E501
        ),
        output_format: str = Input(
            default="wav",
            choices=["wav", "mp3"],
            description="Output format for generated audio.",
        ),
        seed: Optional[int] = Input(
            default=None,
            description="Seed for random number generator. If None or -1, a random seed will be used.",
        ),
    ) -> Path:
        """One audio file for the 14 inputs; an input that cannot be served raises ``InputError``, for the caller."""
        with self._cleaned_up(), self._told_plainly():
            # From a URL, cog makes a file that is yet to be fetched; other callers name one that is there.
            source = input_audio if hasattr(input_audio, "close") else None
            request = Request.checked(
                prompt=prompt,
                input_audio=self._new_path() if source is not None else input_audio,
                duration=duration,
                continuation=continuation,
                continuation_start=continuation_start,
                continuation_end=continuation_end,
                multi_band_diffusion=multi_band_diffusion,
                normalization_strategy=normalization_strategy,
                top_k=top_k,
                top_p=top_p,
                temperature=temperature,
                classifier_free_guidance=classifier_free_guidance,
                output_format=output_format,
                seed=seed,
                max_duration_s=self.max_duration_s,
            )
            print(f"Using seed {request.seed}", flush=True)
            self.record_metric("seed", request.seed)
            if self.load_s is not None:
                self.record_metric("load_s", round(self.load_s, 3))
                self.load_s = None
            progress = Progress()
            start = time.perf_counter()
            path = await self._in_thread(request, source, progress)
            self.record_metric("frames", progress.n_frames)
            if progress.queue_s > NOTABLE_QUEUE_S:
                self.record_metric("queue_s", round(progress.queue_s, 3))
            self.record_metric("realtime_factor", round(request.duration / (time.perf_counter() - start), 3))
            asyncio.get_running_loop().call_later(KEEP_OUTPUT_S, Path(path).unlink, True)
            return Path(path)

    @contextmanager
    def _cleaned_up(self) -> Iterator[None]:
        """Some time after the answer was sent, deletes what cog leaves of the prediction, and gives back memory."""
        name = next((str(value) for key, value in contextvars.copy_context().items() if key.name == COG_ID), "")
        self.running.add(name)
        try:
            yield
        finally:
            self.running.discard(name)
            asyncio.get_running_loop().call_later(KEEP_OUTPUT_S, self._tidy_up, name)

    def _tidy_up(self, name: str) -> None:
        # A caller's own id may come again, and may be the path of something else.
        if name not in ("", ".", "..") and name not in self.running and Path(name).name == name:
            for folder in ("inputs", "outputs", ""):
                with suppress(OSError):
                    (COG_FOLDER / name / folder).rmdir()
        # With work in hand, what malloc keeps of former predictions is soon used again.
        if not self.running:
            memory.trim()

    @contextmanager
    def _told_plainly(self) -> Iterator[None]:
        """Lets ``InputError`` through; logs any other error, and raises one sentence with its reference."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            reference = uuid.uuid4().hex[:8]
            # Outside of the prediction's context, by which cog tells what belongs into the answer.
            contextvars.Context().run(log.error, "Error %s", reference, exc_info=error)
            self._start_trial()
            if isinstance(error, torch.OutOfMemoryError):
                raise ServerError(f"The server ran out of memory ({reference}). Ask for less, or later.") from None
            raise ServerError(f"The server failed; its log says why ({reference}).") from None
        self.is_failing = False

    def _start_trial(self) -> None:
        if self.trial is None or self.trial.done():
            self.trial = asyncio.get_running_loop().create_task(self._try(), context=contextvars.Context())

    async def _try(self) -> None:
        """Makes a second of music to find out whether predictions fail: the last one may have been too large."""
        try:
            os.unlink(await self._in_thread(Request(prompt="", duration=1), None, SilentProgress()))
            self.is_failing = False
        except Exception as error:
            log.error("Predictions fail: %s", error)
            self.is_failing = True

    def _new_path(self, suffix: str = "") -> Path:
        return Path(self.outputs.name, uuid.uuid4().hex + suffix)

    async def _in_thread(self, request: Request, source: Any, progress: Progress) -> str:
        """``_serve`` off the event loop; a cancel stops it at its next frame, and waits for that for a moment."""
        # cog tells predictions' logs apart by their context. asyncio.to_thread carries it over too, but has hardly more
        # threads than cores, and a prediction that waits for a thread cannot be cancelled.
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self.threads, context.run, self._serve, request, source, progress)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            progress.stop()
            work.add_done_callback(_discard)
            await asyncio.wait([work], timeout=CANCEL_S)
            raise
        finally:
            progress.close()

    def _serve(self, request: Request, source: Any, progress: Progress) -> str:
        """The path of the request's finished file; on a failure no file is left. Runs in a worker thread."""
        progress.begin()
        clip = self._clip(request, source, progress)
        samples = self.model.generate(request, clip, progress)
        samples = audio.normalise(samples, self.model.sample_rate, request.normalization_strategy)
        progress.check()
        path = self._new_path(f".{request.output_format}")
        try:
            audio.encode(samples, self.model.sample_rate, path, request.output_format, _tags(request), progress.check)
            progress.check()
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return str(path)

    def _clip(self, request: Request, source: Any, progress: Progress) -> audio.Clip | None:
        """The request's window of input audio; fetched first, where ``source`` is what cog makes of a URL."""
        if request.input_audio is None:
            return None
        try:
            if source is not None:
                fetch(source, request.input_audio, progress)
            start_s, end_s, at_most_s = request.window.start_s, request.window.end_s, self.model.heard_s(request)
            clip = audio.decode(request.input_audio, start_s, end_s, at_most_s=at_most_s, check=progress.check)
        finally:
            if source is not None:
                request.input_audio.unlink(missing_ok=True)
        if request.continuation:
            refuse_window_as_long_as_duration(clip.duration_s, request.duration)
        return clip


def _discard(work: asyncio.Future[str]) -> None:
    """Deletes what a prediction made after its caller had left."""
    if not work.cancelled() and work.exception() is None:
        os.unlink(work.result())


def _tags(request: Request) -> dict[str, str]:
    """What made the file, for whoever holds it later: all inputs but the audio, and the seed that was used."""
    inputs = {name: value for name, value in asdict(request).items() if name not in ("input_audio", "window")}
    if request.input_audio is not None:
        end_s = request.window.end_s
        inputs |= {"continuation_start": request.window.start_s, "continuation_end": -1 if end_s is None else end_s}
    given = {name: str(value) for name, value in inputs.items() if value is not None}
    return {"title": (request.prompt or "")[:100], **given}
