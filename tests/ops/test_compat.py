"""The scripts in ops/compat: each becomes the command that its document means, and ends only what it has started."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.e2e.service import environment, eventually, free_port

ROOT = Path(__file__).parents[2]
COMPAT = ROOT / "ops/compat"
SCRIPTS = sorted(COMPAT.rglob("*.sh"))
README = (COMPAT / "README.md").read_text()
WAIT_S = 60.0
RECORDER = """#!/bin/sh
# Stands for a program of the virtual environment: says how it was called.
[ "$1" = --list-engines ] && { printf '%b' "$ENGINES"; exit; }
echo "$(basename "$0") $*"
"""


@dataclass
class Place:
    """A state directory and a virtual environment for the scripts."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def environment(self, **more: str) -> dict[str, str]:
        own = {"ASR_STATE_DIR": str(self.state), "VENV_PATH": str(self.folder / "venv"), "HOME": str(self.folder)}
        return environment() | own | self.env | more

    def call(self, script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a script to its end."""
        return subprocess.run(
            [str(COMPAT / script), *arguments],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def start(self, script: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Start a script that goes on running."""
        process = subprocess.Popen(
            [str(COMPAT / script), *arguments],
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A virtual environment of which no program does anything but say how it was called."""
    programs = tmp_path / "venv/bin"
    programs.mkdir(parents=True)
    for name in ("asr", "asr-compile", "asr-worker", "python", "make"):
        (programs / name).write_text(RECORDER)
        (programs / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def place(recording: Path) -> Place:
    return Place(recording)


@pytest.fixture
def real() -> Iterator[Place]:
    """The programs of this interpreter, and a short path: sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="asr-", dir="/tmp"))
    (folder / "venv/bin").mkdir(parents=True)
    for name, module in (("asr", "asr_ops.cli"), ("asr-worker", "asr_workers.cli")):
        program = folder / "venv/bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        program.chmod(0o755)
    (folder / "venv/bin/python").symlink_to(sys.executable)
    place = Place(folder, {"ASR_RUN_DIR": str(folder / "run"), "ASR_SERVE_ENGINE": "fake"})
    try:
        yield place
    finally:
        place.close()
        left = [process for process in psutil.process_iter(["cmdline"]) if str(folder) in _words(process)]
        for process in left:
            process.kill()
        shutil.rmtree(folder)
        assert not left


def _words(process: psutil.Process) -> str:
    return " ".join(process.info["cmdline"] or ())


# ---- The scripts as text ----


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(COMPAT)))
def test_a_script_is_sound_and_listed(script: Path) -> None:
    """Bash can read it, it says what it is for, and the README has it."""
    subprocess.run(["bash", "-n", str(script)], check=True)
    name = script.relative_to(COMPAT)
    if name.name in ("lib.sh", "env.sh"):
        return
    assert os.access(script, os.X_OK)
    first, second, *_ = script.read_text().splitlines()
    assert first == "#!/usr/bin/env bash"
    assert second.startswith("# ")
    listed = str(name) in README or f"{name.parts[0]}/" in README
    assert listed and (name.name in README or name.parent.name in README)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck() -> None:
    subprocess.run(["shellcheck", "-x", "--source-path=SCRIPTDIR", *map(str, SCRIPTS)], check=True, cwd=COMPAT)


def test_nothing_is_ended_by_name_and_no_cache_is_removed() -> None:
    """YAP-17, MOO-17, PAR-12: on purpose unlike the documents."""
    text = "\n".join(script.read_text() for script in SCRIPTS)
    assert not re.search(r"\b(pkill|killall|fuser)\b", text)
    assert re.findall(r"rm -rf.*", text) == ['rm -rf -- "$VENV"']


def test_what_is_only_documented() -> None:
    """CAI-01, CAI-15, YAP-24, YAP-26, MOO-18: the README says what stands for it here."""
    for name in ("CAI-01", "CAI-09", "CAI-15", "YAP-24", "YAP-26", "MOO-18"):
        assert re.search(rf"{name}\b", README), name


