"""The pretrained models that checkpoints refer to by name, small and with random weights, in the hub's formats.

Each ``write_…`` creates one model's folder, named like Meta's.
"""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from demucs.htdemucs import HTDemucs
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from audiocraft_ext.checkpoint import build
from audiocraft_ext.checkpoint.locate.pretrained import DEMUCS, DEMUCS_BAG, DIFFUSION, DIFFUSION_CODEC, DIFFUSION_FILE
from audiocraft_ext.upstream import EncodecConfig, EncodecModel, T5Config, T5EncoderModel, builders
from tests.support import tiny

TEXT_ENCODER = "t5-base"
T5_WIDTH = 128
CODEC = DIFFUSION_CODEC
N_BANDS = 2


def write_text_encoder(folder: Path) -> Path:
    """In every format of the hub; only PyTorch's and safetensors' have contents."""
    place = folder / TEXT_ENCODER
    shutil.copytree(tiny.TEXT_ENCODER, place)
    torch.save(T5EncoderModel.from_pretrained(place).state_dict(), place / "pytorch_model.bin")
    for other in ("flax_model.msgpack", "tf_model.h5", "rust_model.ot", "README.md"):
        (place / other).write_text("---\nlicense: apache-2.0\n---\n")
    return place


def codec_config(bandwidth: float = 1.2) -> EncodecConfig:
    """At 0.3 kbit/s a codebook."""
    return EncodecConfig(
        num_filters=4,
        hidden_size=16,
        codebook_size=tiny.CARD,
        codebook_dim=16,
        sampling_rate=tiny.SAMPLE_RATE,
        upsampling_ratios=[8, 5, 4, 4],
        target_bandwidths=[bandwidth],
        normalize=False,
        use_causal_conv=False,
    )


def write_codec(folder: Path) -> Path:
    place = folder / CODEC
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = EncodecModel(codec_config())
        for name, buffer in model.named_buffers():
            if name.endswith(".embed"):  # zero before training: all tokens would decode alike
                buffer.normal_()
        model.save_pretrained(place)
    (place / "README.md").write_text("EnCodec, without a word on its licence.\n")
    return place


