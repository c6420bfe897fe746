"""Captions and melodies → an LM's condition tensors, dropped at random as in the training of its base.

audiocraft's dropout modules draw. A dropped condition equals the server's null row: zeros as long as the batch's texts,
and the projected chroma of silence.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from audiocraft_ext.training.tokens import Example
from audiocraft_ext.upstream import (
    AttributeDropout,
    ClassifierFreeGuidanceDropout,
    ConditioningAttributes,
    LMModel,
    WavCondition,
    nullify_wav,
)

TEXT, MELODY = "description", "self_wav"
# Meta's, for a melody base whose config says nothing: without it prompts of text alone would be forgotten.
_MELODY_DROPOUT, _NO_MELODY = {"wav": {MELODY: 0.5}}, {"wav": {MELODY: 1.0}}


@dataclass(frozen=True)
class Prepared:
    """The inputs of a batch's conditioners before any trained weight: ``text`` is token ids [B, L], or T5's states
    [B, L, W]; its ``mask`` [B, L] is 0 where padded or dropped; ``chroma`` [B, T', 12] is None without a melody."""

    text: Tensor
    mask: Tensor
    chroma: Tensor | None

    def __getitem__(self, rows: list[int]) -> "Prepared":
        return Prepared(self.text[rows], self.mask[rows], None if self.chroma is None else self.chroma[rows])


class Conditions:
    """The condition tensors of an LM; ``cfg_p`` is the probability of a batch without conditions, None the base's."""

    def __init__(self, lm: LMModel, cfg_p: float | None) -> None:
        conditioners = lm.condition_provider.conditioners
        self._text: Any = conditioners[TEXT]
        self._melody: Any = dict(conditioners.items()).get(MELODY)
        self._cfg_p = lm.cfg_dropout.p if cfg_p is None else cfg_p
        self._attribute_p = lm.att_dropout.p
        if self._melody is not None and "wav" not in self._attribute_p:
            self._attribute_p = {**self._attribute_p, **_MELODY_DROPOUT}
        self._device = lm.emb[0].weight.device
        # T5 is frozen: a caption's states never change, unless words are dropped before it.
        self._is_cached = not self._text.finetune and self._text.word_dropout == 0
        self._states: dict[str, tuple[Tensor, Tensor]] = {}
        wav = WavCondition(torch.zeros(1, 1, 2), torch.tensor([2]), [1], [None], [None])
        self._melody_wav = WavCondition(*(x.to(self._device) if isinstance(x, Tensor) else x for x in wav))
        if self._melody is not None:
            with torch.no_grad():
                self._silence = self._melody._get_wav_embedding(nullify_wav(self._melody_wav))[0]

    def prepare(self, examples: Sequence[Example], seed: int | None) -> Prepared:
        """A batch's inputs, dropped by draws from ``seed``. None, for an evaluation, keeps the texts alone: a melody
        gives the notes away, and most predictions are made without one."""
        kept = [ConditioningAttributes({TEXT: example.caption}, {MELODY: self._melody_wav}) for example in examples]
        if self._melody is None:
            kept = [ConditioningAttributes(attributes.text) for attributes in kept]
        if seed is not None:
            kept = ClassifierFreeGuidanceDropout(self._cfg_p, seed)(kept)
            kept = AttributeDropout(self._attribute_p, seed=seed + 1)(kept)
        elif self._melody is not None:
            kept = AttributeDropout(_NO_MELODY)(kept)
        captions = [example.caption for example in examples]
        text, mask = self._encode(captions) if self._is_cached else self._tokenize(captions, seed)
        has_text = torch.tensor([attributes.text[TEXT] is not None for attributes in kept], device=self._device)
        chroma = None
        if self._melody is not None:
            follows = [bool(attributes.wav[MELODY].length) for attributes in kept]
            given = (e.chroma if e.chroma is not None and f else None for e, f in zip(examples, follows, strict=True))
            chroma = torch.stack([self._silence if row is None else row.to(self._silence) for row in given])
        return Prepared(text, mask * has_text[:, None], chroma)

    def embed(self, prepared: Prepared) -> dict[str, tuple[Tensor, Tensor]]:
        """Embeddings [B, L, D] and masks [B, L] by conditioner, in the order of audiocraft's provider."""
        text, states = self._text, prepared.text
        if not self._is_cached:
            with torch.set_grad_enabled(text.finetune and torch.is_grad_enabled()), text.autocast:
                # As tokenized: T5 itself sees the text also where it is dropped.
                states = text.t5(input_ids=states, attention_mask=(states != text.t5_tokenizer.pad_token_id).int())
                states = states.last_hidden_state
        embedded = text.output_proj(states.to(text.output_proj.weight)) * prepared.mask[..., None]
        conditions = {TEXT: (embedded, prepared.mask)}
        if prepared.chroma is not None:
            melody = self._melody.output_proj(prepared.chroma.to(self._melody.output_proj.weight))
            conditions[MELODY] = (melody, torch.ones_like(melody[..., 0]))
        return conditions

    def _encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        text = self._text
        for caption in set(captions) - self._states.keys():
            inputs = text.tokenize([caption])
            with torch.no_grad(), text.autocast:
                states = text.t5(**inputs).last_hidden_state[0]
            self._states[caption] = (states, inputs["attention_mask"][0])
        states, masks = zip(*(self._states[caption] for caption in captions), strict=True)
        return pad_sequence(list(states), batch_first=True), pad_sequence(list(masks), batch_first=True)

    def _tokenize(self, captions: list[str], seed: int | None) -> tuple[Tensor, Tensor]:
        """Token ids and mask; audiocraft drops words by Python's global generator, and in training mode alone."""
        was_training, before = self._text.training, random.getstate()
        random.seed(seed)
        try:
            inputs = self._text.train(seed is not None).tokenize(captions)
        finally:
            self._text.train(was_training)
            random.setstate(before)
        return inputs["input_ids"], inputs["attention_mask"]
