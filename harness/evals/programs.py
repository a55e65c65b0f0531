"""Does the program that a model writes do what it should? Run in a sandbox, compared here.

    from harness.evals import executed, expected

    solved = executed("solved", inputs=shown, decode=decode_utf8, size=256, call="solve")

and in `load()` the labels are an array of `expected(([2, 3], 5), ([10, -4], 6))`, one string for each item: pairs of an
input and what is due, here the arguments of `solve` and its result; without `call=`, what a script reads and prints.

The candidate writes; what it wrote is run on the inputs alone, in a fresh sandbox for each program, not in the
candidate's own; the outputs come back as data, and are compared here. What is due never enters a sandbox. So a program
that ends early, patches whatever it finds or prints "passed" gives an output that is not the one due, and scores 0, as
does one that fails, is too slow, too large or too loud. Each run is answered once, and kept among the answers, so that
a replay compares again and runs nothing.

Not covered: a program that is right on these inputs and wrong on others, so write as many as tell them apart; other
languages than Python; packages beyond its standard library.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from harness.errors import SubjectError
from harness.evals.capability import Decode, texts
from harness.evals.inquiry import Ask, UnansweredError
from harness.evals.items import MAIN, Array, Encode, Raw, encoded
from harness.evals.scoring import EvaluationKind, inquiry
from harness.evals.tagging import called_from
from harness.execution import RAN, ROW, Execution, Ran, write_row
from harness.records import first_problem

Same = Callable[[Any, Any], bool]
"""Whether an output is what is due: what is due first."""


def expected(*pairs: tuple[Any, Any]) -> str:
    """The label of an item: inputs, each with what is due. ValueError for what JSON cannot say."""
    return json.dumps([list(pair) for pair in pairs], allow_nan=False, separators=(",", ":"))


def equal(due: Any, given: Any) -> bool:
    """Whether two JSON values are the same: integers exactly, other numbers within 1e-9 of each other or of 0."""
    if isinstance(due, list):
        alike = isinstance(given, list) and len(due) == len(given)
        return alike and all(equal(a, b) for a, b in zip(due, given, strict=True))
    if isinstance(due, dict):
        return isinstance(given, dict) and due.keys() == given.keys() and all(equal(due[k], given[k]) for k in due)
    numbers = [isinstance(each, (int, float)) and not isinstance(each, bool) for each in (due, given)]
    if all(numbers) and not isinstance(due, int | bool):
        try:
            return math.isclose(due, given, rel_tol=1e-9, abs_tol=1e-9)
        except OverflowError:
            return False
    return bool(numbers[0] == numbers[1] and (all(numbers) or type(due) is type(given)) and due == given)


def printed(due: str, given: str) -> bool:
    """Whether two texts are the same, but for space at the ends of lines and empty lines at the end."""
    return _trimmed(due) == _trimmed(given)


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def executed(
    name: str,
    *,
    inputs: Encode,
    decode: Decode,
    size: int,
    call: str | None = None,
    partial: bool = False,
    same: Same | None = None,
    seconds: int = 2,
    memory_mb: int = 256,
    output_kb: int = 4,
    kind: EvaluationKind = "capability",
    of: str = MAIN,
    applies: Callable[[Array], Array] | None = None,
    slices: Mapping[str, Callable[[Array], Array]] | None = None,
) -> Callable[..., Any]:
    """The share of items whose program, as the candidate writes it, gives what is due on every input of the item.

    inputs: a view, by which the item is shown. decode, size: answers to texts, as for `exact_match`; an answer that is
    no text scores 0. call: the function that is called with an input's arguments; None runs the text as a script.
    partial: the share of inputs on which it is right, not all or nothing. same: in place of `equal` for results,
    `printed` for what a script prints. seconds: of CPU on one input; memory_mb: of all its processes; output_kb: of all
    its outputs together.

    Labels [n] are strings that `expected` makes. Raises SubjectError for limits that are none; when data are loaded,
    for a label that is no such string, has no input, or is met by giving nothing.
    """
    where = called_from()
    given: dict[str, Any] = {"call": call, "seconds": seconds, "memory_mb": memory_mb, "output_kb": output_kb}
    try:
        spec = Execution.parse(given)
    except (ValidationError, TypeError, ValueError) as error:
        place, message = first_problem(error) if isinstance(error, ValidationError) else ("value", str(error))
        raise SubjectError(f"executed({name!r}): {place}: {message}", where=where) from error
    compare = same or (printed if call is None else equal)

    def about(labels: Array) -> Array:
        mask = np.ones(len(labels), dtype=np.bool_) if applies is None else np.asarray(applies(labels))
        for label in labels[mask]:
            _read(label, spec)  # held-out ones, too: before anything is staked on them
        return mask

    def measure(ask: Ask, raw: Raw, labels: Array) -> npt.NDArray[np.float64]:
        due = [_read(label, spec) for label in labels]
        said = texts(ask(encoded(inputs, raw)), decode, size)
        ran = run(ask, spec, said, [[entry for entry, _ in each] for each in due])
        right = [_right(found, pairs, spec, compare) for found, pairs in zip(ran, due, strict=True)]
        ended: list[list[str]] = [[each.ended for each in found] or ["no program"] for found in ran]
        told = {"items": [{"ended": a, "right": b} for a, b in zip(ended, right, strict=True)]}
        ask.keep(json.dumps(told).encode(), {"ended": dict(sorted(Counter(chain.from_iterable(ended)).items()))})
        shares = [sum(each) / len(each) for each in right]
        return np.array(shares if partial else [share == 1.0 for share in shares], dtype=np.float64)

    return inquiry(name, kind=kind, of=of, applies=about, slices=slices, where=where)(measure)


def run(ask: Ask, spec: Execution, programs: Sequence[str | None], inputs: Sequence[Sequence[str]]) -> list[list[Ran]]:
    """What became of programs, each run on inputs of its own: for evals that `executed` does not fit.

    An input is what a script reads, or the arguments of the function that is called as a JSON list. Of None, and of a
    text that is too long or no Unicode, an empty list: nothing is run. SubjectError for inputs that no row holds.
    """
    rows: dict[int, dict[int, bytes]] = {}
    for place, (program, given) in enumerate(zip(programs, inputs, strict=True)):
        write_row("", given)
        try:
            row = None if program is None else write_row(program, given)
        except SubjectError:
            row = None  # with its inputs alone it could be written: so it is the program's fault
        if row is not None:
            rows.setdefault(len(row), {})[place] = row
    found: list[list[Ran]] = [[] for _ in programs]
    lacking = False
    for width, some in sorted(rows.items()):
        asked = np.frombuffer(b"".join(some.values()), dtype=np.uint8).reshape(-1, width)
        try:
            answered = ask.job(spec.job, {ROW: asked})[RAN]
        except UnansweredError:  # what is missing of the other widths is asked at once
            lacking = True
        else:
            for place, row in zip(some, answered, strict=True):
                found[place] = spec.unpack(row, len(inputs[place]))
    if lacking:
        raise UnansweredError
    return found


def _read(label: Any, spec: Execution) -> list[tuple[str, Any]]:
    """The inputs of an item, as a program is given them, and what is due to each. SubjectError for another label."""
    try:
        read = [(entry, due) for entry, due in map(_pair, json.loads(str(label)))]
    except (ValueError, TypeError, RecursionError) as error:
        raise SubjectError("a label is no list of inputs with what is due", remedy="make it by expected(…)") from error
    kind, what = (str, "a text that is read and one that is printed") if spec.call is None else (list, "arguments")
    if any(not isinstance(entry, kind) or (spec.call is None and not isinstance(due, str)) for entry, due in read):
        raise SubjectError(
            f"an input of a label is not {what}", remedy="expected((input, due), …); arguments are a list"
        )
    if all(not due.strip() if spec.call is None else due is None for _, due in read):
        raise SubjectError("a label is met by a program that gives nothing", remedy="add an input with something due")
    entries = [entry if spec.call is None else json.dumps(entry, separators=(",", ":")) for entry, _ in read]
    write_row("", entries)
    return list(zip(entries, (due for _, due in read), strict=True))


def _pair(pair: Any) -> list[Any]:
    if not isinstance(pair, list):
        raise TypeError("no pair")
    return pair


def _right(ran: Sequence[Ran], pairs: Sequence[tuple[str, Any]], spec: Execution, same: Same) -> list[bool]:
    """On which inputs a program gave what is due: on none where it was not run."""
    found = ran or [Ran("unrun")] * len(pairs)
    return [a.ended == "ok" and _is(a.output, due, spec, same) for a, (_, due) in zip(found, pairs, strict=True)]


def _is(output: bytes, due: Any, spec: Execution, same: Same) -> bool:
    """Whether an output, the bytes of hostile code, is what is due."""
    try:
        text = output.decode("utf-8")
        given = text if spec.call is None else json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return False
    said = same(due, given)
    if not isinstance(said, (bool, np.bool_)):  # a share of .1, NaN and "no" would all be true
        raise SubjectError(f"same() says {said!r:.80} of an output; true or false is wanted")
    return bool(said)


def _no_number(name: str) -> Any:
    raise ValueError(name)
