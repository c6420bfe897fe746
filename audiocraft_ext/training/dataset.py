"""A data set's path → pieces to train on and held-out pieces, with captions. Knows no codec and no model.

Every fault of every file is collected, and raised at once, before anything is separated, labelled or encoded.
"""

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

from audiocraft_ext.audio.read import read
from audiocraft_ext.errors import InputError
from audiocraft_ext.progress import Progress, SilentProgress
from audiocraft_ext.training.files import FIELD, Files, find_files
from audiocraft_ext.training.labels import describe
from audiocraft_ext.training.songs import LIMITS, MAX_SONG_S, MIN_SONG_S, Song, read_song
from audiocraft_ext.training.vocals import load_separator, remove_vocals

# Only files of these names must be audio; another one that is not, such as a cover, is left out with a note.
_AUDIO = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".mp4", ".aac", ".aif", ".aiff", ".webm", ".w64", ".mov")
_MAX_CLIPPED = 0.01
_MAX_SILENT = 0.5
_SHORTEST_TAIL = 0.1  # of a window
_LABELLED_S = 120.0  # of a song's middle, which is more typical than its start
_N_NAMED = 5


@dataclass(frozen=True)
class Piece:
    """A window of a song, never padded: shorter than the base's window only if the whole song is.

    ``song`` is the file's path within the data set; ``path`` is that file, or a decoded one, for ``audio/read.py``.
    """

    song: str
    path: Path
    start_s: float
    duration_s: float
    caption: str


@dataclass(frozen=True)
class Dataset:
    """Pieces of training songs and of held-out ones, no song in both, and notes on what was cut, labelled, left out."""

    train: list[Piece]
    held_out: list[Piece]
    notes: list[str]


def read_dataset(
    path: Path,
    workdir: Path,
    *,
    window_s: float,
    one_same_description: str | None,
    trigger_word: str | None,
    auto_labeling: bool,
    drop_vocals: bool,
    held_out: float,
    seed: int,
    channels: int,
    progress: Progress = SilentProgress(),
) -> Dataset:
    """The pieces of an archive, a folder or one audio file, for a base with ``window_s`` seconds and ``channels``.

    ``workdir`` keeps the unpacked archive and the songs without vocals: it must outlive the pieces. Raises
    ``InputError`` that lists the faults of all files, and ``Cancelled`` after the song in work.
    """
    demucs = load_separator() if drop_vocals else None
    files = find_files(path, workdir)
    songs = _read_songs(files, window_s, progress)
    captions = _captions(files, songs, one_same_description)
    songs = _without_duplicates(files, songs, captions)
    _raise_faults(files, songs)
    _note_levels(files, songs, channels)
    if demucs is not None:
        separated: list[Song] = []
        for song in songs:
            progress.update(len(separated), len(songs), unit="song without vocals")
            separated.append(remove_vocals(song, demucs, workdir / "without_vocals"))
        songs = [song for song in separated if _starts(song, window_s, window_s)]
        _note(files, "silent without vocals, left out", [song.name for song in separated if song not in songs])
    labels = {song.name: _label(song, captions[song.name], progress) if auto_labeling else "" for song in songs}
    texts = {song.name: _join(trigger_word, captions[song.name], labels[song.name]) for song in songs}
    _note_captions(files, texts, labels, one_same_description)
    apart = _held_out_names(files, songs, held_out, seed)
    train: list[Piece] = []
    test: list[Piece] = []
    for song in songs:
        is_apart, length_s = song.name in apart, min(window_s, song.duration_s)
        # Pieces of training songs overlap by half, so that a bar is not always seen at one place of the window.
        starts = _starts(song, window_s, window_s if is_apart else window_s / 2)
        pieces = [Piece(song.name, song.path, start, length_s, texts[song.name]) for start in starts]
        (test if is_apart else train).extend(pieces)
    return Dataset(train, test, files.notes)


def _read_songs(files: Files, window_s: float, progress: Progress) -> list[Song]:
    """The songs that can be used; adds faults and notes of the others."""
    songs = []
    shortest_s = max(MIN_SONG_S, window_s / 10)
    for n_done, (name, path) in enumerate(files.audio.items()):
        progress.update(n_done, len(files.audio), unit="song")
        try:
            song = read_song(name, path)
        except InputError as error:
            if path.suffix.lower() in _AUDIO or len(files.audio) == 1:
                files.faults.append(f"{name}: {str(error).removeprefix(f'{error.field}: ')}")
            else:
                files.notes.append(f"{name} is not audio: left out.")
            continue
        if song.duration_s < shortest_s:
            files.faults.append(f"{name}: it lasts {song.duration_s:.1f} s; at least {shortest_s:g} s are needed.")
        elif not _starts(song, window_s, window_s):
            files.faults.append(f"{name}: it is silent, or almost.")
        else:
            songs.append(song)
    return songs


