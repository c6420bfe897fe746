"""Decoding in pieces, held to decoding at once."""

import pytest
import torch
from omegaconf import OmegaConf

from audiocraft_ext import codec
from audiocraft_ext.errors import Cancelled
from audiocraft_ext.progress import Progress
from audiocraft_ext.upstream import CompressionModel, InterleaveStereoCompressionModel, builders
from tests.support.tiny import CARD, CODEC_CONFIG

FRAME_RATE = 50


def random_codec(lstm: int) -> CompressionModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        seanet = {**CODEC_CONFIG["seanet"], "lstm": lstm}
        return builders.get_compression_model(OmegaConf.create({**CODEC_CONFIG, "seanet": seanet})).eval()


def tokens(seconds: float, n_codebooks: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(CARD, (1, n_codebooks, int(seconds * FRAME_RATE)), generator=generator)


# The largest difference measured, relative to the loudest sample: 7e-7 without an LSTM, 2e-7 with EnCodec's two layers
# (random weights, which forget faster than trained ones may).
@pytest.mark.parametrize("lstm", [0, 2])
@pytest.mark.parametrize("stereo", [False, True])
@torch.inference_mode()
def test_pieces_join_to_what_one_piece_gives(lstm: int, stereo: bool) -> None:
    model = random_codec(lstm)
    wrapped = InterleaveStereoCompressionModel(model) if stereo else model
    codes = tokens(43.5, 8 if stereo else 4)
    whole = wrapped.decode(codes, None)
    pieces = codec.decode(wrapped, codes, Progress())
    assert pieces.shape == whole.shape
    assert ((pieces - whole).abs().max() / whole.abs().max()).item() < 1e-5


@torch.inference_mode()
def test_a_clip_of_the_model_s_window_is_one_piece() -> None:
    model = random_codec(lstm=2)
    assert torch.equal(codec.decode(model, tokens(30), Progress()), model.decode(tokens(30), None))


def test_a_stopped_decode_ends_before_its_next_piece() -> None:
    progress = Progress()
    progress.stop()
    with pytest.raises(Cancelled):
        codec.decode(random_codec(0), tokens(31), progress)
