"""``musicgen fetch``: a checkpoint and all the models that it names, in weights/."""

import sys
from pathlib import Path

from cli import ROOT, long_import
from cli.parser import Parser

DESCRIPTION = """Collect a checkpoint and all the models that it names in weights/, so that the server starts without network access.

musicgen fetch facebook/musicgen-melody
musicgen fetch ~/my-finetune/trained_model.tar --no-diffusion

A previous checkpoint from this command is replaced. weights/manifest.json lists each file, its origin and its licence.
"""  # noqa: E501


def main(arguments: list[str]) -> int:
    parser = Parser(prog="musicgen fetch", description=DESCRIPTION)
    parser.add_argument("weights", metavar="ID-or-path", help="a Hugging Face id, an https URL, a file or a folder")
    parser.add_argument("--to", type=Path, default=ROOT / "weights", metavar="FOLDER", help="default: weights/")
    parser.add_argument("--no-diffusion", action="store_true", help="without MultiBand Diffusion, which is large")
    options = parser.parse_args(arguments)
    print("Importing the checkpoints' readers …", file=sys.stderr, flush=True)
    with long_import():
        from audiocraft_ext.checkpoint.bundle import bundle
        from audiocraft_ext.errors import CheckpointError

    try:
        entries = bundle(options.weights, options.to, with_diffusion=not options.no_diffusion)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    for entry in entries:
        print(f"{entry.bytes / 1e6:10.1f} MB  {entry.path}  from {entry.origin}, {entry.licence or 'licence unknown'}")
    return 0
