"""Logits → tokens: guidance, temperature, top-k, top-p, and noise of each request's own. Knows nothing of models.

The noise is one uniform number a token, a function of (seed, step, codebook) alone: no generator is kept or moved, and
neighbours cannot touch it. A token is drawn through the integer cumulative mass of the sorted probabilities: integers
add up to the same in any order, so what is drawn does not depend on how a device sums.
"""

from dataclasses import dataclass
from hashlib import blake2b
from struct import pack

import torch
from torch import Tensor

_NOISE_BITS = 24
_MASS_BITS = 32
_LARGEST_LOGIT = 1e30


def noise(seed: int, first_step: int, n_steps: int, n_codebooks: int) -> Tensor:
    """Integers [S, K] in 0 .. 2^24 - 1: a hash of the seed, the step and the codebook; K at most 16."""
    digests = (
        blake2b(pack("<QQ", seed, step), digest_size=4 * n_codebooks).digest()
        for step in range(first_step, first_step + n_steps)
    )
    words = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.int32)
    return words.view(n_steps, n_codebooks).bitwise_and((1 << _NOISE_BITS) - 1).long()


@dataclass(frozen=True)
class Sampling:
    """How each job's [J] tokens are drawn: temperature 0 is greedy, top_p and top_k are off at 0, top_p comes first."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor


def guided(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Guided logits [J, K, V] from those of both rows, each [J, K, V]; where scale [J] is 1, the second is ignored."""
    scale = scale[:, None, None]
    return torch.where(scale == 1, conditional, unconditional + (conditional - unconditional) * scale)


def sample(logits: Tensor, noise: Tensor, how: Sampling) -> Tensor:
    """Tokens [J, K] from logits [J, K, V] and noise [J, K]; what is left out is as in audiocraft's ``sample_top_*``."""
    cardinality = logits.shape[-1]
    # The engine ends a job whose logits are not finite; until then they must not become an index out of bounds, nor
    # what a low temperature makes of large ones.
    logits = logits.nan_to_num().clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
    temperature = how.temperature[:, None, None]
    probs = torch.softmax(logits / torch.where(temperature > 0, temperature, 1.0), dim=-1)
    probs, tokens = _sorted(probs, how)
    mass = (probs.double() * 2**_MASS_BITS).long()
    last = torch.where((how.top_k > 0) & (how.top_k < cardinality), how.top_k, cardinality) - 1
    kth = probs.gather(-1, last[:, None, None].expand(*probs.shape[:-1], 1))
    limit = (how.top_p.double() * 2**_MASS_BITS).long()[:, None, None]
    in_top_p = mass.cumsum(-1) - mass <= limit
    mass = torch.where(torch.where(limit > 0, in_top_p, probs >= kth), mass, 0)
    reached = mass.cumsum(-1)
    aim = (noise * reached[..., -1]) >> _NOISE_BITS
    place = (reached <= aim[..., None]).sum(-1, keepdim=True)
    drawn = tokens.gather(-1, place)[..., 0]
    return torch.where(how.temperature[:, None] > 0, drawn, logits.argmax(-1))


def _sorted(probs: Tensor, how: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities [J, K, V], the largest first, and their tokens; of equals, the lower token.

    Fewer than V of them where the host knows that top-k leaves out the rest, in a third to half of the time.
    """
    cardinality = probs.shape[-1]
    if probs.device.type == "cpu" and bool(((how.top_p == 0) & (how.top_k > 0) & (how.top_k < cardinality)).all()):
        top, tokens = probs.topk(int(how.top_k.max()) + 1)
        # The order of equals is anybody's, and more of them may follow.
        if bool((top[..., :-1] > top[..., 1:]).all()):
            return top, tokens
    return probs.sort(dim=-1, descending=True, stable=True)
