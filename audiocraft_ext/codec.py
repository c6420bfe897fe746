"""Tokens → samples by the codec: short clips in one piece, as audiocraft does, long ones in overlapping pieces.

A piece bounds the memory (300 s at once take some 3 GB even in a small codec) and the time until a stop is noticed.
What else works on a long clip takes the same pieces (``join``).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from audiocraft_ext.progress import Progress
from audiocraft_ext.upstream import CompressionModel

# One piece up to MusicGen's own window; above it pieces, each decoded with context that is thrown away. The reach of
# SEANet's convolutions is a few frames; only its LSTM, where a codec has one, hears further back.
WHOLE_S = 30
PIECE_S = 5
CONTEXT_S = 1


@dataclass(frozen=True)
class Piece:
    """The frames ``inner`` of a clip, and ``heard``, the same with their context on both sides."""

    inner: slice
    heard: slice


def pieces_of(n_frames: int, frame_rate: int) -> Iterator[Piece]:
    """A clip as one piece, or as pieces of nearly equal length that begin at whole seconds."""
    is_whole = n_frames <= WHOLE_S * frame_rate
    n_pieces = 1 if is_whole else math.ceil(n_frames / (PIECE_S * frame_rate))
    bounds = [round(i * n_frames / n_pieces / frame_rate) * frame_rate for i in range(n_pieces)] + [n_frames]
    for start, end in pairwise(bounds):
        context = CONTEXT_S * frame_rate
        yield Piece(slice(start, end), slice(max(start - context, 0), min(end + context, n_frames)))


def samples_of(frames: slice, hop: int) -> slice:
    """The samples of some frames; ``hop`` is the samples of one."""
    return slice(frames.start * hop, frames.stop * hop)


def join(decode: Callable[[slice], Tensor], n_frames: int, codec: CompressionModel) -> Tensor:
    """Samples [B, C, N] from ``decode``, which gives those of a slice of the frames; called once a piece."""
    frame_rate = round(codec.frame_rate)
    hop = round(codec.sample_rate / codec.frame_rate)
    parts = []
    for piece in pieces_of(n_frames, frame_rate):
        before = piece.inner.start - piece.heard.start
        inner = slice(before, before + piece.inner.stop - piece.inner.start)
        parts.append(decode(piece.heard)[..., samples_of(inner, hop)])
    return torch.cat(parts, dim=-1)


def decode(codec: CompressionModel, tokens: Tensor, progress: Progress) -> Tensor:
    """Samples [B, C, N] from tokens [B, K, T]; raises ``Cancelled`` before the next piece after ``progress.stop()``."""

    def piece(frames: slice) -> Tensor:
        progress.check()
        return codec.decode(tokens[..., frames], None)

    return join(piece, tokens.shape[-1], codec)
