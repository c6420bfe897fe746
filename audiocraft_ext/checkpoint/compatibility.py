"""Whether a codec fits a language model, or has the sizes of Meta's. Knows configs and sizes, not weights."""

import torch
from omegaconf import DictConfig, OmegaConf

from audiocraft_ext.checkpoint.locate.pretrained import DIFFUSION_CODEC
from audiocraft_ext.checkpoint.read.config import config_errors
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import CompressionModel

# Samples and frames a second, codebooks, their entries, and the width of a frame's latent.
_ENCODEC_32KHZ = (32000, 50, 4, 2048, 128)


@config_errors("language model")
def check_codec_fits(codec: CompressionModel, config: DictConfig) -> None:
    """Raise ``CheckpointError`` with both sizes if the mono codec's tokens are not those of the LM.

    ``config`` is the LM's solver config, by which audiocraft wraps the codec.
    """
    lm = config.transformer_lm
    is_stereo, per_timestep = (
        bool(OmegaConf.select(config, f"interleave_stereo_codebooks.{key}")) for key in ("use", "per_timestep")
    )
    sample_rate = OmegaConf.select(config, "sample_rate", throw_on_missing=False)
    n_codebooks = OmegaConf.select(config, "compression_model_n_q") or codec.num_codebooks
    n_tokens = n_codebooks * (2 if is_stereo and not per_timestep else 1)
    problem, hint = None, "Put the codec that it was trained with beside it."
    if codec.cardinality != lm.card:
        problem = f"{codec.cardinality} entries in a codebook, and the language model expects {lm.card}"
    elif sample_rate not in (None, codec.sample_rate):
        problem = f"a sample rate of {codec.sample_rate} Hz, and the language model was trained at {sample_rate} Hz"
    elif is_stereo and codec.channels != 1:
        problem = f"{codec.channels} channels, and the language model interleaves the tokens of two mono codecs"
    elif n_codebooks > codec.total_codebooks:
        problem = f"{codec.total_codebooks} codebooks, and the language model uses {n_codebooks}"
    elif lm.n_q != n_tokens:
        problem = (
            f"{n_codebooks} codebooks{' for each of two channels' * is_stereo}, and the language model has {lm.n_q}"
        )
        if lm.n_q == 2 * n_codebooks and not is_stereo:
            hint = "If it is stereo, set interleave_stereo_codebooks.use in its config to true."
    if problem:
        raise CheckpointError(f"The codec does not fit the language model: it has {problem}. {hint}")


def public_name(name: str | None, codec: CompressionModel) -> str | None:
    """A codec's public name: ``name`` if the checkpoint gives one, else that of Meta's if it has the same sizes.

    A Hugging Face checkpoint and many an export include the weights of ``facebook/encodec_32khz`` without its name.
    """
    if name is not None:
        return name
    sizes = codec.sample_rate, codec.frame_rate, codec.total_codebooks, codec.cardinality, latent_dim(codec)
    return DIFFUSION_CODEC if sizes == _ENCODEC_32KHZ else None


@torch.inference_mode()
def latent_dim(codec: CompressionModel) -> int:
    """The width of the latent that the codec decodes a frame from, on which MultiBand Diffusion is conditioned."""
    frame = torch.zeros(1, codec.num_codebooks, 1, dtype=torch.long, device=next(codec.parameters()).device)
    return int(codec.decode_latent(frame).shape[1])
