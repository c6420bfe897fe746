"""MultiBand Diffusion's U-Net, channels last: audiocraft's weights and arithmetic in a memory layout that is fast.

torch's 1-D convolutions lie channels first, and on a CPU each of them copies its input into the layout that the kernels
want, and back. Knows nothing of noise schedules, bands or codecs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiocraft_ext.upstream import DiffusionUnet

# A convolution of more channels than this is slower than a product of matrices (benchmarks/LOG.md).
_MOST_CONVOLVED = 192


class UNet:
    """The noise estimate of audiocraft's ``DiffusionUnet``, whose weights it takes over and lays out anew.

    Source: ``audiocraft.models.unet``, without its LSTM and transformer, which no published decoder has
    (``can_run``). Gradients pass.
    """

    def __init__(self, unet: DiffusionUnet) -> None:
        self._unet = unet
        for module in unet.modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                # [A, B, k] as before to whoever asks, with B innermost in memory: no convolution copies it then.
                module.weight.data = module.weight.data.transpose(1, 2).contiguous().transpose(1, 2)

    @staticmethod
    def can_run(unet: DiffusionUnet) -> bool:
        transposed = [module for module in unet.modules() if isinstance(module, nn.ConvTranspose1d)]
        is_tiled = all(module.kernel_size[0] % module.stride[0] == 0 for module in transposed)
        return is_tiled and unet.bilstm is None and not unet.use_transformer and unet.use_codec

    def __call__(self, noisy: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """The noise [B, C, N] in samples [B, C, N] at diffusion steps [B]; condition: the codec's latents [B, D, T]."""
        unet, z, skips = self._unet, noisy[:, :, None], []
        for level, encoder in enumerate(unet.encoders):
            z = _encoded(z, encoder)
            if level == 0 or unet.embeddings is not None:
                embedding = unet.embeddings[level - 1] if level else unet.embedding
                z.add_(embedding(step)[:, :, None, None])
            skips.append(z)
        heard = functional.interpolate(unet.conv_codec(condition), z.shape[-1])
        z = skips.pop() + heard[:, :, None]  # with neither LSTM nor transformer nothing lies below the last skip
        for level, decoder in enumerate(unet.decoders):
            if level:
                skip = skips.pop()
                z = z[..., : skip.shape[-1]].add_(skip)
            z = _decoded(z, decoder)
        return z[:, :, 0, : noisy.shape[-1]]


def _encoded(z: Tensor, layer: Any) -> Tensor:
    """Activations [B, C, 1, N] → [B, C', 1, N / stride], N rounded up."""
    if n_lacking := -z.shape[-1] % layer.conv.stride[0]:  # padding by nothing is a copy
        z = functional.pad(z, (0, n_lacking))
    z = functional.relu_(layer.norm(_convolved(z, layer.conv)))
    return _through_blocks(z, layer.res_blocks)


def _decoded(z: Tensor, layer: Any) -> Tensor:
    """Activations [B, C, 1, N] → [B, C', 1, N * stride]."""
    z = functional.relu_(layer.norm(_through_blocks(z, layer.res_blocks)))
    return _transposed(z, layer.convtr)


def _through_blocks(z: Tensor, blocks: Any) -> Tensor:
    for block in blocks:
        inner = _convolved(functional.relu_(block.norm1(z)), block.conv1)
        z = _convolved(functional.relu_(block.norm2(inner)), block.conv2).add_(z)
    return z


def _convolved(z: Tensor, conv: nn.Conv1d) -> Tensor:
    return functional.conv2d(
        z, conv.weight[:, :, None], conv.bias, (1, *conv.stride), (0, *conv.padding), (1, *conv.dilation)
    )


def _transposed(z: Tensor, conv: nn.ConvTranspose1d) -> Tensor:
    """All samples of a stride at once, each a channel. torch's own is slow."""
    n_in, n_out, kernel = conv.weight.shape
    stride, padding = conv.stride[0], int(conv.padding[0])
    weight = conv.weight.unflatten(2, (-1, stride))  # [C, C', kernel / stride, stride]
    strides = _convolved_strides(z, weight) if n_in <= _MOST_CONVOLVED else _added_strides(z, weight)
    n_samples = (z.shape[-1] - 1) * stride + kernel - 2 * padding
    samples = strides.reshape(len(z), -1, n_out)[:, padding : padding + n_samples]
    return samples.transpose(1, 2)[:, :, None]


def _convolved_strides(z: Tensor, weight: Tensor) -> Tensor:
    """[B, strides, stride * C']: a convolution; its last tap hears the activation here, the others those before."""
    n_in, n_out, n_taps, stride = weight.shape
    taps = weight.flip(2).permute(3, 1, 0, 2).reshape(stride * n_out, n_in, 1, n_taps)
    taps = taps.contiguous(memory_format=torch.channels_last)
    return functional.conv2d(z, taps, padding=(0, n_taps - 1))[:, :, 0].transpose(1, 2)


def _added_strides(z: Tensor, weight: Tensor) -> Tensor:
    """[B, strides, stride * C']: one product, and the sum of what overlaps."""
    n, (n_in, n_out, _, stride) = z.shape[-1], weight.shape
    taps = z[:, :, 0].transpose(1, 2) @ weight.permute(0, 2, 3, 1).reshape(n_in, -1)
    parts = taps.split(stride * n_out, dim=-1)
    strides = functional.pad(parts[0], (0, 0, 0, len(parts) - 1))
    for i, part in enumerate(parts[1:], 1):
        strides[:, i : i + n].add_(part)
    return strides
