"""Turn songs into training data of the LM: codes, chroma and embedded captions. Knows nothing of the LM.

python -m weights.demo.train.tokens
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from audiocraft_ext.conditioning import ChromaConditioner
from audiocraft_ext.upstream import CompressionModel
from weights.demo.train import captions, codec, synth

CLIP_FRAMES = 400
CHROMA: dict[str, Any] = {
    "sample_rate": synth.SAMPLE_RATE,
    "n_chroma": 12,
    "radix2_exp": 14,
    "match_len_on_eval": True,
    "argmax": False,
    "low_hz": 180.0,
    "high_hz": 2500.0,
}


@dataclass(frozen=True)
class TokenSettings:
    """How many clips are made, and how many captions each is given."""

    n_clips: int = 12_000
    n_captions: int = 3
    # A caption decides the first bar: there are more of these, with a caption each and nothing else.
    n_first_bars: int = 40_000
    first_bar_frames: int = 100
    seed: int = 0
    chunk: int = 200
    batch: int = 4
    # Music starts on a bar; what a caller wants continued may start anywhere.
    on_a_bar_p: float = 0.6
    # The first frames of a clip that starts within a bar are given, never asked for: music starts on a bar.
    given_frames: tuple[int, int] = (40, 160)


def draw_clip(rng: np.random.Generator, s: TokenSettings) -> tuple[synth.Samples, synth.Song, int]:
    """(samples of eight seconds, their song, the frame from which the loss counts); most start on a bar."""
    song = synth.draw_song(rng)
    score = synth.draw_score(song, rng)
    if rng.random() < s.on_a_bar_p:
        return synth.render(song, score, CLIP_FRAMES), song, 0
    offset = int(rng.integers(1, song.bar_frames))
    return synth.render(song, score, CLIP_FRAMES, offset), song, int(rng.integers(*s.given_frames))


@torch.no_grad()
def make_chunk(codec_path: Path, s: TokenSettings, chunk: int) -> dict[str, Any]:
    """codes [N, K, T] int16, chroma [N, T', 12] fp16, loss_from [N], texts: N lists of captions; N is `s.chunk`."""
    torch.set_num_threads(1)
    model = load_codec(codec_path)
    conditioner = ChromaConditioner(output_dim=1, duration=CLIP_FRAMES / synth.FRAME_RATE, **CHROMA)
    rng = np.random.default_rng((s.seed, 7, chunk))
    clips = [draw_clip(rng, s) for _ in range(s.chunk)]
    wavs = torch.from_numpy(np.stack([samples for samples, _, _ in clips]))[:, None].split(s.batch)
    texts = []
    for _, song, _ in clips:
        mentions = [captions.draw_mention(song, rng) for _ in range(s.n_captions)]
        texts.append([captions.write_caption(mention, rng) for mention in mentions])
    return {
        "codes": torch.cat([model.encode(wav)[0].to(torch.int16) for wav in wavs]),
        "chroma": torch.cat([conditioner.chroma(wav)[:, : conditioner.chroma_len].half() for wav in wavs]),
        "loss_from": torch.tensor([first for _, _, first in clips]),
        "texts": texts,
    }


@torch.no_grad()
def make_first_bars(codec_path: Path, s: TokenSettings, chunk: int) -> tuple[Tensor, list[str]]:
    """Codes [N, K, T] int16 of `s.chunk` songs' first `s.first_bar_frames`, and a caption each."""
    torch.set_num_threads(1)
    model = load_codec(codec_path)
    rng = np.random.default_rng((s.seed, 8, chunk))
    songs = [synth.draw_song(rng) for _ in range(s.chunk)]
    wavs = [synth.render(song, synth.draw_score(song, rng), s.first_bar_frames) for song in songs]
    texts = [captions.write_caption(captions.draw_mention(song, rng), rng) for song in songs]
    parts = torch.from_numpy(np.stack(wavs))[:, None].split(4 * s.batch)
    return torch.cat([model.encode(part)[0].to(torch.int16) for part in parts]), texts


def make_clips(codec_path: Path, s: TokenSettings) -> dict[str, Any]:
    """The output of `make_chunk` for `s.n_clips` clips, computed on all cores; the same on any number of them."""
    chunks = []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for chunk in pool.map(partial(make_chunk, codec_path, s), range(s.n_clips // s.chunk)):
            chunks.append(chunk)
            if len(chunks) % 10 == 0:
                print(f"{len(chunks) * s.chunk} of {s.n_clips} clips", flush=True)
    tensors = {name: torch.cat([chunk[name] for chunk in chunks]) for name in ("codes", "chroma", "loss_from")}
    return {**tensors, "texts": [texts for chunk in chunks for texts in chunk["texts"]]}


@torch.no_grad()
def embed(texts: list[str], folder: Path) -> list[Tensor]:
    """The encoder's hidden states [tokens, 128] of each text, fp16."""
    tokenizer, encoder = T5Tokenizer.from_pretrained(folder), T5EncoderModel.from_pretrained(folder)
    out: list[Tensor] = [torch.empty(0)] * len(texts)
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(texts), 256):
        rows = by_length[start : start + 256]
        batch = tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True)
        hidden = encoder(**batch).last_hidden_state.half()
        for i, states, mask in zip(rows, hidden, batch["attention_mask"], strict=True):
            out[i] = states[: int(mask.sum())].clone()
    return out


def load_codec(path: Path) -> CompressionModel:
    """The codec that training left at `path`, in eval mode."""
    model = codec.build_codec()
    model.load_state_dict(torch.load(path, weights_only=True)["codec"])
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path(".train"))
    parser.add_argument("--clips", type=int, default=TokenSettings.n_clips)
    args = parser.parse_args()
    s, codec_path, text_encoder = TokenSettings(n_clips=args.clips), args.work / "codec.pt", args.work / "text_encoder"
    clips = make_clips(codec_path, s)
    texts = [text for group in clips.pop("texts") for text in group]
    clips["embeddings"] = embed(texts, text_encoder)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        bars = list(pool.map(partial(make_first_bars, codec_path, s), range(s.n_first_bars // s.chunk)))
    first_bars = {
        "codes": torch.cat([codes for codes, _ in bars]),
        "embeddings": embed([text for _, texts in bars for text in texts], text_encoder),
    }
    torch.save({**clips, "first_bars": first_bars}, args.work / "tokens.pt")


if __name__ == "__main__":
    main()
