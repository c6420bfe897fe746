"""Tiny checkpoints of every kind, loaded once."""

from collections.abc import Callable
from functools import cache

import pytest

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint import Checkpoint
from tests import tiny


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tiny.Kind], Checkpoint]:
    """A function from a kind to its checkpoint, with random weights."""

    @cache
    def load(kind: tiny.Kind) -> Checkpoint:
        return checkpoint.load(str(tiny.write(tmp_path_factory.mktemp(kind), kind)), "cpu")

    return load
