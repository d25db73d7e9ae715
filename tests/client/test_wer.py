"""The word error rate measurement against the small server, and its arithmetic."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from asr_ops import own_service, wer
from tests.client.dialect_server import Script, serving


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Three clips; the server returns `word0 word1` for each, which is four words after normalization."""
    lines = []
    for name, kind, text in [
        ("a", "harvard", "Word0 word1."),
        ("b", "harvard", "word0 word2 word3"),
        ("c", "noise", "word0 word1"),
    ]:
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(32_000), 16_000)
        lines.append(json.dumps({"path": f"{name}.wav", "text": text, "kind": kind, "duration_s": 2.0}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(wer.main, [str(argument) for argument in arguments])


def test_rows_and_texts_as_json(speech: Path) -> None:
    script = Script()
    with serving(script) as url:
        result = run(speech, "--url", url, "--kinds", "harvard,noise", "--json")
    assert result.exit_code == 0, result.stderr
    measured = json.loads(result.stdout)
    assert measured["rows"] == {
        "harvard": {"clips": 2, "words": 10, "errors": 3, "wer_percent": 30.0},
        "noise": {"clips": 1, "words": 4, "errors": 0, "wer_percent": 0.0},
        "read sentences": {"clips": 2, "words": 10, "errors": 3, "wer_percent": 30.0},
        "total": {"clips": 3, "words": 14, "errors": 3, "wer_percent": 21.43},
    }
    assert measured["clips"][0] == {
        "path": str(speech / "a.wav"),
        "kind": "harvard",
        "reference": "word 0 word one",
        "heard": "word 0 word one",
        "words": 4,
        "errors": 0,
    }
    assert max(map(len, script.audio)) == 640


def test_the_table_has_a_row_per_kind(speech: Path) -> None:
    with serving() as url:
        result = run(speech, "--url", url, "--kinds", "harvard")
    assert [line.split() for line in result.stdout.splitlines() if "harvard" in line] == [
        ["│", "harvard", "│", "2", "│", "10", "│", "3", "│", "30.00", "│"]
    ]
    assert "read sentences" in result.stdout and "total" in result.stdout


@pytest.mark.parametrize(("limit", "kinds", "code"), [(30.0, "harvard", 0), (29.9, "harvard", 1), (99, "noise", 1)])
def test_a_limit_on_the_read_sentences(speech: Path, limit: float, kinds: str, code: int) -> None:
    with serving() as url:
        result = run(speech, "--url", url, "--kinds", kinds, "--max-wer", limit)
    assert result.exit_code == code
    assert bool(result.stderr) == bool(code)


def test_unusable_input_is_one_sentence(speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = run(speech, "--kinds", "harvard,opera")
    assert unknown.exit_code == 2
    assert unknown.stderr.startswith("asr_ops.wer: no clips of kind opera; there are harvard, noise")
    assert run(speech / "nowhere").exit_code == 2
    (speech / "manifest.jsonl").write_text('{"path": "a.wav"}\n')
    assert "is not an object with path, text and kind" in run(speech).stderr
    monkeypatch.setitem(sys.modules, "jiwer", None)
    assert run(speech).stderr == "asr_ops.wer: measuring needs the extra 'dev': pip install 'asr-pool[dev]'\n"


def test_a_clip_that_fails_is_named(speech: Path) -> None:
    with serving(Script(fail_after_s=0.5)) as url:
        result = run(speech, "--url", url, "--kinds", "noise")
    assert result.exit_code == 1
    assert result.stderr == f"asr_ops.wer: {speech / 'c.wav'}: the worker went away (session-lost)\n"


FAKE_ASR = """#!{python}
import pathlib, signal, sys, threading
sys.path[:0] = {path!r}
from tests.client.dialect_server import serving
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
if {broken}:
    sys.exit("no model here")
with serving() as url:
    print("starting")
    print(f"ready: {{url}}", flush=True)
    ended.wait()
pathlib.Path({ended!r}).write_text(" ".join(sys.argv[1:]))
"""


def fake_asr(folder: Path, broken: bool) -> None:
    """An `asr` beside a Python, as in a virtual environment."""
    text = FAKE_ASR.format(python=sys.executable, path=sys.path, broken=broken, ended=str(folder / "ended"))
    (folder / "asr").write_text(text)
    (folder / "asr").chmod(0o755)


def test_without_a_url_a_service_is_started_and_stopped(speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_asr(speech, broken=False)
    monkeypatch.setattr(own_service.sys, "executable", str(speech / "python"))  # type: ignore[attr-defined]
    result = run(speech, "--kinds", "noise")
    assert result.exit_code == 0, result.stderr
    assert (speech / "ended").read_text().startswith("serve --listen=127.0.0.1:")


def test_a_service_that_does_not_start_says_why(speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_asr(speech, broken=True)
    monkeypatch.setattr(own_service.sys, "executable", str(speech / "python"))  # type: ignore[attr-defined]
    result = run(speech, "--kinds", "noise")
    assert result.exit_code == 2
    assert "did not become ready\nno model here" in result.stderr


def test_the_wheels_sample_is_found_and_its_reference_is_the_whole_sentence() -> None:
    pytest.importorskip("moonshine_voice")
    (clip,) = wer.two_cities()
    assert clip.path.exists()
    assert len(clip.text.split()) == 120
