"""The seam: audiocraft's ``lm.generate`` as one request sees it, answered by the engine or by audiocraft itself.

The engine takes conditions as tensors: here they come out of audiocraft's own conditioners, job by job. Knows nothing
of audio, files or cog.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from audiocraft_ext.engine import backends
from audiocraft_ext.engine.engine import Engine
from audiocraft_ext.engine.kv_cache import ROWS_PER_SLOT, kv_bytes_per_row
from audiocraft_ext.engine.pattern import DelayPattern
from audiocraft_ext.engine.quantize import Quantize
from audiocraft_ext.engine.scheduler import Job
from audiocraft_ext.engine.transformer import Transformer
from audiocraft_ext.errors import InputError
from audiocraft_ext.lm_weights import engine_weights, unsupported
from audiocraft_ext.progress import Progress
from audiocraft_ext.upstream import (
    ClassifierFreeGuidanceDropout,
    ConditioningAttributes,
    LMModel,
)

EngineName = Literal["fast", "upstream"]

_log = logging.getLogger(__name__)

# Positions for a prompt's tokens, before the codes or cross-attended to: some 400 words. Room that one prompt needed is
# every slot's from then on.
_TEXT_POSITIONS = 512


class LanguageModel(Protocol):
    """Makes tokens for the requests of one checkpoint.

    ``has_own_thread`` says whether it computes in a thread of its own, beside which requests' threads should use one
    core each on the CPU (see ``engine.engine``), or in theirs.
    """

    has_own_thread: bool

    def for_request(self, seed: int, progress: Progress) -> "RequestLM":
        """What stands in for the LM in one request's ``MusicGen``."""

    def close(self) -> None:
        """Ends what runs for it; requests that are not done fail."""


class RequestLM:
    """The shared LM as one request sees it: its frames are counted, and it can be stopped.

    All but ``generate`` is audiocraft's LM's own. The generation sets ``n_frames_to_make`` before the first call.
    """

    # (prompt, conditions, count, and audiocraft's sampling arguments by name) → tokens [1, K, T]
    _make: Callable[..., Tensor]

    def __init__(self, lm: LMModel, progress: Progress) -> None:
        self._lm = lm
        self.progress = progress
        self._n_frames_made = 0
        self.n_frames_to_make = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lm, name)

    def generate(
        self,
        prompt: Tensor | None,
        conditions: list[ConditioningAttributes],
        callback: Callable[[int, int], None] | None = None,
        **sampling: Any,
    ) -> Tensor:
        """Tokens [1, K, T] of one window, prompt included; the arguments are those of audiocraft's ``lm.generate``."""
        made_before = self._n_frames_made
        n_new = sampling["max_gen_len"] - (0 if prompt is None else prompt.shape[-1])

        def count(step: int, n_steps: int) -> None:
            # The delay pattern's extra steps make no frame: the count reaches its total with the last one.
            self._n_frames_made = made_before + max(0, step - max(0, n_steps - n_new))
            self.progress.reach(self._n_frames_made, self.n_frames_to_make)

        return self._make(prompt, conditions, count, **sampling)


class UpstreamLanguageModel:
    """audiocraft's own ``lm.generate``, the oracle: one request at a time, since it keeps its cache on the module."""

    has_own_thread = False

    def __init__(self, lm: LMModel) -> None:
        self.lm = lm
        self.lock = threading.Lock()

    def for_request(self, seed: int, progress: Progress) -> RequestLM:
        del seed  # audiocraft draws from a generator that the caller provides (upstream.drawing_from)
        return _UpstreamRequestLM(self, progress)

    def close(self) -> None:
        pass


class _UpstreamRequestLM(RequestLM):
    def __init__(self, model: UpstreamLanguageModel, progress: Progress) -> None:
        super().__init__(model.lm, progress)
        self._lock = model.lock

    def _make(self, prompt: Any, conditions: Any, count: Any, **sampling: Any) -> Tensor:
        with self.progress.holding(self._lock):
            return self._lm.generate(prompt, conditions, callback=count, **sampling)


@dataclass(frozen=True)
class Settings:
    """Who makes the tokens, and how. `n_slots` is a wish: less where memory or the CPU's kernels allow less."""

    engine: EngineName = "fast"
    n_slots: int = 16
    quantize: Quantize = "none"
    capture: bool = True
    backend: backends.BackendName | None = None  # None is the device's own
    # The engine's weights take the place of the LM's own, which cannot be asked any more.
    consume: bool = True


