"""The meaning of a rule as a term: what a proof about rules reads, decoded from the compiler's own tree.

Params are substituted and variables expanded, macros are recognised (`all`, `exists`, `exists_one`, `filter`, `map`),
loop variables are de Bruijn indices, so that renaming one makes no other rule. What this version does not know
becomes an opaque term, equal to nothing.

Rules: a variable is evaluated before the rules that name it, so that one which fails breaks them, even where it would
not be reached; `strict` keeps the variables beside the term that uses them. A message's fields are always
there, because the canonicaliser has seen to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from harness.canonical import digest_json
from harness.expression import Expression
from harness.policy_compiler import CompiledPolicy, where_of
from harness.policy_document import SHAPES, ListOf, MapOf, Message, Scalar, Shape

BOOL, INT, DOUBLE, STRING = Scalar("bool"), Scalar("int"), Scalar("double"), Scalar("string")
_PRIMITIVES = {1: BOOL, 2: INT, 4: DOUBLE, 5: STRING}  # checked.proto, Type.PrimitiveType

Op = Literal[
    "const", "list", "map", "doc", "bound", "element", "field", "get", "at", "has", "call", "loop", "strict", "?"
]


@dataclass(frozen=True)
class Term:
    """A term; equal where it means the same, wherever it stands.

    `value` is, by `op`: the kind and the value of a constant; the name of a part of the document, a field, a function
    or a macro; the index of a loop variable; what makes an element or an opaque term unlike all others.
    """

    op: Op
    args: tuple[Term, ...] = ()
    value: Any = None
    shape: Shape | None = field(default=None, compare=False)
    place: str = field(default="", compare=False)

    @cached_property
    def _key(self) -> int:
        return hash((self.op, self.args, self.value))

    def __hash__(self) -> int:
        """Once for each term: they are deep, and looked up often."""
        return self._key

    def walk(self) -> Iterator[Term]:
        """Yield every term."""
        waiting = [self]
        while waiting:
            term = waiting.pop()
            yield term
            waiting.extend(term.args)

    @property
    def constant(self) -> Any:
        """The value of a constant scalar, or None."""
        return self.value[1] if self.op == "const" else None


@dataclass(frozen=True)
class RuleTerm:
    """A rule as a proof sees it; `source` names all that it is made of, so that equal sources mean equal rules."""

    policy: str
    rule: str
    where: str
    otherwise: Literal["deny", "hold"]
    of_people: bool
    """It reads the approvals: where it holds, no quorum answers it."""
    term: Term
    source: str

    @property
    def name(self) -> str:
        """policy/rule."""
        return f"{self.policy}/{self.rule}"

    @property
    def strength(self) -> int:
        """How far it stops what does not satisfy it: as `judgement.rank` has it."""
        return 3 if self.otherwise == "deny" else 2 if self.of_people else 1

    @cached_property
    def reads(self) -> frozenset[str]:
        """The parts of the document that it reads, as far as they can be told apart."""
        return frozenset(_paths(self.term))


def constant(value: Any, place: str = "") -> Term:
    """Return the term of a param's or a literal's value."""
    if isinstance(value, list):
        items = tuple(constant(item, place) for item in value)
        return Term("list", items, None, ListOf(items[0].shape or STRING) if items else None, place)
    if isinstance(value, dict):
        items = tuple(constant(part, place) for pair in value.items() for part in pair)
        return Term("map", items, None, MapOf(items[1].shape or STRING), place)
    if isinstance(value, float) and not math.isfinite(value):
        return opaque(DOUBLE, place, "a number that is not finite")
    shape = {bool: BOOL, int: INT, float: DOUBLE, str: STRING}[type(value)]
    # the sign of a zero is a difference, too, to a division
    key = (shape.kind, value, value.hex()) if isinstance(value, float) else (shape.kind, value)
    return Term("const", (), key, shape, place)


def opaque(shape: Shape | None, place: str, what: str) -> Term:
    """Return a term of which nothing is known, equal to no other."""
    return Term("?", (), _Unlike(what), shape, place)


class _Unlike:
    """A mark that is equal to itself only."""

    def __init__(self, what: str) -> None:
        self.what = what


def rule_terms(compiled: CompiledPolicy) -> list[RuleTerm]:
    """Return the rules of a policy as terms."""
    policy, document = compiled.policy, compiled.policy.document
    params = {name: constant(value) for name, value in policy.params.items()}
    scope: dict[str, Term] = {}
    needs: dict[str, tuple[Term, ...]] = {}

    def decode(expression: Expression, path: tuple[str | int, ...]) -> Term:
        def where(line: int, column: int) -> str:
            return where_of(policy.located, path, line, column)

        parts = {**SHAPES[policy.stage].fields}
        return _Decoder(expression.tree, parts, params, scope, where).decode(expression.tree.root, ())

    def needed(expression: Expression) -> tuple[Term, ...]:
        return tuple(dict.fromkeys(term for name in sorted(expression.names & needs.keys()) for term in needs[name]))

    indices = {variable.name: index for index, variable in enumerate(document.variables)}
    for name, expression in compiled.variables:
        term = decode(expression, ("variables", indices[name], "expr"))
        before = needed(expression)
        scope[name] = term
        needs[name] = (*before, term)
    made = []
    variables = [variable.json_value() for variable in document.variables]
    for index, rule in enumerate(compiled.rules):
        term = decode(rule.require, ("rules", index, "require"))
        before = needed(rule.require)
        if before:
            term = Term("strict", (*before, term), None, BOOL, term.place)
        source = digest_json([rule.rule.require, policy.stage, variables, policy.params])
        made.append(RuleTerm(policy.name, rule.rule.id, rule.where, rule.rule.otherwise, rule.of_people, term, source))
    return made


class _Decoder:
    """From the checked tree of one expression to its term."""

    def __init__(
        self,
        tree: Any,
        parts: dict[str, Shape],
        params: dict[str, Term],
        scope: dict[str, Term],
        where: Callable[[int, int], str],
    ) -> None:
        self._tree, self._parts, self._params, self._scope, self._where = tree, parts, params, scope, where

    def decode(self, node: Any, env: tuple[tuple[str, Shape | None], ...]) -> Term:
        """Return the term of a node; `env` are the loop variables around it, the innermost last."""
        place = self._where(*self._tree.position(node))
        kind = node.WhichOneof("kind")
        if kind == "const":
            which = node.const.WhichOneof("kind")
            return constant(getattr(node.const, which), place) if which else self._opaque(node, place, "a literal")
        if kind == "ident":
            return self._ident(node, env, place)
        if kind == "select":
            return self._select(node, env, place)
        if kind == "call":
            return self._call(node, env, place)
        if kind == "list":
            items = tuple(self.decode(item, env) for item in node.list.elements)
            shape = _common([item.shape for item in items])
            return Term("list", items, None, ListOf(shape) if shape else None, place)
        if kind == "loop":
            return self._loop(node, env, place)
        return self._opaque(node, place, "a map or a message that is made in the rule")

    def _opaque(self, node: Any, place: str, what: str) -> Term:
        return opaque(_PRIMITIVES.get(self._tree.primitive(node)), place, what)

    def _ident(self, node: Any, env: tuple[tuple[str, Shape | None], ...], place: str) -> Term:
        name = node.ident.name
        for index, (variable, shape) in enumerate(reversed(env)):
            if variable == name:
                return Term("bound", (), index, shape, place)
        if name in self._scope:
            return self._scope[name]
        if name in self._parts:
            return Term("doc", (), name, self._parts[name], place)
        return self._opaque(node, place, f"the name {name}")

    def _select(self, node: Any, env: tuple[tuple[str, Shape | None], ...], place: str) -> Term:
        select, name = node.select, node.select.field
        inner = select.operand
        if inner.HasField("ident") and inner.ident.name == "params" and "params" not in [v for v, _ in env]:
            return constant(True, place) if select.test else self._params[name]
        operand = self.decode(inner, env)
        if isinstance(operand.shape, Message):
            if select.test:
                return constant(True, place)
            return Term("field", (operand,), name, operand.shape.fields[name], place)
        if isinstance(operand.shape, MapOf):
            key = constant(name, place)
            if operand.op == "map":
                found = {k.value: v for k, v in zip(operand.args[::2], operand.args[1::2], strict=True)}.get(key.value)
                if select.test:
                    return constant(found is not None, place)
                return found or self._opaque(node, place, f"the key {name}, which params do not have")
            if select.test:
                return Term("has", (operand, key), None, BOOL, place)
            return Term("get", (operand, key), None, operand.shape.item, place)
        return self._opaque(node, place, "a field of something that this version cannot follow")

    def _call(self, node: Any, env: tuple[tuple[str, Shape | None], ...], place: str) -> Term:
        call = node.call
        nodes = ([call.target] if call.HasField("target") else []) + list(call.args)
        args = tuple(self.decode(arg, env) for arg in nodes)
        if call.function not in ("size", "@in") and any(map(_unordered, args)):
            return self._opaque(node, place, "the order of a map's keys, of which there is none")
        if call.function == "_[_]":
            if isinstance(args[0].shape, MapOf):
                return Term("get", args, None, args[0].shape.item, place)
            item = args[0].shape.item if isinstance(args[0].shape, ListOf) else None
            return Term("at", args, None, item, place)
        if call.function == "@in" and isinstance(args[1].shape, MapOf):
            return Term("has", (args[1], args[0]), None, BOOL, place)
        shape: Shape | None = _PRIMITIVES.get(self._tree.primitive(node))
        if shape is None and call.function == "_?_:_":
            shape = args[1].shape if args[1].shape == args[2].shape else None
        return Term("call", args, call.function, shape, place)

    def _loop(self, node: Any, env: tuple[tuple[str, Shape | None], ...], place: str) -> Term:
        loop = node.loop
        source = self.decode(loop.range, env)
        inner = (*env, (loop.variable, element_shape(source)))
        accumulator, step = loop.accumulator, loop.step.call
        start = loop.start.WhichOneof("kind")
        if start == "const" and len(step.args) == 2 and _names(step.args[0], accumulator):
            macro = {"_&&_": "all", "_||_": "exists"}.get(step.function)
            if macro and loop.start.const.bool == (macro == "all") and _names(loop.result, accumulator):
                return Term("loop", (source, self.decode(step.args[1], inner)), macro, BOOL, place)
        if start == "const" and step.function == "_?_:_" and loop.result.call.function == "_==_":
            return Term("loop", (source, self.decode(step.args[0], inner)), "exists_one", BOOL, place)
        if start == "list" and _names(loop.result, accumulator):
            if step.function == "_?_:_" and _names(step.args[2], accumulator):
                kept = Term("loop", (source, self.decode(step.args[0], inner)), "filter", listed(source), place)
                made = self._appended(step.args[1], accumulator)
                if made is not None and _names(made, loop.variable):
                    return kept
                if made is not None:
                    return self._map(kept, made, inner, place)
            made = self._appended(loop.step, accumulator)
            if made is not None:
                return self._map(source, made, inner, place)
        return self._opaque(node, place, "a loop that is no macro of this version")

    def _map(self, source: Term, made: Any, inner: tuple[tuple[str, Shape | None], ...], place: str) -> Term:
        body = self.decode(made, inner)
        return Term("loop", (source, body), "map", ListOf(body.shape) if body.shape else None, place)

    @staticmethod
    def _appended(node: Any, accumulator: str) -> Any:
        """Return what `accumulator + [x]` appends, or None."""
        call = node.call
        if call.function == "_+_" and _names(call.args[0], accumulator) and len(call.args[1].list.elements) == 1:
            return call.args[1].list.elements[0]
        return None


def _common(shapes: list[Shape | None]) -> Shape | None:
    """Return a shape that fits all: of scalars without the ranges, as these are only some of the items'."""
    first = shapes[0] if shapes else None
    if isinstance(first, Scalar):
        return Scalar(first.kind)
    return first if all(shape == first for shape in shapes) else None


