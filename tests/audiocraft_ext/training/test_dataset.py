"""Data sets as users pack them: captions, windows, held-out songs, and notes on all that is not used as sent."""

import os
import shutil
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from audiocraft_ext.audio.read import read as read_audio
from audiocraft_ext.errors import Cancelled
from audiocraft_ext.progress import Progress
from audiocraft_ext.training import dataset as module
from audiocraft_ext.training import songs as songs_module
from audiocraft_ext.training.dataset import Dataset, Piece
from tests.support.audio_files import ffmpeg, write
from tests.support.songs import RATE, song

Read = Callable[..., Dataset]


def captions(data: Dataset) -> dict[str, str]:
    return {piece.song: piece.caption for piece in data.train + data.held_out}


def windows(pieces: list[Piece]) -> list[tuple[float, float]]:
    return [(piece.start_s, piece.duration_s) for piece in pieces]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three songs with captions: one at the top, one in a folder, one in a folder within, with what macOS adds."""
    folder = tmp_path / "songs"
    for name in ("one.wav", "more/two.flac", "more/and more/three.wav"):
        path = song(folder / name)
        path.with_suffix(".txt").write_text(f"a caption of {path.stem},\nin two lines\n", encoding="utf-8-sig")
        for junk in (f"._{path.name}", ".DS_Store"):
            (path.parent / junk).write_bytes(b"\0\5\x16\7Mac OS X")
    shutil.copytree(folder / "more", folder / "__MACOSX" / "more")
    return folder


@pytest.mark.parametrize("kind", ["folder", "zip", "gztar", "tar"])
def test_captions_are_found_in_folders_within_and_whole(folder: Path, tmp_path: Path, read: Read, kind: str) -> None:
    path = folder if kind == "folder" else Path(shutil.make_archive(str(tmp_path / "made"), kind, tmp_path, "songs"))
    path = path.rename(tmp_path / "dataset")  # without a suffix
    assert captions(read(path)) == {
        "one.wav": "a caption of one, in two lines",
        "more/two.flac": "a caption of two, in two lines",
        "more/and more/three.wav": "a caption of three, in two lines",
    }


def test_one_audio_file_is_a_data_set(tmp_path: Path, read: Read) -> None:
    data = read(song(tmp_path / "upload"), one_same_description="dark  electro")
    assert captions(data) == {"upload": "dark electro"}
    assert not data.held_out
    assert any("No song is held out" in note for note in data.notes)


@pytest.mark.parametrize("name", ["a.txt", "a.wav.txt"])
def test_one_audio_file_has_the_caption_beside_it(tmp_path: Path, read: Read, name: str) -> None:
    path = song(tmp_path / "a.wav")
    for text, other in (("bass", name), ("pads", "b.txt")):
        (tmp_path / other).write_text(text)
    assert captions(read(path)) == {"a.wav": "bass"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", 'file_name,genre,text\na.wav,x,"bass, and\nhats"\nin/b.wav,y,pads\n'),
        ("metadata.csv", 'text,file_name\n"bass, and hats",a.wav\npads,./in/b.wav\n'),
        (
            "metadata.jsonl",
            '{"file_name": "a.wav", "text": "bass,\u2028and hats"}\n\n{"file_name": "in/b.wav", "text": "pads\x85"}',
        ),
        ("captions.csv", 'file_name,text\na.wav,"bass,\u2028and hats"\nin/b.wav,\x85pads\n'),
    ],
)
def test_a_table_s_file_names_are_relative_to_its_folder(tmp_path: Path, read: Read, name: str, text: str) -> None:
    song(tmp_path / "songs" / "set" / "a.wav")
    song(tmp_path / "songs" / "set" / "in" / "b.wav")
    (tmp_path / "songs" / "set" / name).write_text(text)
    assert captions(read(tmp_path / "songs")) == {"set/a.wav": "bass, and hats", "set/in/b.wav": "pads"}


def test_a_caption_may_be_named_after_the_whole_file_name(tmp_path: Path, read: Read) -> None:
    for name in ("song.wav", "song.flac", "1. intro", "2. bass"):
        song(tmp_path / "songs" / name)
    for name in ("song.wav", "song.flac", "1. intro", "2. bass"):
        (tmp_path / "songs" / f"{name}.txt").write_text(f"of {name}")
    assert captions(read(tmp_path / "songs")) == {
        name: f"of {name}" for name in ("song.wav", "song.flac", "1. intro", "2. bass")
    }


def test_names_match_across_systems(tmp_path: Path, read: Read) -> None:
    """macOS splits é into two characters; Windows separates folders by a backslash."""
    song(tmp_path / "songs" / "in" / unicodedata.normalize("NFD", "Café.wav"))
    (tmp_path / "songs" / "captions.csv").write_text("file_name,text\nin\\Café.wav,bass\n")
    assert captions(read(tmp_path / "songs")) == {"in/Café.wav": "bass"}


def test_a_name_that_is_not_unicode_is_a_song_s(tmp_path: Path, read: Read) -> None:
    path = song(tmp_path / "a.wav")
    with tarfile.open(tmp_path / "songs.tar", "w") as tar:
        for name in (b"\xe8.wav", b"\xe9.wav"):
            tar.add(path, os.fsdecode(name))
    data = read(tmp_path / "songs.tar", one_same_description="x")
    assert captions(data) == {r"\udce8.wav": "x"}
    assert any(r"\udce9.wav is the same music" in note for note in data.notes)


def test_the_trigger_word_is_before_every_caption_once(tmp_path: Path, read: Read) -> None:
    for name, text in (("a", "bass"), ("b", "Drexler, pads"), ("c", "drexlerian bass")):
        song(tmp_path / "songs" / f"{name}.wav").with_suffix(".txt").write_text(text)
    assert captions(read(tmp_path / "songs", trigger_word="drexler")) == {
        "a.wav": "drexler, bass",
        "b.wav": "Drexler, pads",
        "c.wav": "drexler, drexlerian bass",
    }


def test_a_song_without_words_has_the_trigger_word_alone(tmp_path: Path, read: Read) -> None:
    song(tmp_path / "songs" / "a.wav")
    assert captions(read(tmp_path / "songs", trigger_word="drexler")) == {"a.wav": "drexler"}
    assert any("set trigger_word" in note for note in read(tmp_path / "songs").notes)


def test_one_description_replaces_the_captions_and_says_so(folder: Path, read: Read) -> None:
    data = read(folder, one_same_description="all the same", trigger_word="mine")
    assert set(captions(data).values()) == {"mine, all the same"}
    assert any("replaces 3 captions" in note for note in data.notes)
    assert not any("alike" in note for note in data.notes)


def test_captions_all_alike_are_noted(tmp_path: Path, read: Read) -> None:
    for name in "ab":
        song(tmp_path / "songs" / f"{name}.wav").with_suffix(".txt").write_text("the same")
    assert any("alike" in note for note in read(tmp_path / "songs").notes)


@pytest.mark.parametrize(
    ("duration_s", "expected", "held_out"),
    [
        (5.0, [0.0], [0.0]),
        (5.4, [0.0], [0.0]),  # less than a tenth of the window is left out
        (7.0, [0.0, 2.0], [0.0, 2.0]),
        (10.0, [0.0, 2.5, 5.0], [0.0, 5.0]),
        (12.0, [0.0, 2.5, 5.0, 7.0], [0.0, 5.0, 7.0]),
    ],
)
def test_the_last_piece_ends_with_the_song(
    tmp_path: Path, read: Read, duration_s: float, expected: list[float], held_out: list[float]
) -> None:
    for name in "abc":
        song(tmp_path / "songs" / f"{name}.wav", duration_s)
    data = read(tmp_path / "songs")
    assert windows(data.train) == [(start, 5.0) for start in expected] * 2
    assert windows(data.held_out) == [(start, 5.0) for start in held_out]
    last = data.train[-1]
    assert read_audio(last.path, last.start_s, last.start_s + 5.0).samples.shape[-1] == 5 * RATE


def test_a_song_shorter_than_the_window_is_one_shorter_piece(tmp_path: Path, read: Read) -> None:
    data = read(song(tmp_path / "a.wav", 6.5), window_s=30.0)
    assert windows(data.train) == [(0.0, 6.5)]


def test_silent_pieces_are_left_out(tmp_path: Path, read: Read) -> None:
    music = 0.1 * torch.randn(1, 10 * RATE, generator=torch.Generator().manual_seed(0))
    path = write(tmp_path / "a.wav", torch.cat([music, torch.zeros(1, 10 * RATE)], dim=1), RATE)
    assert windows(read(path).train) == [(0.0, 5.0), (2.5, 5.0), (5.0, 5.0), (7.5, 5.0)]


def test_songs_are_held_out_whole(tmp_path: Path, read: Read) -> None:
    for i in range(10):
        song(tmp_path / "songs" / f"{i}.wav", 12.0)
    data = read(tmp_path / "songs", held_out=0.3)
    apart, trained = ({piece.song for piece in pieces} for pieces in (data.held_out, data.train))
    assert (len(apart), len(trained)) == (3, 7)
    assert not apart & trained
    assert apart != {piece.song for piece in read(tmp_path / "songs", held_out=0.3, seed=1).held_out}
    assert not read(tmp_path / "songs", held_out=0.0).held_out


def test_a_cancel_ends_the_reading(tmp_path: Path, read: Read) -> None:
    for name in "abc":
        song(tmp_path / "songs" / f"{name}.wav")
    progress = Progress()
    progress.stop()
    with pytest.raises(Cancelled):
        read(tmp_path / "songs", progress=progress)


def test_new_songs_and_new_names_reshuffle_nothing(tmp_path: Path, read: Read) -> None:
    def apart() -> set[str]:
        return {piece.song for piece in read(tmp_path / "songs", held_out=0.5).held_out}

    for i in range(10):
        song(tmp_path / "songs" / f"{i}.wav", seed=i)
    before = apart()
    for i in (10, 11):
        song(tmp_path / "songs" / f"0{i}.wav", seed=i)
    assert len(apart() & before) >= len(before) - 1
    for i in (10, 11):
        (tmp_path / "songs" / f"0{i}.wav").unlink()
    for i in range(10):
        (tmp_path / "songs" / f"{i}.wav").rename(tmp_path / "songs" / f"take {i}.wav")
    assert {name.removeprefix("take ") for name in apart()} == before


def test_the_same_music_twice_is_used_once(tmp_path: Path, read: Read) -> None:
    for name in "abc":
        song(tmp_path / "songs" / f"{name}.wav")
    ffmpeg("-i", tmp_path / "songs" / "a.wav", "-metadata", "title=x", tmp_path / "songs" / "z.flac")
    data = read(tmp_path / "songs")
    assert set(captions(data)) == {"a.wav", "b.wav", "c.wav"}
    assert "z.flac is the same music as a.wav: used once." in data.notes


NOTES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "clipped": (lambda path: song(path, gain=10.0), 1, "Clipped in more than 1% of the samples"),
    "stereo": (lambda path: song(path, channels=2), 1, "Stereo, mixed down for a mono base: a.wav."),
    "mono": (song, 2, "Mono, the same on both sides of a stereo base: a.wav."),
    "cover": (lambda path: (song(path), path.with_suffix(".jpg").write_bytes(b"\xff\xd8")), 1, "a.jpg is not audio"),
    "readme": (
        lambda path: (song(path), path.with_name("README.txt").write_text("x")),
        1,
        "README.txt is not a caption",
    ),
}


@pytest.mark.parametrize(("make", "channels", "note"), NOTES.values(), ids=NOTES.keys())
def test_songs_that_are_not_used_as_sent_are_noted(
    tmp_path: Path, read: Read, make: Callable[[Path], object], channels: int, note: str
) -> None:
    make(tmp_path / "songs" / "a.wav")
    data = read(tmp_path / "songs", channels=channels)
    assert set(captions(data)) == {"a.wav"}
    assert any(note in line for line in data.notes), data.notes


@pytest.mark.parametrize("block_s", [300.0, 3.0])
def test_a_long_song_is_cut_and_noted(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch, block_s: float
) -> None:
    for place in (module, songs_module):
        monkeypatch.setattr(place, "MAX_SONG_S", 12.0)
    monkeypatch.setattr(songs_module, "BLOCK_S", block_s)
    data = read(song(tmp_path / "a.wav", 30.0))
    assert max(piece.start_s + piece.duration_s for piece in data.train) == 12.0
    assert any("Cut after 0.2 minutes: a.wav" in note for note in data.notes)
    assert read(song(tmp_path / "b.wav", 9.0)).train[-1].start_s == 4.0  # whole blocks of 3 s, and then the file's end


def test_labels_come_after_the_user_s_words(tmp_path: Path, read: Read) -> None:
    t = torch.arange(16 * RATE) / RATE
    chord = sum(torch.sin(2 * torch.pi * 220 * 2 ** (step / 12) * t) for step in (0, 3, 7, 12))
    clicks = 0.5 * ((t * 1.5) % 1 < 0.02) * torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    path = write(song(tmp_path / "songs" / "a.wav"), (0.05 * torch.as_tensor(chord) + clicks)[None], RATE)
    path.with_suffix(".txt").write_text("Slow.")
    data = read(tmp_path / "songs", auto_labeling=True, trigger_word="mine")
    assert captions(data) == {"a.wav": "mine, Slow, 90 bpm, A minor"}
    assert any("labelled by librosa in 1 of 1" in note for note in data.notes)
