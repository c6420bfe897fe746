"""Tiny checkpoints of every kind, loaded once, and a file of sound."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint import Checkpoint
from tests.support import tiny
from tests.support.audio_files import chords, write


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tiny.Kind], Checkpoint]:
    """A function from a kind to its checkpoint, with random weights."""

    @cache
    def load(kind: tiny.Kind) -> Checkpoint:
        return checkpoint.load(str(tiny.write(tmp_path_factory.mktemp(kind), kind)), "cpu")

    return load


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For short tensors only: on a busy machine torch's threads wait for each other longer than they work."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of ``chords`` as a wav of floats."""
    return write(tmp_path_factory.mktemp("source") / "source.wav", chords(), subtype="FLOAT")
