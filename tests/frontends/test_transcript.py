from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asr_frontends.transcript import Transcript
from asr_proto import messages as m


def final(text: str) -> m.Final:
    return m.Final(1, 0, text, 0, 1, "silence", None, None, m.Commit(1, 1, b""))


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["", "a", "b c"]))))
def test_the_text_is_all_finals_and_the_current_partial(heard: list[tuple[bool, str]]) -> None:
    transcript, finals, partial = Transcript(), [], ""
    for is_final, text in heard:
        before = transcript.text
        changed = transcript.update(final(text) if is_final else m.Partial(1, 0, text, 0, 1))
        finals, partial = ([*finals, text], "") if is_final else (finals, text)
        assert transcript.text == " ".join(filter(None, [*finals, partial]))
        assert changed == (transcript.text != before)
    transcript.clear()
    assert transcript.text == ""
