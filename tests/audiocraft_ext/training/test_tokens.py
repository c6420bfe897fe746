"""Tokens are the codec's of the same samples, bit for bit; a cache of them by content survives damage."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from audiocraft_ext import checkpoint
from audiocraft_ext.audio.read import Clip
from audiocraft_ext.audio.read import read as read_audio
from audiocraft_ext.audio.resample import resample
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.errors import Cancelled, InputError
from audiocraft_ext.training import tokens
from audiocraft_ext.training.dataset import Piece
from audiocraft_ext.training.tokens import Example, check_near_duplicates, encode
from audiocraft_ext.upstream import WavCondition
from tests.support import tiny
from tests.support.audio_files import chords, ffmpeg, write
from tests.support.songs import song

Load = Callable[[tiny.Kind], Checkpoint]


@pytest.fixture(scope="session")
def load(tiny_checkpoint: Load) -> Load:
    """Tiny checkpoints with the embedded one's codec: a codec with random weights has one answer to all sounds."""
    codec = checkpoint.load(str(EMBEDDED), "cpu").codec
    return lambda kind: replace(tiny_checkpoint(kind), codec=codec)


def no_report(done: int, total: int) -> None:
    pass


@pytest.fixture
def pieces(tmp_path: Path) -> list[Piece]:
    """Four of two songs, at 44.1 kHz in stereo and at 8 kHz in mono; they overlap, and one is shorter."""
    a, b = write(tmp_path / "a.wav", chords(5.0), subtype="FLOAT"), song(tmp_path / "b.wav", 2.51)
    windows = [(a, 0.0, 2.0), (a, 1.0, 2.0), (a, 3.0, 2.0), (b, 0.0, 2.51)]
    return [Piece(path.name, path, start_s, length_s, f"of {path.stem}") for path, start_s, length_s in windows]


def samples_of(piece: Piece, rate: int, channels: int) -> Tensor:
    """Samples [1, C, N] of a piece, cut from the whole file, to whole frames of 640."""
    whole = read_audio(piece.path)
    first, n = (round(seconds * whole.sample_rate) for seconds in (piece.start_s, piece.duration_s))
    samples = resample(Clip(whole.samples[:, first : first + n], whole.sample_rate), rate, channels)
    return samples[None, :, : samples.shape[-1] // 640 * 640]


@pytest.mark.parametrize("kind", ["text", "melody", "stereo"])
@pytest.mark.parametrize("block_s", [300.0, 2.5])
def test_codes_are_the_codec_s_of_the_same_samples(
    load: Load,
    pieces: list[Piece],
    tmp_path: Path,
    kind: tiny.Kind,
    block_s: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokens, "BLOCK_S", block_s)
    base = load(kind)
    examples = encode(pieces, base, tmp_path / "cache", no_report)
    assert [(example.song, example.caption) for example in examples] == [(p.song, p.caption) for p in pieces]
    for piece, example in zip(pieces, examples, strict=True):
        samples = samples_of(piece, base.codec.sample_rate, 2 if kind == "stereo" else 1)
        sides = [base.codec.encode(side[:, None])[0][0] for side in samples.unbind(dim=1)]
        expected = torch.stack(sides, dim=1).flatten(0, 1) if kind == "stereo" else sides[0]  # left, right, left, ...
        assert example.codes.dtype == torch.int16
        assert torch.equal(example.codes.long(), expected)
        assert example.codes.shape == (base.lm.n_q, round(piece.duration_s * 50 - 0.49))
    assert not torch.equal(examples[0].codes, examples[1].codes)


def test_chroma_is_the_conditioner_s_before_its_projection(load: Load, pieces: list[Piece], tmp_path: Path) -> None:
    base = load("melody")
    conditioner = base.lm.condition_provider.conditioners["self_wav"]
    for piece, example in zip(pieces, encode(pieces, base, tmp_path / "cache", no_report), strict=True):
        wav = samples_of(piece, base.codec.sample_rate, 1)
        condition = WavCondition(wav, torch.tensor([wav.shape[-1]]), [base.codec.sample_rate], [None], [0.0])
        assert example.chroma is not None
        assert example.chroma.shape == (conditioner.chroma_len, 12)
        assert torch.equal(conditioner.output_proj(example.chroma)[None], conditioner(condition)[0])


def test_examples_can_be_trained_on(load: Load, pieces: list[Piece], tmp_path: Path) -> None:
    """Tensors of inference mode cannot."""
    base = load("melody")
    (example, *_) = encode(pieces, base, tmp_path / "cache", no_report)
    assert example.chroma is not None
    assert not example.codes.is_inference()
    projection = base.lm.condition_provider.conditioners["self_wav"].output_proj.requires_grad_(True)
    projection(example.chroma).sum().backward()
    projection.zero_grad()


def same(got: list[Example], expected: list[Example]) -> bool:
    pairs = list(zip(got, expected, strict=True))
    return all(torch.equal(a.codes, b.codes) and (a.song, a.caption) == (b.song, b.caption) for a, b in pairs)


@pytest.fixture
def codec_calls(monkeypatch: pytest.MonkeyPatch, load: Load) -> list[int]:
    """The number of samples of each call of the codec."""
    calls: list[int] = []
    codec = load("text").codec
    original = codec.encode

    def encode(wav: Tensor) -> object:
        calls.append(wav.shape[-1])
        return original(wav)

    monkeypatch.setattr(codec, "encode", encode)
    return calls


def test_each_piece_is_encoded_once(load: Load, pieces: list[Piece], tmp_path: Path, codec_calls: list[int]) -> None:
    base, cache = load("text"), tmp_path / "cache"
    first = encode(pieces, base, cache, no_report)
    assert len(codec_calls) == 4
    moved = [replace(piece, path=piece.path.rename(tmp_path / f"moved {i}")) for i, piece in enumerate(pieces[2:])]
    assert same(encode(moved, base, cache, no_report), first[2:])
    assert len(codec_calls) == 4
    assert not list(cache.glob("*.part"))


def test_other_content_windows_and_codecs_are_encoded_again(
    load: Load, pieces: list[Piece], tmp_path: Path, codec_calls: list[int]
) -> None:
    base, piece, cache = load("text"), pieces[0], tmp_path / "cache"
    encode([piece], base, cache, no_report)
    encode([replace(piece, start_s=0.5)], base, cache, no_report)
    encode([replace(piece, duration_s=1.0)], base, cache, no_report)
    write(piece.path, chords(5.0).flip(-1), subtype="FLOAT")
    encode([piece], base, cache, no_report)
    weight = next(base.codec.parameters())
    with torch.no_grad():
        weight.neg_()
        encode([piece], base, cache, no_report)
        weight.neg_()
    assert len(codec_calls) == 5
    encode([piece], base, cache, no_report)
    assert len(codec_calls) == 5


@pytest.mark.parametrize("n_bytes", [0, 7, 60, 200])
def test_a_damaged_cache_file_is_written_again(load: Load, pieces: list[Piece], tmp_path: Path, n_bytes: int) -> None:
    base, cache = load("text"), tmp_path / "cache"
    first = encode(pieces, base, cache, no_report)
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:n_bytes])
    assert same(encode(pieces, base, cache, no_report), first)
    assert all(file.stat().st_size > 200 for file in cache.iterdir())


