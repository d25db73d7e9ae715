"""A client of any WebSocket dialect that speaks, may stop speaking or not, and keeps all text that it received."""

from __future__ import annotations

import json
import re
import threading
from contextlib import ExitStack
from typing import Self

from websockets.exceptions import ConnectionClosed

from asr_client.dialects.dialect_session import DialectSession
from asr_client.errors import ServerError
from asr_dialects.clients import CLIENTS
from tests.e2e.clients import WAIT_S, cut, paced, websocket

FRAME_S = 0.1
FRAME_BYTES = 3200
SPEAKERS = tuple(name for name, client in CLIENTS.items() if client.channel == "websocket" and name != "native")
"""The dialects whose clients cannot resume a session."""


class Speaker:
    """One conversation. `text` is everything that the client was sent."""

    def __init__(self, url: str, dialect: str) -> None:
        self._client = CLIENTS[dialect]
        self._session = DialectSession(self._client, None)
        self.dialect = dialect
        self.text = ""
        self.messages: list[str] = []
        self.close: tuple[int, str] | None = None
        """Code and reason of the server's close; None while there is none, or if the connection broke."""
        self._exits = ExitStack()
        target = f"{url}{self._client.path_for(None)}?{self._client.query_for(None)}"
        self._socket = self._exits.enter_context(websocket(target))
        for message in self._session.opening():
            self._socket.send(message)

    def send(self, pcm: bytes) -> None:
        """Send all this audio, in frames of 100 ms."""
        for frame in cut(pcm, FRAME_BYTES):
            self._socket.send(frame)

    def speak(self, pcm: bytes) -> threading.Thread:
        """Send this audio at the speed of speech in a thread, until the server closes."""
        thread = threading.Thread(target=self._speak, args=(pcm,))
        thread.start()
        return thread

    def _speak(self, pcm: bytes) -> None:
        try:
            for frame in paced(cut(pcm, FRAME_BYTES), FRAME_S):
                self._socket.send(frame)
        except ConnectionClosed:
            pass

    def end(self) -> None:
        """End the audio as the dialect does."""
        for message in self._session.ending():
            self._socket.send(message)

    def until(self, words: int) -> None:
        """Read until so many words have arrived."""
        while len(self.text.split()) < words:
            assert self._receive(), (self.close, self.messages[-3:])

    def rest(self) -> None:
        """Read everything up to the server's close, or to the message that says that the text is complete."""
        while self._receive():
            pass

    def _receive(self) -> bool:
        try:
            message = self._socket.recv(WAIT_S)
        except ConnectionClosed as error:
            self.close = None if error.rcvd is None else (error.rcvd.code, error.rcvd.reason)
            return False
        assert isinstance(message, str)
        self.messages.append(message)
        try:
            update = self._session.read(message)
        except ServerError:
            return True  # the close follows
        if update.text is not None:
            self.text = update.text
        return not (update.ended and self.dialect == "parakeet")  # its socket stays open

    def transcribed_s(self) -> float:
        """The length of the audio that is transcribed, from the reason of a close that says going away."""
        assert self.close is not None, "the connection broke"
        found = re.search(r"going-away: this server is going away: (\d+\.\d\d) s of audio", self.close[1])
        assert found, self.close
        return float(found[1])

    def last(self) -> dict[str, object]:
        """The last message."""
        return dict(json.loads(self.messages[-1]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()
