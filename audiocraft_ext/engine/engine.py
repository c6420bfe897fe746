"""Tokens for many jobs at once: continuous batching of the decoder over slots.

It knows nothing of audiocraft, audio, text or cog. A thread of the engine's own admits jobs, feeds their prompts piece
by piece between the steps of the others, and advances all of them together, one pattern step at a time.

On the CPU that thread should be the only one that computes on several cores. OpenMP keeps a team of threads for each
thread that does, and puts them all to sleep between two operations once there are more of them than cores: a step of
300 small operations then takes almost twice as long.
"""

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

import torch
from torch import Tensor

from audiocraft_ext.engine import sampling
from audiocraft_ext.engine.attention import (
    Attention,
    CpuAttention,
    CpuKernelAttention,
    CudaAttention,
    CudaKernelAttention,
    Prefill,
    Span,
)
from audiocraft_ext.engine.decoder import Decoder
from audiocraft_ext.engine.graph import Graph
from audiocraft_ext.engine.linear import MAX_ROWS
from audiocraft_ext.engine.pattern import UNKNOWN, DelayPattern
from audiocraft_ext.engine.replay import Replay
from audiocraft_ext.engine.scheduler import Job, Running, Scheduler
from audiocraft_ext.engine.state import State
from audiocraft_ext.engine.threads import use_cpu_threads

# Positions of a prompt that are fed between two steps of the others, so that a newcomer never holds them up for long.
PREFILL_POSITIONS = {"cpu": 128, "cuda": 1024}
ROWS_PER_SLOT = 2
# A narrower model's operations are too short to be worth dividing among cores: threads wait longer for each other than
# they work, most of all where another program uses a core (benchmarks/LOG.md).
MIN_WIDTH_OF_ALL_CORES = 512


class NotFiniteError(RuntimeError):
    """The model gave NaN or infinity where logits should be."""


class ClosedError(RuntimeError):
    """The engine was closed before the job was done."""


