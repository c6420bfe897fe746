"""Which device computes, and how: one ``Backend``, chosen once. Nothing else in the engine asks.

- ``torch``: plain operations on any device. The oracle of the others, and what runs where they cannot.
- ``cpu``: compiled kernels, in fp32.
- ``cuda``: a CUDA graph of plain torch; ``triton``: the same with Triton kernels.
"""

from typing import Literal

from torch import Tensor, float32  # not torch itself: here, that name is the module of the backend

from audiocraft_ext.engine.backends.base import Backend
from audiocraft_ext.engine.backends.torch import TorchBackend
from audiocraft_ext.engine.quantize import Quantize

BackendName = Literal["torch", "cpu", "cuda", "triton"]


def choose(
    up: Tensor,
    n_heads: int,
    *,
    quantize: Quantize = "none",
    name: BackendName | None = None,
    capture: bool = True,
) -> Backend:
    """The backend for a transformer: the fastest that can run it, or the one of a name.

    `up` [F, D] is a weight of its feed-forward layers: device, type and widths are those of all. `capture` has whole
    steps replayed where the backend can; without it, each operation is called by itself.
    """
    name = name or _fastest(up, n_heads)
    return _class(name)(up.device, up.dtype, up.shape[1], quantize == "int8", capture)


def _fastest(up: Tensor, n_heads: int) -> BackendName:
    ffn_dim, dim = up.shape
    if up.device.type == "cuda":
        try:
            from audiocraft_ext.engine.backends import triton_kernels
        except ImportError:
            return "cuda"
        return "triton" if triton_kernels.is_available(up.device, dim // n_heads) else "cuda"
    try:
        from audiocraft_ext.engine.backends import cpu_kernels
    except ImportError:
        return "torch"
    # Compiled kernels read whole vectors: a checkpoint of other widths would have them read beyond its rows.
    return "cpu" if up.dtype == float32 and cpu_kernels.is_available(dim // n_heads, ffn_dim) else "torch"


def _class(name: BackendName) -> type[TorchBackend]:
    """Imported where it is used: llvmlite and Triton are not everywhere."""
    if name == "cpu":
        from audiocraft_ext.engine.backends.cpu import CPUBackend

        return CPUBackend
    if name in ("cuda", "triton"):
        from audiocraft_ext.engine.backends.cuda import CUDABackend, TritonBackend

        return TritonBackend if name == "triton" else CUDABackend
    return TorchBackend
