"""Every row of the input table that can be judged without audio or a model."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from audiocraft_ext.errors import InputError
from audiocraft_ext.request import MAX_PROMPT_CHARACTERS, MAX_SEED, Request
from tests.support.requests import AUDIO, DEFAULTS


def request_with(**inputs: Any) -> Request:
    return Request.from_inputs(**{**DEFAULTS, **inputs})


def test_a_request_s_own_defaults_are_the_contract_s() -> None:
    assert Request(prompt="electro", seed=1) == request_with(seed=1)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)}, "prompt"),
    ({"prompt": "half a letter \ud83d"}, "prompt"),
    ({"continuation": True}, "continuation"),
    ({"duration": 0}, "duration"),
    ({"duration": -1}, "duration"),
    ({"duration": 301}, "duration"),
    ({"duration": 10**9}, "duration"),
    ({"duration": 1e25}, "duration"),
    ({"duration": 10**400}, "duration"),
    ({"continuation_start": -1, "input_audio": AUDIO}, "continuation_start"),
    ({"continuation_end": -2, "input_audio": AUDIO}, "continuation_end"),
    ({"continuation_start": 5, "continuation_end": 2, "input_audio": AUDIO}, "continuation_start"),
    ({"continuation_start": 2, "continuation_end": 2, "input_audio": AUDIO}, "continuation_start"),
    ({"normalization_strategy": "loud"}, "normalization_strategy"),
    ({"top_k": -1}, "top_k"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_p": -0.1}, "top_p"),
    ({"top_p": math.nan}, "top_p"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": math.nan}, "temperature"),
    ({"temperature": math.inf}, "temperature"),
    ({"temperature": 10**400}, "temperature"),
    ({"classifier_free_guidance": 10**9}, "classifier_free_guidance"),
    ({"classifier_free_guidance": -101}, "classifier_free_guidance"),
    ({"output_format": "flac"}, "output_format"),
    ({"seed": -2}, "seed"),
    ({"seed": 2**32}, "seed"),
    ({"seed": 10**25}, "seed"),
    ({"seed": 1e25}, "seed"),  # what 10**25 becomes on its way through JSON
    ({"seed": math.inf}, "seed"),
    ({"seed": 0.5}, "seed"),
]


@pytest.mark.parametrize(("inputs", "field"), REFUSED)
def test_a_bad_input_is_refused_by_name_value_and_hint(inputs: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as refusal:
        request_with(**inputs)
    message = str(refusal.value)
    assert refusal.value.field == field
    assert message.startswith(f"{field}: ")
    assert len(message.rstrip(".").split(". ")) >= 2, "the problem, then a hint"
    assert len(message) < 300


ACCEPTED: list[dict[str, Any]] = [
    {"prompt": ""},
    {"prompt": None, "input_audio": AUDIO},
    {"duration": 1},
    {"duration": 300},
    {"top_k": 0},
    {"top_k": 10**6},
    {"top_p": 1},
    {"temperature": 0},
    {"classifier_free_guidance": -100},
    {"classifier_free_guidance": 1},
    {"seed": 0},
    {"seed": MAX_SEED},
    {"continuation": True, "input_audio": AUDIO, "continuation_start": 3, "continuation_end": 4},
]


@pytest.mark.parametrize("inputs", ACCEPTED)
def test_an_extreme_but_valid_input_is_kept_as_it_is(inputs: dict[str, Any]) -> None:
    request = request_with(**inputs)
    kept = {name: getattr(request, name) for name in inputs if not name.startswith("continuation_")}
    assert kept == {name: value for name, value in inputs.items() if name in kept}


def test_zero_is_a_seed_and_none_or_minus_one_draws_one() -> None:
    assert request_with(seed=0).seed == 0
    drawn = {request_with(seed=seed).seed for seed in (None, -1) for _ in range(20)}
    assert len(drawn) > 30
    assert all(0 <= seed <= MAX_SEED for seed in drawn)


@pytest.mark.parametrize("end", [None, -1, 0])
def test_no_continuation_end_means_the_end_of_the_clip(end: int | None) -> None:
    request = request_with(input_audio=AUDIO, continuation_start=2, continuation_end=end)
    assert (request.continuation_start, request.continuation_end) == (2, None)


def test_the_longest_duration_is_a_setting() -> None:
    assert request_with(duration=900, max_duration_s=900).duration == 900
    with pytest.raises(InputError, match="from 1 to 10"):
        request_with(duration=11, max_duration_s=10)


@pytest.mark.parametrize("name", ["temperature", "top_p"])
@pytest.mark.parametrize("value", [5e-324, 1e-46, 1e-38, 1e-12])
def test_a_number_next_to_zero_is_not_zero(name: str, value: float) -> None:
    assert torch.tensor(getattr(request_with(**{name: value}), name), dtype=torch.float32) > 0
    assert getattr(request_with(**{name: 0}), name) == 0


@pytest.mark.parametrize("value", [1e308, 3.5e38, 2**63])
def test_a_temperature_beyond_float32_or_64_bits_is_one_that_it_holds(value: float) -> None:
    temperature = request_with(temperature=value).temperature
    assert isinstance(temperature, float)
    assert math.isfinite(torch.tensor(temperature, dtype=torch.float32).item())


def test_a_requests_inputs_are_all_that_were_given_but_the_audio() -> None:
    request = request_with(input_audio=AUDIO, continuation_start=3, seed=7)
    assert request.inputs() == {
        name: value
        for name, value in {**DEFAULTS, "continuation_start": 3, "seed": 7}.items()
        if name not in ("input_audio", "continuation_end")
    }
    assert "prompt" not in dataclasses.replace(request, prompt=None).inputs()


@pytest.mark.parametrize(
    ("text", "adapters"),
    [
        ("", ()),
        ("warm", (("warm", 1.0),)),
        ("warm:0.8, cold:-1", (("warm", 0.8), ("cold", -1.0))),
        ("a b:2,", (("a b", 2.0),)),
    ],
)
def test_adapters_come_from_the_context(text: str, adapters: object) -> None:
    request = request_with(context={"adapter": text, "trace": "1"})
    assert request.adapters == adapters
    again = request.description().get("context")
    assert request_with(context=again).adapters == adapters
    assert "adapters" not in request.inputs()


@pytest.mark.parametrize("text", ["warm:", "warm:loud", "warm:nan", "warm:11", "warm:inf", "warm:1:2"])
def test_an_adapters_strength_is_a_number_within_bounds(text: str) -> None:
    with pytest.raises(InputError, match=r"context.adapter: '.*' has no strength from -10 to 10"):
        request_with(context={"adapter": text})
