"""How many clips a device computes at once, and whether layers are checkpointed; the effective batch never changes."""

from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]
import torch

from audiocraft_ext.errors import TrainingError
from audiocraft_ext.upstream import LMModel

# Bytes kept for the backward pass, estimated: per layer, frame and unit of width in bf16 and fp32; per logit.
_LAYER_BYTES = {torch.bfloat16: 50, torch.float32: 90}
_CHECKPOINT_BYTES, _LOGIT_BYTES = 4, 16
_FREE_SHARE = 0.8


@dataclass(frozen=True)
class Fit:
    """Clips in a micro-batch, and whether each layer is computed again in the backward pass."""

    n_clips: int
    is_checkpointed: bool

    def smaller(self) -> "Fit":
        """The next smaller fit, after running out of memory; raises ``TrainingError`` for the smallest."""
        if self.n_clips > 1:
            return Fit(self.n_clips // 2, self.is_checkpointed)
        if not self.is_checkpointed:
            return Fit(1, True)
        raise TrainingError(
            "One clip at a time does not fit into this device's memory: choose a smaller model_version, the method "
            "lora, or another GPU."
        )

    def __str__(self) -> str:
        clips = f"{self.n_clips} clip{'s' * (self.n_clips > 1)} at a time"
        return f"{clips}{', layers computed twice to save memory' * self.is_checkpointed}"


def estimate(lm: LMModel, n_clips: int, n_frames: int, n_trained: int) -> Fit:
    """For up to ``n_clips`` clips of ``n_frames``, prefix included, and ``n_trained`` weights, in the free memory."""
    device = lm.emb[0].weight.device
    is_cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if is_cuda else psutil.virtual_memory().available
    layers, attention = len(lm.transformer.layers), lm.transformer.layers[0].self_attn
    layer = n_frames * lm.dim * _LAYER_BYTES[torch.bfloat16 if is_cuda else torch.float32]
    if not attention.memory_efficient:  # its weights, before and after the softmax
        layer += 3 * 4 * attention.num_heads * n_frames**2
    logits = lm.n_q * n_frames * lm.card * _LOGIT_BYTES
    available = int(_FREE_SHARE * free) - 12 * n_trained  # gradients and AdamW's moments come with the first step
    # Without checkpointing the weights in bf16, adapted or cast, wait for the backward pass, too.
    cast = 2 * sum(parameter.numel() for parameter in lm.transformer.parameters()) if is_cuda else 0
    whole, checkpointed = layers * layer + logits, layers * n_frames * lm.dim * _CHECKPOINT_BYTES + layer + logits
    if available - cast >= whole:
        return Fit(min(n_clips, (available - cast) // whole), False)
    return Fit(max(1, min(n_clips, available // checkpointed)), True)
