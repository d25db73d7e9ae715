"""Close codes of RFC 6455, for dialects whose servers knew none of their own: one table instead of one in each."""

from __future__ import annotations

from asr_frontends.codec import Close
from asr_frontends.events import Error

NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED_DATA = 1000, 1001, 1002, 1003
POLICY_VIOLATION, INTERNAL_ERROR, TRY_AGAIN_LATER = 1008, 1011, 1013

SERVICE_CODES = {
    "at-capacity": TRY_AGAIN_LATER,
    "overloaded": TRY_AGAIN_LATER,
    "going-away": GOING_AWAY,
}


def close_of(event: Error) -> Close:
    """The close for an error that the dialect says nothing about: what the client did is a matter of policy."""
    code = SERVICE_CODES.get(event.slug, INTERNAL_ERROR) if event.is_service else POLICY_VIOLATION
    return Close.because(code, f"{event.slug}: {event.detail}")
