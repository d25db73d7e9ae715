"""WebSocket close codes (RFC 6455, section 7.4) for the dialects that define no codes themselves."""

from __future__ import annotations

from asr_frontends import events
from asr_frontends.codec import Close
from asr_frontends.events import Error

NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED_DATA = 1000, 1001, 1002, 1003
POLICY_VIOLATION, INTERNAL_ERROR, TRY_AGAIN_LATER = 1008, 1011, 1013

SERVICE_CODES = {
    "at-capacity": TRY_AGAIN_LATER,
    "overloaded": TRY_AGAIN_LATER,
    events.GOING_AWAY: GOING_AWAY,
}


def left(audio_s: float) -> Error:
    """The error for a client that was still sending when this server had to stop. All texts of its audio were sent."""
    return Error(events.GOING_AWAY, f"this server is going away: {audio_s:.2f} s of audio are transcribed")


def close_of(event: Error) -> Close:
    """The close for an error that the dialect does not define. A client's error is a policy violation (1008)."""
    code = SERVICE_CODES.get(event.slug, INTERNAL_ERROR) if event.is_service else POLICY_VIOLATION
    return Close.because(code, f"{event.slug}: {event.detail}")
