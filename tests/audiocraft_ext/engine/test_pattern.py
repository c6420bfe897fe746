"""The delay pattern, compared with audiocraft's own provider."""

import pytest
import torch

from audiocraft_ext.engine.pattern import UNKNOWN, DelayPattern
from audiocraft_ext.upstream import DelayedPatternProvider

DELAYS = [(0, 1, 2, 3), (0, 0, 1, 1, 2, 2, 3, 3), (0, 0, 0, 0), (0, 2, 5)]


@pytest.mark.parametrize("delays", DELAYS, ids=str)
@pytest.mark.parametrize(("n_frames", "n_prompt"), [(1, 0), (2, 1), (7, 3), (50, 49), (50, 0)])
def test_steps_are_those_of_audiocraft(delays: tuple[int, ...], n_frames: int, n_prompt: int) -> None:
    special = 99
    pattern = DelayPattern(delays, special)
    prompt = torch.randint(0, special, (len(delays), n_prompt))
    theirs = DelayedPatternProvider(len(delays), list(delays)).get_pattern(n_frames)
    codes = torch.full((1, len(delays), n_frames), UNKNOWN)
    codes[0, :, :n_prompt] = prompt
    sequence, _, _ = theirs.build_pattern_sequence(codes, special)
    assert torch.equal(pattern.sequence(prompt, n_frames), sequence[0])
    assert pattern.first_step(n_prompt) == theirs.get_first_step_with_timesteps(n_prompt)
    full = torch.randint(0, special, (len(delays), n_frames))
    assert torch.equal(pattern.frames(pattern.sequence(full, n_frames), n_frames), full)
