"""Compare the engine's speed with audiocraft's loop and transformers', in one run on the same random weights.

    python -m benchmarks.engine --size small

Each generates the same clip with guidance and top-k sampling; decoding steps are timed from the tenth on. The ceiling
is the time to read all weights, and the keys and values so far, once. Appends a line of JSON to
benchmarks/results/engine.jsonl (or to the folder $OUT) and prints a table.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import EncodecConfig, MusicgenConfig, MusicgenForConditionalGeneration, StoppingCriteria, T5Config
from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

from audiocraft_ext import checkpoint, memory, upstream
from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.musicgen import Model, RequestMusicGen
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from benchmarks import measure, step_model
from benchmarks.measure import N_SKIPPED, step_ms
from benchmarks.step_model import N_CODEBOOKS, SIZES, VOCABULARY

T = TypeVar("T")

N_THREADS = torch.get_num_threads()
PROMPT = "a dark electro track with a deep bass and a drum machine, 120 bpm"
SAMPLING: dict[str, Any] = {"use_sampling": True, "temp": 1.0, "top_k": 250, "top_p": 0.0, "cfg_coef": 3.0}


@dataclass(frozen=True)
class Row:
    """One way of decoding: milliseconds a step of all clips together."""

    name: str
    ms: float
    n_clips: int = 1
    ceiling_ms: float | None = None

    @property
    def realtime(self) -> float:
        """Seconds of music a second, all clips together."""
        return step_model.realtime(self.ms, self.n_clips)


def write_checkpoint(
    folder: Path, size: str, device: str = "cpu", dtype: torch.dtype = torch.float32, **codec_settings: Any
) -> None:
    """A text MusicGen of a size with random weights, as transformers saves it; our own text encoder's tokenizer.

    `device` draws the weights; `codec_settings` enlarge the codec.
    """
    width, n_layers, n_heads = SIZES[size]
    decoder = MusicgenDecoderConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=n_layers, ffn_dim=4 * width,
        num_attention_heads=n_heads, num_codebooks=N_CODEBOOKS, pad_token_id=2048, bos_token_id=2048,
    )  # fmt: skip
    text = T5Config(vocab_size=1500, d_model=128, d_kv=32, d_ff=256, num_layers=1, num_heads=4)
    codec_settings = {"num_filters": 4, "hidden_size": 16, "codebook_dim": 16} | codec_settings
    codec = EncodecConfig(
        **codec_settings, codebook_size=VOCABULARY,
        sampling_rate=32000, upsampling_ratios=[8, 5, 4, 4], target_bandwidths=[2.2], normalize=False,
        use_causal_conv=False,
    )  # fmt: skip
    config = MusicgenConfig(text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict())
    with torch.device(device):
        model: Any = MusicgenForConditionalGeneration(config)
    model.to(dtype).save_pretrained(folder)
    for file in (EMBEDDED / "text_encoder").glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())


def conditions() -> list[upstream.ConditioningAttributes]:
    return [upstream.ConditioningAttributes(text={"description": PROMPT})]


@torch.inference_mode()
def time_audiocraft(lm: upstream.LMModel, n_frames: int, device: str) -> float:
    """A step of audiocraft's own ``lm.generate``, under the autocast that its MusicGen uses."""
    stamps: list[float] = []

    def stamp(done: int, total: int) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())

    with torch.autocast(device, torch.float16, enabled=device == "cuda"):
        lm.generate(None, conditions(), max_gen_len=n_frames, callback=stamp, **SAMPLING)
    return step_ms(stamps)


class _Stamps(StoppingCriteria):
    def __init__(self) -> None:
        self.stamps: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if input_ids.device.type == "cuda":
            torch.cuda.synchronize()
        self.stamps.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


