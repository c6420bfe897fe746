"""A base and a data set that a test trains in seconds. Knows nothing of training."""

import shutil
import zipfile
from pathlib import Path

from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from tests.support import tiny
from tests.support.songs import song

WINDOW_S = 5


def write_base(folder: Path) -> Path:
    """A random melody model over the embedded codec: to a random codec all songs are alike."""
    transformer = tiny.lm_config("melody")["transformer_lm"] | {"card": 512}
    tiny.write(folder, "melody", dataset={"segment_duration": WINDOW_S}, transformer_lm=transformer)
    shutil.copy(EMBEDDED / "compression_state_dict.bin", folder)
    return folder


def write_songs(folder: Path, n: int = 4) -> Path:
    """Songs with captions beside them."""
    for number in range(n):
        song(folder / f"{number}.wav", WINDOW_S)
        (folder / f"{number}.txt").write_text(f"a tone, number {number}")
    return folder


def zip_folder(folder: Path) -> bytes:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(folder.iterdir()):
            opened.write(file, file.name)
    return archive.read_bytes()
