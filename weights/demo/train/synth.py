"""A small electro synthesiser: (song, seed) → samples. Knows nothing of captions, codecs or models.

Six instruments: kick, snare, hats, bass, arp (plucks that carry the tune) and pad (soft chords). The clock is the
codec's: every onset is on the 20 ms frame grid, as on a hardware sequencer, oscillators start at phase 0 and noise
drums are fixed samples, so one sound is always one sequence of codec frames. So a laptop can learn the tokens.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

Samples = NDArray[np.float32]

SAMPLE_RATE = 32_000
FRAME = 640
FRAME_RATE = SAMPLE_RATE // FRAME
N_STEPS = 16
MASTER_GAIN = 0.8
# Bars of a whole number of frames, each within 0.4 % of the tempo that names it.
BAR_FRAMES = {80: 150, 90: 133, 100: 120, 110: 109, 120: 100, 130: 92, 140: 86, 150: 80}
TEMPI_BPM = tuple(BAR_FRAMES)
INSTRUMENTS = ("kick", "snare", "hats", "bass", "arp", "pad")
PITCHES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
MODES = ("minor", "major")
MOODS = ("dark", "bright", "dreamy", "aggressive", "calm")

_KICKS = {
    "four": "x...x...x...x...",
    "broken": "x.....x...x.....",
    "half": "x.........x.....",
    "drive": "x...x...x...x.x.",
}
_SNARES = {"back": "....x.......x...", "half": "........x.......", "ghost": "....x.......x..x"}
_HATS = {
    "off": "..o...o...o...o.",
    "eights": "x.x.x.x.x.x.x.x.",
    "sixteens": "xxxxxxxxxxxxxxxx",
    "mixed": "x.xxx.o.x.xxx.o.",
}
_BASSES = {
    "roots": "0...0...0...0...",
    "off": "..0...0...0...0.",
    "gallop": "0..00..00..00..0",
    "long": "0.......0.......",
    "octave": "0.7.0.7.0.7.0.7.",
}
# Digits are degrees of the chord: 0 root, 1 third, 2 fifth, 3 the root above, 4 the third above.
_ARPS = {
    "up": "0.1.2.3.0.1.2.3.",
    "down": "3.2.1.0.3.2.1.0.",
    "rock": "0.2.1.2.3.2.1.2.",
    "synco": "0..2..3..2..1.4.",
    "run": "0123210123432101",
    "tune": "3...2.1.2.....4.",
}


@dataclass(frozen=True)
class Mood:
    """A mood's effect: the patterns to draw from, and two timbres."""

    kicks: tuple[str, ...]
    hats: tuple[str, ...]
    basses: tuple[str, ...]
    arps: tuple[str, ...]
    growl: bool
    sparkle: bool


_MOODS = {
    "dark": Mood(("four", "broken"), ("off", "eights"), ("gallop", "off"), ("rock", "synco"), True, False),
    "bright": Mood(("four", "drive"), ("eights", "mixed"), ("octave", "roots"), ("up", "synco"), False, True),
    "dreamy": Mood(("half", "broken"), ("off", "eights"), ("long", "roots"), ("tune", "rock"), False, True),
    "aggressive": Mood(("four", "drive"), ("sixteens", "mixed"), ("gallop", "octave"), ("run", "down"), True, True),
    "calm": Mood(("half", "four"), ("off", "eights"), ("long", "off"), ("up", "tune"), False, False),
}


@dataclass(frozen=True)
class Song:
    """The properties of a clip that a caption can mention."""

    tempo_bpm: int
    root: int
    mode: str
    mood: str
    instruments: frozenset[str]

    @property
    def bar_frames(self) -> int:
        """Frames in a bar of four beats."""
        return BAR_FRAMES[self.tempo_bpm]


