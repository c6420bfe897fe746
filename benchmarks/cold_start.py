"""Compare cold starts with audiocraft's own loader: seconds and peak memory, each in a fresh process, same weights.

    python -m benchmarks.cold_start --size medium

Random weights as an audiocraft export in fp16 with all keys of a published config, in the page cache, to fp32 on the
CPU. Ways alternate, ``--runs`` times. Only the rows for imports include them. Both peaks are in GB (10^9 bytes): the
largest resident set, with pages of mapped files, and the largest anonymous part of it, sampled every 5 ms. Appends a
line of JSON with the medians and all seconds to benchmarks/results/cold_start.jsonl and prints a table.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch

from audiocraft_ext import memory
from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from benchmarks.step_model import SIZES
from tests.support import tiny

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cold_start.jsonl"
N_TOKENS = 512  # the embedded codec's

# audiocraft is imported by upstream.py, with its stand-in for xformers; the T5 beside the weights is registered.
_AUDIOCRAFT = """
import os
from audiocraft_ext.upstream import T5Conditioner
from audiocraft.models.loaders import load_lm_model
T5Conditioner.MODELS.append("text_encoder")
T5Conditioner.MODELS_DIMS["text_encoder"] = 128
os.chdir(weights)
"""
_OURS = """
from audiocraft_ext import checkpoint
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext import musicgen
"""
# Name → the code before the clock starts, and the timed code.
WAYS = {
    "audiocraft's load_lm_model": (_AUDIOCRAFT, "kept = load_lm_model('state_dict.bin')"),
    "checkpoint.load": (_OURS, "kept = checkpoint.load(weights, 'cpu')"),
    "musicgen.load, with engine": (_OURS, "kept = musicgen.load(weights, 'cpu', EngineSettings(), smoke_test=False)"),
    "the same, smoke test": (_OURS, "kept = musicgen.load(weights, 'cpu', EngineSettings())"),
    "import predict": ("", "import predict"),
    "setup, embedded checkpoint": ("import predict", "predict.Predictor().setup('weights/demo')"),
}


def write_export(folder: Path, size: str) -> None:
    """A text MusicGen of a size with random weights in fp16, as audiocraft exports it, around the embedded codec."""
    width, n_layers, n_heads = SIZES[size]
    shutil.copytree(EMBEDDED / "text_encoder", folder / "text_encoder")
    shutil.copy(EMBEDDED / "compression_state_dict.bin", folder)
    text_width = json.loads((folder / "text_encoder" / "config.json").read_text())["d_model"]
    shapes: dict[str, tuple[int, ...]] = {f"emb.{k}.weight": (N_TOKENS + 1, width) for k in range(4)}
    shapes |= {f"linears.{k}.weight": (N_TOKENS, width) for k in range(4)}
    shapes["condition_provider.conditioners.description.output_proj.weight"] = (width, text_width)
    norms = ["out_norm", "condition_provider.conditioners.description.output_proj"]
    for layer in (f"transformer.layers.{i}." for i in range(n_layers)):
        for attention in ("self_attn", "cross_attention"):
            shapes[f"{layer}{attention}.in_proj_weight"] = (3 * width, width)
            shapes[f"{layer}{attention}.out_proj.weight"] = (width, width)
        shapes[f"{layer}linear1.weight"], shapes[f"{layer}linear2.weight"] = (4 * width, width), (width, 4 * width)
        norms += [layer + name for name in ("norm1", "norm_cross", "norm2")]
    for norm in norms:
        shapes |= {f"{norm}.bias": (width,)} | ({} if "proj" in norm else {f"{norm}.weight": (width,)})
    state = {name: torch.randn(shape).mul_(0.02).half() for name, shape in shapes.items()}
    config = tiny.lm_config("text")
    config["dataset"]["segment_duration"] = 30
    config["transformer_lm"] |= {"card": N_TOKENS, "dim": width, "num_heads": n_heads, "num_layers": n_layers}
    tiny.export(folder / "state_dict.bin", state, config)


# Runs beside the timed code; the kernel itself keeps a peak of the whole resident set alone.
_SAMPLER = """
import sys, threading, time
def memory(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1]) * 1024 / 1e9
peak_gb, done = [0.0], threading.Event()
def sample():
    while not done.wait(0.005):
        peak_gb[0] = max(peak_gb[0], memory("RssAnon"))
weights = sys.argv[1]
"""


def measure(before: str, timed: str, weights: str) -> dict[str, float]:
    """Seconds of `timed` in a fresh process after `before`, and that process's peaks of memory in GB."""
    code = f"{_SAMPLER}\n{before}\nthreading.Thread(target=sample).start()\nstart = time.perf_counter()\n{timed}\n" + (
        "took_s = time.perf_counter() - start\ndone.set()\nprint(took_s, memory('VmHWM'), peak_gb[0])"
    )
    done = subprocess.run([sys.executable, "-c", code, weights], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return dict(zip(("s", "peak GB", "anonymous GB"), map(float, done.stdout.split()[-3:]), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=list(SIZES), default="medium")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        write_export(Path(name), args.size)
        memory.collect()
        for _ in range(args.runs):
            for way, (before, timed) in WAYS.items():
                (Path(name) / "state_dict.bin").read_bytes()  # into the page cache again
                runs[way].append(measure(before, timed, name))
                print(way, *(f"{figure:.2f}" for figure in runs[way][-1].values()), flush=True)
    figures: dict[str, dict[str, float | list[float]]] = {}
    print(f"\n{'medians':28} {'s':>6} {'peak GB':>8} {'anonymous GB':>13}")
    for way, measured in runs.items():
        medians = {key: round(median(run[key] for run in measured), 2) for key in measured[0]}
        figures[way] = {**medians, "all s": [round(run["s"], 2) for run in measured]}
        print(f"{way:28} {medians['s']:6.1f} {medians['peak GB']:8.2f} {medians['anonymous GB']:13.2f}")
    line = {"date": datetime.now(UTC).date().isoformat(), "size": args.size, "ways": figures}
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
