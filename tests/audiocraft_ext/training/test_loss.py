"""The loss is audiocraft's solver's, and its gradients do not depend on how a batch is computed."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.training import lora, processes
from audiocraft_ext.training.batches import collate
from audiocraft_ext.training.conditions import Conditions
from audiocraft_ext.training.loss import backward, mean_loss
from audiocraft_ext.upstream import LMModel
from tests.support import tiny
from tests.support.training import examples

ROOT = Path(__file__).parents[3]


def solver_cross_entropy() -> Callable[..., Any]:
    """``MusicGenSolver._compute_cross_entropy``, which uses no ``self``; importing its module takes 14 s."""
    spec = find_spec("audiocraft")
    assert spec is not None
    tree = ast.parse(Path(spec.submodule_search_locations[0], "solvers/musicgen.py").read_text())  # type: ignore[index]
    name = "_compute_cross_entropy"
    [function] = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]
    scope: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "tp": __import__("typing")}
    exec(compile(ast.Module([function], []), name, "exec"), scope)
    function_itself: Callable[..., Any] = scope[name]
    return function_itself


@pytest.mark.parametrize("kind", ["text", "melody", "stereo"])
def test_the_loss_is_that_of_audiocraft_s_solver(
    kind: tiny.Kind, tiny_checkpoint: Callable[[tiny.Kind], Checkpoint]
) -> None:
    lm = tiny_checkpoint(kind).lm
    conditions = Conditions(lm, None)
    clips = examples(lm)  # of different lengths: the last frames of some are padding
    batch = collate(clips, conditions, None)
    with torch.no_grad():
        output = lm.eval().compute_predictions(batch.codes, [], conditions.embed(batch.conditions))
        expected, _ = solver_cross_entropy()(None, output.logits, batch.codes, output.mask & batch.is_music)
    assert mean_loss(lm, conditions, clips, len(clips)) == pytest.approx(float(expected), abs=1e-6)
    with lora.adapt(lm, 2, 0):
        assert float(backward(lm, conditions, batch, range(5), 5)) == pytest.approx(float(expected), abs=1e-6)


@torch.no_grad()
def test_no_token_sees_itself_or_a_later_one(tiny_checkpoint: Callable[[tiny.Kind], Checkpoint]) -> None:
    lm = tiny_checkpoint("stereo").lm.eval()
    delays = torch.tensor(lm.pattern_provider.delays)
    conditions = Conditions(lm, None)
    batch = collate(examples(lm, 1), conditions, None)
    steps = torch.arange(batch.codes.shape[-1]) + delays[:, None]  # [K, T]

    def logits() -> torch.Tensor:
        embedded = conditions.embed(batch.conditions)
        return lm.compute_predictions(batch.codes, [], embedded).logits[0].nan_to_num()

    before = logits()
    for k, t in ((0, 0), (3, 7), (7, 20)):
        kept = batch.codes[0, k, t].clone()
        batch.codes[0, k, t] = (kept + 1) % 4
        changed = (logits() != before).any(-1)
        batch.codes[0, k, t] = kept
        assert changed.any()
        assert not changed[steps <= t + delays[k]].any()


def test_padding_changes_no_clip_s_loss(tiny_checkpoint: Callable[[tiny.Kind], Checkpoint]) -> None:
    lm = tiny_checkpoint("text").lm
    conditions, clips = Conditions(lm, None), [examples(lm, 5)[i] for i in (0, 3)]  # captions of one length
    assert mean_loss(lm, conditions, clips, 1) == pytest.approx(mean_loss(lm, conditions, clips, 2), abs=0.02)


def gradients(lm: LMModel, n_clips: int, checkpointing: str = "none", only: tuple[int, int] = (0, 1)) -> torch.Tensor:
    """All factors' gradients of one batch; of every ``only[1]``th row from ``only[0]`` on."""
    conditions = Conditions(lm, None)
    batch = collate(examples(lm, 8), conditions, 7)
    lm.train().transformer.checkpointing = checkpointing
    with lora.adapt(lm, 2, 0) as factors:
        with torch.no_grad():
            for name, factor in factors.items():
                generator = torch.Generator().manual_seed(len(name))
                factor.copy_(torch.randn(factor.shape, generator=generator) * 0.1)
        loss = backward(lm, conditions, batch, range(only[0], 8, only[1]), n_clips)
        if only[1] > 1:
            processes.sum_gradients(factors.values(), loss)
        found = [factor.grad for factor in factors.values()]
    lm.eval().transformer.checkpointing = "none"
    return torch.cat([gradient.flatten() for gradient in found if gradient is not None] + [loss[None]])


@pytest.mark.parametrize("kind", ["text", "melody"])
def test_gradients_are_the_same_however_a_batch_is_computed(
    kind: tiny.Kind, tiny_checkpoint: Callable[[tiny.Kind], Checkpoint]
) -> None:
    lm = tiny_checkpoint(kind).lm
    whole = gradients(lm, 8)
    assert whole.abs().max() > 0.01
    for other in (gradients(lm, 1), gradients(lm, 3), gradients(lm, 8, "torch"), gradients(lm, 1, "torch")):
        torch.testing.assert_close(other, whole, rtol=0, atol=1e-6)


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    weights = tiny.write(tmp_path / "tiny", "text")
    lm = checkpoint.load(str(weights), "cpu").lm
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    done = subprocess.run([*command, str(weights), str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), gradients(lm, 8), rtol=0, atol=1e-6)


def main() -> None:
    """One of two processes: its gradients after the exchange."""
    rank, n_processes = processes.join()
    lm = checkpoint.load(sys.argv[1], "cpu").lm
    torch.save(gradients(lm, 2, only=(rank, n_processes)), Path(sys.argv[2], f"{rank}.pt"))


if __name__ == "__main__":
    main()
