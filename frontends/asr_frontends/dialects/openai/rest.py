"""OpenAI's REST interface: transcriptions and models. The bodies of requests and answers are in `forms`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from asr_frontends import events as e
from asr_frontends.dialects.openai import forms
from asr_frontends.frontend import Frontend
from asr_frontends.servers.rest import Places, Transcription, body_of, finals, transcribe, unless_gone
from asr_frontends.servers.upload import decode
from asr_proto.errors import AsrError, BadRequest, PeerError, ServiceError
from asr_proto.messages import Final

FORM_BYTES = 1_048_576
"""Largest size of a form without its file."""
FIELDS_MAX = 64
RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class OpenAiLimits:
    """The limits of one request, and the largest number of concurrent requests."""

    file_bytes_max: int = 26_214_400
    audio_s_max: float = 4 * 3600.0
    requests_max: int = 50


@dataclass(frozen=True, slots=True)
class _Recording:
    """A checked request: its options, and its audio as PCM16 frames."""

    options: forms.TranscriptionOptions
    frames: Iterator[bytes]

    @property
    def start(self) -> e.Start:
        return e.Start(self.options.model, self.options.language, partials=False, whole=True)


def routes(frontend: Frontend, limits: OpenAiLimits) -> list[Route]:
    """OpenAI's endpoints over one frontend."""
    it = _OpenAi(frontend, limits)
    return [
        Route("/v1/audio/transcriptions", _answering(it.transcribe), methods=["POST"]),
        Route("/v1/audio/translations", _answering(it.translate), methods=["POST"]),
        Route("/v1/models", _answering(it.models)),
        Route("/v1/models/{id:path}", _answering(it.model)),
    ]


class _OpenAi:
    def __init__(self, frontend: Frontend, limits: OpenAiLimits) -> None:
        self._frontend, self._limits = frontend, limits
        self._places = Places(limits.requests_max, "transcriptions")

    async def transcribe(self, request: Request) -> Response:
        bytes_max = self._limits.file_bytes_max + FORM_BYTES
        async with AsyncExitStack() as exits:
            body = exits.enter_context(body_of(request, self._places, self._frontend.bodies, bytes_max))
            form = Request(request.scope, body.receive).form(max_files=1, max_fields=FIELDS_MAX)
            recording = await self._read(await exits.enter_async_context(form))
            if recording.options.stream:
                response = await unless_gone(request, self._stream(request, recording))
                response.exits = exits.pop_all()
                return response
            work = transcribe(request, self._frontend, recording.start, recording.frames)
            return _response(await unless_gone(request, work), recording.options)

    async def _read(self, form: FormData) -> _Recording:
        """Check a request. Its file is read while its frames are. Raises PeerError for an invalid field or file."""
        fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        options = forms.parse_options(fields, self._models())
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise forms.BadParameter("file", "you must provide a file, as multipart/form-data")
        if (file.size or 0) > self._limits.file_bytes_max:
            detail = f"the file has more than {self._limits.file_bytes_max} bytes"
            raise forms.BadParameter("file", detail, slug="request-too-large")
        _, frames = await decode(file.file, self._limits.audio_s_max)
        return _Recording(options, frames)

    async def _stream(self, request: Request, recording: _Recording) -> _EventStream:
        """The response. It begins when the session has its slot, so that a refusal still has its HTTP status."""
        transcription = Transcription()
        results = finals(request, self._frontend, recording.start, recording.frames, transcription)
        try:
            await anext(results)
        except BaseException:
            await results.aclose()
            raise
        return _EventStream(_sent(results, transcription), results)

    async def translate(self, _: Request) -> Response:
        raise BadRequest("translations are not offered, only transcriptions", slug="not-offered")

    async def models(self, _: Request) -> Response:
        return JSONResponse(forms.models_body(self._models()))

    async def model(self, request: Request) -> Response:
        id = request.path_params["id"]
        forms.check_model(id, self._models())
        return JSONResponse(forms.model_body(id))

    def _models(self) -> tuple[str, ...]:
        """The names of the served models. Raises ServiceError while no broker has reported them."""
        pool = self._frontend.sessions.pool
        if pool is None:
            raise ServiceError("no broker is connected", slug="no-broker")
        return pool.models


def _response(transcription: Transcription, options: forms.TranscriptionOptions) -> Response:
    match options.response_format:
        case "text":
            return PlainTextResponse(forms.joined(transcription.finals) + "\n")
        case "srt":
            return PlainTextResponse(forms.srt(transcription.finals))
        case "vtt":
            return Response(forms.vtt(transcription.finals), media_type="text/vtt")
        case "verbose_json":
            return JSONResponse(forms.verbose_body(transcription.finals, transcription.duration_s, options))
    return JSONResponse(forms.json_body(transcription.finals, transcription.duration_s))


# ---- Streams ----


async def _sent(results: AsyncIterator[Final | None], transcription: Transcription) -> AsyncIterator[str]:
    """A server-sent event for each final, then one for the whole text. An error is the last event."""
    sent = ""
    try:
        async for _ in results:
            text = forms.joined(transcription.finals)
            if text != sent:
                yield forms.delta(text[len(sent) :])
            sent = text
    except AsrError as error:
        yield forms.sent(forms.body_of(e.Error.of(error)))
        return
    yield forms.done(sent)


class _EventStream(StreamingResponse):
    """The server-sent events of one session. The session ends with the response, also when the client disconnects."""

    def __init__(self, events: AsyncIterator[str], results: AsyncGenerator[Final | None, None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._results = results
        self.exits = AsyncExitStack()
        """What the request holds until its end: its place and its file."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.exits, aclosing(self._results):
            await super().__call__(scope, receive, send)


# ---- Errors ----

Endpoint = Callable[[Request], Awaitable[Response]]


def _answering(endpoint: Endpoint) -> Endpoint:
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except AsrError as error:
            return _failed(error)
        except HTTPException as error:
            return openai_error(error.status_code, error.detail)
        except ClientDisconnect:
            return Response(status_code=400)

    return answer


def _failed(error: AsrError) -> Response:
    event = e.Error.of(error)
    parameter = forms.parameter_of(error) if isinstance(error, PeerError) else None
    status = forms.status_of(event)
    return JSONResponse(forms.body_of(event, parameter), status, _retry_after(status, event.retry_after_s))


def openai_error(
    status: int, message: str, param: str | None = None, code: str | None = None, retry_after_s: float = 0.0
) -> Response:
    """An error in OpenAI's form."""
    body = forms.error_body(status, message, param, code)
    return JSONResponse(body, status, _retry_after(status, retry_after_s))


def _retry_after(status: int, retry_after_s: float) -> dict[str, str]:
    return {"Retry-After": f"{max(RETRY_AFTER_S, round(retry_after_s))}"} if status in (429, 503) else {}
