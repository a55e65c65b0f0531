"""What can be said of a term by itself: whether it may fail, its bounds, and how long it may take.

Every answer is on the safe side: "cannot fail", bounds and a number of iterations are true of every document.
"""

from __future__ import annotations

import math

from harness.policy_document import MAX_INTEGER, MAX_ITEMS, MAX_TEXT, Scalar
from harness.terms import DOUBLE, Term

MAX_ITERATIONS = 10_000  # of one evaluation; the engine's
_INT64 = 2**63
_FINITE = 1e300  # far enough from the largest double that no sum of a few becomes infinite

_TOTAL = frozenset(
    {
        *("_&&_", "_||_", "!_", "_?_:_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in", "size"),
        *("startsWith", "endsWith", "contains", "@not_strictly_false"),
    }
)


def base_of(source: Term) -> Term:
    """Return what a chain of filters runs over in the end."""
    while source.op == "loop" and source.value == "filter":
        source = source.args[0]
    return source


def cannot_fail(term: Term, ranges: tuple[Term, ...] = ()) -> bool:
    """Return whether evaluating a term surely ends in a value; `ranges` are those of the loops around it."""
    if term.op in ("const", "doc", "bound", "element"):
        return True
    if term.op == "loop":
        source, body = term.args
        return cannot_fail(source, ranges) and cannot_fail(body, (*ranges, source))
    if term.op in ("?", "at") or not all(cannot_fail(arg, ranges) for arg in term.args):
        return False
    if term.op == "get":
        container, key = term.args
        if key.op == "bound" and key.value < len(ranges):
            return base_of(ranges[-1 - key.value]) == container and container.op in ("doc", "field")
        return key.op == "element" and base_of(key.args[0]) == container
    if term.op == "call" and term.value not in _TOTAL:
        kinds = {arg.shape.kind for arg in term.args if isinstance(arg.shape, Scalar)}
        if term.value in ("_+_", "_-_", "_*_", "-_", "_/_") and kinds == {"double"}:
            return True
        if term.value in ("_+_", "_-_", "_*_", "-_") and kinds == {"int"}:
            return interval(term) is not None
        if term.value == "_+_" and kinds == {"string"}:
            return True
        return term.value in ("double", "string") and kinds <= {"int", "double"} and bool(kinds)
    return True


def interval(term: Term) -> tuple[float, float] | None:
    """Return bounds of a number, or None where it may fail, be infinite or be no number.

    Of doubles the bounds are computed in doubles, which is sound, as rounding keeps the order.
    """
    if not isinstance(term.shape, Scalar) or term.shape.kind not in ("int", "double"):
        return None
    found = _interval(term)
    if found is None or not all(math.isfinite(bound) for bound in found):
        return None
    limit = _INT64 - 1 if term.shape.kind == "int" else _FINITE
    return found if -limit <= found[0] and found[1] <= limit else None


def _interval(term: Term) -> tuple[float, float] | None:
    shape = term.shape
    if term.op == "const":
        return term.value[1], term.value[1]
    if term.op in ("field", "bound", "element", "get") and isinstance(shape, Scalar):
        if shape.kind == "int":
            low = -MAX_INTEGER if shape.low is None else math.ceil(shape.low)
            return low, MAX_INTEGER if shape.high is None else math.floor(shape.high)
        return None if shape.low is None or shape.high is None else (float(shape.low), float(shape.high))
    if term.op != "call":
        return None
    if term.value == "size":
        return 0, _longest(term.args[0])
    parts = [interval(arg) for arg in term.args[1 if term.value == "_?_:_" else 0 :]]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts):
        return None
    if term.value == "_?_:_":
        return min(known[0][0], known[1][0]), max(known[0][1], known[1][1])
    if term.value == "double":
        return float(known[0][0]), float(known[0][1])
    if term.value == "-_":
        return -known[0][1], -known[0][0]
    if term.value == "_+_":
        return known[0][0] + known[1][0], known[0][1] + known[1][1]
    if term.value == "_-_":
        return known[0][0] - known[1][1], known[0][1] - known[1][0]
    if term.value == "_*_":
        products = [a * b for a in known[0] for b in known[1]]
        return min(products), max(products)
    if term.value == "_/_" and shape == DOUBLE and known[1][0] * known[1][1] > 0:
        quotients = [a / b for a in known[0] for b in known[1]]
        return min(quotients), max(quotients)
    return None


def _longest(source: Term) -> int:
    if source.op == "list":
        return len(source.args)
    if source.op == "map":
        return len(source.args) // 2
    if isinstance(source.shape, Scalar):
        return MAX_TEXT if source.op in ("field", "bound", "element", "get", "const") else _INT64
    if source.op == "loop":
        return _longest(source.args[0])
    return MAX_ITEMS if source.op in ("doc", "field") else _INT64


def iterations(term: Term) -> int:
    """Return how many steps of loops an evaluation may take at most."""
    if term.op == "loop":
        source, body = term.args
        return iterations(source) + _longest(source) * (1 + iterations(body))
    return sum(iterations(arg) for arg in term.args)
