"""What cog builds the image from. Docker itself is asked for nothing here."""

import re
from pathlib import Path

from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
PINNED = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]


def test_requirements_are_one_version_each_without_a_marker() -> None:
    """cog reads a line's name and version and forgets its marker: of two versions it would ask for both."""
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in PINNED)
    names = [line.partition("==")[0] for line in PINNED]
    assert sorted(set(names)) == names


def test_all_that_the_server_imports_is_pinned() -> None:
    asked_for = re.findall(r"^[\w-]+", (ROOT / "script" / "requirements.in").read_text(), re.MULTILINE)
    assert {name.lower() for name in asked_for} <= {line.partition("==")[0] for line in PINNED}


def test_the_image_s_ffmpeg_is_the_pinned_one() -> None:
    """What strangers send is parsed by it: no other is installed beside it (``audio.ffmpeg.ffmpeg_path``)."""
    assert any(line.startswith("imageio-ffmpeg==") for line in PINNED)
    assert not OmegaConf.select(OmegaConf.load(ROOT / "cog.yaml"), "build.system_packages")


def test_versions_that_are_written_in_several_places_are_the_same() -> None:
    cog = next(line.partition("==")[2] for line in PINNED if line.startswith("cog=="))
    assert OmegaConf.load(ROOT / "cog.yaml").build.sdk_version == cog
    for script in ("schema", "install-cog"):
        assert f"version={cog}\n" in (ROOT / "script" / script).read_text()
    asked_for = (re.findall(r"audiocraft==([\w.]+)", (ROOT / name).read_text()) for name in ("Makefile", "cog.yaml"))
    assert len({version for versions in asked_for for version in versions}) == 1
