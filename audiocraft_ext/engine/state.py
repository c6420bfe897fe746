"""The jobs' side of a step, on the device: what has been drawn, what is to be, and how."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class State:
    """What the device knows of each slot [N]; sequence [N, K, S] is what has been generated and what is to be."""

    sequence: Tensor
    noise: Tensor
    step: Tensor
    prefix_length: Tensor
    active: Tensor
    not_finite: Tensor
    guidance: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor

    @classmethod
    def of(cls, n_slots: int, n_codebooks: int, n_steps: int, device: torch.device) -> "State":
        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        # A finished slot's step is one past its last, so there is one column more than steps.
        return cls(
            sequence=zeros(n_slots, n_codebooks, n_steps + 1),
            noise=zeros(n_slots, n_steps + 1, n_codebooks),
            step=zeros(n_slots) + 1,
            prefix_length=zeros(n_slots),
            active=zeros(n_slots, dtype=torch.bool),
            not_finite=zeros(n_slots, dtype=torch.bool),
            guidance=zeros(n_slots, dtype=torch.float32),
            temperature=zeros(n_slots, dtype=torch.float32),
            top_k=zeros(n_slots),
            top_p=zeros(n_slots, dtype=torch.float32),
        )
