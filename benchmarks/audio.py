"""Decoding tokens against audiocraft: codec and MultiBand Diffusion, in audio-seconds a second and peak memory.

    python -m benchmarks.audio [--seconds 8 30 120] [--size demo|musicgen]

Random tokens, mono and stereo, each measurement in a fresh process after one second's warm-up. Ours are audiocraft's
modules, chunk by chunk. ``demo`` is the embedded checkpoint's codec and diffusion decoder; ``musicgen`` has Meta's
sizes and random weights, and its diffusion takes minutes a second without a GPU. audiocraft has no stereo diffusion: it
decodes left, then right. Appends a line of JSON to benchmarks/results/audio.jsonl and prints a table.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint.locate.pretrained import DIFFUSION_FILE
from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.codec import chunked
from audiocraft_ext.codec.multiband import Band, MultiBandDecoder
from audiocraft_ext.progress import Progress
from audiocraft_ext.upstream import (
    CompressionModel,
    DiffusionProcess,
    InterleaveStereoCompressionModel,
    MultiBandDiffusion,
    NoiseSchedule,
    builders,
    use_generator,
)
from weights.demo.train.codec import CODEC_CONFIG
from weights.demo.train.diffusion import DIFFUSION_CONFIG

RESULTS = Path(__file__).parent / "results" / "audio.jsonl"
MODELS = ("codec", "diffusion")
MAKERS = ("audiocraft", "ours")
SHORT_S, N_RUNS = 30, 5
# Meta's encodec_32khz and its diffusion models: their differences from the embedded ones.
_MUSICGEN_CODEC = {
    "seanet": {"dimension": 128, "n_filters": 64, "lstm": 2},
    "rvq": {"bins": 2048, "kmeans_init": False},
}
_MUSICGEN_DIFFUSION = {"diffusion_unet": {"hidden": 48, "growth": 4, "max_channels": 10_000, "codec_dim": 128}}
_MUSICGEN_BANDS = 4

Decode = Callable[[Tensor], Tensor]


def make_models(size: str, device: str) -> tuple[CompressionModel, dict[Any, Any]]:
    """The codec, and the diffusion package as audiocraft stores it."""
    if size == "demo":
        package = torch.load(EMBEDDED / DIFFUSION_FILE, weights_only=False)
        return checkpoint.load(str(EMBEDDED), device).codec, package
    config = OmegaConf.merge(OmegaConf.create({**CODEC_CONFIG, "device": device}), _MUSICGEN_CODEC)
    settings = OmegaConf.merge(OmegaConf.create(DIFFUSION_CONFIG), _MUSICGEN_DIFFUSION)
    bands: dict[Any, Any] = {}
    for band in range(_MUSICGEN_BANDS):
        processor = builders.get_processor(settings.processor, sample_rate=settings.sample_rate)
        processor.project_sample(0.1 * torch.randn(10, 1, settings.sample_rate))
        state = builders.get_diffusion_model(settings).state_dict()
        bands[band] = {"cfg": settings, "model_state": state, "processor_state": processor.state_dict()}
    package = {"sample_rate": settings.sample_rate, "n_bands": _MUSICGEN_BANDS, **bands}
    return builders.get_compression_model(config).to(device).eval(), package


def bands_of(package: dict[Any, Any], device: str) -> list[Band]:
    bands = []
    for stored in (package[band] for band in range(package["n_bands"])):
        config = stored["cfg"]
        unet = builders.get_diffusion_model(config)
        unet.load_state_dict(stored["model_state"])
        processor = builders.get_processor(config.processor, sample_rate=package["sample_rate"])
        processor.load_state_dict(stored["processor_state"])
        schedule = NoiseSchedule(**config.schedule, device=device)
        bands.append(Band(unet.to(device).eval(), schedule, processor.to(device)))
    return bands


def make_decoder(model: str, maker: str, size: str, n_channels: int, device: str) -> tuple[Decode, int, int]:
    """A function from tokens [1, K, T] to samples [1, C, N], with K and the codebooks' size."""
    mono, package = make_models(size, device)
    wrapped = InterleaveStereoCompressionModel(mono) if n_channels == 2 else mono
    sizes = wrapped.num_codebooks, mono.cardinality
    if model == "codec" and maker == "audiocraft":
        return lambda tokens: wrapped.decode(tokens, None), *sizes
    if model == "codec":
        return lambda tokens: chunked.decode(wrapped, tokens, Progress()), *sizes
    bands = bands_of(package, device)
    if maker == "ours":
        ours = MultiBandDecoder(mono, bands, package.get("codec_below_hz", 0))
        return lambda tokens: ours.decode(tokens, Progress()), *sizes
    for band in bands:
        band.schedule.sample_processor = band.processor
    theirs = MultiBandDiffusion([DiffusionProcess(band.unet, band.schedule) for band in bands], mono)

    def decode_channels(tokens: Tensor) -> Tensor:
        channels = [tokens[:, channel::n_channels] for channel in range(n_channels)]
        return torch.cat([theirs.tokens_to_wav(channel) for channel in channels], dim=1)

    return decode_channels, *sizes


@torch.inference_mode()
def measure(model: str, maker: str, size: str, n_channels: int, seconds: int) -> tuple[float, float]:
    """Seconds for a clip, the median of several for short ones, and peak memory in GB, the GPU's if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    decode, n_codebooks, n_entries = make_decoder(model, maker, size, n_channels, device)
    generator = torch.Generator(device).manual_seed(0)
    times = []
    for duration in (1, *[seconds] * (N_RUNS if seconds <= SHORT_S else 1)):
        tokens = torch.randint(n_entries, (1, n_codebooks, duration * 50), generator=generator, device=device)
        start = time.perf_counter()
        with use_generator(generator):
            decode(tokens).cpu()
        times.append(time.perf_counter() - start)
    if device == "cuda":
        return median(times[1:]), torch.cuda.max_memory_allocated() / 2**30
    return median(times[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, nargs="+", default=[8, 30, 120])
    parser.add_argument("--size", choices=["demo", "musicgen"], default="demo")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--one", nargs=4, help="measure this model, maker, channels and seconds in this process")
    args = parser.parse_args()
    if args.one is not None:
        model, maker, n_channels, seconds = args.one
        print(json.dumps(measure(model, maker, args.size, int(n_channels), int(seconds))))
        return
    line: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "size": args.size, "rows": []}
    print(f"{'':9} {'':6} {'s':>4} {'audiocraft x real time, GB':>28} {'ours':>14} {'times as fast':>14}")
    for model in args.models:
        for n_channels in (1, 2):
            for seconds in args.seconds:
                row: dict[str, Any] = {"model": model, "channels": n_channels, "seconds": seconds}
                for maker in MAKERS:
                    one = ["--one", model, maker, str(n_channels), str(seconds)]
                    command = [sys.executable, "-m", "benchmarks.audio", "--size", args.size, *one]
                    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
                    row[maker] = json.loads(done.stdout.splitlines()[-1])
                line["rows"].append(row)
                (their_s, their_gb), (our_s, our_gb) = row["audiocraft"], row["ours"]
                sides = "stereo" if n_channels == 2 else "mono"
                print(
                    f"{model:9} {sides:6} {seconds:4} {seconds / their_s:20.2f} {their_gb:7.2f} "
                    f"{seconds / our_s:7.2f} {our_gb:6.2f} {their_s / our_s:14.2f}",
                    flush=True,
                )
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
