"""``musicgen convert``: a checkpoint in any supported format as one folder of safetensors."""

import logging
import sys
from pathlib import Path

from cli import long_import
from cli.parser import Parser

DESCRIPTION = """Convert a checkpoint in any supported format to one folder of safetensors with everything it needs: it loads fastest.

musicgen convert ~/my-finetune/trained_model.tar my-finetune
musicgen convert facebook/musicgen-small small-int8 --dtype int8
"""  # noqa: E501
# As in audiocraft_ext/checkpoint/convert.py, whose imports take seconds.
DTYPES = ("float32", "float16", "bfloat16", "int8")


def main(arguments: list[str]) -> int:
    parser = Parser(prog="musicgen convert", description=DESCRIPTION)
    parser.add_argument("weights", metavar="IN", help="a file, folder, archive, https URL or hub id")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write: new or empty")
    parser.add_argument("--dtype", choices=DTYPES, help="of the language model; unchanged by default")
    options = parser.parse_args(arguments)
    print("Importing the checkpoints' readers …", file=sys.stderr, flush=True)
    with long_import():
        from audiocraft_ext.checkpoint.convert import convert
        from audiocraft_ext.errors import CheckpointError

    logging.basicConfig(format="%(message)s")
    try:
        convert(options.weights, options.out, options.dtype)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Written to {options.out}. Load it with MUSICGEN_WEIGHTS={options.out}.")
    return 0
