"""A training's inputs: each refusal names input, value and fix; what replaces the absent ones."""

from pathlib import Path
from typing import Any

import pytest

from audiocraft_ext.errors import InputError
from audiocraft_ext.training.request import MAX_STEPS, TrainingRequest

DATA = Path("songs.zip")

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"lr": 1}, "lr: 1 is for dadam, which sets its own rate. Leave lr out, or try 2e-4."),
    ({"lr": 1e-9}, "lr: 1e-09 is outside its range. Use a number from 1e-06 to 1. Without it: 2e-4 for lora, 1e-5 for full."),  # noqa: E501
    ({"lr": float("nan")}, "lr: nan is outside its range. Use a number from 1e-06 to 1. Without it: 2e-4 for lora, 1e-5 for full."),  # noqa: E501
    ({"optimizer": "dadam"}, "optimizer: 'dadam' sets its own learning rate and does not suit adapters. Use adamw, and leave lr out."),  # noqa: E501
    ({"optimizer": "dadam", "lr": 1}, "optimizer: 'dadam' sets its own learning rate and does not suit adapters. Use adamw, and leave lr out."),  # noqa: E501
    ({"optimizer": "sgd"}, "optimizer: 'sgd' is not one of its choices. Use one of: adamw, dadam."),
    ({"method": "dora"}, "method: 'dora' is not one of its choices. Use one of: lora, full."),
    ({"model_version": "huge"}, "model_version: 'huge' is not one of its choices. Use one of: small, medium, melody, large, stereo-small, stereo-medium, stereo-melody, stereo-large."),  # noqa: E501
    ({"batch_size": 0}, "batch_size: 0 is outside its range. Use a number from 1 to 256. As many clips make a step, however few fit into memory at once."),  # noqa: E501
    ({"trigger_word": "x" * 41}, "trigger_word: 41 characters are outside its range. Use a length from 1 to 40."),
    ({"steps": 100, "epochs": 2}, "steps: 100, but epochs or updates_per_epoch also set them. Send one of both."),
    ({"epochs": 300}, "epochs: 30000 steps with updates_per_epoch; the limit is 20000. Send smaller ones."),
    ({"held_out": 0.6}, "held_out: 0.6 is outside its range. Use a number from 0 to 0.5. It is the share of songs that measure the training."),  # noqa: E501
    ({"seed": 2**32}, "seed: 4294967296 is outside its range. Use a number from 0 to 4294967295."),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "sentence"), REFUSED)
def test_a_bad_input_is_refused_by_name_value_and_fix(inputs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        TrainingRequest(DATA, **inputs)
    assert str(raised.value) == sentence


def test_empty_texts_are_absent_ones() -> None:
    request = TrainingRequest(DATA, one_same_description="", trigger_word=" ", sample_prompts="\n")
    assert request == TrainingRequest(DATA)
    assert request.prompts == []


def test_steps_are_fifteen_passes_within_bounds_or_as_asked() -> None:
    assert [TrainingRequest(DATA).n_steps(n) for n in (1, 400, 10_000)] == [200, 750, 1500]
    assert TrainingRequest(DATA, steps=7).n_steps(400) == 7
    assert TrainingRequest(DATA, epochs=2).n_steps(400) == 200
    assert TrainingRequest(DATA, updates_per_epoch=10).n_steps(400) == 30  # the hosted fine-tuner's 3 epochs
    assert TrainingRequest(DATA, epochs=1, updates_per_epoch=MAX_STEPS).n_steps(1) == MAX_STEPS


def test_the_rate_depends_on_the_method_and_warmup_on_the_steps() -> None:
    assert TrainingRequest(DATA).learning_rate == 2e-4
    assert TrainingRequest(DATA, method="full").learning_rate == 1e-5
    assert TrainingRequest(DATA).n_warmup(200) == 20
    assert TrainingRequest(DATA, warmup=0).n_warmup(200) == 0


def test_how_often_it_is_saved_makes_it_no_other_training() -> None:
    assert TrainingRequest(DATA, save_every=7).settings() == TrainingRequest(DATA).settings()
    assert TrainingRequest(DATA, seed=7).settings() != TrainingRequest(DATA).settings()
