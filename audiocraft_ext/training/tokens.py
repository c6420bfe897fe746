"""Pieces → codec tokens and chroma, once: each piece's are kept in a cache by content. Knows no data set's layout.

Pieces are encoded one by one: in a batch the codec's convolutions may round otherwise, and a piece's tokens would
depend on its company. Memory has one block of one song, whatever their number.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from audiocraft_ext.audio.read import Clip, read
from audiocraft_ext.audio.resample import resample
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.errors import InputError
from audiocraft_ext.training.dataset import Piece
from audiocraft_ext.training.files import FIELD
from audiocraft_ext.training.songs import BLOCK_S, LIMITS, file_hash
from audiocraft_ext.upstream import CompressionModel, WavCondition, builders

_NEAR_DUPLICATE = 0.5  # of the first codebook's tokens; see near_duplicates
_MIN_FRAMES = 25  # with sound in both pieces: fewer may agree by chance
_SPARE_SAMPLES = 8  # that a resampler may return too few


@dataclass(frozen=True)
class Example:
    """Codes [K, T] int16 of one piece; chroma [T', n_chroma] for a base with a melody conditioner, before its
    ``output_proj``, as ``_get_wav_embedding`` makes it: always as long as the base's window."""

    codes: Tensor
    caption: str
    song: str
    chroma: Tensor | None = None


def encode(pieces: list[Piece], base: Checkpoint, cache: Path, report: Callable[[int, int], None]) -> list[Example]:
    """An example a piece, in the same order. ``report`` receives the number of pieces done, and of all.

    Codes are exactly ``codec.encode`` of the piece's samples, cut to whole frames, so that the codec pads none. A cache
    file that is damaged is written again. Raises what ``report`` raises, and ``InputError`` for an unreadable file.
    """
    encoder = _Encoder(base)
    cache.mkdir(parents=True, exist_ok=True)
    examples: list[Example] = []
    for path, of_song in groupby(pieces, key=lambda piece: piece.path):
        song, content = list(of_song), file_hash(path)
        places = [cache / f"{encoder.key(content, piece)}.safetensors" for piece in song]
        cached = [_load(place) for place in places]
        missing = [piece for piece, tensors in zip(song, cached, strict=True) if tensors is None]
        clips = _clips(missing)
        for piece, place, tensors in zip(song, places, cached, strict=True):
            if tensors is None:
                tensors = encoder.encode(next(clips))
                _save(tensors, place)
            examples.append(Example(tensors["codes"], piece.caption, piece.song, tensors.get("chroma")))
            report(len(examples), len(pieces))
    return examples


class _Encoder:
    """The base's codec, with left and right interleaved for a stereo base, and its melody conditioner."""

    def __init__(self, base: Checkpoint) -> None:
        self.codec: CompressionModel = builders.get_wrapped_compression_model(base.codec, base.lm.cfg)
        conditioners = base.lm.condition_provider.conditioners
        self.melody = conditioners["self_wav"] if base.follows_melody else None
        self.hop = round(self.codec.sample_rate / self.codec.frame_rate)
        digest = hashlib.sha256(f"{self.codec.num_codebooks} {self.codec.channels} {self.codec.sample_rate}".encode())
        _update(digest, self.codec)
        if self.melody is not None:
            _update(digest, self.melody.chroma)
            if demucs := getattr(self.melody, "demucs", None):
                _update(digest, demucs)
            digest.update(f"{self.melody.duration} {self.melody.match_len_on_eval}".encode())
        self._hash = digest.hexdigest()

    def key(self, content: str, piece: Piece) -> str:
        """The cache key of a piece of a file with this hash."""
        return hashlib.sha256(f"{self._hash} {content} {piece.start_s} {piece.duration_s}".encode()).hexdigest()

    @torch.no_grad()  # inference mode's tensors could not be saved for a backward pass
    def encode(self, clip: Clip) -> dict[str, Tensor]:
        """``codes``, and ``chroma`` if the base follows melodies, on the CPU."""
        samples = resample(clip, self.codec.sample_rate, self.codec.channels)
        n_frames = (samples.shape[-1] + _SPARE_SAMPLES) // self.hop
        wav = samples[None, :, : n_frames * self.hop].to(next(self.codec.parameters()).device)
        tensors = {"codes": self.codec.encode(wav)[0][0].to(torch.int16)}
        if self.melody is not None:
            length = torch.tensor([wav.shape[-1]], device=wav.device)
            condition = WavCondition(wav, length, [self.codec.sample_rate], [None], [0.0])
            tensors["chroma"] = self.melody._get_wav_embedding(condition)[0].float()
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _update(digest: "hashlib._Hash", module: nn.Module) -> None:
    """Add a module's plain settings, weights and buffers to a hash."""
    plain = {name: value for name, value in vars(module).items() if isinstance(value, bool | int | float | str)}
    digest.update(f"{type(module).__name__} {sorted(plain.items())}".encode())
    for tensor in chain(module.parameters(), module.buffers()):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def _clips(pieces: list[Piece]) -> Iterator[Clip]:
    """The samples of one song's pieces, in the order of their starts; a block of the song is decoded at a time."""
    block, block_s = None, 0.0
    for piece in pieces:
        if block is None or not block_s <= piece.start_s <= piece.start_s + piece.duration_s <= block_s + BLOCK_S:
            block, block_s = read(piece.path, piece.start_s, max_s=BLOCK_S, limits=LIMITS), piece.start_s
        first = round(piece.start_s * block.sample_rate) - round(block_s * block.sample_rate)
        n_samples = round(piece.duration_s * block.sample_rate)
        yield Clip(block.samples[:, first : first + n_samples], block.sample_rate)


def _load(place: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(place) if place.exists() else None
    except SafetensorError:
        return None


def _save(tensors: dict[str, Tensor], place: Path) -> None:
    part = place.with_suffix(f".{os.getpid()}.part")
    save_file(tensors, part)
    part.replace(place)


def check_near_duplicates(train: list[Example], held_out: list[Example], base: Checkpoint) -> None:
    """Raise ``InputError`` that lists held-out songs that are a training song's, encoded again or made louder.

    Measured on the embedded codec: a song as mp3 or ogg keeps 92 to 100 % of the first codebook's tokens in place, at
    half the power 48 to 80 %; two songs share 25 % at most. Frames that are silent in either song are not compared:
    different stems and plucks share 50 to 80 % of all.
    """
    codec = builders.get_wrapped_compression_model(base.codec, base.lm.cfg)
    zeros = torch.zeros(1, codec.channels, codec.sample_rate, device=next(codec.parameters()).device)
    silence = codec.encode(zeros)[0][0, 0].to("cpu", torch.int16).unique()
    faults = []
    for length, examples in groupby(sorted(train, key=_length), key=_length):
        others = list(examples)
        books = torch.stack([example.codes[0] for example in others])
        for example in filter(lambda example: _length(example) == length, held_out):
            compared = ~(torch.isin(books, silence) | torch.isin(example.codes[0], silence))
            n_same = (compared & (books == example.codes[0])).sum(dim=1)
            shares = n_same / compared.sum(dim=1).clamp(min=_MIN_FRAMES)
            if shares.max() > _NEAR_DUPLICATE:
                faults.append(f"- {example.song}: it is almost the same music as {others[int(shares.argmax())].song}.")
    if faults:
        listed = "\n".join(dict.fromkeys(faults))
        problem = f"held-out songs are in the training songs, too:\n{listed}\n"
        raise InputError(FIELD, problem, "Remove one of each pair, and send the data set again.")


def _length(example: Example) -> int:
    return example.codes.shape[-1]
