"""The parts that need torch and Triton alone: speed, kernels, parity, company, admission."""

import platform
import resource
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from audiocraft_ext.engine.engine import Engine
from audiocraft_ext.engine.kv_cache import ROWS_PER_SLOT, quantize_kv
from audiocraft_ext.engine.quantize import Quantize
from audiocraft_ext.engine.slots import SlotTable
from audiocraft_ext.engine.step import Step
from audiocraft_ext.engine.transformer import Transformer
from benchmarks import measure, step_model
from benchmarks.gpu_check import engines
from benchmarks.gpu_check.engines import PATIENCE_S, Stamps, describe, job, n_slots_of, random_weights, running
from benchmarks.gpu_check.report import Report

QUANTIZE: tuple[Quantize, ...] = ("none", "int8")
N_PROFILED, N_TOP = 20, 20
_WAYS: dict[str, dict[str, Any]] = {
    "fast": {},
    "eager": {"capture": False},
    "torch": {"capture": False, "name": "torch"},
}


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"


def peak_gb(device: str) -> dict[str, float]:
    """The process's peak memory so far."""
    if device == "cuda":
        return {"peak GB": round(torch.cuda.max_memory_allocated() / 1e9, 2)}
    return {"peak GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}


def expected_ms(size: str, read: float) -> dict[str, float]:
    """The prediction of ``step_model`` for this card, if it knows it."""
    name = device_name("cuda") if torch.cuda.is_available() else ""
    cards = [card for key, card in step_model.CARDS.items() if key in name]
    return {
        f"expected ms, {kernels}": round(step_model.step_ms(design, card, size, read), 2)
        for card in cards
        for kernels, design in step_model.DESIGNS.items()
    }


def speed(report: Report, seconds: Sequence[int]) -> None:
    """Milliseconds a step, GB/s and share of the floor, of 1, 4 and 16 clips; and of one clip in an engine for one."""
    size, device = report.size, report.device
    rate = measure.bandwidth(device)
    report.add("memory", device_name=device_name(device), **{"GB/s": round(rate / 1e9)})
    weights = random_weights(size, device, engines.default_dtype(device))
    n_frames = [each * step_model.FRAME_RATE for each in sorted(seconds, reverse=True)]
    for quantize in QUANTIZE:
        for n_slots, all_clips in ((16, [1, 16, 4]), (1, [1])):
            # Four clips and the shorter ones tell less: in full precision alone, for time.
            is_full = (quantize, n_slots) == ("none", 16)
            lengths, clips = (n_frames, all_clips) if is_full else (n_frames[:1], all_clips[:2])
            what = f"{n_slots} slots {quantize}"
            with report.attempt(what):
                start = time.perf_counter()
                with running(weights, n_slots, n_frames[0], quantize=quantize) as engine:
                    took_s = round(time.perf_counter() - start, 1)
                    report.add(what, **describe(engine), **{"start s": took_s}, **peak_gb(device))
                    for length in lengths:
                        for n_clips in clips:
                            with report.attempt(f"{what}, {n_clips} clips"):
                                _speed_row(report, engine, n_clips, length, rate)


def _speed_row(report: Report, engine: Engine, n_clips: int, n_frames: int, rate: float) -> None:
    what = f"{n_clips} clips of {n_frames // step_model.FRAME_RATE} s"
    if n_clips > n_slots_of(engine):
        report.add(what, skipped=f"{n_slots_of(engine)} slots")
        return
    ms, position = engines.time_steps(engine, n_clips, n_frames)
    cache_bytes = engine.transformer.cache.keys[0][0, :, 0].nbytes / engine.transformer.dim
    weight_bytes = 1 if engine.backend.is_int8 else engine.backend.dtype.itemsize
    read = step_model.n_bytes(report.size, n_clips, position, weight_bytes, cache_bytes)
    report.add(
        what,
        clips=n_clips,
        seconds=n_frames // step_model.FRAME_RATE,
        **{"ms a step": round(ms, 3), "x real time": round(step_model.realtime(ms, n_clips), 2)},
        **{"GB/s": round(read / ms / 1e6), "share of the floor": round(1000 * read / rate / ms, 3)},
        **describe(engine),
        **expected_ms(report.size, read),
    )


class _Profile:
    """A job's ``on_step`` that profiles some steps, in the engine's thread: on a CPU, only its operations count."""

    def __init__(self, device: str) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
        self.wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        self.profiler, self.seconds = profile(activities=activities), 0.0

    def __call__(self, done: int, total: int) -> None:
        if done == measure.N_SKIPPED:
            self.wait()
            self.profiler.start()
            self.seconds -= time.perf_counter()
        if done == measure.N_SKIPPED + N_PROFILED:
            self.wait()
            self.seconds += time.perf_counter()
            self.profiler.stop()

    def kernels(self, device: str) -> list[tuple[str, float, float]]:
        """Name, calls a step and microseconds a step of each kernel, or of each operation on a CPU; dearest first."""
        events = self.profiler.key_averages()
        if device == "cuda":
            events = [event for event in events if event.device_type != torch.autograd.DeviceType.CPU]
        times = ((event.key[:90], event.count, _self_us(event, device)) for event in events)
        rows = [(name, n / N_PROFILED, round(us / N_PROFILED, 1)) for name, n, us in times if us > 0]
        return sorted(rows, key=lambda row: -row[2])


def _self_us(event: Any, device: str) -> float:
    return float(event.self_device_time_total if device == "cuda" else event.self_cpu_time_total)


def kernels(report: Report, n_frames: int) -> None:
    """The most expensive kernels of one clip's step and of a full batch's."""
    device = report.device
    weights = random_weights(report.size, device, engines.default_dtype(device))
    with profile():  # initialised before any capture, and in this thread
        torch.zeros(1, device=device).sum().item()
    for quantize in QUANTIZE:
        with report.attempt(f"kernels {quantize}"), running(weights, 16, n_frames, quantize=quantize) as engine:
            for n_clips in sorted({1, n_slots_of(engine)}):
                one = _Profile(device)
                # The profiled job is admitted last: no other's admission is in its steps.
                jobs = [job(engine, i, n_frames) for i in range(n_clips - 1)]
                futures = [engine.submit(each) for each in [*jobs, job(engine, n_clips, 50, on_step=one)]]
                for future in futures:
                    future.result(PATIENCE_S)
                _kernel_table(report, one, f"{n_clips} clips {quantize}", describe(engine))


def _kernel_table(report: Report, one: _Profile, what: str, about: dict[str, Any]) -> None:
    rows = one.kernels(report.device)
    figures = {
        "kernels a step": round(sum(row[1] for row in rows)),
        "busy us a step": round(sum(row[2] for row in rows)),
    }
    wall = {"wall us a step": round(1e6 * one.seconds / N_PROFILED)}
    report.add(what, **about, **figures, **wall, **{"top kernels": rows[:N_TOP]})
    for name, n_calls, us in rows[:N_TOP]:
        print(f"  {us:9.1f} us {n_calls:7.1f} calls  {name}", flush=True)


def _logits(made: Transformer) -> Tensor:
    """Logits [B, K, V] of a step of 4 clips at unequal lengths, over a random cache."""
    n_slots, cache, device = 4, made.cache, made.backend.device
    generator, n_steps = (
        torch.Generator(device).manual_seed(1),
        cache.n_positions - 1,
    )  # on the host, drawing takes 20 s
    made.cache_cross_kv(0, torch.randn(8, 40, made.dim, generator=generator, device=device))
    for part in (*cache.keys, *cache.values):
        drawn = torch.randn(*part.shape[:3], made.dim // made.n_heads, generator=generator, device=device)
        part.copy_(quantize_kv(drawn, cache.dtype))
    table = SlotTable(n_slots, made.n_codebooks, n_steps, cache.n_positions, device, made.backend.is_host)
    table.sequence.copy_(torch.randint(made.vocabulary, table.sequence.shape, generator=generator, device=device))
    for slot, share in enumerate((0.0, 0.1, 0.5, 0.99)):
        table.activate(slot, round(share * (n_steps - 1)))
        table.step[slot] = table.position[slot] + 1
    step = Step(made, table, ROWS_PER_SLOT * n_slots)
    step.run([(slot, ROWS_PER_SLOT) for slot in range(n_slots)])
    return step.logits.float().clone()


@torch.inference_mode()
def parity(report: Report, n_frames: int) -> None:
    """Logits of the fast kernels beside plain torch's, in the server's dtype, in int8 and in fp32; greedy tokens."""
    size, device = report.size, report.device
    exact: Tensor | None = None
    with report.attempt("plain fp32"):
        exact = _logits(engines.transformer(random_weights(size, device, torch.float32), 4, n_frames, name="torch"))
    cases: list[tuple[str, torch.dtype, Quantize]] = []
    if device == "cuda":
        cases += [("fp16", torch.float16, "none"), ("bf16", torch.bfloat16, "none")]
    cases += [("int8", engines.default_dtype(device), "int8"), ("fp32", torch.float32, "none")]
    for what, dtype, quantize in cases:  # fp32 last: its kernels compile for longest
        with report.attempt(what):
            weights = random_weights(size, device, dtype)
            make = partial(engines.transformer, weights, 4, n_frames, quantize=quantize, capture=False)
            fast = make()
            ours, plain = _logits(fast), _logits(make(name="torch"))
            report.add(
                what,
                kernels=type(fast.backend).__name__,
                **{"from torch": _distance(ours, plain), "largest": f"{(ours - plain).abs().max():.1e}"},
                **{"from fp32": _distance(ours, exact), "torch from fp32": _distance(plain, exact)},
            )
            del fast, make
            tokens = {name: _greedy(weights, quantize, **choice) for name, choice in _WAYS.items()}
            first = tokens.pop("fast")
            shares = {name: float((first == other).double().mean()) for name, other in tokens.items()}
            report.add(f"{what}, greedy", **{f"equal to {name}": round(share, 4) for name, share in shares.items()})


def _distance(a: Tensor, b: Tensor | None) -> str:
    """The norm of the difference as a share of b's."""
    return "unknown" if b is None else f"{(a - b).norm() / b.norm():.1e}"


def _greedy(weights: Any, quantize: Quantize, **choices: Any) -> Tensor:
    """Frames [K, T] of a greedy job."""
    with running(weights, 1, 60, quantize=quantize, **choices) as engine:
        return engine.submit(job(engine, 1, 60, temperature=0.0)).result(PATIENCE_S)


def company(report: Report, n_frames: int) -> None:
    """Sixteen mixed jobs at real width: the tokens of each alone, with four and with all of the others.

    So steps have 2, 10 and 32 rows, which a GPU's kernels pad to 8, 16 and 32.
    """
    device = report.device
    weights = random_weights(report.size, device, engines.default_dtype(device))
    prompt = torch.arange(4 * 30).view(4, 30)
    mixed: list[dict[str, Any]] = [
        {"n_frames": n_frames},
        {"n_frames": n_frames // 2, "n_text": 60, "guidance": 1.0, "top_k": 0, "top_p": 0.9},
        {"n_frames": n_frames // 2 + 30, "prompt": prompt, "guidance": -2.0, "temperature": 0.7},
        {"n_frames": n_frames // 4, "n_text": 5, "temperature": 0.0, "top_k": 0},
    ]
    for quantize in QUANTIZE:
        with report.attempt(f"mixed jobs {quantize}"), running(weights, 16, n_frames, quantize=quantize) as engine:
            jobs = [job(engine, i, **mixed[i % 4]) for i in range(16)]
            alone = [engine.submit(each).result(PATIENCE_S) for each in jobs]
            for n_jobs in (5, 16):
                futures = [engine.submit(each) for each in jobs[:n_jobs]]
                equal = engines.same_tokens(alone[:n_jobs], [future.result(PATIENCE_S) for future in futures])
                report.add(f"{n_jobs} mixed jobs {quantize}", equal=f"{equal} of {n_jobs}", **describe(engine))
                if equal < n_jobs:
                    raise AssertionError(f"{n_jobs - equal} of {n_jobs} jobs get other tokens in company")


def admission(report: Report, n_frames: int) -> None:
    """The wait of running jobs for newcomers, one with a long text among them, and of these for their first step."""
    device = report.device
    weights = random_weights(report.size, device, engines.default_dtype(device))
    with report.attempt("admission"), running(weights, 16, 1500) as engine:
        n_running = max(1, n_slots_of(engine) // 2)
        stamps = [Stamps() for _ in range(n_running)]
        futures = [engine.submit(job(engine, i, n_frames, on_step=each)) for i, each in enumerate(stamps)]
        for each in stamps:
            each.is_warm.wait(PATIENCE_S)
        admitted_at = time.perf_counter()
        time.sleep(0.3)
        quiet_until, waits_ms = time.perf_counter(), []
        for i, n_text in enumerate((20, 20, 60, 120)):
            newcomer, submitted_at = Stamps(), time.perf_counter()
            engine.submit(job(engine, 100 + i, 20, n_text, on_step=newcomer)).result(PATIENCE_S)
            waits_ms.append(round(1000 * (newcomer.times[0] - submitted_at), 1))
        busy_until = time.perf_counter()
        for future in futures:
            future.result(PATIENCE_S)
        gaps = [(at, 1000 * (at - before)) for before, at in pairwise(stamps[0].times)]
        quiet = [gap for at, gap in gaps if admitted_at < at <= quiet_until]
        busy = [gap for at, gap in gaps if quiet_until < at <= busy_until]
        figures: dict[str, Any] = {"running": n_running, "first step ms": waits_ms}
        for name, those in (("quiet", quiet), ("busy", busy)):
            if those:
                figures |= {f"{name} median ms": round(median(those), 2), f"{name} largest ms": round(max(those), 2)}
        report.add("4 newcomers, the last with a text of 120 tokens", **figures, **describe(engine))
