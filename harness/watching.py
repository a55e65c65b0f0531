"""Which fields of its recipe a candidate's code reads: recorded in the sandbox, beside the worker.

While a recipe is watched, its class looks at each attribute that is asked of that one instance: a field is that field;
whatever can see all fields at once (`__dict__`, and with it `dict()`, `vars()`, comparison, `repr`, hashing, copying
and `model_dump`), and a private attribute, which a validator may have made of any, is all of them. The class, and
what is asked of it, stay as they are otherwise.

Not covered: code that means to hide what it reads (`object.__getattribute__`). It can only make its own change look
like none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["Reads", "watched"]

_WHOLE = (
    "__dict__",
    "model_dump",
    "model_dump_json",
    "model_copy",
    "__pydantic_serializer__",
    "__pydantic_fields_set__",
)


class Reads:
    """The fields read so far, of all that there are."""

    def __init__(self, fields: Iterable[str], private: Iterable[str] = ()) -> None:
        """Begin with none read."""
        self._fields = frozenset(fields)
        self._whole = frozenset((*_WHOLE, *private))
        self._read: set[str] = set()

    def asked(self, name: str) -> None:
        """Take note of one attribute."""
        if name in self._fields:
            self._read.add(name)
        elif name in self._whole:
            self.everything()

    def everything(self) -> None:
        """All fields count as read."""
        self._read |= self._fields

    @property
    def names(self) -> list[str]:
        """The fields read, in order of name."""
        return sorted(self._read)


@contextlib.contextmanager
def watched(recipe: Any) -> Iterator[Reads]:
    """Record what is read of a recipe (a pydantic record) until the block ends."""
    kind: Any = type(recipe)
    reads = Reads(kind.model_fields, kind.__private_attributes__)
    own = vars(kind).get("__getattribute__")
    before = kind.__getattribute__

    def looked_up(self: Any, name: str) -> Any:
        if self is recipe:
            reads.asked(name)
        return before(self, name)

    kind.__getattribute__ = looked_up
    try:
        yield reads
    finally:
        if own is None:
            del kind.__getattribute__
        else:
            kind.__getattribute__ = own
