"""The 14 inputs on the command line: their table in ``--help``, and their values, checked. Standard library only.

The schema, openapi.json, has their names, types and defaults; ``audiocraft_ext/request.py`` the bounds.
"""

import argparse
import base64
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from audiocraft_ext.audio.source import check_size, decode_data_url
from audiocraft_ext.request import DEFAULT_MAX_DURATION_S, MAX_GUIDANCE, MAX_PROMPT_CHARACTERS, MAX_SEED, Request
from cli import ROOT
from cli.flags import given_inputs, parse
from cli.output import is_folder

ANY_DURATION_S = sys.maxsize
_MEANING = {
    "prompt": "the music in words; a bare word is one too",
    "input_audio": "music to continue, or whose melody to follow",
    "duration": "seconds of the result, a continued excerpt included",
    "continuation": "true: continue input_audio; false: follow its melody",
    "continuation_start": "start of the window cut from input_audio, in seconds",
    "continuation_end": "its end; -1 is the end of the clip",
    "multi_band_diffusion": "decode with MultiBand Diffusion",
    "normalization_strategy": "of the loudness",
    "top_k": "sample from the k likeliest tokens; 0: from all",
    "top_p": "above 0: from the likeliest of this probability",
    "temperature": "higher is more varied; 0 takes the likeliest token",
    "classifier_free_guidance": "how strongly to follow the inputs; 1: no guidance",
    "output_format": "by default as -o ends",
    "seed": "same seed, same file; -1: random",
}


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """Each input's schema by name, in the page's order."""
    components = json.loads((ROOT / "openapi.json").read_text())["components"]["schemas"]
    properties: dict[str, dict[str, Any]] = components["Input"]["properties"]
    for schema in properties.values():
        for part in schema.pop("allOf", []):
            schema |= {"enum": components[part["$ref"].rpartition("/")[2]]["enum"]}
    return dict(sorted(properties.items(), key=lambda item: item[1]["x-order"]))


def max_duration_s() -> int:
    """``MUSICGEN_MAX_DURATION``, where it is a number."""
    limit = os.environ.get("MUSICGEN_MAX_DURATION", "")
    return (int(limit) if limit.isdecimal() else 0) or DEFAULT_MAX_DURATION_S


def bounds() -> dict[str, str]:
    """The values that each input takes."""
    return {
        "prompt": f"up to {MAX_PROMPT_CHARACTERS} characters",
        "input_audio": "@file, URL or -",
        "duration": f"1 to {max_duration_s()}",
        "continuation": "true, false",
        "continuation_start": "0 or more",
        "continuation_end": "-1 or more",
        "multi_band_diffusion": "true, false",
        "normalization_strategy": ", ".join(schemas()["normalization_strategy"]["enum"]),
        "top_k": "0 or more",
        "top_p": "0 to 1",
        "temperature": "0 or more",
        "classifier_free_guidance": f"{-MAX_GUIDANCE} to {MAX_GUIDANCE}",
        "output_format": ", ".join(schemas()["output_format"]["enum"]),
        "seed": f"-1 to {MAX_SEED}",
    }


def table() -> str:
    """The inputs' names, values, defaults and meanings, a line each."""
    lines = ["inputs, given as -i name=value:"]
    for name, values in bounds().items():
        default = schemas()[name].get("default")
        shown = "" if default is None else f"{str(default).lower()}"
        lines.append(f"  {name:24} {values:25} {shown:9} {_MEANING[name]}")
    return "\n".join(lines)


def prompt_of(words: list[str]) -> str | None:
    """The prompt in bare words, in ``@file``, or on standard input (``-``); raises ``ValueError``."""
    text = " ".join(words)
    for word in words:
        if (name := word.partition("=")[0]) in schemas() and "=" in word:
            raise ValueError(f"{word}: write it as -i {word}. A prompt with {name}= in it is -i prompt=….")
    try:
        if text == "-":
            return sys.stdin.read().strip()
        if text.startswith("@"):
            return Path(text[1:]).expanduser().read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{text}: it is not text. For audio, write -i input_audio={text}.") from None
    except OSError as error:
        raise ValueError(f"{text}: {error.strerror}. Name a text file with the prompt.") from None
    return text if words else None


def input_file(value: Any) -> Any:
    """A local file's path, or a URL, which the Predictor opens; ``-`` is standard input, as a data URL."""
    if value == "-":
        return f"data:application/octet-stream;base64,{base64.b64encode(sys.stdin.buffer.read()).decode()}"
    if not isinstance(value, str) or value.lower().startswith(("http://", "https://", "data:")):
        return value
    path = Path(value.removeprefix("@")).expanduser()
    if not path.is_file():
        raise ValueError(f"input_audio: there is no file {path}. Name a file, or an http, https or data URL.")
    return path


def inputs_of(options: argparse.Namespace) -> dict[str, Any]:
    """Every input: those given, and the schema's defaults; raises ``ValueError``. The ending of ``-o`` is a format."""
    given = given_inputs(options, schemas())
    if options.words:
        if "prompt" in given:
            raise ValueError("prompt: it is given twice, as bare words and by -i or --json. Keep one.")
        given["prompt"] = prompt_of(options.words)
    output = options.output
    wanted = Path(output).suffix.lower().removeprefix(".") if output and not is_folder(output) else ""
    if wanted and given.setdefault("output_format", wanted) != wanted:
        raise ValueError(f"output_format: {given['output_format']!r}, but -o is {output}. Change one of them.")
    inputs = {name: schema["default"] for name, schema in schemas().items()}
    inputs |= {name: parse(name, value, schemas()[name]) for name, value in given.items()}
    if inputs["continuation_end"] == -1:  # as None in the model, and outside cog's bounds over HTTP
        inputs["continuation_end"] = None
    return {**inputs, "input_audio": input_file(inputs["input_audio"])}


def check(inputs: dict[str, Any], limit_s: int) -> None:
    """Raise ``InputError`` for what can be judged without the model, by the server's own rules."""
    audio = inputs["input_audio"]
    if isinstance(audio, Path):
        check_size(audio.stat().st_size)
    elif audio is not None and audio[:5].lower() == "data:":
        check_size(len(decode_data_url(audio)))
    local = {**inputs, "input_audio": None if audio is None else Path(audio[:100] if isinstance(audio, str) else audio)}
    Request.from_inputs(**local, max_duration_s=limit_s)
