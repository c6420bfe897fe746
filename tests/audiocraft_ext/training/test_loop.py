"""The loop keeps the best step, ends in a sentence, and goes on after any end as if there had been none."""

import multiprocessing
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.errors import TrainingError
from audiocraft_ext.training import fit, loop, lora, state
from audiocraft_ext.training.batches import rows_of_step
from audiocraft_ext.training.conditions import Conditions
from audiocraft_ext.training.loop import LoopSettings, StepReport, fine_tune, verdict
from audiocraft_ext.training.loss import mean_loss
from audiocraft_ext.training.tokens import Example
from audiocraft_ext.upstream import LMModel
from tests.support import tiny
from tests.support.disk import files_of_at_most
from tests.support.training import SETTINGS, examples, train


@pytest.fixture
def lm(tiny_checkpoint: Callable[[tiny.Kind], Checkpoint], one_thread: None) -> LMModel:
    return tiny_checkpoint("text").lm


def assert_equal(states: list[dict[str, torch.Tensor]]) -> None:
    first, *others = states
    for other in others:
        assert other.keys() == first.keys()
        assert all(torch.equal(other[name], value) for name, value in first.items())


def test_training_lowers_the_loss_and_leaves_the_base(lm: LMModel, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    reports: list[StepReport] = []
    outcome = train(lm, tmp_path, reports, n_steps=20)
    assert reports == outcome.reports
    assert [report.step for report in reports] == list(range(21))
    assert [report.step for report in reports if report.held_out is not None] == list(range(0, 21, 2))
    held_out = {report.step: report.held_out for report in reports if report.held_out is not None}
    assert outcome.best_step == min(held_out.keys() - {0}, key=held_out.__getitem__)
    assert held_out[outcome.best_step] < held_out[0] - 0.2
    assert reports[0].base_loss is not None
    assert all(report.memory_gb > 0.1 for report in reports)
    assert_equal([before, lm.state_dict()])


def test_the_best_step_s_weights_have_its_loss(lm: LMModel, tmp_path: Path) -> None:
    outcome = train(lm, tmp_path, n_steps=30, lr=0.1)
    assert outcome.best_step < 30  # it over-fits
    best = min(r.held_out for r in outcome.reports if r.held_out is not None and r.step)
    with lora.adapt(lm, SETTINGS.rank, 5) as factors:
        for name, factor in factors.items():
            factor.data.copy_(outcome.state[name])
        assert mean_loss(lm, Conditions(lm, None), examples(lm, 2, seed=1), 3) == pytest.approx(best, abs=1e-6)


def test_all_weights_can_be_trained(tmp_path: Path) -> None:
    lm = checkpoint.load(str(tiny.write(tmp_path / "tiny", "melody")), "cpu").lm
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    outcome = train(lm, tmp_path / "state", method="full", lr=1e-3)
    assert outcome.state.keys() == dict(lm.named_parameters()).keys()
    changed = {name for name, value in lm.state_dict().items() if not torch.equal(value, before[name])}
    assert outcome.state.keys() - changed == set()
    assert all(torch.equal(lm.state_dict()[name], value) for name, value in outcome.state.items())


def test_the_same_call_repeats_every_bit_and_a_seed_changes_it(lm: LMModel, tmp_path: Path) -> None:
    outcomes = [train(lm, tmp_path / str(i), seed=seed) for i, seed in enumerate((3, 3, 4))]
    assert_equal([outcome.state for outcome in outcomes[:2]])
    assert any(not torch.equal(outcomes[2].state[name], value) for name, value in outcomes[0].state.items())


def test_a_pass_has_every_clip_once() -> None:
    rows = [row for step in range(5) for row in rows_of_step(10, 4, 7, step)]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]


def start(lm: LMModel, folder: Path) -> Any:
    """A training of 40 steps, saved after each, in a process of its own."""
    settings = replace(SETTINGS, n_steps=40, save_every=1)
    arguments = (*_arguments(lm)[:3], settings, folder, lambda report: None)
    process = multiprocessing.get_context("fork").Process(target=fine_tune, args=arguments)
    process.start()
    return process


