"""What is installed with the package, proven from the metadata that a wheel would carry."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {"torch", "torchaudio", "lhotse", "librosa", "scipy"}


@pytest.fixture(scope="module")
def wheel_metadata(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """METADATA of the wheel, by key. Building it compiles nothing."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "asr_compress", source / "asr_compress", ignore=shutil.ignore_patterns("*.so"))
    program = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel('info'))"
    (source / "info").mkdir()
    done = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = source / "info" / done.stdout.splitlines()[-1]
    message = Parser().parsestr((folder / "METADATA").read_text())
    keys = {key: message.get_all(key, []) for key in set(message.keys())}
    return keys | {"entry_points": (folder / "entry_points.txt").read_text().splitlines()}


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def without_extras(requirements: list[str]) -> list[str]:
    return [line for line in requirements if "extra ==" not in line]


def test_the_bare_package_brings_no_torch(wheel_metadata: dict[str, list[str]]) -> None:
    """Its requirements, and theirs in turn as they are installed here."""
    todo = [name_of(line) for line in without_extras(wheel_metadata["Requires-Dist"])]
    assert {"numpy", "soundfile", "safetensors", "flashlight-text", "typer"} <= set(todo)
    brought: set[str] = set()
    while todo:
        name = todo.pop()
        if name in brought:
            continue
        brought.add(name)
        try:
            todo += [name_of(line) for line in without_extras(metadata.requires(name) or [])]
        except metadata.PackageNotFoundError:  # wanted on another system only
            continue
    assert not brought & FORBIDDEN, brought


def test_the_walk_would_find_torch() -> None:
    assert "torch" in {name_of(line) for line in without_extras(metadata.requires("lhotse") or [])}


def test_every_requirement_has_both_bounds(wheel_metadata: dict[str, list[str]]) -> None:
    pinned_by_date = {"openvino", "ncnn"}  # no next major version to fear
    for line in wheel_metadata["Requires-Dist"]:
        bounds = line.partition(";")[0]
        assert ">=" in bounds, line
        assert "<" in bounds or name_of(line) in pinned_by_date | {"setuptools"}, line


def test_espeak_is_in_the_demo_extra_alone(wheel_metadata: dict[str, list[str]]) -> None:
    lines = [line for line in wheel_metadata["Requires-Dist"] if name_of(line) == "espeakng-loader"]
    assert len(lines) == 1
    assert re.search(r"extra == ['\"]demo['\"]", lines[0])


def test_metadata(wheel_metadata: dict[str, list[str]]) -> None:
    import asr_compress

    assert wheel_metadata["Version"] == [asr_compress.__version__]
    assert wheel_metadata["License"] == ["Apache-2.0"]
    assert wheel_metadata["License-File"] == ["LICENSE"]
    assert "asr-compress = asr_compress.cli:main" in wheel_metadata["entry_points"]
    assert {"train", "demo", "dev", "peers"} <= set(wheel_metadata["Provides-Extra"])


def test_every_folder_of_code_is_a_package() -> None:
    """`find:` leaves out a folder without __init__.py, and an installed copy then lacks it."""
    for path in (ROOT / "asr_compress").rglob("*.py"):
        assert (path.parent / "__init__.py").exists(), path.parent


def test_data_files_are_packaged() -> None:
    """Every file in the package that is neither Python nor C++ is named in package_data."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    patterns = settings["options.package_data"]["asr_compress"].split()
    package = ROOT / "asr_compress"
    packaged = {path for pattern in patterns for path in package.glob(pattern)}
    for path in package.rglob("*"):
        if path.is_file() and path.suffix not in {".py", ".pyc", ".cpp", ".h", ".so"}:
            assert path in packaged, f"{path}: add it to package_data in setup.cfg"
