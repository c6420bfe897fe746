"""Captions for songs: what a listener might ask for, in many phrasings. Knows nothing of audio or models.

A caption mentions some of a song's attributes; the others stay free. A few sentence frames and a sixth of the pairs of
tempo and root are held out of training, so that the benchmark asks for things never asked for before.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from weights.demo.train.synth import INSTRUMENTS, MODES, MOODS, PITCHES, TEMPI_BPM, Song

T = TypeVar("T")

TEMPO_WORDS = {
    "slow": (80, 90),
    "downtempo": (80, 90),
    "laid-back": (90,),
    "mid-tempo": (100, 110),
    "moderate": (110,),
    "upbeat": (120, 130),
    "fast": (140, 150),
    "very fast": (150,),
    "uptempo": (130, 140),
    "very slow": (80,),
}
MOOD_WORDS = {
    "dark": ("dark", "gloomy", "sinister", "moody", "mysterious", "brooding", "evil"),
    "bright": ("bright", "happy", "cheerful", "sunny", "uplifting", "joyful", "positive"),
    "dreamy": ("dreamy", "ethereal", "ambient", "atmospheric", "floating", "cosmic", "spacey"),
    "aggressive": ("aggressive", "hard", "heavy", "intense", "energetic", "angry", "driving"),
    "calm": ("calm", "mellow", "chill", "relaxed", "soft", "peaceful", "gentle"),
}
INSTRUMENT_WORDS = {
    "kick": ("kick", "kick drum", "kicks", "thumping kick", "four on the floor"),
    "snare": ("snare", "snare drum", "snares", "claps"),
    "hats": ("hats", "hi-hats", "hihats", "hi hats", "cymbals"),
    "bass": ("bass", "bassline", "bass line", "synth bass", "deep bass"),
    "arp": ("arp", "arpeggio", "melody", "plucks", "lead", "arpeggios"),
    "pad": ("pad", "pads", "chords", "strings", "synth pad"),
}
DRUMS = frozenset({"kick", "snare", "hats"})
_FLATS = {1: "Db", 3: "Eb", 6: "Gb", 8: "Ab", 10: "Bb"}
_GENRES = (
    "electro",
    "techno",
    "house",
    "synthwave",
    "electronica",
    "track",
    "beat",
    "loop",
    "song",
    "groove",
    "music",
    "tune",
    "drexciya electro",
    "detroit techno",
    "hip hop",
    "game music",
    "dance track",
    "trance",
    "film score",
    "80s synth",
)
_FILLERS = (
    "from the deep ocean",
    "for a rainy night",
    "like in 1985",
    "for running",
    "with a great sound",
    "analog",
    "retro",
    "high quality",
    "on a spaceship",
    "underwater",
    "at a club in Berlin",
    "inspired by machines",
    "lo-fi",
    "crisp",
    "for a video game",
    "modern production",
    "that makes people dance",
    "instrumental",
    "warm",
    "vintage drum machine",
)
_FRAMES = ("{}", "{}", "{}.", "A {}", "a {}", "Make {}", "{}, please", "I want {}", "Generate {}", "something {}")
_HELD_OUT_FRAMES = ("Please compose {}", "Give me {} now", "{} for my film")


@dataclass(frozen=True)
class Mention:
    """The content of a caption; None, or absence from both sets, means unmentioned."""

    tempo_bpm: int | None = None
    root: int | None = None
    mode: str | None = None
    mood: str | None = None
    wanted: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()

    def labels(self) -> tuple[int, ...]:
        """Class indices: tempo, root, mode, mood (0 = not said), then 0 free, 1 wanted, 2 excluded an instrument."""
        said = (
            (self.tempo_bpm, TEMPI_BPM),
            (self.root, range(12)),
            (self.mode, MODES),
            (self.mood, MOODS),
        )
        fixed = tuple(0 if value is None else list(names).index(value) + 1 for value, names in said)
        return fixed + tuple(int(name in self.wanted) + 2 * int(name in self.excluded) for name in INSTRUMENTS)


LABEL_SIZES = (len(TEMPI_BPM) + 1, 13, len(MODES) + 1, len(MOODS) + 1) + (3,) * len(INSTRUMENTS)


def is_held_out(tempo_bpm: int | None, root: int | None) -> bool:
    """Whether training never mentions this tempo and this root together."""
    return tempo_bpm is not None and root is not None and (TEMPI_BPM.index(tempo_bpm) + root) % 6 == 0


def draw_mention(song: Song, rng: np.random.Generator) -> Mention:
    """Some of a song's attributes, never a held-out pair."""
    tempo_bpm = song.tempo_bpm if rng.random() < 0.85 else None
    mode = song.mode if rng.random() < 0.5 else None
    root = song.root if mode is not None and rng.random() < 0.8 else None
    if is_held_out(tempo_bpm, root):
        root = None
    absent = set(INSTRUMENTS) - song.instruments
    share = rng.choice([0.0, 0.5, 1.0], p=[0.2, 0.45, 0.35])
    wanted = frozenset(name for name in sorted(song.instruments) if rng.random() < share)
    share = rng.choice([0.0, 0.5, 1.0], p=[0.2, 0.4, 0.4])
    excluded = frozenset(name for name in sorted(absent) if rng.random() < share)
    return Mention(tempo_bpm, root, mode, song.mood if rng.random() < 0.6 else None, wanted, excluded)


