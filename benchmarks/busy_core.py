"""What another program costs that keeps a core busy, with and without the spin count that ``script/serve`` sets.

    python -m benchmarks.busy_core [--seconds 4]

Threads of OpenMP's meet after each operation, and wait for each other by spinning. On cores of their own that is
fastest; where one of them shares its core, the others spin until the system lets it go on. Each figure is of a process
of its own. A line of JSON goes to benchmarks/results/busy_core.jsonl, a table to the screen.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from audiocraft_ext.checkpoint.source import EMBEDDED
from predict import Predictor

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "busy_core.jsonl"
SPIN_COUNTS = ("", "1000", "3000", "10000")
N_RUNS = 3
PROMPT = "electro at 120 bpm"


def measure(duration: int) -> float:
    """Seconds for a clip by a Predictor that is set up as a server is: its engine alone computes on several cores."""
    schema = json.loads((ROOT / "openapi.json").read_text())["components"]["schemas"]["Input"]["properties"]
    inputs = {name: field["default"] for name, field in schema.items()}
    predictor = Predictor()
    predictor.setup(str(EMBEDDED))
    start = time.perf_counter()
    asyncio.run(predictor.predict(**inputs | {"prompt": PROMPT, "duration": duration}))
    return time.perf_counter() - start


@contextmanager
def neighbour(is_there: bool) -> Iterator[None]:
    """A program that does nothing, without pause."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if is_there else None
    try:
        yield
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--one", action="store_true", help="measure in this process, as it is")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.seconds)))
        return
    command = [sys.executable, "-m", "benchmarks.busy_core", "--seconds", str(args.seconds)]
    figures = {}
    print(f"{'GOMP_SPINCOUNT':>14} {'alone, s':>9} {'beside it, s':>13}")
    for count in SPIN_COUNTS:
        environment = {**os.environ, **({"GOMP_SPINCOUNT": count} if count else {})}
        row = []
        for is_there in (False, True):
            with neighbour(is_there):
                runs = [
                    subprocess.run([*command, "--one"], env=environment, capture_output=True, text=True, check=True)
                    for _ in range(N_RUNS)
                ]
            row.append(median(json.loads(run.stdout.splitlines()[-1]) for run in runs))
        figures[count or "unset"] = {"alone s": round(row[0], 2), "beside s": round(row[1], 2)}
        print(f"{count or 'unset':>14} {row[0]:9.2f} {row[1]:13.2f}", flush=True)
    line = {"date": datetime.now(UTC).date().isoformat(), "seconds": args.seconds, "cores": os.cpu_count(), **figures}
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
