"""The units as they are installed: systemd's own tools find no fault, examples are valid, and limits are consistent."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

import asr_broker.cli
import asr_frontends.cli
import asr_workers.cli
from asr_proto.errors import NotYet, SetupError
from asr_workers.engines import registry

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "ops/systemd"
UNITS = "usr/local/lib/systemd/system"
EXPOSURE_252 = {
    "asr-broker.service": 1.4,
    "asr-frontend@1.service": 1.6,
    "asr-worker@cpu0.service": 1.5,
    "asr-worker@cuda1.service": 1.7,
    "asr-worker@card0.service": 1.7,
}
"""The exposures that systemd 252 prints and the README lists. Other versions weigh settings differently."""
EXPOSURE_MAX = 3.0
UNIT_FILES = ("asr-broker.service", "asr-frontend@.service", "asr-worker@.service")
MAINS = {
    "broker": asr_broker.cli.main,
    "frontend": asr_frontends.cli.main,
    "worker": asr_workers.cli.main,
}
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def install(root: Path, *, umask: int = 0o022, **variables: str) -> None:
    """`make install-systemd` into a folder, with programs that are only empty executables."""
    settings = {"DESTDIR": str(root), "BINDIR": str(root / "bin"), "SYSTEMD_VERSION": "252", **variables}
    (root / "bin").mkdir(exist_ok=True)
    for program in ("asr-broker", "asr-frontend", "asr-worker"):
        shutil.copy("/bin/true", root / "bin" / program)
    command = ["make", "--no-print-directory", "-C", str(ROOT), "install-systemd"]
    command += [f"{name}={value}" for name, value in settings.items()]
    subprocess.run(command, check=True, capture_output=True, text=True, umask=umask)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    install(root)
    return root


def analyze(root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze on the installed units, together with the system's units."""
    env = os.environ | {"SYSTEMD_UNIT_PATH": f"{root / UNITS}:", "SYSTEMD_COLORS": "0"}
    command = ["systemd-analyze", *args]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=root, check=False, timeout=60)


def version() -> int:
    """The version of systemd-analyze."""
    expected = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    return int(re.findall(r"\d+", expected)[0])


