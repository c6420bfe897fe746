"""Measure how well the embedded checkpoint follows its inputs, on clips and prompts that its training never saw.

    python -m benchmarks.demo_quality

Default sampling throughout. Before a detector judges the model, it must be right on the synthesiser's own unseen clips
(after a trip through the codec, as the model's clips are). Writes benchmarks/results/demo_quality.json, prints a table.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiocraft_ext.audio.read import Clip
from audiocraft_ext.checkpoint import Checkpoint, load
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from weights.demo.train import captions, detectors, synth
from weights.demo.train.codec import snr_db

CLIP_FRAMES = 400
PROMPT_S = 3.2
TEMPO_TOLERANCE = 0.04
# Training draws from small seeds.
SEED = 20_260_101


@dataclass(frozen=True)
class Figure:
    """One measured figure against its bar: `value` of `n` cases; a share unless the unit says otherwise."""

    value: float
    bar: float
    n: int
    unit: str = "share"

    @property
    def met(self) -> bool:
        """Whether the bar is reached."""
        return self.value >= self.bar


def share(hits: list[bool], bar: float) -> Figure:
    """The share of hits as a figure."""
    return Figure(float(np.mean(hits)), bar, len(hits))


def unseen_clips(seed: int, n: int) -> tuple[Tensor, list[synth.Song]]:
    """Clips [n, 1, N] of eight seconds from anywhere in random songs, and the songs."""
    rng = np.random.default_rng(seed)
    songs = [synth.draw_song(rng) for _ in range(n)]
    clips = [
        synth.render(song, synth.draw_score(song, rng), CLIP_FRAMES, int(rng.integers(song.bar_frames)))
        for song in songs
    ]
    return torch.from_numpy(np.stack(clips))[:, None], songs


@torch.no_grad()
def through_codec(checkpoint: Checkpoint, wavs: Tensor) -> Tensor:
    """Clips [B, 1, N] encoded and decoded."""
    codec = checkpoint.codec
    return torch.cat([codec.decode(codec.encode(part)[0], None) for part in wavs.split(16)])


def is_tempo(measured_bpm: float, asked_bpm: float) -> bool:
    """Whether a tempo is within the tolerance of the one asked for."""
    return abs(measured_bpm / asked_bpm - 1) <= TEMPO_TOLERANCE


def is_pitched(song: synth.Song) -> bool:
    """Whether a song has an instrument that plays notes, so that it has a key."""
    return bool(song.instruments & {"bass", "arp", "pad"})


def measure_detectors(checkpoint: Checkpoint) -> tuple[detectors.Detectors, dict[str, Figure]]:
    """Detectors fitted on one set of clips, and how often they are right on another."""
    wavs, songs = unseen_clips(SEED + 1, 1000)
    # Only some go through the codec, which is slow; the others help to tell one key from the next.
    wavs = torch.cat([through_codec(checkpoint, wavs[:300]), wavs[300:]])
    fitted = detectors.fit([wav[0].numpy() for wav in wavs], songs)
    wavs, songs = unseen_clips(SEED + 2, 150)
    decoded = [wav[0].numpy() for wav in through_codec(checkpoint, wavs)]
    figures = {
        "detector: tempo": share(
            [is_tempo(fitted.tempo_bpm(wav), song.tempo_bpm) for wav, song in zip(decoded, songs, strict=True)], 0.9
        ),
        "detector: key": share(
            [
                detectors.same_key(fitted.key(wav), (song.root, song.mode))
                for wav, song in zip(decoded, songs, strict=True)
                if is_pitched(song)
            ],
            0.9,
        ),
    }
    present = [fitted.present(wav) for wav in decoded]
    for name in synth.INSTRUMENTS:
        right = [(name in found) == (name in song.instruments) for found, song in zip(present, songs, strict=True)]
        figures[f"detector: {name}"] = share(right, 0.9)
    return fitted, figures


def ask(model: Model, seed: int, clip: Tensor | None = None, **inputs: Any) -> Tensor:
    """Samples [1, N] of a clip as a caller would get it, sampling by default; `clip` [1, N'] is its input audio."""
    given = None if clip is None else Clip(clip, synth.SAMPLE_RATE)
    request = Request(duration=CLIP_FRAMES // synth.FRAME_RATE, seed=seed, **inputs)
    return model.generate(request, given, Progress())


def draw_request(rng: np.random.Generator) -> captions.Mention:
    """A request whose pair of tempo and root training never saw: tempo, key, mood, instruments wanted and excluded."""
    while True:
        song = synth.draw_song(rng)
        if captions.is_held_out(song.tempo_bpm, song.root) and len(song.instruments) < len(synth.INSTRUMENTS):
            break
    absent = sorted(set(synth.INSTRUMENTS) - song.instruments)
    wanted = rng.permutation(sorted(song.instruments))[:3]
    excluded = rng.permutation(absent)[:2]
    return captions.Mention(
        song.tempo_bpm, song.root, song.mode, song.mood, frozenset(map(str, wanted)), frozenset(map(str, excluded))
    )


def measure_prompts(model: Model, fitted: detectors.Detectors, n: int, out: Path | None) -> dict[str, Figure]:
    """Tempo, wanted and excluded instruments over `n` held-out prompts."""
    rng = np.random.default_rng(SEED + 3)
    mentions = [draw_request(rng) for _ in range(n)]
    texts = [captions.write_caption(mention, rng, held_out=True) for mention in mentions]
    wavs = torch.stack([ask(model, i, prompt=text) for i, text in enumerate(texts)])
    tempo, wanted, excluded = [], [], []
    for wav, mention in zip(wavs[:, 0].numpy(), mentions, strict=True):
        assert mention.tempo_bpm is not None
        tempo.append(is_tempo(fitted.tempo_bpm(wav), mention.tempo_bpm))
        found = fitted.present(wav)
        wanted += [name in found for name in mention.wanted]
        excluded += [name not in found for name in mention.excluded]
    if out is not None:
        torch.save({"texts": texts, "wavs": wavs}, out / "prompts.pt")
    return {
        "tempo within 4 %": share(tempo, 0.8),
        "wanted instrument present": share(wanted, 0.8),
        "excluded instrument absent": share(excluded, 0.8),
    }


def chroma_similarity(a: Tensor, b: Tensor) -> float:
    """Mean cosine between two chromas [T, 12], frame by frame."""
    return float(torch.nn.functional.cosine_similarity(a, b, dim=-1).mean())


def measure_melody(checkpoint: Checkpoint, model: Model, n: int) -> dict[str, Figure]:
    """How often the output's chroma is nearer to its own input's than to another input's."""
    wavs, songs = unseen_clips(SEED + 4, 3 * n)
    wavs = wavs[[i for i, song in enumerate(songs) if song.instruments & {"arp", "pad"}][:n]]
    outputs = torch.stack([ask(model, i, wav, prompt="electro") for i, wav in enumerate(wavs)])
    extract = checkpoint.lm.condition_provider.conditioners["self_wav"].chroma
    inputs, followed = extract(wavs), extract(outputs)
    others = inputs.roll(1, 0)
    nearer = [
        chroma_similarity(out, own) > chroma_similarity(out, other)
        for out, own, other in zip(followed, inputs, others, strict=True)
    ]
    return {"melody followed": share(nearer, 0.8)}


def measure_continuation(model: Model, fitted: detectors.Detectors, n: int) -> dict[str, Figure]:
    """How often the continued part alone keeps the tempo and the key of the excerpt."""
    wavs, songs = unseen_clips(SEED + 5, 3 * n)
    chosen = [i for i, song in enumerate(songs) if is_pitched(song) and song.instruments & captions.DRUMS][:n]
    n_prompt = int(PROMPT_S * synth.SAMPLE_RATE)
    starts = wavs[chosen, :, :n_prompt]
    outputs = torch.stack([ask(model, i, start, continuation=True) for i, start in enumerate(starts)])
    tempo, key = [], []
    for wav, i in zip(outputs[:, 0, n_prompt:].numpy(), chosen, strict=True):
        tempo.append(is_tempo(fitted.tempo_bpm(wav), songs[i].tempo_bpm))
        key.append(detectors.same_key(fitted.key(wav), (songs[i].root, songs[i].mode)))
    return {
        "continuation keeps tempo": share(tempo, 0.8),
        "continuation keeps key": share(key, 0.8),
        "continuation keeps both": share([t and k for t, k in zip(tempo, key, strict=True)], 0.8),
    }


def measure(weights: str, n_prompts: int, n_clips: int, out: Path | None) -> dict[str, Figure]:
    """All figures of a checkpoint on the CPU, by name."""
    checkpoint = load(weights, device="cpu")
    model = Model(checkpoint, EngineSettings())
    wavs, _ = unseen_clips(SEED, 100)
    snr = snr_db(wavs, through_codec(checkpoint, wavs))
    figures = {"codec SNR": Figure(float(snr.mean()), 10.0, len(wavs), "dB")}
    fitted, detector_figures = measure_detectors(checkpoint)
    figures |= detector_figures
    figures |= measure_prompts(model, fitted, n_prompts, out)
    figures |= measure_melody(checkpoint, model, n_clips)
    figures |= measure_continuation(model, fitted, n_clips)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", default="weights/demo")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--clips", type=int, default=25)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/demo_quality.json"))
    parser.add_argument("--keep", type=Path, help="a folder for the generated clips")
    args = parser.parse_args()
    figures = measure(args.weights, args.prompts, args.clips, args.keep)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    rows = {name: {**asdict(figure), "met": figure.met} for name, figure in figures.items()}
    args.results.write_text(json.dumps(rows, indent=2) + "\n")
    for name, figure in figures.items():
        verdict = "met" if figure.met else "MISSED"
        print(f"{name:28} {figure.value:6.2f}  bar {figure.bar:5.2f}  n {figure.n:3}  {verdict}")


if __name__ == "__main__":
    main()
