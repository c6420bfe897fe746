"""A thread's cores are its own affair."""

from concurrent.futures import ThreadPoolExecutor

import torch

from audiocraft_ext.engine.backends.threads import set_own_num_threads


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
