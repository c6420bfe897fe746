"""Small decoders with random weights, and jobs of every kind for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from audiocraft_ext.engine.cache import Cache, stored
from audiocraft_ext.engine.decoder import Affine, Decoder, LayerWeights, Weights
from audiocraft_ext.engine.engine import Engine
from audiocraft_ext.engine.linear import Kernels, Quantize, dequantized, quantized
from audiocraft_ext.engine.pattern import DelayPattern
from audiocraft_ext.engine.scheduler import Job

# A GPU's machine may lack it, and needs it for nothing.
needs_llvmlite = pytest.mark.skipif(find_spec("llvmlite") is None, reason="there is no llvmlite here")
N_CODEBOOKS, CARD, WIDTH, N_HEADS, N_LAYERS = 4, 64, 64, 2, 2
PATTERN = DelayPattern((0, 1, 2, 3), CARD)
N_STEPS, N_PREFIX = 160, 24
PATIENCE_S = 60


def filled_cache(
    n_rows: int,
    n_heads: int,
    head_width: int,
    n_positions: int,
    n_cross: int,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Cache:
    """One layer's, with random keys and values wherever there is room for some: the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    cache = Cache(1, n_rows, n_heads, head_width, n_positions, dtype, torch.device(device))
    cache.reserve_cross(n_cross)
    for part in (cache.keys, cache.values, cache.cross_keys, cache.cross_values):
        part[0][:] = stored(torch.randn(*part[0].shape[:3], head_width, generator=generator), dtype)
    return cache


def of_int8(weight: Tensor) -> Tensor:
    """The weight as int8 holds it: quantised again, it stays what it is."""
    return dequantized(*quantized(weight)).to(weight.dtype)


def weights(
    has_cross: bool, device: str = "cpu", dtype: torch.dtype = torch.float32, feed_width: int = 4 * WIDTH
) -> Weights:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    def matrix(n_out: int, n_in: int) -> Affine:
        return Affine(of_int8(drawn(n_out, n_in) / n_in**0.5))

    def norm() -> Affine:
        return Affine(torch.ones(WIDTH, device=device), torch.zeros(WIDTH, device=device))

    def layer() -> LayerWeights:
        cross: dict[str, Affine] = {}
        if has_cross:
            cross = {
                "norm_cross": norm(),
                "cross_query": matrix(WIDTH, WIDTH),
                "cross_key_value": matrix(2 * WIDTH, WIDTH),
                "cross_out": matrix(WIDTH, WIDTH),
            }
        return LayerWeights(
            norm_self=norm(),
            qkv=matrix(3 * WIDTH, WIDTH),
            out=matrix(WIDTH, WIDTH),
            norm_feed=norm(),
            up=matrix(feed_width, WIDTH),
            down=matrix(WIDTH, feed_width),
            **cross,
        )

    return Weights(
        embeddings=drawn(N_CODEBOOKS, CARD + 1, WIDTH),
        layers=[layer() for _ in range(N_LAYERS)],
        out_norm=norm(),
        heads=Affine(of_int8(2 * drawn(N_CODEBOOKS * CARD, WIDTH) / WIDTH**0.5)),
        n_heads=N_HEADS,
        feed_width=feed_width,
    )


def decoder(
    has_cross: bool = True,
    n_slots: int = 4,
    quantize: Quantize = "none",
    kernels: Kernels | None = None,
    **of_weights: Any,
) -> Decoder:
    model = weights(has_cross, **of_weights)
    return Decoder(model, 2 * n_slots, N_STEPS + N_PREFIX + 1, quantize, kernels)


def engine(
    has_cross: bool = True,
    n_slots: int = 4,
    quantize: Quantize = "none",
    fixed_shapes: bool | None = None,
    **on_device: Any,
) -> Engine:
    # CUDA's way, where there is no CUDA, is plain torch's: the CPU's kernels have a way of their own.
    kernels: Kernels | None = "none" if fixed_shapes and on_device.get("device", "cpu") == "cpu" else None
    model = decoder(has_cross, n_slots, quantize, kernels, **on_device)
    return Engine(model, PATTERN, n_slots, N_STEPS, fixed_shapes=fixed_shapes)


def job(
    seed: int, has_cross: bool = True, device: str = "cpu", dtype: torch.dtype = torch.float32, **changes: Any
) -> Job:
    """A job that is different for every seed: length, prompt, conditions, guidance and sampling."""
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    def states(length: int) -> Tensor:
        return torch.randn(n_rows, length, WIDTH, generator=generator).to(device, dtype)

    guidance = changes.get("guidance", (1.0, 3.0, 0.0, -2.0)[number(0, 4)])
    n_rows = 1 if guidance == 1.0 else 2
    n_prompt = number(0, 3) * number(0, 12)
    settings: dict[str, Any] = {
        "prompt": torch.randint(CARD, (N_CODEBOOKS, n_prompt), generator=generator),
        "n_frames": n_prompt + number(1, 40),
        "prefix": states(0 if has_cross else number(0, N_PREFIX)),
        "cross": states(number(1, 90)) if has_cross else None,
        "guidance": guidance,
        "temperature": (0.0, 1.0, 1.0, 0.7)[number(0, 4)],
        "top_k": (0, 5, 250)[number(0, 3)],
        "top_p": (0.0, 0.0, 0.8)[number(0, 3)],
        "seed": seed,
    }
    settings |= changes
    if settings["cross"] is not None:
        settings["cross"] = settings["cross"].to(device, dtype)
    return Job(**settings)


def long_job(seed: int, **changes: Any) -> Job:
    changes |= {"prompt": torch.zeros(N_CODEBOOKS, 0, dtype=torch.int64), "n_frames": N_STEPS - 4}
    return job(seed, **changes)


@contextmanager
def closing(made: Engine) -> Iterator[Engine]:
    try:
        yield made
    finally:
        made.close()


def results(made: Engine, jobs: list[Job]) -> list[Tensor]:
    """What jobs give that are all handed in at once."""
    futures = [made.submit(one) for one in jobs]
    return [future.result(timeout=PATIENCE_S) for future in futures]
