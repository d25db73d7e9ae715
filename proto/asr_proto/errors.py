"""The error tree. Two roots, because there are two things to do about an error:

    AsrError
    ├── PeerError            the other side broke the protocol: answer in its dialect, close, go on
    │   ├── DecodeError      bytes that are no message
    │   ├── BadRequest       a request that cannot be meant (unknown model, wrong sample rate, ...)
    │   ├── AudioError       audio that cannot be read: no file, not audio, damaged, no microphone
    │   ├── LimitExceeded    more than a stated limit allows (message size, idle time, rate)
    │   └── OutOfOrder       a valid message at a moment when it is not allowed
    ├── ServiceError         we cannot serve this session: say so to the client, the process goes on
    │   └── AtCapacity       every slot is taken: try again later
    └── SetupError           this process cannot start as configured: one sentence, exit code 2
        └── NotYet           it cannot start now, but may later, as it is: one sentence, exit code 75

Anything that is not an AsrError is a bug of ours: the process ends and leases clean up.
Every class has a stable `slug`; instances may narrow it. Slugs are API: clients match on them.
"""

from __future__ import annotations

import errno


class AsrError(Exception):
    """Base of all errors. `slug` is stable and machine-readable, `detail` is one sentence for people."""

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
    """Bytes that are no message of this protocol version."""

    slug = "bad-message"


class BadRequest(PeerError):
    """A request that cannot be served as it stands."""

    slug = "bad-request"


class AudioError(PeerError):
    """Audio that cannot be read or recorded."""

    slug = "bad-audio"


class LimitExceeded(PeerError):
    """More than a stated limit allows."""

    slug = "limit-exceeded"


class OutOfOrder(PeerError):
    """A valid message at a moment when it is not allowed."""

    slug = "out-of-order"


class ServiceError(AsrError):
    """This session cannot be served, through no fault of the client. `retry_after_s` is a hint, 0 for none."""

    slug = "service-error"

    def __init__(self, detail: str = "", *, slug: str | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(detail, slug=slug)
        self.retry_after_s = retry_after_s


class AtCapacity(ServiceError):
    """Every slot is taken."""

    slug = "at-capacity"


class SetupError(AsrError):
    """This process cannot start as configured. `exit_code` tells whoever started it that trying again is no use."""

    slug = "setup-error"
    exit_code = 2


class NotYet(SetupError):
    """This process cannot start now, but may later with the same settings: try again, less and less often."""

    slug = "not-yet"
    exit_code = 75  # EX_TEMPFAIL, which not every system's `os` has


def cannot_listen(where: str, error: Exception) -> SetupError:
    """What the start fails with when a socket could not be bound to its address."""
    # Somebody still has the address, or this host has not got it yet (ENODEV is ZeroMQ's word for that).
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
"""Slugs of errors that are no fault of the client; every other slug is."""
