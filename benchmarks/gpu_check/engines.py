"""Engines of MusicGen's sizes with random weights, and jobs for them. Needs torch alone: no checkpoint."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from audiocraft_ext import memory
from audiocraft_ext.engine import backends
from audiocraft_ext.engine.backends import BackendName
from audiocraft_ext.engine.engine import Engine
from audiocraft_ext.engine.kv_cache import ROWS_PER_SLOT, kv_bytes_per_row
from audiocraft_ext.engine.pattern import DelayPattern
from audiocraft_ext.engine.quantize import Quantize
from audiocraft_ext.engine.scheduler import Job
from audiocraft_ext.engine.transformer import CrossAttention, Layer, Transformer, WeightBias, Weights
from benchmarks.measure import N_SKIPPED
from benchmarks.step_model import N_CODEBOOKS, SIZES, VOCABULARY

PATTERN = DelayPattern((0, 1, 2, 3), VOCABULARY)
N_TEXT = 20  # cross-attention positions: a prompt of some 15 words
PATIENCE_S = 300


def default_dtype(device: str) -> torch.dtype:
    """The transformer's, as the server chooses it."""
    return torch.float16 if device == "cuda" else torch.float32


def random_weights(size: str, device: str, dtype: torch.dtype) -> Weights:
    """A text model; drawn on the device, where 1.8 billion numbers take no time."""
    width, n_layers, n_heads = SIZES[size]
    # In fp32, so that every dtype has the same weights, rounded.
    randn = partial(torch.randn, generator=torch.Generator(device).manual_seed(0), device=device)

    def matrix(n_out: int, n_in: int) -> WeightBias:
        return WeightBias((n_in**-0.5 * randn(n_out, n_in)).to(dtype))

    def norm() -> WeightBias:
        return WeightBias(torch.ones(width, device=device), torch.zeros(width, device=device))

    def layer() -> Layer[WeightBias]:
        return Layer(
            norm_self=norm(),
            qkv=matrix(3 * width, width),
            out=matrix(width, width),
            norm_ffn=norm(),
            up=matrix(4 * width, width),
            down=matrix(width, 4 * width),
            cross=CrossAttention(norm(), matrix(width, width), matrix(2 * width, width), matrix(width, width)),
        )

    embeddings = randn(N_CODEBOOKS, VOCABULARY + 1, width).to(dtype)
    heads = matrix(N_CODEBOOKS * VOCABULARY, width)
    return Weights(embeddings, [layer() for _ in range(n_layers)], norm(), heads, n_heads)


def transformer(
    weights: Weights,
    n_slots: int,
    n_frames: int,
    *,
    quantize: Quantize = "none",
    name: BackendName | None = None,
    capture: bool = True,
) -> Transformer:
    """On the device's own backend or that of a name, with as many slots of the requested ones as it takes."""
    layers = list(weights.layers)
    up = layers[0].up.weight
    backend = backends.choose(up, weights.n_heads, quantize=quantize, name=name, capture=capture)
    n_positions = PATTERN.n_steps(n_frames) + 1
    head_dim = up.shape[1] // weights.n_heads
    row_bytes = kv_bytes_per_row(len(layers), weights.n_heads, n_positions, head_dim, backend.cache_dtype)
    n_slots = n_slots if name == "torch" else backend.fitting_slots(n_slots, ROWS_PER_SLOT * row_bytes)
    return Transformer(weights, ROWS_PER_SLOT * n_slots, n_positions, backend)


def n_slots_of(engine: Engine) -> int:
    return len(engine.transformer.cache.keys[0]) // ROWS_PER_SLOT


@contextmanager
def running(weights: Weights, n_slots: int, n_frames: int, **choices: Any) -> Iterator[Engine]:
    """An engine for jobs of up to so many frames, warm: compiled and captured; closed and freed behind it."""
    made = transformer(weights, n_slots, n_frames, **choices)
    engine = Engine(made, PATTERN, len(made.cache.keys[0]) // ROWS_PER_SLOT, PATTERN.n_steps(n_frames))
    try:
        engine.call(engine.capture_steps)
        engine.submit(job(engine, 0, 4)).result(PATIENCE_S)
        yield engine
    finally:
        engine.close()
        del made, engine
        memory.collect()


def describe(engine: Engine) -> dict[str, Any]:
    """How tokens are made, as the log of a server's start says it; the slots, and the weights' type."""
    backend = engine.backend
    weights = "int8" if backend.is_int8 else str(backend.dtype).removeprefix("torch.")
    return {"engine": engine.description, "slots": n_slots_of(engine), "weights": weights}


def job(engine: Engine, seed: int, n_frames: int, n_text: int = N_TEXT, **changes: Any) -> Job:
    """A clip without a prompt, sampled with guidance as a server does by default."""
    backend, dim = engine.backend, engine.transformer.dim
    generator = torch.Generator().manual_seed(seed)
    n_rows = 1 if changes.get("guidance") == 1.0 else 2
    settings: dict[str, Any] = {
        "prompt": torch.zeros(N_CODEBOOKS, 0, dtype=torch.int64),
        "n_frames": n_frames,
        "prefix": torch.zeros(n_rows, 0, dim, device=backend.device, dtype=backend.dtype),
        "cross": torch.randn(n_rows, n_text, dim, generator=generator).to(backend.device, backend.dtype),
        "guidance": 3.0,
        "top_k": 250,
        "seed": seed,
    }
    if n_rows == 2:
        settings["cross"][1] = 0  # the unconditional row
    return Job(**settings | changes)


class Stamps:
    """The times of a job's steps, as its ``on_step``."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.is_warm = threading.Event()

    def __call__(self, done: int, total: int) -> None:
        if done > len(self.times):
            self.times.append(time.perf_counter())
        if done > N_SKIPPED:
            self.is_warm.set()


def time_steps(engine: Engine, n_clips: int, n_frames: int) -> tuple[float, float]:
    """Milliseconds a step while all clips run, their admission left out, and the mean position of those steps."""
    stamps = [Stamps() for _ in range(n_clips)]
    futures = [engine.submit(job(engine, i, n_frames, on_step=stamps[i])) for i in range(n_clips)]
    for future in futures:
        future.result(PATIENCE_S)
    start = max(each.times[N_SKIPPED] for each in stamps)
    stop = min(each.times[-1] for each in stamps)
    counted = [i for i, at in enumerate(stamps[0].times) if start <= at <= stop]
    seconds = stamps[0].times[counted[-1]] - stamps[0].times[counted[0]]
    return 1000 * seconds / (len(counted) - 1), (counted[0] + counted[-1]) / 2


def same_tokens(one: list[Tensor], other: list[Tensor]) -> int:
    """How many pairs are equal."""
    return sum(torch.equal(a, b) for a, b in zip(one, other, strict=True))
