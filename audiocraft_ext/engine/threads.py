"""How many cores a thread computes on."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

_lock = threading.Lock()


def use_cpu_threads(n: int) -> None:
    """``torch.set_num_threads`` for the calling thread alone, for good.

    torch keeps the last count that any thread has set, and gives it to every other thread at its first operation, be it
    one that has set a count of its own before. So the calling thread asks for its count first, which is such an
    operation, and the count for the others is put back by a thread that is of no further use.
    """
    torch.get_num_threads()
    with _lock, ThreadPoolExecutor(1) as other:
        for_others = other.submit(torch.get_num_threads).result()
        torch.set_num_threads(n)
        other.submit(torch.set_num_threads, for_others).result()
