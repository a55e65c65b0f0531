"""A frozen mapping by number of which a changed copy costs little, for a state that is folded ten thousand times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

__all__ = ["Numbered"]

Value = TypeVar("Value")
_BITS = 7


class Numbered(Mapping[int, Value], Generic[Value]):
    """Number → value in pages of 128: a copy with one value more or less copies one page and the list of pages."""

    __slots__ = ("_length", "_pages")

    def __init__(self, pages: dict[int, dict[int, Value]] | None = None, length: int = 0) -> None:
        """Begin empty; the arguments are for `with_value` and `without`."""
        self._pages = pages or {}
        self._length = length

    def with_value(self, number: int, value: Value) -> Numbered[Value]:
        """A copy in which `number` has `value`."""
        old = self._pages.get(number >> _BITS, {})
        pages = {**self._pages, number >> _BITS: {**old, number: value}}
        return Numbered(pages, self._length + (number not in old))

    def without(self, number: int) -> Numbered[Value]:
        """A copy without `number`; KeyError."""
        page = dict(self._pages[number >> _BITS])
        del page[number]
        rest = {key: kept for key, kept in self._pages.items() if key != number >> _BITS}
        return Numbered({**rest, number >> _BITS: page} if page else rest, self._length - 1)

    def __getitem__(self, number: int) -> Value:
        """The value of a number; KeyError."""
        return self._pages[number >> _BITS][number]

    def __iter__(self) -> Iterator[int]:
        """The numbers, page by page."""
        for page in self._pages.values():
            yield from page

    def __len__(self) -> int:
        """How many there are."""
        return self._length

    def __repr__(self) -> str:
        """As a mapping."""
        return f"Numbered({dict(self)!r})"
