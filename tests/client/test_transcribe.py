"""The output of `asr transcribe`: text, JSON, exit codes, sentences on stderr."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from asr_client.transcribe import transcribe
from tests.client.dialect_server import Script, serving

COMMAND = [sys.executable, "-c", "from asr_client.transcribe import transcribe; transcribe(prog_name='asr transcribe')"]
SOURCES = [str(Path(__file__).parents[2] / root) for root in ("proto", "frontends")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(SOURCES), "TERM": "xterm", "COLUMNS": "100"}


def run(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(transcribe, [str(a) for a in arguments], prog_name="asr transcribe", env=environment)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Two and a half seconds at 44.1 kHz: word0, word1 and the rest, word2."""
    soundfile.write(tmp_path / "a.wav", np.zeros((110_250, 2)), 44_100)
    return tmp_path / "a.wav"


@pytest.fixture
def nowhere() -> str:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return f"ws://127.0.0.1:{bound.getsockname()[1]}"


def test_an_utterance_a_line(sound: Path) -> None:
    script = Script()
    with serving(script) as url:
        result = run("--url", url, "--language", "en", "--model", "big", sound)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "word0\nword1\nword2\n", "")
    assert script.starts[0] == {
        "type": "start",
        "model": "big",
        "language": "en",
        "sample_rate": 16000,
        "partials": True,
    }
    assert {len(frame) for frame in script.audio[:-1]} == {3_200}


def test_several_files_are_a_line_each(sound: Path) -> None:
    with serving() as url:
        result = run(sound, sound, ASR_URL=url)
    assert result.stdout == f"{sound}: word0 word1 word2\n" * 2


def test_json(sound: Path) -> None:
    script = Script()
    with serving(script) as url:
        result = run("--url", url, "--json", "--no-partials", "--frame-ms", 20, sound, sound.parent / "none.wav")
    good, bad = (json.loads(line) for line in result.stdout.splitlines())
    assert result.exit_code == 2
    assert {len(frame) for frame in script.audio[:-1]} == {640}
    assert script.starts[0]["partials"] is False
    assert (good["file"], good["text"], good["duration_s"]) == (str(sound), "word0 word1 word2", 2.5)
    assert good["elapsed_s"] > 0
    assert (good["session"], good["model"], good["language"], good["engine"]) == ("s-1", "tiny", "en", "fake")
    assert good["utterances"][1] == {
        "text": "word1",
        "start_s": 1.0,
        "end_s": 2.0,
        "endpoint": "silence",
        "words": [{"word": "word1", "start_s": 1.0, "end_s": 2.0}],
    }
    assert bad == {
        "file": str(sound.parent / "none.wav"),
        "error": {"code": "bad-audio", "message": "no such file or directory"},
    }


def test_files_that_cannot_be_read_are_named_and_the_others_go_on(sound: Path) -> None:
    text = sound.parent / "notes.mp3"
    text.write_text("dear diary")
    with serving() as url:
        result = run("--url", url, sound.parent / "none.wav", text, sound)
    assert result.exit_code == 2
    assert result.stdout == f"{sound}: word0 word1 word2\n"
    reason = "format not recognised"  # codespell:ignore recognised
    assert result.stderr.splitlines() == [
        f"asr transcribe: {sound.parent / 'none.wav'}: no such file or directory",
        f"asr transcribe: {text}: it is no audio that can be read: {reason}",
    ]


def test_a_damaged_file_is_named_after_its_readable_part(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(1).normal(size=160_000) * 0.1, 16_000)
    path.write_bytes(path.read_bytes()[:150_000])
    with serving() as url:
        result = run("--url", url, path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"asr transcribe: {path}: it is damaged: ")
    assert result.stderr.count("\n") == 1


def test_a_refused_session(sound: Path) -> None:
    refusal = {"code": "at-capacity", "message": "every slot is taken", "retry_after_s": 2.0}
    with serving(Script(refuse=refusal)) as url:
        result = run("--url", url, sound)
    assert result.exit_code == 1
    assert result.stderr == f"asr transcribe: {sound}: every slot is taken (at-capacity); try again in 2 s\n"


def test_a_lost_session_counts_more_than_a_bad_file(sound: Path) -> None:
    with serving(Script(fail_after_s=1.0)) as url:
        result = run("--url", url, sound, "none.wav")
    assert result.exit_code == 1
    assert "session-lost" in result.stderr


