"""Tags on the functions of a `guards.py`: by what name each is known, and where it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import SubjectError

TAG = "__lockgate_guard__"


def where_of(function: Callable[..., Any]) -> str:
    """`guards.py:LINE`, where a function begins."""
    code = getattr(function, "__code__", None)
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}" if code is not None else "guards.py"


def name_of(name: object, function: Callable[..., Any]) -> str:
    """Check the name of a view, an evaluation or a property: what policies and gates can write."""
    if not isinstance(name, str) or not name.isidentifier() or not name.isascii() or len(name) > 64:
        raise SubjectError(
            f"{name!r} is no name: letters, digits and _, at most 64, not starting with a digit",
            where=where_of(function),
        )
    return name
