"""The client's errors as a tree: a program may handle each leaf differently.

    AsrError
    ├── DecodeError           (asr_proto) the server sent something that is no message of the dialect
    ├── AudioError            (asr_proto) the audio cannot be read: no file, not audio, damaged, no microphone
    └── ClientError
        ├── InvalidUrl        the address is no URL of a server
        ├── ConnectionFailed  no server answers there: start one, or correct the address
        ├── ServerError       the server rejected or ended the session, with its reason: `code`, `retry_after_s`
        └── ConnectionLost    the connection ended before the session did

This module does not format errors for people.
"""

from __future__ import annotations

from asr_proto.errors import AsrError


class ClientError(AsrError):
    """Base of the errors of this package."""

    slug = "client-error"


class InvalidUrl(ClientError):
    """The address is no WebSocket or HTTP URL."""

    slug = "invalid-url"


class ConnectionFailed(ClientError):
    """No server answers at `url`."""

    slug = "connection-failed"

    def __init__(self, url: str, reason: str = "") -> None:
        super().__init__(f"no server answers at {url}" + (f" ({reason})" if reason else ""))
        self.url = url


class ServerError(ClientError):
    """The server ended the session with an error. `code` is a stable slug; `retry_after_s` is in seconds, if given."""

    slug = "server-error"

    def __init__(self, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{message} ({code})" if message else code, slug=code)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class ConnectionLost(ClientError):
    """The connection ended without `end` or `error`. `close_code` is the WebSocket close code, None without one."""

    slug = "connection-lost"

    def __init__(self, detail: str, close_code: int | None = None) -> None:
        super().__init__(detail)
        self.close_code = close_code
