"""Low-rank factors: nothing changes before training, and exactly the named products are added after it."""

from collections.abc import Callable

import pytest
import torch

from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.training import lora
from audiocraft_ext.training.conditions import Conditions
from audiocraft_ext.upstream import LMModel
from tests.support import tiny
from tests.support.training import examples


@torch.no_grad()
def logits(lm: LMModel) -> torch.Tensor:
    """Of one clip, where they are predicted."""
    [clip] = examples(lm, 1)
    conditions = Conditions(lm, None)
    embedded = conditions.embed(conditions.prepare([clip], None))
    return lm.eval().compute_predictions(clip.codes[None].long(), [], embedded).logits.nan_to_num()


@pytest.mark.parametrize("kind", ["text", "melody", "stereo", "rotary"])
def test_new_factors_leave_every_logit_bit_for_bit(
    kind: tiny.Kind, tiny_checkpoint: Callable[[tiny.Kind], Checkpoint]
) -> None:
    lm = tiny_checkpoint(kind).lm
    before, state = logits(lm), lm.state_dict()
    with lora.adapt(lm, 4, 0) as factors:
        assert torch.equal(logits(lm), before)
        torch.nn.init.normal_(next(value for name, value in factors.items() if name.endswith("lora_B")))
        assert not torch.equal(logits(lm), before)
    assert torch.equal(logits(lm), before)
    assert lm.state_dict().keys() == state.keys()


def test_all_linears_of_attention_and_feed_forward_are_adapted(
    tiny_checkpoint: Callable[[tiny.Kind], Checkpoint],
) -> None:
    lm = tiny_checkpoint("text").lm
    with lora.adapt(lm, 4, 0) as factors:
        names = {name.removesuffix(".lora_A.weight") for name in lora.split(dict(factors)) if "lora_A" in name}
        learning = {id(parameter) for parameter in lm.parameters() if parameter.requires_grad}
        assert learning == {id(factor) for factor in factors.values()}
    attention = ("q_proj", "k_proj", "v_proj", "out_proj")
    modules = [f"{kind}.{name}" for kind in ("self_attn", "cross_attention") for name in attention]
    assert names == {f"transformer.layers.{i}.{m}" for i in range(2) for m in (*modules, "linear1", "linear2")}


def test_each_third_of_a_joint_weight_has_factors_of_its_own(
    tiny_checkpoint: Callable[[tiny.Kind], Checkpoint],
) -> None:
    lm = tiny_checkpoint("text").lm
    attention, path = lm.transformer.layers[1].cross_attention, "transformer.layers.1.cross_attention"
    before = attention.in_proj_weight.detach().clone()
    with lora.adapt(lm, 4, 0) as factors, torch.no_grad():
        for factor in factors.values():
            factor.normal_()
        named = lora.split({name: value.detach() for name, value in factors.items()})
        after = attention.in_proj_weight
    for part, third, base in zip("qkv", after.chunk(3), before.chunk(3), strict=True):
        down, up = (named[f"{path}.{part}_proj.lora_{factor}.weight"] for factor in "AB")
        torch.testing.assert_close(third, base + up @ down)


def test_a_half_precision_base_is_adapted_in_fp32(tiny_checkpoint: Callable[[tiny.Kind], Checkpoint]) -> None:
    weight = torch.ones(8, 8, dtype=torch.float16)
    low_rank = lora.LowRank(weight, 1, 1, torch.Generator().manual_seed(0))
    torch.nn.init.constant_(low_rank.lora_A, 1e-3)
    torch.nn.init.constant_(low_rank.lora_B, 1e-2)
    torch.testing.assert_close(low_rank(weight), torch.full((8, 8), 1 + 1e-5), rtol=0, atol=1e-7)