def test_killed_and_resumed_it_has_the_weights_of_one_run(lm: LMModel, tmp_path: Path) -> None:
    whole, killed, randomly, n_kills = tmp_path / "whole", tmp_path / "killed", random.Random(0), 0
    start(lm, whole).join()
    process = start(lm, killed)
    while process.exitcode != 0:
        process.join(randomly.uniform(0.05, 0.3))
        if process.exitcode is None:
            process.kill()
            process.join()
            n_kills += 1
        if process.exitcode != 0:
            assert process.exitcode == -signal.SIGKILL
            process = start(lm, killed)
    assert n_kills > 3
    ours, theirs = (state.load(folder) for folder in (whole, killed))
    assert ours is not None
    assert theirs is not None
    assert_equal([ours[0], theirs[0]])
    assert [report["loss"] for report in ours[1]["reports"]] == [report["loss"] for report in theirs[1]["reports"]]


def _arguments(lm: LMModel) -> tuple[LMModel, list[Example], list[Example], LoopSettings]:
    return lm, examples(lm), examples(lm, 2, seed=1), SETTINGS


def end_at(step: int) -> Callable[[StepReport], None]:
    def on_step(report: StepReport) -> None:
        if report.step == step:
            raise RuntimeError("an end")

    return on_step


@pytest.mark.parametrize("step", [0, 3, 6])
def test_a_cancelled_training_saves_and_goes_on(lm: LMModel, tmp_path: Path, step: int) -> None:
    with pytest.raises(RuntimeError, match="an end"):
        fine_tune(*_arguments(lm), tmp_path / "cancelled", end_at(step))
    outcome = fine_tune(*_arguments(lm), tmp_path / "cancelled", lambda report: None)
    assert f"Resumed after step {step}." in outcome.notes
    assert [report.step for report in outcome.reports] == list(range(7))
    assert_equal([outcome.state, fine_tune(*_arguments(lm), tmp_path / "whole", lambda report: None).state])


def test_a_finished_training_is_not_repeated(lm: LMModel, tmp_path: Path) -> None:
    outcome, reports = train(lm, tmp_path), list[StepReport]()
    again = train(lm, tmp_path, reports)
    assert reports == []
    assert (again.best_step, again.verdict) == (outcome.best_step, outcome.verdict)
    assert_equal([outcome.state, again.state])


def test_another_training_s_state_is_not_gone_on_from(lm: LMModel, tmp_path: Path) -> None:
    train(lm, tmp_path)
    assert train(lm, tmp_path, save_every=5).notes == ["Resumed after step 6."]
    again = train(lm, tmp_path, lr=0.02)
    [note] = again.notes
    assert note == "Starting again: clips, captions or base differ from those of step 6."
    assert_equal([again.state, train(lm, tmp_path / "fresh", lr=0.02).state])


def test_other_weights_and_melodies_make_another_training(tiny_checkpoint: Any, tmp_path: Path) -> None:
    lm: LMModel = tiny_checkpoint("melody").lm
    clips = examples(lm)
    melodies = [replace(clip, chroma=None if clip.chroma is None else 1 - clip.chroma) for clip in clips]
    digests = [loop._digest(lm, SETTINGS, data) for data in (clips, clips, melodies)]
    weight = lm.transformer.layers[1].linear2.weight.data
    weight.neg_()
    digests.append(loop._digest(lm, SETTINGS, clips))
    weight.neg_()
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_damaged_state_is_refused(lm: LMModel, tmp_path: Path) -> None:
    train(lm, tmp_path)
    stored = (tmp_path / state.FILE).read_bytes()
    for damaged in (stored[:-1], stored[:5], b"", b"x" * 100):
        (tmp_path / state.FILE).write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"is damaged: .* Delete state\.safetensors"):
            train(lm, tmp_path)


