"""Tokens for many jobs at once: continuous batching of a transformer over slots.

Knows nothing of audiocraft, audio, text or cog, nor of devices: these are the backend's. A thread of the engine's own
admits jobs, feeds their prompts piece by piece between the steps of the others, and steps all of them together.
"""

import atexit
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch
from torch import Tensor

from audiocraft_ext.engine import sampling
from audiocraft_ext.engine.backends.torch import CaptureError, ReplayError
from audiocraft_ext.engine.kv_cache import ROWS_PER_SLOT
from audiocraft_ext.engine.pattern import DelayPattern
from audiocraft_ext.engine.scheduler import Job, Scheduler, Sequence, Status
from audiocraft_ext.engine.slots import SlotTable
from audiocraft_ext.engine.step import Selection, Step
from audiocraft_ext.engine.transformer import Transformer

Result = TypeVar("Result")


class NotFiniteError(RuntimeError):
    """The model's logits are NaN or infinite."""


class ClosedError(RuntimeError):
    """The engine was closed before the job was done."""


class Engine:
    """A transformer that serves up to `n_slots` jobs at once, each exactly as if it were alone."""

    def __init__(self, transformer: Transformer, pattern: DelayPattern, n_slots: int, n_steps: int) -> None:
        """`n_steps` S is the longest sequence; the cache has two rows a slot and a position to spare beyond S."""
        self.transformer, self.backend, self.pattern = transformer, transformer.backend, pattern
        self.n_steps = n_steps
        shape = n_slots, transformer.n_codebooks, n_steps, transformer.cache.n_positions
        self._table = SlotTable(*shape, self.backend.device, self.backend.is_host)
        self._steps: dict[int, Step] = {}  # by number of rows
        self._n_slots, self.step_sizes = n_slots, self.backend.step_sizes(n_slots)
        self._scheduler = Scheduler(n_slots)
        self.self_check: float | None = None  # its largest difference, if there was one
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()

    @property
    def description(self) -> str:
        """How tokens are made, on what, and the cache that was allocated: for the log of set-up."""
        backend, cache = self.backend, self.transformer.cache
        int8 = {"weights": backend.is_int8, "cache": cache.dtype == torch.int8}
        parts = " and ".join(part for part, is_int8 in int8.items() if is_int8)
        dtype = f"{str(backend.dtype).removeprefix('torch.')}{f' with int8 {parts}' if parts else ''}"
        check = "off" if self.self_check is None else f"{self.self_check:.1e} from plain torch"
        where = f"{backend.description}, on {backend.device} in {dtype}"
        return f"{where}; {self._n_slots} slots, {cache.n_bytes / 1e9:.2f} GB of keys and values; self-check: {check}"

    def submit(self, job: Job) -> Future[Tensor]:
        """A future of the job's frames [K, T] on the host, prompt included; the thread starts with the first job.

        Raises ``ValueError`` for a job that is longer than the cache, ``RuntimeError`` once closed.
        """
        n_steps, capacity = self.pattern.n_steps(job.n_frames), self.transformer.cache.n_positions
        n_positions = job.prefix.shape[1] + n_steps
        if n_steps > self.n_steps or n_positions >= capacity:
            raise ValueError(f"a job of {n_positions} positions in a cache of {capacity}")
        # The caller's conditions, and the weights before the first job.
        self.backend.synchronize_caller()
        with self._start_lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
                self._thread.start()
                atexit.register(self.close)  # a thread that Python ends within native code takes the process with it
        return self._scheduler.submit(job, self._uniform_bits(job))

    def _uniform_bits(self, job: Job) -> Tensor:
        """A job's noise: hashed before it is in line, not while all others wait for the engine's thread."""
        n_sampled = self.pattern.n_steps(job.n_frames) - self.pattern.first_step(job.prompt.shape[-1])
        return sampling.uniform_bits(job.seed, job.noise_step, n_sampled, self.transformer.n_codebooks)

    def close(self) -> None:
        """End the thread; unfinished jobs fail with ``ClosedError``."""
        atexit.unregister(self.close)
        self._scheduler.close()
        if self._thread is not None:
            self._thread.join()

    @torch.inference_mode()
    def _serve(self) -> None:
        with self.backend.engine_thread():
            while self._scheduler.wait():
                try:
                    self.step()
                except Exception as error:  # no single job's: all of them get it
                    self._finish_all(error)
        self._finish_all(ClosedError("the engine was closed"))

    def _finish_all(self, error: Exception) -> None:
        for sequence in self._scheduler.unfinished():
            self._scheduler.finish(sequence, error)
        with suppress(RuntimeError):  # a device that has failed for good fails here too
            self._table.release(slice(None))

    def step(self) -> None:
        """One turn: schedule, run, postprocess."""
        self._schedule()
        self._postprocess(self._run())

    def _schedule(self) -> None:
        """Admit jobs in line to free slots."""
        for sequence in self._scheduler.unfinished(Status.WAITING):
            with self._isolate_failure(sequence):
                sequence.report()  # may cancel
        for sequence in self._scheduler.admit():
            with self._isolate_failure(sequence):
                self._assign_slot(sequence)

    def _run(self) -> list[Sequence]:
        """Step the jobs whose prompts are in the cache, prefill a piece of the next one; those that a step sampled."""
        decoding = self._scheduler.unfinished(Status.DECODING)
        if decoding:
            with self._isolate_failure(*decoding):
                self._decode(decoding)
        # Last: a step of all slots would advance one that is newly active.
        for newcomer in self._scheduler.unfinished(Status.PREFILLING)[:1]:
            with self._isolate_failure(newcomer):
                newcomer.report()
                self._prefill(newcomer)
        return self._scheduler.unfinished(Status.DECODING)

    def _postprocess(self, sampled: list[Sequence]) -> None:
        """Count a sampled step of each job; finish those that have made their last one."""
        for sequence in sampled:
            with self._isolate_failure(sequence):
                sequence.step += 1
                sequence.report()
                is_done = sequence.step == sequence.stop
                # On a device the flag is read once, with the tokens: reading it waits for every step before.
                if (is_done or self.backend.is_host) and bool(self._table.is_not_finite[sequence.slot]):
                    raise NotFiniteError("the model's logits are not finite")
                if is_done:
                    steps = self._table.sequence[sequence.slot, :, : sequence.stop].to(sequence.job.prompt.device)
                    self._finish(sequence, self.pattern.frames(steps, sequence.job.n_frames))

    @contextmanager
    def _isolate_failure(self, *sequences: Sequence) -> Iterator[None]:
        """Within, an exception ends these jobs and no other."""
        try:
            yield
        except Exception as error:  # raised again where the job's future is read
            for sequence in sequences:
                self._finish(sequence, error)

    def _finish(self, sequence: Sequence, outcome: Tensor | Exception) -> None:
        if sequence.status is not Status.WAITING:
            self._table.release(sequence.slot)
            if isinstance(outcome, Exception) and self.backend.reads_masked:
                first = ROWS_PER_SLOT * sequence.slot
                self.transformer.cache.clear(slice(first, first + ROWS_PER_SLOT))
        self._scheduler.finish(sequence, outcome)

    def _assign_slot(self, sequence: Sequence) -> None:
        """Write a job into its slot, and compute the transformer's inputs before the first sampled step."""
        job, slot = sequence.job, sequence.slot
        steps = self.pattern.sequence(job.prompt, job.n_frames).to(self.backend.device)
        first = self.pattern.first_step(job.prompt.shape[-1])
        sequence.first_step, sequence.step, sequence.stop = first, first, steps.shape[-1]
        self._table.assign(slot, job, steps, sequence.uniform_bits)
        given = self.transformer.embed(steps[:, :first].T).expand(job.n_rows, -1, -1)
        sequence.inputs = torch.cat([job.prefix.float(), given], dim=1)
        if job.cross is not None:
            self.transformer.cache_cross_kv(ROWS_PER_SLOT * slot, job.cross)
        if sequence.inputs.shape[1] == 1:  # the special token alone: a step computes just that
            sequence.inputs, sequence.status = None, Status.DECODING
            self._table.activate(slot, 0)

    def _prefill(self, sequence: Sequence) -> None:
        """Feed the next piece of a prompt; the last one gives the first sampled step."""
        assert sequence.inputs is not None
        job, slot, start = sequence.job, sequence.slot, sequence.n_prefilled
        piece = sequence.inputs[:, start : start + self.backend.prefill_positions]
        hidden = self.transformer.prefill(piece, ROWS_PER_SLOT * slot, start, job.cross_length)
        sequence.n_prefilled += piece.shape[1]
        if sequence.n_prefilled < sequence.inputs.shape[1]:
            return
        sequence.inputs, sequence.status = None, Status.DECODING
        self._table.activate(slot, sequence.n_prefilled - 1)
        logits = self.transformer.logits(hidden[:, -1])
        self._table.sample(torch.full((1,), slot, device=logits.device), logits[:1], logits[-1:])

    def call(self, function: Callable[[], Result]) -> Result:
        """A function's result in a thread like the engine's own, before the first job."""
        self.backend.synchronize_caller()  # weights and caches come from its stream

        @torch.inference_mode()
        def run() -> Result:
            with self.backend.engine_thread():
                return function()

        with ThreadPoolExecutor(1, "set-up") as thread:
            return thread.submit(run).result()

    def capture_steps(self) -> None:
        """Capture the step of each size: no job shall wait for it. By ``call``."""
        for n_slots in reversed(self.step_sizes):  # the smaller ones fit into the memory of the largest
            if self.backend.captures:
                self._decode([], n_slots)

    def forced_steps(self, job: Job, given: Tensor, n_slots: int, is_eager: bool) -> tuple[Tensor, Tensor]:
        """Logits [N, 2, K, V] and tokens [N, K] of the steps after a prompt, each following `given` [K, S].

        For a self-check, by ``call``; in steps of `n_slots` and in the last slot, whose rows have the largest offsets.
        """
        sequence = Sequence(job, self._uniform_bits(job), Future(), Status.PREFILLING, self._n_slots - 1)
        made: list[tuple[Tensor, Tensor]] = []
        self._assign_slot(sequence)
        while sequence.status is Status.PREFILLING:
            self._prefill(sequence)
        for step in range(sequence.first_step + 1, sequence.stop):
            self._table.sequence[sequence.slot, :, :step] = given[:, :step].to(self.backend.device)
            logits = self._decode([sequence], n_slots, is_eager).logits[-ROWS_PER_SLOT:]
            made.append((logits.clone(), self._table.sequence[sequence.slot, :, step].clone()))
        self._table.release(sequence.slot)
        self.transformer.cache.clear(slice(ROWS_PER_SLOT * sequence.slot, None))
        logits_of_steps, tokens = zip(*made, strict=True)
        return torch.stack(logits_of_steps).to(given.device), torch.stack(tokens).to(given.device)

    def stop_capturing(self, reason: str) -> None:
        """Run each step eagerly from now on; from the thread that runs them."""
        self.backend.stop_capturing(reason)
        self._drop_steps()

    def _drop_steps(self) -> None:
        with suppress(RuntimeError):  # a device that has failed
            self.backend.synchronize_caller()  # steps in flight use the buffers freed here
        self._steps.clear()

    def _decode(self, sequences: list[Sequence], n_slots: int = 1, is_eager: bool = False) -> Step:
        """One step of these jobs, whose prompts are in the cache, and of so many slots at least."""
        selection = self._select([(sequence.slot, sequence.job.n_rows) for sequence in sequences], n_slots)
        n_rows = sum(n for _, n in selection)
        step = self._steps.get(n_rows) or self._steps.setdefault(n_rows, Step(self.transformer, self._table, n_rows))
        try:
            step.run(selection, is_eager)
        except CaptureError as error:
            self.stop_capturing(f"A step cannot be captured: {error}.")
            return self._decode(sequences, n_slots, is_eager=True)
        except ReplayError as error:
            self.stop_capturing(f"{error}.")
            raise
        except Exception:
            self._drop_steps()  # their scratch may be half written
            raise
        return step

    def _select(self, busy: Selection, n_slots: int) -> Selection:
        """The slots of a step: busy ones, and as many idle ones as its size has room for."""
        size = next((size for size in self.step_sizes if size >= max(len(busy), n_slots)), None)
        if size is None:
            return busy
        slots = {slot for slot, _ in busy}
        idle = [slot for slot in range(self._n_slots) if slot not in slots]
        return [(slot, ROWS_PER_SLOT) for slot in sorted([*slots, *idle[: size - len(slots)]])]
