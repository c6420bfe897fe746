"""The subcommands of ``musicgen``. Standard library alone: each command's own file imports what it needs."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from cli import INTERRUPTED, ROOT, long_import
from cli.parser import Parser, suggestion

COMMANDS = {
    "predict": "make music from words, or from other music",
    "serve": "answer over HTTP, as the image does",
    "train": "fine-tune on your own music",
    "fetch": "put a checkpoint and all that it needs into weights/",
    "convert": "rewrite a checkpoint as one folder of safetensors",
    "web": "serve a page for musicians, and Replicate's API",
}
DESCRIPTION = """MusicGen from the command line.

musicgen predict "dark techno, 130 BPM" -o techno.wav
musicgen predict -i input_audio=@techno.wav -i continuation=true -i duration=16
musicgen serve
"""


def help_text() -> str:
    lines = [f"  {name:8} {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(["usage: musicgen COMMAND ...", "", DESCRIPTION, *lines, "", "musicgen COMMAND --help says more."])


def serve(arguments: list[str]) -> int:
    parser = Parser(prog="musicgen serve", description="Run the image's server on this machine.")
    parser.add_argument("--train", action="store_true", help="POST /trainings instead of /predictions")
    parser.add_argument("--weights", help="a file, folder, archive, https URL or hub id; sets MUSICGEN_WEIGHTS")
    parser.add_argument("--host", help="default: 127.0.0.1, this machine alone", default=os.environ.get("ADDRESS"))
    parser.add_argument("--port", type=int, help="default: 5000", default=os.environ.get("PORT"))
    options = parser.parse_args(arguments)
    chosen = {"MUSICGEN_WEIGHTS": options.weights, "ADDRESS": options.host, "PORT": options.port}
    if options.weights and Path(options.weights).expanduser().exists():  # the server's folder is another one
        chosen["MUSICGEN_WEIGHTS"] = Path(options.weights).expanduser().resolve()
    os.environ.update({name: str(value) for name, value in chosen.items() if value})
    script = str(ROOT / "script" / "serve")
    os.execv(script, [script, "train" if options.train else "predict"])


def train(arguments: list[str]) -> int:
    script = str(ROOT / "script" / "train")
    os.execv(sys.executable, [sys.executable, script, *arguments])


def web(arguments: list[str]) -> int:
    parser = Parser(prog="musicgen web", description="Serve a page for musicians, and Replicate's API; and the model.")
    parser.add_argument("--target", help="a running server of this model, instead of one that is started")
    parser.add_argument("--host", help="default: 127.0.0.1, this machine alone")
    parser.add_argument("--port", type=int, help="the page's; default: 5001")
    options = parser.parse_args(arguments)
    script = ROOT / "script" / "web"
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing or not script.exists():
        lacks = f"the package {missing[0]} is" if missing else "script/web is"
        print(f"musicgen web: {lacks} not installed here. Install everything with: make setup", file=sys.stderr)
        return 1
    chosen = {"TARGET": options.target, "ADDRESS": options.host, "WEB_PORT": options.port}
    os.environ.update({name: str(value) for name, value in chosen.items() if value})
    os.execv(script, [str(script)])


def main(arguments: list[str] | None = None, default_output: str | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if name not in COMMANDS:
        hint = f'did you mean musicgen predict "{name}"?' if " " in name else suggestion(name, COMMANDS)
        print(f"musicgen {name}: no such command; {hint} They are {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        if name == "predict":
            with long_import():
                from cli.predict import main as predict

            return predict(rest, default_output)
        if name in ("fetch", "convert"):
            return int(import_module(f"cli.{name}").main(rest))
        return {"serve": serve, "train": train, "web": web}[name](rest)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
