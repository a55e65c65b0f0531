"""Tests of policies: a suite of cases in `NAME.test.yaml` beside each `NAME.yaml`, judged by the real judge.

A suite fails on an unknown rule id, on no cases, on a rule that never ran, and on a rule
without both a passing and a failing case; the list of failed rules must match exactly.
`policy_suite` has the format.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.base_document import base_document
from harness.errors import ConfigError, LockgateError, PolicyError
from harness.expression_advice import near
from harness.judge import Judge
from harness.judgement import Judgement, Outcome, RuleVerdict
from harness.mutation import Condition, Mutant
from harness.policy import PolicySet, policy_set_of
from harness.policy_compiler import Problem
from harness.policy_document import Stage
from harness.policy_file import TEST_SUFFIX, PolicySource, schema_errors
from harness.policy_suite import Case, Suite, document_of
from harness.records import Record
from harness.strict_yaml import Located, load


class CaseResult(Record):
    """What became of a case."""

    name: str
    where: str
    ok: bool
    message: str
    """What differs from what was expected, or empty."""
    expected: Outcome
    outcome: Outcome
    failed: list[str]
    reason: str
    verdicts: list[RuleVerdict]


class SuiteResult(Record):
    """What became of a policy file's tests."""

    file: str
    ok: bool
    cases: list[CaseResult]
    problems: list[Problem]
    coverage: list[Condition] = []
    """Every condition of every rule, and what the cases made of it; where that was asked for."""
    mutants: list[Mutant] = []
    """Every small change of the policies, and whether a case noticed; where that was asked for."""


class TestReport(Record):
    """What became of all suites. No suite at all is not ok."""

    __test__ = False  # no test class, whatever a collector makes of the name

    ok: bool
    suites: list[SuiteResult]


def test(
    paths: Sequence[Path],
    judge: Judge | None = None,  # noqa: PT028 - no pytest test
    *,
    coverage: bool = False,  # noqa: PT028
    mutate: bool = False,  # noqa: PT028
) -> TestReport:
    """Run the suites beside the given policy files (or the given test files); raises nothing for what they hold.

    With `mutate`, a suite of which a mutant survives is not ok.
    """
    unique = dict.fromkeys(_policy_path(path) for path in paths)
    with ExitStack() as stack:
        warm = judge or stack.enter_context(Judge())
        suites = [_run_file(path, warm, coverage=coverage, mutate=mutate) for path in unique]
    return TestReport(ok=bool(suites) and all(suite.ok for suite in suites), suites=suites)


test.__test__ = False  # type: ignore[attr-defined]  # it runs tests, and is none


def _policy_path(path: Path) -> Path:
    name = path.name
    return path.with_name(name.removesuffix(TEST_SUFFIX) + ".yaml") if name.endswith(TEST_SUFFIX) else path


def _run_file(path: Path, judge: Judge, *, coverage: bool, mutate: bool) -> SuiteResult:
    beside = path.with_name(path.name.removesuffix(".yaml") + TEST_SUFFIX)
    cases: list[CaseResult] = []
    problems: list[Problem] = []
    conditions: list[Condition] = []
    mutants: list[Mutant] = []
    try:
        located = load(_text(beside), beside.as_posix())
        suite = _suite(located)
        source = PolicySource(name=path.as_posix(), text=_text(path), params=suite.params)
        policies = policy_set_of([source])
        cases, problems, ran = _run_suite(policies, suite, located, judge)
        sound = not problems and all(case.ok for case in cases)
        if coverage:
            conditions = [Condition.parse(each) for each in judge.study(policies, "cover", cases=ran)]
        if mutate and sound:
            for policy in policies.policies:
                answer = judge.study(policies, "mutate", cases=ran, only=policy.name)
                mutants += [Mutant.parse(each) for each in answer]
            mutants, problems = _without_equivalents(mutants, suite, located)
    except LockgateError as error:
        where = error.where or f"{path.as_posix()}:1:1"
        problems = [Problem(where=where, message=error.message, remedy=error.remedy or "")]
    ok = not problems and bool(cases) and all(case.ok for case in cases) and all(mutant.killed for mutant in mutants)
    return SuiteResult(
        file=path.as_posix(), ok=ok, cases=cases, problems=problems, coverage=conditions, mutants=mutants
    )


