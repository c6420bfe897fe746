"""Which device computes, and how: one backend, chosen once. Nothing else in the engine asks.

- ``torch``: plain operations on any device. The oracle of the others, and what runs where they cannot.
- ``cpu``: compiled kernels, in fp32.
- ``cuda``: a CUDA graph of plain torch; ``triton``: the same with Triton kernels.
"""

from contextlib import suppress
from typing import Literal

from torch import Tensor, float32  # not torch itself: here, that name is the module of the backend

from audiocraft_ext.engine.backends.cuda import CUDABackend
from audiocraft_ext.engine.backends.torch import TorchBackend
from audiocraft_ext.engine.backends.triton import TritonBackend
from audiocraft_ext.engine.quantize import Quantize

BackendName = Literal["torch", "cpu", "cuda", "triton"]


def choose(
    up: Tensor,
    n_heads: int,
    *,
    quantize: Quantize = "none",
    name: BackendName | None = None,
    capture: bool = True,
) -> TorchBackend:
    """The backend for a transformer: the fastest that can run it, or the one of a name.

    `up` [F, D] is a weight of its feed-forward layers: device, type and widths are those of all. `capture` has whole
    steps replayed where the backend can; without it, each operation is called by itself.
    """
    name = name or _fastest(up, n_heads)
    kinds: dict[BackendName, type[TorchBackend]] = {"torch": TorchBackend, "cuda": CUDABackend, "triton": TritonBackend}
    if name == "cpu":
        from audiocraft_ext.engine.backends.cpu import CPUBackend

        kinds["cpu"] = CPUBackend
    return kinds[name](up.device, up.dtype, up.shape[1], quantize == "int8", capture)


def simpler(backend: TorchBackend) -> BackendName | None:
    """The backend of plain torch on the same device, in place of another; None for that one itself."""
    plain: BackendName = "cuda" if backend.device.type == "cuda" else "torch"
    return None if type(backend) is (CUDABackend if plain == "cuda" else TorchBackend) else plain


def _fastest(up: Tensor, n_heads: int) -> BackendName:
    ffn_dim, head_dim = up.shape[0], up.shape[1] // n_heads
    with suppress(ImportError):  # llvmlite and Triton are not everywhere
        if up.is_cuda:
            from audiocraft_ext.engine.backends import triton_linear

            return "triton" if triton_linear.is_available(up.device, head_dim) else "cuda"
        from audiocraft_ext.engine.backends import cpu_kernels

        # Compiled kernels read whole vectors: a checkpoint of other widths would have them read beyond its rows.
        if up.dtype == float32 and cpu_kernels.is_available(head_dim, ffn_dim):
            return "cpu"
    return "cuda" if up.is_cuda else "torch"
