"""Decoding and encoding in chunks against a clip as a whole."""

import pytest
import torch
from omegaconf import OmegaConf

from audiocraft_ext.codec import chunked
from audiocraft_ext.errors import Cancelled
from audiocraft_ext.progress import Progress
from audiocraft_ext.upstream import CompressionModel, InterleaveStereoCompressionModel, builders
from tests.support.tiny import CARD, CODEC_CONFIG, SAMPLE_RATE

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


def sound(seconds: float, n_channels: int = 1) -> torch.Tensor:
    return torch.randn(1, n_channels, int(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0)) / 10


# Equal to the last token also with EnCodec's two layers of LSTM, of random weights. Trained ones may remember for
# longer: with a forget gate biased by 3, 37 % of the tokens were equal, with five seconds of padding 99 %.
@pytest.mark.parametrize("lstm", [0, 2])
@pytest.mark.parametrize("stereo", [False, True])
@torch.inference_mode()
def test_chunks_of_a_long_clip_join_to_its_tokens(lstm: int, stereo: bool) -> None:
    model = random_codec(lstm)
    wrapped = InterleaveStereoCompressionModel(model) if stereo else model
    samples = sound(43.51, 2 if stereo else 1)
    assert samples.shape[-1] % chunked.hop_length(wrapped)  # its last frame is not whole
    assert torch.equal(chunked.encode(wrapped, samples, Progress()), wrapped.encode(samples)[0])


@torch.inference_mode()
def test_an_excerpt_of_the_model_s_window_is_one_chunk() -> None:
    model = random_codec(lstm=2)
    assert torch.equal(chunked.encode(model, sound(30), Progress()), model.encode(sound(30))[0])


@torch.inference_mode()
def test_the_codec_encodes_no_more_than_a_chunk_and_a_cancel_ends_it() -> None:
    model, progress, lengths = random_codec(0), Progress(), list[int]()
    model.encoder.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[-1]))
    chunked.encode(model, sound(61), progress)
    assert len(lengths) == 13
    assert max(lengths) <= (chunked.CHUNK_S + 2 * chunked.PADDING_S) * SAMPLE_RATE
    model.encoder.register_forward_hook(lambda *_: progress.stop())
    with pytest.raises(Cancelled):
        chunked.encode(model, sound(61), progress)
    assert len(lengths) == 14
