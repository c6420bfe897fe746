"""Many jobs at once: each gets what it gets alone, and what ends one of them touches no other."""

import gc
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from audiocraft_ext.engine.backends import BackendName
from audiocraft_ext.engine.backends.torch import TorchBackend
from audiocraft_ext.engine.engine import ClosedError, NotFiniteError
from audiocraft_ext.engine.quantize import Quantize
from audiocraft_ext.engine.slots import SlotTable
from audiocraft_ext.engine.step import Step
from audiocraft_ext.engine.transformer import Transformer
from tests.support.engines import (
    CARD,
    N_CODEBOOKS,
    N_STEPS,
    PATIENCE_S,
    WIDTH,
    closing,
    engine,
    job,
    long_job,
    needs_interpreter,
    needs_llvmlite,
    results,
    transformer,
    weights,
)

# Compiled kernels step busy slots, plain torch all of them, as CUDA does.
BACKENDS = [pytest.param("cpu", marks=needs_llvmlite), "torch"]


@pytest.mark.parametrize("has_cross", [True, False], ids=["cross", "prefix"])
@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hundred_mixed_jobs_get_the_tokens_that_they_get_alone(
    has_cross: bool, quantize: Quantize, backend: BackendName
) -> None:
    jobs = [job(seed, has_cross) for seed in range(100)]
    with closing(engine(has_cross, quantize=quantize, backend=backend)) as made:
        alone = [made.submit(one).result(timeout=PATIENCE_S) for one in jobs]
        together = results(made, jobs)
    assert sum(torch.equal(a, b) for a, b in zip(alone, together, strict=True)) == len(jobs)
    for one, tokens in zip(jobs, alone, strict=True):
        assert tokens.shape == (N_CODEBOOKS, one.n_frames)
        assert torch.equal(tokens[:, : one.prompt.shape[-1]], one.prompt)
        assert tokens.min() >= 0
        assert tokens.max() < CARD


@pytest.mark.parametrize("has_cross", [True, False], ids=["cross", "prefix"])
def test_steps_of_all_slots_give_the_greedy_tokens_of_steps_of_busy_ones(has_cross: bool) -> None:
    jobs = [job(seed, has_cross, temperature=0.0) for seed in range(20)]
    with closing(engine(has_cross, backend="torch")) as all_slots, closing(engine(has_cross)) as busy_slots:
        for a, b in zip(results(all_slots, jobs), results(busy_slots, jobs), strict=True):
            assert torch.equal(a, b)


def test_a_prompt_fed_in_pieces_gives_what_it_gives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(CARD, (N_CODEBOOKS, 100), generator=generator)
    one = job(3, prompt=prompt, n_frames=120, temperature=0.0)
    with closing(engine()) as made:
        whole = made.submit(one).result(timeout=PATIENCE_S)
        monkeypatch.setattr(made.backend, "prefill_positions", 7)
        assert torch.equal(made.submit(one).result(timeout=PATIENCE_S), whole)


def test_the_seed_alone_decides_and_a_later_window_goes_on_in_its_noise() -> None:
    with closing(engine()) as made:
        first, again, other, later = results(
            made,
            [
                job(1, temperature=1.0),
                job(1, temperature=1.0),
                replace(job(1, temperature=1.0), seed=9),
                job(1, temperature=1.0, noise_step=500),
            ],
        )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, later)


@pytest.mark.parametrize("step", [0, 1, 5, 50])
def test_a_job_that_raises_at_any_step_ends_alone(step: int) -> None:
    def stop(done: int, total: int) -> None:
        if done >= step and total:
            raise InterruptedError

    jobs = [long_job(seed) for seed in range(3)]
    with closing(engine()) as made:
        alone = results(made, jobs)
        futures = [made.submit(one) for one in jobs]
        broken = made.submit(long_job(3, on_step=stop))
        with pytest.raises(InterruptedError):
            broken.result(timeout=PATIENCE_S)
        for future, right in zip(futures, alone, strict=True):
            assert torch.equal(future.result(timeout=PATIENCE_S), right)
        assert torch.equal(made.submit(jobs[0]).result(timeout=PATIENCE_S), alone[0])


