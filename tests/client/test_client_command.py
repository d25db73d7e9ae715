"""`asr client` and `asr warmup` against the real service, in every dialect that it serves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from asr_client.client_command import client, cut, shortened, tone, warmup
from asr_client.dialects import DIALECTS
from asr_ops.cli import COMMANDS
from asr_proto.audio import from_float32
from tests.e2e.clients import expected, noise
from tests.e2e.service import Pool, free_port

SPEECH = noise(1.5)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool() as pool:
        yield pool
        pool.wait_sessions(0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sounds") / "speech.wav"
    soundfile.write(path, np.frombuffer(SPEECH, "<i2"), 16_000)
    return path


def run(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], prog_name=f"asr {command.name}")


def at(pool: Pool) -> list[str]:
    return ["--server", f"127.0.0.1:{pool.port}"]


def skip_unless_served(result: Result) -> None:
    if "(http-404)" in result.stderr:
        pytest.skip("the service does not serve this dialect yet")


# ---- Against the service ----


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_file_in_every_dialect(dialect: str, pool: Pool, file: Path) -> None:
    """CAI-08, YAP-19, PAR-13, MOO-19, AMI-05: the sample clients, with the text of the whole file."""
    if DIALECTS[dialect].channel == "webrtc":
        pytest.importorskip("aiortc")
    result = run(client, *at(pool), "--dialect", dialect, "--file", file, "--rtf", 10, "--full-text", "--json")
    skip_unless_served(result)
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["text"].split() == expected(SPEECH).split()
    assert said["audio_s"] == 1.5
    assert said["wall_s"] >= said["send_duration_s"] > 0.1
    assert said["partials"] >= 1
    assert said["finalize_ms"] >= 0


@pytest.mark.parametrize("dialect", ["yap", "parakeet", "moonshine", "amira"])
def test_a_pause_ends_no_turn(dialect: str, pool: Pool, tmp_path: Path) -> None:
    """YAP-13, MOO-21: in these dialects only the client ends speech; one final has the words on both sides."""
    before, after = noise(1.0, seed=1), noise(1.0, seed=2)
    soundfile.write(tmp_path / "a.wav", np.frombuffer(before + bytes(64_000) + after, "<i2"), 16_000)
    arguments = ["--dialect", dialect, "--file", tmp_path / "a.wav", "--rtf", 10, "--full-text", "--json"]
    result = run(client, *at(pool), *arguments)
    skip_unless_served(result)
    assert result.exit_code == 0, result.stderr
    words, first = json.loads(result.stdout)["text"].split(), expected(before).split()
    assert words[: len(first)] == first
    assert words == expected(before + bytes(64_000) + after).split()


@pytest.mark.parametrize("dialect", ["yap", "parakeet", "native"])
def test_a_warm_up_needs_no_file(dialect: str, pool: Pool) -> None:
    """YAP-18, PAR-14, MOO-19: ten times real time, and the figures."""
    result = run(warmup, *at(pool), "--dialect", dialect)
    skip_unless_served(result)
    assert result.exit_code == 0, result.stderr
    names = [re.split(r"\s{2,}|:", line)[0] for line in result.stdout.splitlines()]
    assert names == [
        "Text",
        "Wall",
        "Audio",
        "RTF",
        "xRT",
        "Time to first word",
        "Partials",
        "Average partial gap",
        "Sending",
        "Finalize",
        "Delta to audio",
    ]
    audio = expected(from_float32(tone(3.0)).tobytes())
    assert result.stdout.splitlines()[0] == f"Text: {shortened(audio)}"
    assert "Audio                3.000 s" in result.stdout


def test_partials_are_printed_as_they_come(pool: Pool, file: Path) -> None:
    """YAP-19, PAR-13: --print-partials, --full-text, --frame-ms."""
    result = run(
        client,
        *at(pool),
        *("--file", file, "--rtf", 10, "--print-partials", "--full-text", "--frame-ms", 60),
    )
    assert result.exit_code == 0, result.stderr
    *partials, text = [line for line in result.stdout.splitlines() if not re.search(r"\d|-$", line)]
    assert text == f"Text: {expected(SPEECH)}"
    assert partials[-1] == expected(SPEECH)
    assert len(partials) > 1


def test_debugging_shows_the_time_of_each_event(pool: Pool, file: Path) -> None:
    """YAP-18: --debug."""
    result = run(warmup, "--url", pool.url, "--file", file, "--debug")
    events = [line.partition(" s  ")[2].partition(":")[0] for line in result.stderr.splitlines()[1:]]
    assert result.stderr.startswith(f"{pool.url}/v1/stream: native, 75 frames")
    assert events[:2] == ["connected", "first audio sent"]
    assert events[-1] == "complete"
    assert "text" in events


def test_tls_where_there_is_none(pool: Pool, file: Path) -> None:
    """YAP-19: --secure."""
    result = run(client, *at(pool), "--secure", "--file", file)
    assert result.exit_code != 0
    assert result.stderr.count("\n") == 1


def test_a_path_of_ones_own(pool: Pool, file: Path) -> None:
    """MOO-19: --path."""
    result = run(client, *at(pool), "--path", "/nowhere", "--file", file)
    assert result.exit_code == 1
    assert result.stderr == "asr client: no dialect is served at /nowhere (http-404)\n"


def test_a_model_that_is_not_served(pool: Pool, file: Path) -> None:
    result = run(client, *at(pool), "--model", "unheard-of", "--file", file)
    assert result.exit_code == 1
    assert "unknown-model" in result.stderr


# ---- Alone ----


def test_no_server_answers(file: Path) -> None:
    result = run(client, "--server", f"127.0.0.1:{free_port()}", "--file", file)
    assert result.exit_code == 3
    assert result.stderr.startswith("asr client: no server answers at ws://127.0.0.1:")


@pytest.mark.parametrize("speed", ["10.1", "1000", "nan", "inf"])
def test_too_fast_is_wrong_usage(speed: str, file: Path) -> None:
    """YAP-17, YAP-21: more than ten times real time is rejected with exit code 2."""
    for command in (client, warmup):
        result = run(command, "--rtf", speed, "--file", file)
        assert result.exit_code == 2
        assert "at most 10 times real time" in result.stderr


@pytest.mark.parametrize(("given", "speed"), [("0.1", 1.0), ("-3", 1.0), ("1", 1.0), ("7.5", 7.5), (None, 10.0)])
def test_too_slow_is_real_time(given: str | None, speed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAP-17, YAP-21: clamped to 1."""
    assert _speed_of(warmup, monkeypatch, *([] if given is None else ["--rtf", given])) == speed


