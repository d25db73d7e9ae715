"""Several frontends on one port: the kernel distributes the clients; the death of one does not affect the others."""

from __future__ import annotations

from contextlib import ExitStack, suppress

from websockets.exceptions import ConnectionClosed

from tests.e2e.clients import Native, converse, cut, expected, noise
from tests.e2e.service import Serve, eventually

CLIENTS = 24
"""Number of clients. The kernel chooses by the client's port: all reach the same side once in eight million."""


def held(serve: Serve) -> dict[str, int]:
    """The number of sessions by frontend."""
    status = serve.status()
    assert status is not None
    return {frontend.name: frontend.sessions for frontend in status.frontends}


def test_clients_are_spread_and_one_frontend_may_die() -> None:
    with Serve("--frontends=2", "--slots=64", "--broker-arg=--grace-s=0.5") as serve, ExitStack() as clients:
        eventually(lambda: len(held(serve)) == 2, serve.story)
        speech = {clients.enter_context(Native(serve.url)): noise(2.1, seed) for seed in range(CLIENTS)}
        for client, pcm in speech.items():
            client.ready()
            client.send(*cut(pcm[:32_000], 640))
        counts = held(serve)
        assert sorted(counts) == ["frontend-1", "frontend-2"]
        assert all(counts.values()) and sum(counts.values()) == CLIENTS

        before = serve.kill("frontend-1")
        serve.wait_sessions(counts["frontend-2"])
        for client, pcm in speech.items():
            with suppress(ConnectionClosed):
                client.send(*cut(pcm[32_000:], 640))
                client.stop()
        served = [client for client in speech if client.of("end")]
        assert len(served) == counts["frontend-2"]
        assert all(client.text == expected(speech[client]) for client in served)
        serve.wait_replaced("frontend-1", before)
        eventually(lambda: len(held(serve)) == 2, serve.story)
        pcm = noise(1.3, seed=99)
        assert converse(serve.url, cut(pcm, 640)).text == expected(pcm)
        serve.wait_sessions(0)
