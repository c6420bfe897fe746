"""How many cores a thread's operations run on, and how many it may use; and on which of CUDA's streams."""

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import cycle, repeat
from pathlib import Path

import torch

_lock = threading.Lock()
_N_STREAMS = 4  # cuBLAS keeps up to 32 MiB for each

# Of AdaptiveThreads, in repetitions. A program that starts is noticed by its effect; one that ends is not.
_TRIAL = 2
_SHORTEST_INTERVAL = 4
_LONGEST_INTERVAL_TO_FEWER, _LONGEST_INTERVAL_TO_MORE = 512, 64


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


def request_streams(device: str) -> Iterator[torch.cuda.Stream | None]:
    """A few streams without end, for the threads of requests: on the default one, each would wait for all others.

    None in place of each where there is no CUDA. Synchronises first: weights were loaded on the default stream.
    """
    if device != "cuda":
        return repeat(None)
    torch.cuda.synchronize()
    return cycle([torch.cuda.Stream() for _ in range(_N_STREAMS)])


def prepare_thread(n: int, streams: Iterator[torch.cuda.Stream | None]) -> None:
    """``set_own_num_threads``, and the next of the streams; for good."""
    set_own_num_threads(n)
    if (stream := next(streams)) is not None:
        torch.cuda.set_stream(stream)


def available_cores(root: Path = Path("/")) -> int:
    """Cores that affinity and the CPU quotas of the process's cgroups allow, a part of one counted whole; at least 1.

    ``torch.get_num_threads`` knows no quota: in a container of two cores on a host of sixteen it says sixteen. `root`
    is where ``proc`` and ``sys`` are.
    """
    visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([visible, *(math.ceil(quota) for quota in _quotas(root))]))


def num_threads() -> int:
    """``torch.get_num_threads``, or ``available_cores`` where these are fewer."""
    return min(torch.get_num_threads(), available_cores())


def _quotas(root: Path) -> Iterator[float]:
    """Quotas in cores, of each cgroup from this process's own up to the top, v1 or v2, that is visible here."""
    with suppress(OSError, ValueError):  # no Linux
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                # In a container this may be the host's path: then the mount's own folder is the container's.
                own = Path(path.lstrip("/"))
                for mount in (controllers, "cpu") if controllers else ("", "unified"):
                    for group in (own, *own.parents):
                        yield from _quota(root / "sys/fs/cgroup" / mount / group)


def _quota(group: Path) -> Iterator[float]:
    """A cgroup's quota in cores, if it has one: v2's ``cpu.max``, or v1's files."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        with suppress(OSError, ValueError):  # v2's may be "max"
            quota, period = (int(number) for name in names for number in (group / name).read_text().split())
            if quota > 0 and period > 0:
                yield quota / period


class AdaptiveThreads:
    """How many threads repeated work takes: all, or fewer while other programs use the cores.

    Threads that divide work wait for the slowest: where another program takes one of two cores, two threads are slower
    than one. So twice or half as many are tried periodically, and kept if they are faster. Results must not depend on
    the number.
    """

    def __init__(self, most: int) -> None:
        self.n = self._settled = self._most = most
        self._usual_s = 0.0  # a moving average, on the settled number
        self._tries_more = True
        self._since_trial, self._n_faster, self._interval = 0, 0, _SHORTEST_INTERVAL

    def record(self, duration_s: float) -> None:
        """Choose ``n`` for the next repetition, after one that took so long."""
        if self.n != self._settled:
            self._judge(duration_s)
            return
        self._usual_s = self._usual_s or duration_s
        if duration_s > 1.5 * self._usual_s:  # another program has started, perhaps
            self._interval = max(_SHORTEST_INTERVAL, self._interval // 4)
        self._usual_s += (min(duration_s, 2 * self._usual_s) - self._usual_s) / 4
        self._since_trial += 1
        if self._since_trial >= self._interval:
            self._tries_more = self.n == 1 or (self.n < self._most and not self._tries_more)
            self.n = min(2 * self.n, self._most) if self._tries_more else self.n // 2

    def _judge(self, duration_s: float) -> None:
        """End a trial at its first repetition that is not 5 % faster; else keep its number."""
        if duration_s > 0.95 * self._usual_s:
            longest = _LONGEST_INTERVAL_TO_MORE if self._tries_more else _LONGEST_INTERVAL_TO_FEWER
            self.n, self._interval = self._settled, min(2 * self._interval, longest)
            self._since_trial = self._n_faster = 0
            return
        self._n_faster += 1
        if self._n_faster == _TRIAL:
            self._settled, self._usual_s, self._interval = self.n, duration_s, _SHORTEST_INTERVAL
            self._since_trial = self._n_faster = 0
