"""Services that several tests share, because starting one takes a second or two. Tests must leave no trace in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.service import Pool


@pytest.fixture(scope="session")
def _fake_pool() -> Iterator[Pool]:
    with Pool(broker=["--grace-s=0.5"]) as pool:
        yield pool


@pytest.fixture
def fake(_fake_pool: Pool) -> Iterator[Pool]:
    """A broker, a worker with the fake engine and a frontend. Tests may kill no process and must free every slot."""
    yield _fake_pool
    _fake_pool.wait_sessions(0)


@pytest.fixture(scope="session")
def impatient_port(_fake_pool: Pool) -> int:
    """The port of a second frontend of the same pool, which ends a session after two seconds without a message."""
    _, port = _fake_pool.add_frontend("--idle-s=2")
    _fake_pool.wait_ready(port)
    return port


@pytest.fixture
def impatient(fake: Pool, impatient_port: int) -> str:
    """The URL of the second frontend."""
    return f"ws://127.0.0.1:{impatient_port}"


@pytest.fixture(scope="session")
def _speech_pool() -> Iterator[Pool]:
    with Pool(workers=[["--engine=moonshine"]]) as pool:
        yield pool


@pytest.fixture
def speech(_speech_pool: Pool) -> Iterator[Pool]:
    """The same with the embedded model."""
    yield _speech_pool
    _speech_pool.wait_sessions(0)
