"""Is a fine-tune audible? Teach the embedded checkpoint a sound it has never made, and count it in what it generates.

    python -m benchmarks.fine_tuning_demo

The sound is a trance gate: clips of the checkpoint's own synthesiser, chopped 12.5 times a second. A detector that was
never trained looks at the spectrum of the level; before it judges, it is tried on known clips, after the codec. A tape
played backwards was tried first, and was not learnt from a dozen clips (benchmarks/LOG.md). The training is
`script/train`, as a user runs it; `--clips` and `--flags` are for `make finetune`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from audiocraft_ext import musicgen
from audiocraft_ext.progress import SilentProgress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from weights.demo.train import captions, synth

ROOT = Path(__file__).parents[1]
TRIGGER = "trance gate"
GATE_HZ = synth.FRAME_RATE / 4
N_CLIPS, CLIP_FRAMES = 12, 400
N_GENERATED = 8
SEED = 20_261_126
# The inputs of `make finetune`, too.
TRAINING = {
    "trigger_word": TRIGGER,
    "steps": 40,
    "lr": 0.001,
    "batch_size": 4,
    "auto_labeling": "false",
    "held_out": 0.25,
}
_HOP = 320
# Four times the strongest of 40 known plain clips; 38 of 40 known gated ones are above it.
_THRESHOLD = 0.1


def draw_clip(rng: np.random.Generator) -> tuple[synth.Samples, str]:
    """Eight seconds of a song as the checkpoint knows them, and its caption without the trigger."""
    song = synth.draw_song(rng)
    samples = synth.render(song, synth.draw_score(song, rng), CLIP_FRAMES, int(rng.integers(song.bar_frames)))
    return samples, captions.write_caption(captions.draw_mention(song, rng), rng)


def gate(samples: synth.Samples) -> synth.Samples:
    """Samples [N], open for two frames and closed for two, with a ramp of 2 ms at each edge."""
    n_ramp, n_open = synth.SAMPLE_RATE // 500, 2 * synth.FRAME
    ramp = np.linspace(0, 1, n_ramp)
    opened = np.concatenate([ramp, np.ones(n_open - 2 * n_ramp), ramp[::-1], np.zeros(n_open)])
    return samples * np.resize(opened, len(samples)).astype(np.float32)


def write_clips(folder: Path, n: int = N_CLIPS, seed: int = SEED) -> None:
    """``n`` gated clips, each with its caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(n):
        samples, caption = draw_clip(rng)
        soundfile.write(folder / f"{number:02}.wav", gate(samples), synth.SAMPLE_RATE)
        (folder / f"{number:02}.txt").write_text(caption)


def gate_strength(samples: NDArray[Any]) -> float:
    """The gate's share of the changes of level of samples [N]: of the level's spectrum from 2 Hz on, the part within a
    quarter hertz of 12.5 Hz. Overtones are left out, so that no sharp edge is needed."""
    frames = samples[: len(samples) // _HOP * _HOP].reshape(-1, _HOP)
    level_db = 10 * np.log10((frames.astype(np.float64) ** 2).mean(1) + 1e-6)
    power = np.abs(np.fft.rfft((level_db - level_db.mean()) * np.hanning(len(level_db)))) ** 2
    hz = np.fft.rfftfreq(len(level_db), _HOP / synth.SAMPLE_RATE)
    return float(power[np.abs(hz - GATE_HZ) < 0.26].sum() / power[hz >= 2].sum())


def is_gated(samples: NDArray[Any]) -> bool:
    """Whether the gate is the main change of level."""
    return gate_strength(samples) > _THRESHOLD


def detector_accuracy(model: musicgen.Model, n: int = 100) -> tuple[float, float]:
    """The share of right answers on plain and on gated clips, after the codec."""
    rng, right = np.random.default_rng(SEED + 1), ([], [])  # type: tuple[Any, tuple[list[bool], list[bool]]]
    codec = model.checkpoint.codec
    for _ in range(n):
        samples, _ = draw_clip(rng)
        for gated, answers in enumerate(right):
            wav = torch.from_numpy(np.ascontiguousarray(gate(samples) if gated else samples))[None, None]
            with torch.no_grad():
                decoded = codec.decode(codec.encode(wav)[0], None)[0, 0].numpy()
            answers.append(is_gated(decoded) == bool(gated))
    return float(np.mean(right[0])), float(np.mean(right[1]))


def load(weights: str) -> musicgen.Model:
    return musicgen.load(weights, "cpu", EngineSettings(), smoke_test=False)


def count(model: musicgen.Model, prompts: list[str], keep: Path | None = None) -> int:
    """How many of the clips, one a prompt, are detected as gated; the n-th has the seed n."""
    n_detected = 0
    for seed, prompt in enumerate(prompts):
        request = Request(prompt=prompt, duration=CLIP_FRAMES // synth.FRAME_RATE, seed=seed)
        samples = model.generate(request, None, SilentProgress())[0].numpy()
        n_detected += is_gated(samples)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            soundfile.write(keep / f"{seed}.wav", samples, synth.SAMPLE_RATE)
    return n_detected


def train(clips: Path, out: Path, seed: int) -> float:
    """Run `script/train` with TRAINING; the seconds it took."""
    flags = [f"-i{name}={value}" for name, value in {**TRAINING, "dataset_path": clips, "seed": seed}.items()]
    start = time.monotonic()
    subprocess.run([sys.executable, ROOT / "script" / "train", *flags, "-o", out], check=True)
    return time.monotonic() - start


def measure(seed: int, keep: Path) -> dict[str, Any]:
    """One training on clips of ``seed``, and the counts of 8 generations each; captions are of unseen songs."""
    rng = np.random.default_rng(SEED + 2)
    plain = [draw_clip(rng)[1] for _ in range(N_GENERATED)]
    triggered = [f"{TRIGGER}, {caption}" for caption in plain]
    write_clips(keep / "clips", seed=SEED + 10 + seed)
    base = load("weights/demo")
    result: dict[str, Any] = {"seed": seed, "base, trigger": count(base, triggered, keep / "base")}
    base.close()
    result["training_s"] = round(train(keep / "clips", keep / "gated.tar", seed), 1)
    tuned = load(str(keep / "gated.tar"))
    result["trigger"] = count(tuned, triggered, keep / "trigger")
    result["no trigger"] = count(tuned, plain, keep / "plain")
    tuned.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=Path, help="write the training clips into this folder, and no more")
    parser.add_argument("--flags", action="store_true", help="print the training's flags, one a line, and no more")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="a folder for clips and archives")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/fine_tuning_demo.jsonl")
    args = parser.parse_args()
    if args.clips is not None:
        write_clips(args.clips)
    if args.flags:
        print("\n".join(f"-i{name}={value}" for name, value in TRAINING.items()))
    if args.clips is not None or args.flags:
        return
    plain, gated = detector_accuracy(load("weights/demo"))
    print(f"detector: {plain:.0%} of known plain clips right, {gated:.0%} of known gated ones", flush=True)
    with tempfile.TemporaryDirectory() as scratch, args.results.open("a") as results:
        for seed in range(args.seeds):
            row = {**measure(seed, (args.keep or Path(scratch)) / str(seed)), "of": N_GENERATED}
            row |= {"detector": [plain, gated], "training": TRAINING}
            print(json.dumps(row), flush=True)
            results.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
