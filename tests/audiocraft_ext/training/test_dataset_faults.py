"""Faults of a data set: each is named with its file, all of them at once, before any work is spent."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from audiocraft_ext.errors import InputError
from audiocraft_ext.training import dataset, files
from audiocraft_ext.training.dataset import Dataset
from tests.support.audio_files import ffmpeg
from tests.support.songs import song

Read = Callable[..., Dataset]


def caption(path: Path, text: str | bytes) -> Path:
    path.with_suffix(".txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def video(path: Path) -> None:
    """A file of a known container, without sound."""
    ffmpeg("-f", "lavfi", "-i", "color=size=16x16:duration=6", path)


def empty_caption(path: Path) -> None:
    caption(song(path), " \n")


def table(text: str | bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        song(path)
        path.with_name("captions.csv").write_bytes(text if isinstance(text, bytes) else text.encode())

    return make


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no audio": (lambda path: path.with_name("cover.jpg").write_bytes(b"x"), "cover.jpg: the file is not audio"),
    "nothing at all": (lambda path: None, "there is no audio file in it"),
    "not audio inside": (lambda path: path.write_bytes(b"text"), "a.wav: the file is not audio"),
    "empty": (lambda path: path.write_bytes(b""), "a.wav: the file is empty"),
    "video without sound": (lambda path: video(path.with_suffix(".mp4")), "a.mp4: the file is not audio"),
    "playlist": (lambda path: path.write_text("#EXTM3U\nhttp://127.0.0.1/\n"), "a.wav: the file is not audio"),
    "too short": (lambda path: song(path, 4.9), "a.wav: it lasts 4.9 s; at least 5 s are needed."),
    "silent": (lambda path: song(path, gain=1e-4), "a.wav: it is silent"),
    "empty caption": (empty_caption, "a.txt: the caption of a.wav is empty."),
    "UTF-16": (lambda path: caption(song(path), "bass".encode("utf-16")), "a.txt: its text is not UTF-8."),
    "long caption": (lambda path: caption(song(path), "x" * 2001), "a.wav has 2001 characters; the limit is 2000."),
    "caption without audio": (
        lambda path: caption(song(path).with_name("b.wav"), "x"),
        "b.txt: there is no audio file",
    ),
    "audio without caption": (
        lambda path: caption(song(song(path).with_name("b.wav")), "x"),
        "a.wav: it has no caption, and other files have one.",
    ),
    "two captions": (table("file_name,text\na.wav,bass\na.wav,pads\n"), "captions.csv: a.wav already has another"),
    "a row without audio": (table("file_name,text\nb.wav,bass\n"), "captions.csv: it names b.wav, which is not"),
    "a row outside": (table("file_name,text\n../songs/a.wav,bass\n"), "captions.csv: it names ../songs/a.wav, which"),
    "no columns": (table("a.wav;bass\n"), "captions.csv: it is not a table with the columns file_name and text."),
    "a comma without quotes": (
        table("file_name,text\na.wav,one, two\n"),
        'captions.csv: too many commas in the row of a.wav: put its text in "quotes".',
    ),
    "a short row": (table("file_name,text\na.wav\n"), "captions.csv: it is not a table with the columns"),
    "table in Latin-1": (
        table("file_name,text\na.wav,Café\n".encode("latin-1")),
        "captions.csv: its text is not UTF-8.",
    ),
    "same music, other words": (
        lambda path: (caption(song(path), "x"), caption(song(path.with_name("b.wav"), seed=sum(b"a.wav")), "y")),
        "b.wav: it is the same music as a.wav, with another caption.",
    ),
}


@pytest.mark.parametrize(("make", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_named_with_its_file(tmp_path: Path, read: Read, make: Callable[[Path], object], fault: str) -> None:
    (tmp_path / "songs").mkdir()
    make(tmp_path / "songs" / "a.wav")
    with pytest.raises(InputError, match="dataset_path: it cannot be used as it is") as raised:
        read(tmp_path / "songs")
    assert fault in str(raised.value)
    assert str(tmp_path) not in str(raised.value)


@pytest.mark.parametrize(
    "row",
    [
        '{"file_name": "a.wav"}',
        "[1]",
        "{",
        '{"file_name": "a.wav", "text": 5}',
        '{"file_name": "a.wav", "text": "\\ud800"}',
        "[" * 10_000,
    ],
)
def test_a_row_that_is_no_caption_is_a_fault(tmp_path: Path, read: Read, row: str) -> None:
    song(tmp_path / "songs" / "a.wav").with_name("metadata.jsonl").write_text(row)
    with pytest.raises(InputError, match=r"metadata\.jsonl: it is not a table"):
        read(tmp_path / "songs")


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path, read: Read) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read(tmp_path / "songs.zip")


def test_the_shortest_song_is_a_tenth_of_the_window(tmp_path: Path, read: Read) -> None:
    path = song(tmp_path / "a.wav", 6.0)
    assert read(path, window_s=60.0).train
    with pytest.raises(InputError, match=r"lasts 6\.0 s; at least 6\.5 s"):
        read(path, window_s=65.0)


def test_all_faults_are_listed_before_any_work(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "describe", lambda *_: pytest.fail("labelled before all faults were known"))
    folder = tmp_path / "songs"
    caption(song(folder / "good.wav"), "fine")
    caption(song(folder / "in" / "short.wav", 1.0), b"\xff")
    caption(song(folder / "in" / "silent.wav", gain=0.0), "")
    song(folder / "alone.wav")
    caption(folder / "gone.wav", "x")
    (folder / "broken.mp3").write_bytes(b"ID3")
    with pytest.raises(InputError) as raised:
        read(folder, auto_labeling=True)
    listed = [line.split(": ")[0] for line in str(raised.value).splitlines() if line.startswith("- ")]
    assert sorted(listed) == [
        "- alone.wav",
        "- broken.mp3",
        "- gone.txt",
        "- in/short.txt",
        "- in/short.wav",
        "- in/silent.txt",
        "- in/silent.wav",
    ]
    assert str(raised.value).endswith("or one audio file.")


def tar_of(name: str, **fields: object) -> bytes:
    made, info = io.BytesIO(), tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    return made.getvalue()


def zip_of(name: str, mode: int = 0, n_bytes: int = 1) -> bytes:
    made, info = io.BytesIO(), zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(info, bytes(n_bytes), zipfile.ZIP_DEFLATED)
    return made.getvalue()


ARCHIVES: dict[str, tuple[bytes, str]] = {
    "text": (b"not an archive", r"songs\.zip: the file is not audio.*send a zip, tar or tar\.gz, or one audio file\."),
    "cut": (zip_of("a.wav")[:40], "damaged"),
    "damaged": (tar_of("a.wav", size=5000)[:-20], "damaged"),
    "parent": (zip_of("../a.wav"), "leads outside"),
    "absolute": (tar_of("/tmp/a.wav"), "leads outside"),
    "another drive": (zip_of("C:\\a.wav"), "leads outside"),
    "link in a zip": (zip_of("a.wav", mode=0o120777), "a link"),
    "link in a tar": (tar_of("a.wav", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "a link"),
    "bomb": (zip_of("a.wav", n_bytes=2_000_000), r"more than 0\.001 GB"),
    "bomb in a tar": (tar_of("a.wav", size=2_000_000), r"more than 0\.001 GB"),
}


@pytest.mark.parametrize(("content", "problem"), ARCHIVES.values(), ids=ARCHIVES.keys())
def test_a_bad_archive_is_refused(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch, content: bytes, problem: str
) -> None:
    monkeypatch.setattr(files, "_RATIO_FROM_BYTES", 1_000_000)  # 100 MB, at less expense
    (tmp_path / "songs.zip").write_bytes(content)
    with pytest.raises(InputError, match=f"(?s)dataset_path: .*{problem}") as raised:
        read(tmp_path / "songs.zip")
    assert str(tmp_path) not in str(raised.value)
    assert not list((tmp_path / "work").rglob("*.wav"))


def test_a_large_archive_may_unpack_to_a_hundred_times_its_size(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_RATIO_FROM_BYTES", 0)
    with zipfile.ZipFile(tmp_path / "songs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(song(tmp_path / "a.wav"), "a.wav")
        archive.write(song(tmp_path / "b.wav", gain=0.0), "b.wav")
    with pytest.raises(InputError, match=r"b\.wav: it is silent"):  # unpacked and read
        read(tmp_path / "songs.zip")
