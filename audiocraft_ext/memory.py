"""Memory given back: while weights move from file to module to engine, between models, and when the server is idle.

What concerns the host's memory is for Linux; elsewhere nothing is done.
"""

import ctypes
import gc
import mmap
import sys
from bisect import bisect
from pathlib import Path

import torch
from torch import Tensor

_MAPS = Path("/proc/self/maps")


class FilePages:
    """The places where files are mapped in this process, as they are when this is made.

    What was read of a mapped file stays in this process: weights that are converted on their way would take the file's
    size beside their own. The kernel keeps the pages in its cache, so that the next start finds them there.
    """

    def __init__(self) -> None:
        rows = [line.split() for line in _MAPS.read_text().splitlines()] if _MAPS.exists() else []
        # Address range, permissions, offset, device, inode. Memory without a file has the inode 0, and would lose what
        # it holds; a shared mapping would write it back.
        places = [row[0].split("-") for row in rows if row[4] != "0" and row[1].endswith("p")]
        self._starts = [int(start, 16) for start, _ in places]
        self._ends = [int(end, 16) for _, end in places]

    def release(self, tensor: Tensor) -> None:
        """Takes the whole pages of a tensor that nobody has written to out of memory; it can still be read."""
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        place = bisect(self._starts, start) - 1
        if start < end and place >= 0 and end <= self._ends[place]:
            _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def trim() -> None:
    """Returns to the system what malloc keeps of freed memory: where weights were packed anew, half of their size."""
    if sys.platform == "linux" and hasattr(_libc(), "malloc_trim"):  # glibc's
        _libc().malloc_trim(0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def collect() -> None:
    """Gives back what a model held that nobody asks any more: engine, graph and failed jobs refer to each other."""
    gc.collect()
    trim()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
