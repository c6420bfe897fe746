"""A training's results for people: log lines, model card, curve, samples. Knows no model."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from audiocraft_ext.audio.write import write as write_audio
from audiocraft_ext.checkpoint import display_name
from audiocraft_ext.checkpoint.locate.source import EMBEDDED_NAME
from audiocraft_ext.request import Request
from audiocraft_ext.training.dataset import Dataset, Piece
from audiocraft_ext.training.loop import Outcome, StepReport
from audiocraft_ext.training.request import TrainingRequest

_LINE_EVERY_S = 1.0
# Not Meta's, and unknown where it is not one of these.
_LICENCES = {EMBEDDED_NAME: "apache-2.0"}
_META, _METAS_LICENCE = "facebook/", "cc-by-nc-4.0"


@dataclass(frozen=True)
class Sample:
    """A generated clip: tokens [K, T], samples [C, N]."""

    request: Request
    tokens: Tensor
    samples: Tensor
    sample_rate: int


class StepLog:
    """Prints steps: one line a second at most, but each evaluation and the last step."""

    def __init__(self) -> None:
        self._printed_at = 0.0

    def __call__(self, step: StepReport) -> None:
        is_wanted = step.held_out is not None or step.step == step.n_steps
        if is_wanted or time.monotonic() - self._printed_at >= _LINE_EVERY_S:
            self._printed_at = time.monotonic()
            print(line(step), flush=True)


def line(step: StepReport) -> str:
    """``12% step 120/1000 loss 3.214 held-out 3.301 lr 1.8e-04 9.1 it/s 4.2 GB 1m40s left``."""
    held_out = "" if step.held_out is None else f" held-out {step.held_out:.3f}"
    minutes, seconds = divmod(round(step.seconds_left), 60)
    left = f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"
    return (
        f"{step.step / step.n_steps:.0%} step {step.step}/{step.n_steps} loss {step.loss:.3f}{held_out} "
        f"lr {step.lr:.1e} {step.steps_per_s:.1f} it/s {step.memory_gb:.1f} GB {left} left"
    )


def data_line(dataset: Dataset) -> str:
    """The data in numbers."""
    return f"Training on {_amount(dataset.train)}; held out: {_amount(dataset.held_out)}."


def _amount(pieces: Sequence[Piece]) -> str:
    songs, minutes = {piece.song for piece in pieces}, sum(piece.duration_s for piece in pieces) / 60
    return f"{len(songs)} songs in {len(pieces)} pieces of {minutes:.1f} minutes" if pieces else "no songs"


def write(
    folder: Path,
    request: TrainingRequest,
    base: str,
    dataset: Dataset,
    outcome: Outcome,
    before: Sequence[Sample],
    after: Sequence[Sample],
) -> None:
    """Add card, curve, losses, data and samples to the weights in ``folder``; the samples' pairs have one seed."""
    (folder / "samples").mkdir()
    for number, (old, new) in enumerate(zip(before, after, strict=False)):
        for name, sample in (("base", old), (f"step-{outcome.best_step:04}", new)):
            path = folder / "samples" / f"{number}-{name}.wav"
            write_audio(sample.samples, sample.sample_rate, path, "wav", sample.request.inputs())
    lines = (json.dumps(asdict(step)) for step in outcome.reports)
    (folder / "metrics.jsonl").write_text("".join(f"{text}\n" for text in lines))
    pieces = {"train": dataset.train, "held_out": dataset.held_out}
    listed = {name: [_as_json(piece) for piece in of_kind] for name, of_kind in pieces.items()}
    (folder / "dataset.json").write_text(json.dumps({**listed, "notes": dataset.notes}, indent=1, ensure_ascii=False))
    has_curve = find_spec("matplotlib") is not None
    if has_curve:
        _draw(outcome, folder / "loss.png")
    (folder / "README.md").write_text(card(request, base, dataset, outcome, [s.request for s in after], has_curve))


def _as_json(piece: Piece) -> dict[str, object]:
    return {
        "song": piece.song,
        "start_s": round(piece.start_s, 3),
        "duration_s": round(piece.duration_s, 3),
        "caption": piece.caption,
    }


def _draw(outcome: Outcome, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot([r.step for r in outcome.reports], [r.loss for r in outcome.reports], alpha=0.4, label="training")
    for label, name in (("held-out songs", "held_out"), ("the base's own music", "base_loss")):
        points = [(r.step, getattr(r, name)) for r in outcome.reports if getattr(r, name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", label=label)
    axes.axvline(outcome.best_step, color="grey", linestyle=":", label=f"exported: step {outcome.best_step}")
    axes.set(xlabel="step", ylabel="loss, nats a token")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def card(
    request: TrainingRequest,
    base: str,
    dataset: Dataset,
    outcome: Outcome,
    samples: Sequence[Request],
    has_curve: bool,
) -> str:
    """The model card, as the Hugging Face hub reads it."""
    licence = _METAS_LICENCE if base.startswith(_META) else _LICENCES.get(base)
    is_hubs = base.startswith(_META)
    terms = f"{licence}, as its base" if licence else "that of its base, which is not known here"
    if licence == _METAS_LICENCE:
        terms += ": not for commercial use"
    front = ["---", *([f"license: {licence}"] if licence else []), *([f"base_model: {base}"] if is_hubs else [])]
    front += ["pipeline_tag: text-to-audio", "tags: [musicgen]", "---"]
    trigger = f"\nPrompts call the sound by **{request.trigger_word}**.\n" if request.trigger_word else ""
    settings = {name: value for name, value in request.settings().items() if value is not None}
    settings |= {"lr": request.learning_rate, "steps": outcome.reports[-1].n_steps}
    prompts = "\n".join(
        f"- {number}: {json.dumps(sample.prompt, ensure_ascii=False)}" for number, sample in enumerate(samples)
    )
    best = f"step-{outcome.best_step:04}"
    notes = "\n".join(f"- {note}" for note in (*dataset.notes, *outcome.notes)) or "- None."
    return f"""{chr(10).join(front)}

# A fine-tune of {base if is_hubs or "/" not in base else display_name(base)}
{trigger}
    MUSICGEN_WEIGHTS=trained_model.tar make serve

Licence: {terms}.

## Result

{outcome.verdict}

{_losses(outcome)}
{"![Losses by step](loss.png)" if has_curve else ""}

`samples/` has the base's clips (`N-base.wav`) and this model's (`N-{best}.wav`), pairs of one prompt and seed:

{prompts}

## Data

{data_line(dataset)} `dataset.json` lists them with their captions.

{notes}

## Settings

{", ".join(f"{name} {value}" for name, value in settings.items())}
"""


def _losses(outcome: Outcome) -> str:
    """A table: the base, the exported step and the last one."""
    rows = ["| loss, nats a token | training | held-out songs | the base's own music |", "| --- | --- | --- | --- |"]
    reports = {step.step: step for step in outcome.reports}
    chosen = {"base": 0, f"exported, step {outcome.best_step}": outcome.best_step}
    chosen |= {f"last, step {max(reports)}": max(reports)} if max(reports) != outcome.best_step else {}
    for name, number in chosen.items():
        step = reports[number]
        losses = (step.loss, step.held_out, step.base_loss)
        rows.append(f"| {name} | {' | '.join('' if loss is None else f'{loss:.3f}' for loss in losses)} |")
    return "\n".join(rows)
