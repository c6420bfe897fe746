"""Replacements of imports: their values are the library's."""

import numpy as np
import pytest
from librosa.filters import chroma

from audiocraft_ext.upstream import chroma_filters


@pytest.mark.parametrize("sr", [16000, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("n_fft", [2048, 4096, 16384])
@pytest.mark.parametrize("n_chroma", [12, 24, 36])
def test_chroma_filters_are_librosa_s_to_the_bit(sr: int, n_fft: int, n_chroma: int) -> None:
    expected = chroma(sr=sr, n_fft=n_fft, tuning=0, n_chroma=n_chroma)
    ours = chroma_filters(sr=sr, n_fft=n_fft, tuning=0, n_chroma=n_chroma)
    assert ours.dtype == expected.dtype
    assert ours.flags.c_contiguous
    assert np.array_equal(ours, expected)
