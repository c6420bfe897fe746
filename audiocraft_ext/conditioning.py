"""Conditioners that audiocraft lacks: T5 and Demucs passed in instead of downloaded, and chroma without Demucs.

Knows no checkpoints and no requests.
"""

import math
from typing import Any

import torch
from omegaconf import DictConfig
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
    """audiocraft's ``T5Conditioner`` around a given tokenizer and encoder; it accepts names of public T5s only.

    ``t5`` are its settings; with ``finetune`` the encoder was trained too, and its weights are part of the LM's.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, encoder: T5EncoderModel, output_dim: int, device: str, t5: DictConfig
    ) -> None:
        # Skip the parent's __init__, which loads a public T5 by name.
        BaseConditioner.__init__(self, encoder.config.d_model, output_dim)
        self.device = device
        self.finetune, self.word_dropout = t5.get("finetune", False), t5.get("word_dropout", 0.0)
        self.normalize_text = False
        # T5 overflows in half precision.
        self.autocast = TorchAutocast(enabled=device != "cpu", device_type=device, dtype=torch.float32)
        self.t5_tokenizer = tokenizer
        if self.finetune:
            self.t5 = encoder
        else:
            nn.Module.to(encoder, device).eval()
            self.__dict__["t5"] = encoder  # not registered: keeps its weights out of the LM's state dict


class _Chroma(ChromaStemConditioner):
    """Chroma [B, T', n_chroma] of a waveform's melody, projected to [B, T', D]; T' covers ``duration`` seconds.

    A subclass extracts the melody from the mix in ``_get_stemmed_wav``. Samples up to ``lookahead_s`` after
    ``duration`` affect the embedding. Further arguments are ``ChromaExtractor``'s.
    """

    lookahead_s = 1.0  # longer than a spectrum's window

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
        # Skip the parent's __init__, which downloads Demucs.
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
        # audiocraft embeds the whole clip, minutes of Demucs for a long one, and crops afterwards; crop first.
        max_samples = math.ceil((self.duration + self.lookahead_s) * sample_rate)
        return super()._compute_wav_embedding(wav[..., :max_samples], sample_rate)


class StemConditioner(_Chroma):
    """audiocraft's ``chroma_stem``, as in Meta's checkpoints: the melody is Demucs' stems "vocals" and "other".

    ``demucs`` is one of demucs' own models, or a bag of them.
    """

    def __init__(self, demucs: Any, *, device: torch.device | str = "cpu", **chroma: Any) -> None:
        super().__init__(device=device, **chroma)
        self.__dict__["demucs"] = demucs.to(device).eval()  # not registered: keeps its weights out of the LM's
        # Demucs' segments overlap: the window's last samples depend on segments that begin before its end.
        self.lookahead_s += 2 * max(float(model.segment) for model in getattr(demucs, "models", [demucs]))
        sources = list(demucs.sources)
        self.stem_indices = torch.tensor([sources.index("vocals"), sources.index("other")], device=device)

    @torch.no_grad()
    def _get_stemmed_wav(self, wav: Tensor, sample_rate: int) -> Tensor:
        """The melody of a mix [B, C, N] in mono at the chroma's sample rate [B, 1, N']."""
        from demucs.apply import apply_model  # only these melodies need demucs
        from demucs.audio import convert_audio

        demucs = self.demucs
        with self.autocast:
            mix = convert_audio(wav, sample_rate, demucs.samplerate, demucs.audio_channels)
            # By default demucs shifts the clip by a random offset from Python's global generator, so that the same
            # request would follow another melody each time. No shift equals its longest one.
            stems = apply_model(demucs, mix, shifts=0, device=self.device)
            melody = stems[:, self.stem_indices].sum(1)
            return convert_audio(melody, demucs.samplerate, self.sample_rate, 1)


class ChromaConditioner(_Chroma):
    """The melody is the mix between ``low_hz`` and ``high_hz``: no second model, and almost no time."""

    def __init__(self, *, low_hz: float = 0.0, high_hz: float = torch.inf, **chroma: Any) -> None:
        super().__init__(**chroma)
        filters = self.chroma.fbanks
        bin_hz = torch.linspace(0, self.sample_rate / 2, filters.shape[1], device=filters.device)
        filters *= (bin_hz >= low_hz) & (bin_hz <= high_hz)

    @torch.no_grad()
    def _get_stemmed_wav(self, wav: Tensor, sample_rate: int) -> Tensor:
        """The whole mix [B, C, N] in mono at the chroma's sample rate [B, 1, N']."""
        return convert_audio(wav, sample_rate, self.sample_rate, 1)
