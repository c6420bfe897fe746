"""Conditions equal audiocraft's, dropped conditions equal the server's null rows, and draws are the base's."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from audiocraft_ext import checkpoint
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.musicgen import Model, RequestMusicGen
from audiocraft_ext.progress import SilentProgress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings
from audiocraft_ext.training.conditions import Conditions
from audiocraft_ext.training.tokens import Example
from audiocraft_ext.upstream import ClassifierFreeGuidanceDropout, ConditioningAttributes, WavCondition
from tests.support import tiny
from tests.support.training import examples

CODES = torch.zeros(4, 8, dtype=torch.int16)


@pytest.fixture(scope="module")
def demo() -> Model:
    """The embedded checkpoint, which cross-attends to the text and prepends the melody."""
    return Model(checkpoint.load("embedded", "cpu"), EngineSettings(engine="upstream"))


def without_word_dropout(folder: Path, kind: tiny.Kind) -> Checkpoint:
    """A tiny checkpoint whose captions reach T5 whole."""
    conditioners = tiny.lm_config(kind)["conditioners"]
    conditioners["description"]["t5"]["word_dropout"] = 0.0
    return checkpoint.load(str(tiny.write(folder, kind, conditioners=conditioners)), "cpu")


@torch.no_grad()
def embed(conditions: Conditions, given: list[Example], seed: int | None) -> dict[str, tuple[Any, Any]]:
    return conditions.embed(conditions.prepare(given, seed))


def test_a_batch_s_texts_are_embedded_as_audiocraft_embeds_them(
    tiny_checkpoint: Callable[[tiny.Kind], Checkpoint], tmp_path: Path
) -> None:
    cached = without_word_dropout(tmp_path, "text").lm
    for lm in (tiny_checkpoint("text").lm, cached):  # of these only the second's T5 states are kept
        given = [*examples(lm, 3), Example(CODES, "", "a song")]
        provider = lm.eval().condition_provider
        attributes = [ConditioningAttributes({"description": example.caption}) for example in given]
        with torch.no_grad():
            theirs = provider(provider.tokenize(attributes))["description"]
        ours = embed(Conditions(lm, None), given, None)["description"]
        torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-5)  # largest measured: 5e-7
        assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("kind", ["text", "melody", "embedded"])
def test_dropped_conditions_are_the_server_s_null_rows(kind: Any, tmp_path: Path, demo: Model) -> None:
    upstream = EngineSettings(engine="upstream")
    model = demo if kind == "embedded" else Model(without_word_dropout(tmp_path, kind), upstream)
    lm, prompt = model.checkpoint.lm, "dark drums and a long bass"
    music_gen = RequestMusicGen(model, Request(prompt=prompt), SilentProgress())
    n_samples = int(lm.cfg.dataset.segment_duration) * 32000
    melody = WavCondition(
        torch.sin(torch.arange(n_samples) * 0.05)[None, None], torch.tensor([n_samples]), [32000], [None], [0.0]
    )
    silence = WavCondition(torch.zeros(1, 1, 1), torch.tensor([0]), [32000], [None], [None])
    conditioner: Any = dict(lm.condition_provider.conditioners.items()).get("self_wav")
    with torch.no_grad():
        chroma = None if conditioner is None else conditioner._get_wav_embedding(melody)[0]
    example = Example(CODES, prompt, "a song", chroma)
    for wav, seed in ((melody, 0), (silence, None)):
        attributes = ConditioningAttributes({"description": prompt}, {} if kind == "text" else {"self_wav": wav})
        with torch.no_grad():
            theirs = music_gen._conditions([attributes], is_guided=True)
        conditions = without_melody_dropout(Conditions(lm, 0.0))
        rows = (embed(conditions, [example], seed), embed(Conditions(lm, 1.0), [example], 0))
        for row, ours in enumerate(rows):
            fused = lm.fuser(torch.zeros(1, 0, lm.dim), ours)
            for our_part, their_part in zip(fused, theirs, strict=True):
                assert (our_part is None) == (their_part is None)
                if our_part is not None and their_part is not None:
                    torch.testing.assert_close(our_part[0], their_part[row], rtol=0, atol=1e-5)


def without_melody_dropout(conditions: Conditions) -> Conditions:
    """So that the melody is certain to be there."""
    conditions._attribute_p = {}
    return conditions


def test_batches_are_dropped_as_often_as_the_base_s_were(demo: Model) -> None:
    lm, n_draws = demo.checkpoint.lm, 10_000
    example = Example(CODES, "drums", "a song")
    for cfg_p, expected in ((None, 0.12), (0.3, 0.3)):
        conditions = Conditions(lm, cfg_p)
        dropped = [not conditions.prepare([example] * 2, seed).mask.any() for seed in range(n_draws)]
        assert abs(sum(dropped) / n_draws - expected) < 3 * math.sqrt(expected * (1 - expected) / n_draws)
        assert dropped[:50] == [_is_dropped(expected, seed) for seed in range(50)]


def _is_dropped(p: float, seed: int) -> bool:
    """By audiocraft's own module."""
    [drawn] = ClassifierFreeGuidanceDropout(p, seed)([ConditioningAttributes({"description": "drums"})])
    return drawn.text["description"] is None


def test_half_the_batches_of_a_melody_base_train_the_text_alone(demo: Model) -> None:
    conditions = Conditions(demo.checkpoint.lm, 0.0)
    chroma = torch.ones(conditions._silence.shape)
    example = replace(examples(demo.checkpoint.lm, 1)[0], chroma=chroma)
    follows = [conditions.prepare([example], seed).chroma.equal(chroma[None]) for seed in range(1000)]  # type: ignore
    assert 450 < sum(follows) < 550


def test_words_are_dropped_by_the_step_s_seed(tiny_checkpoint: Callable[[tiny.Kind], Checkpoint]) -> None:
    conditions = Conditions(tiny_checkpoint("text").lm, 0.0)
    given = [Example(CODES, "one two three four five six seven eight", "a song")] * 2
    texts = [conditions.prepare(given, seed).text for seed in (1, 1, 2)]
    assert torch.equal(texts[0], texts[1])
    assert texts[0].shape != texts[2].shape or not torch.equal(texts[0], texts[2])
    whole, mask = conditions.prepare(given, None).text, conditions.prepare(given, None).mask
    assert whole.shape[1] == int(mask[0].sum()) > texts[0].shape[1]
