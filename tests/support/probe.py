"""Run code in a subprocess, since the hub's client reads its environment at import."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Skip the package's __init__, which imports audiocraft.
_HEAD = """
import resource, sys, types
package = types.ModuleType("audiocraft_ext.checkpoint")
package.__path__ = ["audiocraft_ext/checkpoint"]
sys.modules[package.__name__] = package
from audiocraft_ext.errors import CheckpointError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
"""


def run_code(code: str, *arguments: str | Path, environment: dict[str, str], largest_file_bytes: int = -1) -> list[str]:
    """The lines that ``code`` prints; it reads its arguments from ``sys.argv[2:]``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MUSICGEN_"))}
    quiet = {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _HEAD + code, str(largest_file_bytes), *arguments],
        cwd=ROOT,
        env={**inherited, **quiet, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