def settings_of(path: Path) -> dict[str, str]:
    """The last value of each setting of a unit."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if re.match(r"[A-Z]\w+=", line))


# ---- systemd's view ----


@needs_systemd
@pytest.mark.parametrize("unit", EXPOSURE_252)
def test_verify_finds_nothing_in_our_units(root: Path, unit: str) -> None:
    result = analyze(root, "verify", "--man=no", "--recursive-errors=no", unit)
    expected = (result.stdout + result.stderr).splitlines()
    assert [line for line in expected if "asr-" in line] == []


@needs_systemd
@pytest.mark.parametrize("unit", EXPOSURE_252)
def test_exposure(root: Path, unit: str) -> None:
    result = analyze(root, "security", "--offline=true", unit)
    found = re.search(r"exposure level for \S+: ([\d.]+)", result.stdout)
    assert found, result.stdout + result.stderr
    exposure = float(found[1])
    assert exposure == EXPOSURE_252[unit] if version() == 252 else exposure <= EXPOSURE_MAX


@needs_systemd
def test_a_cpu_has_no_device_and_a_card_only_its_own(root: Path) -> None:
    lines = analyze(root, "security", "--offline=true", "asr-worker@card0.service").stdout
    assert "/dev/asr/card0:rw" in lines
    assert "nvidia" not in lines
    lines = analyze(root, "security", "--offline=true", "asr-worker@cpu0.service").stdout
    assert "/dev" not in "".join(line for line in lines.splitlines() if "DeviceAllow=" in line)


# ---- What is installed ----


def test_every_placeholder_is_filled(root: Path) -> None:
    files = [path for path in root.rglob("*") if path.is_file() and path.parent.name != "bin"]
    assert len(files) > 20
    assert [path for path in files if re.search(r"@[A-Z]+@", path.read_text())] == []


def test_drop_ins_for_each_device(tmp_path: Path) -> None:
    install(tmp_path, DEVICES="2")
    folders = {path.name for path in (tmp_path / UNITS).glob("*.d")}
    assert folders == {f"asr-worker@{device}.service.d" for device in ("card0", "card1", "cuda0", "cuda1")}


def test_back_off_where_systemd_knows_it(tmp_path: Path) -> None:
    install(tmp_path, DEVICES="0", SYSTEMD_VERSION="254")
    drop_ins = sorted(path.relative_to(tmp_path / UNITS) for path in (tmp_path / UNITS).glob("*.d/*"))
    assert drop_ins == [Path(f"{unit}.d/backoff.conf") for unit in UNIT_FILES]


def test_user_asr_can_read_what_a_root_with_a_strict_umask_installs(tmp_path: Path) -> None:
    install(tmp_path, umask=0o077)
    installed = [path for folder in ("etc", "usr") for path in (tmp_path / folder).rglob("*")]
    assert len(installed) > 30
    assert [path for path in installed if path.stat().st_mode & 0o044 != 0o044] == []
    assert [path for path in installed if path.is_dir() and path.stat().st_mode & 0o011 != 0o011] == []


def test_settings_that_are_there_stay(tmp_path: Path) -> None:
    mine = tmp_path / "etc/asr/broker.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text("[broker]\nlease_s = 20\n")
    install(tmp_path)
    assert mine.read_text() == "[broker]\nlease_s = 20\n"
    assert (tmp_path / "etc/asr/frontend.toml").exists()


# ---- Settings ----


@pytest.mark.parametrize("path", sorted((SYSTEMD / "etc").glob("*.toml")), ids=lambda path: path.name)
@pytest.mark.parametrize("uncommented", [False, True])
def test_examples_are_valid(path: Path, uncommented: bool, tmp_path: Path) -> None:
    """They are also valid with all commented settings enabled."""
    text = path.read_text()
    proposed = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    taken = set(re.findall(r"^(\w+) = ", text, flags=re.MULTILINE))
    assert not taken & set(re.findall(r"^# (\w+) = ", text, flags=re.MULTILINE))
    (tmp_path / "example.toml").write_text(proposed if uncommented else text)
    process = path.stem.split("-")[0]
    arguments = [f"--config={tmp_path / 'example.toml'}", f"--run-dir={tmp_path}"]
    context = MAINS[process].make_context(process, arguments)
    from_file = click.core.ParameterSource.DEFAULT_MAP
    assert taken <= {name for name in context.params if context.get_parameter_source(name) is from_file}
    if process == "worker":
        kind = path.stem.split("-")[1]
        assert kind in registry.find(context.params["engine"]).devices


@pytest.mark.parametrize("unit", ["asr-frontend@.service", "asr-worker@.service"])
def test_a_stop_may_take_longer_than_the_drain(unit: str) -> None:
    main = MAINS[unit.removeprefix("asr-").split("@")[0]]
    (drain_s,) = [param.default for param in main.params if param.name == "drain_s"]
    assert float(settings_of(SYSTEMD / unit)["TimeoutStopSec"]) > drain_s + (8 if "frontend" in unit else 5)


@pytest.mark.parametrize("unit", UNIT_FILES)
def test_only_what_cannot_start_as_configured_is_not_tried_again(unit: str) -> None:
    settings = settings_of(SYSTEMD / unit)
    assert settings["RestartPreventExitStatus"] == str(SetupError.exit_code)
    assert (settings["Restart"], settings["StartLimitIntervalSec"]) == ("always", "0")
    assert NotYet.exit_code != SetupError.exit_code


# ---- Cards ----


def test_cards_are_numbered_by_their_address(tmp_path: Path) -> None:
    devices = {
        "0000:00:02.0": ("0x8086", "0x1234"),
        "0000:3b:00.0": ("0x12ba", "0x0069"),
        "0000:5e:00.0": ("0x12ba", "0x0070"),
        "0000:af:00.0": ("0x12ba", "0x0069"),
    }
    for address, (vendor, device) in devices.items():
        folder = tmp_path / "bus/pci/devices" / address
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(vendor + "\n")
        (folder / "device").write_text(device + "\n")

    def number(address: str) -> str:
        command = [SYSTEMD / "card-number", address, tmp_path]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert [number(address) for address in sorted(devices)] == ["0", "0", "0", "1"]


def test_the_scripts_are_clean() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    scripts = [SYSTEMD / "install.sh", SYSTEMD / "card-number"]
    result = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
