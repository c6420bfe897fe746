"""Logits and greedy tokens of transformers' MusicGen, and of the same checkpoint loaded by us."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from audiocraft_ext import checkpoint
from audiocraft_ext.musicgen import Model
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.upstream import ConditioningAttributes
from tests.support.music import window_tokens
from tests.support.tiny import CARD

PROMPT = "dark electro with a bass"


def codes(n_frames: int = 20, n_codebooks: int = 4) -> Tensor:
    return torch.randint(CARD, (1, n_codebooks, n_frames), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def our_logits(loaded: checkpoint.Checkpoint) -> Tensor:
    """Logits [K, T, V] of ``codes``."""
    provider = loaded.lm.condition_provider
    tensors = provider(provider.tokenize([ConditioningAttributes(text={"description": PROMPT})]))
    logits: Tensor = loaded.lm(codes(n_codebooks=loaded.lm.n_q), conditions=[], condition_tensors=tensors)
    return logits[0]


@torch.inference_mode()
def their_logits(model: Any, folder: Path) -> Tensor:
    """Logits [K, T, V] of ``codes``, with the tokenizer in ``folder``."""
    prompt = AutoTokenizer.from_pretrained(folder)([PROMPT], return_tensors="pt")
    text = model.text_encoder(**prompt).last_hidden_state
    if hasattr(model, "enc_to_dec_proj"):
        text = model.enc_to_dec_proj(text)
    logits: Tensor = model.decoder(
        input_ids=codes(n_codebooks=model.decoder.num_codebooks)[0], encoder_hidden_states=text
    ).logits
    return logits


@torch.inference_mode()
def their_tokens(model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, n_new_tokens: int = 60) -> Tensor:
    """Greedy tokens [1, K, T] with guidance, recorded on their way into the codec."""
    made: list[Tensor] = []
    decode = model.audio_encoder.decode

    def record(audio_codes: Tensor, **arguments: Any) -> Any:
        made.append(audio_codes)
        return decode(audio_codes, **arguments)

    monkeypatch.setattr(model.audio_encoder, "decode", record)
    prompt = AutoTokenizer.from_pretrained(folder)([PROMPT], return_tensors="pt")
    model.generate(**prompt, do_sample=False, guidance_scale=3.0, max_new_tokens=n_new_tokens)
    return torch.stack(made, dim=3).flatten(2, 3)[0]  # of stereo's codebooks, left and right take turns


@torch.inference_mode()
def our_tokens(loaded: checkpoint.Checkpoint, n_frames: int) -> Tensor:
    """Greedy tokens [1, K, T] with guidance, by the engine."""
    engine = Model(loaded, EngineSettings())
    arguments: dict[str, Any] = {"use_sampling": False, "temp": 1.0, "top_k": 0, "top_p": 0.0, "cfg_coef": 3.0}
    conditions = [ConditioningAttributes(text={"description": PROMPT})]
    tokens = window_tokens(engine, None, conditions, max_gen_len=n_frames, **arguments)
    engine.close()
    return tokens
