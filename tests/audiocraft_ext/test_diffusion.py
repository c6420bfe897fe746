"""MultiBand Diffusion with small random weights, held to audiocraft's own ``MultiBandDiffusion``."""

from collections.abc import Callable
from pathlib import Path

import julius
import pytest
import torch
from torch import Tensor

from audiocraft_ext import codec
from audiocraft_ext.checkpoint import Checkpoint, load
from audiocraft_ext.checkpoint.locate.pretrained import DIFFUSION, DIFFUSION_FILE
from audiocraft_ext.diffusion import N_PASSES, DiffusionDecoder
from audiocraft_ext.errors import Cancelled, CheckpointError, InputError
from audiocraft_ext.language_model import Settings
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.upstream import DiffusionProcess, MultiBandDiffusion, NoiseSchedule, builders, drawing_from
from tests.support import tiny, tiny_components
from tests.support.requests import DEFAULTS
from tests.support.tiny import CARD, Kind

TinyCheckpoint = Callable[[Kind], Checkpoint]


@pytest.fixture
def with_diffusion(tiny_checkpoint: TinyCheckpoint, tmp_path: Path) -> TinyCheckpoint:
    """The tiny checkpoints, with diffusion weights of audiocraft's format in their folder."""
    torch.save(tiny_components.diffusion(), tmp_path / DIFFUSION_FILE)

    def beside_diffusion(kind: Kind) -> Checkpoint:
        plain = tiny_checkpoint(kind)
        return Checkpoint(plain.lm, plain.codec, plain.codec_name, tmp_path)

    return beside_diffusion


def tokens(n_codebooks: int, n_frames: int = 50) -> Tensor:
    return torch.randint(CARD, (1, n_codebooks, n_frames), generator=torch.Generator().manual_seed(1))


def upstream(checkpoint: Checkpoint) -> MultiBandDiffusion:
    """audiocraft's own decoder of the same weights."""
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


def decoded(checkpoint: Checkpoint, codes: Tensor, fast: bool = True, seed: int = 5) -> Tensor:
    with drawing_from(torch.Generator().manual_seed(seed)):
        return DiffusionDecoder.load(checkpoint, fast).decode(codes, Progress())


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest, of the loudest sample."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


# The largest difference measured: 3e-6.
@pytest.mark.parametrize("fast", [True, False])
@torch.no_grad()
def test_mono_tokens_give_audiocraft_s_own_samples(with_diffusion: TinyCheckpoint, fast: bool) -> None:
    checkpoint = with_diffusion("text")
    decoder = upstream(checkpoint)
    with drawing_from(torch.Generator().manual_seed(5)):
        theirs = decoder.tokens_to_wav(tokens(4))
    ours = decoded(checkpoint, tokens(4), fast)
    assert difference(ours, theirs) < 2e-5
    assert ours.shape == (1, 1, 50 * 640)
    assert ours.std() > 0


@torch.no_grad()
def test_stereo_tokens_are_left_and_right_each_equalised_on_its_own(with_diffusion: TinyCheckpoint) -> None:
    checkpoint = with_diffusion("stereo")
    codes, decoder = tokens(8), upstream(checkpoint)
    sides = torch.cat([codes[:, 0::2], codes[:, 1::2]])
    with drawing_from(torch.Generator().manual_seed(5)):
        both = decoder.generate(decoder.get_emb(sides), size=torch.Size([2, 1, 50 * 640]))
    plain = decoder.codec_model.decode(sides)
    theirs = [decoder.re_eq(both[i : i + 1], plain[i : i + 1]) for i in range(2)]
    assert difference(decoded(checkpoint, codes), torch.cat(theirs, dim=1)) < 2e-5


@torch.no_grad()
def test_lows_may_be_left_to_the_codec(with_diffusion: TinyCheckpoint) -> None:
    checkpoint = with_diffusion("text")
    torch.save({**tiny_components.diffusion(), "codec_below_hz": 6000}, checkpoint.folder / DIFFUSION_FILE)
    decoder, plain = upstream(checkpoint), checkpoint.codec.decode(tokens(4), None)
    with drawing_from(torch.Generator().manual_seed(5)):
        bands = decoder.generate(decoder.get_emb(tokens(4)), size=plain.shape)
    theirs = decoder.re_eq(bands + julius.lowpass_filter(plain, 6000 / tiny.SAMPLE_RATE), plain)
    assert difference(decoded(checkpoint, tokens(4)), theirs) < 2e-5


