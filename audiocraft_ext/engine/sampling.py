"""Logits → tokens: guidance, temperature, top-k, top-p, and noise of each job's own. Knows nothing of models.

The noise is one uniform number a token, a function of (seed, step, codebook) alone: no generator is kept or moved, and
neighbours cannot touch it. A token is drawn through the integer cumulative distribution of the sorted probabilities:
sums of integers do not depend on their order, nor the token on how a device sums.
"""

from dataclasses import dataclass
from hashlib import blake2b
from struct import pack

import torch
from torch import Tensor

_UNIFORM_BITS = 24
_PMF_BITS = 32
_MAX_LOGIT = 1e30


@dataclass(frozen=True)
class SamplingParams:
    """How each job's [J] tokens are drawn: temperature 0 is greedy, top_p and top_k are off at 0, top_p comes first."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    is_host: bool = True  # reading a value waits for nothing

    def __getitem__(self, jobs: Tensor) -> "SamplingParams":
        return SamplingParams(self.temperature[jobs], self.top_k[jobs], self.top_p[jobs], self.is_host)


def uniform_bits(seed: int, first_step: int, n_steps: int, n_codebooks: int) -> Tensor:
    """Integers [S, K] in 0 .. 2^24 - 1: a hash of the seed, the step and the codebook; K at most 16."""
    digests = (
        blake2b(pack("<QQ", seed, step), digest_size=4 * n_codebooks).digest()
        for step in range(first_step, first_step + n_steps)
    )
    words = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.int32)
    return words.view(n_steps, n_codebooks).bitwise_and((1 << _UNIFORM_BITS) - 1).long()


def apply_guidance(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Guided logits [J, K, V] from those of both rows, each [J, K, V]; where scale [J] is 1, the second is ignored."""
    scale = scale[:, None, None]
    return torch.where(scale == 1, conditional, unconditional + (conditional - unconditional) * scale)


def sample(logits: Tensor, uniform_bits: Tensor, params: SamplingParams) -> Tensor:
    """Tokens [J, K] from logits [J, K, V] and bits [J, K]; candidates are those of audiocraft's ``sample_top_*``."""
    vocabulary = logits.shape[-1]
    # The engine ends a job whose logits are not finite; until then neither these nor what a low temperature makes of
    # large ones may become an index out of bounds.
    logits = logits.nan_to_num().clamp(-_MAX_LOGIT, _MAX_LOGIT)
    temperature = params.temperature[:, None, None]
    probs = torch.softmax(logits / torch.where(temperature > 0, temperature, 1.0), dim=-1)
    probs, tokens = _sort(probs, params)
    pmf = (probs.double() * 2**_PMF_BITS).long()
    last = torch.where((params.top_k > 0) & (params.top_k < vocabulary), params.top_k, vocabulary) - 1
    kth = probs.gather(-1, last[:, None, None].expand(*probs.shape[:-1], 1))
    limit = (params.top_p.double() * 2**_PMF_BITS).long()[:, None, None]
    in_top_p = pmf.cumsum(-1) - pmf <= limit
    pmf = torch.where(torch.where(limit > 0, in_top_p, probs >= kth), pmf, 0)
    cdf = pmf.cumsum(-1)
    target = (uniform_bits * cdf[..., -1]) >> _UNIFORM_BITS
    index = (cdf <= target[..., None]).sum(-1, keepdim=True)
    drawn = tokens.gather(-1, index)[..., 0]
    return torch.where(params.temperature[:, None] > 0, drawn, logits.argmax(-1))


def _sort(probs: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Probabilities [J, K, V] in descending order, and their tokens; of equals, the lower token first.

    Where every job draws from its top k alone, no more than the largest k are sorted, in a third to half of the time,
    unless reading the parameters would wait for a device.
    """
    if params.is_host and not any(params.top_p.tolist()):
        top_k = params.top_k.tolist()
        if 0 < min(top_k) <= max(top_k) < probs.shape[-1]:
            top, tokens = probs.topk(max(top_k) + 1)
            # topk leaves the order of equals open, and more of them may follow.
            if bool((top[..., :-1] > top[..., 1:]).all()):
                return top, tokens
    return probs.sort(dim=-1, descending=True, stable=True)
