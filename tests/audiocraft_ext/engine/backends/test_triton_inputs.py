"""The Triton kernel of a step's inputs, beside plain torch: on CUDA if available, else in Triton's interpreter."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from audiocraft_ext.engine.backends.torch import TorchBackend
from audiocraft_ext.engine.backends.triton import TritonAttention
from audiocraft_ext.engine.slots import SlotTable
from audiocraft_ext.engine.step import Step
from audiocraft_ext.engine.transformer import Transformer
from tests.support import engines as models

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
N_SLOTS = 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("has_rotary", [True, False])
def test_inputs_rotary_factors_and_lengths_are_torch_s(dtype: torch.dtype, has_rotary: bool) -> None:
    frequencies = torch.logspace(0, -4, models.WIDTH // models.N_HEADS // 2) if has_rotary else None
    weights = replace(models.weights(False, DEVICE.type, dtype), rotary_frequencies=frequencies)
    plain = TorchBackend(DEVICE, dtype, models.WIDTH, False, False)
    model = Transformer(weights, 2 * N_SLOTS, models.N_STEPS + 1, plain)
    generator = torch.Generator().manual_seed(1)
    table = SlotTable(N_SLOTS, models.N_CODEBOOKS, models.N_STEPS, model.cache.n_positions, DEVICE)
    tokens = torch.randint(models.CARD + 1, table.sequence.shape, generator=generator)
    table.sequence.copy_(tokens)
    table.step.copy_(torch.tensor([1, 9, 70]))
    for slot, position in ((0, 0), (2, 77)):  # the other one is idle
        table.activate(slot, position)

    def prepare(backend: TorchBackend) -> tuple[Tensor, Tensor | None, Tensor]:
        step = Step(model, table, 2 * N_SLOTS)
        step._select([(slot, 2) for slot in range(N_SLOTS)])
        step.attention = attention = TritonAttention(model.cache, step.row_slots)
        step.inputs.fill_(torch.nan)
        backend.prepare(step)
        return step.inputs, step.rotary, attention.lengths

    ours = prepare(models.InterpretedBackend(DEVICE, dtype, models.WIDTH, False, False))
    expected = prepare(plain)
    torch.testing.assert_close(ours[0], expected[0], rtol=0, atol=2e-6)  # equal in the interpreter
    assert ours[1] is None if expected[1] is None else torch.equal(ours[1], expected[1])  # type: ignore[arg-type]
    assert ours[2].tolist() == expected[2].tolist() == [1, 1, 0, 0, 78, 78]
