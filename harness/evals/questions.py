"""What the check of a property is given to ask with, and what it may not do with it: ask for ever, or take for ever."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import SubjectError
from harness.evals.deadline import LateError, deadline
from harness.evals.inquiry import ANSWERS, PREDICT, Ask, Rows, Table, UnansweredError, refused
from harness.evals.items import Array, Inputs
from harness.evals.tagging import where_of

MOST_QUESTIONS = 32
"""A check of one case that asks more often asks for ever."""
SECONDS = 60.0
"""What drawing and judging all cases of a property may take at a time, without the worker's share."""


class RefusedError(BaseException):
    """An answer was asked for that a worker refuses to give. It passes through `except Exception`."""


class Questions(Ask):
    """What a check asks with, one for each case; it remembers what was answered."""

    def __init__(self, table: Table, name: str) -> None:
        """Ask what `table` knows."""
        super().__init__(table, name)
        self.seen: list[Rows] = []
        self._asked = 0

    def job(self, job: str, inputs: Inputs) -> Rows:
        """As `Ask.job`. Raises RefusedError where a worker refuses one of the rows, SubjectError beyond the most."""
        self._asked += 1
        if self._asked > MOST_QUESTIONS:
            raise SubjectError(f"more than {MOST_QUESTIONS} questions were asked about one case")
        none = self._table.jobs.get(refused(job))
        if none and any(name in none for name in self._table.names(refused(job), inputs)):
            raise RefusedError
        found = super().job(job, inputs)
        self.seen.append(found)
        return found

    def each(self, *asked: tuple[str, Inputs]) -> list[Rows]:
        """What several jobs make of several inputs; what is missing of any is asked for at once."""
        answers, lacking = [], False
        for job, inputs in asked:
            try:
                answers.append(self.job(job, inputs))
            except UnansweredError:
                lacking = True
        if lacking:
            raise UnansweredError
        return answers

    def together(self, *inputs: Inputs) -> list[Array]:
        """The answers to several inputs, [rows, *output] float32 each."""
        return [found[ANSWERS] for found in self.each(*((PREDICT, each) for each in inputs))]


@contextmanager
def own_errors(function: Callable[..., Any], what: str) -> Iterator[None]:
    """Let whatever goes wrong be one SubjectError that names the line of `function`'s file, and `what` it is about.

    In the main thread it ends after SECONDS; in any other it is left to the deadline of whoever asked.
    """
    file = getattr(getattr(function, "__code__", None), "co_filename", "")

    def place(frame: types.FrameType | None) -> str:
        while frame is not None and frame.f_code.co_filename != file:
            frame = frame.f_back
        return where_of(function) if frame is None else f"{Path(file).name}:{frame.f_lineno}"

    try:
        with deadline(SECONDS, place):
            yield
    except LateError as error:
        raise SubjectError(
            f"{what} did not end within {SECONDS:g} s", where=error.args[0], remedy="mend the loop, or draw less"
        ) from None
    except SubjectError as error:
        where = error.where or _line_of(error, file) or where_of(function)
        raise SubjectError(f"{what}: {error.message}", where=where, remedy=error.remedy) from None
    except Exception as error:
        where = _line_of(error, file) or where_of(function)
        raise SubjectError(f"{what} raised {type(error).__name__}: {error}", where=where) from error


def _line_of(error: BaseException, file: str) -> str:
    """`guards.py:LINE`, the deepest line of a file that the exception passed; empty where it passed none."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{Path(file).name}:{line}" if line else ""
