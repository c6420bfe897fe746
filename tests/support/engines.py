"""Small decoders with random weights, and jobs of every kind for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from audiocraft_ext.engine import backends
from audiocraft_ext.engine.backends import BackendName
from audiocraft_ext.engine.backends.cuda import CUDABackend
from audiocraft_ext.engine.backends.torch import Linear, TorchBackend
from audiocraft_ext.engine.backends.triton import TritonBackend
from audiocraft_ext.engine.engine import Engine
from audiocraft_ext.engine.kv_cache import KVCache, quantize_kv
from audiocraft_ext.engine.pattern import DelayPattern
from audiocraft_ext.engine.quantize import Quantize, dequantize, quantize
from audiocraft_ext.engine.scheduler import Job
from audiocraft_ext.engine.transformer import CrossAttention, Layer, Transformer, WeightBias, Weights

# A GPU's machine may lack it, and needs it for nothing.
needs_llvmlite = pytest.mark.skipif(find_spec("llvmlite") is None, reason="there is no llvmlite here")
needs_interpreter = pytest.mark.skipif(
    find_spec("triton") is None or torch.cuda.is_available(), reason="Triton interprets where there is no CUDA"
)
N_CODEBOOKS, CARD, WIDTH, N_HEADS, N_LAYERS = 4, 64, 64, 2, 2
PATTERN = DelayPattern((0, 1, 2, 3), CARD)
N_STEPS, N_PREFIX = 160, 24
PATIENCE_S = 60


class HostBackend(CUDABackend):
    """CUDA's graph of plain torch, with what it needs where there is no CUDA; its captures fail there."""

    synchronize_caller = TorchBackend.synchronize_caller
    engine_thread = TorchBackend.engine_thread
    fitting_slots = TorchBackend.fitting_slots


class InterpretedBackend(TritonBackend):
    """Triton's kernels in its interpreter, which needs no CUDA: there are no streams and no graph to look after."""

    capture = TorchBackend.capture
    synchronize_caller = TorchBackend.synchronize_caller
    engine_thread = TorchBackend.engine_thread
    fitting_slots = TorchBackend.fitting_slots

    def linear(self, *of_product: Any, **settings: Any) -> Linear:
        linear = super().linear(*of_product, **settings)
        linear.n_outs = (256, 256)  # type: ignore[attr-defined] # a program takes as long, whatever it computes
        return linear


def filled_cache(
    n_rows: int,
    n_heads: int,
    head_dim: int,
    n_positions: int,
    n_cross: int,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> KVCache:
    """One layer's, with random keys and values wherever there is room for some: the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    zeros = TorchBackend(torch.device(device), dtype, n_heads * head_dim, False, True).zeros
    cache = KVCache((1, n_rows, n_heads, n_positions, head_dim), dtype, zeros)
    cache.reserve_cross(n_cross)
    for part in (cache.keys, cache.values, cache.cross_keys, cache.cross_values):
        part[0][:] = quantize_kv(torch.randn(*part[0].shape[:3], head_dim, generator=generator), dtype)
    return cache


def int8_exact(weight: Tensor) -> Tensor:
    """The weight rounded to int8: quantised again, it stays what it is."""
    return dequantize(*quantize(weight)).to(weight.dtype)


def weights(
    has_cross: bool, device: str = "cpu", dtype: torch.dtype = torch.float32, ffn_dim: int = 4 * WIDTH
) -> Weights:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    def matrix(n_out: int, n_in: int) -> WeightBias:
        return WeightBias(int8_exact(drawn(n_out, n_in) / n_in**0.5))

    def norm() -> WeightBias:
        return WeightBias(torch.ones(WIDTH, device=device), torch.zeros(WIDTH, device=device))

    def layer() -> Layer[WeightBias]:
        cross = None
        if has_cross:
            cross = CrossAttention(norm(), matrix(WIDTH, WIDTH), matrix(2 * WIDTH, WIDTH), matrix(WIDTH, WIDTH))
        return Layer(
            norm_self=norm(),
            qkv=matrix(3 * WIDTH, WIDTH),
            out=matrix(WIDTH, WIDTH),
            norm_ffn=norm(),
            up=matrix(ffn_dim, WIDTH),
            down=matrix(WIDTH, ffn_dim),
            cross=cross,
        )

    return Weights(
        embeddings=drawn(N_CODEBOOKS, CARD + 1, WIDTH),
        layers=[layer() for _ in range(N_LAYERS)],
        out_norm=norm(),
        heads=WeightBias(int8_exact(2 * drawn(N_CODEBOOKS * CARD, WIDTH) / WIDTH**0.5)),
        n_heads=N_HEADS,
    )


def transformer(
    has_cross: bool = True,
    n_slots: int = 4,
    quantize: Quantize = "none",
    backend: BackendName | None = None,
    capture: bool = True,
    **of_weights: Any,
) -> Transformer:
    """On the device's own backend, or on that of a name; Triton's interpreted where there is no CUDA."""
    model = weights(has_cross, **of_weights)
    up = next(iter(model.layers)).up.weight
    if backend == "triton" and not up.is_cuda:
        chosen: TorchBackend = InterpretedBackend(up.device, up.dtype, WIDTH, quantize == "int8", capture)
    else:
        chosen = backends.choose(up, N_HEADS, quantize=quantize, name=backend, capture=capture)
    return Transformer(model, 2 * n_slots, N_STEPS + N_PREFIX + 1, chosen)


def engine(has_cross: bool = True, n_slots: int = 4, **of_transformer: Any) -> Engine:
    return Engine(transformer(has_cross, n_slots, **of_transformer), PATTERN, n_slots, N_STEPS)


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
    """The results of jobs that are all submitted at once."""
    futures = [made.submit(one) for one in jobs]
    return [future.result(timeout=PATIENCE_S) for future in futures]
