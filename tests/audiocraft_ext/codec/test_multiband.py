"""MultiBand Diffusion with small random weights against audiocraft's own ``MultiBandDiffusion``."""

from collections.abc import Callable
from pathlib import Path

import julius
import pytest
import torch
from torch import Tensor

from audiocraft_ext.checkpoint import Checkpoint, load
from audiocraft_ext.checkpoint.locate.pretrained import DIFFUSION, DIFFUSION_FILE
from audiocraft_ext.codec import chunked
from audiocraft_ext.codec.multiband import N_EQ_BANDS, N_PASSES, MultiBandDecoder, match_levels
from audiocraft_ext.errors import Cancelled, CheckpointError, InputError
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.upstream import DiffusionProcess, MultiBandDiffusion, NoiseSchedule, builders, use_generator
from tests.support import tiny, tiny_components
from tests.support.requests import DEFAULTS
from tests.support.tiny import CARD, Kind

TinyCheckpoint = Callable[[Kind], Checkpoint]
SPLIT = julius.SplitBands(tiny.SAMPLE_RATE, n_bands=N_EQ_BANDS)


@pytest.fixture
def with_diffusion(tiny_checkpoint: TinyCheckpoint, tmp_path: Path) -> TinyCheckpoint:
    """The tiny checkpoints with diffusion weights in audiocraft's format in their folder."""
    torch.save(tiny_components.diffusion(), tmp_path / DIFFUSION_FILE)

    def add_diffusion(kind: Kind) -> Checkpoint:
        plain = tiny_checkpoint(kind)
        return Checkpoint(plain.lm, plain.codec, plain.codec_name, tmp_path)

    return add_diffusion


def tokens(n_codebooks: int, n_frames: int = 50) -> Tensor:
    return torch.randint(CARD, (1, n_codebooks, n_frames), generator=torch.Generator().manual_seed(1))


def upstream(checkpoint: Checkpoint) -> MultiBandDiffusion:
    """audiocraft's own decoder with the same weights."""
    package = tiny_components.diffusion()
    processes = []
    for band in range(package["n_bands"]):
        model = builders.get_diffusion_model(package[band]["cfg"])
        model.load_state_dict(package[band]["model_state"])
        processor = builders.get_processor(package[band]["cfg"].processor, package["sample_rate"])
        processor.load_state_dict(package[band]["processor_state"])
        schedule = NoiseSchedule(**package[band]["cfg"].schedule, sample_processor=processor, device="cpu")
        processes.append(DiffusionProcess(model.eval(), schedule))
    return MultiBandDiffusion(processes, checkpoint.codec)


def decode(checkpoint: Checkpoint, codes: Tensor, seed: int = 5) -> Tensor:
    with use_generator(torch.Generator().manual_seed(seed)):
        return MultiBandDecoder.load(checkpoint).decode(codes, Progress())


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the peak."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


# Largest difference measured, relative to the peak: 2e-6.
@torch.no_grad()
def test_mono_samples_are_audiocraft_s_own(with_diffusion: TinyCheckpoint) -> None:
    checkpoint = with_diffusion("text")
    decoder = upstream(checkpoint)
    with use_generator(torch.Generator().manual_seed(5)):
        theirs = decoder.tokens_to_wav(tokens(4))
    ours = decode(checkpoint, tokens(4))
    assert difference(ours, theirs) < 2e-5
    assert ours.shape == (1, 1, 50 * 640)
    assert ours.std() > 0


@torch.no_grad()
def test_stereo_is_left_and_right_each_equalised_on_its_own(with_diffusion: TinyCheckpoint) -> None:
    checkpoint = with_diffusion("stereo")
    codes, decoder = tokens(8), upstream(checkpoint)
    sides = torch.cat([codes[:, 0::2], codes[:, 1::2]])
    with use_generator(torch.Generator().manual_seed(5)):
        both = decoder.generate(decoder.get_emb(sides), size=torch.Size([2, 1, 50 * 640]))
    plain = decoder.codec_model.decode(sides)
    theirs = [decoder.re_eq(both[i : i + 1], plain[i : i + 1]) for i in range(2)]
    assert difference(decode(checkpoint, codes), torch.cat(theirs, dim=1)) < 2e-5