def _captions(files: Files, songs: list[Song], one_same_description: str | None) -> dict[str, str]:
    """Each song's caption in the user's words; adds a fault for a song without one, unless no file has any."""
    if one_same_description is not None:
        if files.captions:
            files.notes.append(f"one_same_description replaces {len(files.captions)} captions of the data set.")
        return {song.name: " ".join(one_same_description.split()) for song in songs}
    if files.captions:
        missing = [song.name for song in songs if song.name not in files.captions]
        files.faults += [f"{name}: it has no caption, and other files have one." for name in missing]
    return {song.name: files.captions.get(song.name, "") for song in songs}


def _without_duplicates(files: Files, songs: list[Song], captions: dict[str, str]) -> list[Song]:
    """Songs of the same samples once: both in training and held out, they would hide over-fitting."""
    first: dict[str, Song] = {}
    for song in songs:
        other = first.setdefault(song.audio_hash, song)
        if captions[other.name] != captions[song.name]:
            files.faults.append(f"{song.name}: it is the same music as {other.name}, with another caption.")
        elif other is not song:
            files.notes.append(f"{song.name} is the same music as {other.name}: used once.")
    return list(first.values())


def _raise_faults(files: Files, songs: list[Song]) -> None:
    if not songs and not files.faults:
        files.faults.append("there is no audio file in it.")
    if files.faults:
        listed = "".join(f"\n- {fault}" for fault in files.faults)
        hint = "Correct or remove these files, and send a zip, tar or tar.gz, or one audio file."
        raise InputError(FIELD, f"it cannot be used as it is:{listed}\n", hint)


def _note_levels(files: Files, songs: list[Song], channels: int) -> None:
    clipped = [song.name for song in songs if song.clipped > _MAX_CLIPPED]
    _note(files, f"clipped in more than {_MAX_CLIPPED:.0%} of the samples, and learnt with that distortion", clipped)
    others = [song.name for song in songs if song.channels != channels]
    stereo, mono = "stereo, mixed down for a mono base", "mono, the same on both sides of a stereo base"
    _note(files, stereo if channels == 1 else mono, others)
    long = [song.name for song in songs if song.duration_s >= MAX_SONG_S]
    _note(files, f"cut after {MAX_SONG_S / 60:g} minutes", long)


def _note(files: Files, fate: str, names: list[str]) -> None:
    more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
    if names:
        files.notes.append(f"{fate[0].upper()}{fate[1:]}: {', '.join(names[:_N_NAMED])}{more}.")


def _label(song: Song, words: str, progress: Progress) -> str:
    progress.check()
    clip = read(song.path, max(0.0, (song.duration_s - _LABELLED_S) / 2), max_s=_LABELLED_S, limits=LIMITS)
    return describe(clip, words)


def _join(trigger_word: str | None, words: str, label: str) -> str:
    """``drexler, a dark bassline, 92 bpm, A minor``: the trigger, the user's words, then labels."""
    trigger = (trigger_word or "").strip()
    if re.match(rf"{re.escape(trigger)}(?!\w)", words, re.IGNORECASE):
        trigger = ""
    return ", ".join(filter(None, (trigger, words.rstrip(" .,;") if label else words, label)))


def _note_captions(files: Files, texts: dict[str, str], labels: dict[str, str], same: str | None) -> None:
    if n_labelled := sum(map(bool, labels.values())):
        files.notes.append(f"Tempo or key was labelled by librosa in {n_labelled} of {len(texts)} songs.")
    if not any(texts.values()):
        files.notes.append("No song has a caption: set trigger_word, by which prompts will call this sound.")
    elif files.captions and same is None and len(set(texts.values())) == 1 < len(texts):
        files.notes.append("All captions are alike: no word in them will mean anything by itself.")


def _held_out_names(files: Files, songs: list[Song], share: float, seed: int) -> set[str]:
    """Names of the held-out songs: the first in the order of hashes, so that a new song replaces at most one."""
    if share == 0 or len(songs) < 3:
        reason = "held_out is 0" if share == 0 else "fewer than 3 songs are too few to spare one"
        files.notes.append(f"No song is held out, since {reason}: over-fitting cannot be seen.")
        return set()
    order = sorted(songs, key=lambda song: hashlib.sha256(f"{seed} {song.file_hash}".encode()).digest())
    return {song.name for song in order[: max(1, round(share * len(songs)))]}


def _starts(song: Song, window_s: float, stride_s: float) -> list[float]:
    """Where a song's pieces begin. The last one ends with the song, so it overlaps the one before; a song shorter than
    the window is one piece. Pieces that are mostly silent are left out."""
    last = song.duration_s - min(window_s, song.duration_s)
    starts = [i * stride_s for i in range(1 + math.floor(last / stride_s))]
    if last - starts[-1] > _SHORTEST_TAIL * window_s:
        starts.append(last)
    return [start for start in starts if song.silent_share(start, start + window_s) <= _MAX_SILENT]
