"""What is given back is no longer resident, and still there."""

import sys
from pathlib import Path

import pytest
import torch

from audiocraft_ext.memory import FilePages, trim
from tests.support.memory import resident_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
N_BYTES = 64 * 2**20


def test_a_mapped_tensor_leaves_memory_and_reads_as_before(tmp_path: Path) -> None:
    torch.save({"x": torch.arange(N_BYTES // 8)}, tmp_path / "file")
    mapped = torch.load(tmp_path / "file", mmap=True)["x"]
    total = mapped.sum()
    before = resident_bytes()
    FilePages().release(mapped)
    assert before - resident_bytes() > 0.9 * N_BYTES
    assert mapped.sum() == total


def test_a_tensor_that_is_in_no_file_keeps_what_it_holds() -> None:
    tensor = torch.arange(N_BYTES // 8)
    FilePages().release(tensor)
    assert torch.equal(tensor, torch.arange(N_BYTES // 8))


def test_a_mapped_tensor_that_was_written_to_is_not_for_release_but_its_neighbours_in_the_page_are_safe(
    tmp_path: Path,
) -> None:
    torch.save({"x": torch.zeros(100), "y": torch.arange(N_BYTES // 8), "z": torch.zeros(100)}, tmp_path / "file")
    loaded = torch.load(tmp_path / "file", mmap=True)
    loaded["x"] += 1
    loaded["z"] += 1
    FilePages().release(loaded["y"])
    assert loaded["x"].eq(1).all()
    assert loaded["z"].eq(1).all()


def test_blocks_that_were_freed_leave_memory() -> None:
    blocks = [torch.ones(2**14) for _ in range(1024)]
    kept = blocks[1::2]
    del blocks
    before = resident_bytes()
    trim()
    assert before - resident_bytes() > 16 * 2**20
    assert all(block.eq(1).all() for block in kept)
