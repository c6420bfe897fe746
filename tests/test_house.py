"""The rules of the house: who may import what, and what importing may do."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.imports import FILES, PACKAGE, ROOT, imports_of, room_of

# Data flows down: a file may import those that stand before it.
ORDER = [
    "errors",
    "request",
    "progress",
    "memory",
    "sniff",
    "decode",
    "fetch",
    "engine",
    "upstream",
    "conditioners",
    "dac",
    "audio",
    "checkpoint",
]
ORDER += ["codec", "unet", "filterbank", "diffusion", "lm_weights", "language_model", "musicgen", "switches"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_what_stands_above_it(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert imports_of(path) == set()
        return
    rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("audiocraft_ext.")}
    above = rooms & set(ORDER[ORDER.index(room) + 1 :])
    assert not above
    assert rooms <= set(ORDER)


@pytest.mark.parametrize("name", ["errors", "request"])
def test_requests_and_errors_import_the_standard_library_alone(name: str) -> None:
    tops = {module.split(".")[0] for module in imports_of(PACKAGE / f"{name}.py")}
    assert tops <= sys.stdlib_module_names | {"audiocraft_ext"}


def test_the_engine_needs_torch_and_compilers_of_kernels_and_nothing_else_of_ours() -> None:
    for path in (PACKAGE / "engine").rglob("*.py"):
        tops = {module.split(".")[0] for module in imports_of(path)}
        assert tops <= sys.stdlib_module_names | {"audiocraft_ext", "torch", "triton", "llvmlite"}, path
        ours = {module for module in imports_of(path) if module.startswith("audiocraft_ext.")}
        assert all(module.startswith("audiocraft_ext.engine") for module in ours), path


def test_the_engine_asks_for_the_device_in_its_backends_alone() -> None:
    for path in (PACKAGE / "engine").glob("*.py"):
        if path.stem not in {"native", "cpu_kernels", "cpu_matmul"}:  # they are the backend's
            assert not re.findall("cuda|cpu|kernels", path.read_text(), re.IGNORECASE), path


def test_only_the_predictor_imports_cog_and_only_the_door_imports_audiocraft_and_transformers() -> None:
    for path in FILES:
        tops = {module.split(".")[0] for module in imports_of(path)}
        assert "cog" not in tops, path
        assert not tops & {"audiocraft", "transformers"} or path.name == "upstream.py", path


def test_importing_the_predictor_starts_no_thread_and_loads_nothing_that_is_not_needed() -> None:
    probe = """
import sys, threading
import predict
assert threading.active_count() == 1, threading.enumerate()
from audiocraft_ext.upstream import _STAND_INS
assert not {"torch._dynamo", "sympy", "scipy", "librosa", "numba"} & sys.modules.keys()
standing = {name for name in _STAND_INS if sys.modules.get(name) is _STAND_INS[name]}
assert standing == {"xformers", "xformers.ops"}, standing
"""
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_file_is_longer_than_it_should_be() -> None:
    for path in [*FILES, ROOT / "predict.py", *(ROOT / "weights").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 320, path
