"""MultiBand Diffusion with small random weights, held to audiocraft's own ``MultiBandDiffusion``."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from audiocraft_ext.checkpoint import Checkpoint, load
from audiocraft_ext.checkpoint.parts import DIFFUSION, DIFFUSION_FILE
from audiocraft_ext.diffusion import DiffusionDecoder
from audiocraft_ext.errors import Cancelled, CheckpointError
from audiocraft_ext.language_model import Settings
from audiocraft_ext.musicgen import Model
from audiocraft_ext.progress import Progress
from audiocraft_ext.request import Request
from audiocraft_ext.upstream import DiffusionProcess, MultiBandDiffusion, drawing_from
from tests import tiny_parts
from tests.audiocraft_ext.test_request import DEFAULTS
from tests.tiny import CARD, Kind

TinyCheckpoint = Callable[[Kind], Checkpoint]


@pytest.fixture
def with_diffusion(tiny_checkpoint: TinyCheckpoint, tmp_path: Path) -> TinyCheckpoint:
    """The tiny checkpoints, with diffusion weights of audiocraft's format in their folder."""
    torch.save(tiny_parts.diffusion(), tmp_path / DIFFUSION_FILE)

    def beside_diffusion(kind: Kind) -> Checkpoint:
        plain = tiny_checkpoint(kind)
        return Checkpoint(plain.lm, plain.codec, plain.codec_name, tmp_path)

    return beside_diffusion


def tokens(n_codebooks: int, n_frames: int = 50) -> Tensor:
    return torch.randint(CARD, (1, n_codebooks, n_frames), generator=torch.Generator().manual_seed(1))


def upstream(decoder: DiffusionDecoder, codes: Tensor, generator: torch.Generator) -> Tensor:
    processes = [DiffusionProcess(model, schedule) for model, schedule in decoder._bands]
    with drawing_from(generator):
        return MultiBandDiffusion(processes, decoder._codec).tokens_to_wav(codes)


def test_mono_tokens_give_audiocraft_s_own_samples(with_diffusion: TinyCheckpoint) -> None:
    decoder = DiffusionDecoder.load(with_diffusion("text"))
    theirs = upstream(decoder, tokens(4), torch.Generator().manual_seed(5))
    with drawing_from(torch.Generator().manual_seed(5)):
        ours = decoder.decode(tokens(4), Progress())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert ours.shape == (1, 1, 50 * 640)
    assert ours.std() > 0


def test_stereo_tokens_are_left_and_right_each_decoded_on_its_own(with_diffusion: TinyCheckpoint) -> None:
    decoder = DiffusionDecoder.load(with_diffusion("stereo"))
    codes = tokens(8)
    generator = torch.Generator().manual_seed(5)
    theirs = [upstream(decoder, codes[:, side::2], generator) for side in range(2)]
    with drawing_from(torch.Generator().manual_seed(5)):
        ours = decoder.decode(codes, Progress())
    torch.testing.assert_close(ours, torch.cat(theirs, dim=1), rtol=0, atol=0)


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
    codec = load(str(tiny_checkpoint("text").folder), "cpu").codec
    for name, parameter in codec.decoder.named_parameters():
        if name.endswith(("weight_g", "bias")):
            parameter.data.zero_()
    decoder = DiffusionDecoder.load(Checkpoint(checkpoint.lm, codec, None, checkpoint.folder))
    samples = decoder.decode(tokens(4), Progress())
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
    assert DiffusionDecoder.is_available_for(checkpoint)
    assert len(DiffusionDecoder.load(checkpoint)._bands) == tiny_parts.N_BANDS


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"codec_dim": 24}, "24 numbers a frame at 32000 Hz.* 16 at 32000"),
        ({"sample_rate": 24000}, "16 numbers a frame at 24000 Hz"),
    ],
    ids=["latents", "sample rate"],
)
def test_diffusion_weights_of_another_codec_are_refused(
    with_diffusion: TinyCheckpoint, other: dict[str, int], told: str
) -> None:
    checkpoint = with_diffusion("text")
    torch.save(tiny_parts.diffusion(**other), checkpoint.folder / DIFFUSION_FILE)
    with pytest.raises(CheckpointError, match=told):
        DiffusionDecoder.load(checkpoint)
