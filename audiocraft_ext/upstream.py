"""The one door to audiocraft and transformers: every other file imports their names from here.

Importing them as they come takes 13 s on two cores and needs packages that are hard to install, most of it for code
that inference never reaches. Of audiocraft: xformers (training-time attention), spacy (one conditioner that no MusicGen
uses), av (dataset reading) and its own solvers (training recipes, pulled in by MultiBand Diffusion's loader). Of
transformers: torch's compiler and sharded tensors, and with them sympy, its losses, and its server. Empty stand-ins
take their places during the import, and leave after it; librosa, which melodies alone need, comes when one does.

Two things are mended at the door: sampling draws from a generator of the caller's own (``drawing_from``) instead of
torch's global one, and what is built to be given weights draws none before (``drawing_nothing``). This file knows
nothing of checkpoints or requests.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
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
    """Named by an import, never called at inference."""


def _undecorated(function: Any = None, *options: Any, **more: Any) -> Any:
    """A decorator, with or without options, that leaves a function as it is."""
    return function or _undecorated


class _Late:
    """A module that is imported when something in it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


def _stand_ins() -> dict[str, ModuleType]:
    ops = _stand_in(
        "xformers.ops", unbind=torch.unbind, LowerTriangularMask=_Unused, memory_efficient_attention=_Unused
    )
    compression = _stand_in("audiocraft.solvers.compression", CompressionSolver=_Unused)
    decorators = ("disable", "allow_in_graph", "assume_constant_result")
    server = _stand_in(
        "transformers.generation.continuous_batching", PagedAttentionCache=_Unused, ContinuousMixin=_Unused
    )
    return {
        "librosa": _stand_in("librosa", filters=_Late("librosa.filters")),
        "torch._dynamo": _stand_in("torch._dynamo", **dict.fromkeys(decorators, _undecorated)),
        "torch._dynamo._trace_wrapped_higher_order_op": _stand_in(
            "torch._dynamo._trace_wrapped_higher_order_op", TransformGetItemToIndex=_Unused
        ),
        "transformers.generation.continuous_batching": server,
        "transformers.generation.continuous_batching.cache": server,
        "transformers.loss.loss_utils": _stand_in("transformers.loss.loss_utils", LOSS_MAPPING={}),
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
    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = is_available
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
    from audiocraft.models.unet import DiffusionUnet
    from audiocraft.modules.chroma import ChromaExtractor
    from audiocraft.modules.codebooks_patterns import DelayedPatternProvider
    from audiocraft.modules.conditioners import (
        BaseConditioner,
        ChromaStemConditioner,
        ClassifierFreeGuidanceDropout,
        ConditioningAttributes,
        T5Conditioner,
        WavCondition,
        WaveformConditioner,
    )
    from audiocraft.modules.diffusion_schedule import MultiBandProcessor, NoiseSchedule, SampleProcessor
    from audiocraft.utils.autocast import TorchAutocast
    from audiocraft.utils.utils import sample_top_k, sample_top_p
    from transformers import (
        AutoTokenizer,
        DacConfig,
        DacModel,
        EncodecConfig,
        EncodecModel,
        PreTrainedTokenizerBase,
        T5Config,
        T5EncoderModel,
        T5Tokenizer,
    )
    from transformers.utils import logging as transformers_logging

# Tests and benchmarks alone ask for DiffusionProcess, MultiBandDiffusion, InterleaveStereoCompressionModel and the
# sample_top_*: oracles and peers come in by this door too.
__all__ = [
    "AutoTokenizer",
    "BaseConditioner",
    "ChromaExtractor",
    "ChromaStemConditioner",
    "ClassifierFreeGuidanceDropout",
    "CompressionModel",
    "ConditioningAttributes",
    "DacConfig",
    "DacModel",
    "DelayedPatternProvider",
    "DiffusionProcess",
    "DiffusionUnet",
    "EncodecConfig",
    "EncodecModel",
    "HFEncodecCompressionModel",
    "InterleaveStereoCompressionModel",
    "LMModel",
    "MultiBandDiffusion",
    "MultiBandProcessor",
    "MusicGen",
    "NoiseSchedule",
    "PreTrainedTokenizerBase",
    "SampleProcessor",
    "T5Conditioner",
    "T5Config",
    "T5EncoderModel",
    "T5Tokenizer",
    "TorchAutocast",
    "WavCondition",
    "WaveformConditioner",
    "builders",
    "convert_audio",
    "drawing_from",
    "drawing_nothing",
    "normalize_audio",
    "sample_top_k",
    "sample_top_p",
    "transformers_logging",
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


class drawing_nothing(TorchFunctionMode):  # noqa: N801
    """Within this context (of this thread alone) modules are built without initial weights: others follow at once.

    torch draws even on the meta device, and there by way of its compiler, whose import alone takes 2.5 s.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


_DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_)
