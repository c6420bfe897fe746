"""How many cores a thread's operations run on."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

_lock = threading.Lock()


def set_own_num_threads(n: int) -> None:
    """``torch.set_num_threads`` for the calling thread alone, for good.

    ``torch.set_num_threads`` also sets the default that every other thread adopts at its first operation, even one that
    has set a number of its own before. So the calling thread adopts it first, by asking; then sets its own; then a
    throw-away thread restores the default.
    """
    torch.get_num_threads()
    with _lock, ThreadPoolExecutor(1) as other:
        default = other.submit(torch.get_num_threads).result()
        torch.set_num_threads(n)
        other.submit(torch.set_num_threads, default).result()
