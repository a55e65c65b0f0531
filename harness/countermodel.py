"""Inside the solver's process: for each goal a proof, or a document that the engine, too, judges better with NEW.

A goal is a rule of OLD. What would refute it is a document that does not satisfy the rule while the rules of NEW let it
go further; if there is none, with every rounding considered, the goal is proved. Else documents are looked for among
the reals, the plain ones first, and each is judged by the engine here, too, so that only what holds is handed on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import z3

from harness.base_document import base_document
from harness.judgement import judge_document, rank
from harness.policy import PolicySet, policy_set_of
from harness.policy_compiler import CompiledPolicy, compile_policy
from harness.policy_document import SHAPES, ListOf, MapOf, Message, Scalar, Shape, Stage
from harness.policy_file import PolicySource
from harness.records import Kind
from harness.solver import Goal, Question, Solved
from harness.symbolic import Encoder
from harness.symbolic_document import Collection, World, conj, disj, neg
from harness.terms import RuleTerm, rule_terms

_MODELS = 4  # documents that are tried of each kind before the next kind is looked for
_SHARE = 0.5  # of the time that is left, for one goal


@dataclass
class _Side:
    """One of the two sets."""

    policies: PolicySet
    compiled: list[CompiledPolicy]
    terms: dict[str, list[RuleTerm]]

    @classmethod
    def of(cls, sources: Sequence[dict[str, Any]]) -> _Side:
        """Compile the sources."""
        policies = policy_set_of([PolicySource.parse(source) for source in sources])
        compiled = [compile_policy(policy) for policy in policies.policies]
        return cls(policies, compiled, {found.policy.name: rule_terms(found) for found in compiled})

    def rules(self, stage: Stage, kind: Kind) -> list[RuleTerm]:
        """Return the rules that apply."""
        return [rule for policy in self.policies.applicable(stage, kind) for rule in self.terms[policy.name]]


def main(memory: int) -> None:
    """Answer the question on stdin, a line for each goal."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for answer in answers(Question.parse(json.loads(sys.stdin.buffer.read()))):
        os.write(1, json.dumps(answer.json_value()).encode() + b"\n")


def answers(question: Question) -> Iterator[Solved]:
    """Yield an answer for each goal, in order."""
    deadline = time.monotonic() + question.seconds
    old, new = _Side.of(question.old), _Side.of(question.new)
    for index, goal in enumerate(question.goals):
        yield _answer(index, goal, old, new, deadline)


def _answer(index: int, goal: Goal, old: _Side, new: _Side, deadline: float) -> Solved:
    """Return a proof, a document, or what stopped both.

    The premises start with the rule of the same name. Where a document that is found fails other rules of NEW in the
    engine, these become premises, too: so no more of a large set is encoded than has a say.
    """
    rule = next(r for r in old.rules(goal.stage, goal.kinds[0]) if r.name == goal.rule)
    rules = new.rules(goal.stage, goal.kinds[0])
    premises = [r for r in rules if r.name == goal.rule]
    end = time.monotonic() + _SHARE * max(deadline - time.monotonic(), 0)
    unknown: dict[str, None] = {}
    for exact, start in ((True, premises), (False, premises), (False, _near(rule, rules)), (True, rules)):
        premises = _union(rules, premises, start)
        query = _Query(goal, rule, premises, exact=exact)
        while True:
            unknown |= dict.fromkeys(query.encoder.unknown)
            if query.check(end) == z3.unsat:
                if exact and query.world.rounds:
                    break  # among the reals only
                return Solved(goal=index, proved=True)
            failed: set[str] = set()
            for document in query.documents(end):
                weaker, failed = _judged(goal.stage, document, old, new)
                if weaker:
                    return Solved(goal=index, document=document)
                failed -= {premise.name for premise in premises}
                if failed:
                    break
            if not failed:
                break
            premises = _union(rules, premises, [r for r in rules if r.name in failed])
            query = _Query(goal, rule, premises, exact=exact)
    why = "there may be a document that OLD stops and NEW does not, but none was found that the engine confirms"
    if time.monotonic() > end:
        why = "the solver took too long"
    return Solved(goal=index, why=why, constructs=list(unknown))


