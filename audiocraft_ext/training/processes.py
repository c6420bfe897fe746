"""One training in several processes, as torchrun starts them; alone, all of it does nothing."""

import atexit
import os
from collections.abc import Iterable

import torch
from torch import distributed, nn


def join() -> tuple[int, int]:
    """This process's number and how many there are; meets the others the first time."""
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return 0, 1
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(distributed.destroy_process_group)  # a thread of gloo's that Python ends aborts the process
    return distributed.get_rank(), distributed.get_world_size()


def sum_gradients(parameters: Iterable[nn.Parameter], loss: torch.Tensor) -> torch.Tensor:
    """Replace each gradient by its sum over all processes, None being zero; returns the sum of the losses."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)
    distributed.all_reduce(loss)
    return loss
