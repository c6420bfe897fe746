"""Tokens drawn from logits: the requested distribution, and audiocraft's own candidates."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from audiocraft_ext.engine.sampling import SamplingParams, apply_guidance, sample, uniform_bits
from audiocraft_ext.upstream import sample_top_k, sample_top_p

N_DRAWS = 20_000


def params_of(n_jobs: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 0.0) -> SamplingParams:
    return SamplingParams(
        torch.full((n_jobs,), temperature), torch.full((n_jobs,), top_k), torch.full((n_jobs,), top_p)
    )


def draws(logits: Tensor, **sampling: Any) -> Tensor:
    """Tokens [N_DRAWS] from the same logits [V], one for each step's noise."""
    batch = logits.expand(N_DRAWS, 1, -1)
    return sample(batch, uniform_bits(7, 0, N_DRAWS, 1), params_of(N_DRAWS, **sampling))[:, 0]


def kept(choose: Callable[[Tensor], Tensor], probs: Tensor) -> Tensor:
    """The probabilities [V] that audiocraft's function hands to its multinomial, in vocabulary order."""
    seen: list[Tensor] = []

    class Spy(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.multinomial:
                seen.append(args[0].clone())
            return func(*args, **(kwargs or {}))

    with Spy():
        choose(probs.clone()[None, None])
    return seen[0].flatten()


@pytest.mark.parametrize(
    "sampling",
    [{}, {"temperature": 0.5}, {"temperature": 2.0}, {"top_k": 5}, {"top_p": 0.6}, {"top_p": 0.9, "top_k": 2}],
    ids=str,
)
def test_draws_follow_audiocraft_s_distribution(sampling: dict[str, Any]) -> None:
    logits = 2 * torch.randn(24, generator=torch.Generator().manual_seed(3))
    probs = torch.softmax(logits / sampling.get("temperature", 1.0), dim=-1)
    if "top_p" in sampling:
        ordered = kept(lambda p: sample_top_p(p, sampling["top_p"]), probs)
        expected = torch.zeros(24).scatter(0, probs.argsort(descending=True), ordered)
    elif "top_k" in sampling:
        expected = kept(lambda p: sample_top_k(p, sampling["top_k"]), probs)
    else:
        expected = probs
    counts = draws(logits, **sampling).bincount(minlength=24)
    assert counts[expected == 0].sum() == 0
    common = expected * N_DRAWS > 5
    # Rare tokens share one cell, as the test wants cells of five and more.
    observed = torch.cat([counts[common], counts[~common].sum()[None]]).double()
    wanted = torch.cat([expected[common], expected[~common].sum()[None]]).double() * N_DRAWS
    cells = wanted > 0
    result = chisquare(observed[cells], wanted[cells] * observed[cells].sum() / wanted[cells].sum())
    assert result.pvalue > 1e-3


def test_temperature_zero_is_greedy_and_of_equals_takes_the_first() -> None:
    logits = torch.tensor([[[0.0, 2.0, 2.0, 1.0]]])
    assert sample(logits, uniform_bits(0, 0, 1, 1), params_of(1, temperature=0.0)).item() == 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_logits_that_are_no_use_draw_a_token_all_the_same(bad: float) -> None:
    """An index out of bounds would end every request on a GPU; the engine ends this one alone, for its logits."""
    logits = torch.zeros(2, 1, 8)
    logits[0, 0, 3] = bad
    logits[1] = bad
    for sampling in (params_of(2, temperature=1e-4), params_of(2, temperature=0.5, top_k=3), params_of(2, top_p=0.5)):
        drawn = sample(logits, torch.full((2, 1), 2**24 - 1), sampling)
        assert ((drawn >= 0) & (drawn < 8)).all()


def test_jobs_of_every_kind_share_a_call_and_get_what_they_get_alone() -> None:
    logits = torch.randn(4, 4, 64, generator=torch.Generator().manual_seed(0))
    mixed = SamplingParams(
        torch.tensor([0.0, 1.0, 0.7, 1.3]), torch.tensor([0, 5, 0, 250]), torch.tensor([0.0, 0.0, 0.9, 0.0])
    )
    numbers = uniform_bits(1, 0, 4, 4)
    together = sample(logits, numbers, mixed)
    for i in torch.arange(4):
        assert torch.equal(sample(logits[i][None], numbers[i][None], mixed[i[None]])[0], together[i])


@pytest.mark.parametrize("top_k", [64, 1000])
def test_a_top_k_of_the_whole_vocabulary_or_more_leaves_nothing_out(top_k: int) -> None:
    logits = torch.randn(64)
    assert torch.equal(draws(logits, top_k=top_k), draws(logits))


def test_the_extremes_of_the_noise_never_draw_an_excluded_token() -> None:
    logits = torch.tensor([3.0, -1.0, 2.0, 0.0]).expand(2, 1, 4)
    numbers = torch.tensor([[0], [2**24 - 1]])
    assert sample(logits, numbers, params_of(2, top_k=2))[:, 0].tolist() == [0, 2]


def test_noise_is_a_function_of_seed_step_and_codebook_alone() -> None:
    whole = uniform_bits(5, 0, 40, 4)
    assert torch.equal(uniform_bits(5, 17, 3, 4), whole[17:20])
    assert not torch.equal(uniform_bits(6, 0, 40, 4), whole)
    assert whole.unique().numel() > 150
    assert whole.min() >= 0
    assert whole.max() < 2**24


def test_noise_is_uniform() -> None:
    cells = (uniform_bits(11, 0, 20_000, 4) >> 20).flatten().bincount(minlength=16)
    assert chisquare(cells).pvalue > 1e-3


def test_guidance_one_is_the_conditional_row_even_beside_nan() -> None:
    row, nothing = torch.randn(2, 4, 8), torch.full((2, 4, 8), torch.nan)
    assert torch.equal(apply_guidance(row, nothing, torch.tensor([1.0, 1.0])), row)
    other = torch.randn(2, 4, 8)
    assert torch.equal(apply_guidance(row, other, torch.tensor([0.0, 0.0])), other)


@pytest.mark.parametrize("n_decimals", [1, 7], ids=["many equals", "few equals"])
def test_sorting_no_more_than_the_top_k_changes_no_token(n_decimals: int) -> None:
    logits = torch.randn(200, 4, 300, generator=torch.Generator().manual_seed(5)).round(decimals=n_decimals)
    # The last job draws from all tokens: beside it, all are sorted.
    params = SamplingParams(torch.ones(200), (torch.arange(200) + 1) % 200, torch.zeros(200))
    bits, first = uniform_bits(7, 0, 200, 4), torch.arange(199)
    assert torch.equal(sample(logits[first], bits[first], params[first]), sample(logits, bits, params)[first])
