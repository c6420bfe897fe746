"""The parts of the CUDA backends that need no CUDA; ``tests/test_gpu.py`` has the rest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from audiocraft_ext.engine.backends.cuda import CUDAGraphStep, slots_that_fit
from audiocraft_ext.engine.backends.torch import ReplayError
from audiocraft_ext.engine.backends.triton import TritonBackend
from audiocraft_ext.engine.engine import Engine
from audiocraft_ext.engine.step import Step
from audiocraft_ext.engine.transformer import Transformer
from tests.support.engines import (
    N_STEPS,
    PATIENCE_S,
    PATTERN,
    WIDTH,
    HostBackend,
    closing,
    engine,
    job,
    long_job,
    results,
    weights,
)

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


def engine_on_cpu(kind: type[HostBackend] = HostBackend, n_slots: int = N_SLOTS) -> Engine:
    backend = kind(torch.device("cpu"), torch.float32, WIDTH, False, True)
    return Engine(Transformer(weights(True), 2 * n_slots, N_STEPS + 1, backend), PATTERN, n_slots, N_STEPS)


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


class Buckets(HostBackend):
    """Steps of busy slots, as Triton's; its captures are right."""

    step_sizes = TritonBackend.step_sizes
    reads_masked = False

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self.captured: list[int] = []
        self.stepped: set[int] = set()

    def capture(self, step: Step) -> Callable[[], None]:
        self.captured.append(step.n_rows)
        return partial(self.replay, step)

    def replay(self, step: Step) -> None:
        if step.table.is_active.any():
            self.stepped.add(step.n_rows)
        step.run_eagerly()


def places(made: Engine) -> dict[int, tuple[int, int]]:
    """Where the tensors are from which a graph of a number of rows reads its slots."""
    return {n_rows: (step._rows.data_ptr(), step._jobs.data_ptr()) for n_rows, step in made._steps.items()}


def test_steps_are_of_the_busy_slots_and_the_next_power_of_two() -> None:
    jobs = [job(seed, temperature=0.0, n_frames=n) for seed, n in ((1, 40), (2, 20), (3, 20), (4, 8), (5, 4))]
    with closing(engine(n_slots=5, backend="torch")) as plain:
        expected = results(plain, jobs)
    with closing(engine_on_cpu(Buckets, 5)) as made:
        made.call(made.capture_steps)
        assert made.backend.captured == [10, 8, 4, 2]  # type: ignore[attr-defined]
        where = places(made)
        assert all(torch.equal(a, b) for a, b in zip(results(made, jobs), expected, strict=True))
        assert made.backend.stepped == {10, 8, 4, 2}  # type: ignore[attr-defined]
        assert places(made) == where
        assert len(made.backend.captured) == 4  # type: ignore[attr-defined]


class FailsInService(HostBackend):
    """Its graph fails when it is replayed for the twentieth time."""

    n_replays = 0

    def capture(self, step: Step) -> Callable[[], None]:
        run = super().capture(step)
        if isinstance(run, CUDAGraphStep):
            run._graph = SimpleNamespace(replay=partial(self.replay, step))  # type: ignore[assignment]
        return run

    def replay(self, step: Step) -> None:
        self.n_replays += 1
        if self.n_replays == 20:
            raise RuntimeError("unspecified launch failure")
        step.run_eagerly()


def test_after_a_replay_that_fails_jobs_are_decoded_without_captures(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FailingCapture(monkeypatch)
    jobs = [long_job(seed, guidance=3.0) for seed in range(N_SLOTS)]
    with closing(engine(n_slots=N_SLOTS, backend="torch")) as plain:
        expected = results(plain, jobs)
    with closing(engine_on_cpu(FailsInService)) as made:
        for future in [made.submit(one) for one in jobs]:
            with pytest.raises(ReplayError, match="A captured step failed: RuntimeError: unspecified launch failure"):
                future.result(timeout=PATIENCE_S)
        assert made.backend.description == "failsinservice, eager"
        assert all(torch.equal(a, b) for a, b in zip(results(made, jobs), expected, strict=True))
    (record,) = caplog.records
    assert "unspecified launch failure" in record.getMessage()


def test_no_prompt_of_128_tokens_reallocates_what_was_captured() -> None:
    cache = engine_on_cpu().transformer.cache
    keys = cache.cross_keys[0]
    cache.reserve_cross(128)
    assert cache.cross_keys[0] is keys


def test_products_in_half_precision_are_summed_in_single() -> None:
    engine_on_cpu()
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