# ---- What they become ----

CAIMAN, YAP, MOONSHINE, PARAKEET, AMIRA = (
    f"asr serve --listen=0.0.0.0:{port}" for port in (3030, 8000, 8000, 8000, 8057)
)
NO_ENGINES = "moonshine    usable\\n             embedded\\nfake         usable\\n"
ALL_ENGINES = "".join(f"{name:<12} usable\\n" for name in ("moonshine", "fastconformer", "parakeet", "card", "fake"))
CALLS: list[tuple[str, Sequence[str], dict[str, str], str]] = [
    ("caiman/start_asr_server.sh", ["--cpu-backend"], {}, CAIMAN),
    ("caiman/start_asr_server.sh", ["--cpu-backend", "--", "--slots=2"], {}, f"{CAIMAN} --slots=2"),
    (
        "caiman/start_asr_server.sh",
        ["--rnnt-checkpoint", "a b.pt", "--cpu-backend", "--no-state-resets"],
        {"ENGINES": ALL_ENGINES},
        f"{CAIMAN} --engine=card --workers=1 --device=cpu --worker-arg=--rnnt-checkpoint=a b.pt "
        "--worker-arg=--no-state-resets",
    ),
    (
        "caiman/start_asr_server.sh",
        ["--rnnt-checkpoint", "c.pt", "--license-dir", "./l", "--card-id", "0", "--card-id", "1"],
        {"ENGINES": ALL_ENGINES},
        f"{CAIMAN} --engine=card --workers=2 --device=card:0 --device=card:1 --worker-arg=--rnnt-checkpoint=c.pt "
        "--worker-arg=--license-dir=./l",
    ),
    (
        "caiman/simple_client/run.sh",
        ["my.wav"],
        {},
        "asr client --dialect caiman --server 127.0.0.1:3030 --full-text --frame-ms 60 --file my.wav",
    ),
    ("caiman/live_client.sh", ["--port", "1"], {}, "asr transcribe --mic --url ws://localhost:1"),
    (
        "caiman/caiman-asr-client.sh",
        ["--host", "h", "--port", "1", "--connect-timeout", "15", "a.wav"],
        {},
        "asr client --dialect caiman --server h:1 --frame-ms 60 --full-text --file a.wav",
    ),
    ("caiman/caiman-asr-client.sh", ["--quiet", "a.wav"], {}, ""),
    ("yap/run_server.sh", [], {}, YAP),
    ("yap/run_server.sh", ["--slots=9"], {"ENGINES": ALL_ENGINES}, f"{YAP} --engine=fastconformer --slots=9"),
    (
        "yap/run_server.sh",
        [],
        {"ASR_HOST": "10.0.0.1", "ASR_PORT": "8080"},
        "asr serve --listen=10.0.0.1:8080",
    ),
    (
        "yap/warmup.sh",
        ["mid.wav", "10"],
        {},
        "asr warmup --dialect yap --server 127.0.0.1:8000 --file mid.wav --rtf 10 --full-text",
    ),
    ("yap/warmup.sh", [], {}, "asr warmup --dialect yap --server 127.0.0.1:8000 --full-text"),
    (
        "yap/client.sh",
        ["--server", "h:1", "--secure", "--file", "a.wav", "--rtf", "1.0", "--print-partials"],
        {},
        "asr client --dialect yap --server 127.0.0.1:8000 --server h:1 --secure --file a.wav --rtf 1.0 "
        "--print-partials",
    ),
    (
        "yap/bench.sh",
        ["--server", "h:1", "--n", "9"],
        {},
        "asr bench --dialect yap --server 127.0.0.1:8000 --n 20 --concurrency 5 --frame-ms 20 --server h:1 --n 9",
    ),
    (
        "moonshine/bench.sh",
        [],
        {"ASR_WEBRTC_PATH": "/offer", "ASR_PORT": "9"},
        "asr bench --dialect moonshine --server 127.0.0.1:9 --path /offer --n 20 --concurrency 5 --frame-ms 20",
    ),
    (
        "parakeet/bench.sh",
        ["--streams", "64"],
        {},
        "asr bench --dialect parakeet --server 127.0.0.1:8000 --streams 32 --duration 30 --frame-ms 20 --tone "
        "--streams 64",
    ),
    ("amira/load_test.sh", [], {}, "asr bench --dialect amira --server 127.0.0.1:8057"),
    (
        "caiman/caiman-asr-client.sh",
        ["--concurrent-connections", "40", "--perpetual", "a.wav"],
        {},
        "asr bench --dialect caiman --server localhost:3030 --streams 40 --frame-ms 60 --file a.wav",
    ),
    ("caiman/compile-model-checkpoint/run_docker.sh", ["in.pt", "out.carm"], {}, "asr-compile in.pt out.carm"),
    ("moonshine/start.sh", [], {"ASR_PORT": "8001"}, "asr serve --listen=0.0.0.0:8001"),
    (
        "moonshine/client.sh",
        ["--file", "mid.wav", "--rtf", "1", "--full-text"],
        {"ASR_WEBRTC_PATH": "/offer"},
        "asr client --dialect moonshine --server 127.0.0.1:8000 --path /offer --file mid.wav --rtf 1 --full-text",
    ),
    ("moonshine/warmup.sh", [], {}, "asr warmup --dialect moonshine --server 127.0.0.1:8000"),
    ("parakeet/steps/05_run_server.sh", [], {"PORT": "9"}, "asr serve --listen=0.0.0.0:9"),
    ("parakeet/steps/05_run_server.sh", [], {"ENGINES": ALL_ENGINES}, f"{PARAKEET} --engine=parakeet"),
    (
        "parakeet/client.sh",
        ["--file", "mid.wav", "--url", "ws://h/ws"],
        {},
        "asr client --dialect parakeet --server 127.0.0.1:8000 --file mid.wav --url ws://h/ws",
    ),
    (
        "parakeet/warmup.sh",
        ["--rtf", "10", "--frame-ms", "20"],
        {},
        "asr warmup --dialect parakeet --server 127.0.0.1:8000 --rtf 10 --frame-ms 20",
    ),
    ("amira/start.sh", [], {}, AMIRA),
    ("amira/start.sh", [], {"SERVER_PORT": "1", "AMIRA_SERVER_HOST": "h"}, "asr serve --listen=h:1"),
    (
        "amira/client.sh",
        ["--file", "a.wav"],
        {},
        "asr client --dialect amira --server 127.0.0.1:8057 --model amira --file a.wav",
    ),
]