def test_a_client_sends_in_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """YAP-19, YAP-21: --rtf 1 and 20 ms frames by default."""
    assert _speed_of(client, monkeypatch, "--file", "a.wav") == 1.0


def _speed_of(command: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> float:
    seen: list[float] = []

    def main(_command: str, *, speed: float, frame_ms: int, **_: Any) -> int:
        assert frame_ms == 20
        seen.append(speed)
        return 0

    monkeypatch.setattr("asr_client.client_command._main", main)
    assert run(command, *arguments).exit_code == 0
    return seen[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--file", "none.wav"], "asr client: none.wav: no such file or directory\n"),
        (["--file", "none.wav", "--url", "ftp://host"], "asr client: 'ftp://host' is no address"),
        ([], "Missing option '--file'"),
        (["--dialect", "klingon"], "Invalid value for '--dialect'"),
    ],
)
def test_wrong_usage(arguments: list[str], sentence: str) -> None:
    result = run(client, *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_the_tone_is_sound_and_cut_into_frames() -> None:
    """PAR-15: 180 and 310 Hz."""
    samples = tone(1.0)
    strengths = np.abs(np.fft.rfft(samples))
    assert sorted(np.argsort(strengths)[-2:].tolist()) == [180, 310]
    assert 0.3 < np.abs(samples).max() < 1.0
    frames = cut(from_float32(samples).tobytes(), 30)
    assert {len(frame) for frame in frames[:-1]} == {960}
    assert b"".join(frames) == from_float32(samples).tobytes()


def test_long_texts_are_shortened() -> None:
    assert shortened("short") == "short"
    assert len(shortened("word " * 100)) == 63


def test_the_commands_are_there() -> None:
    assert {"client", "warmup"} <= set(COMMANDS)
