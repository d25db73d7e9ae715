"""One session's side of a dialect, from its `Client` record. Pure: no sockets, no clock."""

from __future__ import annotations

from dataclasses import dataclass

from asr_client.errors import ServerError
from asr_dialects.client import Client, Message, parse

SEPARATORS = {"utterances": " ", "increments": ""}
"""Between the texts of a session, where a message does not have them all."""


@dataclass(frozen=True, slots=True)
class Update:
    """What one message of the server means for the session."""

    text: str | None = None
    """The whole text so far, where the message has some."""
    ready: bool = False
    ended: bool = False
    """The text is complete."""


class DialectSession:
    """Puts the texts of the server's messages together."""

    def __init__(self, client: Client, model: str | None) -> None:
        self._client = client
        self._model = model
        self._finals: list[str] = []

    @property
    def waits_for_ready(self) -> bool:
        """Audio is sent only once the server is ready for it."""
        return self._client.waits_for_ready

    @property
    def ends_with_close(self) -> bool:
        """The server's orderly close means that the text is complete."""
        return self._client.ends_with_close

    def opening(self) -> list[Message]:
        """What is sent first."""
        return self._client.opening(self._model)

    def ending(self) -> list[Message]:
        """What is sent after the audio."""
        return list(self._client.ending)

    def read(self, message: Message) -> Update:
        """What the server's message means. Raises ServerError where it ends the session, and DecodeError."""
        meaning = self._client.read(parse(message))
        if meaning.error is not None:
            raise ServerError(meaning.error, meaning.detail)
        text = None if meaning.text is None else self._whole(meaning.text, final=meaning.final)
        return Update(text, meaning.ready, meaning.ended)

    def _whole(self, text: str, *, final: bool) -> str:
        separator = SEPARATORS.get(self._client.texts)
        if separator is None:
            return text
        whole = separator.join(part for part in (*self._finals, text) if part)
        if final:
            self._finals.append(text)
        return whole
