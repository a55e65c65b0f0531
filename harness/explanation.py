"""Why a rule is true or false: every part of it with its value, by the engine that judged it.

A part is evaluated as the compiler typed it, in the place where it stands; of a macro's items the one that decides is
shown (the first that fails for `all`, the first that does for `exists`). Chains of `&&` and `||` are shown flat, and
every operand of them is evaluated, also what the engine need not have looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from harness.expression import Environment, Expression, in_order, shown
from harness.expression_text import Text
from harness.judgement import judge_document, values_of
from harness.policy_compiler import CompiledPolicy
from harness.policy_document import canonicalise
from harness.records import Record

MAX_PARTS = 400
_LOGIC = ("_&&_", "_||_")


class Part(Record):
    """A piece of an expression, its value, and the pieces it is made of."""

    text: str
    value: Any = None
    """Bounded JSON; {"error": why} where it ended in an error."""
    note: str = ""
    parts: list[Part] = []


class RuleExplanation(Record):
    """A rule's verdict, and how it came about. `passed` is None where it ended in an error."""

    id: str
    where: str
    passed: bool | None
    otherwise: str
    message: str
    tree: Part


class PolicyExplanation(Record):
    """A policy's rules on one document, with its params and variables."""

    policy: str
    params: dict[str, Any]
    variables: list[Part]
    rules: list[RuleExplanation]


class Explanation(Record):
    """What the policies that apply say of one document, and why."""

    stage: str
    kind: str
    outcome: str
    reason: str
    policies: list[PolicyExplanation]


def explain(policies: Sequence[CompiledPolicy], stage: Any, kind: Any, document: Any) -> Explanation:
    """Explain every rule that applies to a document; total, as judging is."""
    judgement = judge_document(policies, stage, kind, document)
    told = []
    for compiled in policies if judgement.verdicts else ():
        verdicts = {v.rule: v for v in judgement.verdicts if v.policy == compiled.policy.name}
        if not verdicts:
            continue
        values, _ = values_of(compiled, canonicalise(stage, document))
        parts = Parts(compiled.environment, values)
        rules = []
        for rule in compiled.rules:
            verdict = verdicts[rule.rule.id]
            rules.append(
                RuleExplanation(
                    id=rule.rule.id,
                    where=verdict.where,
                    passed=verdict.passed,
                    otherwise=verdict.otherwise,
                    message=verdict.message,
                    tree=parts.of(rule.require),
                )
            )
        told.append(
            PolicyExplanation(
                policy=compiled.policy.name,
                params={name: shown(value) for name, value in compiled.policy.params.items()},
                variables=[
                    Part(text=name, note=expression.text, value=shown(values[name]) if name in values else None,
                         parts=[parts.of(expression)])
                    for name, expression in compiled.variables
                ],
                rules=rules,
            )
        )  # fmt: skip
    return Explanation(
        stage=str(stage), kind=str(kind), outcome=judgement.outcome, reason=judgement.reason, policies=told
    )


@dataclass
class _Count:
    left: int = MAX_PARTS


class Parts:
    """Evaluates parts of expressions over one set of values."""

    def __init__(self, environment: Environment, values: dict[str, Any]) -> None:
        """The values are canonical, and hold params and variables."""
        self._environment = environment
        self._values = values

    def of(self, expression: Expression) -> Part:
        """Return an expression's parts with their values."""
        text = text_of(expression)
        return self._part(text, text.tree.root, {}, _Count())

    def value(self, text: Text, node: Any, bound: dict[str, Any]) -> Any:
        """Return a part's plain value, or Failed."""
        return self._environment.run_part(text.tree.part(node), {**self._values, **bound})

    def _part(self, text: Text, node: Any, bound: dict[str, Any], count: _Count) -> Part:
        count.left -= 1
        value = self.value(text, node, bound)
        if text.tree.has_no_order(node):
            value = in_order(value)
        parts: list[Part] = []
        note = ""
        if count.left > 0:
            if node.HasField("loop"):
                parts, note = self._loop(text, node, bound, count)
            else:
                told = (
                    child for child in _telling(node) if not (child.HasField("ident") and child.ident.name in bound)
                )
                parts = [self._part(text, child, bound, count) for child in told]
        return Part(text=text.of(node), value=shown(value), note=note, parts=parts)

    def _loop(self, text: Text, node: Any, bound: dict[str, Any], count: _Count) -> tuple[list[Part], str]:
        parts = [self._part(text, node.loop.range, bound, count)]
        ranged = self.value(text, node.loop.range, bound)
        if not isinstance(ranged, list | dict):
            return parts, ""
        items = sorted(ranged) if isinstance(ranged, dict) else ranged
        if text.tree.has_no_order(node.loop.range):
            items = in_order(items)
        bodies, variable, macro = text.body(node), node.loop.variable, text.macro(node)
        results = [self.value(text, bodies[0], {**bound, variable: item}) for item in items]
        kept = sum(result is True for result in results)
        note = f"{len(items)} items" if macro == "map" and len(bodies) == 1 else f"{kept} of {len(items)}"
        # the item that decides: the first that is not true for all, else the first that is
        wanted = [i for i, result in enumerate(results) if (result is True) != (macro == "all")] or range(len(items))
        if items:
            chosen = items[wanted[0]]
            inner = {**bound, variable: chosen}
            inside = [self._part(text, body, inner, count) for body in bodies]
            which = "first" if len(wanted) < len(items) or macro == "map" else "such as"
            parts.append(Part(text=variable, value=shown(chosen), note=which, parts=inside))
        return parts, note


def _telling(node: Any) -> Iterator[Any]:
    """Yield the parts of a node whose values say more than its own: no names, no literals."""
    if node.HasField("call"):
        call = node.call
        if call.function in _LOGIC:
            yield from chain(node)
            return
        children = ((call.target,) if call.HasField("target") else ()) + tuple(call.args)
        yield from (each for each in children if not each.HasField("const"))
    elif node.HasField("list"):
        yield from (each for each in node.list.elements if not each.HasField("const"))


def chain(node: Any) -> Iterator[Any]:
    """Yield the operands of a chain of `&&` or of `||`, which the compiler balances, in the order of the text."""
    function = node.call.function
    waiting = list(reversed(node.call.args))
    while waiting:
        each = waiting.pop()
        if each.HasField("call") and each.call.function == function:
            waiting.extend(reversed(each.call.args))
        else:
            yield each


@lru_cache(maxsize=1024)
def text_of(expression: Expression) -> Text:
    """Return the spans of an expression."""
    return Text(expression.tree)
