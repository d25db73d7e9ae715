"""Frontends on one port that are restarted one after the other: no client of any dialect notices."""

from __future__ import annotations

from contextlib import ExitStack

from tests.e2e.clients import WAIT_S, expected, noise
from tests.e2e.service import Pool, Program
from tests.e2e.speakers import SPEAKERS, Speaker

SLOTS = [["--engine=fake", "--slots=64"]]
SHARED = ["--reuse-port", "--drain-s=20"]


class Restarts:
    """Frontends on one port. `restart` starts another one and terminates the oldest."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._running: list[Program] = [pool.frontend]

    def add(self) -> None:
        frontend, _ = self._pool.add_frontend(*SHARED, listen=f"127.0.0.1:{self._pool.port}")
        self._running.append(frontend)

    def restart(self) -> None:
        """Returns when the old process has ended."""
        self.add()
        oldest = self._running.pop(0)
        oldest.process.terminate()
        assert oldest.wait(WAIT_S) == 0


def test_clients_of_every_dialect_notice_no_restart() -> None:
    speech = {dialect: noise(6.0, seed) for seed, dialect in enumerate(SPEAKERS)}
    with Pool(workers=SLOTS, frontend=SHARED) as pool, ExitStack() as exits:
        restarts = Restarts(pool)
        speakers = [exits.enter_context(Speaker(pool.url, dialect)) for dialect in SPEAKERS]
        for start in range(0, 6):
            for speaker in speakers:
                speaker.send(speech[speaker.dialect][start * 32_000 : start * 32_000 + 32_000])
            restarts.restart()
        for speaker in speakers:
            speaker.end()
            speaker.rest()
            assert speaker.text == expected(speech[speaker.dialect]), speaker.dialect
            assert speaker.close == (None if speaker.dialect == "parakeet" else (1000, "")), speaker.dialect
