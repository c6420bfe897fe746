"""Whether a codec belongs to a language model, or is Meta's. Knows configs and sizes, no weights."""

import torch
from omegaconf import DictConfig, OmegaConf

from audiocraft_ext.checkpoint import parts, solver_config
from audiocraft_ext.errors import CheckpointError
from audiocraft_ext.upstream import CompressionModel


@solver_config.built("language model")
def refuse_misfits(codec: CompressionModel, config: DictConfig) -> None:
    """Raises ``CheckpointError`` where one's tokens are none of the other's, with what each of them has.

    ``codec`` is the mono one; ``config`` is the language model's solver config, by which audiocraft wraps the codec.
    """
    lm = config.transformer_lm
    is_stereo, per_timestep = (
        bool(OmegaConf.select(config, f"interleave_stereo_codebooks.{key}")) for key in ("use", "per_timestep")
    )
    sample_rate = OmegaConf.select(config, "sample_rate", throw_on_missing=False)
    n_codebooks = OmegaConf.select(config, "compression_model_n_q") or codec.num_codebooks
    n_tokens = n_codebooks * (2 if is_stereo and not per_timestep else 1)
    if codec.cardinality != lm.card:
        raise _misfit(f"codebooks have {codec.cardinality} entries", f"expects {lm.card}")
    if sample_rate not in (None, codec.sample_rate):
        raise _misfit(f"sample rate is {codec.sample_rate} Hz", f"was trained at {sample_rate} Hz")
    if is_stereo and codec.channels != 1:
        raise _misfit(f"audio has {codec.channels} channels", "interleaves the tokens of two mono codecs")
    if n_codebooks > codec.total_codebooks:
        raise _misfit(f"codebooks are {codec.total_codebooks}", f"uses {n_codebooks}")
    if lm.n_q == 2 * n_codebooks and not is_stereo:
        raise CheckpointError(
            f"The language model has {lm.n_q} codebooks, twice the codec's {n_codebooks}, as for stereo, and its "
            "config says mono: set interleave_stereo_codebooks.use in it to true."
        )
    if lm.n_q != n_tokens:
        each = " for each of two channels" if is_stereo else ""
        raise _misfit(f"codebooks are {n_codebooks}{each}", f"has {lm.n_q}")


def _misfit(codec: str, lm: str) -> CheckpointError:
    return CheckpointError(
        f"The codec's {codec}, and the language model {lm}: they do not belong together. Put the codec that it was "
        "trained with beside it."
    )


# Samples and frames a second, codebooks, their entries, and the numbers of a frame's latent.
_ENCODEC_32KHZ = (32000, 50, 4, 2048, 128)


def public_name(name: str | None, codec: CompressionModel) -> str | None:
    """A codec's public name: the one that it is named by, else that of Meta's, where its sizes are the same.

    A Hugging Face checkpoint and many an export hold the weights of ``facebook/encodec_32khz`` and not its name.
    """
    if name is not None:
        return name
    sizes = codec.sample_rate, codec.frame_rate, codec.total_codebooks, codec.cardinality, latent_width(codec)
    return parts.DIFFUSION_CODEC if sizes == _ENCODEC_32KHZ else None


@torch.inference_mode()
def latent_width(codec: CompressionModel) -> int:
    """How many numbers the codec decodes a frame from: what MultiBand Diffusion is conditioned on."""
    a_frame = torch.zeros(1, codec.num_codebooks, 1, dtype=torch.long, device=next(codec.parameters()).device)
    return int(codec.decode_latent(a_frame).shape[1])
