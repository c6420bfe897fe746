"""Melodies on a checkpoint as Meta's: ``MusicGen.get_pretrained(...).generate_with_chroma``, token for token."""

import math
import random
import shutil
from pathlib import Path

import demucs.pretrained
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from audiocraft_ext import checkpoint
from audiocraft_ext.audio.read import Clip
from audiocraft_ext.musicgen import Model, RequestMusicGen
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.upstream import MusicGen, T5Conditioner, builders
from tests.support import tiny, tiny_components
from tests.support.requests import AUDIO

PROMPT = "dark electro"
STRIDE_S = 12  # three fifths of the window, as upstream's 18 of 30 s


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A melody checkpoint with a T5, a codec and a Demucs beside it, by Meta's names."""
    place = tmp_path_factory.mktemp("melody")
    tiny_components.write_melody(place / "checkpoint", tiny_components.write_parts(place / "parts"))
    shutil.copytree(place / "parts", place / "checkpoint", dirs_exist_ok=True)
    shutil.rmtree(place / "checkpoint" / tiny_components.CODEC)  # of a folder, audiocraft reads exports alone
    (place / "checkpoint" / tiny_components.CODEC).mkdir()
    codec = builders.get_compression_model(OmegaConf.create(tiny.CODEC_CONFIG))
    tiny.export(
        place / "checkpoint" / tiny_components.CODEC / "compression_state_dict.bin",
        codec.state_dict(),
        tiny.CODEC_CONFIG,
    )
    package = torch.load(place / "checkpoint" / "state_dict.bin")
    config = OmegaConf.create(package["xp.cfg"])
    for of_the_trainer in ("eval_wavs", "n_eval_wavs"):  # audiocraft looks for the trainer's clips, and fails
        del config.conditioners.self_wav.chroma_stem[of_the_trainer]
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, place / "checkpoint" / "state_dict.bin")
    return place / "checkpoint"


@pytest.fixture
def theirs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> MusicGen:
    """audiocraft's own, by its own loader, which finds the working directory's files by name.

    Its Demucs is the small one, shifted by nothing, which is the longest of the shifts that it would draw.
    """
    monkeypatch.chdir(folder)
    monkeypatch.setitem(T5Conditioner.MODELS_DIMS, tiny_components.TEXT_ENCODER, 128)
    monkeypatch.setattr(demucs.pretrained, "get_model", lambda name: tiny_components.demucs().eval())
    monkeypatch.setattr(random, "randint", lambda low, high: high)
    return MusicGen.get_pretrained(str(folder), device="cpu")


def clip(seconds: float, channels: int = 2, sample_rate: int = tiny.SAMPLE_RATE, seed: int = 0) -> Clip:
    """Three notes a second, each a random pitch."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(int(seconds * sample_rate)) / sample_rate
    pitches_hz = 220 * 2 ** (torch.randint(24, (3 * int(seconds + 1),), generator=generator) / 12)
    return Clip(0.5 * torch.sin(2 * torch.pi * pitches_hz[(3 * t).long()] * t).expand(channels, -1), sample_rate)


def our_tokens(folder: Path, melody: Clip, duration: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The tokens [1, K, T] that a request is decoded from."""
    decoded: list[Tensor] = []
    original = RequestMusicGen.generate_audio

    def generate_audio(generation: RequestMusicGen, tokens: Tensor) -> Tensor:
        decoded.append(tokens)
        return original(generation, tokens)

    monkeypatch.setattr(RequestMusicGen, "generate_audio", generate_audio)
    model = Model(checkpoint.load(str(folder), "cpu"), EngineSettings())
    request = Request(prompt=PROMPT, input_audio=AUDIO, duration=duration, temperature=0, seed=1)
    # As much of the melody as the Predictor has read of a file.
    n_samples = math.ceil(model.max_input_s(request) * melody.sample_rate)
    model.generate(request, Clip(melody.samples[:, :n_samples], melody.sample_rate), Progress())
    model.close()
    return decoded[0]


# Melodies shorter than the clip start again, longer ones are cut, and beyond the window they go on with the windows.
@pytest.mark.parametrize(
    ("melody", "duration"),
    [
        (clip(2), 2),
        (clip(0.7, channels=1), 3),
        (clip(6), 2),
        (clip(2, sample_rate=44100), 2),
        (clip(5), tiny.WINDOW_S + 3),
        (clip(40), tiny.WINDOW_S + 3),
        (clip(30), 2),
    ],
    ids=["as long", "shorter", "longer", "44.1 kHz", "beyond the window", "both beyond the window", "much longer"],
)
def test_a_melody_gives_audiocraft_s_own_tokens(
    folder: Path, theirs: MusicGen, monkeypatch: pytest.MonkeyPatch, melody: Clip, duration: int
) -> None:
    theirs.set_generation_params(duration=duration, use_sampling=False, extend_stride=STRIDE_S)
    _, expected = theirs.generate_with_chroma([PROMPT], melody.samples[None], melody.sample_rate, return_tokens=True)
    tokens = our_tokens(folder, melody, duration, monkeypatch)
    assert tokens.shape == (1, 4, duration * 50)
    assert torch.equal(tokens, expected)
    other = clip(melody.duration_s, seed=1)
    assert not torch.equal(our_tokens(folder, other, duration, monkeypatch), expected), "the melody has no effect"
