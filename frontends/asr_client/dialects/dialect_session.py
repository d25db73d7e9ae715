"""The client's side of one session, from the dialect's `Client` record. Pure: no sockets, no clock."""

from __future__ import annotations

from dataclasses import dataclass

from asr_client.errors import ServerError
from asr_dialects.client import Client, Message, parse

SEPARATORS = {"utterances": " ", "increments": ""}
"""Separator between the texts of a session, by `Client.texts`; none if each message contains all text."""


@dataclass(frozen=True, slots=True)
class Update:
    """The effect of one message of the server on the session."""

    text: str | None = None
    """The whole text so far; None if the message has no text."""
    ready: bool = False
    """Whether the server accepts audio now."""
    ended: bool = False
    """Whether the text is complete."""


class DialectSession:
    """Joins the texts of the server's messages to the whole text."""

    def __init__(self, client: Client, model: str | None) -> None:
        self._client = client
        self._model = model
        self._finals: list[str] = []

    @property
    def waits_for_ready(self) -> bool:
        """Whether audio is sent only after the server is ready for it."""
        return self._client.waits_for_ready

    @property
    def ends_with_close(self) -> bool:
        """Whether the server's orderly close means that the text is complete."""
        return self._client.ends_with_close

    def opening(self) -> list[Message]:
        """The messages before the audio."""
        return self._client.opening(self._model)

    def ending(self) -> list[Message]:
        """The messages after the audio."""
        return list(self._client.ending)

    def read(self, message: Message) -> Update:
        """Process a message of the server. Raises ServerError if it reports an error, and DecodeError."""
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
