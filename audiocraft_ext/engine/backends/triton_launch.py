"""Programmatic dependent launch: a step's kernel starts while the one before it ends, and waits for its results.

Every kernel of a step calls ``start``, or its two parts: one that did not wait would let the next one start too early.
"""

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def starts_early(device: torch.device) -> bool:
    """Whether kernels can do so there: on Hopper and later, not in the interpreter."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (9, 0)
    return device.type == "meta" and triton.runtime.driver.active.get_current_target().arch >= 90  # script/gpu-aot


@triton.jit
def launch_next(EARLY: tl.constexpr) -> None:
    """Let the next kernel start, to request what does not depend on this one."""
    if EARLY:
        gdc_launch_dependents()


@triton.jit
def wait(EARLY: tl.constexpr) -> None:
    """Wait for all that the kernels before this one have written."""
    if EARLY:
        gdc_wait()


@triton.jit
def start(EARLY: tl.constexpr) -> None:
    """Both, for a kernel that has nothing to request before."""
    launch_next(EARLY)
    wait(EARLY)
