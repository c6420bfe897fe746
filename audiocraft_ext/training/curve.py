"""A training's curve: a report a step, and the whole in words."""

from collections.abc import Sequence
from dataclasses import dataclass

_RISE = 1.01  # less is noise


@dataclass(frozen=True)
class StepReport:
    """After ``step`` of ``n_steps``; losses in nats a token. ``loss`` is the batch's, before its update.

    ``held_out`` is None between evaluations, and the better one of the weights and their average at one; ``base_loss``
    is theirs on the base's own music. Step 0 is the base.
    """

    step: int
    n_steps: int
    loss: float
    held_out: float | None
    base_loss: float | None
    lr: float
    steps_per_s: float
    memory_gb: float
    seconds_left: float


def verdict(reports: Sequence[StepReport], best_step: int) -> str:
    """The curve in words: whether the songs that were not trained on gained, and from where on they lost."""
    curve = [(report.step, report.held_out, report.loss) for report in reports if report.held_out is not None]
    if len(curve) < 2:
        return f"No songs were held out: over-fitting cannot be seen, and the weights are the last step's, {best_step}."
    (_, base, _), (last_step, last, _) = curve[0], curve[-1]
    assert base is not None
    assert last is not None
    best = min(loss for step, loss, _ in curve if loss is not None and step == best_step)
    exported = f"the exported weights are step {best_step}'s"
    if best >= base:
        return (
            f"Held-out loss never fell below the base's {base:.2f}; {exported}, at {best:.2f}. More songs, or fewer "
            "steps at a lower lr, may help."
        )
    gain = f"held-out loss fell from {base:.2f} to {best:.2f} at step {best_step}"
    if best_step == last_step:
        return f"The {gain}, the last one: more steps may lower it further."
    at_best, at_end = (_recent(reports, step) for step in (best_step, last_step))
    if at_end < at_best and last > best * _RISE:
        return (
            f"Over-fitting: held-out loss rose from {best:.2f} at step {best_step} to {last:.2f} at {last_step} while "
            f"the training loss fell from {at_best:.2f} to {at_end:.2f} (base: {base:.2f}): {exported}."
        )
    return f"The {gain} and was {last:.2f} at the last, {last_step}: {exported}."


def _recent(reports: Sequence[StepReport], step: int, n_steps: int = 10) -> float:
    """The mean training loss of the steps up to one: a single batch's is noise."""
    losses = [report.loss for report in reports if step - n_steps < report.step <= step]
    return sum(losses) / len(losses)
