"""Measure how often `audiocraft_ext/training/labels.py` finds tempo and key, on clips whose truth is known.

    python -m benchmarks.labels [--clips 200]

The clips are the embedded checkpoint's synthesiser's: 8 s on one chord, and 32 s on I IV V I, or on four chords that
two relative keys share (I V vi IV, i VI III VII). Appends a line to benchmarks/results/labels.jsonl a kind of clip.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from audiocraft_ext.audio.read import Clip
from audiocraft_ext.audio.resample import resample
from audiocraft_ext.training.labels import key_name, tempo_bpm
from benchmarks.measure import append
from weights.demo.train import synth

Chords = dict[str, list[tuple[int, str]]]
KINDS: dict[str, tuple[int, Chords]] = {
    "8 s, one chord": (8, {"major": [(0, "major")], "minor": [(0, "minor")]}),
    "32 s, I IV V I": (
        32,
        {
            "major": [(0, "major"), (5, "major"), (7, "major"), (0, "major")],
            "minor": [(0, "minor"), (5, "minor"), (7, "minor"), (0, "minor")],
        },
    ),
    "32 s, chords of two keys": (
        32,
        {
            "major": [(0, "major"), (7, "major"), (9, "minor"), (5, "major")],
            "minor": [(0, "minor"), (8, "major"), (3, "major"), (10, "major")],
        },
    ),
}


def clips(n_clips: int, seconds: int, chords: Chords, seed: int) -> Iterator[tuple[synth.Song, synth.Samples]]:
    """Songs with samples [N] at the synthesiser's rate; each bar is on the next chord."""
    rng = np.random.default_rng((2026, seed))
    for _ in range(n_clips):
        song = synth.draw_song(rng)
        score = synth.draw_score(song, rng)
        bars: list[synth.Samples] = []
        while sum(map(len, bars)) < seconds * synth.SAMPLE_RATE:
            step, mode = chords[song.mode][len(bars) % len(chords[song.mode])]
            chord = replace(song, root=(song.root + step) % 12, mode=mode)
            bars.append(synth.render(chord, score, song.bar_frames))
        yield song, np.concatenate(bars)[: seconds * synth.SAMPLE_RATE]


def relative(song: synth.Song) -> str:
    """The key with the same notes."""
    is_minor = song.mode == "minor"
    return f"{synth.PITCHES[(song.root + (3 if is_minor else 9)) % 12]} {'major' if is_minor else 'minor'}"


def measure(n_clips: int, seconds: int, chords: Chords, seed: int) -> dict[str, float]:
    """Shares of clips that are labelled, and of labels that are right: tempo within 2 %, key of pitched clips."""
    tempo, key = [], []
    for song, samples in clips(n_clips, seconds, chords, seed):
        mono = resample(Clip(torch.from_numpy(samples)[None], synth.SAMPLE_RATE), 22_050, 1)[0].numpy()
        bpm = tempo_bpm(mono)
        ratios = [abs(bpm * factor / song.tempo_bpm - 1) < 0.02 for factor in (1, 0.5, 2)] if bpm else []
        tempo.append((bpm is not None, any(ratios[:1]), any(ratios)))
        if song.instruments & {"bass", "arp", "pad"}:
            name = key_name(mono)
            truth = f"{synth.PITCHES[song.root]} {song.mode}"
            key.append((name is not None, name == truth, name in (truth, relative(song))))
    figures = {}
    for what, rows in (("tempo", tempo), ("key", key)):
        labelled, right, nearly = np.array(rows).sum(axis=0)
        loosely = "or an octave off" if what == "tempo" else "or its relative"
        figures[f"{what} labelled"] = labelled / len(rows)
        figures[f"{what} right"] = right / labelled
        figures[f"{what} right {loosely}"] = nearly / labelled
    return {name: round(float(share), 3) for name, share in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=200)
    args = parser.parse_args()
    for seed, (kind, (seconds, chords)) in enumerate(KINDS.items()):
        figures = measure(args.clips, seconds, chords, seed)
        append("labels", clips=args.clips, kind=kind, **figures)
        print(kind, figures, flush=True)


if __name__ == "__main__":
    main()
