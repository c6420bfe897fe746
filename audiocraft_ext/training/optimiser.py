"""AdamW with a learning rate that is a function of the step, clipped gradients, and an average of the weights."""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Schedule = Literal["cosine", "exponential", "polynomial_decay", "inverse_sqrt", "linear_warmup"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)

# As audiocraft trains MusicGen.
_BETAS, _WEIGHT_DECAY, _MAX_NORM = (0.9, 0.95), 0.1, 1.0
_EMA_DECAY, _EMA_FROM = 0.99, 20
_EXPONENTIAL_END = 0.01


def learning_rate(schedule: Schedule, peak: float, warmup: int, n_steps: int, step: int) -> float:
    """The rate of a step, counted from 0: ``warmup`` steps from 0 up to the peak, which the next one has, then down."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(n_steps - warmup, 1)
    match schedule:
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * done))
        case "exponential":
            return peak * float(_EXPONENTIAL_END**done)
        case "polynomial_decay":
            return peak * (1 - done)
        case "inverse_sqrt":
            return peak * math.sqrt((warmup + 1) / (step + 1))
        case "linear_warmup":
            return peak


class Optimiser:
    """AdamW over named parameters, and their exponential moving average."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._adamw = torch.optim.AdamW(self.parameters.values(), betas=_BETAS, weight_decay=_WEIGHT_DECAY)

    def step(self, step: int, rate: float) -> float:
        """Update by the gradients, which are then cleared, unless they are not finite; returns their norm."""
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), _MAX_NORM))
        if math.isfinite(norm):
            self._adamw.param_groups[0]["lr"] = rate
            self._adamw.step()
            self._update_average(0.0 if step < _EMA_FROM else _EMA_DECAY)
        self._adamw.zero_grad()
        return norm

    @torch.no_grad()
    def _update_average(self, decay: float) -> None:
        for name, value in self.parameters.items():
            self.average[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def swap_average(self) -> None:
        """Exchange the parameters and their average."""
        for name, value in self.parameters.items():
            kept = value.clone()
            value.copy_(self.average[name])
            self.average[name].copy_(kept)

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, by name."""
        state = {f"live.{name}": value.detach() for name, value in self.parameters.items()}
        state |= {f"average.{name}": value for name, value in self.average.items()}
        for name, value in self.parameters.items():
            state |= {f"adamw.{key}.{name}": moment for key, moment in self._adamw.state[value].items()}
        return state

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a ``state``."""
        for name, value in self.parameters.items():
            value.copy_(state[f"live.{name}"])
            self.average[name].copy_(state[f"average.{name}"])
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"adamw.{key}.{name}" in state]
            moments = {key: state[f"adamw.{key}.{name}"] for key in keys}
            self._adamw.state[value] = {
                key: moment.clone() if key == "step" else moment.to(value.device, copy=True)
                for key, moment in moments.items()
            }
