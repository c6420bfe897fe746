"""The parts of the CUDA backends that need no CUDA; ``tests/test_gpu.py`` has the rest."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from audiocraft_ext.engine.backends.cuda import slots_that_fit
from audiocraft_ext.engine.engine import Engine
from audiocraft_ext.engine.transformer import Transformer
from tests.support.engines import N_STEPS, PATTERN, WIDTH, HostBackend, closing, engine, long_job, results, weights

N_SLOTS = 2


@pytest.mark.parametrize(
    ("n_bytes", "n_requested", "n_slots"),
    [(0, 16, 1), (99, 1, 1), (750, 16, 4), (799, 16, 4), (800, 16, 8), (900, 5, 5)],
)
def test_a_little_more_or_less_memory_leaves_the_number_of_slots(n_bytes: int, n_requested: int, n_slots: int) -> None:
    assert slots_that_fit(n_bytes, 100, n_requested) == n_slots


class FailingCapture:
    """Stands for torch.cuda's capture, whose end raises and leaves the capture's stream current."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current, self.n_captures = "the engine's", 0
        self.released: list[str] = []
        event = SimpleNamespace(synchronize=lambda: None, record=lambda: None)
        stands_for: dict[str, Any] = {
            "Event": lambda: event,
            "CUDAGraph": lambda: None,
            "Stream": lambda priority: self.stream_of("the capture's", priority),
            "current_device": lambda: 0,
            "current_stream": lambda: self.stream_of(self.current),
            "graph": self.graph,
            "graph_pool_handle": lambda: "pool",
            "set_stream": lambda stream: setattr(self, "current", stream.name),
            "stream": nullcontext,
        }
        for name, value in stands_for.items():
            monkeypatch.setattr(torch.cuda, name, value)
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            monkeypatch.setattr(torch._C, name, lambda device, pool: self.released.append(pool))

    @staticmethod
    def stream_of(name: str, priority: int = 0) -> Any:
        return SimpleNamespace(name=name, priority=priority, wait_stream=lambda other: None)

    @contextmanager
    def graph(self, graph: None, *, pool: str, stream: Any, capture_error_mode: str) -> Iterator[None]:
        assert (pool, stream.priority, capture_error_mode) == ("pool", -1, "thread_local")
        self.n_captures += 1
        self.current = stream.name
        yield
        raise RuntimeError("operation not permitted when stream is capturing")


def engine_on_cpu() -> Engine:
    backend = HostBackend(torch.device("cpu"), torch.float32, WIDTH, False, True)
    return Engine(Transformer(weights(True), 2 * N_SLOTS, N_STEPS + 1, backend), PATTERN, N_SLOTS, N_STEPS)


def test_a_capture_that_fails_is_tried_once_and_its_jobs_get_their_tokens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [long_job(seed, guidance=3.0) for seed in range(3)]
    with closing(engine(n_slots=N_SLOTS, backend="torch")) as plain:
        expected = results(plain, jobs)
    capture = FailingCapture(monkeypatch)
    with closing(engine_on_cpu()) as made:
        assert all(torch.equal(a, b) for a, b in zip(results(made, jobs), expected, strict=True))
        assert made.backend.description == "host, eager"
    assert (capture.n_captures, capture.current, capture.released) == (1, "the engine's", ["pool"] * 2)
    (record,) = caplog.records
    assert "RuntimeError: operation not permitted when stream is capturing" in record.getMessage()


def test_no_prompt_of_128_tokens_reallocates_what_was_captured() -> None:
    cache = engine_on_cpu().transformer.cache
    keys = cache.cross_keys[0]
    cache.reserve_cross(128)
    assert cache.cross_keys[0] is keys


def test_products_in_half_precision_are_summed_in_single() -> None:
    engine_on_cpu()
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
