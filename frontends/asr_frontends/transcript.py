"""The text of a conversation whose dialect knows no utterances: all finals so far and the current partial."""

from __future__ import annotations

from asr_proto.messages import Final, Partial


class Transcript:
    """Cumulative text since the start or the last `clear`. `update` returns whether it has changed."""

    def __init__(self) -> None:
        self._finals = ""
        self._partial = ""

    @property
    def text(self) -> str:
        return _joined(self._finals, self._partial)

    def update(self, event: Partial | Final) -> bool:
        """Take over a hypothesis; a final replaces the partial."""
        changed = event.text != self._partial
        if isinstance(event, Final):
            self._finals, self._partial = _joined(self._finals, event.text), ""
        else:
            self._partial = event.text
        return changed

    def clear(self) -> None:
        self._finals = self._partial = ""


def _joined(before: str, after: str) -> str:
    return f"{before} {after}" if before and after else before or after
