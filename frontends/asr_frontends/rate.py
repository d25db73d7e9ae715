"""A limit on how many messages a client sends, which a delay between client and server does not change. Pure.

The server does not see when a message was sent. After a stall of the network or of this process, and after a pause for
credit, all messages of that time arrive together. So a client earns messages by the time in which it could have sent
them:

- A message with audio earns the length of its audio, or the time since the last message, if that is longer.
- Any other message earns the time since the last message.

Each earned second is worth `per_s` messages. A client keeps what it has earned and not used, up to `STALL_S` and one
second; it begins with one second. It follows:

- A client whose audio comes with at most `per_s` messages, of any kind, in each second of the audio is never refused,
  however long its messages are delayed.
- A client that sends no audio, and at most `per_s` messages in each second, is never refused if none of its messages is
  delayed by more than `STALL_S`.
- Of any client, at most `per_s` messages for each second of time and for each second of its audio are accepted, and
  those of `STALL_S` and two seconds more.
"""

from __future__ import annotations

from asr_proto.audio import SAMPLE_RATE

STALL_S = 30.0
"""Longest delay that costs a client without audio nothing, in seconds."""


class Rate:
    """The messages that one client may still send. `per_s` is above 0; every `now` is in seconds of one clock."""

    __slots__ = ("_at", "_earned", "_earned_max", "per_s")

    def __init__(self, per_s: int, now: float) -> None:
        self.per_s = per_s
        self._at = now
        self._earned = per_s + 1.0  # one message more than a second is worth: sums of fractions are not exact
        self._earned_max = per_s * (STALL_S + 1.0) + 1.0

    def allows(self, samples: int, now: float) -> bool:
        """Count a message with so many 16 kHz samples of audio. False when it exceeds the limit."""
        earned = self._earned + self.per_s * max(now - self._at, samples / SAMPLE_RATE)
        self._at = now
        self._earned = min(earned, self._earned_max) - 1.0
        return self._earned >= 0.0
