"""Rules as z3 formulas about any document: what a proof by the solver rests on.

A boolean is a pair: "it is exactly true" and "it is exactly false"; neither of them is an error. Ints are exact, and an
overflow is an error. Whatever this version does not follow (division, ordering and concatenation of strings,
conversions, an index) becomes a value of which nothing is known but that the same term has it again, which keeps proofs
sound, too; `unknown` names the places.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any

import z3

from harness.policy_document import ListOf, MapOf, Scalar
from harness.symbolic_document import (
    FALSE,
    TRUE,
    UNKNOWN,
    Bool,
    Collection,
    Element,
    Env,
    Known,
    Part,
    Value,
    View,
    World,
    conj,
    disj,
    neg,
    real,
)
from harness.terms import Term, cannot_fail, interval

_INT64 = 2**63
_MAX_COUNTS = 8
_Count = tuple[Any, Callable[[View], Any]]


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
    """Encodes rules over one document."""

    def __init__(self, world: World) -> None:
        """Say everything of this document."""
        self.world = world
        self._unknown: dict[str, None] = {}
        self._memo: dict[Any, Any] = {}

    @property
    def unknown(self) -> list[str]:
        """What was not followed, each with its place."""
        cut = ["policies: loops within loops, too many to follow"] if self.world.cut_short else []
        return [*self._unknown, *cut]

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
            return self.world.at((term.value,), term.shape, TRUE)
        if term.op == "bound":
            found: Known = env[-1 - term.value].value
            return found
        if term.op == "field":
            whole = self._encode(term.args[0], env)
            if isinstance(whole, Part):
                return self.world.at((*whole.path, term.value), term.shape, whole.ok)
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
            return self.world.string(true, z3.IntVal(self.world.text(value)))
        if kind == "int":
            return Value(true, z3.IntVal(value), "int")
        number = real(Fraction(value))
        self.world.represented(number)
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

    def _opaque(self, term: Term, env: Env) -> Known:
        """Return a value of which nothing is known but the type."""
        what = term.value if term.op in ("call", "loop") else getattr(term.value, "what", term.op)
        self._unknown[f"{term.place}: {_WORDS.get(what, what)}"] = None
        if not isinstance(term.shape, Scalar):
            return Part(self.world.new("ok", z3.BoolSort()), (UNKNOWN, self.world.number()), term.shape)
        if term.shape.kind == "bool":
            return self._opaque_bool(term, env)
        ok = TRUE if cannot_fail(term) else self.world.new("ok", z3.BoolSort())
        if term.shape.kind == "string":
            return self.world.string(ok, self.world.new("text", z3.IntSort()))
        if term.shape.kind == "double":
            return Value(ok, self.world.new("double", z3.RealSort()), "double", infinite=True, nan=True)
        variable = self.world.new("int", z3.IntSort())
        low, high = interval(term) or (-_INT64, _INT64 - 1)
        self.world.state(variable >= int(low), variable <= int(high))
        return Value(ok, variable, "int")

    def _opaque_bool(self, term: Term, env: Env) -> Bool:
        t, f = self.world.new("true", z3.BoolSort()), self.world.new("false", z3.BoolSort())
        del env
        self.world.state(z3.Xor(t, f) if cannot_fail(term) else neg(conj(t, f)))
        return Bool(t, f)

    def _boolean(self, term: Term, env: Env) -> Bool:
        value = self._encode(term, env)
        return value if isinstance(value, Bool) else self._opaque_bool(term, env)

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
                return self.world.string(ok, chosen)
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
                self.world.represented(exact)
                return Value(ok, exact, "double")
            return self._rounded(term, ok, exact)
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
            self.world.represented(result)
            return Value(ok, result, "double")
        return self._rounded(term, ok, result)

    def _rounded(self, term: Term, ok: Any, exact: Any) -> Value:
        infinite = interval(term) is None
        return Value(ok, self.world.rounded(exact, infinite=infinite), "double", infinite=infinite)

    def _predicate(self, term: Term, env: Env) -> Known:
        whole, part = (self._encode(arg, env) for arg in term.args)
        text = term.args[1].constant
        if not (isinstance(whole, Value) and isinstance(part, Value) and isinstance(text, str)):
            return self._opaque(term, env)
        said = self.world.says(term.value, text, whole.v)
        return Bool(conj(whole.ok, said), conj(whole.ok, neg(said)))

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
        collection = self.world.collection(base)
        cache: dict[int, tuple[Any, Any, Any]] = {}

        def of(view: View, index: int) -> Any:
            if view.number not in cache:
                cache[view.number] = triple(self.world.element(collection, view))
            return cache[view.number][index]

        sums = [self.world.some(collection, partial(of, index=i))[0] for i in (2, 0, 1)]
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
            self.world.measured = True
            return Value(value.ok, self.world.text_length(value.v), "int")
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
            self._unknown[f"{whole.place}: the size of what this version cannot follow"] = None
            number = self.world.new("number", z3.IntSort())
            self.world.state(number >= 0)
            made = Value(self.world.new("ok", z3.BoolSort()), number, "int")
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
        collection = self.world.collection(base)
        cache: dict[int, tuple[Any, Any]] = {}

        def of(view: View) -> tuple[Any, Any]:
            if view.number not in cache:
                cache[view.number] = self._through(layers, self.world.element(collection, view), env)[:2]
            return cache[view.number]

        def first(view: View) -> Any:
            return of(view)[0]

        ok = base.ok
        if layers:
            ok = conj(ok, neg(self.world.some(collection, lambda view: of(view)[1])[0]))
        if not filtered:
            return Value(ok, collection.length, "int")
        number = self.world.new("number", z3.IntSort())
        self.world.state(number >= 0, number <= collection.length)
        self.world.state((number >= 1) == self.world.some(collection, first)[0])
        self.world.state((number < collection.length) == self.world.some(collection, lambda view: neg(first(view)))[0])
        for other, passes in collection.counts[:_MAX_COUNTS]:
            self._apart(collection, (number, first), (other, passes))
            self._apart(collection, (other, passes), (number, first))
        collection.counts.append((number, first))
        return Value(ok, number, "int")

    def _apart(self, collection: Collection, more: _Count, less: _Count) -> None:
        """More of one than of the other: then there is one that only the first keeps."""
        apart, _ = self.world.some(collection, lambda view: conj(more[1](view), neg(less[1](view))))
        self.world.state(z3.Implies(more[0] > less[0], apart))

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
                return Bool(whole.ok, FALSE) if term.op == "has" else self.world.at(element.at, term.shape, whole.ok)
        wanted = self._encode(key, env)
        if not isinstance(wanted, Value):
            return self._opaque(term, env)
        collection = self.world.collection(whole)
        memo = ("key", whole.path, wanted.v.get_id())
        if memo not in self._memo:
            self._memo[memo] = self.world.some(collection, lambda view: self.world.key_of(collection, view) == wanted.v)
        there, view = self._memo[memo]
        ok = conj(whole.ok, wanted.ok)
        if term.op == "has":
            return Bool(conj(ok, there), conj(ok, neg(there)))
        return self.world.at((*collection.path, view, "@value"), term.shape, conj(ok, there))


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
