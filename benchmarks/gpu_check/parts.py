"""One part in a process of its own: a device error that lasts, or a crash, ends that part alone."""

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.gpu_check.report import NO_CUDA, Report

PACKAGES = ("torch", "triton", "transformers", "numpy", "audiocraft", "torchaudio", "nvidia-cublas")
_KERNELS = "tests/audiocraft_ext/engine/backends/test_triton"
TESTS = ("tests/test_gpu.py", *(f"{_KERNELS}{name}.py" for name in ("", "_inputs", "_linear", "_sampling")))


@dataclass(frozen=True)
class Part:
    """A part of the check, on one size; ended after `limit_s` on a GPU."""

    name: str
    size: str
    limit_s: int


def parts(size: str | None) -> list[Part]:
    """All parts in order: what matters most comes first, the peers last. One size replaces all three."""
    of_medium, small, large = (size or each for each in ("medium", "small", "large"))
    others = [Part("speed", each, 110) for each in dict.fromkeys([small, large]) if each != of_medium]
    return [
        Part("environment", of_medium, 60),
        Part("speed", of_medium, 120),
        Part("kernels", of_medium, 60),
        Part("parity", of_medium, 90),
        Part("company", of_medium, 60),
        *others,
        Part("admission", of_medium, 45),
        Part("requests", of_medium, 90),
        Part("tests", of_medium, 240),
        Part("audiocraft", of_medium, 60),
        Part("transformers", of_medium, 60),
        Part("transformers-static", of_medium, 90),
    ]


def run(name: str, size: str, device: str, work: Path) -> int:
    """Run one part; how many of its attempts failed."""
    report = Report(name, size, device)
    with report.attempt(name):
        if name == "environment":
            _environment(report)
            return report.n_failed
        import torch

        if (device == "cuda" or name == "tests") and not torch.cuda.is_available():
            report.add(name, skipped=NO_CUDA)
        elif name == "tests":
            _tests(report)
        else:
            _measure(report, work)
    return report.n_failed


def _measure(report: Report, work: Path) -> None:
    is_tiny = report.size == "tiny"
    if report.part in ("speed", "kernels", "parity", "company", "admission"):
        from benchmarks.gpu_check import engine_parts

        match report.part:
            case "speed":
                engine_parts.speed(report, (1, 2) if is_tiny else (8, 30))
            case "kernels":
                engine_parts.kernels(report, 100 if is_tiny else 500)
            case "parity":
                engine_parts.parity(report, 100 if is_tiny else 300)
            case "company":
                engine_parts.company(report, 200 if is_tiny else 400)
            case "admission":
                engine_parts.admission(report, 1200)
        return
    from benchmarks.gpu_check import checkpoint_parts

    n_frames = 25 if is_tiny else 200
    match report.part:
        case "requests":
            clips = [(1, 1), (4, 1)] if is_tiny else [(16, 30), (1, 30), (16, 8), (4, 8), (1, 8)]
            checkpoint_parts.requests(report, work, clips)
        case "audiocraft":
            checkpoint_parts.audiocraft(report, work, n_frames)
        case "transformers":
            checkpoint_parts.transformers(report, work, n_frames)
            report.add("fast-musicgen", skipped="it needs flash-attn, and checkpoints in a form of its own")
        case "transformers-static":
            checkpoint_parts.transformers(report, work, n_frames, cache_implementation="static")


def _environment(report: Report) -> None:
    """Versions of packages, and the device as torch sees it."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    report.add("versions", python=sys.version.split()[0], **found)
    with report.attempt("torch"):
        import torch

        if not torch.cuda.is_available():
            report.add("device", skipped=NO_CUDA)
            return
        properties = torch.cuda.get_device_properties()
        report.add(
            "device",
            name=properties.name,
            capability=f"{properties.major}.{properties.minor}",
            CUDA=torch.version.cuda,
            GB=round(properties.total_memory / 1e9, 1),
        )


def _tests(report: Report) -> None:
    command = [sys.executable, "-m", "pytest", "-q", *TESTS]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    report.n_failed += done.returncode != 0
    failures = [line[:300] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    report.add("tests", summary=done.stdout.strip().splitlines()[-1:], failures=failures)
