"""The text of a conversation in a dialect without utterances: all finals so far and the current partial."""

from __future__ import annotations

from asr_frontends.portable import Portable
from asr_proto.messages import Final, Partial


class Transcript(Portable):
    """Cumulative text since the start or the last `clear`."""

    finals: str = ""
    partial: str = ""

    @property
    def text(self) -> str:
        return _joined(self.finals, self.partial)

    def update(self, event: Partial | Final) -> bool:
        """Add a hypothesis; a final replaces the partial. Returns whether the text has changed."""
        changed = event.text != self.partial
        if isinstance(event, Final):
            self.finals, self.partial = _joined(self.finals, event.text), ""
        else:
            self.partial = event.text
        return changed

    def clear(self) -> None:
        self.finals = self.partial = ""


def _joined(before: str, after: str) -> str:
    return f"{before} {after}" if before and after else before or after