def test_left_does_not_depend_on_right(with_diffusion: TinyCheckpoint) -> None:
    checkpoint, codes = with_diffusion("stereo"), tokens(8)
    other_right = codes.clone()
    other_right[:, 1::2] = codes[:, 1::2].flip(-1)
    first, second = decode(checkpoint, codes), decode(checkpoint, other_right)
    assert torch.equal(first[:, 0], second[:, 0])
    assert not torch.equal(first[:, 1], second[:, 1])


@torch.no_grad()
def test_the_codec_decodes_what_is_below_the_crossover(with_diffusion: TinyCheckpoint) -> None:
    checkpoint = with_diffusion("text")
    torch.save({**tiny_components.diffusion(), "codec_below_hz": 6000}, checkpoint.folder / DIFFUSION_FILE)
    decoder, plain = upstream(checkpoint), checkpoint.codec.decode(tokens(4), None)
    with use_generator(torch.Generator().manual_seed(5)):
        bands = decoder.generate(decoder.get_emb(tokens(4)), size=plain.shape)
    theirs = decoder.re_eq(bands + julius.lowpass_filter(plain, 6000 / tiny.SAMPLE_RATE), plain)
    assert difference(decode(checkpoint, tokens(4)), theirs) < 2e-5


# The U-Net's group norms see one chunk's statistics: 1.2e-2 was measured with these random weights and chunks of 3 s,
# where another seed's samples differ by 1.5.
@torch.no_grad()
def test_chunks_of_a_long_clip_join_to_its_samples_decoded_whole(
    with_diffusion: TinyCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "MAX_UNCHUNKED_S", 3)
    monkeypatch.setattr(chunked, "CHUNK_S", 3)
    checkpoint, codes = with_diffusion("text"), tokens(4, 50 * 6 + 7)
    joined, other = decode(checkpoint, codes), decode(checkpoint, codes, seed=6)
    monkeypatch.setattr(chunked, "MAX_UNCHUNKED_S", 60)
    whole = decode(checkpoint, codes)
    assert joined.shape == whole.shape
    assert difference(joined, whole) < 0.04
    assert difference(other, whole) > 0.5


def test_the_log_counts_its_passes(with_diffusion: TinyCheckpoint, capsys: pytest.CaptureFixture[str]) -> None:
    decode(with_diffusion("text"), tokens(4))
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert last.startswith("100%|")
    assert f"{N_PASSES * tiny_components.N_BANDS}/{N_PASSES * tiny_components.N_BANDS}" in last


@pytest.mark.parametrize("kind", ["text", "stereo"])
def test_a_seed_repeats_a_request_s_diffusion(with_diffusion: TinyCheckpoint, kind: Kind) -> None:
    model = Model(with_diffusion(kind), EngineSettings(consume=False))
    request = Request.validated(**{**DEFAULTS, "duration": 1, "seed": 4, "multi_band_diffusion": True})
    first, again = (model.generate(request, None, Progress()) for _ in range(2))
    plain = model.generate(Request.validated(**{**DEFAULTS, "duration": 1, "seed": 4}), None, Progress())
    assert torch.equal(first, again)
    assert first.shape == plain.shape
    assert not torch.equal(first, plain)


def test_a_silent_reference_gives_silence_and_no_nan(
    with_diffusion: TinyCheckpoint, tiny_checkpoint: TinyCheckpoint
) -> None:
    checkpoint = with_diffusion("text")
    silent = load(str(tiny_checkpoint("text").folder), "cpu").codec
    for name, parameter in silent.decoder.named_parameters():
        if name.endswith(("weight_g", "bias")):
            parameter.data.zero_()
    samples = decode(Checkpoint(checkpoint.lm, silent, None, checkpoint.folder), tokens(4))
    assert samples.abs().max() == 0