# Pieces know each its own mean and deviation at the U-Net's norms: 1.2e-2 was measured with these random weights and
# pieces of 3 s, where another seed's samples differ by 1.5. The embedded decoder's figures: benchmarks/audio.py.
@torch.no_grad()
def test_a_long_clip_in_pieces_is_what_one_piece_gives(
    with_diffusion: TinyCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "WHOLE_S", 3)
    monkeypatch.setattr(codec, "PIECE_S", 3)
    checkpoint, codes = with_diffusion("text"), tokens(4, 50 * 6 + 7)
    pieces, other = decoded(checkpoint, codes), decoded(checkpoint, codes, seed=6)
    monkeypatch.setattr(codec, "WHOLE_S", 60)
    whole = decoded(checkpoint, codes)
    assert pieces.shape == whole.shape
    assert difference(pieces, whole) < 0.04
    assert difference(other, whole) > 0.5


def test_its_passes_are_counted_in_the_logs(with_diffusion: TinyCheckpoint, capsys: pytest.CaptureFixture[str]) -> None:
    decoded(with_diffusion("text"), tokens(4))
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert last.startswith("100%|")
    assert f"{N_PASSES * tiny_components.N_BANDS}/{N_PASSES * tiny_components.N_BANDS}" in last


@pytest.mark.parametrize("kind", ["text", "stereo"])
def test_a_request_decodes_by_diffusion_and_repeats(with_diffusion: TinyCheckpoint, kind: Kind) -> None:
    model = Model(with_diffusion(kind), Settings(consume=False))
    request = Request.checked(**{**DEFAULTS, "duration": 1, "seed": 4, "multi_band_diffusion": True})
    first, again = (model.generate(request, None, Progress()) for _ in range(2))
    plain = model.generate(Request.checked(**{**DEFAULTS, "duration": 1, "seed": 4}), None, Progress())
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
    samples = decoded(Checkpoint(checkpoint.lm, silent, None, checkpoint.folder), tokens(4))
    assert samples.abs().max() == 0


def test_a_stopped_decode_ends_at_its_next_pass(with_diffusion: TinyCheckpoint) -> None:
    progress = Progress()
    progress.stop()
    with pytest.raises(Cancelled):
        DiffusionDecoder.load(with_diffusion("text")).decode(tokens(4), progress)


def test_diffusion_weights_in_a_folder_of_their_name_are_found_too(with_diffusion: TinyCheckpoint) -> None:
    checkpoint = with_diffusion("text")
    (checkpoint.folder / DIFFUSION).mkdir(parents=True)
    (checkpoint.folder / DIFFUSION_FILE).rename(checkpoint.folder / DIFFUSION / DIFFUSION_FILE)
    assert checkpoint.has_diffusion
    assert len(DiffusionDecoder.load(checkpoint)._bands) == tiny_components.N_BANDS


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"codec_dim": 24}, "width 24 at 32000 Hz.* width 16 at 32000"),
        ({"sample_rate": 24000}, "width 16 at 24000 Hz"),
    ],
    ids=["latents", "sample rate"],
)
def test_diffusion_weights_of_another_codec_are_refused(
    with_diffusion: TinyCheckpoint, other: dict[str, int], told: str
) -> None:
    checkpoint = with_diffusion("text")
    torch.save(tiny_components.diffusion(**other), checkpoint.folder / DIFFUSION_FILE)
    with pytest.raises(CheckpointError, match=told):
        DiffusionDecoder.load(checkpoint)
    request = Request(prompt="", duration=1, multi_band_diffusion=True)
    with pytest.raises(InputError, match=f"^multi_band_diffusion: true, .*{told}.* set it to false"):
        Model(checkpoint, Settings(consume=False)).generate(request, None, Progress())