def _union(rules: Sequence[RuleTerm], some: Sequence[RuleTerm], more: Sequence[RuleTerm]) -> list[RuleTerm]:
    """Return the rules that stand in either, in their order."""
    names = {r.name for r in (*some, *more)}
    return [r for r in rules if r.name in names]


def _near(rule: RuleTerm, rules: Sequence[RuleTerm]) -> list[RuleTerm]:
    """Return the rules that hang together with one through what they read."""
    reads, near = set(rule.reads), set[str]()
    while more := {r.name for r in rules if r.name not in near and r.reads & reads}:
        near |= more
        reads |= {path for r in rules if r.name in more for path in r.reads}
    return [r for r in rules if r.name in near]


def _judged(stage: Stage, document: dict[str, Any], old: _Side, new: _Side) -> tuple[bool, set[str]]:
    """Return whether NEW is weaker on a document, and the rules of NEW that it does not satisfy."""
    kind = document["proposal"]["kind"]
    before = judge_document(old.compiled, stage, kind, document)
    after = judge_document(new.compiled, stage, kind, document)
    return rank(after) < rank(before) and bool(after.verdicts), set(after.failed)


class _Query:
    """Whether there is a document that does not satisfy a rule of OLD, while rules of NEW let it go further."""

    def __init__(self, goal: Goal, rule: RuleTerm, premises: Sequence[RuleTerm], *, exact: bool) -> None:
        self._goal = goal
        self.world = World(goal.stage, exact=exact)
        self.encoder = Encoder(self.world)
        self.solver = z3.Solver()
        kind = self.world.variable(("proposal", "kind"))
        self.solver.add(disj(*(kind == self.world.text(name) for name in goal.kinds)))
        old = self.encoder.rule(rule.term)
        new = [(premise, self.encoder.rule(premise.term)) for premise in premises]
        # what is denied by neither a failure of a rule that denies nor an error: held at most
        held = conj(*(v.t if p.otherwise == "deny" else disj(v.t, v.f) for p, v in new))
        # what is stopped less than the rule stops: not by any rule of its strength
        passed = conj(*(v.t if p.strength >= rule.strength else disj(v.t, v.f) for p, v in new))
        if rule.otherwise == "deny":
            self.solver.add(neg(old.t), held)
        else:
            broken = conj(neg(old.t), neg(old.f))
            self.solver.add(disj(conj(old.f, passed), conj(broken, held)))
        self.solver.add(*self.world.facts())

    def check(self, end: float, *more: Any) -> Any:
        """Return z3's answer, within the time that is left."""
        left = int(1000 * (end - time.monotonic()))
        if left <= 0:
            return z3.unknown
        self.solver.set("timeout", left)
        return self.solver.check(*more)

    def documents(self, end: float) -> Iterator[dict[str, Any]]:
        """Yield documents of models, those with short lists and plain numbers first."""
        world, goal = self.world, self._goal
        short = [collection.length <= max(8, len(collection.views)) for collection in world.collections.values()]
        if world.measured:
            texts = [variable for variable, shape in world.scalars.values() if shape.kind == "string"]
            short += [world.text_length(variable) <= 80 for variable in texts]
        whole = [fact for collection in world.collections.values() for fact in collection.counted()]
        doubles = [variable for variable, shape in world.scalars.values() if shape.kind == "double"]
        plain = [z3.And(z3.IsInt(variable * 1024), variable <= 2**20, variable >= -(2**20)) for variable in doubles]
        usual = base_document(goal.stage)["proposal"]["kind"]
        kind = [world.variable(("proposal", "kind")) == world.text(usual)] if usual in goal.kinds else []
        for assumed in ([*short, *whole, *plain, *kind], [*short, *plain, *kind], [*short, *kind], []):
            for _ in range(_MODELS):
                if self.check(end, *assumed) != z3.sat:
                    break
                model = self.solver.model()
                yield _Builder(model, world).document(goal)
                seen = [v for v, _ in world.scalars.values() if model[v] is not None][:40]
                self.solver.add(disj(*(v != model[v] for v in seen)))


