"""The lock holds what setup.cfg asks for, for each Python and processor: one version, hashes, no address."""

from __future__ import annotations

import configparser
import re
import tomllib
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements"
LOCKED_FILES = ("base.txt", "dev.txt")
STALE = "the lock is older than setup.cfg: make lock"


def environment(python: str, machine: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": machine,
    }


PLACES = list(product(("3.11", "3.12", "3.13"), ("x86_64", "aarch64")))
environments = pytest.mark.parametrize("where", [environment(*place) for place in PLACES], ids=map("-".join, PLACES))


def asked() -> dict[str, list[Requirement]]:
    """What setup.cfg asks for, by extra; without one under ""."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = {"": config["options"]["install_requires"]} | dict(config["options.extras_require"])
    return {extra: [Requirement(line) for line in lines(text)] for extra, text in texts.items()}


def lines(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line and not line.startswith("#"))


def entries(name: str) -> list[tuple[Requirement, list[str]]]:
    """Each requirement of a file of the lock with its hashes."""
    whole = (LOCK / name).read_text("utf-8").replace("\\\n", " ")
    found = [line.split(" --hash=") for line in lines(whole) if not line.startswith(" ")]
    return [(Requirement(requirement), hashes) for requirement, *hashes in found]


def versions(name: str, where: dict[str, str]) -> dict[str, str]:
    """Version of each package that a file installs there."""
    pins = [pin for pin, _ in entries(name) if pin.marker is None or pin.marker.evaluate(where)]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def unmet(requirements: list[Requirement], locked: dict[str, str], where: dict[str, str]) -> list[str]:
    """Those that the lock does not hold, or holds in a version that they exclude."""
    wanted = [one for one in requirements if one.marker is None or one.marker.evaluate(where)]
    found = [locked.get(canonicalize_name(one.name)) for one in wanted]
    return [str(one) for one, version in zip(wanted, found, strict=True) if not version or version not in one.specifier]


@environments
def test_the_base_lock_holds_what_setup_cfg_asks_for(where: dict[str, str]) -> None:
    assert unmet(asked()[""], versions("base.txt", where), where) == [], STALE


@environments
def test_the_lock_of_the_tests_holds_every_extra(where: dict[str, str]) -> None:
    locked = versions("dev.txt", where) | versions("torch.txt", where)
    assert unmet(list(chain(*asked().values())), locked, where) == [], STALE


@environments
def test_the_tests_run_with_the_versions_that_are_served(where: dict[str, str]) -> None:
    assert versions("base.txt", where).items() <= versions("dev.txt", where).items()


@environments
def test_the_lock_holds_what_builds_the_project(where: dict[str, str]) -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
    assert unmet([Requirement(line) for line in build], versions("base.txt", where), where) == [], STALE


@pytest.mark.parametrize("name", LOCKED_FILES)
def test_every_package_has_one_version_and_hashes(name: str) -> None:
    for pin, hashes in entries(name):
        assert re.fullmatch(r"==[^,*]+", str(pin.specifier))
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one.strip()) for one in hashes)


@pytest.mark.parametrize("path", sorted(LOCK.iterdir()), ids=lambda path: path.name)
def test_no_address_stands_in_the_lock(path: Path) -> None:
    assert not re.search(r"://|^\s*-|index-url", path.read_text("utf-8").replace("    --hash=", ""), re.MULTILINE)


@pytest.mark.parametrize("name", LOCKED_FILES)
def test_nothing_of_one_build_of_torch_is_locked(name: str) -> None:
    names = {pin.name for pin, _ in entries(name)}
    assert [one for one in names if one in {"torch", "triton"} or one.startswith("nvidia-")] == []
