"""Request → conditions → tokens → samples, by audiocraft's own ``generate*`` calls.

A prediction is one of these calls on a light ``MusicGen`` of its own, in which three methods are ours: an excerpt is
encoded in chunks, the windows of a clip go to the engine as jobs, and tokens are decoded in chunks or by MultiBand
Diffusion. Knows nothing of files, HTTP or cog.
"""

import logging
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from audiocraft_ext import checkpoint, memory
from audiocraft_ext.audio.read import Clip
from audiocraft_ext.audio.resample import resample
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.codec import chunked
from audiocraft_ext.codec.multiband import MultiBandDecoder
from audiocraft_ext.engine.engine import NotFiniteError
from audiocraft_ext.engine.scheduler import Job
from audiocraft_ext.errors import CheckpointError, InputError
from audiocraft_ext.lm_engine import EngineError, build_engine, check_capacity
from audiocraft_ext.progress import Progress, SilentProgress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.upstream import (
    ClassifierFreeGuidanceDropout,
    ConditioningAttributes,
    MusicGen,
    WavCondition,
    use_generator,
)

# Below this temperature sampling is greedy in effect, and dividing the logits by it overflows.
_GREEDY_BELOW = 1e-4
# The stride between windows as a share of the window: audiocraft's 18 of 30 s.
_STRIDE_SHARE = 0.6

_log = logging.getLogger(__name__)


class Model:
    """A loaded checkpoint, and the engine that decodes its language model; shared by the requests' threads.

    ``engine`` is None where audiocraft's own loop makes the tokens: with ``MUSICGEN_ENGINE=upstream``, and for a
    language model that the engine does not support.
    """

    def __init__(self, checkpoint: Checkpoint, settings: EngineSettings, self_check: bool = False) -> None:
        self.checkpoint, self.settings = checkpoint, settings
        if next(checkpoint.codec.parameters()).is_cuda:
            # Some of cuDNN's transposed convolutions sum in any order: the same tokens would give other samples.
            torch.backends.cudnn.deterministic = True
        n_frames = int(checkpoint.lm.cfg.dataset.segment_duration * checkpoint.codec.frame_rate)
        self.engine = build_engine(checkpoint.lm, n_frames, settings, self_check)
        # audiocraft's conditioners share autocast contexts, and its lm.generate keeps a cache on the module.
        self.lm_lock = threading.Lock()
        self._diffusion: MultiBandDecoder | None = None
        self._diffusion_lock = threading.Lock()

    def close(self) -> None:
        """End the engine's thread, without which the weights would stay in memory."""
        if self.engine is not None:
            self.engine.close()

    @property
    def engine_name(self) -> str:
        """A short name of the engine in use, and whether its steps are captured."""
        return "audiocraft" if self.engine is None else self.engine.backend.description

    @property
    def sample_rate(self) -> int:
        """Samples a second."""
        return self.checkpoint.codec.sample_rate

    def max_input_s(self, request: Request) -> float:
        """Seconds of the input audio's window that matter: more is only refused, or never reached by the music."""
        if request.continuation or not self.checkpoint.follows_melody:
            return request.duration + 1
        melody = self.checkpoint.lm.condition_provider.conditioners["self_wav"]
        # Each window of the music reads a whole window of the melody, the last one included.
        return float(request.duration + melody.duration + melody.lookahead_s)

    @torch.inference_mode()
    def generate(self, request: Request, clip: Clip | None, progress: Progress) -> Tensor:
        """Samples [C, N] at ``sample_rate``, N exactly ``request.duration`` seconds; the same for the same seed.

        ``clip`` is the request's window of its input audio. Raises ``InputError`` for what this checkpoint cannot do,
        and ``Cancelled`` at the next frame after ``progress.stop()``.
        """
        self._check_supported(request, clip)
        music_gen = RequestMusicGen(self, request, progress)
        if clip is None:
            samples = music_gen.generate([request.prompt])
        else:
            audio = resample(clip, music_gen.sample_rate, music_gen.audio_channels)[None]
            if request.continuation:
                samples = music_gen.generate_continuation(audio, music_gen.sample_rate, [request.prompt])
            else:
                samples = music_gen.generate_with_chroma([request.prompt], audio, music_gen.sample_rate)
        samples = samples[0].float().cpu()
        return functional.pad(samples, (0, request.duration * self.sample_rate - samples.shape[-1]))

    def smoke_test(self) -> None:
        """Generate one second: allocates caches, compiles and captures, and finds broken weights.

        Raises ``NotFiniteError`` for NaN or infinite logits, ``CheckpointError`` for anything else that fails.
        """
        try:
            samples = self.generate(Request(prompt="", duration=1), None, SilentProgress())
        except NotFiniteError:
            raise
        except Exception as error:
            raise CheckpointError(f"The checkpoint was loaded, but it cannot generate music: {error}") from error
        if not samples.isfinite().all():
            raise CheckpointError("The checkpoint was loaded, but its codec decodes to NaN or infinite samples.")

    def _check_supported(self, request: Request, clip: Clip | None) -> None:
        if clip is not None and not request.continuation and not self.checkpoint.follows_melody:
            problem = "false asks for the melody of input_audio, and this checkpoint cannot follow a melody."
            hint = "Set continuation to true, or use a fine-tune of musicgen-melody or musicgen-stereo-melody."
            raise InputError("continuation", problem, hint)
        if request.multi_band_diffusion and not self.checkpoint.has_diffusion:
            problem = "true, but there are no diffusion weights for this checkpoint's codec."
            hint = "Set it to false; MultiBand Diffusion exists for the codec of Meta's checkpoints, encodec_32khz."
            raise InputError("multi_band_diffusion", problem, hint)

    def diffusion_decoder(self, progress: Progress) -> MultiBandDecoder:
        """The MultiBand Diffusion decoder, loaded at its first use."""
        with progress.acquire(self._diffusion_lock):
            try:
                if self._diffusion is None:
                    self._diffusion = self.checkpoint.load_diffusion()
                return self._diffusion
            except CheckpointError as error:
                problem = f"true, but its weights cannot be loaded. {error}"
                raise InputError("multi_band_diffusion", problem, "Or set it to false.") from error