class Engine:
    """A decoder that serves up to `n_slots` jobs at once, each exactly as if it were alone."""

    def __init__(
        self,
        decoder: Decoder,
        pattern: DelayPattern,
        n_slots: int,
        n_steps: int,
        *,
        fixed_shapes: bool | None = None,
        use_graph: bool = True,
    ) -> None:
        """`n_steps` S is the longest sequence; the decoder has two rows a slot and a position to spare beyond S.

        With `fixed_shapes` (CUDA's way) a step runs all slots, idle ones too, at lengths that only the device knows;
        else the busy ones alone. `use_graph` records a step and has it replayed, with CUDA or with the CPU's kernels.
        """
        self.decoder = decoder
        self.pattern = pattern
        self.device = decoder.device
        self.n_steps = n_steps
        self._fixed_shapes = self.device.type == "cuda" if fixed_shapes is None else fixed_shapes
        self._use_graph = use_graph
        if self.device.type == "cuda":
            # cuDNN's attention makes a plan for every shape that it has not met, and prompts are of any length.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._last_step: torch.cuda.Event | None = None
        self._state = State.of(n_slots, decoder.n_codebooks, n_steps, self.device)
        self._slots = torch.arange(n_slots, device=self.device)
        self._forget_recordings()
        self._scheduler = Scheduler(n_slots)
        self._n_cpu_threads = torch.get_num_threads() if decoder.width >= MIN_WIDTH_OF_ALL_CORES else 1
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()

    def submit(self, job: Job) -> Future[Tensor]:
        """The job's frames [K, T] on the CPU, prompt included, by a future; the thread starts with the first job."""
        n_positions = job.prefix.shape[1] + self.pattern.n_steps(job.n_frames)
        if self.pattern.n_steps(job.n_frames) > self.n_steps or n_positions >= self.decoder.cache.n_positions:
            raise ValueError(f"a job of {n_positions} positions in a cache of {self.decoder.cache.n_positions}")
        if self.device.type == "cuda":
            # What computed the conditions, and the weights before the first job, is done when the engine reads them.
            torch.cuda.current_stream(self.device).synchronize()
        with self._start_lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()
                atexit.register(self.close)  # a thread that Python ends within native code takes the process with it
        return self._scheduler.submit(job)

    def close(self) -> None:
        """Ends the thread; jobs that are not done fail with ``ClosedError``."""
        atexit.unregister(self.close)
        self._scheduler.close()
        if self._thread is not None:
            self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        use_cpu_threads(self._n_cpu_threads)
        is_cuda = self.device.type == "cuda"
        # A stream of its own: codecs decode and conditions are computed on the default one meanwhile.
        with torch.cuda.stream(torch.cuda.Stream(self.device) if is_cuda else None):
            while self._scheduler.wait():
                try:
                    self.step()
                except Exception as error:  # of no job's making; whoever waits must hear of it
                    self._end_all(error)
            if is_cuda:
                with suppress(RuntimeError):
                    torch.cuda.current_stream().synchronize()  # before what it reads is freed
        self._end_all(ClosedError("the engine was closed"))

    def _end_all(self, error: Exception) -> None:
        for entry in [*filter(None, self._scheduler.slots), *self._scheduler.waiting()]:
            self._scheduler.finish(entry, error)
        with suppress(RuntimeError):  # a device that has failed for good fails here too
            self._state.active.zero_()

    def step(self) -> None:
        """One turn: newcomers take slots, one of them is fed a piece of its prompt, all others advance by a step."""
        for entry in self._scheduler.waiting():
            self._guarded(Running.report, entry)
        for entry in self._scheduler.admit():
            self._guarded(self._place, entry)
        newcomer = self._scheduler.prefilling()
        if newcomer is not None:
            self._guarded(self._prefill, newcomer)
        decoding = self._scheduler.decoding()
        if decoding and self._decode(decoding):
            for entry in decoding:
                self._guarded(self._after_step, entry)

    def _guarded(self, work: Callable[[Running], None], entry: Running) -> None:
        """Runs one job's part of a turn; what it raises is that job's end and no other's."""
        try:
            work(entry)
        except Exception as error:  # handed to whoever waits for this job
            self._finish(entry, error)

    def _finish(self, entry: Running, outcome: Tensor | Exception) -> None:
        if entry.slot >= 0:
            self._state.active[entry.slot] = False
            if self._fixed_shapes and isinstance(outcome, Exception):
                first = ROWS_PER_SLOT * entry.slot
                self.decoder.cache.clear(slice(first, first + ROWS_PER_SLOT))
        self._scheduler.finish(entry, outcome)

    def _place(self, entry: Running) -> None:
        """Writes a job into its slot and computes what the transformer is fed before the first sampled step."""
        job, state, slot = entry.job, self._state, entry.slot
        sequence = self.pattern.sequence(job.prompt, job.n_frames)
        first, stop = self.pattern.first_step(job.prompt.shape[-1]), sequence.shape[-1]
        entry.first_step, entry.step, entry.stop = first, first, stop
        noise = sampling.noise(job.seed, job.noise_step, stop - first, len(sequence))
        sequence = sequence.to(self.device)
        state.sequence[slot, :, :stop] = sequence
        state.noise[slot, first:stop] = noise.to(self.device)
        state.step[slot], state.prefix_length[slot] = first, job.prefix.shape[1]
        state.not_finite[slot] = False
        state.guidance[slot], state.temperature[slot] = job.guidance, job.temperature
        state.top_k[slot], state.top_p[slot] = job.top_k, job.top_p
        given = self.decoder.embed(sequence[:, :first].T).expand(job.n_rows, -1, -1)
        entry.inputs = torch.cat([job.prefix.float(), given], dim=1)
        if job.cross is not None:
            capacity = self.decoder.cache.cross_capacity
            try:
                self.decoder.write_cross(ROWS_PER_SLOT * slot, job.cross)
            finally:  # what fails may have moved the cache before
                if self.decoder.cache.cross_capacity != capacity:
                    self._forget_recordings()

    def _forget_recordings(self) -> None:
        """Forgets what held on to tensors of the cache, after these have moved."""
        self._graph: Graph | None = None
        self._replays: dict[int, Replay] = {}
        has_kernel = self._fixed_shapes and self.decoder.kernels == "cuda"
        self._kernel_attention = CudaKernelAttention(self.decoder.cache) if has_kernel else None

    def _prefill(self, entry: Running) -> None:
        """Feeds the next piece of a prompt; the last one gives the first sampled step."""
        entry.report()
        assert entry.inputs is not None
        piece = entry.inputs[:, entry.n_prefilled : entry.n_prefilled + PREFILL_POSITIONS[self.device.type]]
        n_rows, n_positions, _ = piece.shape
        span = Span(0, n_rows, ROWS_PER_SLOT * entry.slot, entry.n_prefilled, entry.job.cross_length)
        attention = Prefill(self.decoder.cache, span, n_positions)
        position = torch.arange(entry.n_prefilled, entry.n_prefilled + n_positions, device=self.device).repeat(n_rows)
        hidden = self.decoder.forward(piece.flatten(0, 1), position, attention)
        entry.n_prefilled += n_positions
        if entry.n_prefilled < entry.inputs.shape[1]:
            return
        entry.inputs = None
        self._state.active[entry.slot] = True
        logits = self.decoder.logits(hidden.view(n_rows, n_positions, -1)[:, -1])
        self._sample(self._slots[entry.slot : entry.slot + 1], logits[:1], logits[-1:])
        self._after_step(entry)

    def _after_step(self, entry: Running) -> None:
        """Counts a sampled step; a job that has made its last one is finished."""
        entry.step += 1
        entry.report()
        # On the device, the flag is read once, with the tokens: reading it waits for every step before.
        is_done = entry.step == entry.stop
        if (is_done or self.device.type == "cpu") and bool(self._state.not_finite[entry.slot]):
            raise NotFiniteError("the model's logits are not finite")
        if is_done:
            sequence = self._state.sequence[entry.slot, :, : entry.stop].cpu()
            self._finish(entry, self.pattern.frames(sequence, entry.job.n_frames))

    def _decode(self, entries: list[Running]) -> bool:
        """One step of all jobs whose prompts have been fed; whether it went well."""
        try:
            if self._fixed_shapes:
                self._step_of_all()
            else:
                self._step_of(entries)
        except Exception as error:  # nobody's in particular, so everybody's
            for entry in entries:
                self._finish(entry, error)
            return False
        return True

    def _step_of(self, entries: list[Running]) -> None:
        """A step of some slots, at lengths that the host knows."""
        spans, slots, conditional, unconditional = [], list[int](), list[int](), list[int]()
        for entry in entries:
            n_rows, row = entry.job.n_rows, ROWS_PER_SLOT * entry.slot
            position = entry.job.prefix.shape[1] + entry.step - 1
            spans.append(Span(len(slots), n_rows, row, position, entry.job.cross_length))
            conditional.append(len(slots))
            slots += [entry.slot] * n_rows
            unconditional.append(len(slots) - 1)
        logits = self._logits(torch.tensor(slots), spans)
        self._sample(torch.tensor([entry.slot for entry in entries]), logits[conditional], logits[unconditional])

    def _step_of_all(self) -> None:
        """A step of every slot at once, idle ones too, so that shapes never change: what the graph records."""
        if not self._use_graph or self.device.type == "cpu":
            self._run_all_slots()
            return
        if self._graph is None:
            active = self._state.active.clone()
            self._state.active.zero_()
            self._graph = Graph(self._run_all_slots)
            self._state.active.copy_(active)
        self._graph.replay()
        # The host stays one step ahead: enough to keep the device busy, little enough to stop a cancelled job at once.
        if self._last_step is not None:
            self._last_step.synchronize()
        self._last_step = torch.cuda.Event()
        self._last_step.record()

    def _run_all_slots(self) -> None:
        state = self._state
        slots = self._slots.repeat_interleave(ROWS_PER_SLOT)
        spare = self.decoder.cache.n_positions - 1
        position = torch.where(state.active, state.prefix_length + state.step - 1, spare)[slots]
        kernel = self._kernel_attention
        attention = kernel.at(position) if kernel else CudaAttention(self.decoder.cache, position)
        inputs, position = self._inputs(slots)
        logits = self.decoder.logits(self.decoder.forward(inputs, position, attention))
        self._sample(self._slots, logits[0::ROWS_PER_SLOT], logits[1::ROWS_PER_SLOT])

    def _logits(self, slots: Tensor, spans: list[Span]) -> Tensor:
        """Logits [M, K, V] of the step that each row's slot [M] is at, at lengths that the host knows."""
        inputs, position = self._inputs(slots)
        n_rows = len(slots)
        if self.decoder.kernels == "cpu" and self._use_graph and n_rows <= MAX_ROWS:
            replay = self._replays.get(n_rows) or self._replays.setdefault(n_rows, Replay(self.decoder, n_rows))
            return replay.step(inputs, self.decoder.encoded(position), spans)
        attention: Attention = CpuAttention(self.decoder.cache, spans)
        if self.decoder.kernels == "cpu":
            attention = CpuKernelAttention(self.decoder.cache, n_rows).at(spans)
        return self.decoder.logits(self.decoder.forward(inputs, position, attention))

    def _inputs(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [M, D] and positions [M] of the step that each row's slot [M] is at."""
        state = self._state
        last = state.step[slots] - 1
        return self.decoder.embed(state.sequence[slots, :, last]), state.prefix_length[slots] + last

    def _sample(self, slots: Tensor, conditional: Tensor, unconditional: Tensor) -> None:
        """Draws the current step of slots [J] from logits [J, K, V] and moves active slots on to the next."""
        state = self._state
        step, active = state.step[slots], state.active[slots]
        logits = sampling.guided(conditional, unconditional, state.guidance[slots])
        how = sampling.Sampling(state.temperature[slots], state.top_k[slots], state.top_p[slots])
        drawn = sampling.sample(logits, state.noise[slots, step], how)
        given = state.sequence[slots, :, step]
        is_open = active[:, None] & (given == UNKNOWN)
        state.sequence[slots, :, step] = torch.where(is_open, drawn, given)
        state.not_finite[slots] |= active & ~logits.isfinite().flatten(1).all(1)
        state.step[slots] = step + active
