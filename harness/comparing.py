"""Two copies of one trail, or a trail and a head that the reader holds: the same, one longer, or forked.

Roots decide it: two logs agree on their first n entries exactly if they have one root at n (RFC 6962 §2.1.2), so the
first entry in which they differ is found by halving, without reading what is before it.

Each copy is read by the keys beside it, as `audit log` reads it. Which of two forks is the true one, if any, is shown
by a key and a head from outside: `audit verify --key --head`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import AuditError, LockgateError
from harness.exhibit import entry_row
from harness.folder import RunFolder
from harness.keys import VerifierChain
from harness.logreader import LogReader
from harness.notes import open_head

__all__ = ["Difference", "compare", "since"]

_HEAD_LIMIT = 1 << 16


@dataclass(frozen=True)
class _Copy:
    """One trail as it stands under its tree head."""

    reader: LogReader
    chain: VerifierChain

    @classmethod
    def open(cls, folder: RunFolder) -> _Copy:
        chain = VerifierChain.load(folder.public_key)
        return cls(LogReader.open(folder.log, chain), chain)

    def rows(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Entries [start, stop) in words."""
        for offset, raw in enumerate(self.reader.read(start, stop)):
            yield entry_row(raw, self.chain, start + offset)


@dataclass(frozen=True)
class Difference:
    """How two trails, A and B, stand to each other. Of a head alone there is no A to show."""

    relation: Literal["same", "longer", "shorter", "forked"]
    """Of B to A: `longer`, it has all that A has, and more."""
    a: _Copy | None
    b: _Copy
    common: int
    """How many entries, from the first on, are the same."""
    old: int
    """The size of A."""

    @property
    def words(self) -> str:
        """The relation as a sentence."""
        new = self.b.reader.size
        match self.relation:
            case "same":
                return f"the same: {new} entries"
            case "longer":
                return f"the second has the first's {self.common} entries, and {new - self.common} more"
            case "shorter":
                return f"the first has the second's {self.common} entries, and {self.old - self.common} more"
            case "forked":
                return f"forked: the first {self.common} entries are the same, entry {self.common} is not"

    def rows(self) -> Iterator[dict[str, Any]]:
        """What one has and the other has not, in words; of a fork, the first entry that differs, from both sides."""
        last = self.common + 1 if self.relation == "forked" else max(self.old, self.b.reader.size)
        for side, copy in (("a", self.a), ("b", self.b)):
            if copy is not None:
                for row in copy.rows(self.common, max(self.common, min(last, copy.reader.size))):
                    yield {"in": side, **row}

    def report(self) -> dict[str, Any]:
        """The whole as one document."""
        return {
            "relation": self.relation,
            "summary": self.words,
            "common": self.common,
            "sizes": [self.old, self.b.reader.size],
            "entries": list(self.rows()),
        }


def compare(first: RunFolder, second: RunFolder) -> Difference:
    """Two copies of a trail; AuditError where one of them does not hold together by itself."""
    a, b = _Copy.open(first), _Copy.open(second)
    sizes = a.reader.size, b.reader.size
    common = _common(a.reader, b.reader, min(sizes))
    if common < min(sizes):
        return Difference("forked", a, b, common, sizes[0])
    if sizes[0] == sizes[1]:
        return Difference("same", a, b, common, sizes[0])
    return Difference("longer" if sizes[0] < sizes[1] else "shorter", a, b, common, sizes[0])


def since(folder: RunFolder, head: Path) -> Difference:
    """What is new in a trail since a signed head; AuditError unless its keys know the head and it extends it."""
    copy = _Copy.open(folder)
    try:
        with head.open("rb") as file:
            note = file.read(_HEAD_LIMIT)
    except OSError as error:
        raise LockgateError(f"cannot be read: {error.strerror}", where=str(head)) from error
    try:
        known = open_head(note, copy.chain)
        copy.reader.check_extends(known)
    except AuditError as error:
        raise AuditError(error.message, where=str(head), clause="§11.1") from error
    relation: Literal["same", "longer"] = "same" if known.size == copy.reader.size else "longer"
    return Difference(relation, None, copy, known.size, known.size)


def _common(a: LogReader, b: LogReader, most: int) -> int:
    """The greatest number of first entries, at most `most`, that both have: by halving over equal roots."""
    if _agree(a, b, most):
        return most
    low, high = 0, most  # they agree at `low`, and do not at `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _agree(a, b, middle) else (low, middle)
    return low


def _agree(a: LogReader, b: LogReader, size: int) -> bool:
    return a.root_at(size) == b.root_at(size)
