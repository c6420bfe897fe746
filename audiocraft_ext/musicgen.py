"""One generation: a request and its audio → samples, by audiocraft's own ``generate*`` calls.

Each request gets a light ``MusicGen`` object of its own, whose ``lm.generate`` is the seam behind which an engine makes
the tokens. Knows nothing of files, HTTP or cog.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from audiocraft_ext import checkpoint, codec, language_model, memory
from audiocraft_ext.audio.read import Clip
from audiocraft_ext.audio.resample import resample
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.diffusion import DiffusionDecoder
from audiocraft_ext.engine.engine import NotFiniteError
from audiocraft_ext.errors import CheckpointError, InputError
from audiocraft_ext.language_model import RequestLM, Settings
from audiocraft_ext.progress import Progress, SilentProgress
from audiocraft_ext.request import Request
from audiocraft_ext.upstream import ConditioningAttributes, MusicGen, drawing_from

# Below this, logits divided by the temperature overflow, and sampling is greedy long before.
_GREEDY_BELOW = 1e-4
# The share of its window by which audiocraft moves on when it generates more: 18 of 30 s.
_STRIDE_SHARE = 0.6


class Model:
    """A checkpoint that can be asked for music, by several threads at once."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self.checkpoint = checkpoint
        if next(checkpoint.codec.parameters()).is_cuda:
            # The same tokens, the same samples: some of cuDNN's transposed convolutions add up in any order.
            torch.backends.cudnn.deterministic = True
        n_frames = int(checkpoint.lm.cfg.dataset.segment_duration * checkpoint.codec.frame_rate)
        self._lm = language_model.make(checkpoint.lm, n_frames, settings)
        self._is_fast = settings.engine == "fast"
        self._diffusion: DiffusionDecoder | None = None
        self._diffusion_lock = threading.Lock()

    @property
    def has_own_thread(self) -> bool:
        """Whether tokens are made in a thread of the model's own (``language_model.LanguageModel``)."""
        return self._lm.has_own_thread

    def close(self) -> None:
        """Lets the checkpoint go: a model that was replaced would keep its memory otherwise."""
        self._lm.close()

    @property
    def sample_rate(self) -> int:
        return self.checkpoint.codec.sample_rate

    def smoke_test(self) -> None:
        """Makes a second of music: kernels, caches and graphs are ready after it, and broken weights are found.

        Raises ``CheckpointError`` where no sound comes out, ``NotFiniteError`` where that is because logits are no
        numbers.
        """
        try:
            samples = self.generate(Request(prompt="", duration=1), None, SilentProgress())
        except NotFiniteError:
            raise
        except Exception as error:
            raise CheckpointError(f"The checkpoint was loaded, but it cannot make music: {error}") from error
        if not samples.isfinite().all():
            raise CheckpointError("The checkpoint was loaded, but its codec makes samples that are no numbers.")

    def heard_s(self, request: Request) -> float:
        """Seconds of the request's window of input audio that count, or that tell that it is too long."""
        if request.continuation or not self.checkpoint.follows_melody:
            return request.duration + 1
        melody = self.checkpoint.lm.condition_provider.conditioners["self_wav"]
        # audiocraft's windows move on through the melody, and the last one is as long as the first.
        return float(request.duration + melody.duration + melody.reach_s)

    @torch.inference_mode()
    def generate(self, request: Request, clip: Clip | None, progress: Progress) -> Tensor:
        """Samples [C, N] at ``sample_rate``, N exactly ``request.duration`` seconds; the same for the same seed.

        ``clip`` is the request's window of input audio. Raises ``InputError`` for what this checkpoint cannot do and
        ``Cancelled`` at the next frame after ``progress.stop()``.
        """
        self._refuse_what_the_checkpoint_lacks(request, clip)
        generator = torch.Generator(next(self.checkpoint.lm.parameters()).device).manual_seed(request.seed)
        decode = None
        if request.multi_band_diffusion:
            decode = partial(self._diffusion_decoder(progress).decode, progress=progress)
        generation = _Generation(self.checkpoint, self._lm.for_request(request.seed, progress), decode)
        generation.set_generation_params(
            use_sampling=request.temperature >= _GREEDY_BELOW,
            temperature=request.temperature,
            top_k=min(request.top_k, self.checkpoint.codec.cardinality),
            top_p=request.top_p,
            duration=request.duration,
            cfg_coef=request.classifier_free_guidance,
        )
        with drawing_from(generator):
            samples = _generate(generation, request, clip)[0].float().cpu()
        return functional.pad(samples, (0, request.duration * self.sample_rate - samples.shape[-1]))

    def _refuse_what_the_checkpoint_lacks(self, request: Request, clip: Clip | None) -> None:
        if clip is not None and not request.continuation and not self.checkpoint.follows_melody:
            raise InputError(
                "continuation",
                "false asks for the melody of input_audio, and this checkpoint cannot follow a melody.",
                "Set continuation to true, or use a fine-tune of musicgen-melody or musicgen-stereo-melody.",
            )
        if request.multi_band_diffusion and not self.checkpoint.has_diffusion:
            raise InputError(
                "multi_band_diffusion",
                "true, and there are no diffusion weights for this checkpoint's codec.",
                "Set it to false; MultiBand Diffusion exists for the codec of Meta's checkpoints, encodec_32khz.",
            )

    def _diffusion_decoder(self, progress: Progress) -> DiffusionDecoder:
        """Loaded at its first use, kept after."""
        with progress.holding(self._diffusion_lock):
            try:
                if self._diffusion is None:
                    self._diffusion = DiffusionDecoder.load(self.checkpoint, self._is_fast)
                return self._diffusion
            except CheckpointError as error:
                problem = f"true, and it cannot be had here. {error}"
                raise InputError("multi_band_diffusion", problem, "Or set it to false.") from error


