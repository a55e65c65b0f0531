"""Text from strangers, made fit for a terminal and a log: what cannot be seen, or moves the cursor, is spelt out.

Candidate code chooses the words of its errors. Escape sequences could clear a reviewer's
screen, a newline could forge an entry, and marks of direction could turn a line around.
"""

from __future__ import annotations

import unicodedata

_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(text: str, limit: int = 1000) -> str:
    """Return one line of at most `limit` characters, in which nothing acts: the rest is spelt out as escapes."""
    shown = "".join(_spelt(character) for character in text[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def plain_lines(text: str) -> str:
    """Return the same for text of many lines, as a diff: newlines stay, and tabs."""
    return "\n".join(
        "".join(character if character == "\t" else _spelt(character) for character in line)
        for line in text.split("\n")
    )


def _spelt(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) not in _INVISIBLE:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
