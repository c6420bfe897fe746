"""Examples → the best step's weights: the loop over steps, with evaluation, saving and resuming.

Knows nothing of songs, files of music or archives.
"""

import hashlib
import json
import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiocraft_ext.errors import TrainingError
from audiocraft_ext.training import fit, lora, processes, state
from audiocraft_ext.training.batches import collate, derived_seed, rows_of_step
from audiocraft_ext.training.conditions import Conditions
from audiocraft_ext.training.curve import StepReport, verdict
from audiocraft_ext.training.loss import backward, mean_loss
from audiocraft_ext.training.optimiser import Optimiser, Schedule, learning_rate
from audiocraft_ext.training.tokens import Example
from audiocraft_ext.upstream import LMModel

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopSettings:
    """``batch_size`` clips make a step, however few fit into memory at once; ``warmup`` is in steps; ``cfg_p`` None is
    the base's share of steps without conditions."""

    method: Literal["lora", "full"]
    rank: int
    lr: float
    n_steps: int
    batch_size: int
    warmup: int
    lr_scheduler: Schedule = "cosine"
    cfg_p: float | None = None
    save_every: int = 100
    evaluate_every: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """The weights of the best step on held-out songs, by name, and what the curve says in words."""

    best_step: int
    reports: list[StepReport]
    state: dict[str, Tensor]
    verdict: str
    notes: list[str]


def fine_tune(
    lm: LMModel,
    train: list[Example],
    held_out: list[Example],
    settings: LoopSettings,
    folder: Path,
    on_step: Callable[[StepReport], None],
    base_music: Sequence[Example] = (),
) -> Outcome:
    """Fine-tune an LM, or go on with the same call's training that ended early; ``folder`` has its state.

    ``on_step`` may raise: the state is saved before its exception leaves. Afterwards the LM is its base again (lora),
    or has the best step's weights (full). Raises ``TrainingError``.
    """
    with _parameters(lm, settings) as parameters:
        loop = _Loop(lm, parameters, train, held_out, settings, folder, on_step, base_music)
        try:
            loop.run()
        finally:
            lm.eval()
            lm.transformer.checkpointing = "none"
        if settings.method == "full":
            lm.load_state_dict(loop.best, strict=False)
    return Outcome(loop.best_step, loop.reports, loop.best, verdict(loop.reports, loop.best_step), loop.notes)


@contextmanager
def _parameters(lm: LMModel, settings: LoopSettings) -> Iterator[dict[str, nn.Parameter]]:
    """The trained weights by name, in fp32."""
    if settings.method == "lora":
        with lora.adapt(lm, settings.rank, derived_seed(settings.seed, "factors", 0)) as factors:
            yield factors
    else:
        yield dict(lm.float().requires_grad_(True).named_parameters())


