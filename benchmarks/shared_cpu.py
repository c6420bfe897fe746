"""A decoding step of MusicGen small's size on cores that others use too: the engine, and audiocraft's own loop.

    python -m benchmarks.shared_cpu

Each way has a process of its own, in which it runs alone, beside one and beside two busy programs, in turns. Then eight
OpenMP threads are asked for. Then a cgroup allows one core, where this machine lets one of version 1 be made. Figures
are the lower quartile of the turns. `--shares` puts all of it into a cgroup of that weight (a program's is 1024), where
others work on the same machine. Appends a line of JSON to benchmarks/results/shared_cpu.jsonl.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles

from audiocraft_ext import checkpoint
from audiocraft_ext.engine.backends.threads import num_threads
from audiocraft_ext.musicgen import Model
from audiocraft_ext.settings import EngineSettings
from benchmarks import engine

RESULTS = Path(__file__).parent / "results" / "shared_cpu.jsonl"
CPU_CGROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD_US = 100_000
# Frames of a turn, of which the first ten are not counted; audiocraft's take up to a second and more.
N_FRAMES = {"engine": 40, "engine int8": 60, "audiocraft": 14}


@contextmanager
def busy_programs(n: int) -> Iterator[None]:
    """So many endless loops beside what runs within."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def measure(folder: str, way: str, loads: list[int], n_turns: int) -> dict[str, float]:
    """Milliseconds a step of one way, for each number of busy programs."""
    loaded = engine.in_own_thread(checkpoint.load, folder, "cpu")
    settings = EngineSettings(consume=False, quantize="int8" if way == "engine int8" else "none")
    model = None if way == "audiocraft" else engine.in_own_thread(Model, loaded, settings)
    turns: dict[int, list[float]] = {load: [] for load in loads}
    for _ in range(n_turns):
        for load in loads:
            with busy_programs(load):
                if model is None:
                    ms = engine.in_own_thread(engine.time_audiocraft, loaded.lm, N_FRAMES[way], "cpu")
                else:
                    ms = engine.time_engine(model, N_FRAMES[way], 1)
            turns[load].append(ms)
    # Of one turn, quantiles needs two.
    lower = {load: quantiles([*each, *each], n=4, method="inclusive")[0] for load, each in turns.items()}
    return {"threads": num_threads()} | {f"beside {load}": round(ms, 1) for load, ms in lower.items()}


def in_process(cgroup: Path | None, n_omp: int | None, *what: str) -> dict[str, float]:
    """``measure`` in a process of its own, in a cgroup and with so many OpenMP threads asked for, if given."""
    environment = os.environ if n_omp is None else {**os.environ, "OMP_NUM_THREADS": str(n_omp)}
    enter = f"echo $$ > {cgroup}/cgroup.procs && " if cgroup else ""
    command = ["sh", "-c", f'{enter}exec "$@"', "sh", sys.executable, "-m", "benchmarks.shared_cpu", "--measure", *what]
    answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    print(what[1], cgroup, n_omp, result, flush=True)
    return result


@contextmanager
def cpu_cgroup(name: str, **files: int) -> Iterator[Path | None]:
    """A cgroup with these values; None where none can be made."""
    group = CPU_CGROUPS / f"{name}-{os.getpid()}"
    with ExitStack() as stack:
        try:
            group.mkdir()
            stack.callback(group.rmdir)
            for file, value in files.items():
                (group / f"cpu.{file}").write_text(str(value))
        except OSError:
            yield None
        else:
            yield group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=list(N_FRAMES), default=list(N_FRAMES))
    parser.add_argument("--shares", type=int, default=1024)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        folder, way, loads, n_turns = args.measure
        print(json.dumps(measure(folder, way, json.loads(loads), int(n_turns))))
        return
    results: dict[str, dict[str, float]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        cpu_cgroup("shares", shares=args.shares) as shares,
        cpu_cgroup("quota", shares=args.shares, cfs_period_us=PERIOD_US, cfs_quota_us=PERIOD_US) as quota,
    ):
        engine.in_own_thread(engine.write_checkpoint, Path(folder), "small")
        for way in args.ways:
            n_turns = str(1 if way == "audiocraft" else args.turns)
            results[way] = in_process(shares, None, folder, way, "[0, 1, 2]", n_turns)
            results[f"{way}, 8 threads asked for"] = in_process(shares, 8, folder, way, "[0]", n_turns)
            if quota is not None:
                results[f"{way}, quota of one core"] = in_process(quota, None, folder, way, "[0]", n_turns)
    about = {"date": datetime.now(UTC).date().isoformat(), "load": os.getloadavg()[2], "shares": args.shares}
    line = {**about, "ms a step": results}
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
