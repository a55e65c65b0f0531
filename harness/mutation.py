"""Small changes to a policy that its tests should notice: which conditions they have seen, and which mutants live.

A mutant is the policy with one piece of text changed, compiled anew and judged by the engine over the suite's cases. It
is killed where a case no longer comes out as the suite says. A mutant that does not compile is none.

Rules: everything here runs in the judge's process, on cases that came out as expected before. The lints are not asked
about a mutant: what they would refuse, the tests must notice, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import CanonicalError
from harness.explanation import Parts, text_of
from harness.expression import Expression, Failed
from harness.expression_tree import CompileError
from harness.judgement import outcome_of, values_of
from harness.mutants import conditions, other_values, variants
from harness.policy_compiler import CompiledPolicy, where_of
from harness.policy_document import canonicalise
from harness.records import Record
from harness.strict_yaml import Path as YamlPath


class Condition(Record):
    """How often a condition of a rule was true, false, or an error, over the cases in which its rule ran."""

    rule: str
    where: str
    text: str
    true: int
    false: int
    errors: int


class Mutant(Record):
    """A changed piece of a policy, and whether a case noticed."""

    rule: str
    """The id of the rule, or the name of the variable or param."""
    where: str
    what: str
    mutant: str
    """The text of the expression or value as changed."""
    killed: bool


@dataclass(frozen=True)
class _Case:
    """A case in which the rules of a policy ran."""

    values: dict[str, Any]
    results: dict[str, Any]
    """What each rule came to, by id: True, False or None, those of the file's other policies included."""
    canonical: dict[str, Any]
    expect: str
    failed: list[str]


def cover(policies: Sequence[CompiledPolicy], cases: Sequence[dict[str, Any]]) -> list[Condition]:
    """Return every condition of every rule, with what the cases made of it."""
    found = []
    for compiled in policies:
        ran = _ran(policies, compiled, cases)
        for index, rule in enumerate(compiled.rules):
            text = text_of(rule.require)
            for node in conditions(text):
                results = [Parts(compiled.environment, case.values).value(text, node, {}) for case in ran]
                span = text.span(node)
                found.append(
                    Condition(
                        rule=rule.rule.id,
                        where=_where(compiled, ("rules", index, "require"), text.place(span.start)),
                        text=text.of(node),
                        true=sum(result is True for result in results),
                        false=sum(result is False for result in results),
                        errors=sum(isinstance(result, Failed) for result in results),
                    )
                )
    return found


def mutate(policies: Sequence[CompiledPolicy], cases: Sequence[dict[str, Any]], only: str) -> list[Mutant]:
    """Return every mutant of one policy (`only`, its name), and whether the cases kill it."""
    (compiled,) = (each for each in policies if each.policy.name == only)
    ran = _ran(policies, compiled, cases)
    otherwise = {rule.rule.id: rule.rule.otherwise for each in policies for rule in each.rules}
    return [
        *_rule_mutants(compiled, ran, otherwise),
        *_variable_mutants(compiled, ran, otherwise),
        *_param_mutants(compiled, ran, otherwise),
    ]


def _ran(policies: Sequence[CompiledPolicy], compiled: CompiledPolicy, cases: Sequence[dict[str, Any]]) -> list[_Case]:
    """Return the cases in which the policy's rules run, with what all rules of the file came to."""
    ran = []
    for case in cases:
        stage, kind = case["stage"], case["kind"]
        try:
            canonical = canonicalise(stage, case["document"])
        except CanonicalError:
            continue  # no rule ran
        if compiled.policy.stage != stage or kind not in compiled.policy.kinds:
            continue
        results: dict[str, Any] = {}
        for each in policies:
            if each.policy.stage == stage and kind in each.policy.kinds:
                values, failed = values_of(each, canonical)
                results |= _results(each, values, failed)
        values, _ = values_of(compiled, canonical)
        ran.append(_Case(values, results, canonical, case["expect"], case["failed"]))
    return ran


def _results(compiled: CompiledPolicy, values: dict[str, Any], failed: dict[str, str]) -> dict[str, Any]:
    activation = compiled.environment.activation(values)
    return {
        rule.rule.id: None if failed.keys() & rule.require.names else _verdict(rule.require.holds(activation))
        for rule in compiled.rules
    }


