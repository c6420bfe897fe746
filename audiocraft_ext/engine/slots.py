"""The slot table: the jobs' side of a step, on the device. Knows nothing of the transformer."""

from functools import partial

import torch
from torch import Tensor

from audiocraft_ext.engine import sampling
from audiocraft_ext.engine.pattern import UNKNOWN
from audiocraft_ext.engine.sampling import SamplingParams
from audiocraft_ext.engine.scheduler import Job


class SlotTable:
    """Tokens, noise and parameters of each slot [J].

    A slot is assigned to a job, activated once the job's prompt is in the cache, and released. Steps of all slots
    include inactive ones, whose samples are dropped.
    """

    def __init__(
        self, n_slots: int, n_codebooks: int, n_steps: int, n_positions: int, device: torch.device, is_host: bool = True
    ) -> None:
        """All slots inactive, for sequences of up to `n_steps` S and a cache of `n_positions`."""
        integers = partial(torch.zeros, dtype=torch.int64, device=device)
        # [J, K, S + 1], given or generated, else UNKNOWN; a finished job's step is S at most
        self.sequence = integers(n_slots, n_codebooks, n_steps + 1)
        self.uniform_bits = integers(n_slots, n_steps + 1, n_codebooks)
        self.step = integers(n_slots) + 1  # the next to be sampled
        # Of the next input in the cache; an inactive slot's is the cache's last, which no job reaches.
        self._idle_position = n_positions - 1
        self.position = integers(n_slots) + self._idle_position
        self.is_active, self.is_not_finite = torch.zeros(2, n_slots, dtype=torch.bool, device=device)
        self.guidance, temperature, top_p = torch.zeros(3, n_slots, device=device)
        self.params = SamplingParams(temperature, integers(n_slots), top_p, is_host)

    def assign(self, slot: int, job: Job, sequence: Tensor, uniform_bits: Tensor) -> None:
        """Write a job and its steps [K, S] into a slot; noise [S', K] is of the last of them, the others are given."""
        n_steps, n_sampled = sequence.shape[1], len(uniform_bits)
        first_step = n_steps - n_sampled
        self.sequence[slot, :, :n_steps] = sequence
        self.uniform_bits[slot, first_step:n_steps] = uniform_bits.to(self.uniform_bits.device)
        self.step[slot], self.is_not_finite[slot], self.guidance[slot] = first_step, False, job.guidance
        self.params.temperature[slot] = job.temperature
        self.params.top_k[slot], self.params.top_p[slot] = job.top_k, job.top_p

    def activate(self, slot: int, position: int) -> None:
        """Let the slot's samples count; its last input was at this position."""
        self.position[slot], self.is_active[slot] = position, True

    def release(self, slot: int | slice) -> None:
        """Make a slot inactive; ``slice(None)`` is all of them."""
        self.is_active[slot], self.position[slot] = False, self._idle_position

    def last_tokens(self, slots: Tensor) -> Tensor:
        """Tokens [B, K] of the step before the next."""
        return self.sequence[slots, :, self.step[slots] - 1]

    def sample(self, slots: Tensor, conditional: Tensor, unconditional: Tensor) -> None:
        """Draw the next step of slots [J] from logits [J, K, V] of both rows, and advance the active ones."""
        step, is_active = self.step[slots], self.is_active[slots]
        logits = sampling.apply_guidance(conditional.float(), unconditional.float(), self.guidance[slots])
        drawn = sampling.sample(logits, self.uniform_bits[slots, step], self.params[slots])
        given = self.sequence[slots, :, step]
        is_open = is_active[:, None] & (given == UNKNOWN)
        self.sequence[slots, :, step] = torch.where(is_open, drawn, given)
        self.is_not_finite[slots] |= is_active & ~logits.isfinite().flatten(1).all(1)
        for counter in (self.step, self.position):
            counter.index_add_(0, slots, is_active.long())
