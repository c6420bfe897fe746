"""Detect tempo, key and instruments in a clip. Fitted on synthesiser clips; knows no captions and no LM.

Tempo and key are judged by weights that do not know which tempo or key they look at: one comb over the onset
autocorrelation, stretched to each candidate tempo, and one template over the pitch classes, turned to each root. So
nothing here prefers the tempi and keys that training used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from weights.demo.train.synth import INSTRUMENTS, MODES, SAMPLE_RATE, Samples, Song

Features = NDArray[np.float64]

CANDIDATES_BPM = np.arange(76.0, 156.5, 0.5)
_HOP = 320
_N_FFT = 1024
_EDGES_HZ = np.geomspace(40, 15_000, 33)
_N_STEPS = 40
_PITCH_N_FFT = 8192


def _band_energies(wav: Samples) -> Features:
    """Log energies [32 bands, frames of 10 ms] of samples [N]."""
    spectrum = torch.stft(torch.from_numpy(wav), _N_FFT, _HOP, window=torch.hann_window(_N_FFT), return_complex=True)
    power = spectrum.abs().square().numpy()
    hz = np.linspace(0, SAMPLE_RATE / 2, power.shape[0])
    bands = np.digitize(hz, _EDGES_HZ)
    # The lowest bands are narrower than a bin: they share the nearest one.
    rows = [
        power[bands == b].sum(0) if (bands == b).any() else power[np.abs(hz - _EDGES_HZ[b]).argmin()]
        for b in range(1, len(_EDGES_HZ))
    ]
    return np.log(np.stack(rows) + 1e-3).astype(np.float64)


def onset_autocorrelation(wav: Samples) -> Features:
    """Autocorrelation [lags of 10 ms] of the onset envelope of samples [N], 1 at lag 0."""
    rises = np.maximum(np.diff(_band_energies(wav), axis=1), 0)
    envelope = np.sqrt(rises.sum(0))
    envelope = envelope - envelope.mean()
    n = len(envelope)
    spectrum = np.fft.rfft(envelope, 2 * n)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:n] / np.maximum(n - np.arange(n), n / 4)
    return np.asarray(correlation / (correlation[0] + 1e-9))


def tempo_features(wav: Samples) -> Features:
    """Autocorrelation at multiples of a sixteenth note of each candidate tempo [candidates, 40]."""
    correlation = onset_autocorrelation(wav)
    step_lags = 15 / CANDIDATES_BPM * SAMPLE_RATE / _HOP
    lags = step_lags[:, None] * np.arange(1, _N_STEPS + 1)
    features = np.interp(lags.ravel(), np.arange(len(correlation)), correlation, right=0.0)
    return np.asarray(features.reshape(lags.shape))


def pitch_classes(wav: Samples) -> Features:
    """Root of the share of each pitch class [12] in samples [N], then the same of the bass alone: [24]."""
    window = torch.hann_window(_PITCH_N_FFT)
    spectrum = torch.stft(torch.from_numpy(wav), _PITCH_N_FFT, _PITCH_N_FFT // 4, window=window, return_complex=True)
    magnitude = spectrum.abs().mean(1).numpy()
    # Peaks only: between them lie the skirts of the kick and the noise of the drums.
    low, middle, high = magnitude[:-2], magnitude[1:-1], magnitude[2:]
    peaks = np.flatnonzero((middle > low) & (middle > high))
    low, middle, high = low[peaks], middle[peaks], high[peaks]
    # A parabola through a peak and its neighbours locates it between two bins.
    bins = peaks + 1 + 0.5 * (low - high) / (low - 2 * middle + high)
    hz = bins * SAMPLE_RATE / _PITCH_N_FFT
    classes = np.round(12 * np.log2(hz / 440) + 69).astype(int) % 12
    shares = []
    for low_hz, high_hz in ((160, 2_000), (52, 160)):
        within = (hz > low_hz) & (hz < high_hz)
        share = np.bincount(classes[within], weights=middle[within], minlength=12)
        shares.append(np.sqrt(share / (share.sum() + 1e-9)))
    return np.concatenate(shares)


def key_features(wav: Samples) -> Features:
    """Pitch classes as seen from each of 12 roots [12, 24]."""
    both = pitch_classes(wav).reshape(2, 12)
    return np.stack([np.roll(both, -root, axis=1).ravel() for root in range(12)])


def instrument_features(wav: Samples) -> Features:
    """Mean, deviation, two percentiles and mean rise of each band's log energy [160]."""
    energies = _band_energies(wav)
    rises = np.maximum(np.diff(energies, axis=1), 0)
    low, high = np.percentile(energies, [10, 95], axis=1)
    return np.concatenate([energies.mean(1), energies.std(1), low, high, rises.mean(1)])


