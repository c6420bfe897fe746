"""Compare cold starts with audiocraft's own loader: seconds and peak memory, each in a fresh process, same weights.

    python -m benchmarks.cold_start --size medium

Random weights as an audiocraft export in fp16, in the page cache, to fp32 on the CPU. Only the rows for imports include
them. The peak is the largest resident set, pages of mapped files included. Appends a line of JSON to
benchmarks/results/cold_start.jsonl and prints a table.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch
from omegaconf import OmegaConf

from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.checkpoint.read import infer
from benchmarks.engine import SIZES

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
from audiocraft_ext.musicgen import Model
"""
# Name → the code before the clock starts, and the timed code.
WAYS = {
    "audiocraft's load_lm_model": (_AUDIOCRAFT, "kept = load_lm_model('state_dict.bin')"),
    "checkpoint.load": (_OURS, "kept = checkpoint.load(weights, 'cpu')"),
    "the same, and the engine": (_OURS, "kept = Model(checkpoint.load(weights, 'cpu'), EngineSettings())"),
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
    config = OmegaConf.to_yaml(infer.infer_config(state, n_heads))
    torch.save({"best_state": state, "xp.cfg": config, "version": "1.3.0", "exported": True}, folder / "state_dict.bin")


def measure(before: str, timed: str, weights: str) -> tuple[float, float]:
    """Seconds of `timed` in a fresh process after `before`, and that process's peak memory in GB."""
    code = f"import sys, time\nweights = sys.argv[1]\n{before}\nstart = time.perf_counter()\n{timed}\n" + (
        "took_s = time.perf_counter() - start\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(took_s, int(peak.split()[1]) / 2**20)"
    )
    done = subprocess.run([sys.executable, "-c", code, weights], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    took_s, peak_gb = map(float, done.stdout.split()[-2:])
    return took_s, peak_gb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=list(SIZES), default="medium")
    args = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    print(f"{'':28} {'s':>6} {'peak GB':>8}")
    with tempfile.TemporaryDirectory() as name:
        write_export(Path(name), args.size)
        for way, (before, timed) in WAYS.items():
            took_s, peak_gb = measure(before, timed, name)
            figures[way] = {"s": round(took_s, 2), "peak GB": round(peak_gb, 2)}
            print(f"{way:28} {took_s:6.1f} {peak_gb:8.2f}", flush=True)
    line = {"date": datetime.now(UTC).date().isoformat(), "size": args.size, "ways": figures}
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
