"""The error tree. Each direct subclass of AsrError is handled in its own way:

    AsrError
    ├── PeerError            the other side broke the protocol: send the error in its dialect, close, continue
    │   ├── DecodeError      bytes that are not a message
    │   ├── BadRequest       a request that cannot be served (unknown model, wrong sample rate, ...)
    │   ├── AudioError       audio that cannot be read: no file, not audio, damaged, no microphone
    │   ├── LimitExceeded    more than a stated limit allows (message size, idle time, rate)
    │   └── OutOfOrder       a valid message at a time when it is not allowed
    ├── ServiceError         this session cannot be served: send the error to the client, continue
    │   └── AtCapacity       every slot is taken: the client may try again later
    └── SetupError           this process cannot start as configured: print one sentence, exit code 2
        └── NotYet           it cannot start now, but may later without a change: one sentence, exit code 75

Any other exception is a bug in this project: the process ends, and its sessions move or end.
Every class has a stable `slug`; an instance may have a more specific one. Slugs are API: clients match on them.
"""

from __future__ import annotations

import errno


class AsrError(Exception):
    """Base of all errors. `slug` is stable and for programs, `detail` is one sentence for people."""

    slug = "error"

    def __init__(self, detail: str = "", *, slug: str | None = None) -> None:
        super().__init__(detail or self.slug)
        self.detail = detail
        if slug is not None:
            self.slug = slug


class PeerError(AsrError):
    """The other side broke the protocol."""

    slug = "protocol-error"


class DecodeError(PeerError):
    """Bytes that are not a message of this protocol version."""

    slug = "bad-message"


class BadRequest(PeerError):
    """A request that cannot be served without a change."""

    slug = "bad-request"


class AudioError(PeerError):
    """Audio that cannot be read or recorded."""

    slug = "bad-audio"


class LimitExceeded(PeerError):
    """More than a stated limit allows."""

    slug = "limit-exceeded"


class OutOfOrder(PeerError):
    """A valid message at a time when it is not allowed."""

    slug = "out-of-order"


class ServiceError(AsrError):
    """This session cannot be served, and the client did not cause it.

    `retry_after_s`: seconds after which the client may try again. 0: unknown.
    """

    slug = "service-error"

    def __init__(self, detail: str = "", *, slug: str | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(detail, slug=slug)
        self.retry_after_s = retry_after_s


class AtCapacity(ServiceError):
    """Every slot is taken."""

    slug = "at-capacity"


class SetupError(AsrError):
    """This process cannot start as configured. With `exit_code` it shows its supervisor that a restart is no use."""

    slug = "setup-error"
    exit_code = 2


class NotYet(SetupError):
    """This process cannot start now, but may later with the same settings. Supervisors restart it, with back-off."""

    slug = "not-yet"
    exit_code = 75  # EX_TEMPFAIL of sysexits.h; `os.EX_TEMPFAIL` does not exist on every system


def cannot_listen(where: str, error: Exception) -> SetupError:
    """The error for a socket that could not be bound to its address."""
    # Another process still has the address, or this host does not have it yet (then ZeroMQ reports ENODEV).
    passing = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENODEV)
    kind = NotYet if getattr(error, "errno", None) in passing else SetupError
    return kind(f"cannot listen on {where}: {error}")


SERVICE_SLUGS = frozenset(
    {
        "service-error",
        "at-capacity",
        "no-worker",
        "no-broker",
        "overloaded",
        "session-lost",
        "worker-lost",
        "broker-lost",
        "lease-expired",
        "audio-gap",
        "credit-exceeded",
        "bad-snapshot",
        "going-away",
        "internal-error",
    }
)
"""Slugs of errors that the client did not cause. It caused those with any other slug."""
