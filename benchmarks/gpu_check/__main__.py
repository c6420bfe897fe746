"""Check correctness and speed on a GPU machine that has Python, torch and Triton, and perhaps no network.

    python -m benchmarks.gpu_check [--size tiny --device cpu]

Installs the wheels of a folder, if there is one, outside the machine's own packages; then runs each part in its own
process, medium first and the peers last, and goes on after one that fails. Each result is written to
benchmarks/results/gpu_check.jsonl (or to the folder $OUT) as soon as it exists. Itself, it needs only the standard
library.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.gpu_check import parts
from benchmarks.gpu_check.report import Report

ROOT = Path(__file__).resolve().parents[2]
MIN_LEFT_S = 5


def install(wheels: Path, site: Path) -> None:
    """Install a folder's wheels into `site`, and put it and the folder's stubs on the path of all parts."""
    files = sorted(wheels.glob("*.whl"))
    if not files:
        print(f"no wheels in {wheels}: with the packages of {sys.executable} alone", flush=True)
        return
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
    done = subprocess.run([*pip, "--target", site, *files])
    print(f"{len(files)} wheels in {site}: pip's exit status is {done.returncode}", flush=True)
    paths = [str(site), str(wheels / "stubs"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)


def check_tools(report: Report) -> None:
    """The driver, and the compiler and header without which Triton builds no launcher, so that no kernel runs."""
    found: dict[str, str] = {}
    for name, *arguments in (("nvidia-smi",), ("gcc", "--version"), ("cc", "--version"), ("clang", "--version")):
        if path := shutil.which(name):
            output = subprocess.run([path, *arguments], capture_output=True, text=True).stdout
            if name == "nvidia-smi":
                print(output, flush=True)
                output = "\n".join(line for line in output.splitlines() if "Driver" in line)
            found[name] = output.strip(" |\n").split("\n")[0]
        else:
            found[name] = "missing"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    found["Python.h"] = str(header) if header.exists() else "missing"
    report.add("tools", **found)


def run_part(part: parts.Part, device: str, work: Path, left_s: float) -> str:
    """Run a part in its own process; "ok", or why it did not come to its end."""
    if left_s < MIN_LEFT_S:
        return "skipped: out of time"
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--part", part.name, "--size", part.size]
    limit_s = min(part.limit_s, left_s) if device == "cuda" else left_s
    process = subprocess.Popen([*command, "--device", device, "--work", work], cwd=ROOT, process_group=0)
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return f"ended after {limit_s:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # pytest too, which the tests' part has started
            process.wait()
    return "ok" if status == 0 else f"failed, exit status {status}"


def lines() -> list[dict[str, Any]]:
    """All results so far, those of earlier runs too."""
    path = measure.RESULTS / "gpu_check.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def show_speed(rows: list[dict[str, Any]]) -> None:
    """Print the table of steps; the last columns are the expected times of benchmarks/step_model.py."""
    names = ("ms a step", "x real time", "GB/s", "share of the floor")
    print(f"\n{'size':6} {'weights':8} {'slots':>5} {'clips':>5} {'s':>3} " + " ".join(f"{name:>18}" for name in names))
    for row in (row for row in rows if row["part"] == "speed" and "ms a step" in row):
        expected = " ".join(f"{key}: {row[key]}" for key in row if key.startswith("expected"))
        print(f"{row['size']:6} {row['weights']:8} {row['slots']:5} {row['clips']:5} {row['seconds']:3} ", end="")
        print(" ".join(f"{row[name]:18}" for name in names), expected)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", help="this size in place of medium, small and large; tiny is for trying it on a CPU")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--wheels", type=Path, default=ROOT / ".whl", help="folder of wheels to install")
    parser.add_argument("--limit", type=float, default=530, help="seconds for everything")
    parser.add_argument("--only", nargs="+", help="these parts")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part is not None:
        return min(parts.run(args.part, args.size, args.device, args.work), 99)
    start, outcomes, n_earlier = time.monotonic(), {}, len(lines())
    check_tools(Report("environment", args.size or "medium", args.device))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        install(args.wheels.resolve(), work / "site")
        for part in parts.parts(args.size):
            if args.only is None or part.name in args.only:
                begun = time.monotonic()
                outcome = run_part(part, args.device, work, args.limit - (begun - start))
                took_s = round(time.monotonic() - begun, 1)
                outcomes[f"{part.name} {part.size}"] = outcome, took_s
                Report(part.name, part.size, args.device).add("outcome", outcome=outcome, seconds=took_s)
    show_speed(lines()[n_earlier:])
    print(f"\n{time.monotonic() - start:.0f} s in all")
    for what, (outcome, seconds) in outcomes.items():
        print(f"{what:27} {seconds:5.0f} s  {outcome}")
    return int(any(outcome != "ok" for outcome, _ in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
