"""The GPU check, start to end on the CPU with a tiny model; its parts without one."""

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import measure
from benchmarks.gpu_check import engines, parts
from benchmarks.gpu_check.__main__ import install, run_part
from benchmarks.gpu_check.parts import Part
from benchmarks.gpu_check.report import Report
from tests.support.imports import ROOT

ENOUGH_S = 900


def results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "gpu_check.jsonl").read_text().splitlines()]


def check(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--wheels", str(out), *arguments]
    environment = {**os.environ, "OUT": str(out)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=ENOUGH_S)


@pytest.mark.slow
def test_every_part_runs_on_the_cpu(tmp_path: Path) -> None:
    done = check(tmp_path, "--size", "tiny", "--device", "cpu", "--limit", str(ENOUGH_S))
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path)
    assert {line["part"] for line in found} == {part.name for part in parts.parts("tiny")}
    assert not [line for line in found if "error" in line]
    assert {line["outcome"] for line in found if line["what"] == "outcome"} == {"ok"}
    speeds = [line for line in found if "ms a step" in line and line["part"] == "speed"]
    assert {(line["weights"], line["clips"]) for line in speeds} == {("float32", 1), ("float32", 4), ("int8", 1)}
    assert [line["equal"] for line in found if "equal" in line] == ["5 of 5", "16 of 16"] * 2
    tables = [line["top kernels"] for line in found if "top kernels" in line]
    assert [len(table) for table in tables] == [20] * 4
    assert {line["what"] for line in found if line.get("skipped") == "no CUDA device"} == {"device", "tests"}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_each_part_is_skipped_and_nothing_fails(tmp_path: Path) -> None:
    done = check(tmp_path, "--only", "speed")
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = {(line["size"], line["skipped"]) for line in results(tmp_path) if "skipped" in line}
    assert skipped == {(size, "no CUDA device") for size in ("small", "medium", "large")}


def test_medium_comes_first_and_the_peers_last() -> None:
    order = [(part.name, part.size) for part in parts.parts(None)]
    assert order[:2] == [("environment", "medium"), ("speed", "medium")]
    assert [name for name, _ in order[-3:]] == ["audiocraft", "transformers", "transformers-static"]
    assert [size for name, size in order if name == "speed"] == ["medium", "small", "large"]


def test_a_part_that_crashes_or_hangs_is_an_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert run_part(Part("speed", "tiny", 9), "cpu", tmp_path, 60) == "failed, exit status 1"
    hanging = tmp_path / "python"
    hanging.write_text(f"#!/bin/sh\n(sleep 1; touch {tmp_path}/survivor) & sleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hanging))
    monkeypatch.setattr("benchmarks.gpu_check.__main__.MIN_LEFT_S", 0)
    assert run_part(Part("speed", "tiny", 9), "cpu", tmp_path, 0.2) == "ended after 0 s"
    assert run_part(Part("speed", "tiny", 9), "cpu", tmp_path, -1) == "skipped: out of time"
    time.sleep(1.2)
    assert not (tmp_path / "survivor").exists()  # its own processes would use the GPU on


def test_a_failed_attempt_is_a_result_and_the_next_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    report = Report("speed", "tiny", "cpu")
    with report.attempt("first"):
        raise ValueError("no kernel")
    with report.attempt("second"):
        report.add("second", **{"ms a step": 1.5})
    assert report.n_failed == 1
    first, second = results(tmp_path)
    assert first["error"] == "ValueError: no kernel"
    assert second["ms a step"] == 1.5


def test_a_machine_without_torch_gets_results_that_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert [parts.run(name, "tiny", "cpu", tmp_path) for name in ("environment", "speed")] == [1, 1]
    assert [line["error"].split(":")[0] for line in results(tmp_path)[1:]] == ["ModuleNotFoundError"] * 2


def test_wheels_and_stubs_come_before_the_machine_s_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/before")
    install(tmp_path, tmp_path / "site")
    assert os.environ["PYTHONPATH"] == "/before"
    with zipfile.ZipFile(tmp_path / "omegaconf-9-py3-none-any.whl", "w") as wheel:
        wheel.writestr("omegaconf.py", "")
        wheel.writestr("omegaconf-9.dist-info/METADATA", "Metadata-Version: 2.1\nName: omegaconf\nVersion: 9\n")
        wheel.writestr("omegaconf-9.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("omegaconf-9.dist-info/RECORD", "")
    (tmp_path / "stubs").mkdir()
    (tmp_path / "stubs" / "spacy.py").touch()
    install(tmp_path, tmp_path / "site")
    probe = [sys.executable, "-c", "import omegaconf, spacy; print(omegaconf.__file__, spacy.__file__)"]
    files = subprocess.run(probe, capture_output=True, text=True, check=True).stdout.split()
    assert files == [str(tmp_path / "site" / "omegaconf.py"), str(tmp_path / "stubs" / "spacy.py")]


def test_every_dtype_draws_the_same_weights() -> None:
    full, half = (engines.random_weights("tiny", "cpu", dtype).heads.weight for dtype in (torch.float32, torch.float16))
    assert torch.equal(full.half(), half)


def test_steps_are_timed_while_all_clips_run() -> None:
    weights = engines.random_weights("tiny", "cpu", torch.float32)
    with engines.running(weights, 4, 60) as engine:
        ms, position = engines.time_steps(engine, 3, 60)
    assert 0 < ms < 1000
    assert measure.N_SKIPPED < position < 60
