"""The server plays what audiocraft's own solver, and transformers' Trainer with PEFT, have trained."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from audiocraft_ext import checkpoint
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import SilentProgress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.training.conditions import Conditions
from audiocraft_ext.training.loss import mean_loss
from audiocraft_ext.training.tokens import Example
from tests.support import tiny, tiny_components
from tests.support.foreign_trainers import N_FRAMES, TOKEN

ROOT = Path(__file__).parents[3]


def train(who: str, base: Path, out: Path) -> None:
    out.mkdir()
    command = [sys.executable, "-m", "tests.support.foreign_trainers", who, str(base), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def loss(weights: Path) -> float:
    """Nats of the tokens that the trainers taught."""
    lm = checkpoint.load(str(weights), "cpu").lm
    example = Example(torch.full((4, N_FRAMES), TOKEN, dtype=torch.int16), "dark drums", "a song", None)
    return mean_loss(lm, Conditions(lm, None), [example], 1)


def assert_played(weights: Path) -> None:
    """The server's model makes the taught tokens' sound of it, and no other."""
    model = Model(checkpoint.load(str(weights), "cpu"), EngineSettings())
    samples = model.generate(Request(prompt="dark drums", duration=1, temperature=0), None, SilentProgress())
    with torch.no_grad():
        taught = model.checkpoint.codec.decode(torch.full((1, 4, 50), TOKEN))[0]
    model.close()
    torch.testing.assert_close(samples[:, : taught.shape[-1]], taught, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_lora_by_transformers_trainer_and_peft_is_played(tmp_path: Path) -> None:
    base = tiny_components.write_huggingface(tmp_path / "base", tiny_components.huggingface("text"))
    train("peft", base, tmp_path / "out")
    assert loss(base) > 3
    assert loss(tmp_path / "out") < 0.5
    assert_played(tmp_path / "out")


@pytest.mark.slow
def test_a_checkpoint_of_audiocraft_s_own_solver_is_played(tmp_path: Path) -> None:
    base, out = tiny.write(tmp_path / "base", "text"), tmp_path / "out"
    train("solver", base, out)
    shutil.copy(base / "compression_state_dict.bin", out)
    shutil.copytree(base / "text_encoder", out / "text_encoder")
    shutil.rmtree(out / "xps")
    assert loss(base) > 3
    assert loss(out) < 0.5
    assert_played(out)
