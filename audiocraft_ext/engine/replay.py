"""A decoding step on the CPU's kernels, recorded once for each number of rows, and run again by one call."""

import torch
from torch import Tensor

from audiocraft_ext.engine.attention import CpuKernelAttention, Span
from audiocraft_ext.engine.backends import llvm_jit
from audiocraft_ext.engine.decoder import Decoder, PositionEncoding


class Replay:
    """Logits of ``n_rows`` rows by kernels alone. MusicGen small's step has 300, which Python takes 6 ms to call.

    More rows than ``linear.MAX_ROWS`` are computed by torch in part, and that is in no recording. Whoever moves the
    cache makes a new one: the old one would go on reading freed memory.
    """

    def __init__(self, decoder: Decoder, n_rows: int) -> None:
        self._decoder = decoder
        self._residual = torch.empty(n_rows, decoder.width)
        self._encoding = decoder.encoded(torch.zeros(n_rows, dtype=torch.int64))
        self._attention = CpuKernelAttention(decoder.cache, n_rows)
        self._recording: llvm_jit.CapturedCalls | None = None
        self._logits = torch.empty(0)

    def step(self, inputs: Tensor, encoding: PositionEncoding, spans: list[Span]) -> Tensor:
        """Logits [M, K, V] of inputs [M, D] at their encoding; they are written over by the next step."""
        self._residual.copy_(inputs)
        for own, given in zip(self._encoding, encoding, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self._attention.at(spans)
        if self._recording is None:
            with llvm_jit.capture_calls() as recording:
                hidden = self._decoder.run_layers(self._residual, self._encoding, self._attention)
                self._logits = self._decoder.logits(hidden)
            self._recording = recording  # whole: what fails half-way is recorded anew
        else:
            self._recording.replay()
        return self._logits
