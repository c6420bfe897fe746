"""The one door to audiocraft: every other file imports its names from here.

Importing audiocraft as it comes takes 13 s on two cores and needs packages that are hard to install, most of it for
code that inference never reaches: xformers (training-time attention), spacy (one conditioner that no MusicGen uses),
av (dataset reading) and audiocraft's own solvers (training recipes, pulled in by MultiBand Diffusion's loader). Empty
stand-ins take their places while audiocraft is imported.

One thing is mended at the door: sampling draws from a generator of the caller's own (``drawing_from``) instead
of torch's global one. This file knows nothing of checkpoints or requests.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def _stand_in(name: str, **attributes: Any) -> ModuleType:
    """An empty module; transformers asks for the spec of some of these names, hence the real one."""
    module = ModuleType(name, "Stand-in for a package that inference does not use.")
    module.__spec__ = ModuleSpec(name, loader=None)
    module.__dict__.update(attributes)
    return module


class _Unused:
    """Named by an import in audiocraft, never called at inference."""


def _stand_ins() -> dict[str, ModuleType]:
    ops = _stand_in(
        "xformers.ops", unbind=torch.unbind, LowerTriangularMask=_Unused, memory_efficient_attention=_Unused
    )
    compression = _stand_in("audiocraft.solvers.compression", CompressionSolver=_Unused)
    return {
        "xformers": _stand_in("xformers", ops=ops),
        "xformers.ops": ops,
        "spacy": _stand_in("spacy"),
        "av": _stand_in("av"),
        "audiocraft.solvers": _stand_in("audiocraft.solvers", compression=compression),
        "audiocraft.solvers.compression": compression,
    }


_STAND_INS = _stand_ins()
# audiocraft's attention imports xformers.ops again at each forward pass, so these two stay.
_LASTING = {"xformers", "xformers.ops"}


@contextmanager
def _standing_in() -> Iterator[None]:
    displaced = {name: sys.modules.get(name) for name in _STAND_INS}
    sys.modules.update(_STAND_INS)
    try:
        yield
    finally:
        for name, module in displaced.items():
            if module is not None:
                sys.modules[name] = module
            elif name not in _LASTING:
                del sys.modules[name]


with _standing_in():
    from audiocraft.data.audio_utils import convert_audio, normalize_audio
    from audiocraft.models import builders
    from audiocraft.models.encodec import (
        CompressionModel,
        HFEncodecCompressionModel,
        InterleaveStereoCompressionModel,
    )
    from audiocraft.models.lm import LMModel
    from audiocraft.models.multibanddiffusion import DiffusionProcess, MultiBandDiffusion
    from audiocraft.models.musicgen import MusicGen
    from audiocraft.modules.chroma import ChromaExtractor
    from audiocraft.modules.codebooks_patterns import DelayedPatternProvider
    from audiocraft.modules.conditioners import (
        BaseConditioner,
        ChromaStemConditioner,
        ClassifierFreeGuidanceDropout,
        ConditioningAttributes,
        T5Conditioner,
        WaveformConditioner,
    )
    from audiocraft.modules.diffusion_schedule import NoiseSchedule
    from audiocraft.utils.autocast import TorchAutocast
    from audiocraft.utils.utils import sample_top_k, sample_top_p

__all__ = [
    "BaseConditioner",
    "ChromaExtractor",
    "ChromaStemConditioner",
    "ClassifierFreeGuidanceDropout",
    "CompressionModel",
    "ConditioningAttributes",
    "DelayedPatternProvider",
    "DiffusionProcess",
    "HFEncodecCompressionModel",
    "InterleaveStereoCompressionModel",
    "LMModel",
    "MultiBandDiffusion",
    "MusicGen",
    "NoiseSchedule",
    "T5Conditioner",
    "TorchAutocast",
    "WaveformConditioner",
    "builders",
    "convert_audio",
    "drawing_from",
    "normalize_audio",
    "sample_top_k",
    "sample_top_p",
]


class drawing_from(TorchFunctionMode):  # noqa: N801, a context manager reads as a verb
    """Within this context (of this thread alone) audiocraft draws tokens and noise with ``generator``.

    audiocraft samples with torch's global generator, in ``multinomial`` and ``randn_like``, and hands none down; two
    requests at once would move each other's noise. The generator must be on the model's device.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.multinomial:
            return func(*args, **{**kwargs, "generator": self.generator})
        if func is torch.randn_like:
            return torch.randn(args[0].shape, generator=self.generator, device=args[0].device, dtype=args[0].dtype)
        return func(*args, **kwargs)