def _pick(rng: np.random.Generator, options: tuple[T, ...]) -> T:
    return options[int(rng.integers(len(options)))]


def _tempo_phrase(tempo_bpm: int, rng: np.random.Generator) -> str:
    words = tuple(word for word, tempi in TEMPO_WORDS.items() if tempo_bpm in tempi)
    if rng.random() < 0.15:
        return _pick(rng, words)
    number = tempo_bpm + (int(rng.integers(-4, 5)) if rng.random() < 0.2 else 0)
    if tempo_bpm == TEMPI_BPM[-1] and rng.random() < 0.05:
        number = int(rng.integers(155, 201))
    if tempo_bpm == TEMPI_BPM[0] and rng.random() < 0.05:
        number = int(rng.integers(50, 76))
    styles = ("{} bpm", "{} BPM", "at {} bpm", "{}bpm", "tempo {}", "{} beats per minute", "tempo: {}")
    return _pick(rng, styles).format(number)


def _key_phrase(root: int | None, mode: str, rng: np.random.Generator) -> str:
    if root is None:
        return _pick(rng, ("{}", "{} key", "in {}", "in a {} key")).format(mode)
    name = _FLATS[root] if root in _FLATS and rng.random() < 0.4 else PITCHES[root]
    if mode == "minor" and rng.random() < 0.15:
        return _pick(rng, ("{}m", "key {}m", "in {}m", "{} min")).format(name)
    return _pick(rng, ("in {} {}", "{} {}", "key of {} {}", "key: {} {}", "in the key of {} {}")).format(name, mode)


def _names(instruments: frozenset[str], rng: np.random.Generator) -> list[str]:
    """Words for instruments in random order; kick, snare and hats together may be 'drums'."""
    left = set(instruments)
    words = []
    if left >= DRUMS and rng.random() < 0.6:
        left -= DRUMS
        words.append(_pick(rng, ("drums", "a beat", "drum machine", "percussion", "beats")))
    words += [_pick(rng, INSTRUMENT_WORDS[name]) for name in sorted(left)]
    rng.shuffle(words)
    return words


def _join(words: list[str], rng: np.random.Generator, last: str = " and ") -> str:
    if len(words) < 2 or rng.random() < 0.4:
        return ", ".join(words)
    return ", ".join(words[:-1]) + last + words[-1]


def _instrument_phrases(mention: Mention, rng: np.random.Generator) -> list[str]:
    if mention.wanted and mention.wanted | mention.excluded == set(INSTRUMENTS) and rng.random() < 0.5:
        only = _join(_names(mention.wanted, rng), rng)
        return [_pick(rng, ("only {}", "just {}", "nothing but {}", "{} only", "{} and nothing else")).format(only)]
    phrases = []
    if mention.wanted:
        names = _join(_names(mention.wanted, rng), rng)
        phrases.append(_pick(rng, ("with {}", "{}", "featuring {}", "with {}", "and {}", "has {}")).format(names))
    if mention.excluded:
        words = _names(mention.excluded, rng)
        style = int(rng.integers(4))
        if style == 0:
            phrases.append(_join([f"no {word}" for word in words], rng))
        elif style == 1:
            phrases.append(", ".join(f"without {word}" for word in words))
        else:
            phrases.append(_pick(rng, ("without {}", "no {}")).format(_join(words, rng, " or ")))
    return phrases


def write_caption(mention: Mention, rng: np.random.Generator, held_out: bool = False) -> str:
    """One caption that says what a mention says, in training's sentence frames or in the held-out ones."""
    parts = _instrument_phrases(mention, rng)
    noun = _pick(rng, _GENRES) if rng.random() < 0.6 else ""
    mood = _pick(rng, MOOD_WORDS[mention.mood]) if mention.mood is not None else ""
    if noun or mood:
        parts.insert(0, f"{mood} {noun}".strip())
    if mention.tempo_bpm is not None:
        parts.append(_tempo_phrase(mention.tempo_bpm, rng))
    if mention.mode is not None:
        parts.append(_key_phrase(mention.root, mention.mode, rng))
    if rng.random() < 0.25:
        parts.append(_pick(rng, _FILLERS))
    if rng.random() < 0.6:
        rng.shuffle(parts)
    separator = _pick(rng, (", ", ", ", " ", "; ", ". ")) if not held_out else ", "
    text = _pick(rng, _HELD_OUT_FRAMES if held_out else _FRAMES).format(separator.join(parts))
    case = rng.random()
    return text.lower() if case < 0.35 else text[:1].upper() + text[1:] if case < 0.6 else text
