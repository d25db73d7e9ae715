"""Every dialect of `asr bench`: its encoded messages, and whole sessions with real services and exact texts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from asr_client.dialects import DIALECTS
from asr_ops.bench import audio, by_client, dialects, load, plan, schedule, websocket
from asr_ops.bench.connection import clock
from asr_ops.bench.plan import Plan
from asr_ops.own_service import serving
from asr_proto.errors import SetupError
from asr_workers.engines import fake

FRAMES, FRAME_MS, SESSIONS = 50, 20, 3


def test_messages_are_encoded_in_advance() -> None:
    assert dialects.prepared("native").ending == websocket.encode(websocket.TEXT, b'{"type": "stop"}')
    assert dialects.prepared("parakeet").ending == websocket.encode(websocket.BINARY, b"__CTRL__:EOS")
    assert dialects.prepared("caiman").opening == b""


# ---- Whole sessions ----


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a service with the fake engine."""
    with asyncio.Runner() as runner:
        service = serving(["--engine=fake"])
        yield runner.run(service.__aenter__()).url
        runner.run(service.__aexit__(None, None, None))


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_gets_the_exact_text(name: str, url: str) -> None:
    dialect, ring = DIALECTS[name], audio.ring(audio.noise(), FRAME_MS)
    starts = schedule.starts_us(SESSIONS, "together", 1)
    places = plan.entries(ring, SESSIONS)
    whole = Plan(url=dialect.url(url), dialect=name, ring=ring, frames=FRAMES, starts_us=starts, entries=places)

    async def at_once() -> float:
        return clock()

    run = load.run if dialect.channel == "websocket" else by_client.run
    try:
        done = asyncio.run(run(whole, at_once, at_once))
    except SetupError as error:
        pytest.skip(error.detail)
    assert [session.fault for session in done.sessions] == [None] * SESSIONS
    assert [session.text for session in done.sessions] == [
        fake.transcript(ring.session_samples(place, FRAMES)) for place in places
    ]
    assert all(session.ready_s and session.end_s and session.partials for session in done.sessions)
    assert len(done.lateness_s) == FRAMES * SESSIONS
    dated = {end_s is not None for session in done.sessions for _, end_s in session.partials}
    assert dated == {name in ("native", "caiman", "deepgram")}
