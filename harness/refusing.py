"""What the evaluator answers where it cannot: one error that a line can carry, at a line of the subject's own files.

`guards.py` may raise anything, `SystemExit` too, say it in a gigabyte or in letters that are none, or never end. None
of that may end the process: then all that could be told is that the evaluator died.
"""

from __future__ import annotations

import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import LockgateError, SubjectError
from harness.evals.deadline import LateError, deadline

MOST = 1000
"""Characters of a message."""


def answered(operate: Callable[[], dict[str, Any]], subject: Path, seconds: float) -> dict[str, Any]:
    """What `operate` gives as `ok`, within so many seconds; else the error, in a form that JSON can carry."""
    folder = subject.resolve()
    try:
        with deadline(seconds, lambda frame: _at(_frames(frame), folder)):
            return {"ok": operate()}
    except BaseException as raised:  # noqa: BLE001 - it is reported, and denies
        error = _first(raised)
        if isinstance(error, LateError):
            late = f"the subject's own code did not end within {seconds:g} s"
            return _told(SubjectError(late, where=error.args[0], remedy="mend the loop, or let it do less"))
        if isinstance(error, LockgateError):
            return _told(error)
        trace = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        return _told(SubjectError(f"{type(error).__name__}: {_said(error)}", where=_at(trace, folder)))


def _first(error: BaseException) -> BaseException:
    """What is told of an error that holds others, as those of side-by-side tasks do: that time was up, or the first."""
    while isinstance(error, BaseExceptionGroup):
        late = error.subgroup(LateError)
        error = (late or error).exceptions[0]
    return error


def _told(error: LockgateError) -> dict[str, Any]:
    parts = {"message": error.message, "where": error.where, "remedy": error.remedy}
    return {"error": type(error).__name__, **{name: text and _clean(text) for name, text in parts.items()}}


def _clean(text: str) -> str:
    """A text that UTF-8 has, and not too much of it."""
    return text[:MOST].encode("utf-8", "backslashreplace").decode()[:MOST]


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an error of the subject's, which cannot even be told
        return "(an error that cannot be written)"


def _frames(frame: types.FrameType | None) -> list[tuple[str, int]]:
    """File and line of a frame and of those that called it, the outermost first."""
    return [(each.f_code.co_filename, line) for each, line in traceback.walk_stack(frame)][::-1]


def _at(trace: list[tuple[str, int]], folder: Path) -> str | None:
    """`guards.py:LINE`: the deepest line among the files of a folder, installed ones left out; None where none is."""
    for file, line in reversed(trace):
        path = Path(file).resolve()
        if path.is_relative_to(folder) and "site-packages" not in path.parts:
            return f"{path.relative_to(folder).as_posix()}:{line}"
    return None
