"""Lists and maps in rules: quantifiers, membership and sizes over what filters and maps make of a range."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import z3

from harness.policy_document import ListOf, MapOf
from harness.symbolic_document import (
    FALSE,
    TRUE,
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
)
from harness.term_facts import cannot_fail
from harness.terms import Term

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


class Ranges(ABC):
    """What an encoder says of ranges; the rest of the terms is for whoever fills in the abstract methods."""

    def __init__(self, world: World) -> None:
        """Say everything of this document."""
        self.world = world
        self.noted: dict[str, None] = {}
        """What was not followed, each with its place."""
        self.memo: dict[Any, Any] = {}

    @abstractmethod
    def encode(self, term: Term, env: Env) -> Known:
        """Return what a term is; the same for the same term of the same elements."""

    @abstractmethod
    def boolean(self, term: Term, env: Env) -> Bool:
        """Return what a condition is."""

    @abstractmethod
    def opaque(self, term: Term) -> Known:
        """Return a value of which nothing is known but the type."""

    def ok(self, term: Term, env: Env) -> Any:
        """Return when a term has a value."""
        if cannot_fail(term):
            return TRUE
        if term.op == "loop" and term.value in ("filter", "map"):
            return self.size_of(term, env, term).ok
        return value_ok(self.encode(term, env))

    def _item(self, item: Term, env: Env) -> tuple[Known, Any]:
        """Return an item of a list that is written out, and its name: the same wherever it stands."""
        return self.encode(item, env), (item, tuple(env[-1 - i].name for i in sorted(free(item))))

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
        base = self.encode(source, env)
        return (base if isinstance(base, Part) and isinstance(base.shape, ListOf | MapOf) else None), layers

    def _through(self, layers: list[Term], element: Element, env: Env) -> tuple[Any, Any, Element]:
        """Return when an element passes the filters, when they fail on it, and what it becomes by the maps."""
        passes, fails = TRUE, FALSE
        for layer in layers:
            inner = (*env, element)
            if layer.value == "filter":
                kept = self.boolean(layer.args[1], inner)
                fails = disj(fails, conj(passes, neg(kept.t), neg(kept.f)))
                passes = conj(passes, kept.t)
                continue
            value = self.encode(layer.args[1], inner)
            ok = self.ok(layer.args[1], inner)
            fails = disj(fails, conj(passes, neg(ok)))
            element = Element(value, (layer, tuple(e.name for e in inner)))
        return passes, fails, element

    def _over(
        self, source: Term, env: Env, condition: Callable[[Element], tuple[Any, Any]]
    ) -> tuple[Any, Any, Any] | None:
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
            ok = conj(*(value_ok(value) for value, _ in base))
            sums = [disj(*column) for column in zip(*found, strict=True)] or [FALSE] * 3
            return conj(ok, neg(sums[2])), sums[0], sums[1]
        collection = self.world.collection(base)
        cache: dict[int, tuple[Any, Any, Any]] = {}

        def of(view: View, index: int) -> Any:
            if view.number not in cache:
                cache[view.number] = triple(self.world.element(collection, view))
            return cache[view.number][index]

        sums = [self.world.some(collection, partial(of, index=i))[0] for i in (2, 0, 1)]
        return conj(base.ok, neg(sums[0])), sums[1], sums[2]

    def quantified(self, term: Term, env: Env) -> Known:
        """Return what `all` or `exists` is."""
        source, body = term.args
        universal = term.value == "all"

        def decides(element: Element) -> tuple[Any, Any]:
            value = self.boolean(body, (*env, element))
            return (value.f if universal else value.t), conj(neg(value.t), neg(value.f))

        found = self._over(source, env, decides)
        if found is None:
            return self.opaque(term)
        ok, decided, failed = found
        yes, no = conj(ok, decided), conj(ok, neg(decided), neg(failed))
        return Bool(no, yes) if universal else Bool(yes, no)

    def member(self, term: Term, env: Env) -> Known:
        """Return what `x in list` is."""
        wanted, source = self.encode(term.args[0], env), term.args[1]
        if not isinstance(wanted, Value) or wanted.nan:
            return self.opaque(term)
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
            return self.opaque(term)
        ok = conj(found[0], wanted.ok)
        return Bool(conj(ok, found[1]), conj(ok, neg(found[1])))

    def size_of(self, source: Term, env: Env, whole: Term) -> Value:
        """Return how many elements a range has."""
        key = ("size", source, tuple(env[-1 - i].name for i in sorted(free(source))))
        if key in self.memo:
            found: Value = self.memo[key]
            return found
        base, layers = self._layers(source, env)
        filtered = any(layer.value == "filter" for layer in layers)
        if base is None:
            self.noted[f"{whole.place}: the size of what this version cannot follow"] = None
            number = self.world.new("number", z3.IntSort())
            self.world.state(number >= 0)
            made = Value(self.world.new("ok", z3.BoolSort()), number, "int")
        elif isinstance(base, list):
            parts = [self._through(layers, Element(value, name), env) for value, name in base]
            total = z3.Sum([z3.If(passes, 1, 0) for passes, _, _ in parts]) if parts else z3.IntVal(0)
            ok = conj(*(neg(fails) for _, fails, _ in parts), *(value_ok(value) for value, _ in base))
            made = Value(ok, total if filtered else z3.IntVal(len(base)), "int")
        else:
            made = self._counted(base, layers, env, filtered=filtered)
        self.memo[key] = made
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


def value_ok(value: Known) -> Any:
    """Return when there is a value."""
    return disj(value.t, value.f) if isinstance(value, Bool) else value.ok
