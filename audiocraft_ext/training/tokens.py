"""Pieces of songs → examples: the codec's tokens, a caption, and the melody that a melody model follows."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Example:
    """``codes`` [K, T] int16; ``chroma`` [T', 12] as the base's melody conditioner embeds the piece, None without one.

    ``song`` is the file's path within the dataset.
    """

    codes: Tensor
    caption: str
    song: str
    chroma: Tensor | None = None