def test_a_job_in_line_can_end_before_its_turn() -> None:
    leave = threading.Event()
    ended: list[bool] = []

    def hold(done: int, total: int) -> None:
        """Keeps the engine at the first job until the last one is in line."""
        assert leave.wait(PATIENCE_S)

    def stop(done: int, total: int) -> None:
        if leave.is_set():
            raise InterruptedError

    with closing(engine(n_slots=1)) as made:
        futures: list[Future[Tensor]] = [made.submit(long_job(seed, on_step=hold)) for seed in range(3)]
        waiting = made.submit(long_job(4, on_step=stop))
        waiting.add_done_callback(lambda _: ended.extend(future.done() for future in futures))
        leave.set()
        with pytest.raises(InterruptedError):
            waiting.result(timeout=PATIENCE_S)
        for future in futures:
            future.result(timeout=PATIENCE_S)
    assert ended == [False] * 3


def logits_and_lengths(backend: BackendName, null_length: int | None = None) -> tuple[Tensor, list[int]]:
    """Logits [2, K, V] of a step with and without conditions, and how many of their positions are read."""
    made = transformer(n_slots=1, backend=backend)
    made.cache.reserve_cross(70)
    for values in made.cache.cross_values:
        values.fill_(3.0)  # of a former job
    states = torch.randn(2, 70, WIDTH, generator=torch.Generator().manual_seed(0))
    states[1] = 0
    made.cache_cross_kv(0, states)
    if null_length is not None:
        made.cache.cross_lengths[1] = null_length
    table = SlotTable(1, N_CODEBOOKS, N_STEPS, made.cache.n_positions, torch.device("cpu"))
    table.activate(0, 0)
    step = Step(made, table, 2)
    step.run([(0, 2)])
    return step.logits, made.cache.cross_lengths.tolist()


@pytest.mark.parametrize("backend", [*BACKENDS, pytest.param("triton", marks=needs_interpreter)])
def test_conditions_of_zeros_are_not_read_and_the_logits_are_the_same(backend: BackendName) -> None:
    (logits, lengths), (read, _) = logits_and_lengths(backend), logits_and_lengths(backend, 70)
    assert lengths == [70, 0]
    assert torch.equal(logits, read)
    assert not torch.equal(logits[0], logits[1])


def test_conditions_of_zeros_are_read_where_values_have_a_bias() -> None:
    model = weights(True)
    layers = []
    for layer in model.layers:
        assert layer.cross is not None
        biased = replace(layer.cross.key_value, bias=torch.ones(2 * WIDTH))
        layers.append(replace(layer, cross=replace(layer.cross, key_value=biased)))
    backend = TorchBackend(torch.device("cpu"), torch.float32, WIDTH, False, False)
    made = Transformer(replace(model, layers=layers), 2, N_STEPS + 1, backend)
    made.cache_cross_kv(0, torch.zeros(2, 9, WIDTH))
    assert made.cache.cross_lengths.tolist() == [9, 9]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_in_one_job_s_conditions_is_that_job_s_error(backend: BackendName) -> None:
    bad = long_job(5, cross=torch.full((2, 7, WIDTH), torch.nan), guidance=3.0, prefix=torch.zeros(2, 0, WIDTH))
    right_jobs = [long_job(seed, temperature=1.0) for seed in range(3)]
    with closing(engine(backend=backend)) as made:
        alone = results(made, right_jobs)
        futures = [made.submit(one) for one in right_jobs]
        with pytest.raises(NotFiniteError):
            made.submit(bad).result(timeout=PATIENCE_S)
        for future, right in zip(futures, alone, strict=True):
            assert torch.equal(future.result(timeout=PATIENCE_S), right)
        # The slot whose job had NaN serves the next job as before.
        for again, right in zip(results(made, right_jobs), alone, strict=True):
            assert torch.equal(again, right)


