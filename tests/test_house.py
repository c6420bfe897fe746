"""The package's structure: who may import whom, side effects of imports, sizes, and names."""

import ast
import subprocess
import sys
from pathlib import Path

from tests.support.imports import FILES, PACKAGE, ROOT, imports_of, room_of

# Data flows down: a room may import those before it.
ORDER = [
    "errors",
    "request",
    "progress",
    "memory",
    "engine",
    "settings",
    "upstream",
    "conditioning",
    "codec",
    "audio",
    "checkpoint",
    "lm_engine",
    "musicgen",
    "adapters",
    "service",
    "training",
]
TRAINING = [ROOT / "train.py", *sorted((PACKAGE / "training").rglob("*.py"))]
CORE = [ROOT / "predict.py", *(path for path in FILES if path not in TRAINING)]
TOOLS = [path for folder in ("cli", "weights", "benchmarks", "deploy", "web") for path in (ROOT / folder).rglob("*.py")]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_TRAINING_LINES = 2450
MAX_CORE_LINES, MAX_TOP_MODULES, MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_TEST_NAME = 7975, 12, 320, 60, 70


def top_level(path: Path) -> set[str]:
    """The packages that the file imports."""
    return {module.split(".")[0] for module in imports_of(path)}


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_nothing_imports_a_room_above_its_own() -> None:
    for path in FILES:
        rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("audiocraft_ext.")}
        if path == PACKAGE / "__init__.py":
            assert not rooms
            continue
        assert rooms <= set(ORDER), path
        assert not rooms & set(ORDER[ORDER.index(room_of(path)) + 1 :]), path


def test_what_refuses_a_request_imports_the_standard_library_alone() -> None:
    for name in ("errors", "request", "audio/source"):
        assert top_level(PACKAGE / f"{name}.py") <= sys.stdlib_module_names | {"audiocraft_ext"}, name


def test_the_engine_imports_torch_and_compilers_alone() -> None:
    for path in (PACKAGE / "engine").rglob("*.py"):
        assert top_level(path) <= sys.stdlib_module_names | {"audiocraft_ext", "torch", "triton", "llvmlite"}, path
        inside = {module for module in imports_of(path) if module.startswith("audiocraft_ext.")}
        assert all(module.startswith("audiocraft_ext.engine") for module in inside), path


def test_only_backends_of_the_engine_name_a_device() -> None:
    for path in (PACKAGE / "engine").glob("*.py"):
        text = path.read_text()
        assert not [word for word in ("cuda", "cpu", "kernels") if word in text], path


def test_only_predict_imports_cog_and_only_upstream_audiocraft() -> None:
    for path in FILES:
        assert "cog" not in top_level(path), path
        assert not top_level(path) & {"audiocraft", "transformers"} or path.name == "upstream.py", path


def test_the_page_s_server_talks_http_alone() -> None:
    for path in (ROOT / "web").rglob("*.py"):
        assert not top_level(path) & {"audiocraft_ext", "predict", "cog", "torch"}, path


def test_tests_import_no_test_and_nothing_from_benchmarks() -> None:
    for path in TESTS:
        modules = imports_of(path)
        assert not {module for module in modules if module.split(".")[-1].startswith("test_")}, path
        if not path.is_relative_to(ROOT / "tests" / "benchmarks"):
            assert "benchmarks" not in top_level(path), path


def test_the_gpu_s_tests_import_without_the_wheels_that_its_machine_lacks() -> None:
    absent = ("imageio_ffmpeg", "llvmlite", "pydub", "spacy", "av", "cog", "matplotlib", "ziglang")
    modules = "tests.test_gpu, benchmarks.gpu_check.checkpoint_parts"
    probe = f"import sys; sys.modules.update(dict.fromkeys({absent})); import {modules}"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_gpu_check_needs_no_package_to_start_and_only_torch_to_decode() -> None:
    for absent, module in (
        (("torch", "numpy", "audiocraft", "transformers"), "__main__"),
        (("audiocraft", "transformers", "omegaconf"), "engine_parts"),
    ):
        probe = f"import sys; sys.modules.update(dict.fromkeys({absent})); import benchmarks.gpu_check.{module}"
        done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_importing_the_predictor_starts_no_thread_and_loads_little() -> None:
    probe = """
import sys, threading
import predict
assert threading.active_count() == 1, threading.enumerate()
from audiocraft_ext.upstream import _STUBS
assert not {"torch._dynamo", "sympy", "scipy", "librosa", "numba"} & sys.modules.keys()
standing = {name for name in _STUBS if sys.modules.get(name) is _STUBS[name]}
assert standing == {"xformers", "xformers.ops"}, standing
"""
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_core_is_small() -> None:
    for paths, most in ((CORE, MAX_CORE_LINES), (TRAINING, MAX_TRAINING_LINES)):
        assert sum(len(path.read_text().splitlines()) for path in paths) < most
    top_modules = {path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"}
    assert len(top_modules) <= MAX_TOP_MODULES


def test_no_file_and_no_function_is_too_long() -> None:
    for path in [*CORE, *TRAINING, *TOOLS]:
        assert len(path.read_text().splitlines()) <= MAX_FILE_LINES, path
        for function in functions(path):
            # The inputs and their descriptions are arguments of `predict` and of `train`: only their bodies count.
            is_cogs = path.parent == ROOT and function.name in ("predict", "train")
            first = function.body[0].lineno if is_cogs else function.lineno
            assert (function.end_lineno or 0) - first < MAX_FUNCTION_LINES, (path, function.name)


def test_a_test_s_name_is_a_short_claim() -> None:
    for path in TESTS:
        for function in functions(path):
            assert len(function.name) <= MAX_TEST_NAME or not function.name.startswith("test_"), (path, function.name)
