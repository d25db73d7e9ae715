"""The text of a conversation whose dialect knows no utterances: all finals so far and the current partial."""

from __future__ import annotations

from asr_proto.messages import Final, Partial


class Transcript:
    """Cumulative text since the start or the last `clear`. `hear` says whether it changed."""

    def __init__(self) -> None:
        self._finals: list[str] = []
        self._partial = ""

    @property
    def text(self) -> str:
        return " ".join([*self._finals, *([self._partial] if self._partial else [])])

    def hear(self, event: Partial | Final) -> bool:
        """Take over a hypothesis; a final replaces the partial."""
        before = self.text
        if isinstance(event, Final):
            self._finals.append(event.text)
            self._partial = ""
        else:
            self._partial = event.text
        return self.text != before

    def clear(self) -> None:
        self._finals.clear()
        self._partial = ""
