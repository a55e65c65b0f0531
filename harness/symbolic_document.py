"""A document of any size, as z3 sees it: its variables, and what is known of them whatever the rules say.

A list or a map is known by *views*: elements of it that a formula speaks of. That some element satisfies a condition
gives a view that does, and what holds of all is told to every view. So no bound on the length of a list enters a proof:
leaving out an instance only weakens what is assumed, and "no such document" stays true.

Doubles are reals, and each operation on them is rounded by what holds of every rounding: the error is relative, and the
order is kept, also to what needs no rounding. Strings are numbers, with what is known of `startsWith`, `endsWith`,
`contains` and `size`. It does not cover what terms mean: `symbolic`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import z3

from harness.policy_document import (
    MAX_INTEGER,
    MAX_ITEMS,
    MAX_TEXT,
    SHAPES,
    ListOf,
    MapOf,
    Message,
    Scalar,
    Shape,
    Stage,
)
from harness.term_facts import interval
from harness.terms import STRING, Term

UNKNOWN = "?"
"""The root of what is no part of the document, so that its bounds do not hold."""
MAX_INSTANCES = 6_000
_MAX_PAIRS = 30
_UNIT = Fraction(1, 2**53)
_TINY = Fraction(1, 2**1000)  # more than half of the smallest subnormal
_LARGEST = Fraction(2**1024 - 2**971)

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Bool:
    """It is exactly true; it is exactly false."""

    t: Any
    f: Any


@dataclass(frozen=True)
class Value:
    """A number or a string: whether there is one, which, and what a double may be beside finite."""

    ok: Any
    v: Any
    kind: str
    infinite: bool = False
    nan: bool = False


@dataclass(frozen=True)
class Part:
    """A message, list or map: whether it is there, and where."""

    ok: Any
    path: Path
    shape: Shape | None


Known = Bool | Value | Part


@dataclass(frozen=True, eq=False)
class View:
    """An element of a list or map that a formula speaks of."""

    number: int
    present: Any


@dataclass(eq=False)
class Collection:
    """A list or map of the document, its views, and what is said of all its elements."""

    path: Path
    shape: ListOf | MapOf
    views: list[View] = field(default_factory=list)
    said: list[Callable[[View], None]] = field(default_factory=list)
    length: Any = None
    counts: list[tuple[Any, Callable[[View], Any]]] = field(default_factory=list)

    def counted(self) -> Iterator[Any]:
        """What holds where the views are all the elements there are, each another."""
        yield self.length == z3.Sum([z3.If(view.present, 1, 0) for view in self.views])
        for number, passes in self.counts:
            yield number == z3.Sum([z3.If(z3.And(view.present, passes(view)), 1, 0) for view in self.views])


@dataclass(frozen=True)
class Element:
    """What a loop variable stands for."""

    value: Known
    name: Any
    of: Path | None = None
    """The map of which it is a key, and of which `at` is its value."""
    at: Path | None = None


Env = tuple[Element, ...]


TRUE, FALSE = z3.BoolVal(True), z3.BoolVal(False)  # the only ones, so that identity tells a constant


def conj(*parts: Any) -> Any:
    """Return the conjunction, folded where parts are constants."""
    kept = [part for part in parts if part is not TRUE]
    if any(part is FALSE for part in kept):
        return FALSE
    return TRUE if not kept else kept[0] if len(kept) == 1 else z3.And(*kept)


def disj(*parts: Any) -> Any:
    """Return the disjunction, likewise."""
    kept = [part for part in parts if part is not FALSE]
    if any(part is TRUE for part in kept):
        return TRUE
    return FALSE if not kept else kept[0] if len(kept) == 1 else z3.Or(*kept)


def neg(part: Any) -> Any:
    """Return the negation, likewise."""
    if part is TRUE or part is FALSE:
        return FALSE if part is TRUE else TRUE
    return z3.Not(part)


class World:
    """One document of a stage; `facts()` must be asserted with whatever is said of it."""

    def __init__(self, stage: Stage, *, exact: bool) -> None:
        """`exact` takes doubles for reals: to find documents only, never to prove."""
        self.exact = exact
        self.scalars: dict[Path, tuple[Any, Scalar]] = {}
        self.collections: dict[Path, Collection] = {}
        self.texts: dict[str, int] = {}
        self.predicates: dict[tuple[str, str], Any] = {}
        self.text_length: Any = z3.Function("length", z3.IntSort(), z3.IntSort())
        self.measured = False
        """Whether the length of any string was asked for."""
        self.rounds = False
        """Whether any operation on doubles needs rounding."""
        self.cut_short = False
        """Whether there was more to be told to views than is told; a proof is sound all the same."""
        self._stage = stage
        self._facts: list[Any] = []
        self._count = 0
        self._instances = 0
        self._rounded: list[tuple[Any, Any]] = []
        self._representable: dict[int, Any] = {}
        self._strings_seen: dict[int, Any] = {}
        self._waiting: deque[tuple[Callable[[View], None], View]] = deque()

    def state(self, *facts: Any) -> None:
        """Take something for known."""
        self._facts += facts

    def number(self) -> int:
        """Return a number that nothing else has."""
        self._count += 1
        return self._count

    def new(self, name: str, sort: Any) -> Any:
        """Return a variable that nothing else names."""
        return z3.Const(f"{name}!{self.number()}", sort)

    def at(self, path: Path, shape: Shape | None, ok: Any) -> Known:
        """Return what stands at a path of the document."""
        if not isinstance(shape, Scalar):
            return Part(ok, path, shape)
        variable = self._variable(path, shape)
        if shape.kind == "bool":
            return Bool(conj(ok, variable), conj(ok, neg(variable)))
        return self.string(ok, variable) if shape.kind == "string" else Value(ok, variable, shape.kind)

    def variable(self, path: Path) -> Any:
        """Return the variable of a scalar of the document."""
        shape: Shape = SHAPES[self._stage]
        for name in path:
            if isinstance(shape, Message):
                shape = shape.fields[name]
        return self._variable(path, shape if isinstance(shape, Scalar) else STRING)

    def _variable(self, path: Path, shape: Scalar) -> Any:
        if path in self.scalars:
            return self.scalars[path][0]
        name = ".".join(map(str, path))
        if shape.kind == "bool":
            variable = z3.Bool(name)
        elif shape.kind == "double":
            variable = z3.Real(name)
            low = real(Fraction(shape.low) if shape.low is not None else -_LARGEST)
            high = real(Fraction(shape.high) if shape.high is not None else _LARGEST)
            self._facts += [variable >= low, variable <= high]
            self.represented(variable)
        else:
            variable = z3.Int(name)
        if shape.kind == "int":
            low, high = interval(Term("field", (), None, shape)) or (-MAX_INTEGER, MAX_INTEGER)
            self._facts += [variable >= int(low), variable <= int(high)]
        if shape.choices:
            self._facts.append(disj(*(variable == self.text(choice) for choice in shape.choices)))
        self.scalars[path] = variable, shape
        return variable

    # --- doubles ---

    def represented(self, value: Any) -> None:
        """Remember a double that needs no rounding, so that rounding others keeps their order to it."""
        self._representable.setdefault(value.get_id(), value)

    def rounded(self, exact: Any, *, infinite: bool) -> Any:
        """Return what a real becomes as a double; `infinite` where it may be too large for one."""
        self.rounds = True
        if self.exact:
            return exact
        rounded = self.new("rounded", z3.RealSort())
        over, under = real(1 + _UNIT), real(1 - _UNIT)
        tiny = real(_TINY)
        close = z3.And(
            z3.Implies(exact >= 0, z3.And(rounded <= exact * over + tiny, rounded >= exact * under - tiny)),
            z3.Implies(exact <= 0, z3.And(rounded >= exact * over - tiny, rounded <= exact * under + tiny)),
        )
        within = z3.And(exact <= real(_LARGEST), exact >= real(-_LARGEST))
        self._facts.append(z3.Implies(within, close) if infinite else close)
        self._rounded.append((exact, rounded))
        return rounded

    def _roundings(self) -> Iterator[Any]:
        """Rounding keeps the order: among what is rounded, and to what needs no rounding."""
        zero = real(Fraction(0))
        for exact, rounded in self._rounded:
            for fixed in [zero, *list(self._representable.values())[:_MAX_PAIRS]]:
                yield z3.Implies(exact <= fixed, rounded <= fixed)
                yield z3.Implies(exact >= fixed, rounded >= fixed)
            for other, settled in self._rounded[:_MAX_PAIRS]:
                if other is not exact:
                    yield z3.Implies(exact <= other, rounded <= settled)
                    # what was rounded is a double itself, unless it became infinite
                    yield z3.Implies(exact <= settled, rounded <= settled)
                    yield z3.Implies(exact >= settled, rounded >= settled)

    # --- strings ---

    def text(self, text: str) -> int:
        """Return the number of a text."""
        return self.texts.setdefault(text, len(self.texts))

    def string(self, ok: Any, value: Any) -> Value:
        """Return a string, of which from now on all is told that is known of strings."""
        self._strings_seen.setdefault(value.get_id(), value)
        return Value(ok, value, "string")

    def says(self, name: str, part: str, whole: Any) -> Any:
        """Return the proposition that `whole.name(part)` is true: `startsWith`, `endsWith` or `contains`."""
        self.text(part)
        key = (name, part)
        if key not in self.predicates:
            self.predicates[key] = z3.Function(f"{name} {part}", z3.IntSort(), z3.BoolSort())
        return self.predicates[key](whole)

    def _strings(self) -> Iterator[Any]:
        """What is known of every string that is spoken of."""
        for text, number in self.texts.items():
            for (name, part), said in self.predicates.items():
                yield said(z3.IntVal(number)) if satisfies(name, text, part) else neg(said(z3.IntVal(number)))
            if self.measured:
                yield self.text_length(z3.IntVal(number)) == len(text)
        if not (self.predicates or self.measured):
            return
        texts = [v for path, (v, s) in self.scalars.items() if s.kind == "string" and path[0] != UNKNOWN]
        bounded = {variable.get_id() for variable in texts}
        implied = [
            (a, b, c) for a in self.predicates for b in self.predicates if a != b for c in [_relation(a, b)] if c
        ]
        for value in self._strings_seen.values():
            for a, b, relation in implied:
                left, right = self.predicates[a](value), self.predicates[b](value)
                yield z3.Implies(left, right) if relation == "implies" else neg(conj(left, right))
            for (_, part), said in self.predicates.items():
                if part == "":
                    yield said(value)
                elif self.measured:
                    yield z3.Implies(said(value), self.text_length(value) >= len(part))
            if self.measured:
                size = self.text_length(value)
                yield size >= 0
                if value.get_id() in bounded:
                    yield size <= MAX_TEXT
                yield (size == 0) == (value == self.text(""))

    # --- lists and maps ---

    def collection(self, part: Part) -> Collection:
        """Return what is known of the list or map at a place."""
        if part.path not in self.collections:
            if not isinstance(part.shape, ListOf | MapOf):
                raise TypeError("no list or map")
            made = Collection(part.path, part.shape)
            made.length = z3.Int(f"size {'.'.join(map(str, part.path))}")
            self._facts.append(made.length >= 0)
            if part.path[0] != UNKNOWN:
                self._facts.append(made.length <= MAX_ITEMS)
            self.collections[part.path] = made
            # a collection that is not empty has an element
            some, _ = self.some(made, lambda _: TRUE)
            self._facts.append(some == (made.length >= 1))
        return self.collections[part.path]

    def some(self, collection: Collection, said: Callable[[View], Any]) -> tuple[Any, View | None]:
        """Return the proposition that some element satisfies a condition, and the view that does if any does."""
        witness = View(self.number(), self.new("present", z3.BoolSort()))
        of_witness = said(witness)
        if of_witness is FALSE:
            return FALSE, None
        some = self.new("some", z3.BoolSort())
        self._facts.append(some == conj(witness.present, of_witness))
        for view in collection.views:
            self._waiting.append((lambda v: self._facts.append(z3.Implies(conj(v.present, said(v)), some)), view))
        collection.said.append(lambda v: self._facts.append(z3.Implies(conj(v.present, said(v)), some)))
        collection.views.append(witness)
        # what is said of all is told to the new one too, but for what it was made for
        self._waiting += [(rule, witness) for rule in collection.said[:-1]]
        return some, witness

    def element(self, collection: Collection, view: View) -> Element:
        """Return what a loop variable stands for at a view."""
        path = (*collection.path, view)
        if isinstance(collection.shape, MapOf):
            key = self.at((*path, "@key"), STRING, TRUE)
            return Element(key, view, collection.path, (*path, "@value"))
        return Element(self.at(path, collection.shape.item, TRUE), view)

    def key_of(self, collection: Collection, view: View) -> Any:
        """Return the key of a map's element."""
        return self._variable((*collection.path, view, "@key"), STRING)

    # --- the whole ---

    def facts(self) -> list[Any]:
        """Return all that is known, after everything was said; what is said of all is told to every view."""
        while self._waiting:
            if self._instances >= MAX_INSTANCES:
                self.cut_short = True
                break
            self._instances += 1
            rule, view = self._waiting.popleft()
            rule(view)
        return [*self._facts, *self._same_keys(), *self._roundings(), *self._strings()]

    def _same_keys(self) -> Iterator[Any]:
        """A key of a map has one value."""
        by_view: dict[View, dict[Path, Any]] = {}
        for path, (variable, _) in self.scalars.items():
            for index, part in enumerate(path):
                if isinstance(part, View):
                    by_view.setdefault(part, {})[path[index + 1 :]] = variable
        for collection in self.collections.values():
            if not isinstance(collection.shape, MapOf):
                continue
            for i, one in enumerate(collection.views):
                for two in collection.views[:i]:
                    a, b = by_view.get(one, {}), by_view.get(two, {})
                    key: Path = ("@key",)
                    shared = [suffix for suffix in a if suffix in b and suffix != key]
                    if key in a and key in b and shared:
                        same = conj(one.present, two.present, a[key] == b[key])
                        yield z3.Implies(same, conj(*(a[suffix] == b[suffix] for suffix in shared)))


def satisfies(name: str, text: str, part: str) -> bool:
    """Return what a predicate says of two texts."""
    return {"startsWith": text.startswith, "endsWith": text.endswith}.get(name, lambda p: p in text)(part)


def _relation(a: tuple[str, str], b: tuple[str, str]) -> str:
    """Return whether one predicate implies another, or excludes it, whatever the string; or neither."""
    (name, text), (other, part) = a, b
    if name == other == "startsWith":
        return "implies" if text.startswith(part) else "" if part.startswith(text) else "excludes"
    if name == other == "endsWith":
        return "implies" if text.endswith(part) else "" if part.endswith(text) else "excludes"
    return "implies" if other == "contains" and part in text else ""


def real(value: Fraction) -> Any:
    """Return a constant."""
    return z3.RealVal(f"{value.numerator}/{value.denominator}")
