"""Memory returned to the system: after weights are packed, between models, and when the server is idle."""

import ctypes
import gc
import sys

import torch


def trim() -> None:
    """Return freed memory that malloc keeps, half of the weights' size after packing; does nothing without glibc."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def collect() -> None:
    """Free a dropped model: engine, graph and failed jobs form reference cycles."""
    gc.collect()
    trim()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
