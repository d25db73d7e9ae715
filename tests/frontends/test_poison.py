"""The folder of poisonous audio: what is in it, who may read it, and its limits."""

from __future__ import annotations

import json
import stat
import wave
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from asr_audio.entries import Piece
from asr_frontends import poison
from asr_frontends.outbox import KeepPoison
from asr_frontends.poison import PoisonFolder
from asr_proto.errors import SetupError

PCM = bytes(range(200))
POISON = KeepPoison("../s1", "fake", "one", 2, (Piece(40, PCM[:120]), Piece(100, PCM[120:])))


def test_a_recording_and_its_facts(tmp_path: Path) -> None:
    PoisonFolder(tmp_path).keep(POISON, "poisonous-audio")
    (recording,), (facts,) = tmp_path.glob("*.wav"), tmp_path.glob("*.json")
    assert recording.stem == facts.stem and recording.stem.endswith("-s1")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (recording, facts)} == {0o600}
    with wave.open(str(recording)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        assert file.readframes(1000) == PCM
    assert json.loads(facts.read_text(encoding="utf-8")) == {
        "session": "../s1",
        "engine": "fake",
        "model": "one",
        "slug": "poisonous-audio",
        "workers_died": 2,
        "first_sample": 40,
    }


@pytest.mark.parametrize("limit, value", [("FILES_MAX", 1), ("BYTES_MAX", 300)])
def test_a_full_folder_keeps_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(poison, limit, value)
    folder = PoisonFolder(tmp_path)
    with capture_logs() as logs:
        for session in ("a", "b"):
            folder.keep(KeepPoison(session, "fake", "one", 2, POISON.pieces), "poisonous-audio")
    assert [path.stem[-1] for path in tmp_path.glob("*.wav")] == ["a"]
    assert [line["event"] for line in logs] == ["poisonous audio is not kept: the folder is full"]


def test_a_disk_that_takes_nothing_is_logged(tmp_path: Path) -> None:
    folder = PoisonFolder(tmp_path)
    tmp_path.rmdir()
    with capture_logs() as logs:
        folder.keep(POISON, "poisonous-audio")
    assert [line["event"] for line in logs] == ["poisonous audio is not kept"]


def test_the_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="a folder in which this process can write"):
        PoisonFolder(tmp_path / "missing")