def _names(node: Any, name: str) -> bool:
    return bool(node.HasField("ident")) and node.ident.name == name


def element_shape(source: Term) -> Shape | None:
    """Return the shape of what a loop over a term runs through: of a map, its keys."""
    if isinstance(source.shape, MapOf):
        return STRING
    return source.shape.item if isinstance(source.shape, ListOf) else None


def listed(source: Term) -> Shape | None:
    """Return the shape of the list of what a loop runs through."""
    item = element_shape(source)
    return ListOf(item) if item else None


def instantiate(body: Term, element: Term, depth: int = 0) -> Term:
    """Return a loop's body with a closed term in place of its variable."""
    if body.op == "bound":
        return element if body.value == depth else body
    if not body.args:
        return body
    inner = depth + 1 if body.op == "loop" else depth
    first = depth if body.op == "loop" else inner
    args = tuple(instantiate(arg, element, first if i == 0 else inner) for i, arg in enumerate(body.args))
    if all(a is b for a, b in zip(args, body.args, strict=True)):
        return body
    return Term(body.op, args, body.value, body.shape, body.place)


def _unordered(term: Term) -> bool:
    """Return whether a term is a list in the order of a map's keys, which may be another each time."""
    while term.op == "loop" and term.value in ("filter", "map"):
        term = term.args[0]
        if isinstance(term.shape, MapOf):
            return True
    return False


def _paths(term: Term) -> Iterator[str]:
    """Yield the longest dotted paths of message fields from the document's root."""
    waiting = [term]
    while waiting:
        found = waiting.pop()
        parts: list[str] = []
        inner = found
        while inner.op == "field":
            parts.append(inner.value)
            inner = inner.args[0]
        if inner.op == "doc":
            yield ".".join((inner.value, *reversed(parts)))
        else:
            waiting.extend(inner.args if parts else found.args)
