"""The self-check: steps of an engine compared with plain torch's, on the device that will run them.

Plain torch computes each layer while the engine takes its weights: they are never in memory twice. Knows nothing of
what a difference means for the server.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from audiocraft_ext.engine.backends.torch import PrefillAttention, TorchBackend
from audiocraft_ext.engine.engine import Engine, NotFiniteError
from audiocraft_ext.engine.kv_cache import ROWS_PER_SLOT
from audiocraft_ext.engine.pattern import UNKNOWN, DelayPattern
from audiocraft_ext.engine.sampling import apply_guidance
from audiocraft_ext.engine.scheduler import Job
from audiocraft_ext.engine.transformer import Layer, Transformer, WeightBias, Weights

# More positions than one part of an attention that is split.
_N_PROMPT, _N_NEW, _N_CROSS = 280, 4, 9
_GUIDANCE = 3.0
# Of the logits' norm. Rounding in another order moves a deep model's by a quarter of it; a fault, by far more.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# Of an int8 cache: a key that differs in its last bit may be rounded to the next of 255 steps. Estimated too.
_INT8_FACTOR = 5


class SelfCheckError(RuntimeError):
    """The engine's logits or tokens are not those of plain torch."""


class SelfCheck:
    """A greedy job with random frames, and plain torch's logits of the steps after its prompt."""

    def __init__(self, weights: Weights, pattern: DelayPattern, n_steps: int, backend: TorchBackend) -> None:
        """`n_steps` is the engine's longest sequence."""
        generator = torch.Generator().manual_seed(0)
        n_codebooks, n_tokens, dim = weights.embeddings.shape
        n_frames = min(_N_PROMPT + _N_NEW, n_steps - max(pattern.delays) - 1)
        frames = torch.randint(n_tokens - 1, (n_codebooks, n_frames), generator=generator)
        self._prompt, self._steps = frames[:, :-_N_NEW], pattern.sequence(frames, n_frames)
        self._first = pattern.first_step(n_frames - _N_NEW) + 1  # the prompt's own step is the prefill's
        self._is_open = pattern.sequence(self._prompt, n_frames)[:, self._first :].T == UNKNOWN
        self._states = torch.randn(ROWS_PER_SLOT, _N_CROSS, dim, generator=generator)
        self._states[1] = 0  # unconditional, as in a text model
        self._states = self._states.to(backend.device, backend.dtype)
        self._weights = weights
        self._plain = TorchBackend(backend.device, backend.dtype, dim, backend.is_int8, False)
        self._plain.cache_dtype = backend.cache_dtype

    @torch.no_grad()
    def layers(self) -> Iterator[Layer[WeightBias]]:
        """Those of the weights; ``compare`` needs all of them to have been taken."""
        inputs = self._steps[:, :-1]
        n = inputs.shape[1]
        positions = torch.arange(n, device=self._plain.device).repeat(ROWS_PER_SLOT)
        for i, layer in enumerate(self._weights.layers):
            one = Transformer(replace(self._weights, layers=[layer]), ROWS_PER_SLOT, n, self._plain)
            self._has_cross = layer.cross is not None
            if self._has_cross:
                one.cache_cross_kv(0, self._states)
            sines, rotary = one.position_encoding(positions)
            if i == 0:
                residual = one.embed(inputs.T.to(self._plain.device)).repeat(ROWS_PER_SLOT, 1) + sines
            attention = PrefillAttention(one.cache, slice(0, ROWS_PER_SLOT), 0, n, _N_CROSS)
            one.run_layers(residual, rotary, attention)
            yield layer
        last = residual.view(ROWS_PER_SLOT, n, -1)[:, self._first - 1 :].transpose(0, 1)
        logits = one.logits(last.flatten(0, 1)).to(self._steps.device).float()  # in half, a norm may overflow
        self._expected = logits.view(-1, ROWS_PER_SLOT, *logits.shape[1:])

    def compare(self, engine: Engine) -> float:
        """The largest difference of a step's logits, as a share of their norm; before the engine's first job.

        Stops the engine's captures where only these differ. Raises ``SelfCheckError`` where its steps do, and
        ``NotFiniteError`` for a model whose logits plain torch cannot compute either.
        """
        if not self._expected.isfinite().all():
            raise NotFiniteError("the model's logits are not finite")
        return engine.call(partial(self._compare, engine))

    def _compare(self, engine: Engine) -> float:
        tolerance = _TOLERANCE[self._plain.dtype] * (
            _INT8_FACTOR if engine.transformer.cache.dtype == torch.int8 else 1
        )
        eager = self._largest(engine, is_eager=True)
        if not eager <= tolerance:
            raise SelfCheckError(f"its self-check differs from plain torch by {eager:.2g}")
        engine.capture_steps()
        captured = self._largest(engine, is_eager=False) if engine.backend.captures else 0.0
        if not captured <= tolerance:
            engine.stop_capturing(f"Captured, its self-check differs from plain torch by {captured:.2g}.")
            return eager
        return max(eager, captured)

    def _largest(self, engine: Engine, is_eager: bool) -> float:
        """The largest difference in steps of any size; NaN if one is."""
        return torch.tensor([self._difference(engine, n, is_eager) for n in engine.step_sizes]).max().item()

    def _difference(self, engine: Engine, n_slots: int, is_eager: bool) -> float:
        prefix = self._states[:, :0]
        cross = self._states if self._has_cross else None
        n_frames = self._prompt.shape[1] + _N_NEW
        job = Job(self._prompt, n_frames, prefix, cross, guidance=_GUIDANCE, temperature=0.0)
        logits, drawn = engine.forced_steps(job, self._steps, n_slots, is_eager)
        logits = logits.float()
        scale = torch.full((len(logits),), _GUIDANCE)
        guided, expected = (apply_guidance(x[:, 0], x[:, 1], scale) for x in (logits, self._expected))
        # Only a margin that is larger than what both may have moved decides about a token.
        best = expected.topk(2)
        is_clear = best.values[..., 0] - best.values[..., 1] > 2 * (guided - expected).abs().amax()
        if (drawn != best.indices[..., 0])[is_clear & self._is_open].any():
            return math.inf
        difference = (logits - self._expected).flatten(1).norm(dim=1) / self._expected.flatten(1).norm(dim=1)
        return difference.max().item()