@pytest.mark.parametrize(("script", "arguments", "more", "command"), CALLS)
def test_what_a_script_becomes(
    script: str, arguments: Sequence[str], more: dict[str, str], command: str, place: Place
) -> None:
    """CAI-06, CAI-08, CAI-11, CAI-41, CAI-47, YAP-01, YAP-02, YAP-17, YAP-18, YAP-19, YAP-20, MOO-08, MOO-16, MOO-19,
    PAR-11, PAR-13, PAR-14, PAR-15, AMI-01, AMI-24: the document's flags and variables as ours."""
    result = place.call(script, *arguments, **({"ENGINES": NO_ENGINES} | more))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == command


@pytest.mark.parametrize(
    ("script", "arguments", "code", "sentence"),
    [
        ("caiman/load_image.sh", ["-i", "docker-asr-server.tgz"], 1, "there is no Docker image"),
        ("caiman/compile-model-checkpoint/run_docker.sh", ["in.pt"], 2, "name a hardware checkpoint and the file"),
        ("caiman/program_card.sh", [], 1, "vendor's tools"),
        ("caiman/start_asr_server.sh", ["--rnnt-checkpoint", "a.pt"], 1, "the engine 'card' is not usable here"),
        ("caiman/start_asr_server.sh", [], 2, "a card needs --rnnt-checkpoint"),
        ("caiman/start_asr_server.sh", ["--beam"], 2, "unknown option --beam"),
        ("caiman/live_client.sh", ["--input_device", "3"], 2, "the default one is recorded"),
        ("caiman/caiman-asr-client.sh", ["--perpetual", "a.wav", "b.wav"], 2, "many connections repeat one file"),
        ("caiman/caiman-asr-client.sh", [], 2, "name at least one sound file"),
        ("amira/batch.sh", ["none.wav"], 2, "name a sound file"),
        ("yap/stop.sh", ["--purge"], 2, "unknown option --purge"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    script: str, arguments: Sequence[str], code: int, sentence: str, place: Place
) -> None:
    """CAI-15, CAI-48: said, not pretended."""
    result = place.call(script, *arguments, ENGINES=NO_ENGINES)
    assert result.returncode == code
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(Path(script).name)


def test_an_engine_that_is_missing_is_said(place: Place) -> None:
    result = place.call("yap/run_server.sh", ENGINES="fastconformer not usable: the extra 'nemo'\\n")
    assert result.stdout.strip() == YAP
    assert "'fastconformer' is not usable here" in result.stderr


def test_an_installation_is_needed(tmp_path: Path) -> None:
    result = Place(tmp_path).call("yap/client.sh", PATH="/usr/bin:/bin")
    assert result.returncode == 1
    assert "asr is not installed" in result.stderr


def test_the_checks_of_parakeet(place: Place, tmp_path: Path) -> None:
    """PAR-11, PAR-20: the documents' sentences, and only a note where no GPU is asked for."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "dirname", "basename"):
        (programs / name).symlink_to(shutil.which(name) or name)
    alone = {"PATH": str(programs)}
    check = "parakeet/steps/00_env_check.sh"
    assert "the service will run on the CPU" in place.call(check, **alone).stderr
    result = place.call(check, ASR_DEVICE="cuda:0", **alone)
    assert result.returncode == 1
    assert "ERROR: nvidia-smi not found" in result.stderr
    result = place.call("parakeet/steps/01_system_deps.sh", PYTHON_BIN="python3.99")
    assert result.returncode == 1
    assert "python3.99: command not found" in result.stderr
    for step in ("02_python_env", "03_python_deps"):
        assert place.call(f"parakeet/steps/{step}.sh").returncode == 0  # installed already
    assert "nothing to download" in place.call("parakeet/steps/04_prefetch_model.sh", ENGINES=NO_ENGINES).stderr


@pytest.mark.parametrize("script", ["yap/create_venv.sh", "yap/install_deps.sh", "caiman/simple_client/build.sh"])
def test_installing_is_make(script: str, place: Place) -> None:
    """YAP-17, CAI-08: the same installation under other names, into VENV_PATH."""
    venv = place.folder / "venv"
    result = place.call(script, PATH=f"{venv}/bin:{os.environ['PATH']}", PYTHON_BIN="python3.12")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"make -C {ROOT} VENV={venv} PYTHON=python3.12 {venv}/.installed\n"


def test_moonshine_is_installed_with_webrtc_and_the_torch_that_is_asked_for(place: Place) -> None:
    """MOO-16: TORCH_CUDA and TORCH_VERSION."""
    chosen = {"TORCH_CUDA": "cu121", "TORCH_VERSION": "2.4.0"}
    result = place.call("moonshine/install.sh", PATH=f"{place.folder}/venv/bin:{os.environ['PATH']}", **chosen)
    assert result.stdout.splitlines()[1:] == [
        f"python -m pip install --quiet -e {ROOT}[webrtc]",
        "python -m pip install torch==2.4.0 --index-url https://download.pytorch.org/whl/cu121",
    ]


def test_the_virtual_environment_goes_only_when_asked(place: Place) -> None:
    """YAP-17, MOO-16, PAR-12: --nuke-venv; what is no environment stays."""
    venv = place.folder / "venv"
    assert place.call("moonshine/stop.sh").returncode == 0
    assert venv.exists()
    refused = place.call("parakeet/stop.sh", "--nuke-venv")
    assert (refused.returncode, venv.exists()) == (1, True)
    (venv / "pyvenv.cfg").write_text("")
    assert place.call("yap/stop.sh", "--nuke-venv").returncode == 0
    assert not venv.exists()


# ---- Started and stopped ----


def wait_for_line(process: subprocess.Popen[str], pattern: str) -> str:
    """The first line that matches."""
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return line
    raise AssertionError("".join(lines))


@pytest.mark.parametrize(
    ("start", "stop", "options"),
    [
        ("caiman/start_asr_server.sh", "caiman/kill_asr_servers.sh", ["--cpu-backend", "--rnnt-checkpoint", "a.pt"]),
        ("amira/start.sh", "amira/stop.sh", []),
    ],
)
def test_a_service_is_started_and_stopped(start: str, stop: str, options: list[str], real: Place) -> None:
    """CAI-06, CAI-10, MOO-15, AMI-18: in the foreground; the stop script ends it in order, and only it."""
    port = free_port()
    service = real.start(start, *options, ASR_LISTEN=f"127.0.0.1:{port}")
    wait_for_line(service, rf"^ready: ws://127.0.0.1:{port}")
    name = start.partition("/")[0]
    assert (real.state / f"{name}.pid").read_text().split()[0] == str(service.pid)
    second = real.call(start, *options, ASR_LISTEN=f"127.0.0.1:{free_port()}")
    assert second.returncode == 1
    assert f"{name} is already running (process {service.pid})" in second.stderr
    children = psutil.Process(service.pid).children(recursive=True)
    stopped = real.call(stop)
    assert (stopped.returncode, stopped.stderr) == (0, f"{name} has ended\n")
    assert service.wait(WAIT_S) == 0
    assert not [child for child in children if child.is_running()]
    assert not list(real.state.glob("*.pid"))
    assert real.call(stop).stderr == f"{name} is not running\n"


def test_a_whole_round(real: Place) -> None:
    """YAP-17, CAI-08, PAR-10, PAR-12: started in the background, its log shown, spoken to, stopped."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    first = real.start("parakeet/main.sh", ASR_LISTEN=address)
    wait_for_line(first, rf"^ready: ws://{address}")
    pid = int((real.state / "parakeet.pid").read_text().split()[0])
    os.killpg(first.pid, signal.SIGINT)  # Ctrl+C ends the showing of the log, not the service
    first.wait(WAIT_S)
    assert psutil.pid_exists(pid)
    log = real.state / "logs/latest.log"
    assert log.is_symlink() and re.fullmatch(r"run_\d{8}_\d{6}\.log", log.readlink().name)
    second = real.start("parakeet/main.sh", ASR_LISTEN=address)
    wait_for_line(second, rf"^ready: ws://{address}")
    assert int((real.state / "parakeet.pid").read_text().split()[0]) == pid
    spoken = real.call("caiman/simple_client/run.sh", str(_short_clip(real.folder)), ASR_SERVER=address)
    assert spoken.returncode == 0, spoken.stderr
    assert re.match(r"Text: \w+", spoken.stdout)
    assert real.call("parakeet/stop.sh").returncode == 0
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "the end")
    assert log.exists()


def _short_clip(folder: Path) -> Path:
    import numpy as np
    import soundfile

    soundfile.write(folder / "a.wav", np.random.default_rng(1).normal(size=16_000) * 0.2, 16_000)
    return folder / "a.wav"


def test_a_stranger_with_the_same_number_is_left_alone(place: Place) -> None:
    """CAI-10, YAP-17: a process id is used again; when it began tells."""
    place.state.mkdir()
    (place.state / "amira.pid").write_text(f"{os.getpid()} 12345\n")
    result = place.call("amira/stop.sh")
    assert (result.returncode, result.stderr) == (0, "amira is not running\n")
