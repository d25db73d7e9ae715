"""Audio that kills workers: its session ends after two deaths, and its neighbors keep every word."""

from __future__ import annotations

import json
import stat
import wave
from pathlib import Path

import pytest

from asr_workers.engines.fake import EXCEPTION, SIGKILL, SIGSEGV
from tests.e2e.clients import Native, cut, expected, noise
from tests.e2e.poison import ARGS, POISON_AT_S, poisonous, run
from tests.e2e.service import Serve


@pytest.mark.parametrize(
    "kind, deaths_max", [(EXCEPTION, 2), (SIGSEGV, 2), (SIGKILL, 3)], ids=["raise", "segv", "kill"]
)
def test_neighbors_keep_their_texts(kind: int, deaths_max: int) -> None:
    with Serve(*ARGS, workers=3) as serve:
        outcome = run(serve, [kind], neighbors=9)
    assert [talk.code for talk in outcome.poisonous] == ["poisonous-audio"]
    assert all(talk.is_whole() for talk in outcome.neighbors), outcome.summary()
    assert outcome.deaths <= deaths_max, outcome.summary()


def test_the_only_worker_serves_again_afterwards(tmp_path: Path) -> None:
    """The session waits for the restarted worker, kills it once more, and ends. The operator gets its audio."""
    kept = tmp_path / "kept"
    kept.mkdir()
    with Serve(*ARGS, f"--frontend-arg=--keep-poison={kept}") as serve:
        with Native(serve.url) as client:
            client.send(*cut(poisonous(SIGSEGV, 7, POISON_AT_S), 3200))
            client.stop()
            assert client.of("error")[0]["code"] == "poisonous-audio" and client.close_code == 4400
        serve.wait_whole()
        pcm = noise(2.0, seed=8)
        with Native(serve.url) as other:
            other.send(*cut(pcm, 3200))
            other.stop()
        assert other.text == expected(pcm)
        assert serve.metric("asr_frontend_poisonous_total") == 1.0
    recording, facts = sorted(kept.glob("*.wav")), [json.loads(path.read_text()) for path in kept.glob("*.json")]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in kept.iterdir())
    assert [(one["engine"], one["slug"], one["workers_died"]) for one in facts] == [("fake", "poisonous-audio", 2)]
    with wave.open(str(recording[0])) as file:
        assert file.getframerate() == 16_000 and file.getnframes() > 16_000
