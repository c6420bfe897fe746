"""Memory returned to the system: while weights are read and packed, between models, and when the server is idle."""

import ctypes
import gc
import sys
from contextlib import suppress
from mmap import PAGESIZE
from pathlib import Path

import torch

_MADV_DONTNEED = 4  # Linux's


def trim() -> None:
    """Return freed memory that malloc keeps, half of the weights' size after packing; does nothing without glibc."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def clean_mappings() -> list[range]:
    """The addresses of mapped files of which this process has changed no page; none where Linux does not tell."""
    mappings, addresses = [], range(0)
    with suppress(OSError), Path("/proc/self/smaps").open() as lines:
        for fields in map(str.split, lines):
            if "-" in fields[0]:  # the first line of a mapping: addresses, rights, offset, device, inode
                start, stop = (int(address, 16) for address in fields[0].split("-"))
                addresses = range(start, stop) if fields[4] != "0" else range(0)
            elif fields[:2] == ["Anonymous:", "0"]:
                mappings.append(addresses)
    return mappings


def drop_pages(weight: torch.Tensor, mappings: list[range]) -> None:
    """Drop a weight's pages, if they are in one of ``clean_mappings``: another access would read the file again."""
    start = -(-weight.data_ptr() // PAGESIZE) * PAGESIZE
    n_bytes = (weight.data_ptr() + weight.nbytes) // PAGESIZE * PAGESIZE - start
    if n_bytes > 0 and any(start in addresses and start + n_bytes - 1 in addresses for addresses in mappings):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(n_bytes), _MADV_DONTNEED)


def collect() -> None:
    """Free a dropped model: engine, graph and failed jobs form reference cycles."""
    gc.collect()
    trim()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
