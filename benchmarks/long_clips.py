"""Measure time and memory of clips of 30, 60 and 300 seconds, each in its own process.

    python -m benchmarks.long_clips [--weights weights/demo]

Appends a line of JSON to benchmarks/results/long_clips.jsonl and prints a table.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from audiocraft_ext import checkpoint
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings

RESULTS = Path(__file__).parent / "results" / "long_clips.jsonl"
DURATIONS_S = (30, 60, 300)
PROMPT = "electro at 120 bpm"


def measure(weights: str, duration: int) -> tuple[float, float]:
    """Seconds for a clip, the model loaded and warm, and this process's peak memory in GB."""
    model = Model(checkpoint.load(weights, "cpu"), EngineSettings())
    model.generate(Request(prompt=PROMPT, duration=1), None, Progress())
    start = time.perf_counter()
    model.generate(Request(prompt=PROMPT, duration=duration), None, Progress())
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", default="weights/demo")
    parser.add_argument("--one", type=int, help="measure this duration in this process")
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.weights, args.one)))
        return
    figures = {}
    print(f"{'seconds':>7} {'took':>7} {'s per second':>12} {'peak GB':>8}")
    for duration in DURATIONS_S:
        command = [sys.executable, "-m", "benchmarks.long_clips", "--weights", args.weights, "--one", str(duration)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        took_s, peak_gb = json.loads(done.stdout.splitlines()[-1])
        figures[duration] = {"s": round(took_s, 2), "peak GB": round(peak_gb, 3)}
        print(f"{duration:7} {took_s:7.1f} {took_s / duration:12.4f} {peak_gb:8.2f}")
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps({"date": datetime.now(UTC).date().isoformat(), "clips": figures}) + "\n")


if __name__ == "__main__":
    main()
