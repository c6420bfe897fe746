"""The inputs of the image's build. Docker itself is not used."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
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


def test_the_image_s_python_is_the_one_that_the_tests_and_set_up_need() -> None:
    version = OmegaConf.load(ROOT / "cog.yaml").build.python_version
    assert sys.version_info >= tuple(map(int, version.split(".")))
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"] == version
    assert f"sys.version_info < ({version.replace('.', ', ')})" in (ROOT / "Makefile").read_text()


def test_only_named_files_go_into_the_image_and_no_sound_into_git(tmp_path: Path) -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    named = {line[1:] for line in lines if line.startswith("!")}
    assert named == {"LICENSE", "audiocraft_ext", "cog.yaml", "predict.py", "requirements.txt", "train.py", "weights"}
    assert all((ROOT / name).exists() for name in named)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    for name in ("demo.wav", "demo.png", "techno.wav", "longer.mp3", "riff.flac", "trained_model.tar", "songs.zip"):
        (tmp_path / name).touch()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    status = subprocess.run(["git", "status", "--short"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert status.stdout == "?? .gitignore\n"


@pytest.fixture
def install_cog(tmp_path: Path) -> Path:
    """A copy of script/install-cog beside an empty cache; ``bin/`` has the only commands that it finds."""
    (tmp_path / "script").mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("bash", "chmod", "dirname", "env", "grep", "mkdir", "mv", "rm", "uname"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    return Path(shutil.copy(ROOT / "script" / "install-cog", tmp_path / "script"))


def run_install_cog(script: Path, curl: str) -> subprocess.CompletedProcess[str]:
    """Runs it without Go; ``curl`` is what the curl that it finds does with its last but one argument, a file."""
    commands = script.parents[1] / "bin"
    (commands / "curl").write_text(f"#!/bin/bash\nfile=${{@: -2:1}}\n{curl}\n")
    (commands / "curl").chmod(0o755)
    # /usr/local/go/bin, which the script adds, must have no Go here.
    text = script.read_text().replace("/usr/local/go/bin", "/nowhere")
    script.write_text(text)
    environment = {"PATH": str(commands)}
    return subprocess.run([script], env=environment, capture_output=True, text=True)


def test_cog_is_installed_from_its_release_without_go(install_cog: Path) -> None:
    cog = next(line.partition("==")[2] for line in PINNED if line.startswith("cog=="))
    done = run_install_cog(install_cog, f"echo '#!/bin/bash\necho cog version {cog}' >$file")
    assert (done.returncode, done.stderr) == (0, "")
    assert (install_cog.parents[1] / ".cache" / "bin" / "cog").exists()


@pytest.mark.parametrize(
    ("curl", "reason"),
    [("echo 'curl: (6) no host' >&2; exit 6", "curl: (6) no host"), ("echo '#!/bin/bash' >$file", "does not run here")],
)
def test_what_could_not_install_cog_is_said(install_cog: Path, curl: str, reason: str) -> None:
    done = run_install_cog(install_cog, curl)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "go install: go is not installed" in done.stderr
    assert not list((install_cog.parents[1] / ".cache" / "bin").iterdir())
