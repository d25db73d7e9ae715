"""Clients of the dialects record how a server ends their session. The servers here are scripts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from websockets.asyncio.server import ServerConnection, serve

from asr_dialects import amira, parakeet, yap
from asr_workers.engines.fake import WORD_SAMPLES
from tests.nemesis.clients import Manner, StreamClient
from tests.nemesis.history import GOING_AWAY, NATIVE, Conversation, Cut, Ended, Event, Failed, Heard
from tests.nemesis.speakers import Speaker, client
from tests.nemesis.truth import Script, noise, truth_of

Serve = Callable[[ServerConnection], Awaitable[None]]
SAID = Script(noise(1, 1, 4 * WORD_SAMPLES))
FRAMES = 10


async def _answers(socket: ServerConnection) -> None:
    """A whole session of Parakeet: all audio, then a text."""
    for _ in range(FRAMES):
        await socket.recv()
    assert await socket.recv() == parakeet.control(parakeet.EOS)
    await socket.send(parakeet.final("one two"))
    await socket.wait_closed()


async def _says_goodbye(socket: ServerConnection) -> None:
    await socket.recv()
    await socket.send(parakeet.partial("one"))
    await socket.close(1001, "going-away")


async def _says_goodbye_in_its_own_way(socket: ServerConnection) -> None:
    await socket.recv()
    await socket.send(amira.error("one", "going-away", "this server is going away"))
    await socket.close(1001, "going-away: this server is going away: 0.10 s of audio are transcribed")


async def _ends_as_if_complete(socket: ServerConnection) -> None:
    await socket.recv()
    await socket.send(yap.hypothesis(yap.FINAL, None, "one", 0))
    await socket.close(1000)


async def _breaks(socket: ServerConnection) -> None:
    await socket.recv()
    socket.transport.abort()


async def _fails(socket: ServerConnection) -> None:
    await socket.recv()
    await socket.close(1011, "internal: oh")


@pytest.mark.parametrize(
    ("dialect", "script", "end", "all_sent"),
    [
        ("parakeet", _answers, Ended, True),
        ("parakeet", _says_goodbye, GOING_AWAY, False),
        ("amira", _says_goodbye_in_its_own_way, GOING_AWAY, False),
        ("yap", _ends_as_if_complete, Ended, False),
        ("yap", _breaks, Cut, False),
        ("yap", _fails, "closed-1011", False),
    ],
)
def test_how_a_session_ends(dialect: str, script: Serve, end: type[Event] | str, all_sent: bool) -> None:
    conversation = asyncio.run(_spoken(dialect, script))
    last = conversation.events[-1]
    assert (last.code if isinstance(last, Failed) else type(last)) == end
    assert conversation.all_sent == all_sent
    if dialect == "amira":
        assert isinstance(last, Failed) and last.audio_s == 0.1
    if all_sent:
        assert conversation.sent_samples == conversation.truth.samples
    assert [event.text for event in conversation.events if isinstance(event, Heard)] in ([], ["one"], ["one two"])


def test_a_server_that_does_not_answer_cuts_a_session_before_it_was_ready() -> None:
    conversation = Conversation(1, truth_of(SAID), dialect="yap")
    asyncio.run(client("yap", "127.0.0.1:1", SAID, conversation, Manner(), time.monotonic).run())
    assert isinstance(conversation.refused, Cut)


def test_the_native_dialect_has_its_own_client() -> None:
    conversation = Conversation(1, truth_of(SAID))
    assert isinstance(client(NATIVE, "h:1", SAID, conversation, Manner(), time.monotonic), StreamClient)
    assert isinstance(client("yap", "h:1", SAID, conversation, Manner(), time.monotonic), Speaker)


async def _spoken(dialect: str, script: Serve) -> Conversation:
    """The conversation of a client that speaks for a second."""
    conversation = Conversation(1, truth_of(SAID), dialect=dialect)
    manner = Manner(frame_s=0.1)
    async with serve(script, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        await client(dialect, f"127.0.0.1:{port}", SAID, conversation, manner, time.monotonic).run()
    return conversation
