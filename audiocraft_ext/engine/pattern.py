"""The delay pattern as index arithmetic: frames [K, T] ↔ pattern steps [K, S]. Knows nothing of models.

Codebook k of frame t stands at step t + delay[k] + 1; step 0, and whatever else no frame reaches, holds the special
token. The same layout as audiocraft's ``DelayedPatternProvider`` without its "flatten first" options.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

UNKNOWN = -1


@dataclass(frozen=True)
class DelayPattern:
    """Delays in frames, one a codebook, and the token that fills what no frame reaches."""

    delays: tuple[int, ...]
    special_token: int

    def n_steps(self, n_frames: int) -> int:
        """Steps S that hold `n_frames` frames."""
        return n_frames + max(self.delays) + 1

    def first_step(self, n_prompt: int) -> int:
        """The first step with a token of frame `n_prompt`: the first to be generated behind so many given frames."""
        return n_prompt + min(self.delays) + 1

    def sequence(self, prompt: Tensor, n_frames: int) -> Tensor:
        """Steps [K, S] that begin with the frames of `prompt` [K, T0]; frames to be generated are ``UNKNOWN``."""
        frames = torch.full((len(self.delays), n_frames), UNKNOWN, dtype=torch.int64)
        frames[:, : prompt.shape[-1]] = prompt
        steps = torch.full((len(self.delays), self.n_steps(n_frames)), self.special_token, dtype=torch.int64)
        for k, delay in enumerate(self.delays):
            steps[k, delay + 1 : delay + 1 + n_frames] = frames[k]
        return steps

    def frames(self, sequence: Tensor, n_frames: int) -> Tensor:
        """Frames [K, T] from steps [K, S]."""
        rows = [sequence[k, delay + 1 : delay + 1 + n_frames] for k, delay in enumerate(self.delays)]
        return torch.stack(rows)
