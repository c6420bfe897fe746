"""The Triton kernel before the first layer: tokens → inputs of all rows, and what else depends on their positions.

The oracle is ``TorchBackend.prepare``. Knows nothing of layers.
"""

import triton
import triton.language as tl
from torch import Tensor, view_as_real

from audiocraft_ext.engine.backends import triton_launch
from audiocraft_ext.engine.slots import SlotTable

_BLOCK = 256


@triton.jit
def _prepare(
    slots, sequence, step, position, embeddings, sines, rotary_table, inputs, rotary, lengths, n_steps, n_tokens,
    idle_position,
    K: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr, BLOCK: tl.constexpr, HAS_ROTARY: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    triton_launch.start(EARLY)
    row, block = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + row)
    at, last = tl.load(position + slot), tl.load(step + slot) - 1
    columns = block * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    x = tl.zeros((BLOCK,), tl.float32)
    for codebook in tl.static_range(K):
        token = tl.load(sequence + (slot * K + codebook) * n_steps + last) + codebook * n_tokens
        x += tl.load(embeddings + token * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(sines + at * WIDTH + columns, mask=inside, other=0.0)
    tl.store(inputs + row * WIDTH + columns, x, mask=inside)
    if block == 0:
        tl.store(lengths + row, tl.where(at == idle_position, 0, at + 1))
        if HAS_ROTARY:
            factors = tl.arange(0, HEAD)
            tl.store(rotary + row * HEAD + factors, tl.load(rotary_table + at * HEAD + factors))


def prepare(
    table: SlotTable,
    slots: Tensor,
    tables: tuple[Tensor, Tensor, Tensor | None],
    inputs: Tensor,
    rotary: Tensor | None,
    lengths: Tensor,
) -> None:
    """Fill `inputs` [B, D], `rotary` [B, Dh / 2] and `lengths` [B], 0 for idle rows, of rows in `slots` [B].

    `tables` are embeddings [K (V + 1), D], sines [S, D] and rotary factors [S, Dh / 2]; Dh is a power of two.
    """
    (n_rows, width), n_codebooks = inputs.shape, table.sequence.shape[1]
    embeddings, sines, rotary_table = tables
    is_early = triton_launch.starts_early(inputs.device)
    pairs = [None if part is None else view_as_real(part) for part in (rotary_table, rotary)]
    _prepare[(n_rows, triton.cdiv(width, _BLOCK))](
        slots, table.sequence, table.step, table.position, embeddings, sines, pairs[0], inputs, pairs[1], lengths,
        table.sequence.shape[-1], len(embeddings) // n_codebooks, len(sines) - 1,
        K=n_codebooks, WIDTH=width, HEAD=1 if rotary is None else 2 * rotary.shape[-1], BLOCK=_BLOCK,
        HAS_ROTARY=rotary is not None, EARLY=is_early, launch_pdl=is_early,
    )  # fmt: skip