@torch.inference_mode()
def time_transformers(folder: Path, n_frames: int, device: str, **settings: Any) -> float:
    """A step of transformers' ``generate``, with further settings of its own."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    model: Any = MusicgenForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    model = model.to(device).eval()
    stamps = _Stamps()
    text = {"input_ids": torch.arange(1, 21, device=device)[None]}
    text["attention_mask"] = torch.ones_like(text["input_ids"])
    settings |= {"do_sample": True, "top_k": 250, "guidance_scale": 3.0, "max_new_tokens": n_frames + 3}
    model.generate(**text, **settings, stopping_criteria=[stamps])
    return step_ms(stamps.stamps)


class _StampedProgress(Progress):
    def __init__(self, stamps: list[float]) -> None:
        super().__init__()
        self.stamps = stamps

    def update(self, n: int, total: int, unit: str = "frame") -> None:
        self.stamps.append(time.perf_counter())


def time_engine(model: Model, n_frames: int, n_clips: int) -> float:
    """A step of the engine with so many clips at once."""
    stamps: list[list[float]] = [[] for _ in range(n_clips)]

    def one(i: int) -> None:
        music_gen = RequestMusicGen(model, Request(prompt="", seed=i), _StampedProgress(stamps[i]))
        music_gen.generation_params = SAMPLING
        no_prompt = torch.zeros((1, music_gen.lm.n_q, 0), dtype=torch.int64)
        with torch.inference_mode():
            music_gen.generate_window(conditions(), no_prompt, n_frames, (0, n_frames))

    with ThreadPoolExecutor(n_clips, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(one, range(n_clips)))
    return mean(step_ms(each) for each in stamps)


def in_own_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run `work` in its own thread, so that its OpenMP threads end with it and cannot slow down later work."""
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(N_THREADS,)) as pool:
        return pool.submit(work, *arguments).result()


def run(size: str, device: str, n_frames: int, clips: list[int]) -> tuple[list[Row], dict[str, Any]]:
    """All rows of the table, and a description of the machine."""
    rows: list[Row] = []

    def add(row: Row) -> None:
        """Printed at once, since later rows may fail."""
        rows.append(row)
        print(f"{row.name} x{row.n_clips}: {row.ms:.2f} ms", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_own_thread(write_checkpoint, folder, size)
        loaded = in_own_thread(checkpoint.load, str(folder), device)
        lm = loaded.lm
        rate = in_own_thread(measure.bandwidth, device)
        full = lm.transformer.layers[0].linear1.weight.itemsize
        ways: list[tuple[str, EngineSettings, float]] = [
            ("engine", EngineSettings(consume=False, n_slots=max(clips)), full),
            ("engine int8", EngineSettings(consume=False, n_slots=max(clips), quantize="int8"), 1),
        ]
        for way, settings, weight_bytes in ways:
            model = in_own_thread(Model, loaded, settings)
            assert model.engine is not None
            cache_bytes = model.engine.transformer.cache.keys[0][0, :, 0].nbytes / SIZES[size][0]
            time_engine(model, 2 * N_SKIPPED, 1)
            for n_clips in clips:
                ms = time_engine(model, n_frames, n_clips)
                read = step_model.n_bytes(size, n_clips, n_frames / 2, weight_bytes, cache_bytes)
                add(Row(way, ms, n_clips, 1000 * read / rate))
            model.close()
            del model
            memory.collect()
        add(Row("audiocraft", in_own_thread(time_audiocraft, lm, n_frames, device)))
        del lm, loaded
        add(Row("transformers", in_own_thread(time_transformers, folder, n_frames, device)))
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    return rows, {"device": machine, "threads": N_THREADS, "GB/s": round(rate / 1e9, 1)}


def show(rows: list[Row]) -> None:
    """Print the table; the last columns are multiples of audiocraft's speed, and shares of the ceiling."""
    base = next(row for row in rows if row.name == "audiocraft")
    heads = f"{'clips':>5} {'ms/step':>8} {'x real time':>11} {'x audiocraft':>12} {'ceiling ms':>10} {'share':>6}"
    print(" " * 15 + heads)
    for row in rows:
        ceiling = f"{row.ceiling_ms:10.1f} {row.ceiling_ms / row.ms:6.0%}" if row.ceiling_ms else ""
        ratio = row.realtime / base.realtime
        print(f"{row.name:14} {row.n_clips:5} {row.ms:8.2f} {row.realtime:11.2f} {ratio:12.2f} {ceiling}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 4])
    args = parser.parse_args()
    if args.device == "cuda":
        # As in the engine: the others, whose keys grow step by step, would pay for cuDNN's plan for each length.
        torch.backends.cuda.enable_cudnn_sdp(False)
    rows, machine = run(args.size, args.device, args.frames, args.clips)
    figures = {f"{row.name} x{row.n_clips}": round(row.ms, 3) for row in rows}
    measure.append("engine", size=args.size, frames=args.frames, **machine, **{"ms a step": figures})
    show(rows)


if __name__ == "__main__":
    main()