def _without_equivalents(mutants: list[Mutant], suite: Suite, located: Located) -> tuple[list[Mutant], list[Problem]]:
    """Leave out what the suite says cannot be killed; a claim that is not about a survivor is a problem."""
    alive = {(mutant.rule, mutant.mutant) for mutant in mutants if not mutant.killed}
    claimed = {(each.rule, each.mutant) for each in suite.equivalent}
    problems = [
        Problem(
            where=located.at(("equivalent", index)),
            message=f"no mutant {each.mutant!r} of {each.rule} survives",
            remedy="take it off the list",
        )
        for index, each in enumerate(suite.equivalent)
        if (each.rule, each.mutant) not in alive
    ]
    return [mutant for mutant in mutants if (mutant.rule, mutant.mutant) not in claimed], problems


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        what, remedy = (
            ("a policy without tests", "write its suite beside it; `lockgate policy new` shows one")
            if path.name.endswith(TEST_SUFFIX)
            else ("no such policy", "a path ends in .yaml, a ready-made pack is a bare name")
        )
        raise PolicyError(what, where=path.as_posix(), remedy=remedy) from error
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError("cannot be read as UTF-8 text", where=path.as_posix()) from error


def _suite(located: Located) -> Suite:
    try:
        suite = Suite.parse(located.value)
    except ValidationError as error:
        raise schema_errors(error, located, Suite)[0] from error
    if not suite.cases:
        remedy = "write a case that passes and one that fails for each rule"
        raise PolicyError("no cases", where=located.at(("cases",)), remedy=remedy)
    return suite


def _run_suite(
    policies: PolicySet, suite: Suite, located: Located, judge: Judge
) -> tuple[list[CaseResult], list[Problem], list[dict[str, Any]]]:
    """Return what became of the cases, what is wrong with the suite, and the cases as the judge's studies take them."""
    rules = {rule.id: policy for policy in policies.policies for rule in policy.document.rules}
    stages: list[Stage] = list(dict.fromkeys(policy.stage for policy in policies.policies))
    outcomes: dict[str, set[bool | None]] = {rule: set() for rule in rules}
    results, problems, names = [], [], set()
    ran: list[dict[str, Any]] = []
    for index, case in enumerate(suite.cases):
        where = located.at(("cases", index))
        if case.name in names:
            problems.append(
                Problem(where=where, message=f"two cases are called {case.name!r}", remedy="choose another name")
            )
        names.add(case.name)
        unknown = sorted(set(case.failed) - set(rules))
        if unknown:
            meant = near(unknown[0], rules)
            remedy = f"did you mean {meant}?" if meant else f"there is {', '.join(rules)}"
            problems.append(Problem(where=where, message=f"no rule has the id {unknown[0]}", remedy=remedy))
            continue
        try:
            stage, document = document_of(case, suite, stages)
        except ConfigError as error:
            problems.append(Problem(where=where, message=error.message, remedy=error.remedy or ""))
            continue
        proposal = document.get("proposal")
        kind = proposal.get("kind") if isinstance(proposal, dict) else None
        judgement = judge.decide(policies, stage, kind, document)
        for verdict in judgement.verdicts:
            outcomes[verdict.rule].add(verdict.passed)
        results.append(_result(case, where, judgement))
        if judgement.verdicts:
            told = {"expect": case.expect, "failed": case.failed}
            ran.append({"stage": stage, "kind": kind, "document": document, **told})
    problems += [problem for rule, seen in outcomes.items() for problem in _coverage(rule, seen, located)]
    return results, problems, ran


def _result(case: Case, where: str, judgement: Judgement) -> CaseResult:
    failed = [verdict.rule for verdict in judgement.verdicts if verdict.passed is False]
    message = ""
    if judgement.outcome != case.expect:
        message = f"expected {case.expect}, but the outcome is {judgement.outcome}: {judgement.reason}"
    elif sorted(failed) != sorted(case.failed) and (case.expect != "invalid" or case.failed):
        message = f"expected {_list(case.failed)} to fail, but {_list(failed)} did"
    return CaseResult(
        name=case.name,
        where=where,
        ok=not message,
        message=message,
        expected=case.expect,
        outcome=judgement.outcome,
        failed=failed,
        reason=judgement.reason,
        verdicts=judgement.verdicts,
    )


def _coverage(rule: str, seen: set[bool | None], located: Located) -> list[Problem]:
    where = located.at(("cases",))
    if not seen:
        remedy = "write a case of its stage and a kind that it applies to"
        return [Problem(where=where, message=f"the rule {rule} never ran", remedy=remedy)]
    return [
        Problem(where=where, message=f"the rule {rule} has no {noun} case", remedy="write one")
        for noun, value in (("passing", True), ("failing", False))
        if value not in seen
    ]


def _list(names: list[str]) -> str:
    return ", ".join(sorted(names)) or "none"


__all__ = ["CaseResult", "SuiteResult", "TestReport", "base_document", "test"]
