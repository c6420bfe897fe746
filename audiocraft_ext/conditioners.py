"""audiocraft's text and melody conditioners, built from what is at hand instead of downloads. Knows no checkpoints."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from audiocraft_ext.upstream import (
    BaseConditioner,
    ChromaExtractor,
    ChromaStemConditioner,
    PreTrainedTokenizerBase,
    T5Conditioner,
    T5EncoderModel,
    TorchAutocast,
    WaveformConditioner,
    convert_audio,
)


class TextConditioner(T5Conditioner):
    """audiocraft's ``T5Conditioner`` around a given tokenizer and encoder, instead of a public T5's name.

    ``finetune`` is a training that changed the encoder too: its weights are then part of the LM's.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, encoder: T5EncoderModel, output_dim: int, device: str, finetune: bool
    ) -> None:
        # Not the parent's __init__: that loads by name, from a list of public ones.
        BaseConditioner.__init__(self, encoder.config.d_model, output_dim)
        self.device = device
        self.finetune = finetune
        self.word_dropout = 0.0
        self.normalize_text = False
        # T5 overflows in half precision.
        self.autocast = TorchAutocast(enabled=device != "cpu", device_type=device, dtype=torch.float32)
        self.t5_tokenizer = tokenizer
        if finetune:
            self.t5 = encoder
        else:
            nn.Module.to(encoder, device).eval()
            self.__dict__["t5"] = encoder  # beside the module, so that it is none of its weights


class _Chroma(ChromaStemConditioner):
    """Chroma [B, T', n_chroma] of a waveform's melody, projected to [B, T', D]; T' is that of `duration` seconds.

    A subclass decides how the melody is told from the rest of the mix, and with `reach_s`, how far ahead it listens for
    that. Further settings go to audiocraft's ``ChromaExtractor``.
    """

    reach_s = 1.0  # a frame's spectrum reaches over less

    def __init__(
        self,
        output_dim: int,
        sample_rate: int,
        n_chroma: int,
        radix2_exp: int,
        duration: float,
        match_len_on_eval: bool = True,
        device: torch.device | str = "cpu",
        **extractor: Any,
    ) -> None:
        # Not the parent's __init__: that downloads and loads Demucs.
        WaveformConditioner.__init__(self, dim=n_chroma, output_dim=output_dim, device=device)
        self.autocast = TorchAutocast(enabled=device != "cpu", device_type=self.device, dtype=torch.float32)
        self.sample_rate = sample_rate
        self.match_len_on_eval = match_len_on_eval
        self._use_masking = False
        self.duration = duration
        chroma = ChromaExtractor(sample_rate=sample_rate, n_chroma=n_chroma, radix2_exp=radix2_exp, **extractor)
        self.chroma = chroma.to(device)
        self.chroma_len = self._get_chroma_len()
        self.eval_wavs = None
        self.cache = None

    @torch.no_grad()
    def _compute_wav_embedding(self, wav: Tensor, sample_rate: int) -> Tensor:
        # audiocraft hears all of a clip and then keeps the window's frames: of a long one, minutes of work for nothing.
        heard: Tensor = super()._compute_wav_embedding(
            wav[..., : math.ceil((self.duration + self.reach_s) * sample_rate)], sample_rate
        )
        return heard


class StemConditioner(_Chroma):
    """audiocraft's ``chroma_stem``, as in Meta's checkpoints: the melody is what Demucs hears as vocals and others.

    `demucs` is one of demucs' own models, or a bag of them.
    """

    def __init__(self, demucs: Any, *, device: torch.device | str = "cpu", **chroma: Any) -> None:
        super().__init__(device=device, **chroma)
        self.__dict__["demucs"] = demucs.to(device).eval()  # beside the module, so that it is none of its weights
        # Pieces overlap: what is heard at the window's end is of pieces that begin before it.
        self.reach_s += 2 * max(float(model.segment) for model in getattr(demucs, "models", [demucs]))
        sources = list(demucs.sources)
        self.stem_indices = torch.tensor([sources.index("vocals"), sources.index("other")], device=device)

    @torch.no_grad()
    def _get_stemmed_wav(self, wav: Tensor, sample_rate: int) -> Tensor:
        """The melody of a mix [B, C, N] in mono at the chroma's sample rate [B, 1, N']."""
        from demucs.apply import apply_model  # here, since these melodies alone need it
        from demucs.audio import convert_audio

        demucs = self.demucs
        with self.autocast:
            mix = convert_audio(wav, sample_rate, demucs.samplerate, demucs.audio_channels)
            # Unasked, demucs shifts the clip by up to half a second, drawn from Python's global generator: the same
            # request would follow another melody each time. Without it is what its longest shift gives.
            stems = apply_model(demucs, mix, shifts=0, device=self.device)
            melody = stems[:, self.stem_indices].sum(1)
            mono: Tensor = convert_audio(melody, demucs.samplerate, self.sample_rate, 1)
            return mono


class ChromaConditioner(_Chroma):
    """The melody is what is neither below nor above a band: it costs nothing, and needs no second model.

    `low_hz` and `high_hz` bound the band.
    """

    def __init__(self, *, low_hz: float = 0.0, high_hz: float = torch.inf, **chroma: Any) -> None:
        super().__init__(**chroma)
        filters = self.chroma.fbanks
        bin_hz = torch.linspace(0, self.sample_rate / 2, filters.shape[1], device=filters.device)
        filters *= (bin_hz >= low_hz) & (bin_hz <= high_hz)

    @torch.no_grad()
    def _get_stemmed_wav(self, wav: Tensor, sample_rate: int) -> Tensor:
        """The whole mix [B, C, N] in mono at the chroma's sample rate [B, 1, N']."""
        mono: Tensor = convert_audio(wav, sample_rate, self.sample_rate, 1)
        return mono
