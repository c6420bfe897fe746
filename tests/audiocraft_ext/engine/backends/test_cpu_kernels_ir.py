"""The committed LLVM IR of the CPU kernels: made from their C, for any processor."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("llvmlite")

import llvmlite.binding as llvm

from audiocraft_ext.engine.backends import llvm_jit

ROOT = Path(__file__).parents[4]
SOURCE = ROOT / "audiocraft_ext/engine/backends/cpu_kernels.c"
IR = SOURCE.with_suffix(".ll")
MATMUL = {"N_OUTPUTS": 2, "N_COLUMNS": 64, "ADDS": 1, "HAS_GELU": 1}
KERNELS = [
    ("norm", {}),
    ("apply_rotary", {"HEAD_WIDTH": 64}),
    ("pack_rows", {"X_IS_INT16": 1}),
    ("matmul", MATMUL | {"N_ROWS": 8, "X_IS_INT16": 0, "IS_INT8": 0}),
    ("matmul", MATMUL | {"N_ROWS": 2, "X_IS_INT16": 1, "IS_INT8": 1}),
    ("attention", {"HEAD_WIDTH": 64, "IS_INT8": 0}),
    ("attention", {"HEAD_WIDTH": 80, "IS_INT8": 1}),
    ("replay", {}),
]


def test_the_ir_names_the_digest_of_the_c_file() -> None:
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    assert f"; SHA-256 of cpu_kernels.c: {digest}\n" in IR.read_text(), "run script/compile-kernels"


def test_the_ir_is_what_clang_makes_of_the_c_file(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    output = tmp_path / "cpu_kernels.ll"
    subprocess.run([sys.executable, ROOT / "script/compile-kernels", output], check=True)
    assert output.read_text() == IR.read_text(), "run script/compile-kernels"


def test_the_ir_names_no_target_and_no_path() -> None:
    text = IR.read_text()
    assert not {"target", "source_filename", "tune-cpu"} & set(text.replace("-", " ").split())
    assert "/home" not in text
    assert "/work" not in text


@pytest.mark.parametrize(("name", "constants"), KERNELS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize(
    ("triple", "cpu"),
    [
        ("x86_64-linux-gnu", "x86-64"),
        ("x86_64-linux-gnu", "haswell"),
        ("x86_64-linux-gnu", "sapphirerapids"),
        ("aarch64-linux-gnu", "generic"),
        ("aarch64-linux-gnu", "neoverse-v1"),
        ("arm64-apple-darwin", "apple-m1"),
    ],
)
def test_kernels_compile_for_any_processor(triple: str, cpu: str, name: str, constants: dict[str, int]) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3, jit=True)
    module = llvm_jit.specialise(machine, name, **constants)
    assert [each.name for each in module.functions if not each.is_declaration] == [name]
    assert machine.emit_object(module)
