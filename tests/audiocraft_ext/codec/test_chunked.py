"""Chunked decoding against decoding a clip whole."""

import pytest
import torch
from omegaconf import OmegaConf

from audiocraft_ext.codec import chunked
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


# Largest difference measured, relative to the peak: 7e-7 without an LSTM, 2e-7 with EnCodec's two layers (random
# weights, whose memory may be shorter than trained ones').
@pytest.mark.parametrize("lstm", [0, 2])
@pytest.mark.parametrize("stereo", [False, True])
@torch.inference_mode()
def test_chunks_join_to_the_whole_clip_s_samples(lstm: int, stereo: bool) -> None:
    model = random_codec(lstm)
    wrapped = InterleaveStereoCompressionModel(model) if stereo else model
    codes = tokens(43.5, 8 if stereo else 4)
    whole = wrapped.decode(codes, None)
    joined = chunked.decode(wrapped, codes, Progress())
    assert joined.shape == whole.shape
    assert ((joined - whole).abs().max() / whole.abs().max()).item() < 1e-5


@torch.inference_mode()
def test_a_clip_of_the_model_s_window_is_one_chunk() -> None:
    model = random_codec(lstm=2)
    assert torch.equal(chunked.decode(model, tokens(30), Progress()), model.decode(tokens(30), None))


def test_a_cancelled_decode_ends_before_its_next_chunk() -> None:
    progress = Progress()
    progress.stop()
    with pytest.raises(Cancelled):
        chunked.decode(random_codec(0), tokens(31), progress)
