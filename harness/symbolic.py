"""Rules as z3 formulas about any document: what a proof by the solver rests on.

A boolean is a pair: "it is exactly true" and "it is exactly false"; neither of them is an error. Ints are exact, and an
overflow is an error. Whatever this version does not follow (division, ordering and concatenation of strings,
conversions, an index) becomes a value of which nothing is known but that the same term has it again, which keeps proofs
sound, too; `unknown` names the places.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import z3

from harness.policy_document import MapOf, Scalar
from harness.symbolic_document import FALSE, TRUE, UNKNOWN, Bool, Env, Known, Part, Value, conj, disj, neg, real
from harness.symbolic_ranges import Ranges, free
from harness.term_facts import cannot_fail, interval
from harness.terms import Term

_INT64 = 2**63


class Encoder(Ranges):
    """Encodes rules over one document."""

    @property
    def unknown(self) -> list[str]:
        """What was not followed, each with its place."""
        cut = ["policies: loops within loops, too many to follow"] if self.world.cut_short else []
        return [*self.noted, *cut]

    def rule(self, term: Term) -> Bool:
        """Return when a rule is exactly true and exactly false."""
        value = self.encode(term, ())
        return value if isinstance(value, Bool) else self._opaque_bool(term)

    def encode(self, term: Term, env: Env) -> Known:
        """Return what a term is; the same for the same term of the same elements."""
        key = (term, tuple(env[-1 - i].name for i in sorted(free(term))))
        if key not in self.memo:
            self.memo[key] = self._fresh_encoding(term, env)
        found: Known = self.memo[key]
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
            whole = self.encode(term.args[0], env)
            if isinstance(whole, Part):
                return self.world.at((*whole.path, term.value), term.shape, whole.ok)
        if term.op in ("get", "has"):
            return self._key(term, env)
        if term.op == "strict":
            return self._strict(term, env)
        if term.op == "loop" and term.value in ("all", "exists"):
            return self.quantified(term, env)
        if term.op == "loop" and term.value == "exists_one":
            number = self.size_of(Term("loop", term.args, "filter", term.args[0].shape, term.place), env, term)
            return Bool(conj(number.ok, number.v == 1), conj(number.ok, number.v != 1))
        if term.op == "call":
            return self._call(term, env)
        return self.opaque(term)

    def _constant(self, term: Term) -> Known:
        kind, value = term.value[0], term.value[1]
        if kind == "bool":
            return Bool(TRUE, FALSE) if value else Bool(FALSE, TRUE)
        if kind == "string":
            return self.world.string(TRUE, z3.IntVal(self.world.text(value)))
        if kind == "int":
            return Value(TRUE, z3.IntVal(value), "int")
        number = real(Fraction(value))
        self.world.represented(number)
        return Value(TRUE, number, "double")

    def _strict(self, term: Term, env: Env) -> Known:
        *needed, body = term.args
        ok = conj(*(self.ok(need, env) for need in needed))
        value = self.boolean(body, env)
        return Bool(conj(ok, value.t), conj(ok, value.f))

    def opaque(self, term: Term) -> Known:
        """Return a value of which nothing is known but the type."""
        what = term.value if term.op in ("call", "loop") else getattr(term.value, "what", term.op)
        self.noted[f"{term.place}: {_WORDS.get(what, what)}"] = None
        if not isinstance(term.shape, Scalar):
            return Part(self.world.new("ok", z3.BoolSort()), (UNKNOWN, self.world.number()), term.shape)
        if term.shape.kind == "bool":
            return self._opaque_bool(term)
        ok = TRUE if cannot_fail(term) else self.world.new("ok", z3.BoolSort())
        if term.shape.kind == "string":
            return self.world.string(ok, self.world.new("text", z3.IntSort()))
        if term.shape.kind == "double":
            return Value(ok, self.world.new("double", z3.RealSort()), "double", infinite=True, nan=True)
        variable = self.world.new("int", z3.IntSort())
        low, high = interval(term) or (-_INT64, _INT64 - 1)
        self.world.state(variable >= int(low), variable <= int(high))
        return Value(ok, variable, "int")

    def _opaque_bool(self, term: Term) -> Bool:
        t, f = self.world.new("true", z3.BoolSort()), self.world.new("false", z3.BoolSort())
        self.world.state(z3.Xor(t, f) if cannot_fail(term) else neg(conj(t, f)))
        return Bool(t, f)

    def boolean(self, term: Term, env: Env) -> Bool:
        """Return what a condition is."""
        value = self.encode(term, env)
        return value if isinstance(value, Bool) else self._opaque_bool(term)

    def _call(self, term: Term, env: Env) -> Known:
        function = term.value
        if function in ("_&&_", "_||_"):
            a, b = (self.boolean(arg, env) for arg in term.args)
            if function == "_&&_":
                return Bool(conj(a.t, b.t), disj(a.f, b.f))
            return Bool(disj(a.t, b.t), conj(a.f, b.f))
        if function == "!_":
            a = self.boolean(term.args[0], env)
            return Bool(a.f, a.t)
        if function == "_?_:_":
            return self._choice(term, env)
        if function in ("_==_", "_!=_"):
            same = self._equal(term, env)
            return same if function == "_==_" else Bool(same.f, same.t)
        if function in ("_<_", "_<=_", "_>_", "_>=_"):
            return self._less(term, env)
        if function == "@in":
            return self.member(term, env)
        if function == "size" and len(term.args) == 1:
            return self._size(term, env)
        if function in ("startsWith", "endsWith", "contains"):
            return self._predicate(term, env)
        return self._arithmetic(term, env)

    def _choice(self, term: Term, env: Env) -> Known:
        condition = self.boolean(term.args[0], env)
        a, b = (self.encode(arg, env) for arg in term.args[1:])
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
        return self.opaque(term)

    def _equal(self, term: Term, env: Env) -> Bool:
        a, b = (self.encode(arg, env) for arg in term.args)
        if isinstance(a, Bool) and isinstance(b, Bool):
            return Bool(disj(conj(a.t, b.t), conj(a.f, b.f)), disj(conj(a.t, b.f), conj(a.f, b.t)))
        if isinstance(a, Value) and isinstance(b, Value) and a.kind == b.kind and not (a.nan or b.nan):
            ok = conj(a.ok, b.ok)
            return Bool(conj(ok, a.v == b.v), conj(ok, a.v != b.v))
        self.opaque(term)
        return self._opaque_bool(term)

    def _less(self, term: Term, env: Env) -> Known:
        a, b = (self.encode(arg, env) for arg in term.args)
        numbers = isinstance(a, Value) and isinstance(b, Value) and a.kind == b.kind in ("int", "double")
        if not (numbers and isinstance(a, Value) and isinstance(b, Value)) or a.nan or b.nan:
            return self.opaque(term)
        ok = conj(a.ok, b.ok)
        if term.value in ("_>_", "_>=_"):
            a, b = b, a
        less = a.v < b.v if term.value in ("_<_", "_>_") else a.v <= b.v
        return Bool(conj(ok, less), conj(ok, neg(less)))

    def _arithmetic(self, term: Term, env: Env) -> Known:
        function = term.value
        values = [self.encode(arg, env) for arg in term.args]
        numbers = [v for v in values if isinstance(v, Value) and v.kind in ("int", "double")]
        if len(numbers) != len(values) or any(v.infinite or v.nan for v in numbers):
            return self.opaque(term)
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
            return self.opaque(term)
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
            return self.opaque(term)
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
        whole, part = (self.encode(arg, env) for arg in term.args)
        text = term.args[1].constant
        if not (isinstance(whole, Value) and isinstance(part, Value) and isinstance(text, str)):
            return self.opaque(term)
        said = self.world.says(term.value, text, whole.v)
        return Bool(conj(whole.ok, said), conj(whole.ok, neg(said)))

    def _size(self, term: Term, env: Env) -> Known:
        source = term.args[0]
        if isinstance(source.shape, Scalar):
            value = self.encode(source, env)
            if not isinstance(value, Value):
                return self.opaque(term)
            self.world.measured = True
            return Value(value.ok, self.world.text_length(value.v), "int")
        return self.size_of(source, env, term)

    def _key(self, term: Term, env: Env) -> Known:
        """A key of a map: whether it is there (`has`), and its value (`get`)."""
        source, key = term.args
        if source.op == "map":
            return self.opaque(term)
        whole = self.encode(source, env)
        if not (isinstance(whole, Part) and isinstance(whole.shape, MapOf)):
            return self.opaque(term)
        if key.op == "bound":
            element = env[-1 - key.value]
            if element.of == whole.path and element.at is not None:
                return Bool(whole.ok, FALSE) if term.op == "has" else self.world.at(element.at, term.shape, whole.ok)
        wanted = self.encode(key, env)
        if not isinstance(wanted, Value):
            return self.opaque(term)
        collection = self.world.collection(whole)
        memo = ("key", whole.path, wanted.v.get_id())
        if memo not in self.memo:
            self.memo[memo] = self.world.some(collection, lambda view: self.world.key_of(collection, view) == wanted.v)
        there, view = self.memo[memo]
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
    "_+_": "a sum that is no sum of numbers, or may be infinite",
    "_-_": "a difference that may be infinite",
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