class _Loop:
    """A training between two steps."""

    def __init__(
        self,
        lm: LMModel,
        parameters: dict[str, nn.Parameter],
        train: Sequence[Example],
        held_out: Sequence[Example],
        settings: LoopSettings,
        folder: Path,
        on_step: Callable[[StepReport], None],
        base_music: Sequence[Example],
    ) -> None:
        self.lm, self.train, self.held_out, self.base_music = lm, train, held_out, base_music
        self.settings, self.folder, self.on_step = settings, folder, on_step
        self.optimiser = Optimiser(parameters)
        self.conditions = Conditions(lm, settings.cfg_p)
        self.rank, self.n_processes = processes.join()
        self.notes: list[str] = []
        self.step, self.best_step, self.best_loss = 0, 0, math.inf
        self.best: dict[str, Tensor] = {}
        self.reports: list[StepReport] = []
        self._digest = _digest(lm, settings, train, held_out, base_music)
        longest = max(example.codes.shape[-1] for example in train)
        prefix = sum(getattr(c, "chroma_len", 0) for c in lm.condition_provider.conditioners.values())
        n_clips = math.ceil(settings.batch_size / self.n_processes)
        n_trained = sum(map(Tensor.numel, parameters.values()))
        self._fit = fit.estimate(lm, n_clips, longest + prefix, n_trained)

    def run(self) -> None:
        """All steps that are left."""
        self._resume()
        self._use(self._fit)
        started, first = time.monotonic(), self.step
        if not self.reports:
            loss = mean_loss(self.lm, self.conditions, self._examples(0), self._fit.n_clips)
            self._report(loss, *self._evaluate(), lr=0.0, steps_per_s=0.0)
        while self.step < self.settings.n_steps:
            loss, rate = self._train_step()
            self.step += 1
            is_last = self.step == self.settings.n_steps
            losses = self._evaluate() if is_last or self.step % self.settings.evaluate_every == 0 else (None, None)
            speed = (self.step - first) / (time.monotonic() - started)
            self._report(loss, *losses, lr=rate, steps_per_s=speed, save=is_last)

    def _examples(self, step: int) -> list[Example]:
        rows = rows_of_step(len(self.train), self.settings.batch_size, self.settings.seed, step)
        return [self.train[row] for row in rows]

    def _train_step(self) -> tuple[float, float]:
        """One step; the loss before it, and its learning rate."""
        s = self.settings
        self.lm.train()
        torch.manual_seed(derived_seed(s.seed, "dropout", self.step * self.n_processes + self.rank))
        batch = collate(self._examples(self.step), self.conditions, derived_seed(s.seed, "conditions", self.step))
        rows = range(self.rank, s.batch_size, self.n_processes)
        while True:
            try:
                loss = backward(self.lm, self.conditions, batch, rows, self._fit.n_clips)
                break
            except torch.OutOfMemoryError:
                smaller = self._fit.smaller()
            for parameter in self.optimiser.parameters.values():
                parameter.grad = None
            torch.cuda.empty_cache()
            self._use(smaller)
        if self.n_processes > 1:
            loss = processes.sum_gradients(self.optimiser.parameters.values(), loss)
        rate = learning_rate(s.lr_scheduler, s.lr, s.warmup, s.n_steps, self.step)
        norm = self.optimiser.step(self.step, rate)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._divergence(f"the loss is {float(loss):.3g}, the gradients' norm {norm:.3g}")
        return float(loss), rate

    def _divergence(self, problem: str) -> TrainingError:
        problem = f"The training diverged at step {self.step + 1}: {problem}"
        return TrainingError(f"{problem}. Lower lr, which is {self.settings.lr:g}.")

    def _use(self, chosen: fit.Fit) -> None:
        """Compute in micro-batches of this size from now on."""
        self._fit = chosen
        self.lm.transformer.checkpointing = "torch" if chosen.is_checkpointed else "none"
        if chosen.n_clips < self.settings.batch_size / self.n_processes or chosen.is_checkpointed:
            self.notes.append(f"Batches of {self.settings.batch_size}: {chosen}.")
            _log.warning(self.notes[-1])

    def _evaluate(self) -> tuple[float | None, float | None]:
        """Held-out loss, and the loss on the base's own music, of the weights or of their average, whichever is better;
        the best ones so far are kept. Without held-out songs, the last weights are."""
        if not self.held_out:
            self._keep_best(math.nan)
            return None, self._loss(self.base_music)
        found = self._loss(self.held_out), self._loss(self.base_music)
        self._keep_best(found[0])
        if self.step:
            self.optimiser.swap_average()
            averaged = self._loss(self.held_out)
            if averaged < found[0]:
                found = averaged, self._loss(self.base_music)
                self._keep_best(averaged)
            self.optimiser.swap_average()
        return found

    def _loss(self, examples: Sequence[Example]) -> Any:
        """None without examples; raises ``TrainingError`` for NaN."""
        loss = mean_loss(self.lm, self.conditions, examples, self._fit.n_clips) if examples else 0.0
        if not math.isfinite(loss):
            raise self._divergence(f"the held-out loss is {loss:.3g}")
        return loss if examples else None

    def _keep_best(self, loss: float) -> None:
        if self.step and not loss >= self.best_loss:
            self.best_step, self.best_loss = self.step, math.inf if math.isnan(loss) else loss
            self.best = {name: value.detach().cpu().clone() for name, value in self.optimiser.parameters.items()}

    def _report(
        self,
        loss: float,
        held_out: float | None,
        base_loss: float | None,
        *,
        lr: float,
        steps_per_s: float,
        save: bool = False,
    ) -> None:
        left = (self.settings.n_steps - self.step) / steps_per_s if steps_per_s else 0.0
        n_steps = self.settings.n_steps
        report = StepReport(self.step, n_steps, loss, held_out, base_loss, lr, steps_per_s, _memory_gb(), left)
        self.reports.append(report)
        if save or (self.step and self.step % self.settings.save_every == 0):
            self._save()
        try:
            if self.rank == 0:
                self.on_step(report)
        except BaseException:
            self._save()
            raise

    def _save(self) -> None:
        if self.rank:
            return
        tensors = self.optimiser.state() | {f"best.{name}": value for name, value in self.best.items()}
        progress = {
            "digest": self._digest,
            "step": self.step,
            "best_step": self.best_step,
            "best_loss": self.best_loss,
            "fit": asdict(self._fit),  # sums in another order would round otherwise
            "reports": [asdict(report) for report in self.reports],
        }
        state.save(self.folder, tensors, progress)

    def _resume(self) -> None:
        found = state.load(self.folder)
        if found is None:
            return
        tensors, progress = found
        if progress["digest"] != self._digest:
            self.notes.append(f"Starting again: clips, captions or base differ from those of step {progress['step']}.")
            _log.warning(self.notes[-1])
            return
        self.optimiser.load(tensors)
        self.step, self.best_step, self.best_loss = (progress[key] for key in ("step", "best_step", "best_loss"))
        self._fit = fit.Fit(**progress["fit"])
        self.best = {name.removeprefix("best."): v for name, v in tensors.items() if name.startswith("best.")}
        self.reports = [StepReport(**report) for report in progress["reports"]]
        self.notes.append(f"Resumed after step {self.step}.")


def _digest(lm: LMModel, settings: LoopSettings, *data: Sequence[Example]) -> str:
    """Of all that makes a training another one; how often it is saved does not. Of weights, a sample is enough."""
    digest = hashlib.sha256(json.dumps(asdict(replace(settings, save_every=1))).encode())
    for weight in (parameter.detach().flatten() for parameter in lm.parameters()):
        digest.update(weight[:: len(weight) // 4096 + 1].float().cpu().numpy().tobytes())
    for examples in data:
        digest.update(str(len(examples)).encode())
        for example in examples:
            tensors = (example.codes, *([] if example.chroma is None else [example.chroma]))
            digest.update(example.caption.encode() + b"".join(t.contiguous().numpy().tobytes() for t in tensors))
    return digest.hexdigest()


def _memory_gb() -> float:
    """The most memory used so far: the GPU's, or this process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
