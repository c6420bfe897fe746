"""Cross-entropy in nats over the tokens that audiocraft's pattern predicts, averaged by codebook, then over them."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from audiocraft_ext.training.batches import Batch, collate
from audiocraft_ext.training.conditions import Conditions
from audiocraft_ext.training.tokens import Example
from audiocraft_ext.upstream import LMModel


def token_losses(lm: LMModel, conditions: Conditions, batch: Batch) -> tuple[Tensor, Tensor]:
    """Nats of each token [B, K, T], 0 where none is predicted or it is padding, and those that the pattern predicts.

    In bf16 on CUDA: fp16 has given infinite gradients.
    """
    is_cuda = batch.codes.is_cuda
    context: Any = torch.autocast("cuda", torch.bfloat16) if is_cuda else nullcontext()
    with context:
        output = lm.compute_predictions(batch.codes, [], conditions.embed(batch.conditions))
    mask = output.mask & batch.is_music
    nats = nn.functional.cross_entropy(output.logits[mask].float(), batch.codes[mask], reduction="none")
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, nats), output.mask


def backward(lm: LMModel, conditions: Conditions, batch: Batch, rows: Sequence[int], n_clips: int) -> Tensor:
    """Add the gradients of ``rows``' share in a batch's loss, ``n_clips`` rows at a time; returns that share.

    The shares of all rows add up to the loss of the whole batch, however they are divided.
    """
    share = torch.zeros((), device=batch.codes.device)
    for start in range(0, len(rows), n_clips):
        nats, predicted = token_losses(lm, conditions, batch[list(rows[start : start + n_clips])])
        n_tokens = (predicted[:1] & batch.is_music).sum((0, 2))  # the same are predicted in every row
        loss = (nats.sum((0, 2)) / n_tokens).mean()
        loss.backward()
        share += loss.detach()
    return share


@torch.no_grad()
def mean_loss(lm: LMModel, conditions: Conditions, examples: Sequence[Example], n_clips: int) -> float:
    """Nats a token over whole examples by their captions, ``n_clips`` at a time; leaves the LM in eval mode."""
    lm.eval()
    nats, n_tokens = torch.zeros(lm.n_q), torch.zeros(lm.n_q)
    for start in range(0, len(examples), n_clips):
        batch = collate(examples[start : start + n_clips], conditions, None)
        losses, predicted = token_losses(lm, conditions, batch)
        nats += losses.sum((0, 2)).cpu()
        n_tokens += (predicted & batch.is_music).sum((0, 2)).cpu()
    return float((nats / n_tokens).mean())
