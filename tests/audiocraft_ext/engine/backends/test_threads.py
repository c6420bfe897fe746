"""A thread's cores are its own affair, and no more than affinity and cgroups allow."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from audiocraft_ext.engine.backends import choose
from audiocraft_ext.engine.backends.threads import AdaptiveThreads, available_cores, set_own_num_threads

N_VISIBLE = 16
V1_ONLY = "4:memory:/box\n2:cpu,cpuacct:/box/inner\n"


def counted_after_work() -> int:
    torch.randn(200, 200) @ torch.randn(200, 200)
    return torch.get_num_threads()


def test_a_thread_keeps_its_count_and_no_other_gets_it() -> None:
    with ThreadPoolExecutor(1) as early, ThreadPoolExecutor(1) as own, ThreadPoolExecutor(1) as late:
        counts = early.submit(counted_after_work).result(), torch.get_num_threads()
        own.submit(set_own_num_threads, 3).result()
        assert late.submit(counted_after_work).result() == counts[0]
        assert own.submit(counted_after_work).result() == 3
        assert (early.submit(counted_after_work).result(), torch.get_num_threads()) == counts


def test_threads_that_start_together_leave_the_default_count_alone() -> None:
    with ThreadPoolExecutor(1) as before, ThreadPoolExecutor(1) as after:
        count = before.submit(counted_after_work).result()
        with ThreadPoolExecutor(16, initializer=set_own_num_threads, initargs=(3,)) as pool:
            assert set(pool.map(lambda _: counted_after_work(), range(64))) == {3}
        assert after.submit(counted_after_work).result() == count


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(N_VISIBLE)), raising=False)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "max 100000"}, N_VISIBLE),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000"}, N_VISIBLE),
        ("0::/box/inner\n", {"box/cpu.max": "100000 50000", "box/inner/cpu.max": "max 100000"}, 2),
        ("0::/box/inner\n", {"box/cpu.max": "800000 100000", "box/inner/cpu.max": "300000 100000"}, 3),
        ("0::/box\n", {"other/cpu.max": "100000 100000"}, N_VISIBLE),
        ("0::/docker/of-the-host\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/../outside\n", {"cpu.max": "400000 100000"}, 4),
        ("1:cpu:/\n0::/box\n", {"unified/box/cpu.max": "200000 100000", "cpu/box/cpu.cfs_quota_us": "1"}, 2),
        (V1_ONLY, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, N_VISIBLE),
        (V1_ONLY, {"cpu/box/cpu.cfs_quota_us": "50000", "cpu/box/cpu.cfs_period_us": "25000"}, 2),
        (V1_ONLY, {"cpu,cpuacct/cpu.cfs_quota_us": "500000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 5),
        (V1_ONLY, {"memory/box/cpu.max": "100000 100000"}, N_VISIBLE),
        (V1_ONLY, {"cpu/cpu.cfs_quota_us": "nonsense"}, N_VISIBLE),
        ("", {}, N_VISIBLE),
    ],
)
def test_cores_are_those_that_each_cgroup_above_allows(
    groups: str, files: dict[str, str], expected: int, tmp_path: Path, sixteen_cores: None
) -> None:
    for path, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n" * bool(text))
    assert available_cores(tmp_path) == expected


def test_cores_without_cgroups_are_those_of_the_affinity(tmp_path: Path, sixteen_cores: None) -> None:
    assert available_cores(tmp_path) == N_VISIBLE


def test_an_engine_takes_no_more_threads_than_cores_allowed() -> None:
    def n_threads_of_an_engine() -> int:
        torch.set_num_threads(8)
        with choose(torch.zeros(1024, 512), n_heads=8, name="torch").engine_thread():
            return torch.get_num_threads()

    allowed = os.sched_getaffinity(0)

    def on_one_core() -> int:
        os.sched_setaffinity(0, {min(allowed)})  # of this thread, which ends
        return n_threads_of_an_engine()

    before = torch.get_num_threads()
    with ThreadPoolExecutor(1) as free, ThreadPoolExecutor(1) as bound:
        assert free.submit(n_threads_of_an_engine).result() == min(8, available_cores())
        assert bound.submit(on_one_core).result() == 1
    torch.set_num_threads(before)


def repeat(threads: AdaptiveThreads, n_repetitions: int, duration_s: dict[int, float]) -> list[int]:
    """The number of threads of each repetition, which lasts as long as this number takes."""
    used = []
    for _ in range(n_repetitions):
        used.append(threads.n)
        threads.record(duration_s[threads.n])
    return used


ALONE, BESIDE_ANOTHER = {1: 0.105, 2: 0.057}, {1: 0.105, 2: 0.2}


def test_threads_alone_stay_all() -> None:
    threads = AdaptiveThreads(2)
    assert repeat(threads, 1000, ALONE).count(1) < 15
    assert threads.n == 2


def test_threads_halve_while_another_program_runs() -> None:
    threads = AdaptiveThreads(2)
    repeat(threads, 900, ALONE)
    beside = repeat(threads, 200, BESIDE_ANOTHER)
    assert beside[:6].count(2) > 0
    assert beside[6:].count(2) < 20
    assert repeat(threads, 200, ALONE)[70:].count(1) < 10


def test_one_slow_repetition_changes_nothing() -> None:
    threads = AdaptiveThreads(2)
    repeat(threads, 900, ALONE)
    repeat(threads, 1, {2: 5.0})
    assert repeat(threads, 200, ALONE).count(1) < 5


def test_threads_come_down_from_sixteen_to_the_fastest_number() -> None:
    threads = AdaptiveThreads(16)
    cost = {1: 16.0, 2: 8.5, 4: 5.0, 8: 9.0, 16: 30.0}
    assert repeat(threads, 400, cost)[50:].count(4) > 250


def test_one_thread_is_never_more_or_fewer() -> None:
    assert set(repeat(AdaptiveThreads(1), 100, {1: 0.1})) == {1}