def load(
    weights: str, device: str, settings: Settings, smoke_test: bool = True, dtypes: Sequence[torch.dtype] | None = None
) -> Model:
    """The model that ``weights`` names, with a second of its music made, so that the first request pays nothing.

    Its transformer is in the first of ``dtypes``, else ``checkpoint.dtypes_on``, that its numbers fit as far as that
    second shows. Raises ``CheckpointError`` where there is no such model or no music.
    """
    name = checkpoint.name_of(weights)  # the health check repeats what is printed to whoever asks
    for dtype in dtypes or checkpoint.dtypes_on(device):
        start = time.perf_counter()
        model = Model(checkpoint.load(weights, device, dtype), settings)
        # Before the music is made, because cog may lose what is written in the last moments of set-up.
        print(f"Loaded {name} on {device} in {time.perf_counter() - start:.1f} s", flush=True)
        if not smoke_test:
            return model
        try:
            model.smoke_test()
            return model
        except NotFiniteError:
            print(f"Its logits are NaN or infinite in {dtype}.".replace("torch.", ""), flush=True)
            model.close()
            del model  # before the next one comes
        memory.collect()
    raise CheckpointError(
        f"{name} was loaded, but it cannot make music: its logits are NaN or infinite in every type that was tried."
    )


def _generate(generation: "_Generation", request: Request, clip: Clip | None) -> Tensor:
    """Samples [1, C, N] by the call of audiocraft's that the request asks for."""
    if clip is None:
        return generation.generate([request.prompt])
    samples = resample(clip, generation.sample_rate, generation.audio_channels)[None]
    if request.continuation:
        return generation.generate_continuation(samples, generation.sample_rate, [request.prompt])
    return generation.generate_with_chroma([request.prompt], samples, generation.sample_rate)


class _Generation(MusicGen):
    """audiocraft's ``MusicGen`` for one request: parameters set here are seen by no other."""

    def __init__(self, checkpoint: Checkpoint, lm: RequestLM, decode: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__(str(checkpoint.folder), checkpoint.codec, lm)
        # Not checkpoint.codec: for a stereo LM, the parent has wrapped it.
        self._decode = decode or partial(codec.decode, self.compression_model, progress=lm.progress)

    def set_generation_params(self, **params: Any) -> None:
        """As upstream, with a stride that fits the checkpoint's window, in whole seconds so that lengths stay exact."""
        stride_s = max(int(_STRIDE_SHARE * self.max_duration), 1)
        super().set_generation_params(extend_stride=stride_s, **params)

    def _generate_tokens(
        self, attributes: list[ConditioningAttributes], prompt_tokens: Tensor | None, progress: bool = False
    ) -> Tensor:
        """Tokens [1, K, T]; a prompt [1, K, T] too long for the window keeps its head and continues from its tail."""
        n_frames = int(self.duration * self.frame_rate)
        if prompt_tokens is None:
            self.lm.n_frames_to_make = n_frames
            return super()._generate_tokens(attributes, None)
        # The codec rounds an excerpt up to whole frames; at least one must be left to generate.
        prompt_tokens = prompt_tokens[..., : n_frames - 1]
        self.lm.n_frames_to_make = n_frames - prompt_tokens.shape[-1]
        head_s = 0
        if prompt_tokens.shape[-1] >= int(self.max_duration * self.frame_rate):
            head_s = math.ceil(prompt_tokens.shape[-1] / self.frame_rate - (self.max_duration - self.extend_stride))
        self.duration -= head_s
        head, tail = prompt_tokens.tensor_split([int(head_s * self.frame_rate)], dim=-1)
        return torch.cat([head, super()._generate_tokens(attributes, tail)], dim=-1)

    def generate_audio(self, gen_tokens: Tensor) -> Tensor:
        """Samples [1, C, N] from tokens [1, K, T], by the codec or the diffusion decoder."""
        return self._decode(gen_tokens)