def likeness(source: Samples, wav: Samples) -> float:
    """How much samples [N'] sound like those somewhere in `source` [N >= N'], from -1 to 1, for a loop that goes on.

    The largest correlation of their bands' log energies over all positions, each band about its mean: the same sounds
    at the same times, at any loudness.
    """
    ours = _band_energies(wav)
    theirs = sliding_window_view(_band_energies(source), ours.shape[1], axis=1)
    ours, theirs = (part - part.mean(-1, keepdims=True) for part in (ours, theirs))
    products = np.einsum("bpt,bt->p", theirs, ours)
    norms = np.sqrt(np.square(theirs).sum((0, 2)) * np.square(ours).sum())
    return float((products / (norms + 1e-9)).max())


def fit_choice(features: Features, answers: Sequence[int], n_scores: int, l2: float) -> Tensor:
    """Weights [F, scores] of a softmax choice: features [clips, options, F], answers in options * scores."""
    x, y = torch.from_numpy(features).float(), torch.tensor(answers)
    weights = torch.zeros(x.shape[-1], n_scores, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy((x @ weights).flatten(1), y) + l2 * weights.square().sum()
        loss.backward()
        return float(loss.detach())

    optimiser.step(closure)
    return weights.detach()


@dataclass(frozen=True)
class Detectors:
    """Fitted weights: a comb [40, 1], a key template [24, 2] and one classifier an instrument."""

    comb: Tensor
    template: Tensor
    instruments: dict[str, Pipeline]

    def tempo_bpm(self, wav: Samples) -> float:
        """The tempo of samples [N], between 76 and 156, on a grid of half beats a minute."""
        scores = torch.from_numpy(tempo_features(wav)).float() @ self.comb
        return float(CANDIDATES_BPM[int(scores.argmax())])

    def key(self, wav: Samples) -> tuple[int, str]:
        """The root 0..11 and mode of samples [N]."""
        scores = torch.from_numpy(key_features(wav)).float() @ self.template
        root, mode = divmod(int(scores.argmax()), 2)
        return root, MODES[mode]

    def present(self, wav: Samples) -> frozenset[str]:
        """The instruments detected in samples [N]."""
        features = instrument_features(wav)[None]
        return frozenset(name for name, model in self.instruments.items() if model.predict(features)[0])


def fit(wavs: list[Samples], songs: list[Song]) -> Detectors:
    """Detectors fitted on clips and their songs; key on songs with a pitched instrument, tempo on all."""
    tempi = [int(np.abs(CANDIDATES_BPM - song.tempo_bpm).argmin()) for song in songs]
    comb = fit_choice(np.stack([tempo_features(wav) for wav in wavs]), tempi, 1, 1e-5)
    pitched = [i for i, song in enumerate(songs) if song.instruments & {"bass", "arp", "pad"}]
    keys = [2 * songs[i].root + MODES.index(songs[i].mode) for i in pitched]
    template = fit_choice(np.stack([key_features(wavs[i]) for i in pitched]), keys, 2, 1e-4)
    features = np.stack([instrument_features(wav) for wav in wavs])
    classifiers = {}
    for name in INSTRUMENTS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        classifiers[name] = model.fit(features, [name in song.instruments for song in songs])
    return Detectors(comb, template, classifiers)


def same_key(a: tuple[int, str], b: tuple[int, str]) -> bool:
    """Whether two keys have the same notes: a minor key and its relative major do."""
    signatures = [(root + 3) % 12 if mode == "minor" else root for root, mode in (a, b)]
    return signatures[0] == signatures[1]
