"""Sessions over WebRTC, through `asr_client`. A data channel costs so much that only a few run on one machine.

Each session has its own paced sender and connects at its start time. A frame's lateness is measured relative to the
first frame of its session.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterable

from asr_client.dialects import DIALECTS, webrtc
from asr_client.dialects.conversation import converse
from asr_client.dialects.recorder import Recorder, ignore
from asr_ops.bench.connection import clock
from asr_ops.bench.load import AtBegin, AtEnd
from asr_ops.bench.plan import LoadResult, Plan
from asr_ops.bench.statistics import SessionRecord
from asr_proto.errors import AsrError, SetupError


class SessionRecorder(Recorder):
    """Writes the events that `asr_client` records for its figures into a bench's session record."""

    def __init__(self, session: SessionRecord) -> None:
        super().__init__(ignore)
        self._session, self._text = session, ""

    def connected(self) -> None:
        super().connected()
        self._session.ready_s = clock()

    def sending(self, frame: bytes) -> None:
        super().sending(frame)
        self._session.sent_s.append(clock())

    def said(self, text: str) -> None:
        super().said(text)
        self._text = text
        if text:
            self._session.partials.append((clock(), None))

    def ended(self) -> None:
        super().ended()
        self._session.end_s = clock()
        self._session.finals.append((self._session.end_s, self._text))


async def run(plan: Plan, at_begin: AtBegin, at_end: AtEnd) -> LoadResult:
    """Like `load.run`. Raises SetupError if WebRTC is not installed."""
    began_s = await at_begin()
    numbers = range(len(plan.starts_us))
    sessions = await asyncio.gather(*(_speak(plan, number, began_s) for number in numbers))
    await at_end()
    frame_s = plan.frame_us / 1_000_000
    return LoadResult(sessions, array("d", (late for session in sessions for late in _lateness_s(session, frame_s))))


async def _speak(plan: Plan, number: int, began_s: float) -> SessionRecord:
    await asyncio.sleep(began_s + plan.starts_us[number] / 1_000_000 - clock())
    session = SessionRecord(connecting_s=clock())
    recorder, spoken = SessionRecorder(session), DIALECTS[plan.dialect].session(None)
    frames = plan.ring.spoken(plan.entries[number], plan.frames).reshape(plan.frames, -1)
    try:
        async with webrtc.open_channel(plan.url, None) as channel:
            recorder.connected()
            await converse(channel, spoken, (frame.astype("<i2").tobytes() for frame in frames), plan.pace, recorder)
    except SetupError:
        raise
    except AsrError as error:
        session.fault, session.end_s = error.detail, None
    return session


def _lateness_s(session: SessionRecord, frame_s: float) -> Iterable[float]:
    sent_s = session.sent_s
    return (at_s - sent_s[0] - number * frame_s for number, at_s in enumerate(sent_s))