def test_a_full_disk_keeps_the_state_before_it(lm: LMModel, tmp_path: Path) -> None:
    expected = fine_tune(*_arguments(lm), tmp_path / "whole", lambda report: None).state
    with pytest.raises(RuntimeError, match="an end"):
        fine_tune(*_arguments(lm), tmp_path / "state", end_at(2))
    kept = (tmp_path / "state" / state.FILE).read_bytes()
    with files_of_at_most(len(kept) // 2), pytest.raises(TrainingError, match=r"cannot be written .* free some space"):
        fine_tune(*_arguments(lm), tmp_path / "state", lambda report: None)
    assert (tmp_path / "state" / state.FILE).read_bytes() == kept
    assert [file.name for file in (tmp_path / "state").iterdir()] == [state.FILE]
    assert_equal([expected, fine_tune(*_arguments(lm), tmp_path / "state", lambda report: None).state])


def test_a_loss_that_is_nan_ends_the_training(lm: LMModel, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"diverged at step \d+: .* Lower lr, which is 1e\+30"):
        train(lm, tmp_path, lr=1e30, warmup=0)
    assert train(lm, tmp_path / "next").reports[-1].step == 6  # the base is unharmed


def run_out_of_memory(above: int) -> Callable[..., None]:
    """A hook of the LM that fails as CUDA does, in batches of more than some rows."""

    def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if module.training and inputs[0].shape[0] > above:
            raise torch.OutOfMemoryError

    return hook


@pytest.fixture
def hooks(lm: LMModel) -> Iterator[Callable[[int], None]]:
    handles = []
    yield lambda above: handles.append(lm.register_forward_pre_hook(run_out_of_memory(above)))
    for handle in handles:
        handle.remove()


def test_out_of_memory_halves_the_clips_computed_at_once(
    lm: LMModel, tmp_path: Path, hooks: Callable[[int], None]
) -> None:
    whole = train(lm, tmp_path / "whole", batch_size=4)
    hooks(1)
    halved = train(lm, tmp_path / "halved", batch_size=4)
    assert halved.notes == ["Batches of 4: 2 clips at a time.", "Batches of 4: 1 clip at a time."]
    for name, value in whole.state.items():
        torch.testing.assert_close(halved.state[name], value, rtol=0, atol=1e-3)  # largest measured: 2e-4


def test_a_resumed_training_computes_as_many_clips_at_once(
    lm: LMModel, tmp_path: Path, hooks: Callable[[int], None]
) -> None:
    hooks(1)
    with pytest.raises(RuntimeError, match="an end"):
        fine_tune(*_arguments(lm), tmp_path, end_at(3))
    outcome = fine_tune(*_arguments(lm), tmp_path, lambda report: None)
    assert outcome.notes == ["Resumed after step 3.", "Batches of 3: 1 clip at a time."]


def test_without_memory_for_one_clip_the_hint_is_smaller(
    lm: LMModel, tmp_path: Path, hooks: Callable[[int], None]
) -> None:
    hooks(0)
    with pytest.raises(TrainingError, match=r"One clip at a time .* choose a smaller model_version"):
        train(lm, tmp_path)
    assert lm.transformer.checkpointing == "none"


def test_the_fit_follows_the_free_memory(lm: LMModel, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []
    for free in (10**12, 10**8, 2 * 10**7, 10**3):
        memory = type("Memory", (), {"available": free})
        monkeypatch.setattr(fit.psutil, "virtual_memory", lambda memory=memory: memory)
        fits.append(fit.estimate(lm, 8, 1000, 0))
    assert fits == [fit.Fit(8, False), fit.Fit(2, False), fit.Fit(1, True), fit.Fit(1, True)]
    monkeypatch.setattr(fit.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10**8}))
    assert fit.estimate(lm, 8, 1000, 10**7) == fit.Fit(1, True)  # AdamW's moments take the rest


def curve(*losses: tuple[int, float | None, float]) -> list[StepReport]:
    report = StepReport(0, 160, 0.0, None, None, 0.0, 1.0, 1.0, 0.0)
    return [replace(report, step=step, held_out=held_out, loss=loss) for step, held_out, loss in losses]


def test_the_verdict_says_what_the_curve_shows() -> None:
    steps = [(0, 5.37, 4.98), (45, 3.70, 2.27), (160, 6.01, 0.84)]
    assert verdict(curve(*steps), 45) == (
        "Over-fitting: held-out loss rose from 3.70 at step 45 to 6.01 at 160 while the training loss fell from 2.27 "
        "to 0.84 (base: 5.37): the exported weights are step 45's."
    )
    assert verdict(curve(*steps[:2]), 45) == (
        "The held-out loss fell from 5.37 to 3.70 at step 45, the last one: more steps may lower it further."
    )
    assert "never fell below the base's 3.00" in verdict(curve((0, 3.0, 1.0), (10, 3.1, 0.5)), 10)
    level = verdict(curve((0, 3.0, 1.0), (10, 2.0, 0.5), (20, 2.01, 0.4)), 10)
    assert level == "The held-out loss fell from 3.00 to 2.00 at step 10 and was 2.01 at the last, 20: " + (
        "the exported weights are step 10's."
    )
    assert "No songs were held out" in verdict(curve((0, None, 1.0), (10, None, 0.5)), 10)


def test_without_held_out_songs_the_last_step_is_kept(lm: LMModel, tmp_path: Path) -> None:
    outcome = fine_tune(lm, examples(lm), [], SETTINGS, tmp_path, lambda report: None)
    assert outcome.best_step == SETTINGS.n_steps
    assert outcome.state