def _verdict(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _killed(case: _Case, results: dict[str, Any], otherwise: dict[str, Any]) -> bool:
    """Return whether the case does not come out as its suite says."""
    outcome = outcome_of([(passed, otherwise[rule]) for rule, passed in results.items()])
    failed = [rule for rule, passed in results.items() if passed is False]
    exact = case.expect != "invalid" or bool(case.failed)
    return outcome != case.expect or (exact and sorted(failed) != sorted(case.failed))


def _rule_mutants(compiled: CompiledPolicy, ran: Sequence[_Case], otherwise: dict[str, Any]) -> Iterator[Mutant]:
    for index, rule in enumerate(compiled.rules):
        name = rule.rule.id
        for what, place, expression in _compiled(compiled, rule.require):
            killed = any(
                _killed(case, {**case.results, name: _alone(compiled, expression, case)}, otherwise) for case in ran
            )
            where = _where(compiled, ("rules", index, "require"), place)
            yield Mutant(rule=name, where=where, what=what, mutant=expression.text, killed=killed)
        other = "hold" if rule.rule.otherwise == "deny" else "deny"
        changed = {**otherwise, name: other}
        yield Mutant(
            rule=name,
            where=compiled.policy.located.at(("rules", index, "otherwise")),
            what="another consequence",
            mutant=f"otherwise: {other}",
            killed=any(_killed(case, case.results, changed) for case in ran),
        )


def _alone(compiled: CompiledPolicy, expression: Expression, case: _Case) -> bool | None:
    if any(name not in case.values for name, _ in compiled.variables if name in expression.names):
        return None
    return _verdict(expression.holds(compiled.environment.activation(case.values)))


def _variable_mutants(compiled: CompiledPolicy, ran: Sequence[_Case], otherwise: dict[str, Any]) -> Iterator[Mutant]:
    judged = _judged(compiled)
    for index, (name, original) in enumerate(compiled.variables):
        if name not in judged:
            continue  # only a message reads it
        position = next(i for i, each in enumerate(compiled.policy.document.variables) if each.name == name)
        for what, place, expression in _compiled(compiled, original):
            variables = [*compiled.variables]
            variables[index] = (name, expression)
            changed = replace(compiled, variables=tuple(variables))
            where = _where(compiled, ("variables", position, "expr"), place)
            killed = any(_differs(changed, case, otherwise) for case in ran)
            yield Mutant(rule=name, where=where, what=what, mutant=expression.text, killed=killed)


def _param_mutants(compiled: CompiledPolicy, ran: Sequence[_Case], otherwise: dict[str, Any]) -> Iterator[Mutant]:
    judged = _judged(compiled)
    variables = [expression for name, expression in compiled.variables if name in judged]
    expressions = [*variables, *(rule.require for rule in compiled.rules)]
    read = {path for expression in expressions for path in expression.reads}
    for name, value in compiled.policy.params.items():
        if not any(path == f"params.{name}" or path.startswith(f"params.{name}.") for path in read):
            continue  # only a message reads it
        for what, other, shown in other_values(value):
            policy = replace(compiled.policy, params={**compiled.policy.params, name: other})
            changed = replace(compiled, policy=policy)
            where = compiled.policy.located.at(("params", name))
            killed = any(_differs(changed, case, otherwise) for case in ran)
            yield Mutant(rule=name, where=where, what=what, mutant=f"{name}: {shown}", killed=killed)


def _judged(compiled: CompiledPolicy) -> set[str]:
    """Return the names that a requirement reads, itself or through variables."""
    names = {name for rule in compiled.rules for name in rule.require.names}
    for name, expression in reversed(compiled.variables):
        if name in names:
            names |= expression.names
    return names


def _differs(changed: CompiledPolicy, case: _Case, otherwise: dict[str, Any]) -> bool:
    values, failed = values_of(changed, case.canonical)
    return _killed(case, {**case.results, **_results(changed, values, failed)}, otherwise)


def _compiled(compiled: CompiledPolicy, original: Expression) -> Iterator[tuple[str, tuple[int, int], Expression]]:
    """Yield what is changed, its place in the expression, and the mutant, of those that compile to the same type."""
    text = text_of(original)
    for variant in variants(text):
        try:
            expression = compiled.environment.compile(variant.text, boolean=False, lint=False)
        except CompileError:
            continue
        if expression.type == original.type:
            yield variant.what, text.place(variant.offset), expression


def _where(compiled: CompiledPolicy, path: YamlPath, place: tuple[int, int]) -> str:
    return where_of(compiled.policy.located, path, *place)
