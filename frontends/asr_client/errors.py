"""What can go wrong for a client, as a tree: each leaf is something a program would do something different about.

    AsrError
    ├── DecodeError           (asr_proto) the server sent what is no message of the dialect
    ├── AudioError            (asr_proto) the audio cannot be had: no file, not audio, damaged, no microphone
    └── ClientError
        ├── InvalidUrl        the address cannot be meant
        ├── ConnectionFailed  nobody answers there: start a server, or correct the address
        ├── ServerError       the server refused or ended the session and said why: `code`, `retry_after_s`
        └── ConnectionLost    the connection ended before the session did

This module must not know how any of them is shown to people.
"""

from __future__ import annotations

from asr_proto.errors import AsrError


class ClientError(AsrError):
    """Base of what this package raises."""

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
    """The server says that the session is over. `code` is a stable slug; `retry_after_s` is in seconds, if given."""

    slug = "server-error"

    def __init__(self, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{message} ({code})" if message else code, slug=code)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class ConnectionLost(ClientError):
    """The connection ended without `end` or `error`. `close_code` is the WebSocket's, None if there was none."""

    slug = "connection-lost"

    def __init__(self, detail: str, close_code: int | None = None) -> None:
        super().__init__(detail)
        self.close_code = close_code
