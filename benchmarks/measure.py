"""Parts of several benchmarks: bandwidth, time a step, and results as lines of JSON. Imports torch only to measure."""

import json
import os
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# $OUT is the folder that a borrowed GPU machine returns.
RESULTS = Path(os.environ.get("OUT") or Path(__file__).parent / "results")
N_SKIPPED = 10


def step_ms(stamps: list[float]) -> float:
    """Mean milliseconds between the stamps of successive steps, the first ones left out."""
    return 1000 * (stamps[-1] - stamps[N_SKIPPED]) / (len(stamps) - 1 - N_SKIPPED)


def bandwidth(device: str) -> float:
    """Bytes a second that this machine reads: the best of several sums over a gigabyte, or four on a GPU."""
    import torch  # the process that starts the others does without

    data = torch.ones(2**28 if device == "cpu" else 2**30, device=device)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        data.sum().item()
        best = min(best, time.perf_counter() - start)
    return data.numel() * data.itemsize / best


def append(name: str, /, **line: Any) -> None:
    """Append a line of JSON, with date and commit, to the results of this name."""
    commit = ""
    with suppress(OSError):  # a GPU machine may have no git
        answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        commit = answer.stdout.strip()
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps({"date": datetime.now(UTC).date().isoformat(), "commit": commit, **line}) + "\n")