def test_a_cancelled_run_keeps_the_pieces_that_are_done(
    load: Load, pieces: list[Piece], tmp_path: Path, codec_calls: list[int]
) -> None:
    reports: list[tuple[int, int]] = []

    def cancel(done: int, total: int) -> None:
        reports.append((done, total))
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        encode(pieces, load("text"), tmp_path / "cache", cancel)
    encode(pieces, load("text"), tmp_path / "cache", lambda *report: reports.append(report))
    assert reports == [(1, 4), (2, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(codec_calls) == 4


def test_a_training_song_in_another_format_is_found_in_the_held_out_ones(load: Load, tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.wav", chords(4.0)), song(tmp_path / "b.wav", 4.0), tmp_path / "c.mp3"]
    ffmpeg("-i", paths[0], "-b:a", "320k", paths[2])
    pieces = [Piece(path.name, path, 0.0, 4.0, "") for path in paths]
    base = load("text")
    a, b, c = encode(pieces, base, tmp_path / "cache", no_report)
    check_near_duplicates([a], [b], base)
    check_near_duplicates([replace(a, codes=a.codes[:, :-1])], [b], base)
    with pytest.raises(InputError, match=r"(?s)^dataset_path: held-out .*\n- c\.mp3: .* as a\.wav\.\n.*Remove one"):
        check_near_duplicates([b, a, a], [c, c], base)


@pytest.mark.parametrize("kind", ["text", "stereo"])
def test_songs_that_share_silence_alone_are_different_ones(load: Load, tmp_path: Path, kind: tiny.Kind) -> None:
    """Plucks with silence between them; the second one again as an mp3, which fills the silence with noise."""
    music = [chords(4.0), chords(4.0).flip(-1)]
    has_sound = torch.arange(music[0].shape[-1]) % 22_050 < 5_000
    paths = [write(tmp_path / f"{i}.wav", samples * has_sound) for i, samples in enumerate(music)]
    ffmpeg("-i", paths[1], "-b:a", "192k", tmp_path / "again.mp3")
    base = load(kind)
    pieces = [Piece(path.name, path, 0.0, 4.0, "") for path in (*paths, tmp_path / "again.mp3")]
    first, second, again = encode(pieces, base, tmp_path / "cache", no_report)
    assert (first.codes[0] == second.codes[0]).float().mean() > 0.5
    check_near_duplicates([first], [second], base)
    with pytest.raises(InputError, match=r"again\.mp3: .* as 1\.wav"):
        check_near_duplicates([first, second], [again], base)