class EngineLanguageModel:
    """The engine on the weights and conditioners of an LM that is not ``unsupported``; `n_frames` is its window."""

    has_own_thread = True

    def __init__(self, lm: LMModel, n_frames: int, settings: Settings) -> None:
        self.lm = lm
        self.lock = threading.Lock()  # audiocraft's conditioners share autocast contexts: one request at a time
        pattern = DelayPattern(tuple(lm.pattern_provider.delays), lm.special_token_id)
        n_steps = pattern.n_steps(n_frames)
        self.n_prefix_max, self.n_cross_max = (_condition_positions(lm, way) for way in ("prepend", "cross"))
        n_positions = n_steps + self.n_prefix_max + 1
        layer = lm.transformer.layers[0]
        backend = backends.choose(
            layer.linear1.weight,
            layer.self_attn.num_heads,
            quantize=settings.quantize,
            name=settings.backend,
            capture=settings.capture,
        )
        slot_bytes = ROWS_PER_SLOT * kv_bytes_per_row(len(lm.transformer.layers), lm.dim, n_positions, backend.dtype)
        n_slots = backend.fitting_slots(settings.n_slots, slot_bytes)
        weights = engine_weights(lm, settings.consume)
        transformer = Transformer(weights, ROWS_PER_SLOT * n_slots, n_positions, backend)
        self.engine = Engine(transformer, pattern, n_slots, n_steps)

    def for_request(self, seed: int, progress: Progress) -> RequestLM:
        return _EngineRequestLM(self, seed, progress)

    def close(self) -> None:
        self.engine.close()


class _EngineRequestLM(RequestLM):
    def __init__(self, model: EngineLanguageModel, seed: int, progress: Progress) -> None:
        super().__init__(model.lm, progress)
        self._model = model
        self._seed = seed
        self._n_steps_sampled = 0

    def _make(
        self,
        prompt: Tensor | None,
        conditions: list[ConditioningAttributes],
        count: Callable[[int, int], None],
        *,
        max_gen_len: int,
        use_sampling: bool,
        temp: float,
        top_k: int,
        top_p: float,
        cfg_coef: float,
        two_step_cfg: bool = False,
    ) -> Tensor:
        del two_step_cfg  # one pass over both rows gives what two passes give
        device = self._model.engine.backend.device
        if prompt is None:
            prompt = torch.zeros((1, self._lm.n_q, 0), dtype=torch.int64)
        prefix, cross = self._condition_states(conditions, is_guided=cfg_coef != 1)
        self._refuse_long(prefix.shape[1], self._model.n_prefix_max, "tokens with the melody")
        self._refuse_long(0 if cross is None else cross.shape[1], self._model.n_cross_max, "tokens")
        noise_step, sampled = self._n_steps_sampled, 0

        def on_step(step: int, n_steps: int) -> None:
            nonlocal sampled
            if n_steps == 0:
                self.progress.check()
                return
            if sampled == 0:
                self.progress.queue_s += time.monotonic() - submitted_at
            sampled = n_steps
            count(step, n_steps)

        submitted_at = time.monotonic()
        job = Job(
            prompt=prompt[0].cpu(),
            n_frames=max_gen_len,
            prefix=prefix,
            cross=cross,
            guidance=cfg_coef,
            temperature=temp if use_sampling else 0.0,
            top_k=top_k,
            top_p=top_p,
            seed=self._seed,
            noise_step=noise_step,
            on_step=on_step,
        )
        tokens = self._model.engine.submit(job).result()
        self._n_steps_sampled += sampled
        return tokens[None].to(device)

    @staticmethod
    def _refuse_long(n: int, n_max: int, what: str) -> None:
        if n > n_max:
            problem = f"{n} {what}, and this checkpoint's conditions have room for {n_max}."
            raise InputError("prompt", problem, "Say it in fewer words.")

    def _condition_states(
        self, conditions: list[ConditioningAttributes], is_guided: bool
    ) -> tuple[Tensor, Tensor | None]:
        """What is prepended [R, P, D] and cross-attended to [R, T', D]: the caller's conditions, then none of them."""
        if is_guided:
            conditions = conditions + ClassifierFreeGuidanceDropout(p=1.0)(conditions)
        lm = self._lm
        with self.progress.holding(self._model.lock):
            states = lm.condition_provider(lm.condition_provider.tokenize(conditions))
            nothing = torch.zeros(len(conditions), 0, lm.dim, device=self._model.engine.backend.device)
            prefix, cross = lm.fuser(nothing, states)
        return prefix, cross


def make(lm: LMModel, n_frames: int, settings: Settings) -> LanguageModel:
    """The engine or audiocraft's own loop around an LM whose window is `n_frames` long.

    An LM that the engine cannot run is left to audiocraft, and the log says why.
    """
    if settings.engine == "upstream":
        return UpstreamLanguageModel(lm)
    reason = unsupported(lm)
    if reason is not None:
        _log.warning("This language model runs on audiocraft's own decoding loop: %s.", reason)
        return UpstreamLanguageModel(lm)
    return EngineLanguageModel(lm, n_frames, settings)


def _condition_positions(lm: LMModel, way: str) -> int:
    """Room for what the LM's fuser prepends, or has cross-attended to: text, and a melody as long as its window."""
    names, conditioners = lm.fuser.fuse2cond.get(way, []), lm.condition_provider.conditioners
    melody = sum(getattr(conditioners[name], "chroma_len", 0) for name in names if name in conditioners)
    return melody + (_TEXT_POSITIONS if names else 0)
