"""The loudness of samples before they are written, as audiocraft's. Knows nothing of files."""

from torch import Tensor

from audiocraft_ext.request import NormalizationStrategy


def normalize(samples: Tensor, sample_rate: int, strategy: NormalizationStrategy) -> Tensor:
    """Samples [C, N] as audiocraft's `audio_write` scales them by default; float32 on the CPU, within ±1.

    Loudness: -14 LUFS, no compressor, then clipped. Peak and clip: -1 dB. RMS: -18 dB of the mono mix, then clipped.
    Where upstream divides by zero or fails, the samples are returned unscaled, clipped: silence, which is less than
    half a step of 16 bits (for RMS, of the mono mix), and sound that the loudness meter gates as inaudible. Less than
    the 400 ms that this meter needs is measured as if it were repeated.
    """
    from audiocraft_ext.upstream import normalize_audio

    samples = samples.detach().float().cpu()
    assert samples.isfinite().all(), "samples to write must be finite"
    measured = samples.mean(dim=0) if strategy == "rms" else samples
    if measured.abs().max() < 2**-16:
        return samples.clamp(-1, 1)
    n_samples = samples.shape[-1]
    n_repeats = -(-round(0.4 * sample_rate) // n_samples) if strategy == "loudness" else 1
    # A copy (by `repeat`): upstream clips in place.
    looped = samples.repeat(1, n_repeats)
    try:
        scaled: Tensor = normalize_audio(looped, strategy=strategy, sample_rate=sample_rate)[:, :n_samples]
    except AssertionError:  # raised by upstream if the gain is not finite
        scaled = samples
    return (scaled if scaled.isfinite().all() else samples).clamp(-1, 1)
