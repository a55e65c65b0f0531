"""Tags on the functions of a `guards.py`: by what name each is known, and where it stands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import SubjectError

_TAG = "__lockgate_guard__"
_F = TypeVar("_F", bound=Callable[..., Any])


def where_of(function: Callable[..., Any]) -> str:
    """`guards.py:LINE`, where a function begins."""
    code = getattr(function, "__code__", None)
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}" if code is not None else "guards.py"


def called_from() -> str:
    """The line of `guards.py` that declares an eval, for a function that makes one and asks this itself."""
    frame = sys._getframe(2)  # noqa: SLF001 - the interpreter's own way to name a place
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def checked_name(name: object, where: str) -> str:
    """Check the name of a view, an evaluation, a slice or a property, for policies and gates to write. SubjectError."""
    if not isinstance(name, str) or not name.isidentifier() or not name.isascii() or len(name) > 64:
        raise SubjectError(
            f"{name!r} is no name: letters, digits and _, at most 64, not starting with a digit", where=where
        )
    return name


def declare(function: _F, *tags: Any) -> _F:
    """Tag a function with views, evaluations or properties, beside those that it has: `collect` finds them by it."""
    setattr(function, _TAG, (*declared(function), *tags))
    return function


def declared(function: Any) -> tuple[Any, ...]:
    """What a function is tagged with so far; nothing where it is none."""
    tags = getattr(function, _TAG, ()) if callable(function) else ()
    return tags if isinstance(tags, tuple) else ()
