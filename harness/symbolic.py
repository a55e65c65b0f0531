"""Rules as z3 formulas about any document whatever its size: what a proof by the solver rests on.

A boolean is a pair: "it is exactly true" and "it is exactly false"; neither of them is an error. A list or a map is
known by *views*: elements of it that a formula speaks of. That some element satisfies a condition gives a view that
does, and what holds of all is told to every view. So no bound on the length of a list enters a proof: leaving out an
instance only weakens what is assumed, and "no such document" stays true.

Numbers: ints are exact, and an overflow is an error. Doubles are reals, and each operation on them is rounded by what
holds of every rounding: the error is relative, and the order is kept, also to what needs no rounding (`exact` leaves
the rounding out, to find documents, never to prove). Strings are numbers, with what is known of `startsWith`,
`endsWith`, `contains` and `size`.

Whatever else there is (division, ordering and concatenation of strings, conversions, an index) becomes a value of which
nothing is known but that the same term has it again; `unknown` names the places. That keeps proofs sound, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any

import z3

from harness.policy_document import MAX_INTEGER, MAX_ITEMS, SHAPES, ListOf, MapOf, Message, Scalar, Shape, Stage
from harness.terms import STRING, Term, cannot_fail, interval

MAX_INSTANCES = 12_000
_MAX_PAIRS = 30
_UNIT = Fraction(1, 2**53)
_TINY = Fraction(1, 2**1000)  # more than half of the smallest subnormal
_LARGEST = Fraction(2**1024 - 2**970)
_INT64 = 2**63

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


@lru_cache(maxsize=100_000)
def free(term: Term) -> frozenset[int]:
    """Return the indices of loops around a term whose variables it names."""
    if term.op == "bound":
        return frozenset({term.value})
    found: frozenset[int] = frozenset()
    for index, arg in enumerate(term.args):
        inner = free(arg)
        found |= frozenset(i - 1 for i in inner if i) if term.op == "loop" and index else inner
    return found


class Encoder:
    """Encodes rules over one document of a stage; `facts()` must be asserted with what they give."""

    def __init__(self, stage: Stage, *, exact: bool) -> None:
        """`exact` takes doubles for reals: to find documents only."""
        self.stage = stage
        self.exact = exact
        self.unknown: dict[str, None] = {}
        self.scalars: dict[Path, tuple[Any, Scalar]] = {}
        self.collections: dict[Path, Collection] = {}
        self.texts: dict[str, int] = {}
        self.predicates: dict[tuple[str, str], Any] = {}
        self.string_terms: dict[int, Any] = {}
        self.text_length: Any = z3.Function("length", z3.IntSort(), z3.IntSort())
        self.measured = False
        self._facts: list[Any] = []
        self._memo: dict[Any, Any] = {}
        self._count = 0
        self._instances = 0
        self._rounded: list[tuple[Any, Any]] = []
        self._representable: dict[int, Any] = {}
        self._waiting: list[tuple[Callable[[View], None], View]] = []

    # --- terms -----------------------------------------------------------------------------------------

    def rule(self, term: Term) -> Bool:
        """Return when a rule is exactly true and exactly false."""
        value = self._encode(term, ())
        return value if isinstance(value, Bool) else self._opaque_bool(term, ())

    def _encode(self, term: Term, env: Env) -> Known:
        key = (term, tuple(env[-1 - i].name for i in sorted(free(term))))
        if key not in self._memo:
            self._memo[key] = self._fresh_encoding(term, env)
        found: Known = self._memo[key]
        return found

    def _fresh_encoding(self, term: Term, env: Env) -> Known:
        if term.op == "const":
            return self._constant(term)
        if term.op == "doc":
            return self._at((term.value,), term.shape, TRUE)
        if term.op == "bound":
            return env[-1 - term.value].value
        if term.op == "field":
            whole = self._encode(term.args[0], env)
            if isinstance(whole, Part):
                return self._at((*whole.path, term.value), term.shape, whole.ok)
        if term.op in ("get", "has"):
            return self._key(term, env)
        if term.op == "strict":
            return self._strict(term, env)
        if term.op == "loop" and term.value in ("all", "exists"):
            return self._quantified(term, env)
        if term.op == "loop" and term.value == "exists_one":
            number = self._size_of(Term("loop", term.args, "filter", term.args[0].shape, term.place), env, term)
            return Bool(conj(number.ok, number.v == 1), conj(number.ok, number.v != 1))
        if term.op == "call":
            return self._call(term, env)
        return self._opaque(term, env)

    def _constant(self, term: Term) -> Known:
        kind, value = term.value[0], term.value[1]
        if kind == "bool":
            return Bool(TRUE, FALSE) if value else Bool(FALSE, TRUE)
        true = TRUE
        if kind == "string":
            return self._string(true, z3.IntVal(self.text(value)))
        if kind == "int":
            return Value(true, z3.IntVal(value), "int")
        number = _real(Fraction(value))
        self._represented(number)
        return Value(true, number, "double")

    def _strict(self, term: Term, env: Env) -> Known:
        *needed, body = term.args
        ok = conj(*(self._ok(need, env) for need in needed))
        value = self._boolean(body, env)
        return Bool(conj(ok, value.t), conj(ok, value.f))

    def _ok(self, term: Term, env: Env) -> Any:
        """Return when a term has a value."""
        if term.op == "loop" and term.value in ("filter", "map"):
            return self._size_of(term, env, term).ok
        value = self._encode(term, env)
        return disj(value.t, value.f) if isinstance(value, Bool) else value.ok

    def _at(self, path: Path, shape: Shape | None, ok: Any) -> Known:
        """Return what stands at a path of the document."""
        if not isinstance(shape, Scalar):
            return Part(ok, path, shape)
        variable = self._variable(path, shape)
        if shape.kind == "bool":
            return Bool(conj(ok, variable), conj(ok, neg(variable)))
        return self._string(ok, variable) if shape.kind == "string" else Value(ok, variable, shape.kind)

    def variable(self, path: Path) -> Any:
        """Return the variable of a scalar of the document."""
        shape: Shape = SHAPES[self.stage]
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
            low = _real(Fraction(shape.low) if shape.low is not None else -_LARGEST)
            high = _real(Fraction(shape.high) if shape.high is not None else _LARGEST)
            self._facts += [variable >= low, variable <= high]
            self._represented(variable)
        else:
            variable = z3.Int(name)
        if shape.kind == "int":
            low, high = interval(Term("field", (), None, shape)) or (-MAX_INTEGER, MAX_INTEGER)
            self._facts += [variable >= int(low), variable <= int(high)]
        if shape.choices:
            self._facts.append(disj(*(variable == self.text(choice) for choice in shape.choices)))
        self.scalars[path] = variable, shape
        return variable

    # --- what is not known ---------------------------------------------------------------------------------

    def _opaque(self, term: Term, env: Env) -> Known:
        """Return a value of which nothing is known but the type."""
        what = term.value if term.op in ("call", "loop") else getattr(term.value, "what", term.op)
        self.unknown[f"{term.place}: {_WORDS.get(what, what)}"] = None
        if not isinstance(term.shape, Scalar):
            return Part(self._new("ok", z3.BoolSort()), ("?", self._number()), term.shape)
        if term.shape.kind == "bool":
            return self._opaque_bool(term, env)
        ok = TRUE if cannot_fail(term) else self._new("ok", z3.BoolSort())
        if term.shape.kind == "string":
            return self._string(ok, self._new("text", z3.IntSort()))
        if term.shape.kind == "double":
            return Value(ok, self._new("double", z3.RealSort()), "double", infinite=True, nan=True)
        variable = self._new("int", z3.IntSort())
        low, high = interval(term) or (-_INT64, _INT64 - 1)
        self._facts += [variable >= int(low), variable <= int(high)]
        return Value(ok, variable, "int")

    def _opaque_bool(self, term: Term, env: Env) -> Bool:
        t, f = self._new("true", z3.BoolSort()), self._new("false", z3.BoolSort())
        del env
        self._facts.append(z3.Xor(t, f) if cannot_fail(term) else neg(conj(t, f)))
        return Bool(t, f)

    def _number(self) -> int:
        self._count += 1
        return self._count

    def _new(self, name: str, sort: Any) -> Any:
        return z3.Const(f"{name}!{self._number()}", sort)

    def _boolean(self, term: Term, env: Env) -> Bool:
        value = self._encode(term, env)
        return value if isinstance(value, Bool) else self._opaque_bool(term, env)

    # --- calls ---------------------------------------------------------------------------------------------

    def _call(self, term: Term, env: Env) -> Known:
        function = term.value
        if function in ("_&&_", "_||_"):
            a, b = (self._boolean(arg, env) for arg in term.args)
            if function == "_&&_":
                return Bool(conj(a.t, b.t), disj(a.f, b.f))
            return Bool(disj(a.t, b.t), conj(a.f, b.f))
        if function == "!_":
            a = self._boolean(term.args[0], env)
            return Bool(a.f, a.t)
        if function == "_?_:_":
            return self._choice(term, env)
        if function in ("_==_", "_!=_"):
            same = self._equal(term, env)
            return same if function == "_==_" else Bool(same.f, same.t)
        if function in ("_<_", "_<=_", "_>_", "_>=_"):
            return self._less(term, env)
        if function == "@in":
            return self._member(term, env)
        if function == "size" and len(term.args) == 1:
            return self._size(term, env)
        if function in ("startsWith", "endsWith", "contains"):
            return self._predicate(term, env)
        return self._arithmetic(term, env)

    def _choice(self, term: Term, env: Env) -> Known:
        condition = self._boolean(term.args[0], env)
        a, b = (self._encode(arg, env) for arg in term.args[1:])
        if isinstance(a, Bool) and isinstance(b, Bool):
            return Bool(
                disj(conj(condition.t, a.t), conj(condition.f, b.t)),
                disj(conj(condition.t, a.f), conj(condition.f, b.f)),
            )
        if isinstance(a, Value) and isinstance(b, Value) and a.kind == b.kind:
            ok = disj(conj(condition.t, a.ok), conj(condition.f, b.ok))
            chosen = z3.If(condition.t, a.v, b.v)
            if a.kind == "string":
                return self._string(ok, chosen)
            return Value(ok, chosen, a.kind, a.infinite or b.infinite, a.nan or b.nan)
        return self._opaque(term, env)

    def _equal(self, term: Term, env: Env) -> Bool:
        a, b = (self._encode(arg, env) for arg in term.args)
        if isinstance(a, Bool) and isinstance(b, Bool):
            return Bool(disj(conj(a.t, b.t), conj(a.f, b.f)), disj(conj(a.t, b.f), conj(a.f, b.t)))
        if isinstance(a, Value) and isinstance(b, Value) and a.kind == b.kind and not (a.nan or b.nan):
            ok = conj(a.ok, b.ok)
            return Bool(conj(ok, a.v == b.v), conj(ok, a.v != b.v))
        self._opaque(term, env)
        return self._opaque_bool(term, env)

    def _less(self, term: Term, env: Env) -> Known:
        a, b = (self._encode(arg, env) for arg in term.args)
        numbers = isinstance(a, Value) and isinstance(b, Value) and a.kind == b.kind in ("int", "double")
        if not (numbers and isinstance(a, Value) and isinstance(b, Value)) or a.nan or b.nan:
            return self._opaque(term, env)
        ok = conj(a.ok, b.ok)
        if term.value in ("_>_", "_>=_"):
            a, b = b, a
        less = a.v < b.v if term.value in ("_<_", "_>_") else a.v <= b.v
        return Bool(conj(ok, less), conj(ok, neg(less)))

    def _arithmetic(self, term: Term, env: Env) -> Known:
        function = term.value
        values = [self._encode(arg, env) for arg in term.args]
        numbers = [v for v in values if isinstance(v, Value) and v.kind in ("int", "double")]
        if len(numbers) != len(values) or any(v.infinite or v.nan for v in numbers):
            return self._opaque(term, env)
        ok = conj(*(v.ok for v in numbers))
        kinds = {v.kind for v in numbers}
        if function == "double" and kinds == {"int"}:
            exact = z3.ToReal(numbers[0].v)
            bounds = interval(term.args[0])
            if bounds is not None and max(-bounds[0], bounds[1]) <= 2**53:
                self._represented(exact)
                return Value(ok, exact, "double")
            return self._round(term, ok, exact)
        if len(kinds) != 1:
            return self._opaque(term, env)
        v = [number.v for number in numbers]
        if function == "-_":
            result = -v[0]
        elif function == "_+_" and len(v) == 2:
            result = v[0] + v[1]
        elif function == "_-_":
            result = v[0] - v[1]
        elif function == "_*_" and any(map(_is_numeral, v)):
            result = v[0] * v[1]
        elif function == "_/_" and kinds == {"double"} and _is_numeral(v[1]) and v[1].as_fraction() != 0:
            result = v[0] / v[1]
        else:
            return self._opaque(term, env)
        if kinds == {"int"}:
            return Value(conj(ok, result >= -_INT64, result < _INT64), result, "int")
        if function == "-_":
            self._represented(result)
            return Value(ok, result, "double")
        return self._round(term, ok, result)

    # --- doubles ---------------------------------------------------------------------------------------------

    def _represented(self, value: Any) -> None:
        """Remember a double that needs no rounding, so that rounding others keeps their order to it."""
        self._representable.setdefault(value.get_id(), value)

    def _round(self, term: Term, ok: Any, exact: Any) -> Value:
        infinite = interval(term) is None
        if self.exact:
            return Value(ok, exact, "double", infinite=infinite)
        rounded = self._new("rounded", z3.RealSort())
        close = conj(
            z3.Implies(
                exact >= 0,
                z3.And(
                    rounded <= exact * _real(1 + _UNIT) + _real(_TINY),
                    rounded >= exact * _real(1 - _UNIT) - _real(_TINY),
                ),
            ),
            z3.Implies(
                exact <= 0,
                z3.And(
                    rounded >= exact * _real(1 + _UNIT) - _real(_TINY),
                    rounded <= exact * _real(1 - _UNIT) + _real(_TINY),
                ),
            ),
        )
        within = z3.And(exact <= _real(_LARGEST), exact >= _real(-_LARGEST))
        self._facts.append(z3.Implies(within, close) if infinite else close)
        self._rounded.append((exact, rounded))
        return Value(ok, rounded, "double", infinite=infinite)

    def _roundings(self) -> Iterator[Any]:
        """Rounding keeps the order: among what is rounded, and to what needs no rounding."""
        zero = _real(Fraction(0))
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

    # --- strings ---------------------------------------------------------------------------------------------

    def text(self, text: str) -> int:
        """Return the number of a text."""
        return self.texts.setdefault(text, len(self.texts))

    def _string(self, ok: Any, value: Any) -> Value:
        self.string_terms.setdefault(value.get_id(), value)
        return Value(ok, value, "string")

    def _predicate(self, term: Term, env: Env) -> Known:
        whole, part = (self._encode(arg, env) for arg in term.args)
        text = term.args[1].constant
        if not (isinstance(whole, Value) and isinstance(part, Value) and isinstance(text, str)):
            return self._opaque(term, env)
        self.text(text)
        key = (term.value, text)
        if key not in self.predicates:
            self.predicates[key] = z3.Function(f"{term.value} {text}", z3.IntSort(), z3.BoolSort())
        said = self.predicates[key](whole.v)
        return Bool(conj(whole.ok, said), conj(whole.ok, neg(said)))

    def _strings(self) -> Iterator[Any]:
        """What is known of every string that is spoken of."""
        for text, number in self.texts.items():
            for (name, part), said in self.predicates.items():
                yield said(z3.IntVal(number)) if satisfies(name, text, part) else neg(said(z3.IntVal(number)))
            if self.measured:
                yield self.text_length(z3.IntVal(number)) == len(text)
        if not (self.predicates or self.measured):
            return
        implied = [
            (a, b, c) for a in self.predicates for b in self.predicates if a != b for c in [_relation(a, b)] if c
        ]
        for value in self.string_terms.values():
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
                yield (size == 0) == (value == self.text(""))

    # --- lists and maps -----------------------------------------------------------------------------------------

    def _collection(self, part: Part) -> Collection:
        if part.path not in self.collections:
            if not isinstance(part.shape, ListOf | MapOf):
                raise TypeError("no list or map")
            made = Collection(part.path, part.shape)
            made.length = z3.Int(f"size {'.'.join(map(str, part.path))}")
            self._facts += [made.length >= 0, made.length <= MAX_ITEMS]
            self.collections[part.path] = made
            # a collection that is not empty has an element
            some, _ = self._some(made, lambda _: TRUE)
            self._facts.append(some == (made.length >= 1))
        return self.collections[part.path]

    def _some(self, collection: Collection, said: Callable[[View], Any]) -> tuple[Any, View | None]:
        """Return the proposition that some element satisfies a condition, and the view that does if any does."""
        witness = View(self._number(), self._new("present", z3.BoolSort()))
        of_witness = said(witness)
        if of_witness is FALSE:
            return FALSE, None
        some = self._new("some", z3.BoolSort())
        self._facts.append(some == conj(witness.present, of_witness))
        for view in collection.views:
            self._waiting.append((lambda v: self._facts.append(z3.Implies(conj(v.present, said(v)), some)), view))
        collection.said.append(lambda v: self._facts.append(z3.Implies(conj(v.present, said(v)), some)))
        collection.views.append(witness)
        # what is said of all is told to the new one too, but for what it was made for
        self._waiting += [(rule, witness) for rule in collection.said[:-1]]
        return some, witness

    def _element(self, collection: Collection, view: View) -> Element:
        path = (*collection.path, view)
        if isinstance(collection.shape, MapOf):
            key = self._at((*path, "@key"), STRING, TRUE)
            return Element(key, view, collection.path, (*path, "@value"))
        return Element(self._at(path, collection.shape.item, TRUE), view)

    def _item(self, item: Term, env: Env) -> tuple[Known, Any]:
        """Return an item of a list that is written out, and its name: the same wherever it stands."""
        return self._encode(item, env), (item, tuple(env[-1 - i].name for i in sorted(free(item))))

    def _layers(self, source: Term, env: Env) -> tuple[Part | list[tuple[Known, Any]] | None, list[Term]]:
        """Return what a chain of filters and maps runs over in the end, and the chain, the innermost first."""
        layers: list[Term] = []
        while source.op == "loop" and source.value in ("filter", "map"):
            layers.insert(0, source)
            source = source.args[0]
        if source.op == "list":
            return [self._item(item, env) for item in source.args], layers
        if source.op == "map":
            return [self._item(item, env) for item in source.args[::2]], layers
        base = self._encode(source, env)
        return (base if isinstance(base, Part) and isinstance(base.shape, ListOf | MapOf) else None), layers

    def _through(self, layers: list[Term], element: Element, env: Env) -> tuple[Any, Any, Element]:
        """Return when an element passes the filters, when they fail on it, and what it becomes by the maps."""
        passes, fails = TRUE, FALSE
        for layer in layers:
            inner = (*env, element)
            if layer.value == "filter":
                kept = self._boolean(layer.args[1], inner)
                fails = disj(fails, conj(passes, neg(kept.t), neg(kept.f)))
                passes = conj(passes, kept.t)
                continue
            value = self._encode(layer.args[1], inner)
            ok = self._ok(layer.args[1], inner)
            fails = disj(fails, conj(passes, neg(ok)))
            element = Element(value, (layer, tuple(e.name for e in inner)))
        return passes, fails, element

    def _over(
        self, source: Term, env: Env, condition: Callable[[Element], tuple[Any, Any]]
    ) -> tuple[Any, Any, Any, Any] | None:
        """Return whether the range has a value, and whether some element meets each of two conditions, and fails.

        The range may be a constant list, or filters and maps over a list or map of the document.
        """
        base, layers = self._layers(source, env)
        if base is None:
            return None

        def triple(element: Element) -> tuple[Any, Any, Any]:
            passes, fails, last = self._through(layers, element, env)
            first, second = condition(last)
            return conj(passes, first), conj(passes, second), fails

        if isinstance(base, list):
            found = [triple(Element(value, name)) for value, name in base]
            ok = conj(*(self._value_ok(value) for value, _ in base))
            sums = [disj(*column) for column in zip(*found, strict=True)] or [FALSE] * 3
            return conj(ok, neg(sums[2])), sums[0], sums[1], TRUE
        collection = self._collection(base)
        cache: dict[int, tuple[Any, Any, Any]] = {}

        def of(view: View, index: int) -> Any:
            if view.number not in cache:
                cache[view.number] = triple(self._element(collection, view))
            return cache[view.number][index]

        sums = [self._some(collection, lambda view, i=i: of(view, i))[0] for i in (2, 0, 1)]
        return conj(base.ok, neg(sums[0])), sums[1], sums[2], collection

    @staticmethod
    def _value_ok(value: Known) -> Any:
        return disj(value.t, value.f) if isinstance(value, Bool) else value.ok

    def _quantified(self, term: Term, env: Env) -> Known:
        source, body = term.args
        universal = term.value == "all"

        def decides(element: Element) -> tuple[Any, Any]:
            value = self._boolean(body, (*env, element))
            return (value.f if universal else value.t), conj(neg(value.t), neg(value.f))

        found = self._over(source, env, decides)
        if found is None:
            return self._opaque(term, env)
        ok, decided, failed, _ = found
        yes, no = conj(ok, decided), conj(ok, neg(decided), neg(failed))
        return Bool(no, yes) if universal else Bool(yes, no)

    def _member(self, term: Term, env: Env) -> Known:
        wanted, source = self._encode(term.args[0], env), term.args[1]
        if not isinstance(wanted, Value) or wanted.nan:
            return self._opaque(term, env)
        comparable = True

        def equals(element: Element) -> tuple[Any, Any]:
            nonlocal comparable
            found = element.value
            if not isinstance(found, Value) or found.kind != wanted.kind or found.nan:
                comparable = False
                return FALSE, FALSE
            return found.v == wanted.v, FALSE

        found = self._over(source, env, equals)
        if found is None or not comparable:
            return self._opaque(term, env)
        ok = conj(found[0], wanted.ok)
        return Bool(conj(ok, found[1]), conj(ok, neg(found[1])))

    def _size(self, term: Term, env: Env) -> Known:
        source = term.args[0]
        if isinstance(source.shape, Scalar):
            value = self._encode(source, env)
            if not isinstance(value, Value):
                return self._opaque(term, env)
            self.measured = True
            return Value(value.ok, self.text_length(value.v), "int")
        return self._size_of(source, env, term)

    def _size_of(self, source: Term, env: Env, whole: Term) -> Value:
        """Return how many elements a range has."""
        key = ("size", source, tuple(env[-1 - i].name for i in sorted(free(source))))
        if key in self._memo:
            found: Value = self._memo[key]
            return found
        base, layers = self._layers(source, env)
        filtered = any(layer.value == "filter" for layer in layers)
        if base is None:
            self.unknown[f"{whole.place}: the size of what this version cannot follow"] = None
            number = self._new("number", z3.IntSort())
            self._facts.append(number >= 0)
            made = Value(self._new("ok", z3.BoolSort()), number, "int")
        elif isinstance(base, list):
            parts = [self._through(layers, Element(value, name), env) for value, name in base]
            total = z3.Sum([z3.If(passes, 1, 0) for passes, _, _ in parts]) if parts else z3.IntVal(0)
            ok = conj(*(neg(fails) for _, fails, _ in parts), *(self._value_ok(value) for value, _ in base))
            made = Value(ok, total if filtered else z3.IntVal(len(base)), "int")
        else:
            made = self._counted(base, layers, env, filtered=filtered)
        self._memo[key] = made
        return made

    def _counted(self, base: Part, layers: list[Term], env: Env, *, filtered: bool) -> Value:
        collection = self._collection(base)
        cache: dict[int, tuple[Any, Any]] = {}

        def of(view: View) -> tuple[Any, Any]:
            if view.number not in cache:
                cache[view.number] = self._through(layers, self._element(collection, view), env)[:2]
            return cache[view.number]

        ok = base.ok
        if layers:
            ok = conj(ok, neg(self._some(collection, lambda view: of(view)[1])[0]))
        if not filtered:
            return Value(ok, collection.length, "int")
        number = self._new("number", z3.IntSort())
        self._facts += [number >= 0, number <= collection.length]
        self._facts.append((number >= 1) == self._some(collection, lambda view: of(view)[0])[0])
        self._facts.append((number < collection.length) == self._some(collection, lambda view: neg(of(view)[0]))[0])
        for other, passes in collection.counts[:8]:
            # more of one than of the other: there is one that only the first keeps
            for more, less, one, two in (
                (number, other, lambda v: of(v)[0], passes),
                (other, number, passes, lambda v: of(v)[0]),
            ):
                apart, _ = self._some(collection, lambda v, one=one, two=two: conj(one(v), neg(two(v))))
                self._facts.append(z3.Implies(more > less, apart))
        collection.counts.append((number, lambda view: of(view)[0]))
        return Value(ok, number, "int")

    def _key(self, term: Term, env: Env) -> Known:
        """A key of a map: whether it is there (`has`), and its value (`get`)."""
        source, key = term.args
        if source.op == "map":
            return self._opaque(term, env)
        whole = self._encode(source, env)
        if not (isinstance(whole, Part) and isinstance(whole.shape, MapOf)):
            return self._opaque(term, env)
        if key.op == "bound":
            element = env[-1 - key.value]
            if element.of == whole.path and element.at is not None:
                return Bool(whole.ok, FALSE) if term.op == "has" else self._at(element.at, term.shape, whole.ok)
        wanted = self._encode(key, env)
        if not isinstance(wanted, Value):
            return self._opaque(term, env)
        collection = self._collection(whole)
        memo = ("key", whole.path, wanted.v.get_id())
        if memo not in self._memo:
            self._memo[memo] = self._some(collection, lambda view: self._name(collection, view) == wanted.v)
        there, view = self._memo[memo]
        ok = conj(whole.ok, wanted.ok)
        if term.op == "has":
            return Bool(conj(ok, there), conj(ok, neg(there)))
        return self._at((*collection.path, view, "@value"), term.shape, conj(ok, there))

    def _name(self, collection: Collection, view: View) -> Any:
        return self._variable((*collection.path, view, "@key"), STRING)

    # --- the whole ------------------------------------------------------------------------------------------------

    def facts(self) -> list[Any]:
        """Return all that is known, after everything was encoded; what is said of all is told to every view."""
        while self._waiting:
            if self._instances >= MAX_INSTANCES:
                self.unknown["policies: loops within loops, too many to follow"] = None
                break
            self._instances += 1
            rule, view = self._waiting.pop(0)
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


def _real(value: Fraction) -> Any:
    return z3.RealVal(f"{value.numerator}/{value.denominator}")


def _is_numeral(value: Any) -> bool:
    return bool(z3.is_int_value(value) or z3.is_rational_value(value))


_WORDS = {
    "_/_": "a division",
    "_%_": "a remainder",
    "_*_": "a product of two values",
    "_+_": "a sum that is no sum of numbers",
    "_<_": "an ordering of what is not numbers",
    "_<=_": "an ordering of what is not numbers",
    "_>_": "an ordering of what is not numbers",
    "_>=_": "an ordering of what is not numbers",
    "_==_": "equality of lists, maps or messages",
    "_!=_": "equality of lists, maps or messages",
    "@in": "membership in what this version cannot follow",
    "int": "a conversion",
    "string": "a conversion",
    "double": "a conversion",
    "timestamp": "a time",
    "duration": "a time",
    "at": "an index into a list",
    "get": "a key of a map of params",
}
