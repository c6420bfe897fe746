"""script/gpu-aot: the Triton kernels compile for a GPU without spills, and a step has few launches."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

SCRIPT = Path(__file__).parents[4] / "script" / "gpu-aot"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


def test_kernels_compile_without_spills_and_within_the_launches() -> None:
    done = run("--archs", "90", "--sizes", "small", "--rows", "2")
    assert done.returncode == 0, done.stderr
    assert "| _attend" in done.stdout