class RequestMusicGen(MusicGen):
    """audiocraft's ``MusicGen`` for one request: its parameters are set here and seen by no other request.

    audiocraft calls ``_prepare_tokens_and_attributes``, then ``_generate_tokens``, then ``generate_audio``.
    """

    def __init__(self, model: Model, request: Request, progress: Progress) -> None:
        super().__init__(str(model.checkpoint.folder), model.checkpoint.codec, model.checkpoint.lm)
        self._model, self._engine = model, model.engine
        self._seed, self._progress = request.seed, progress
        self._n_steps_sampled = 0
        # Loaded before any token is made: weights that cannot be loaded refuse the request at once.
        self._diffusion = model.diffusion_decoder(progress) if request.multi_band_diffusion else None
        # For audiocraft's own sampling and for diffusion; the engine's noise is a function of the seed.
        self._generator = torch.Generator(self.device).manual_seed(request.seed)
        self.set_generation_params(
            use_sampling=request.temperature >= _GREEDY_BELOW,
            temperature=request.temperature,
            top_k=min(request.top_k, model.checkpoint.codec.cardinality),
            top_p=request.top_p,
            duration=request.duration,
            cfg_coef=request.classifier_free_guidance,
        )

    def set_generation_params(self, **params: Any) -> None:
        """As audiocraft's, with a stride that suits the checkpoint's window; audiocraft's 18 s assume one of 30 s."""
        # In whole seconds, so that windows begin at whole frames.
        super().set_generation_params(extend_stride=max(int(_STRIDE_SHARE * self.max_duration), 1), **params)

    def _prepare_tokens_and_attributes(self, descriptions: Any, prompt: Tensor | None, **melody: Any) -> Any:
        """As audiocraft's; the tokens [1, K, T] of a prompt [1, C, N], which may be long, are made in chunks."""
        attributes, tokens = super()._prepare_tokens_and_attributes(descriptions, None, **melody)
        if prompt is not None:
            tokens = chunked.encode(self.compression_model, prompt.to(self.device), self._progress)
        return attributes, tokens

    def _generate_tokens(
        self, attributes: list[ConditioningAttributes], prompt_tokens: Tensor | None, progress: bool = False
    ) -> Tensor:
        """Tokens [1, K, T], window by window; each window continues the tail of the one before.

        ``prompt_tokens`` [1, K, T0] begin the clip. Source: ``MusicGen._generate_tokens``, which refuses a prompt as
        long as its window; here the first window begins within such a prompt.
        """
        n_frames = int(self.duration * self.frame_rate)
        window, stride = int(self.max_duration * self.frame_rate), int(self.extend_stride * self.frame_rate)
        if prompt_tokens is None:
            prompt_tokens = torch.zeros((1, self.lm.n_q, 0), dtype=torch.int64, device=self.device)
        # The codec rounds an excerpt up to whole frames; at least one must be left to generate.
        tokens = prompt_tokens[..., : n_frames - 1]
        n_given = tokens.shape[-1]
        start = 0
        if n_given >= window:  # begin the first window within the prompt, at a whole second that leaves a stride
            head_s = math.ceil(n_given / self.frame_rate - (self.max_duration - self.extend_stride))
            start = int(head_s * self.frame_rate)
        melody = attributes[0].wav.get("self_wav")
        while tokens.shape[-1] < n_frames:
            if n_frames > window and melody is not None and melody.length.item():
                attributes[0].wav["self_wav"] = self._melody_from(melody, start)
            tail = tokens[..., start:]
            made_before = (tokens.shape[-1] - n_given, n_frames - n_given)
            made = self.generate_window(attributes, tail, min(window, n_frames - start), made_before)
            tokens = torch.cat([tokens, made[..., tail.shape[-1] :]], dim=-1)
            start += stride
        return tokens

    def _melody_from(self, melody: WavCondition, start: int) -> WavCondition:
        """One window of the melody [1, C, N] from a frame on, repeated where it is shorter than the music."""
        n_samples = int(self.max_duration * self.sample_rate)
        first = int(start / self.frame_rate * self.sample_rate)
        positions = torch.arange(first, first + n_samples, device=self.device) % int(melody.length.item())
        length = torch.full_like(melody.length, n_samples)
        return WavCondition(melody.wav[..., positions], length, [self.sample_rate], [None], [0.0])

    def generate_window(
        self, attributes: list[ConditioningAttributes], prompt: Tensor, n_frames: int, made: tuple[int, int]
    ) -> Tensor:
        """Tokens [1, K, n_frames] that begin with ``prompt`` [1, K, T0]; ``made`` is frames done, and their total.

        By the engine, or by audiocraft's own loop.
        """
        n_new = n_frames - prompt.shape[-1]

        def on_step(step: int, n_steps: int) -> None:
            if n_steps == 0:  # still in line
                self._progress.check()
            else:
                # The delay pattern's extra steps make no frame: the count reaches its total with the last one.
                self._progress.update(made[0] + max(0, step - max(0, n_steps - n_new)), made[1])

        if self._engine is None:
            self._progress.enqueue()
            with self._progress.acquire(self._model.lm_lock), use_generator(self._generator), self.autocast:
                given = prompt if prompt.shape[-1] else None
                return self.lm.generate(
                    given, attributes, callback=on_step, max_gen_len=n_frames, **self.generation_params
                )
        sampling: dict[str, Any] = self.generation_params
        prefix, cross = self._conditions(attributes, is_guided=sampling["cfg_coef"] != 1)
        check_capacity(self.lm, prefix, cross)
        job = Job(
            prompt=prompt[0].cpu(),
            n_frames=n_frames,
            prefix=prefix,
            cross=cross,
            guidance=sampling["cfg_coef"],
            temperature=sampling["temp"] if sampling["use_sampling"] else 0.0,
            top_k=sampling["top_k"],
            top_p=sampling["top_p"],
            seed=self._seed,
            noise_step=self._n_steps_sampled,
            on_step=on_step,
        )
        pattern = self._engine.pattern
        self._n_steps_sampled += pattern.n_steps(n_frames) - pattern.first_step(prompt.shape[-1])
        self._progress.enqueue()
        return self._engine.submit(job).result()[None].to(self.device)

    def _conditions(self, attributes: list[ConditioningAttributes], is_guided: bool) -> tuple[Tensor, Tensor | None]:
        """Prepended [B, P, D] and cross-attended [B, T, D] conditions; with guidance, a null row follows, B = 2."""
        if is_guided:
            attributes = attributes + ClassifierFreeGuidanceDropout(p=1.0)(attributes)
        with self._progress.acquire(self._model.lm_lock), self.autocast:
            states = self.lm.condition_provider(self.lm.condition_provider.tokenize(attributes))
            empty = torch.zeros(len(attributes), 0, self.lm.dim, device=self.device)
            prefix, cross = self.lm.fuser(empty, states)
        return prefix, cross

    def generate_audio(self, gen_tokens: Tensor) -> Tensor:
        """Samples [1, C, N] from tokens [1, K, T], by the codec or the diffusion decoder."""
        if self._diffusion is None:
            # Not the checkpoint's: for a stereo LM the parent has wrapped it.
            return chunked.decode(self.compression_model, gen_tokens, self._progress)
        with use_generator(self._generator):
            return self._diffusion.decode(gen_tokens, self._progress)


