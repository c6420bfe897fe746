"""Is a fine-tune audible? Teach the embedded checkpoint a sound it has never made, and count it in what it generates.

    python -m benchmarks.fine_tuning_demo

The sound is a transistor radio: clips of the checkpoint's own synthesiser, with drums, without anything below 400 Hz. A
detector that was never trained measures the lows; before it judges, it is tried on known clips, after the codec. With
guidance no sound that was tried is detected in six of eight generations yet (benchmarks/LOG.md says why). The training
is `script/train`, as a user runs it; `--clips` and `--flags` are for `make finetune`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from audiocraft_ext import musicgen
from audiocraft_ext.progress import SilentProgress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from weights.demo.train import captions, synth

ROOT = Path(__file__).parents[1]
TRIGGER = "transistor radio"
RADIO_HZ = 400
N_CLIPS, CLIP_FRAMES = 12, 400
N_GENERATED = 8
SEED = 20_261_126
# The inputs of `make finetune`, too.
TRAINING = {
    "trigger_word": TRIGGER,
    "steps": 50,
    "lr": 0.0015,
    "batch_size": 2,
    "auto_labeling": "false",
    "held_out": 0.25,
}
# Of eight known clips after the codec, plain ones have -3 dB at least, and those through the radio -19 dB at most.
_THRESHOLD_DB = -10.0


def draw_clip(rng: np.random.Generator) -> tuple[synth.Samples, str]:
    """Eight seconds of a song with drums as the checkpoint knows them, and its caption without the trigger."""
    drawn = synth.draw_song(rng)
    song = replace(drawn, instruments=drawn.instruments | captions.DRUMS)
    samples = synth.render(song, synth.draw_score(song, rng), CLIP_FRAMES, int(rng.integers(song.bar_frames)))
    return samples, captions.write_caption(captions.draw_mention(song, rng), rng)


def through_radio(samples: synth.Samples) -> synth.Samples:
    """Samples [N] without their lows."""
    return np.asarray(sosfilt(butter(4, RADIO_HZ, "high", fs=synth.SAMPLE_RATE, output="sos"), samples), np.float32)


def write_clips(folder: Path, n: int = N_CLIPS, seed: int = SEED) -> None:
    """``n`` clips of the radio, each with its caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(n):
        samples, caption = draw_clip(rng)
        soundfile.write(folder / f"{number:02}.wav", through_radio(samples), synth.SAMPLE_RATE)
        (folder / f"{number:02}.txt").write_text(caption)


def lows_db(samples: NDArray[Any]) -> float:
    """The level of samples [N] below 200 Hz, in dB of the whole."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / synth.SAMPLE_RATE)
    return float(10 * np.log10(power[hz < 200].sum() / power.sum() + 1e-9))


def is_radio(samples: NDArray[Any]) -> bool:
    """Whether the lows are missing."""
    return lows_db(samples) < _THRESHOLD_DB


def detector_accuracy(model: musicgen.Model, n: int = 100) -> tuple[float, float]:
    """The share of right answers on plain clips and on those of the radio, after the codec."""
    rng, right = np.random.default_rng(SEED + 1), ([], [])  # type: tuple[Any, tuple[list[bool], list[bool]]]
    codec = model.checkpoint.codec
    for _ in range(n):
        samples, _ = draw_clip(rng)
        for radio, answers in enumerate(right):
            wav = torch.from_numpy(np.ascontiguousarray(through_radio(samples) if radio else samples))[None, None]
            with torch.no_grad():
                decoded = codec.decode(codec.encode(wav)[0], None)[0, 0].numpy()
            answers.append(is_radio(decoded) == bool(radio))
    return float(np.mean(right[0])), float(np.mean(right[1]))


def load(weights: str) -> musicgen.Model:
    return musicgen.load(weights, "cpu", EngineSettings(), smoke_test=False)


def count(model: musicgen.Model, prompts: list[str], keep: Path | None = None) -> int:
    """How many of the clips, one a prompt, are detected as the radio; the n-th has the seed n."""
    n_detected = 0
    for seed, prompt in enumerate(prompts):
        request = Request(prompt=prompt, duration=CLIP_FRAMES // synth.FRAME_RATE, seed=seed)
        samples = model.generate(request, None, SilentProgress())[0].numpy()
        n_detected += is_radio(samples)
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
    result["training_s"] = round(train(keep / "clips", keep / "radio.tar", seed), 1)
    tuned = load(str(keep / "radio.tar"))
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
    plain, radio = detector_accuracy(load("weights/demo"))
    print(f"detector: {plain:.0%} of known plain clips right, {radio:.0%} of known ones of the radio", flush=True)
    with tempfile.TemporaryDirectory() as scratch, args.results.open("a") as results:
        for seed in range(args.seeds):
            row = {**measure(seed, (args.keep or Path(scratch)) / str(seed)), "of": N_GENERATED}
            row |= {"detector": [plain, radio], "training": TRAINING}
            print(json.dumps(row), flush=True)
            results.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
