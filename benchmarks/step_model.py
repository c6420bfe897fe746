"""Predict one decoding step on a GPU: bytes read, kernels launched, expected milliseconds.

    python -m benchmarks.step_model

A step's time is the time to read its bytes plus an overhead for each kernel of the graph, from the end of one to the
full speed of the next. `make gpu-check` prints the same prediction beside what it measures. Knows no device.
"""

from dataclasses import dataclass
from itertools import product

FRAME_RATE = 50
N_CODEBOOKS, VOCABULARY = 4, 2048
# Width, layers, heads
SIZES = {"tiny": (256, 2, 4), "small": (1024, 24, 16), "medium": (1536, 48, 24), "large": (2048, 48, 32)}


@dataclass(frozen=True)
class Card:
    """A GPU: bytes a second that a copy reaches, and a kernel's overhead with programmatic dependent launch."""

    bandwidth: float
    launch_us: float


# Both from published measurements of Llama-1B as a graph of 100 kernels; bandwidths are those of plain copies.
CARDS = {"H100": Card(3.0e12, 1.56), "H200": Card(4.3e12, 2.2)}


@dataclass(frozen=True)
class Design:
    """Kernels of a step, and the overhead of each in microseconds; None: the card's, with programmatic launches."""

    in_layer: int
    outside: int
    launch_us: float | None = None

    def n_kernels(self, size: str) -> int:
        return self.in_layer * SIZES[size][1] + self.outside


# The first, 14 a layer and 100 of embedding and sampling, was a plain graph (3.3 us each: MusicGen medium elsewhere, on
# a 4090). `make gpu-aot` counts the launches of the second: 8 a layer, 1 before the first and 2 after the last.
DESIGNS = {"14 a layer": Design(14, 100, 3.3), "8 a layer": Design(8, 3)}


def n_weights(size: str) -> int:
    """Elements of the matrices that a step reads: no embeddings, norms or cross-attention keys and values."""
    width, n_layers, _ = SIZES[size]
    return n_layers * 14 * width**2 + N_CODEBOOKS * VOCABULARY * width


def n_cached(size: str, n_clips: int, n_positions: float) -> float:
    """Elements of self-attention keys and values: two rows a clip, each of so many positions."""
    width, n_layers, _ = SIZES[size]
    return n_clips * 2 * n_layers * 2 * width * n_positions


def n_bytes(size: str, n_clips: int, n_positions: float, weight_bytes: float = 2, cache_bytes: float = 2) -> float:
    """Bytes that one step of all clips together must read."""
    return n_weights(size) * weight_bytes + n_cached(size, n_clips, n_positions) * cache_bytes


def step_ms(design: Design, card: Card, size: str, step_bytes: float) -> float:
    """Expected milliseconds of a step."""
    launch_us = card.launch_us if design.launch_us is None else design.launch_us
    return 1000 * step_bytes / card.bandwidth + design.n_kernels(size) * launch_us / 1000


def realtime(ms: float, n_clips: int) -> float:
    """Seconds of music a second, all clips together, at so many milliseconds a step."""
    return n_clips * 1000 / FRAME_RATE / ms


def main() -> None:
    print(f"{'card':5} {'weights, cache':14} {'size':6} {'clips':>5} {'s':>3} {'GB':>6} {'floor ms':>8}", end="")
    print("".join(f" | {name:>10} ms, kernels, x real time" for name in DESIGNS))
    kinds = {"fp16, fp16": (2, 2), "int8, fp16": (1, 2), "int8, int8": (1, 1)}
    for card, kind, size, n_clips, seconds in product(CARDS, kinds, ("small", "medium", "large"), (1, 4, 16), (8, 30)):
        read = n_bytes(size, n_clips, seconds * FRAME_RATE / 2, *kinds[kind])
        floor = 1000 * read / CARDS[card].bandwidth
        print(f"{card:5} {kind:14} {size:6} {n_clips:5} {seconds:3} {read / 1e9:6.2f} {floor:8.2f}", end="")
        for design in DESIGNS.values():
            ms = step_ms(design, CARDS[card], size, read)
            print(f" | {ms:10.2f} ms, {design.n_kernels(size):7}, {realtime(ms, n_clips):11.1f}", end="")
        print()


if __name__ == "__main__":
    main()
