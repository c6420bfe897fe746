"""The channels-last U-Net, held to audiocraft's own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from audiocraft_ext.unet import UNet
from audiocraft_ext.upstream import DiffusionUnet

CODEC_DIM = 16
MUSICGEN = {"hidden": 8, "depth": 4, "growth": 4, "kernel": 8, "stride": 4, "emb_all_layers": True}


def random_unet(**settings: Any) -> DiffusionUnet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DiffusionUnet(chin=1, num_steps=1000, codec_dim=CODEC_DIM, **{**MUSICGEN, **settings}).eval()


def inputs(n_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, 1, n_samples, generator=generator)
    latents = torch.randn(2, CODEC_DIM, -(-n_samples // 640), generator=generator)
    return noisy, torch.tensor([999, 49]), latents


# The largest difference measured, of the largest sample: 4e-6.
@pytest.mark.parametrize("n_samples", [640 * 50, 640 * 7 + 13])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"depth": 3, "growth": 1},
        {"res_blocks": 3},
        {"emb_all_layers": False},
        {"max_channels": 16},
        {"kernel": 4, "stride": 2},
        {"kernel": 4, "stride": 4},
        {"kernel": 16, "stride": 4},
    ],
    ids=str,
)
@torch.inference_mode()
def test_its_estimate_is_audiocraft_s(settings: dict[str, Any], n_samples: int) -> None:
    unet = random_unet(**settings)
    noisy, steps, latents = inputs(n_samples)
    theirs = unet(noisy, steps, condition=latents).sample
    assert UNet.can_run(unet)
    ours = UNet(unet)(noisy, steps, latents)
    assert ours.shape == theirs.shape
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < 2e-5


@torch.inference_mode()
def test_the_weights_stay_as_they_were_for_audiocraft() -> None:
    unet = random_unet()
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    UNet(unet)
    assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())


@pytest.mark.parametrize("settings", [{"bilstm": True}, {"transformer": True, "growth": 2}, {"kernel": 7, "stride": 4}])
def test_what_it_cannot_run_is_left_to_audiocraft(settings: dict[str, Any]) -> None:
    assert not UNet.can_run(random_unet(**settings))