def test_no_server(sound: Path, nowhere: str) -> None:
    result = run("--url", nowhere, sound, sound)
    assert result.exit_code == 3
    assert (
        result.stderr
        == f"asr transcribe: no server answers at {nowhere}/v1/stream; start one with 'make serve' or 'asr serve'\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [[], ["--mic", "a.wav"], ["--url", "ftp://host", "a.wav"], ["--rtf", "-1", "a.wav"], ["--frame-ms", "0", "a.wav"]],
)
def test_wrong_usage(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr


def test_help_teaches() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout and "Exit codes:" in result.stdout and "ASR_URL" in result.stdout


def test_files_are_sent_at_the_same_time_when_asked_to(sound: Path) -> None:
    script = Script()
    with serving(script) as url:
        result = run("--url", url, "--concurrency", 3, "--rtf", 10, *[sound] * 6)
    assert result.exit_code == 0
    assert result.stdout.count("word0 word1 word2") == 6
    assert script.sessions_max == 3


def test_real_time_takes_as_long_as_the_sound(sound: Path) -> None:
    with serving() as url:
        result = run("--url", url, "--json", "--rtf", 5, sound)
    assert 0.5 <= json.loads(result.stdout)["elapsed_s"] < 1.5


def test_ctrl_c_ends_with_130(sound: Path) -> None:
    script = Script()
    with serving(script) as url:
        process = subprocess.Popen([*COMMAND, "--url", url, "--rtf", "0.5", sound], env=ENVIRONMENT, **PIPES)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"word0\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (130, b"")
    assert script.left.wait(30)


PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def test_a_terminal_shows_partials(sound: Path) -> None:
    with serving() as url:
        code, shown = on_terminal("--url", url, "--rtf", "2", str(sound))
    assert code == 0
    assert "wor\x1b" in shown  # grey, a partial
    assert [word for word in ("word0", "word1", "word2") if word in shown] == ["word0", "word1", "word2"]


def test_a_terminal_shows_a_bar_for_several_files(sound: Path) -> None:
    with serving() as url:
        code, shown = on_terminal("--url", url, "--rtf", "5", *[str(sound)] * 2)
    assert code == 0
    assert "transcribing" in shown and "1/2" in shown
    assert shown.count("word0 word1 word2") == 2


def test_a_terminal_keeps_complaints_apart_from_the_live_lines(sound: Path) -> None:
    with serving() as url:
        code, shown = on_terminal("--url", url, "none.wav")
    assert code == 2
    assert "asr transcribe: none.wav: no such file or directory" in shown
    assert "listeningasr" not in shown


@pytest.mark.parametrize("files", [1, 2])
def test_a_terminal_says_that_the_connection_is_another_one(sound: Path, files: int) -> None:
    """One line, and the text continues: the server begins a new session after its first word."""
    with serving(Script(cut_after_s=1.0)) as url:
        code, shown = on_terminal("--url", url, "--rtf", "5", *[str(sound)] * files)
    assert code == 0
    assert shown.count("reconnected after 0.") == 1
    assert shown.replace("\r\n", " ").count("word0") == files + 1


def on_terminal(*arguments: str) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    with subprocess.Popen([*COMMAND, *arguments], env=ENVIRONMENT, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b"".join(_read_terminal(ours))
        os.close(ours)
        return process.wait(60), shown.decode()


def _read_terminal(descriptor: int) -> Iterator[bytes]:
    deadline = time.monotonic() + 20
    while select.select([descriptor], [], [], deadline - time.monotonic())[0]:
        try:
            piece = os.read(descriptor, 65_536)
        except OSError:  # Linux: the other side is closed
            return
        if not piece:
            return
        yield piece
    raise AssertionError("the command did not end")


# The microphone: only PortAudio is replaced.


class _Recorder:
    """A recording device that delivers two and a half seconds of audio and then sends SIGINT, as Ctrl+C does."""

    def __init__(self, callback: Any, blocksize: int, **_options: Any) -> None:
        self._speaker = threading.Thread(target=self._speak, args=(callback, blocksize))

    def _speak(self, callback: Any, blocksize: int) -> None:
        for _ in range(40_000 // blocksize):
            callback(bytes(2 * blocksize), blocksize, None, None)
        signal.raise_signal(signal.SIGINT)

    def __enter__(self) -> None:
        self._speaker.start()

    def __exit__(self, *_error: object) -> None:
        self._speaker.join()


def sounddevice(stream: Any) -> types.ModuleType:
    module = types.ModuleType("sounddevice")
    module.RawInputStream = stream  # type: ignore[attr-defined]
    module.PortAudioError = OSError  # type: ignore[attr-defined]
    return module


def test_ctrl_c_ends_a_recording_with_its_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(_Recorder))
    with serving() as url:
        result = run("--url", url, "--mic", "--json")
    said = json.loads(result.stdout)
    assert (result.exit_code, said["file"], said["text"]) == (0, "microphone", "word0 word1 word2")
    assert said["duration_s"] == 2.5


def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    result = run("--mic")
    assert result.exit_code == 2
    assert result.stderr == "asr transcribe: microphone: recording needs the extra 'mic': pip install 'asr-pool[mic]'\n"


def test_no_device_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def unplugged(**_options: Any) -> None:
        raise OSError("no default input device")

    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(unplugged))
    with serving() as url:
        result = run("--url", url, "--mic")
    assert result.exit_code == 2
    assert result.stderr == "asr transcribe: microphone: no microphone can be opened: no default input device\n"
