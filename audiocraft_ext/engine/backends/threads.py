"""How many cores a thread's operations run on, and how many it may use."""

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

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
        with suppress(OSError, ValueError):  # "max" is no number
            quota, period = (int(number) for name in names for number in (group / name).read_text().split())
            if quota > 0 and period > 0:
                yield quota / period
