"""The program ``musicgen``: predict, serve, train, fetch, convert and web, each in a file that imports what it needs.

Knows of the server its HTTP API and ``script/serve``, of the model ``predict.py`` and the checkpoints' two tools.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
INTERRUPTED = 128 + signal.SIGINT
_PYTHON = ROOT / ".venv" / "bin" / "python"


@contextmanager
def long_import() -> Iterator[None]:
    """Ctrl-C ends the process at once: some packages turn an interrupt during their import into errors of their own."""
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(*command: str, default_output: str | None = None) -> NoReturn:
    """``musicgen command`` with this process's arguments, in the environment of ``make setup`` where there is one."""
    if _PYTHON.exists() and Path(sys.prefix).resolve() != _PYTHON.parents[1].resolve():
        os.execv(_PYTHON, [str(_PYTHON), *sys.argv])
    from cli.__main__ import main

    sys.exit(main([*command, *sys.argv[1:]], default_output))
