"""A worker that takes audio and does nothing: its sessions move, and lose no word."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from asr_process import settings
from tests.e2e.clients import Native, cut, expected, noise
from tests.e2e.service import ROOT, Pool, environment


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool() as pool:
        yield pool


@pytest.fixture
def swallower(pool: Pool) -> Iterator[subprocess.Popen[str]]:
    endpoint = settings.workers_endpoint(pool.run_dir)
    argv = [sys.executable, "-m", "tests.e2e.swallowing_worker", endpoint]
    env = environment()
    env["PYTHONPATH"] += f":{ROOT}"
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "Welcome\n"
        yield process
        process.kill()


def test_a_session_leaves_a_worker_that_swallows_its_audio(pool: Pool, swallower: subprocess.Popen[str]) -> None:
    assert swallower.stdout is not None
    pcm = noise(4.0)
    with Native(pool.url) as client:  # the broker prefers the swallower: of equal workers, the first by name
        client.ready()
        assert swallower.stdout.readline() == "Grant\n"
        client.send(*cut(pcm, 3200))
        client.until("migrating")
        client.stop()
        assert client.text == expected(pcm)
    assert pool.metric("asr_frontend_moves_total") == 1
