"""Tokens → samples by the codec: short clips in one piece, as audiocraft does, long ones in overlapping pieces.

A piece bounds the memory (300 s at once take some 3 GB even in a small codec) and the time until a stop is noticed.
"""

import torch
from torch import Tensor

from audiocraft_ext.progress import Progress
from audiocraft_ext.upstream import CompressionModel

# One piece up to MusicGen's own window; above it pieces, each decoded with context that is thrown away. The reach of
# SEANet's convolutions is a few frames; only its LSTM, where a codec has one, hears further back.
WHOLE_S = 30
PIECE_S = 10
CONTEXT_S = 1


def decode(codec: CompressionModel, tokens: Tensor, progress: Progress) -> Tensor:
    """Samples [1, C, N] from tokens [1, K, T]; raises ``Cancelled`` before the next piece after ``progress.stop()``."""
    n_frames = tokens.shape[-1]
    frame_rate = round(codec.frame_rate)
    if n_frames <= WHOLE_S * frame_rate:
        return codec.decode(tokens, None)
    hop = codec.sample_rate // frame_rate
    pieces = []
    for start in range(0, n_frames, PIECE_S * frame_rate):
        progress.check()
        end = min(start + PIECE_S * frame_rate, n_frames)
        first, last = max(start - CONTEXT_S * frame_rate, 0), min(end + CONTEXT_S * frame_rate, n_frames)
        piece = codec.decode(tokens[..., first:last], None)
        pieces.append(piece[..., (start - first) * hop : (end - first) * hop])
    return torch.cat(pieces, dim=-1)