def test_a_cancelled_decode_ends_before_its_next_chunk(with_diffusion: TinyCheckpoint) -> None:
    progress = Progress()
    progress.stop()
    with pytest.raises(Cancelled):
        MultiBandDecoder.load(with_diffusion("text")).decode(tokens(4), progress)


def test_weights_in_a_folder_of_their_name_are_found_too(with_diffusion: TinyCheckpoint) -> None:
    checkpoint = with_diffusion("text")
    (checkpoint.folder / DIFFUSION).mkdir(parents=True)
    (checkpoint.folder / DIFFUSION_FILE).rename(checkpoint.folder / DIFFUSION / DIFFUSION_FILE)
    assert checkpoint.has_diffusion
    assert len(checkpoint.load_diffusion().bands) == tiny_components.N_BANDS


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"codec_dim": 24}, "width 24 at 32000 Hz.* width 16 at 32000"),
        ({"sample_rate": 24000}, "width 16 at 24000 Hz"),
    ],
    ids=["latents", "sample rate"],
)
def test_weights_of_another_codec_are_refused(
    with_diffusion: TinyCheckpoint, other: dict[str, int], message: str
) -> None:
    checkpoint = with_diffusion("text")
    torch.save(tiny_components.diffusion(**other), checkpoint.folder / DIFFUSION_FILE)
    with pytest.raises(CheckpointError, match=message):
        MultiBandDecoder.load(checkpoint)
    request = Request(prompt="", duration=1, multi_band_diffusion=True)
    with pytest.raises(InputError, match=f"^multi_band_diffusion: true, .*{message}.* set it to false"):
        Model(checkpoint, EngineSettings(consume=False)).generate(request, None, Progress())


def noise(n_rows: int, n_samples: int, seed: int) -> Tensor:
    return 0.1 * torch.randn(n_rows, 1, n_samples, generator=torch.Generator().manual_seed(seed))


def music(n_rows: int, n_samples: int, seed: int) -> Tensor:
    """Noise that falls by 6 dB an octave, with unequal ends and a mean that is not 0."""
    return 0.02 + 0.1 * julius.highpass_filter(noise(n_rows, n_samples, seed).cumsum(-1), 30 / tiny.SAMPLE_RATE)


# Largest difference measured: 2e-6. The longest clip takes several chunks.
@pytest.mark.parametrize("n_samples", [20_000, 127_564, 300_000])
def test_level_matching_is_audiocraft_s_re_eq(
    tiny_checkpoint: TinyCheckpoint, monkeypatch: pytest.MonkeyPatch, n_samples: int
) -> None:
    monkeypatch.setattr(chunked, "MAX_UNCHUNKED_S", 5)
    theirs = MultiBandDiffusion([], tiny_checkpoint("text").codec)
    for samples, reference in (
        (noise(1, n_samples, 0), music(1, n_samples, 1)),
        (music(1, n_samples, 2), noise(1, n_samples, 3)),
    ):
        assert difference(match_levels(samples, reference, SPLIT), theirs.re_eq(samples, reference)) < 1e-5


def test_what_is_silent_stays_silent() -> None:
    silence, sound = torch.zeros(1, 1, 32_000), noise(1, 32_000, 0)
    assert match_levels(silence, sound, SPLIT).abs().max() == 0
    assert match_levels(sound, silence, SPLIT).abs().max() == 0


def test_a_silent_band_stays_silent() -> None:
    seconds = torch.arange(64_000, dtype=torch.double) / tiny.SAMPLE_RATE
    tone = (torch.sin(2 * torch.pi * 440 * seconds) * torch.hann_window(64_000, dtype=torch.double)).float()[None, None]
    bands = SPLIT(match_levels(tone, noise(1, 64_000, 0), SPLIT))
    assert bands[:8].std() > 1e-3
    assert bands[8:].std() < 1e-4  # amplified rounding errors would be as loud as the noise, 0.02
