"""The inputs of the image's build. Docker itself is not used."""

import re
from pathlib import Path

from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
PINNED = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]


def test_requirements_are_one_version_each_without_a_marker() -> None:
    """cog drops a line's marker: with two versions of a package it would require both."""
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in PINNED)
    names = [line.partition("==")[0] for line in PINNED]
    assert sorted(set(names)) == names


def test_every_requirement_of_the_server_is_pinned() -> None:
    required = re.findall(r"^[\w-]+", (ROOT / "script" / "requirements.in").read_text(), re.MULTILINE)
    assert {name.lower() for name in required} <= {line.partition("==")[0] for line in PINNED}


def test_the_image_s_ffmpeg_is_the_pinned_one() -> None:
    """It parses every uploaded file: no other is installed beside it (``audio.ffmpeg.ffmpeg_path``)."""
    assert any(line.startswith("imageio-ffmpeg==") for line in PINNED)
    assert not OmegaConf.select(OmegaConf.load(ROOT / "cog.yaml"), "build.system_packages")


def test_a_version_in_several_files_is_the_same() -> None:
    cog = next(line.partition("==")[2] for line in PINNED if line.startswith("cog=="))
    assert OmegaConf.load(ROOT / "cog.yaml").build.sdk_version == cog
    for script in ("schema", "install-cog"):
        assert f"version={cog}\n" in (ROOT / "script" / script).read_text()
    required = (re.findall(r"audiocraft==([\w.]+)", (ROOT / name).read_text()) for name in ("Makefile", "cog.yaml"))
    assert len({version for versions in required for version in versions}) == 1
