"""The application: any dialect is served by its record alone, and so are its refusals, its labels and its options."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from asr_dialects.clients import CLIENTS
from asr_frontends.access import Gate, Rules, digest
from asr_frontends.codec import Close, Frame, Request
from asr_frontends.dialect import Dialect, Endpoint, Refusal, Serving, Settings
from asr_frontends.dialects.registry import DIALECTS, dialect_for, endpoint_of
from asr_frontends.events import ClientEvent, ServiceEvent
from asr_frontends.frontend import Frontend
from asr_frontends.servers.app import App
from asr_frontends.servers.conversation import Conversation, Receiver
from asr_frontends.servers.handshake import EXTENSION
from asr_frontends.session import Limits
from asr_process.curve import BrokerAt
from asr_proto.errors import BadRequest, PeerError

# ---- A toy dialect ----


class ToyCodec:
    """Repeats texts."""

    subprotocol: str | None = "toy"
    coalesces: frozenset[type] = frozenset()

    def __init__(self, request: Request) -> None:
        if request.query:
            raise BadRequest("a toy has no options")
        self._replies: list[Frame] = []

    def opening(self) -> list[ClientEvent]:
        return []

    def receive(self, frame: str | bytes) -> list[ClientEvent]:
        self._replies.append(f"toy {frame!s}")
        return []

    def replies(self) -> list[Frame]:
        replies, self._replies = self._replies, []
        return replies

    def tail(self) -> list[ClientEvent]:
        return []

    def send(self, event: ServiceEvent) -> list[Frame]:
        return [Close(4000)]


async def toys(_: HttpRequest) -> Response:
    return PlainTextResponse("toys")


def serve(_frontend: Frontend, _gate: Gate, settings: Settings) -> Serving:
    return Serving(
        routes=[Route("/toys", toys), Route("/toys/open", toys)], health=lambda: {"toys": settings.get("toys", 0)}
    )


TOY = Dialect(
    name="toy",
    transport="websocket",
    path="/toy/{name}",
    codec=ToyCodec,
    refusal=lambda error: Refusal(418, json.dumps({"toy": error.detail}), "application/json"),
    http_prefixes=("/toys",),
    http_refusal=lambda error, status: JSONResponse({"toy": error.slug}, status),
    open_paths=frozenset({"/toys/open"}),
    endpoints=(Endpoint("/toy", is_prefix=True),),
    serve=serve,
)

# ---- An application without sockets ----


class Script:
    """A client as a Transport: sends its messages and leaves."""

    def __init__(self, messages: Sequence[str] = ()) -> None:
        self._messages = messages
        self.written: list[str | bytes] = []

    def start(self, receiver: Receiver) -> None:
        for message in self._messages:
            receiver.on_frame(message)
        receiver.on_gone(broken=False)

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def can_write(self) -> bool:
        return True

    def write(self, frame: str | bytes) -> None:
        self.written.append(frame)

    async def finish(self, close: Close) -> None: ...


@dataclass
class Answer:
    """The application's response."""

    messages: list[Any] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def content_type(self) -> str:
        return str(dict(self.messages[0]["headers"])[b"content-type"].decode())

    @property
    def body(self) -> str:
        return b"".join(message.get("body", b"") for message in self.messages[1:]).decode()


