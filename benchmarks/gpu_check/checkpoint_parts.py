"""The parts that need audiocraft and transformers: load time, whole requests, and the peers."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from audiocraft_ext import checkpoint, memory
from audiocraft_ext.engine.backends.threads import prepare_thread, request_streams
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import SilentProgress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from benchmarks import step_model
from benchmarks.engine import PROMPT, time_audiocraft, time_transformers, write_checkpoint
from benchmarks.gpu_check.engine_parts import peak_gb
from benchmarks.gpu_check.engines import default_dtype, describe
from benchmarks.gpu_check.report import Report

# The codec of Meta's checkpoints; the text encoder is a small one.
CODEC = {"num_filters": 64, "hidden_size": 128, "codebook_dim": 128}


def random_checkpoint(size: str, device: str, work: Path) -> Path:
    """A checkpoint with random weights in `work`, written by the first part that needs it."""
    folder, partial = work / size, work / f"{size}.partial"
    if not folder.exists():
        partial.mkdir(exist_ok=True)
        write_checkpoint(partial, size, device, default_dtype(device), **(CODEC if size != "tiny" else {}))
        partial.rename(folder)
        memory.collect()
    return folder


def requests(report: Report, work: Path, clips: list[tuple[int, int]]) -> None:
    """Load time and memory; then audio seconds a second of so many requests at once, codec included."""
    folder = random_checkpoint(report.size, report.device, work)
    with report.attempt("load"):
        start = time.perf_counter()
        loaded = checkpoint.load(str(folder), report.device)
        load_s = time.perf_counter() - start
        model = Model(loaded, EngineSettings())
        engine_s = time.perf_counter() - start
        model.smoke_test()
        took = {"load s": load_s, "with engine s": engine_s, "ready s": time.perf_counter() - start}
        report.add("load", **{name: round(s, 1) for name, s in took.items()}, **peak_gb(report.device))
        for n_clips, seconds in clips:
            with report.attempt(f"{n_clips} requests of {seconds} s"):
                audio_s = _audio_seconds_a_second(model, report.device, n_clips, seconds)
                about = describe(model.engine) if model.engine else {}
                report.add(
                    f"{n_clips} requests of {seconds} s",
                    **{"audio s a second": round(audio_s, 2)},
                    **about,
                    **peak_gb(report.device),
                )
        model.close()


def _audio_seconds_a_second(model: Model, device: str, n_clips: int, seconds: int) -> float:
    def one(seed: int) -> None:
        model.generate(Request(prompt=PROMPT, duration=seconds, seed=seed), None, SilentProgress())

    start = time.perf_counter()
    thread_settings = 1, request_streams(device)
    with ThreadPoolExecutor(n_clips, initializer=prepare_thread, initargs=thread_settings) as pool:
        list(pool.map(one, range(n_clips)))
    return n_clips * seconds / (time.perf_counter() - start)


def audiocraft(report: Report, work: Path, n_frames: int) -> None:
    """audiocraft's own loop."""
    folder = random_checkpoint(report.size, report.device, work)
    with report.attempt("audiocraft"):
        lm = checkpoint.load(str(folder), report.device).lm
        _add_peer(report, "audiocraft", time_audiocraft(lm, n_frames, report.device))


def transformers(report: Report, work: Path, n_frames: int, **settings: Any) -> None:
    """transformers' ``generate``: eager, or with a static cache, which it compiles where it can."""
    folder = random_checkpoint(report.size, report.device, work)
    what = "transformers, " + (f"{settings['cache_implementation']} cache" if settings else "eager")
    with report.attempt(what):
        _add_peer(report, what, time_transformers(folder, n_frames, report.device, **settings))


def _add_peer(report: Report, what: str, ms: float) -> None:
    figures = {"ms a step": round(ms, 3), "x real time": round(step_model.realtime(ms, 1), 2)}
    report.add(what, **figures, **peak_gb(report.device))
