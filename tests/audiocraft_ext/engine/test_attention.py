"""A step's attention on the CPU: what is attended to together gives the bits that it gives alone."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from audiocraft_ext.engine.attention import Attention, CpuAttention, CpuKernelAttention, Span
from audiocraft_ext.engine.cache import Cache
from tests.support import engines as models
from tests.support.engines import needs_llvmlite

N_HEADS, HEAD_WIDTH = 4, 64
filled_cache = partial(models.filled_cache, 8, N_HEADS, HEAD_WIDTH, 700, 40)


Make = Callable[[Cache, list[Span]], Attention]


def direct(cache: Cache, spans: list[Span]) -> CpuKernelAttention:
    return CpuKernelAttention(cache, sum(span.n_rows for span in spans)).at(spans)


def attended(make: Make, spans: list[Span], qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What self- and cross-attention give for spans, and the cache's keys after it."""
    cache = filled_cache()
    attention = make(cache, spans)
    return attention.self_attention(0, qkv), attention.cross_attention(0, qkv[:, 0]), cache.keys[0]


# (rows, first row in the cache, position, cross-attended positions) of each job.
@pytest.mark.parametrize(
    "jobs",
    [
        [(2, 0, 20, 7), (2, 2, 20, 7), (2, 4, 20, 7), (2, 6, 20, 7)],
        [(2, 0, 600, 7), (2, 2, 600, 9), (2, 4, 3, 9), (2, 6, 3, 40)],
        [(2, 0, 20, 7), (2, 4, 20, 7)],
        [(1, 0, 20, 7), (1, 2, 20, 7), (2, 4, 20, 7)],
        [(1, 2, 0, 1)],
    ],
    ids=["all alike", "some alike", "a free slot between", "without guidance", "one row"],
)
@pytest.mark.parametrize("make", [CpuAttention, pytest.param(direct, marks=needs_llvmlite)])
def test_jobs_get_the_bits_that_each_gets_alone(make: Make, jobs: list[tuple[int, int, int, int]]) -> None:
    firsts = [sum(n_rows for n_rows, *_ in jobs[:i]) for i in range(len(jobs))]
    spans = [Span(first, *job) for first, job in zip(firsts, jobs, strict=True)]
    qkv = torch.randn(firsts[-1] + jobs[-1][0], 3, N_HEADS, HEAD_WIDTH, generator=torch.Generator().manual_seed(1))
    self_attention, cross_attention, keys = attended(make, spans, qkv)
    untouched = filled_cache().keys[0]
    for span, job in zip(spans, jobs, strict=True):
        inputs, rows = slice(span.first, span.first + span.n_rows), slice(span.row, span.row + span.n_rows)
        alone = attended(make, [Span(0, *job)], qkv[inputs])
        assert torch.equal(self_attention[inputs], alone[0])
        assert torch.equal(cross_attention[inputs], alone[1])
        assert torch.equal(keys[rows], alone[2][rows])
        untouched[rows, :, span.position] = qkv[inputs, 1]
    assert torch.equal(keys, untouched)
