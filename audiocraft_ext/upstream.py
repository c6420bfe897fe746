# ruff: noqa: F401 (re-exports)
"""The only importer of audiocraft and transformers: every other file imports their names from here.

Plain imports take 13 s on two cores and need packages that are hard to install, most of it for code that inference
never reaches. Of audiocraft: xformers (training-time attention), spacy (a conditioner that MusicGen does not use), av
(dataset reading) and its solvers (training recipes, imported by MultiBand Diffusion's loader). Of transformers: torch's
compiler and sharded tensors, and with them sympy; its losses, server, pictures, video and documentation of classes.
Empty stubs replace them during the import and are removed afterwards; librosa, of which melodies need one table, is
replaced by ``chroma_filters``.

``use_generator`` samples from a caller's generator instead of torch's global one; ``skip_init`` builds modules without
initial weights. Knows nothing of checkpoints or requests.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode


class _Unused:
    """Named by an import, never called at inference."""


def _no_op_decorator(function: Any = None, *options: Any, **more: Any) -> Any:
    """Returns the decorated function unchanged, with or without options."""
    return function or _no_op_decorator


def chroma_filters(sr: int, n_fft: int, tuning: float, n_chroma: int) -> np.ndarray:
    """``librosa.filters.chroma`` to the bit, [n_chroma, n_fft // 2 + 1]: librosa's import takes 3 s, for this alone."""
    frequencies = np.linspace(0, sr, n_fft, endpoint=False)[1:]
    bins = n_chroma * np.log2(frequencies / (440 * 2.0 ** (tuning / n_chroma) / 16))
    bins = np.concatenate(([bins[0] - 1.5 * n_chroma], bins))  # 0 Hz: an octave and a half below the first
    widths = np.concatenate((np.maximum(np.diff(bins), 1.0), [1]))
    half = np.round(n_chroma / 2)
    distances = np.subtract.outer(bins, np.arange(n_chroma)).T
    distances = np.remainder(distances + half + 10 * n_chroma, n_chroma) - half
    weights = np.exp(-0.5 * (2 * distances / widths) ** 2)
    lengths = np.sum(np.abs(weights) ** 2, axis=0, keepdims=True) ** 0.5
    weights = weights / lengths * np.exp(-0.5 * ((bins / n_chroma - 5.0) / 2) ** 2)
    return np.roll(weights, -3 * (n_chroma // 12), axis=0)[:, : 1 + n_fft // 2].astype(np.float32, order="C")


def _make_stubs() -> dict[str, ModuleType]:
    contents: dict[str, dict[str, Any]] = {
        "av": {},
        "librosa": {"filters": SimpleNamespace(chroma=chroma_filters)},
        "PIL": {},
        "PIL.Image": {"Image": _Unused, "Resampling": _Unused},
        "PIL.ImageOps": {},
        "spacy": {},
        "torch._dynamo": dict.fromkeys(("disable", "allow_in_graph", "assume_constant_result"), _no_op_decorator),
        "torch._dynamo._trace_wrapped_higher_order_op": {"TransformGetItemToIndex": _Unused},
        "transformers.generation.continuous_batching": {"ContinuousMixin": _Unused, "PagedAttentionCache": _Unused},
        "transformers.generation.continuous_batching.cache": {"PagedAttentionCache": _Unused},
        "transformers.loss.loss_utils": {"LOSS_MAPPING": {}},
        "transformers.utils.auto_docstring": {
            **dict.fromkeys(("auto_docstring", "auto_class_docstring"), _no_op_decorator),
            **dict.fromkeys(("ClassAttrs", "ClassDocstring", "ImageProcessorArgs", "ModelArgs"), _Unused),
            **dict.fromkeys(("ModelOutputArgs", "get_args_doc_from_source", "parse_docstring"), _Unused),
            "set_min_indent": _Unused,
        },
        "transformers.video_processing_utils": {"BaseVideoProcessor": _Unused},
        "xformers": {},
        "xformers.ops": {
            "unbind": torch.unbind,
            "LowerTriangularMask": _Unused,
            "memory_efficient_attention": _Unused,
        },
        "audiocraft.solvers": {},
        "audiocraft.solvers.compression": {"CompressionSolver": _Unused},
    }
    stubs: dict[str, ModuleType] = {}
    for name, attributes in contents.items():
        stubs[name] = module = ModuleType(name, "Stub of a package that inference does not use.")
        module.__spec__ = ModuleSpec(name, loader=None)  # transformers looks it up for some of these names
        module.__dict__.update(attributes)
        package, _, submodule = name.rpartition(".")
        if package in stubs:
            setattr(stubs[package], submodule, module)
    return stubs


_STUBS = _make_stubs()
# audiocraft's attention imports xformers.ops again in each forward pass.
_PERMANENT = {"xformers", "xformers.ops"}


@contextmanager
def _import_stubs() -> Iterator[None]:
    replaced = {name: sys.modules.get(name) for name in _STUBS}
    sys.modules.update(_STUBS)
    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = is_available
        for name, module in replaced.items():
            if module is not None:
                sys.modules[name] = module
            elif name not in _PERMANENT:
                del sys.modules[name]


with _import_stubs():
    from audiocraft.data.audio_utils import convert_audio, normalize_audio
    from audiocraft.models import builders
    from audiocraft.models.encodec import CompressionModel, HFEncodecCompressionModel, InterleaveStereoCompressionModel
    from audiocraft.models.lm import LMModel
    from audiocraft.models.multibanddiffusion import DiffusionProcess, MultiBandDiffusion
    from audiocraft.models.musicgen import MusicGen
    from audiocraft.models.unet import DiffusionUnet
    from audiocraft.modules.chroma import ChromaExtractor
    from audiocraft.modules.codebooks_patterns import DelayedPatternProvider
    from audiocraft.modules.conditioners import (
        AttributeDropout,
        BaseConditioner,
        ChromaStemConditioner,
        ClassifierFreeGuidanceDropout,
        ConditioningAttributes,
        T5Conditioner,
        WavCondition,
        WaveformConditioner,
        nullify_wav,
    )
    from audiocraft.modules.diffusion_schedule import NoiseSchedule, SampleProcessor
    from audiocraft.utils.autocast import TorchAutocast
    from audiocraft.utils.utils import sample_top_k, sample_top_p
    from transformers import (
        AutoTokenizer,
        DacConfig,
        DacModel,
        EncodecConfig,
        EncodecModel,
        MusicgenForConditionalGeneration,
        MusicgenMelodyForConditionalGeneration,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        T5Config,
        T5EncoderModel,
        T5Tokenizer,
    )
    from transformers.utils import logging as transformers_logging


# transformers' classes by the model type in config.json.
CODECS: dict[str, Any] = {"encodec": EncodecModel, "dac": DacModel}
MUSICGENS: dict[str, Any] = {
    "musicgen": MusicgenForConditionalGeneration,
    "musicgen_melody": MusicgenMelodyForConditionalGeneration,
}


class use_generator(TorchFunctionMode):  # noqa: N801, a context manager
    """Makes audiocraft draw tokens and noise from ``generator``, in this thread.

    audiocraft draws from torch's global generator, in ``multinomial`` and ``randn_like``, and accepts no other, so
    concurrent requests would change each other's noise. The generator must be on the model's device.
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


class skip_init(TorchFunctionMode):  # noqa: N801
    """Builds modules without initial weights, in this thread; their weights must be loaded next.

    With ``on_meta``, parameters stay on the meta device until they are assigned. ``torch.device("meta")`` would leave
    computed buffers empty, too, and run torch's compiler, whose import takes 3 s.
    """

    def __init__(self, on_meta: bool = False) -> None:
        super().__init__()
        self.on_meta = on_meta

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensor: Any = args[0] if args else kwargs.get("tensor")
        # Tensor's own, torch's in nn.init (trunc_normal_ reaches this as uniform_), and those by which transformers
        # replaces them in from_pretrained.
        is_random_fill = getattr(func, "__name__", "").endswith(("normal_", "uniform_"))
        if is_random_fill or (func in _NO_OPS_ON_META and tensor.is_meta):
            return tensor
        if self.on_meta and func is torch.empty:  # torch's layers allocate their parameters by it
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


_NO_OPS_ON_META = (torch.Tensor.to, torch.Tensor.erfinv_, torch.Tensor.clamp_)  # the last two: init.trunc_normal_'s