@dataclass(frozen=True)
class Score:
    """The rest of a song: one pattern an instrument, drawn from what its mood allows.

    A song is one bar on its tonic chord, again and again. With a progression of four chords a bar is like none of the
    three before it, and a small model never learnt when the next note comes (benchmarks/LOG.md).
    """

    kick: str
    snare: str
    hats: str
    bass: str
    arp: str


def draw_song(rng: np.random.Generator) -> Song:
    """A random song with at least two instruments; a mood leans towards a mode."""
    mood = str(rng.choice(MOODS))
    minor_p = {"dark": 0.9, "aggressive": 0.75, "bright": 0.1}.get(mood, 0.5)
    present = [name for name in INSTRUMENTS if rng.random() < 0.62]
    while len(present) < 2:
        present = sorted({*present, str(rng.choice(INSTRUMENTS))})
    return Song(
        int(rng.choice(TEMPI_BPM)), int(rng.integers(12)), MODES[int(rng.random() >= minor_p)], mood, frozenset(present)
    )


def draw_score(song: Song, rng: np.random.Generator) -> Score:
    """Patterns for a song."""
    mood = _MOODS[song.mood]
    return Score(
        _KICKS[str(rng.choice(mood.kicks))],
        _SNARES[str(rng.choice(list(_SNARES)))],
        _HATS[str(rng.choice(mood.hats))],
        _BASSES[str(rng.choice(mood.basses))],
        _ARPS[str(rng.choice(mood.arps))],
    )


def _time_s(n_frames: int) -> NDArray[np.float64]:
    return np.arange(n_frames * FRAME) / SAMPLE_RATE


def _fade_out(samples: NDArray[np.float64], fade_s: float) -> Samples:
    """End a note at zero: a cut would click, and a click costs the codec bits."""
    n_fade = min(int(fade_s * SAMPLE_RATE), len(samples))
    samples[-n_fade:] *= np.linspace(1, 0, n_fade)
    return samples.astype(np.float32)


