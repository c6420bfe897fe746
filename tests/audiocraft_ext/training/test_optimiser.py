"""Learning rates are audiocraft's schedulers' and torch's; the average of the weights follows them."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from audiocraft_ext.training.optimiser import SCHEDULES, Optimiser, Schedule, learning_rate

WARMUP, N_STEPS = 10, 50


def theirs(module: str, kind: str, **settings: Any) -> Callable[[torch.optim.Optimizer], Any]:
    assert "audiocraft" in sys.modules  # imported with stand-ins, by the package
    return lambda optimizer: getattr(import_module(f"audiocraft.optim.{module}"), kind)(optimizer, **settings)


# After the warm-up, which audiocraft begins at zero: its first step then changes nothing.
ORACLES = {
    "cosine": theirs("cosine_lr_scheduler", "CosineLRScheduler", warmup_steps=WARMUP, total_steps=N_STEPS),
    "polynomial_decay": theirs(
        "polynomial_decay_lr_scheduler", "PolynomialDecayLRScheduler", warmup_steps=WARMUP, total_steps=N_STEPS
    ),
    "linear_warmup": theirs("linear_warmup_lr_scheduler", "LinearWarmupLRScheduler", warmup_steps=WARMUP),
    "exponential": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.01 ** (1 / 40)),
}


@pytest.mark.parametrize("schedule", sorted(ORACLES))
def test_rates_after_the_warm_up_are_audiocraft_s(schedule: Schedule) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler: Any = ORACLES[schedule](optimizer)
    expected = []
    for _ in range(N_STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    if schedule == "exponential":  # torch's has no warm-up
        expected = [0.0] * WARMUP + expected
    rates = [learning_rate(schedule, 0.5, WARMUP, N_STEPS, step) for step in range(N_STEPS)]
    assert rates[WARMUP:] == pytest.approx(expected[WARMUP:N_STEPS])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, WARMUP, N_STEPS])
def test_every_step_of_every_schedule_trains(schedule: Schedule, warmup: int) -> None:
    rates = [learning_rate(schedule, 0.5, warmup, N_STEPS, step) for step in range(N_STEPS)]
    assert all(0 < rate <= 0.5 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    if warmup < N_STEPS:
        assert rates[warmup] == 0.5
        assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_a_saved_state_continues_as_if_never_saved() -> None:
    def steps(optimiser: Optimiser, first: int, last: int) -> torch.Tensor:
        [weight] = optimiser.parameters.values()
        for step in range(first, last):
            weight.grad = torch.sin(weight.detach() + step)
            optimiser.step(step, 0.1)
        return torch.cat([weight.detach(), *optimiser.average.values()])

    once = Optimiser({"weight": nn.Parameter(torch.arange(3.0))})
    expected = steps(once, 0, 40)
    before = Optimiser({"weight": nn.Parameter(torch.arange(3.0))})
    steps(before, 0, 25)
    after = Optimiser({"weight": nn.Parameter(torch.zeros(3))})
    after.load({name: value.clone() for name, value in before.state().items()})
    assert torch.equal(steps(after, 25, 40), expected)
    live, average = expected.split(3)
    assert not torch.equal(live, average)
    once.swap_average()
    assert torch.equal(next(iter(once.parameters.values())).detach(), average)


def test_gradients_are_clipped_and_infinite_ones_change_nothing() -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimiser = Optimiser({"weight": weight})
    weight.grad = torch.full((3,), torch.inf)
    assert optimiser.step(0, 0.1) == torch.inf
    assert torch.equal(weight.detach(), torch.zeros(3))
    weight.grad = torch.tensor([300.0, 0.0, 400.0])
    assert optimiser.step(0, 0.1) == pytest.approx(500)
    [moment] = (value for name, value in optimiser.state().items() if name == "adamw.exp_avg.weight")
    assert float(moment.norm()) == pytest.approx(0.1)  # a tenth of a gradient of norm 1