@pytest.mark.parametrize("backend", BACKENDS)
def test_conditions_that_fail_after_the_cache_has_grown_fail_alone(backend: BackendName) -> None:
    first, later = (long_job(seed, guidance=3.0) for seed in (2, 3))
    bad = job(1, cross=torch.randn(2, 301, WIDTH + 1), guidance=3.0)
    with closing(engine(backend=backend)) as made:
        made.submit(first).result(timeout=PATIENCE_S)  # a step is recorded
        capacity = made.transformer.cache.cross_capacity
        with pytest.raises(RuntimeError):
            made.submit(bad).result(timeout=PATIENCE_S)
        assert made.transformer.cache.cross_capacity > capacity
        after = made.submit(later).result(timeout=PATIENCE_S)
    with closing(engine(backend=backend)) as another:
        assert torch.equal(another.submit(later).result(timeout=PATIENCE_S), after)


def test_a_job_that_is_too_long_is_refused_at_once() -> None:
    with closing(engine()) as made, pytest.raises(ValueError, match="positions"):
        made.submit(job(1, n_frames=N_STEPS))


def test_an_engine_that_is_closed_lets_nobody_wait_for_ever() -> None:
    made = engine(n_slots=1)
    futures = [made.submit(long_job(seed)) for seed in range(3)]
    made.close()
    for future in futures[1:]:
        with pytest.raises(ClosedError):
            future.result(timeout=PATIENCE_S)
    with pytest.raises(RuntimeError):
        made.submit(job(1))


def test_a_narrow_model_takes_one_core() -> None:
    seen: list[int] = []
    with closing(engine()) as made:
        made.submit(job(1, on_step=lambda *_: seen.append(torch.get_num_threads()))).result(timeout=PATIENCE_S)
    assert set(seen) == {1}


def test_three_hundred_jobs_leave_threads_and_tensors_where_they_were() -> None:
    def n_tensors() -> int:
        made._drop_steps()  # one for each number of rows that there has been
        gc.collect()
        return sum(type(thing) is Tensor for thing in gc.get_objects())  # isinstance would wake weak proxies

    jobs = [job(seed % 30, n_frames=40) for seed in range(300)]
    with closing(engine()) as made:
        results(made, jobs[:30])
        threads, tensors = threading.active_count(), n_tensors()
        results(made, jobs)
        assert threading.active_count() == threads
        assert n_tensors() <= tensors + 5


def test_a_late_job_is_served_while_a_long_one_runs() -> None:
    steps: list[int] = []
    runs, is_late = threading.Event(), threading.Event()
    ended: list[bool] = []

    def count(done: int, total: int) -> None:
        """The long job is at its fifth step when the late one comes."""
        steps.append(done)
        if done == 5:
            runs.set()
            assert is_late.wait(PATIENCE_S)

    with closing(engine()) as made:
        long = made.submit(long_job(1, on_step=count))
        assert runs.wait(PATIENCE_S)
        late = made.submit(job(2, n_frames=30, prompt=torch.zeros(N_CODEBOOKS, 0, dtype=torch.int64)))
        late.add_done_callback(lambda _: ended.append(long.done()))
        is_late.set()
        late.result(PATIENCE_S)
        long.result(timeout=PATIENCE_S)
    assert ended == [False]
    assert sorted(set(steps)) == list(range(len(set(steps))))


def test_a_process_that_ends_while_jobs_run_ends_without_a_crash() -> None:
    script = """
        import time
        from tests.support.engines import engine, job
        made = engine()
        futures = [made.submit(job(seed, n_frames=60)) for seed in range(4000)]
        futures[0].result()
        time.sleep(0.2)
        assert not futures[-1].done()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