def load(
    weights: str,
    device: str,
    settings: EngineSettings,
    smoke_test: bool = True,
    dtypes: Sequence[torch.dtype] | None = None,
) -> Model:
    """The model that ``weights`` (a path, https URL or hub id) names, on ``device``, ready for its first request.

    With ``smoke_test`` it has generated one second, and a transformer whose logits are not finite is loaded again in
    the next of ``dtypes``, by default ``checkpoint.candidate_dtypes(device)``. Where the engine fails, or its
    self-check does, the model is loaded again with a simpler one. Raises ``CheckpointError``.
    """
    name = checkpoint.display_name(weights)  # health checks repeat set-up's output to any caller
    untried = list(dtypes or checkpoint.candidate_dtypes(device))
    while untried:
        start = time.perf_counter()
        model: Model | None = None
        try:
            model = Model(checkpoint.load(weights, device, untried[0]), settings, smoke_test)
            # Before the smoke test: cog may lose output from the last moments of set-up.
            print(f"Loaded {name} on {device} in {time.perf_counter() - start:.1f} s", flush=True)
            print(f"Engine: {model.engine.description if model.engine else 'audiocraft'}", flush=True)
            if smoke_test:
                model.smoke_test()
            return model
        except NotFiniteError:
            print(f"{name}: logits are NaN or infinite in {str(untried.pop(0)).removeprefix('torch.')}.", flush=True)
        except EngineError as error:
            _log.warning("%s", error)
            settings = error.simpler
        if model is not None:
            model.close()
        del model  # before the next one is loaded
        memory.collect()
    problem = "its logits are NaN or infinite in every dtype that was tried"
    raise CheckpointError(f"{name} was loaded, but it cannot generate music: {problem}.")
