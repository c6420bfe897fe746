"""``musicgen predict``: music from words, by the model in this process or by a running server.

Imports the standard library alone until the request has been checked.
"""

import argparse
import asyncio
import contextlib
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from audiocraft_ext.request import MAX_SEED
from cli import long_import
from cli.flags import add_arguments
from cli.inputs import ANY_DURATION_S, check, inputs_of, max_duration_s, schemas, table
from cli.output import save, targets
from cli.parser import Parser

MAX_TAKES = 16
DESCRIPTION = """Make music, without Docker; with the flags of `cog predict` and a prompt in bare words.

musicgen predict "dark techno, 130 BPM" -i seed=7 -o techno.mp3
musicgen predict -i input_audio=@techno.mp3 -i continuation=true -i duration=16 -o longer.wav
musicgen predict "bright pop" --takes 4 -o takes/
musicgen predict "bright pop" --server http://127.0.0.1:5000

The words may be in a file (@words.txt) or on standard input (-)."""


def parser(default_output: str | None = None) -> Parser:
    built = Parser(prog="musicgen predict", description=DESCRIPTION, epilog=table(), inputs=schemas())
    built.add_argument("words", nargs="*", metavar="WORDS", help="the prompt; @file, or - for standard input")
    output = f"{default_output}.wav or {default_output}.mp3" if default_output else "a name made of the prompt"
    add_arguments(built, f"{output}; .wav and .mp3 choose the format, a folder gets a readable name")
    built.add_argument("--force", action="store_true", help="replace the file if there is one")
    built.add_argument("--takes", type=int, default=1, metavar="N", help="N results, of seeds s, s+1, …, in one batch")
    built.add_argument("--server", metavar="URL", help="send the request to a running server (musicgen serve)")
    built.add_argument("--adapter", action="append", default=[], metavar="NAME:STRENGTH", help="of the server's")
    return built


def seeds_of(inputs: dict[str, Any], n_takes: int) -> list[int]:
    """The seeds of the takes; a random first one is drawn here."""
    if not 1 <= n_takes <= MAX_TAKES:
        raise ValueError(f"--takes {n_takes}: use a number from 1 to {MAX_TAKES}.")
    first = inputs["seed"]
    if first in (None, -1):
        first = secrets.randbelow(MAX_SEED + 2 - n_takes)
    return [first + take for take in range(n_takes)]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def unloaded_predictor() -> Any:
    """The Predictor, after some seconds of imports; raises ``RuntimeError`` for a package that is not installed."""
    start = time.monotonic()
    say("Importing torch and audiocraft …")
    try:
        with long_import():
            from predict import Predictor
    except ModuleNotFoundError as error:
        if error.name is None:
            raise
        raise RuntimeError(f"The package {error.name} is not installed. Install everything with: make setup") from error
    say(f"Loading the checkpoint, after {time.monotonic() - start:.1f} s …")
    return Predictor()


def make(predictor: Any, inputs: dict[str, Any], seeds: list[int], folder: Path) -> list[Path]:
    """A file in ``folder`` for each seed, by a model in this process; in one batch."""
    predictor.setup()
    say(f"Making {inputs['duration']} s of music …")

    async def takes() -> list[Path]:
        return await asyncio.gather(*(predictor.predict(**{**inputs, "seed": seed}) for seed in seeds))

    # Out of the predictor's own folder, which ends with it.
    return [
        Path(shutil.move(result, folder / str(seed))) for result, seed in zip(asyncio.run(takes()), seeds, strict=True)
    ]


def run(options: argparse.Namespace, default_output: str | None) -> list[Path]:
    """The saved files; raises ``ValueError``, ``RuntimeError`` and ``OSError`` with a sentence for the caller."""
    inputs = inputs_of(options)
    seeds = seeds_of(inputs, options.takes)
    for seed in {seeds[0], seeds[-1]}:
        check({**inputs, "seed": seed}, ANY_DURATION_S if options.server else max_duration_s())
    paths = targets(options.output or default_output, inputs, seeds, options.force)
    if options.adapter and not options.server:
        raise ValueError("--adapter: adapters are a running server's. Name it with --server.")
    predictor = None if options.server else unloaded_predictor()  # an interrupt meanwhile leaves no folder
    with tempfile.TemporaryDirectory(prefix="musicgen-") as scratch:
        if options.server:
            from cli.remote import make_remotely

            results = make_remotely(options.server, inputs, seeds, options.adapter, Path(scratch))
        else:
            results = make(predictor, inputs, seeds, Path(scratch))
        return [save(result, path, options.force) for result, path in zip(results, paths, strict=True)]


def main(arguments: list[str], default_output: str | None = None) -> int:
    options = parser(default_output).parse_intermixed_args(arguments)
    try:
        written = run(options, default_output)
    except (ValueError, RuntimeError, OSError) as error:
        say(str(error))
        return 1
    with contextlib.suppress(BrokenPipeError):
        for path in written:
            print(f"Written output to: {path}", flush=True)
    return 0
