"""Tokens ↔ samples in overlapping chunks: short clips whole, as audiocraft does, long ones chunk by chunk.

Chunks bound the memory (a small codec needs some 3 GB for 300 s at once) and the delay of a cancellation. Knows no
codec in particular; ``multiband`` maps its own functions over the same chunks.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from audiocraft_ext.progress import Progress
from audiocraft_ext.upstream import CompressionModel

# MusicGen's own window stays whole. Padding covers the receptive field of SEANet's convolutions, a few frames; only an
# LSTM, in codecs with one, sees further back.
MAX_UNCHUNKED_S = 30
CHUNK_S = 5
PADDING_S = 1


def chunks(length: int, rate: int, hop: int = 1) -> Iterator[tuple[slice, slice]]:
    """Positions of each chunk with context on both sides, and its own part of the ``hop`` samples that each makes.

    Chunks of nearly equal length, bounded at whole seconds of ``rate`` positions; a short clip is one chunk.
    """
    is_whole = length <= MAX_UNCHUNKED_S * rate
    n_chunks = 1 if is_whole else math.ceil(length / (CHUNK_S * rate))
    bounds = [round(i * length / n_chunks / rate) * rate for i in range(n_chunks)] + [length]
    for start, end in pairwise(bounds):
        first = max(start - PADDING_S * rate, 0)
        yield slice(first, min(end + PADDING_S * rate, length)), slice((start - first) * hop, (end - first) * hop)


def map_chunks(function: Callable[[slice], Tensor], length: int, rate: int, hop: int = 1) -> Tensor:
    """Concatenate ``function``'s outputs [..., N] over the chunks; each position that it is given makes ``hop``."""
    return torch.cat([function(padded)[..., core] for padded, core in chunks(length, rate, hop)], dim=-1)


def hop_length(codec: CompressionModel) -> int:
    """Samples a frame."""
    return round(codec.sample_rate / codec.frame_rate)


def decode(codec: CompressionModel, tokens: Tensor, progress: Progress) -> Tensor:
    """Samples [B, C, N] from tokens [B, K, T]; raises ``Cancelled`` before the next chunk after ``progress.stop()``."""

    def decode_chunk(frames: slice) -> Tensor:
        progress.check()
        return codec.decode(tokens[..., frames], None)

    return map_chunks(decode_chunk, tokens.shape[-1], round(codec.frame_rate), hop_length(codec))


def encode(codec: CompressionModel, samples: Tensor, progress: Progress) -> Tensor:
    """Tokens [B, K, T] from samples [B, C, N], T rounded up; ``Cancelled`` as in ``decode``."""
    hop = hop_length(codec)

    def encode_chunk(frames: slice) -> Tensor:
        progress.check()
        tokens, scale = codec.encode(samples[..., frames.start * hop : frames.stop * hop])
        assert scale is None  # no MusicGen has a codec that normalizes the volume
        return tokens

    return map_chunks(encode_chunk, math.ceil(samples.shape[-1] / hop), round(codec.frame_rate))
