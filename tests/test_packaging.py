"""What `pip install` would bring: every package folder, every module, the commands, no need of the checkout."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = ("proto", "broker", "workers", "frontends", "ops")
METADATA_FILES = ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE")
COMMANDS = {"asr", "asr-keys", "asr-license", "asr-broker", "asr-card", "asr-compile", "asr-worker", "asr-frontend"}


def modules() -> list[Path]:
    """Every module of ours, relative to its source root."""
    found = []
    for root in SOURCE_ROOTS:
        found += [path.relative_to(ROOT / root) for path in (ROOT / root).glob("asr_*/**/*.py")]
    return sorted(found)


def listed() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_every_package_folder_is_listed() -> None:
    packages = listed()["options"]["packages"].split()
    assert sorted({".".join(path.parent.parts) for path in modules()}) == sorted(packages)


def test_source_roots_are_no_packages() -> None:
    """An __init__.py there would make `proto` or `ops` importable, and collide with what others publish."""
    assert [root for root in SOURCE_ROOTS if (ROOT / root / "__init__.py").exists()] == []


def test_every_package_folder_has_an_init() -> None:
    folders = {path.parent for path in modules()}
    assert [folder for folder in sorted(folders) if folder / "__init__.py" not in modules()] == []


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build from, so that the checkout stays as it is."""
    copy = tmp_path_factory.mktemp("source")
    for root in SOURCE_ROOTS:
        shutil.copytree(ROOT / root, copy / root, ignore=shutil.ignore_patterns("__pycache__", ".venv", "*.so"))
    for name in METADATA_FILES:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(source, tmp_path_factory.mktemp("wheel"))


def built(source: Path, out: Path, **more: str) -> Path:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *_isolation(), f"--wheel-dir={out}", source]
    subprocess.run(build, check=True, capture_output=True, text=True, env=os.environ | more)
    return next(out.glob("asr_pool-*.whl"))


def _isolation() -> list[str]:
    """Where setuptools is recent enough, build with it: then the test needs no network."""
    try:
        recent = int(metadata.version("setuptools").split(".")[0]) >= 77
    except metadata.PackageNotFoundError:
        recent = False
    return ["--no-build-isolation"] if recent else []


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
def test_the_wheel_holds_the_simulator_and_the_card_interface(wheel: Path) -> None:
    names = names_in(wheel)
    assert any(name.startswith("asr_workers/cards/_simulator") for name in names)
    assert "asr_workers/cards/include/asr_card.h" in names


def test_without_a_compiler_there_is_a_wheel_without_the_simulator(source: Path, tmp_path: Path) -> None:
    shutil.rmtree(source / "build", ignore_errors=True)
    names = names_in(built(source, tmp_path, CC="false"))
    assert not any(name.startswith("asr_workers/cards/_simulator") for name in names)
    assert "asr_workers/cards/abi.py" in names


def test_the_wheel_holds_every_module_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        scripts = configparser.ConfigParser()
        scripts.read_string(archive.read(entry_points).decode())
    assert sorted(Path(name) for name in names if name.endswith(".py")) == modules()
    assert set(scripts["console_scripts"]) == COMMANDS
    packages = {path.parts[0] for path in modules()}
    assert {f"{package}/py.typed" for package in packages} <= set(names)


def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """asr_proto's errors need nothing but Python itself."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from asr_proto import errors; print(errors.__file__)"
    clean = [sys.executable, "-I", "-S", "-c", script]
    result = subprocess.run(clean, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert Path(result.stdout.strip()).is_relative_to(tmp_path)
