"""Does one requirement follow from others? By structure alone: a proof, or no answer.

A term is turned into a formula about the values that evaluation really gives: `holds(t, True)` says that t evaluates to
exactly true, so that it is false of an error. Over these the rules of ordinary logic hold: `a || b` is true exactly
where a or b is, whatever the other does, `a && b` false where one of them is false.

Rules: "proved" is a proof, anything else only means that this room found none. Numbers are compared by terms that keep
their order (`at_most`), and only where neither side can fail, overflow, or be no number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

from harness.policy_document import Scalar
from harness.term_facts import base_of, cannot_fail, interval
from harness.terms import BOOL, Term, constant, element_shape, instantiate

_FUEL = 4_000
_EXPANDED = 200  # elements of a constant list over which a loop is written out


@dataclass(frozen=True)
class Formula:
    """What is said of an evaluation; `all` and `some` run over the elements of a range, with bodies of one variable."""

    kind: Literal["and", "or", "is", "all", "some"]
    parts: tuple[Formula, ...] = ()
    term: Term | None = None
    value: bool = True
    range: Term | None = None
    body: tuple[Term, bool] | None = None
    guard: Term | None = None
    """Of `all` and `some`: the condition of a filter, which must be true of an element for the body to count."""


TRUE, FALSE = Formula("and"), Formula("or")


def both(parts: Iterable[Formula]) -> Formula:
    """Return the conjunction."""
    return Formula("and", tuple(parts))


def either(parts: Iterable[Formula]) -> Formula:
    """Return the disjunction."""
    return Formula("or", tuple(parts))


def holds(term: Term, value: bool = True) -> Formula:
    """Return the formula that says that a term evaluates to exactly this boolean."""
    if term.op == "const":
        return TRUE if term.value[1] is value else FALSE
    if term.op == "strict":
        *variables, body = term.args
        fallible = [variable for variable in variables if not cannot_fail(variable)]
        have_values = [Formula("is", term=Term("call", (variable,), "@ok", BOOL)) for variable in fallible]
        return both([*have_values, holds(body, value)])
    if term.op == "loop" and term.value in ("all", "exists"):
        return _loop(term, value)
    if term.op != "call":
        return Formula("is", term=term, value=value)
    args = term.args
    if term.value in ("_&&_", "_||_"):
        joined = both if (term.value == "_&&_") == value else either
        return joined(holds(arg, value) for arg in args)
    if term.value == "!_":
        return holds(args[0], not value)
    if term.value == "_?_:_":
        then = both([holds(args[0]), holds(args[1], value)])
        return either([then, both([holds(args[0], False), holds(args[2], value)])])
    return _compared(term, value)


def _loop(term: Term, value: bool) -> Formula:
    source, body = term.args
    universal = (term.value == "all") == value
    if source.op == "list" and len(source.args) <= _EXPANDED and all(cannot_fail(item) for item in source.args):
        return (both if universal else either)(holds(instantiate(body, item), value) for item in source.args)
    guard = None
    if source.op == "loop" and source.value == "map" and cannot_fail(source):
        return holds(Term("loop", (source.args[0], instantiate_under(body, source.args[1])), term.value, BOOL), value)
    if source.op == "loop" and source.value == "filter" and cannot_fail(source):
        guard, source = source.args[1], source.args[0]
        if source.op == "loop":
            return Formula("is", term=term, value=value)
    if not cannot_fail(source):
        return Formula("is", term=term, value=value)
    return Formula("all" if universal else "some", range=source, body=(body, value), guard=guard)


def instantiate_under(body: Term, inner: Term) -> Term:
    """Return a body whose variable is replaced by a term of one variable of its own."""
    mark = Term("element", (constant(True),), object())
    return _abstract(instantiate(body, instantiate(inner, mark)), mark, 0)


def _abstract(term: Term, mark: Term, depth: int) -> Term:
    if term == mark:
        return Term("bound", (), depth, mark.shape)
    if not term.args:
        return term
    inner = depth + 1 if term.op == "loop" else depth
    args = tuple(
        _abstract(arg, mark, depth if term.op == "loop" and i == 0 else inner) for i, arg in enumerate(term.args)
    )
    return Term(term.op, args, term.value, term.shape, term.place)


_FLIPPED = {"_>_": "_<_", "_>=_": "_<=_"}


def _compared(term: Term, value: bool) -> Formula:
    """Return a comparison as `<` or `<=` with the variable part on either side, or `==`; ints without `<`."""
    function, (a, b) = str(term.value), (term.args * 2)[:2]
    if function in _FLIPPED:
        function, a, b = _FLIPPED[function], b, a
    if function == "_!=_":
        function, value = "_==_", not value
    if function == "_==_" and a.op == "const":
        a, b = b, a
    if function in ("_<_", "_<=_") and not value and _ordered(a) and _ordered(b):
        function, a, b, value = ("_<=_" if function == "_<_" else "_<_"), b, a, True
    if function in ("_<_", "_<=_", "_==_") and b.op == "const" and _empties(function, a, b, value) is not None:
        return _emptiness(a, empty=bool(_empties(function, a, b, value)))
    if function in ("_<_", "_<=_") and a.op == "const" and _empties_right(function, a, b, value):
        return _emptiness(b, empty=False)
    if function == "_<_" and value and _is_int(a) and _is_int(b):
        if b.op == "const":
            function, b = "_<=_", constant(b.value[1] - 1)
        elif a.op == "const":
            function, a = "_<=_", constant(a.value[1] + 1)
    if function == "_==_" and _is_int(a) and b.op == "const":
        bounds = interval(a)
        if bounds is not None and b.value[1] == bounds[0]:
            return Formula(
                "is", term=Term("call", (a, b) if value else (constant(b.value[1] + 1), a), "_<=_", BOOL), value=True
            )
    if function in ("_<_", "_<=_", "_==_"):
        return Formula("is", term=Term("call", (a, b), function, BOOL), value=value)
    return Formula("is", term=term, value=value)


def _is_int(term: Term) -> bool:
    return isinstance(term.shape, Scalar) and term.shape.kind == "int"


def _ordered(term: Term) -> bool:
    """Return whether a term is a number that is surely no NaN, or an int, so that not-less is at-most."""
    return _is_int(term) or term.op in ("const", "field", "element", "bound", "get") or interval(term) is not None


def _filtered(term: Term) -> bool:
    is_size = term.op == "call" and term.value == "size"
    return is_size and term.args[0].op == "loop" and term.args[0].value == "filter" and cannot_fail(term.args[0])


def _empties(function: str, a: Term, b: Term, value: bool) -> bool | None:
    """Return whether `a op b` says of a filter that it is empty (True) or not empty (False); None for neither."""
    if not _filtered(a):
        return None
    if (function, b.constant) in (("_==_", 0), ("_<=_", 0), ("_<_", 1)):
        return value
    return None


def _empties_right(function: str, a: Term, b: Term, value: bool) -> bool:
    return _filtered(b) and value and (function, a.constant) in (("_<_", 0), ("_<=_", 1))


def _emptiness(size: Term, *, empty: bool) -> Formula:
    """A filter is empty where its condition is false of every element; it cannot fail here."""
    source = size.args[0]
    return holds(Term("loop", source.args, "exists", BOOL), not empty)


# --- the prover ------------------------------------------------------------------------------------------


class _SpentError(Exception):
    """The proof takes more steps than it may."""


class Prover:
    """Searches for proofs, as long as its fuel lasts: what all of them take together is bounded."""

    def __init__(self) -> None:
        """Start with all of the fuel."""
        self._fuel = _FUEL
        self._fresh = count()

    def proves(self, premises: Sequence[Formula], goal: Formula) -> bool:
        """Return whether a proof was found that the goal holds wherever all the premises do."""
        try:
            return self._prove(_flat(premises), {}, goal, 3)
        except (_SpentError, RecursionError):
            return False

    def _prove(self, known: list[Formula], elements: dict[Term, list[Term]], goal: Formula, splits: int) -> bool:
        self._fuel -= 1
        if self._fuel < 0:
            raise _SpentError
        known, elements = self._named(known, elements)
        if FALSE in known:
            return True
        if goal.kind == "and":
            return all(self._prove(known, elements, part, splits) for part in goal.parts)
        if goal.kind == "all":
            element = self._element(goal)
            more = _flat([f for k in known if k.kind == "all" and k.range == goal.range for f in [_at(k, element)]])
            grown = {**elements, _range(goal): [*elements.get(_range(goal), []), element]}
            return self._prove([*known, *more], grown, _at(goal, element), splits)
        if self._direct(known, elements, goal, splits):
            return True
        if splits:
            for index, premise in enumerate(known):
                if premise.kind == "or":
                    rest = known[:index] + known[index + 1 :]
                    if all(self._prove([*rest, *_flat([part])], elements, goal, splits - 1) for part in premise.parts):
                        return True
        return False

    def _direct(self, known: list[Formula], elements: dict[Term, list[Term]], goal: Formula, splits: int) -> bool:
        if goal.kind == "or":
            return any(self._prove(known, elements, part, 0) for part in goal.parts)
        if goal.kind == "some":
            tried = elements.get(_range(goal), [])
            return any(self._prove(known, elements, _at(goal, element), splits) for element in tried)
        return self._always(goal) or any(self._entails(premise, goal) for premise in known if premise.kind == "is")

    def _always(self, goal: Formula) -> bool:
        """Return whether a comparison holds in every document, by the bounds of its sides."""
        term = goal.term
        if term is None or not goal.value or term.value not in ("_<_", "_<=_") or not cannot_fail(term):
            return False
        if interval(term.args[0]) is None or interval(term.args[1]) is None:
            return False
        return _below(*term.args) or (term.value == "_<=_" and self._at_most(*term.args))

    def _named(
        self, known: list[Formula], elements: dict[Term, list[Term]]
    ) -> tuple[list[Formula], dict[Term, list[Term]]]:
        """Give a name to each element of which premises say that it is there, and tell it what holds of all."""
        while some := next((k for k in known if k.kind == "some"), None):
            element = self._element(some)
            elements = {**elements, _range(some): [*elements.get(_range(some), []), element]}
            known = [k for k in known if k is not some]
            known += _flat([_at(some, element)])
            known += _flat([_at(k, element) for k in known if k.kind == "all" and k.range == some.range])
            self._fuel -= 1
            if self._fuel < 0:
                raise _SpentError
        return known, elements

    def _element(self, formula: Formula) -> Term:
        source = _range(formula)
        return Term("element", (source,), next(self._fresh), element_shape(source))

    def _entails(self, premise: Formula, goal: Formula) -> bool:
        self._fuel -= 1
        p, g = premise.term, goal.term
        if p is None or g is None:
            return False
        if p == g and premise.value == goal.value:
            return True
        if g.op != "call" or p.op != "call":
            return False
        if g.value in ("_<_", "_<=_") and goal.value:
            return self._bounded(p, premise.value, g)
        if g.value == "_==_" and g.args[1].op == "const":
            return _equal(p, premise.value, g.args[0], g.args[1], goal.value)
        if g.value == "@in" and g.args[1].op == "list":
            return _member(p, premise.value, g.args[0], g.args[1], goal.value)
        return False

    def _bounded(self, p: Term, value: bool, g: Term) -> bool:
        """`a <= b` follows from `c <= d` where a <= c and d <= b."""
        if not value or p.value not in ("_<_", "_<=_", "_==_"):
            return False
        ways = [p.args, p.args[::-1]] if p.value == "_==_" else [p.args]
        for low, high in ways:
            if not (self._at_most(g.args[0], low) and self._at_most(high, g.args[1])):
                continue
            if g.value == "_<=_" or p.value == "_<_" or _below(g.args[0], low) or _below(high, g.args[1]):
                return True
        return False

    def _at_most(self, a: Term, b: Term) -> bool:
        """Return whether a <= b in every document, both being numbers."""
        if a == b:
            return True
        if a.shape is None or not isinstance(a.shape, Scalar) or not isinstance(b.shape, Scalar):
            return False
        if a.op == b.op == "const" and a.shape.kind == b.shape.kind != "string":
            return bool(a.value[1] <= b.value[1])
        if not (cannot_fail(a) and cannot_fail(b)):
            return False
        if _filtered(a) and a.value == b.value:
            return self._fewer(a.args[0], b.args[0])
        left, right = interval(a), interval(b)
        if left is None or right is None:
            return False
        if left[1] <= right[0]:
            return True
        if a.op != "call" or b.op != "call" or a.value != b.value or len(a.args) != len(b.args):
            return False
        if a.value in ("double", "_+_"):
            return all(self._at_most(x, y) for x, y in zip(a.args, b.args, strict=True))
        if a.value == "_-_":
            return self._at_most(a.args[0], b.args[0]) and self._at_most(b.args[1], a.args[1])
        if a.value == "_*_" and all((interval(x) or (-1, 0))[0] >= 0 for x in (*a.args, *b.args)):
            return all(self._at_most(x, y) for x, y in zip(a.args, b.args, strict=True))
        return False

    def _fewer(self, a: Term, b: Term) -> bool:
        """Return whether a filter never keeps more than another term has."""
        if base_of(a) == b and cannot_fail(b):
            return True
        if not (b.op == "loop" and b.value == "filter" and cannot_fail(b) and a.args[0] == b.args[0]):
            return False
        source = a.args[0]
        element = Term("element", (source,), next(self._fresh), element_shape(source))
        premise = holds(instantiate(a.args[1], element))
        return self._prove(_flat([premise]), {}, holds(instantiate(b.args[1], element)), 2)


def _range(formula: Formula) -> Term:
    return formula.range or constant(True)


def _at(formula: Formula, element: Term) -> Formula:
    """Return what a quantified formula says of one element."""
    body, value = formula.body or (constant(True), True)
    said = holds(instantiate(body, element), value)
    if formula.guard is None:
        return said
    guard = instantiate(formula.guard, element)
    return either([holds(guard, False), said]) if formula.kind == "all" else both([holds(guard), said])


def _flat(formulas: Iterable[Formula]) -> list[Formula]:
    flat: list[Formula] = []
    for formula in formulas:
        if formula.kind == "and" or (formula.kind == "or" and len(formula.parts) == 1):
            flat += _flat(formula.parts)
        else:
            flat.append(formula)
    return flat


def _below(a: Term, b: Term) -> bool:
    """Return whether a < b in every document."""
    left, right = interval(a), interval(b)
    return left is not None and right is not None and left[1] < right[0]


def _equal(p: Term, value: bool, a: Term, c: Term, wanted: bool) -> bool:
    """Return whether `p` being `value` settles `a == c`, c a constant."""
    if p.value == "_==_" and p.args[0] == a and p.args[1].op == "const" and value:
        return _same(p.args[1], c) == wanted
    if p.value == "@in" and p.args[0] == a and p.args[1].op == "list" and all(i.op == "const" for i in p.args[1].args):
        among = [_same(item, c) for item in p.args[1].args]
        if value:
            return all(among) if wanted else not any(among)
        return not wanted and any(among)
    if p.value in ("_<_", "_<=_") and value and not wanted and c.shape is not None and interval(c) is not None:
        low, high = p.args
        if low == a and interval(high) is not None:
            return _below(high, c) or (p.value == "_<_" and _same(high, c))
        if high == a and interval(low) is not None:
            return _below(c, low) or (p.value == "_<_" and _same(low, c))
    return False


def _member(p: Term, value: bool, a: Term, items: Term, wanted: bool) -> bool:
    """Return whether `p` being `value` settles `a in items`, a list of constants."""
    if not all(item.op == "const" for item in items.args):
        return False
    if p.value == "_==_" and p.args[0] == a and p.args[1].op == "const" and value:
        return any(_same(item, p.args[1]) for item in items.args) == wanted
    if p.value == "@in" and p.args[0] == a and p.args[1].op == "list" and all(i.op == "const" for i in p.args[1].args):
        smaller, larger = (p.args[1].args, items.args) if wanted else (items.args, p.args[1].args)
        if value == wanted:
            return all(any(_same(x, y) for y in larger) for x in smaller)
        return value and not wanted and not any(_same(x, y) for x in p.args[1].args for y in items.args)
    return False


def _same(a: Term, b: Term) -> bool:
    """Return whether two constants of one kind are equal, as the evaluator says: 0.0 is -0.0."""
    return bool(a.value[1] == b.value[1])