def _noise(n_frames: int, low_hz: float, high_hz: float) -> NDArray[np.float64]:
    sos = butter(4, [low_hz, high_hz], "bandpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(sosfilt(sos, np.random.default_rng(0).standard_normal(n_frames * FRAME)))


@cache
def drum(name: str) -> Samples:
    """One hit [N] of 'kick', 'snare', 'hat' or 'open'."""
    if name == "kick":
        t = _time_s(14)
        phase = 2 * np.pi * (48 * t + 110 * 0.028 * (1 - np.exp(-t / 0.028)))
        return _fade_out(0.62 * np.sin(phase) * np.exp(-t / 0.11), 0.04)
    if name == "snare":
        t = _time_s(9)
        body = 0.34 * np.sin(2 * np.pi * (185 * t + 1.2 * (1 - np.exp(-t / 0.012)))) * np.exp(-t / 0.05)
        return _fade_out(body + 0.20 * _noise(9, 1_000, 5_000) * np.exp(-t / 0.06), 0.03)
    decay_s, n_frames = {"hat": (0.022, 4), "open": (0.07, 8)}[name]
    t = _time_s(n_frames)
    # The stick on the metal. Early in training the encoder sees only lows: without this tick it never found the hats,
    # which are 60 dB down.
    tick = (0.16 if name == "hat" else 0.2) * np.sin(2 * np.pi * 330 * t) * np.exp(-t / 0.009)
    return _fade_out(tick + 0.26 * _noise(n_frames, 5_000, 13_000) * np.exp(-t / decay_s), 0.01)


@cache
def note(instrument: str, pitch: int, n_frames: int, timbre: bool) -> Samples:
    """One note [N] of 'bass', 'arp' or 'pad' at a MIDI pitch; timbre: growl for bass, sparkle for the others."""
    t = _time_s(n_frames)
    hz = 440 * 2 ** ((pitch - 69) / 12)
    gains: tuple[float, ...]
    if instrument == "bass":
        gains, decay_s, gain, attack_s = ((1, 0.55, 0.35, 0.2) if timbre else (1, 0.25, 0.08)), 0.35, 0.27, 0.004
    elif instrument == "arp":
        gains, decay_s, gain, attack_s = ((1, 0.5, 0.3, 0.15) if timbre else (1, 0.3, 0.08)), 0.16, 0.24, 0.002
    else:
        gains, decay_s, gain, attack_s = ((1, 0.4, 0.2) if timbre else (1, 0.2)), 4.0, 0.060, 0.06
    # Upper harmonics die sooner, as behind a closing filter.
    tone = sum(g * np.sin(2 * np.pi * k * hz * t) * np.exp(-t * k**0.7 / decay_s) for k, g in enumerate(gains, 1))
    return _fade_out(gain * np.minimum(t / attack_s, 1) * tone, 0.015)


def _put(mix: Samples, sound: Samples, frame: int) -> None:
    """Add a sound to a mix from a frame on, cut at either end."""
    start = frame * FRAME
    low, high = max(start, 0), min(start + len(sound), len(mix))
    if low < high:
        mix[low:high] += sound[low - start : high - start]


def tonic_pitches(song: Song) -> tuple[int, int, int]:
    """Pitch classes (0..11) of the song's tonic triad: root, third, fifth."""
    return song.root, (song.root + (3 if song.mode == "minor" else 4)) % 12, (song.root + 7) % 12


def _above(pitch_class: int, lowest: int) -> int:
    """The MIDI pitch of a class within the octave that starts at `lowest`."""
    return lowest + (pitch_class - lowest) % 12


def _onsets(pattern: str, bar_frames: int) -> list[tuple[int, int, str]]:
    """(frame in the bar, frames to the next onset or the bar's end, symbol) for each hit of a pattern."""
    steps = [step for step, symbol in enumerate(pattern) if symbol != "."]
    frames = [round(step * bar_frames / N_STEPS) for step in steps] + [bar_frames]
    return [(frames[i], frames[i + 1] - frames[i], pattern[step]) for i, step in enumerate(steps)]


def _put_bar(mix: Samples, song: Song, score: Score, instrument: str, frame: int) -> None:
    """Add one bar of one instrument at a frame."""
    bar, mood = song.bar_frames, _MOODS[song.mood]
    triad = tonic_pitches(song)
    if instrument == "pad":
        for pitch_class in triad:
            _put(mix, note("pad", _above(pitch_class, 53), bar, mood.sparkle), frame)
        return
    arp_root = _above(triad[0], 52)
    ladder = [arp_root, _above(triad[1], arp_root), _above(triad[2], arp_root), arp_root + 12]
    ladder.append(ladder[1] + 12)
    for onset, length, symbol in _onsets(getattr(score, instrument), bar):
        if instrument == "bass":
            pitch = _above(triad[0], 33) + (12 if symbol == "7" else 0)
            _put(mix, note("bass", pitch, min(length, 24), mood.growl), frame + onset)
        elif instrument == "arp":
            _put(mix, note("arp", ladder[int(symbol)], min(length, 24), mood.sparkle), frame + onset)
        else:
            _put(mix, drum({"o": "open", "x": "hat"}[symbol] if instrument == "hats" else instrument), frame + onset)


def render(song: Song, score: Score, n_frames: int, offset_frames: int = 0) -> Samples:
    """Samples [n_frames * 640] of a song that loops its bar, from `offset_frames` on."""
    mix = np.zeros(n_frames * FRAME, np.float32)
    first = offset_frames // song.bar_frames - 1
    last = (offset_frames + n_frames) // song.bar_frames
    for bar in range(max(first, 0), last + 1):
        for instrument in INSTRUMENTS:
            if instrument in song.instruments:
                frame = bar * song.bar_frames - offset_frames
                _put_bar(mix, song, score, instrument, frame)
    return mix * np.float32(MASTER_GAIN)