def huggingface(kind: tiny.Kind, dim: int = 48, bandwidth: float = 1.2, **settings: Any) -> PreTrainedModel:
    """transformers' own MusicGen or MusicGen Melody, with T5 and codec; ``dim`` is the decoder's width.

    If ``dim`` is the text encoder's width, transformers omits the projection between them. ``settings`` are
    the decoder's.
    """
    import transformers

    melody = "Melody" if kind == "melody" else ""
    decoder = {
        "vocab_size": tiny.CARD,
        "hidden_size": dim,
        "num_hidden_layers": 2,
        "ffn_dim": 4 * dim,
        "num_attention_heads": 3,
        "num_codebooks": 8 if kind == "stereo" else 4,
        "audio_channels": 2 if kind == "stereo" else 1,
        "pad_token_id": tiny.CARD,
        "bos_token_id": tiny.CARD,
        **settings,
    }
    config = getattr(transformers, f"Musicgen{melody}Config")(
        text_encoder=T5Config.from_pretrained(tiny.TEXT_ENCODER).to_dict(),
        audio_encoder=codec_config(bandwidth).to_dict(),
        decoder=decoder,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = getattr(transformers, f"Musicgen{melody}ForConditionalGeneration")(config)
    return model


def write_huggingface(folder: Path, model: PreTrainedModel, shard_size: str = "1GB") -> Path:
    """The format of ``save_pretrained``, with the tokenizer's files."""
    model.save_pretrained(folder, max_shard_size=shard_size)
    for file in tiny.TEXT_ENCODER.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def demucs(seed: int = 2) -> nn.Module:
    """Half a million times smaller than the real one, at 8 kHz, in segments of one second."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about layers of width one
        torch.manual_seed(seed)
        model = HTDemucs(
            sources=["drums", "bass", "other", "vocals"],
            channels=4,
            growth=1,
            nfft=256,
            depth=2,
            dconv_depth=1,
            dconv_comp=2,
            bottom_channels=8,
            t_layers=1,
            t_heads=1,
            t_hidden_scale=1.0,
            samplerate=8000,
            segment=1,
        )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # initialised as large as the weights, they would mask the clip
            parameter.data.zero_()
    return model


def write_demucs(folder: Path) -> Path:
    """The format of demucs' export to the hub: a safetensors file with the class and its arguments in the header."""
    place = folder / DEMUCS
    place.mkdir(parents=True)
    (place / DEMUCS_BAG).write_text("models: ['955717e8']\n")
    model: Any = demucs()
    arguments, named = model._init_args_kwargs
    metadata = {"klass": "demucs.htdemucs.HTDemucs", "args": json.dumps(arguments), "kwargs": json.dumps(named)}
    save_file(model.state_dict(), place / "955717e8.safetensors", metadata)
    return place


def diffusion(codec_dim: int = 16, sample_rate: int = tiny.SAMPLE_RATE) -> dict[Any, Any]:
    """A package in the format of audiocraft's MultiBand Diffusion weights."""
    with torch.random.fork_rng():
        bands = {band: _band(band, codec_dim) for band in range(N_BANDS)}
    return {"sample_rate": sample_rate, "n_bands": N_BANDS, **bands}


def _band(seed: int, codec_dim: int) -> dict[str, Any]:
    config = OmegaConf.create(
        {
            "channels": 1,
            "schedule": {"beta_t0": 1e-4, "beta_t1": 0.02, "num_steps": 1000, "variance": "beta", "beta_exp": 7.5},
            "diffusion_unet": {
                "hidden": 4,
                "depth": 3,
                "growth": 1,
                "codec_dim": codec_dim,
                "kernel": 8,
                "stride": 4,
            },
            "processor": {"use": True, "name": "multi_band_processor", "n_bands": 4, "num_samples": 10},
        }
    )
    torch.manual_seed(seed)
    processor = builders.get_processor(config.processor, sample_rate=tiny.SAMPLE_RATE)
    processor.project_sample(torch.randn(10, 1, tiny.SAMPLE_RATE))  # collects the statistics that training would
    model = builders.get_diffusion_model(config)
    return {"cfg": config, "model_state": model.state_dict(), "processor_state": processor.state_dict()}


def write_diffusion(folder: Path) -> Path:
    """With another codec's models in the same folder, as on the hub."""
    place = folder / DIFFUSION
    place.mkdir(parents=True)
    torch.save(diffusion(), place / DIFFUSION_FILE)
    (place / "mbd_comp_8.pt").write_text("another codec")
    return place


def write_parts(folder: Path) -> Path:
    """All four components, each in a folder of its own name."""
    for write in (write_text_encoder, write_codec, write_demucs, write_diffusion):
        write(folder)
    return folder


def melody_config() -> dict[str, Any]:
    """A melody checkpoint's solver config like Meta's: T5 and Demucs by name, and paths on the trainer's machine."""
    config = {**tiny.lm_config("melody"), "compression_model_checkpoint": f"//pretrained/{CODEC}"}
    description, chroma = config["conditioners"]["description"], config["conditioners"]["self_wav"]["chroma"]
    training_only = {"match_len_on_eval": False, "cache_path": "/trainer", "eval_wavs": "/trainer", "n_eval_wavs": 100}
    config["conditioners"] = {
        "description": {"model": "t5", "t5": {**description["t5"], "name": TEXT_ENCODER}},
        "self_wav": {"model": "chroma_stem", "chroma_stem": {**chroma, **training_only}},
    }
    return config


def write_melody(folder: Path, parts: Path, seed: int = 0) -> Path:
    """A melody checkpoint in audiocraft's export format: only its LM; ``parts`` is the folder of its components."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lm = build.untrained_lm(OmegaConf.create(melody_config()), parts, "cpu")
    tiny.export(folder / "state_dict.bin", lm.state_dict(), melody_config())
    torch.save({"pretrained": CODEC}, folder / "compression_state_dict.bin")
    return folder
