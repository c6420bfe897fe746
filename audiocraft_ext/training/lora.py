"""Low-rank factors on the linear layers of an LM's attention and feed-forward, by torch's parametrizations.

audiocraft multiplies by ``in_proj_weight`` without a module of its own, so nothing that wraps modules reaches it: the
weight itself becomes base plus B A. The sum is in fp32: rounded to a half-precision base's own grid, small changes of
its weights would vanish. Knows nothing of files.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from audiocraft_ext.errors import TrainingError
from audiocraft_ext.upstream import LMModel

Factors = dict[str, nn.Parameter]


class LowRank(nn.Module):
    """A weight [O, I] plus B A, for P blocks of its rows: A [P, R, I], B [P, O / P, R], of which B begins at zero."""

    def __init__(self, weight: Tensor, n_blocks: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        n_out, n_in = weight.shape
        bound = n_in**-0.5  # PEFT's
        down = torch.empty(n_blocks, rank, n_in).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(down.to(weight.device))
        self.lora_B = nn.Parameter(torch.zeros(n_blocks, n_out // n_blocks, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The fp32 sum [O, I]; autocast rounds it for the product that it is for."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight.float() + (self.lora_B @ self.lora_A).flatten(0, 1)


@contextmanager
def adapt(lm: LMModel, rank: int, seed: int) -> Iterator[Factors]:
    """An LM with factors, which alone have gradients, by name: ``transformer.layers.0.linear1.weight.lora_A``.

    The LM is its base again afterwards. Raises ``TrainingError`` for attention whose q, k and v differ in size.
    """
    lm.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    factors, weights = Factors(), list(_adapted_weights(lm))
    for path, module, name in weights:
        weight = getattr(module, name)
        n_blocks = 3 if name == "in_proj_weight" else 1
        if n_blocks == 3 and weight.shape[0] != 3 * weight.shape[1]:
            raise TrainingError("This base shares its attention's keys among heads; set method to full.")
        low_rank = LowRank(weight, n_blocks, rank, generator)
        parametrize.register_parametrization(module, name, low_rank, unsafe=True)  # of another dtype
        factors |= {f"{path}.{name}.{key}": value for key, value in low_rank.named_parameters()}
    try:
        yield factors
    finally:
        for _, module, name in weights:
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)


def _adapted_weights(lm: LMModel) -> Iterator[tuple[str, nn.Module, str]]:
    """The path of each adapted module, the module, and the name of its weight."""
    for path, module in list(lm.transformer.layers.named_modules(prefix="transformer.layers")):
        for name in ("in_proj_weight", "weight"):
            if isinstance(getattr(module, name, None), nn.Parameter) and getattr(module, name).dim() == 2:
                yield path, module, name


def split(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Factors by PEFT's names, ``transformer.layers.0.self_attn.q_proj.lora_A.weight``, one matrix a name."""
    named = {}
    for key, blocks in state.items():
        path, weight, factor = key.rsplit(".", 2)
        for block, part in zip(blocks, ("q_proj", "k_proj", "v_proj"), strict=False):
            module = f"{path}.{part}" if weight == "in_proj_weight" else path
            named[f"{module}.{factor}.weight"] = block.contiguous()
    return named
