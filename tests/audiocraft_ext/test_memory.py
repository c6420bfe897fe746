"""Freed memory is no longer resident."""

import sys

import pytest
import torch

from audiocraft_ext.memory import trim
from tests.support.memory import resident_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_trim_returns_freed_blocks_to_the_system() -> None:
    blocks = [torch.ones(2**14) for _ in range(1024)]
    kept = blocks[1::2]
    del blocks
    before = resident_bytes()
    trim()
    assert before - resident_bytes() > 16 * 2**20
    assert all(block.eq(1).all() for block in kept)