class _Builder:
    """From a model to the document that it describes, as far as it does."""

    def __init__(self, model: Any, world: World) -> None:
        self._model, self._world = model, world
        self._texts = {number: text for text, number in world.texts.items()}

    def document(self, goal: Goal) -> dict[str, Any]:
        """Return an ordinary document, with what the model says in its place."""
        base = base_document(goal.stage)
        made: dict[str, Any] = self._value((), SHAPES[goal.stage], base)
        return made

    def _value(self, path: tuple[Any, ...], shape: Shape, default: Any) -> Any:
        if isinstance(shape, Scalar):
            return self._scalar(path, shape, default)
        if isinstance(shape, Message):
            return {name: self._value((*path, name), part, default[name]) for name, part in shape.fields.items()}
        collection = self._world.collections.get(path)
        return default if collection is None else self._collection(collection, shape)

    def _collection(self, collection: Collection, shape: ListOf | MapOf) -> Any:
        views = [view for view in collection.views if self._true(view.present)]
        length = self._model.eval(collection.length, model_completion=True).as_long()
        plain = _plain(shape.item)
        if isinstance(shape, MapOf):
            entries: dict[str, Any] = {}
            for view in views:
                key = self._scalar((*collection.path, view, "@key"), Scalar("string"), f"key{len(entries)}")
                found = self._value((*collection.path, view, "@value"), shape.item, entries.get(key, plain))
                entries[key] = found
            first = next(iter(entries.values()), plain)
            for index in range(length - len(entries)):
                entries[f"more{index}"] = first
            return entries
        items: list[Any] = []
        for view in views:
            item = self._value((*collection.path, view), shape.item, plain)
            if item not in items or len(views) <= length:
                items.append(item)
        return items + [items[0] if items else plain] * (length - len(items))

    def _true(self, term: Any) -> bool:
        return bool(z3.is_true(self._model.eval(term, model_completion=True)))

    def _scalar(self, path: tuple[Any, ...], shape: Scalar, default: Any) -> Any:
        known = self._world.scalars.get(path)
        if known is None:
            return default
        value = self._model.eval(known[0], model_completion=True)
        if shape.kind == "bool":
            return bool(z3.is_true(value))
        if shape.kind == "int":
            return value.as_long()
        if shape.kind == "double":
            if not z3.is_rational_value(value):
                value = value.approx(40)
            return float(Fraction(value.numerator_as_long(), value.denominator_as_long()))
        return self._text(value.as_long())

    def _text(self, number: int) -> str:
        """Return a text of which all is true that the model says of its number, if one is easily found."""
        if number not in self._texts:
            said: dict[str, list[str]] = {"startsWith": [], "endsWith": [], "contains": []}
            for (name, part), predicate in self._world.predicates.items():
                if self._true(predicate(z3.IntVal(number))):
                    said[name].append(part)
            start, end = max(said["startsWith"], key=len, default=""), max(said["endsWith"], key=len, default="")
            middle = "".join(part for part in said["contains"] if part not in start + end)
            text = f"{start}{middle}{end}"
            length = None
            if self._world.measured:
                size = self._world.text_length(z3.IntVal(number))
                length = self._model.eval(size, model_completion=True).as_long()
            taken = set(self._texts.values())
            for filler in (f"~{abs(number)}", *map(chr, range(ord("a"), ord("z")))):
                wanted = 0 if length is None else max(0, min(length, 20_000) - len(text))
                fill = (filler * (wanted + 1))[:wanted] if length is not None else filler
                tried = f"{start}{middle}{fill}{end}"
                if tried not in taken and (said["startsWith"] or said["endsWith"] or tried):
                    text = tried
                    break
            self._texts[number] = text
        return self._texts[number]


def _plain(shape: Shape) -> Any:
    """Return an ordinary value of a shape, for what a model does not say."""
    if isinstance(shape, ListOf):
        return []
    if isinstance(shape, MapOf):
        return {}
    if isinstance(shape, Message):
        return {name: _plain(part) for name, part in shape.fields.items()}
    if shape.kind == "string":
        return shape.choices[0] if shape.choices else "x"
    if shape.kind == "bool":
        return True
    low = 0 if shape.low is None else shape.low
    return float(low) if shape.kind == "double" else int(low)
