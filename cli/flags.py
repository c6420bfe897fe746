"""The flags of ``cog predict``: ``-i name=value``, ``--json``, ``-o``, read by a schema. Standard library only."""

import argparse
import difflib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli.parser import Parser

BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
READERS: dict[str, Callable[[str], Any]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": lambda text: BOOLEANS[text.lower()],
}
TYPES: dict[str, Any] = {"string": str, "integer": int, "number": int | float, "boolean": bool}


def arguments(description: str | None, output: str) -> argparse.Namespace:
    """The command line; ``output`` is the default of ``-o``, for its help."""
    parser = Parser(description=description)
    add_arguments(parser, output)
    return parser.parse_args()


def add_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """``-i``, ``--json`` and ``-o``, by default ``output``."""
    parser.add_argument(
        "-i", "--input", action="append", default=[], metavar="NAME=VALUE", help="an input; for a file, @file or a URL"
    )
    parser.add_argument("--json", metavar="OBJECT", help="all inputs as a JSON object, or a file with one")
    parser.add_argument("-o", "--output", help=f"default: {output}")


def read_json(text: str) -> dict[str, Any]:
    """The object in ``text`` itself, in ``@file``, in a plain file name, or on standard input (``@-``)."""
    try:
        if text == "@-":
            text = sys.stdin.read()
        elif not text.lstrip().startswith(("{", "[")):
            text = Path(text.removeprefix("@")).read_text(encoding="utf-8-sig")
        inputs = json.loads(text)
    except (ValueError, OSError) as error:
        raise ValueError(f"--json: {error}. Give a JSON object of inputs, or a file with one.") from None
    if not isinstance(inputs, dict):
        raise ValueError(f"--json: {text!r:.40} is not an object of inputs.")
    if isinstance(inputs.get("input"), dict):
        raise ValueError("--json: give the inputs themselves; only over HTTP they are inside input.")
    return inputs


def given_inputs(options: argparse.Namespace, schemas: dict[str, Any]) -> dict[str, Any]:
    """The inputs of ``--json`` and ``-i``, not yet parsed; raises ``ValueError`` for unknown ones, and for ``-o``."""
    given = read_json(options.json) if options.json is not None else {}
    for pair in options.input:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ValueError(f"-i {pair}: write it as name=value.")
        given[name] = value
    for name in given:
        if name not in schemas:
            similar = difflib.get_close_matches(name.lower(), schemas, 1)
            question = f"; did you mean {similar[0]}?" if similar else "."
            raise ValueError(f"{name}: no such input{question} The inputs are {', '.join(schemas)}.")
    return given


def check_output(output: Path) -> None:
    """Raise ``ValueError`` unless a file of this name can be written."""
    if output.is_dir() or not output.absolute().parent.is_dir():
        problem = "it is a folder" if output.is_dir() else f"there is no folder {output.parent}"
        raise ValueError(f"-o {output}: {problem}. Name a file in a folder that exists.")
    try:
        tempfile.NamedTemporaryFile(dir=output.absolute().parent).close()
    except OSError as error:
        problem = f"{output.parent} cannot be written to: {error.strerror}"
        raise ValueError(f"-o {output}: {problem}. Name a file in another folder.") from None


def parse(name: str, value: Any, schema: dict[str, Any]) -> Any:
    """A flag's text, or a JSON value, as the schema's type; a file's is left as it is.

    Raises ``ValueError`` with the input's name.
    """
    kind = schema.get("type", "string")
    if value is None and schema.get("nullable"):
        return None
    if schema.get("format") == "uri" and isinstance(value, str):
        return value
    try:
        if isinstance(value, str):
            return READERS[kind](value)
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) == (kind == "boolean") and isinstance(value, TYPES[kind]):
            return value
    except (ValueError, KeyError):
        pass
    article = "an" if kind == "integer" else "a"
    hint = "Use true or false." if kind == "boolean" else f"Send {article} {kind}."
    raise ValueError(f"{name}: {value!r:.40} is not {article} {kind}. {hint}")