@dataclass
class Service:
    """An App, and methods that send it requests."""

    app: App

    async def get(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        scope = {"type": "http", "method": method, "http_version": "1.1", "root_path": "", **request(path, headers)}
        return await self._ask(scope, {"type": "http.request", "body": body, "more_body": False})

    async def connect(self, path: str, client: Script, headers: Mapping[str, str] | None = None) -> Answer:
        scope = {"type": "websocket", "subprotocols": [], "extensions": {EXTENSION: client}, **request(path, headers)}
        return await self._ask(scope, {"type": "websocket.connect"})

    async def _ask(self, scope: dict[str, Any], first: dict[str, Any]) -> Answer:
        answer = Answer()

        async def receive() -> Any:
            return first

        async def send(message: Any) -> None:
            answer.messages.append(message)

        await self.app(scope, receive, send)
        return answer

    async def metric(self, sample: str) -> str | None:
        """The value of a sample, as text."""
        lines = (await self.get("/metrics")).body.splitlines()
        return next((line.rpartition(" ")[2] for line in lines if line.startswith(sample + " ")), None)


EVERYBODY = Rules()
ADDRESS = ("192.0.2.1", 4000)


def request(path: str, headers: Mapping[str, str] | None) -> dict[str, Any]:
    path, _, query = path.partition("?")
    given = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return {
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": given,
        "client": ADDRESS,
    }


def run(
    test: Callable[[Service], Awaitable[None]],
    tmp_path: Path,
    dialects: Sequence[Dialect] = (*DIALECTS, TOY),
    rules: Rules = EVERYBODY,
    settings: Settings | None = None,
) -> None:
    """Run a test against an application whose broker does not answer."""

    async def main() -> None:
        frontend = Frontend([BrokerAt(f"ipc://{tmp_path}/nobody")], "f", Limits(), 1 << 20)
        app = App(frontend, Gate(rules), settings or {}, dialects)
        try:
            async with asyncio.timeout(30):
                await test(Service(app))
        finally:
            await app.close()
            frontend.close()

    asyncio.run(main())


# ---- One record is enough ----


def test_a_toy_dialect_is_served(tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        client = Script(["one", "two"])
        answer = await service.connect("/toy/bear", client)
        assert answer.messages == [{"type": "websocket.accept", "subprotocol": "toy"}]
        assert client.written == ["toy one", "toy two"]
        assert await service.metric('asr_requests_total{endpoint="/toy"}') == "1.0"
        assert await service.metric('asr_request_duration_seconds_count{endpoint="/toy"}') == "1.0"

    run(test, tmp_path)


def test_a_toy_dialect_refuses_in_its_form(tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        answer = await service.connect("/toy/bear?color=red", Script())
        assert (answer.status, answer.content_type) == (418, "application/json")
        assert json.loads(answer.body) == {"toy": "a toy has no options"}

    run(test, tmp_path)


KEYS = Rules(keys={digest("secret"): "somebody"})


def test_a_toy_dialect_answers_requests_that_the_gate_refuses(tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        answer = await service.get("/toys")
        assert (answer.status, json.loads(answer.body)) == (401, {"toy": "unauthorized"})
        assert await service.metric('asr_requests_failed_total{endpoint="/toy",error="unauthorized"}') == "1.0"
        assert (await service.get("/toys", headers={"x-api-key": "secret"})).body == "toys"
        assert (await service.get("/toys/open")).body == "toys"
        refused = await service.connect("/toy/bear", Script())
        assert (refused.status, refused.content_type) == (401, "text/plain; charset=utf-8")

    run(test, tmp_path, rules=KEYS)


def test_a_toy_dialect_has_settings_and_reports(tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        health = json.loads((await service.get("/health/detailed")).body)
        assert list(health)[-5:] == [
            "active_streams",
            "max_concurrent_streams",
            "active_batches",
            "max_concurrent_batches",
            "toys",
        ]
        assert (health["max_concurrent_streams"], health["max_concurrent_batches"], health["toys"]) == (3, 50, 7)

    run(test, tmp_path, settings={"toys": 7, "amira_streams_max": 3})


AMIRA_SETTINGS = {"amira_streams_max": 1, "amira_batches_max": 2, "amira_batch_s_max": 3.0}


def test_the_options_of_amira_are_its_limits(tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        health = json.loads((await service.get("/health/detailed")).body)
        assert (health["max_concurrent_streams"], health["max_concurrent_batches"]) == (1, 2)
        too_long = await service.get("/v2/decode/batch/m", "POST", body=bytes(2 * 16_000 * 4))
        assert json.loads(too_long.body)["error"] == "4.0 s of audio exceed 3 s"
        too_large = await service.get("/v2/decode/batch/m", "POST", body=bytes(200_001))
        assert json.loads(too_large.body)["error"] == "the request's body has more than 200000 bytes"

    run(test, tmp_path, settings=AMIRA_SETTINGS | {"amira_request_bytes_max": 200_000})


def test_moonshines_offers_may_be_posted_elsewhere(tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        assert (await service.get("/offers", "POST")).status in (400, 501)
        assert (await service.get("/webrtc", "POST")).status == 404

    run(test, tmp_path, settings={"webrtc_path": "/offers"})


def test_a_dialect_may_replace_the_serving_of_conversations(tmp_path: Path) -> None:
    services: list[Service] = []
    active: list[str | None] = []
    closed: list[bool] = []

    async def converse(connection: Conversation) -> None:
        active.append(await services[0].metric("asr_active_connections"))
        await connection.run()

    async def close() -> None:
        closed.append(True)

    def serve(_frontend: Frontend, _gate: Gate, _settings: Settings) -> Serving:
        return Serving(converse=converse, close=close)

    async def test(service: Service) -> None:
        services.append(service)
        await service.connect("/own", Script())
        assert active == ["1.0"]
        assert await service.metric("asr_active_connections") == "0.0"
        assert not closed

    own = Dialect(name="own", transport="websocket", path="/own", codec=ToyCodec, serve=serve)
    run(test, tmp_path, [own])
    assert closed == [True]


def test_the_request_selects_among_dialects_that_share_a_path() -> None:
    def asks(request: Request) -> bool:
        return "model=a" in request.query

    first = Dialect(name="first", transport="websocket", path="/shared", when=asks, codec=ToyCodec)
    second = Dialect(name="second", transport="websocket", path="/shared", codec=ToyCodec)
    upload = Dialect(name="upload", transport="http", path="/shared", codec=ToyCodec)
    dialects = (upload, first, second)
    assert dialect_for(Request("/shared", "model=a"), dialects) is first
    assert dialect_for(Request("/shared", "model=b"), dialects) is second
    assert dialect_for(Request("/shared/", "model=b"), dialects) is None


# ---- The gate ----


def test_a_client_that_has_left_is_no_longer_counted(tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        for _ in range(2):
            assert (await service.get("/toys")).status == 200

    run(test, tmp_path, rules=Rules(sessions_per_address_max=1))


PREFLIGHT = {"origin": "https://here.example", "access-control-request-method": "POST"}


def test_a_preflight_request_of_an_allowed_origin_needs_no_key(tmp_path: Path) -> None:
    """Browsers send CORS preflight requests without credentials."""

    async def test(service: Service) -> None:
        answer = await service.get("/toys", "OPTIONS", PREFLIGHT)
        assert answer.status == 200
        assert dict(answer.messages[0]["headers"])[b"access-control-allow-origin"] == b"https://here.example"

    run(test, tmp_path, rules=Rules(keys=KEYS.keys, origins=frozenset({"https://here.example"})))


def test_without_origins_there_are_no_headers_for_browsers(tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        answer = await service.get("/toys", "GET", PREFLIGHT)
        assert answer.status == 200
        assert b"access-control-allow-origin" not in dict(answer.messages[0]["headers"])

    run(test, tmp_path)


# ---- What is served today ----


def test_a_path_that_no_dialect_has(tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        answer = await service.connect("/nowhere" + "x" * 200, Script())
        assert (answer.status, answer.body) == (404, "no dialect is served at /nowhere" + "x" * 92)
        assert (await service.get("/nowhere")).status == 404
        assert await service.metric('asr_requests_total{endpoint="other"}') == "2.0"

    run(test, tmp_path)


@pytest.mark.parametrize(
    ("path", "status", "content_type", "body"),
    [
        ("/asr/v0.1/stream?lang=de", 400, "text/plain; charset=utf-8", "lang must be en"),
        ("/ws?partials=none", 400, "text/plain; charset=utf-8", "partials must be cumulative or delta"),
        ("/v2/decode/stream/m?schema=v2", 400, "text/plain; charset=utf-8", "schema must be v1, or absent"),
        ("/webrtc", 404, "text/plain; charset=utf-8", "no dialect is served at /webrtc"),
    ],
)
def test_refusals(path: str, status: int, content_type: str, body: str, tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        answer = await service.connect(path, Script())
        assert (answer.status, answer.content_type, answer.body) == (status, content_type, body)

    run(test, tmp_path)


def test_deepgram_refuses_in_its_form(tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        answers = [await service.connect("/v1/listen?encoding=linear16", Script()) for _ in range(2)]
        bodies = [json.loads(answer.body) for answer in answers]
        for answer, body in zip(answers, bodies, strict=True):
            assert (answer.status, answer.content_type) == (400, "application/json")
            assert (body["err_code"], body["err_msg"]) == ("Bad Request", "encoding=linear16 needs a sample_rate")
            assert len(body["request_id"]) == 32
        assert bodies[0]["request_id"] != bodies[1]["request_id"]

    run(test, tmp_path)


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/models", "/v1/models/m"])
def test_openai_answers_in_its_form_when_the_gate_refuses(path: str, tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        answer = await service.get(path)
        assert answer.status == 401
        assert json.loads(answer.body)["error"]["code"] == "invalid_api_key"

    run(test, tmp_path, rules=KEYS)


def test_others_are_refused_in_plain_text(tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        answer = await service.get("/v2/decode/batch/m", "POST")
        assert (answer.status, answer.body) == (401, "a valid API key is needed")
        assert dict(answer.messages[0]["headers"])[b"www-authenticate"] == b"Bearer"
        for path in ("/health", "/metrics", "/status"):
            assert (await service.get(path)).status == 200
        assert (await service.get("/ready")).status == 503

    run(test, tmp_path, rules=KEYS)


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/", "/"),
        ("/x", "other"),
        ("/ws", "/ws"),
        ("/ws/", "other"),
        ("/v1/listen", "/v1/listen"),
        ("/v1/listen/x", "other"),
        ("/v1/stream", "/v1/stream"),
        ("/v1/stream/x", "/v1/stream"),
        ("/asr/v0.1/stream", "/asr/v0.1/stream"),
        ("/v2/decode/stream/m", "/v2/decode/stream"),
        ("/v2/decode/batch/m", "/v2/decode/batch"),
        ("/v1/audio/transcriptions", "/v1/audio"),
        ("/v1/models/m", "/v1/models"),
        ("/webrtc", "other"),
        ("/status", "other"),
        ("/health", "other"),
    ],
)
def test_labels_of_metrics(path: str, label: str) -> None:
    assert endpoint_of(path) == label


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/stream", "native"),
        ("/asr/v0.1/stream", "caiman"),
        ("/", "yap"),
        ("/ws", "parakeet"),
        ("/v2/decode/stream/any", "amira"),
        ("/v1/listen", "deepgram"),
        ("/v1/stream/", None),
        ("/ws\n", None),
        ("/v2/decode/stream/", None),
        ("/v2/decode/stream/a/b", None),
        ("/webrtc", None),
        ("/v1/audio/transcriptions", None),
        ("", None),
    ],
)
def test_the_dialect_of_a_path(path: str, name: str | None) -> None:
    dialect = dialect_for(Request(path))
    assert (dialect and dialect.name) == name


def test_every_test_client_has_a_dialect_that_serves_its_path() -> None:
    served = {dialect.name: dialect for dialect in DIALECTS}
    assert len(served) == len(DIALECTS)
    for name, client in CLIENTS.items():
        assert served[name].serves(Request(client.path_for("m")))
        assert served[name].transport == client.channel
    assert served.keys() - CLIENTS.keys() == {"openai"}


def test_a_refusal_of_the_gate_is_no_refusal_of_the_codec() -> None:
    """Unless its record has another form, a dialect refuses with the reason as text."""
    dialect = Dialect(name="x", transport="websocket")
    assert dialect.refusal(PeerError("no")) == Refusal(400, "no")
