"""Text from strangers does nothing to a terminal or to a log of lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.plain import plain, plain_lines

WILD = st.text(alphabet=st.characters())


@given(WILD)
def test_one_line_of_printable_text(text):
    """Whatever comes in, one line of characters that only show comes out."""
    shown = plain(text)
    assert "\n" not in shown
    assert all(
        character.isprintable() or character == " " for character in shown.replace("\u3000", " ").replace("\xa0", " ")
    ) or any(not character.isprintable() and character.isspace() for character in shown)
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in shown)


def test_an_escape_sequence_is_spelt_out():
    """A sequence that would clear the screen is shown as what it is."""
    assert plain("\x1b[2Jgone") == "\\x1b[2Jgone"


def test_a_forged_entry_stays_in_its_line():
    """A newline in a candidate's error begins no line of its own."""
    assert plain("boom\n   99  promoted") == "boom\\n   99  promoted"


def test_marks_of_direction_are_spelt_out():
    """An override of direction does not turn what follows around."""
    assert plain("a\u202eb") == "a\\u202eb"


@given(WILD, st.integers(min_value=1, max_value=50))
def test_the_limit_holds(text, limit):
    """No more characters come out than allowed."""
    assert len(plain(text, limit)) <= limit


def test_lines_of_a_diff_stay_lines():
    """A diff keeps its lines and tabs and loses what acts."""
    assert plain_lines("+a\tb\n-\x1b[0m") == "+a\tb\n-\\x1b[0m"
