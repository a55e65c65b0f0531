"""Tests of policies: a suite of cases in `NAME.test.yaml` beside each `NAME.yaml`, judged by the real judge.

A case starts from a base document, patches or removes parts, and says what must follow. A
suite fails on an unknown rule id, on no cases, on a rule that never ran, and on a rule
without both a passing and a failing case; the list of failed rules must match exactly.

    apiVersion: lockgate/v1
    kind: PolicyTest
    bases:                       # optional: documents of this suite's own, by name
      large: {base: screen, patch: {change.lines_changed: 300}}
    cases:
      - {name: lost, patch: {gates.refusal.verdict: fail}, expect: deny, failed: [refusals-held]}
      - {name: gone, remove: [gates.refusal], expect: invalid}

The bases `screen` and `decide` are full documents that every sound policy admits. A path is
dotted (`change.knobs.0.name`) or, where a key holds a dot, a JSON pointer (RFC 6901).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from harness.base_document import base_document
from harness.errors import ConfigError, LockgateError, PolicyError
from harness.judge import Judge
from harness.judgement import Judgement, Outcome, RuleVerdict
from harness.policy import PolicySet, policy_set_of
from harness.policy_compiler import Problem
from harness.policy_document import Stage
from harness.policy_file import TEST_SUFFIX, PolicySource
from harness.records import Record, first_problem
from harness.strict_yaml import Located, load


class Base(Record):
    """A document of a suite's own: another base, changed."""

    base: str
    patch: dict[str, Any] = Field(default_factory=dict)
    remove: list[str] = Field(default_factory=list)


class Case(Record):
    """One document and what must follow from it. `failed` lists the rules that are false, exactly."""

    name: Annotated[str, Field(min_length=1)]
    base: str | None = None
    patch: dict[str, Any] = Field(default_factory=dict)
    remove: list[str] = Field(default_factory=list)
    expect: Outcome
    failed: list[str] = Field(default_factory=list)


class Suite(Record):
    """A test file."""

    apiVersion: Literal["lockgate/v1"]  # noqa: N815 - as in lockgate.yaml
    kind: Literal["PolicyTest"]
    params: dict[str, Any] = Field(default_factory=dict)
    bases: dict[str, Base] = Field(default_factory=dict)
    cases: list[Case]


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


class TestReport(Record):
    """What became of all suites. No suite at all is not ok."""

    __test__ = False  # no test class, whatever a collector makes of the name

    ok: bool
    suites: list[SuiteResult]


def test(paths: Sequence[Path], judge: Judge | None = None) -> TestReport:  # noqa: PT028 - no pytest test
    """Run the suites beside the given policy files (or the given test files); raises nothing for what they hold."""
    unique = dict.fromkeys(_policy_path(path) for path in paths)
    if judge is not None:
        suites = [_run_file(path, judge) for path in unique]
    else:
        with Judge() as own:
            suites = [_run_file(path, own) for path in unique]
    return TestReport(ok=bool(suites) and all(suite.ok for suite in suites), suites=suites)


test.__test__ = False  # type: ignore[attr-defined]  # it runs tests, and is none


def _policy_path(path: Path) -> Path:
    name = path.name
    return path.with_name(name.removesuffix(TEST_SUFFIX) + ".yaml") if name.endswith(TEST_SUFFIX) else path


def _run_file(path: Path, judge: Judge) -> SuiteResult:
    beside = path.with_name(path.name.removesuffix(".yaml") + TEST_SUFFIX)
    cases: list[CaseResult] = []
    problems: list[Problem] = []
    try:
        located = load(_text(beside), beside.as_posix())
        suite = _suite(located)
        source = PolicySource(name=path.as_posix(), text=_text(path), params=suite.params)
        cases, problems = _run_suite(policy_set_of([source]), suite, located, judge)
    except LockgateError as error:
        problems = [Problem(where=error.where or "policies", message=error.message, remedy=error.remedy or "")]
    ok = not problems and bool(cases) and all(case.ok for case in cases)
    return SuiteResult(file=path.as_posix(), ok=ok, cases=cases, problems=problems)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        what = "a policy without tests" if path.name.endswith(TEST_SUFFIX) else "no such policy"
        raise PolicyError(what, where=path.as_posix()) from error
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError("cannot be read as UTF-8 text", where=path.as_posix()) from error


def _suite(located: Located) -> Suite:
    try:
        suite = Suite.parse(located.value)
    except ValidationError as error:
        where = located.where(tuple(error.errors(include_url=False)[0]["loc"]))
        name, message = first_problem(error)
        raise PolicyError(f"{name}: {message}", where=where) from error
    if not suite.cases:
        raise PolicyError("no cases", where=located.where(("cases",)))
    return suite


def _run_suite(
    policies: PolicySet, suite: Suite, located: Located, judge: Judge
) -> tuple[list[CaseResult], list[Problem]]:
    rules = {rule.id: policy for policy in policies.policies for rule in policy.document.rules}
    stages: list[Stage] = list(dict.fromkeys(policy.stage for policy in policies.policies))
    outcomes: dict[str, set[bool | None]] = {rule: set() for rule in rules}
    results, problems, names = [], [], set()
    for index, case in enumerate(suite.cases):
        where = located.where(("cases", index))
        if case.name in names:
            problems.append(Problem(where=where, message=f"two cases are called {case.name!r}"))
        names.add(case.name)
        unknown = sorted(set(case.failed) - set(rules))
        if unknown:
            problems.append(Problem(where=where, message=f"no rule has the id {unknown[0]}"))
            continue
        try:
            stage, document = _document(case, suite, stages)
        except ConfigError as error:
            problems.append(Problem(where=where, message=error.message, remedy=error.remedy or ""))
            continue
        proposal = document.get("proposal")
        kind = proposal.get("kind") if isinstance(proposal, dict) else None
        judgement = judge.decide(policies, stage, kind, document)
        for verdict in judgement.verdicts:
            outcomes[verdict.rule].add(verdict.passed)
        results.append(_result(case, where, judgement))
    problems += [problem for rule, seen in outcomes.items() for problem in _coverage(rule, seen, located)]
    return results, problems


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
    where = located.where(("cases",))
    if not seen:
        return [Problem(where=where, message=f"the rule {rule} never ran")]
    return [
        Problem(where=where, message=f"the rule {rule} has no {noun} case")
        for noun, value in (("passing", True), ("failing", False))
        if value not in seen
    ]


def _list(names: list[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _document(case: Case, suite: Suite, stages: list[Stage]) -> tuple[Stage, dict[str, Any]]:
    """Return the stage and the document of a case; raises ConfigError."""
    if case.base is None and len(stages) > 1:
        raise ConfigError("the file's policies have several stages", remedy="say base: screen or base: decide")
    chain: list[Base | Case] = [case]
    name = case.base or stages[0]
    while name not in ("screen", "decide"):
        if name not in suite.bases:
            raise ConfigError(f"no base is called {name!r}")
        base = suite.bases[name]
        if base in chain or len(chain) > len(suite.bases):
            raise ConfigError(f"the base {name!r} rests on itself")
        chain.append(base)
        name = base.base
    stage: Stage = "screen" if name == "screen" else "decide"
    document = base_document(stage)
    for step in reversed(chain):
        for path, value in step.patch.items():
            _change(document, path, value, remove=False)
        for path in step.remove:
            _change(document, path, None, remove=True)
    return stage, document


def _change(document: dict[str, Any], path: str, value: Any, *, remove: bool) -> None:
    """Set or remove one part of a document; raises ConfigError where the path leads nowhere."""
    if path.startswith("/"):
        parts = [part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/")]
    else:
        parts = path.split(".")
    place: Any = document
    for part in parts[:-1]:
        place = _step(place, part, path)
    last = parts[-1]
    if isinstance(place, list):
        if not remove and last == str(len(place)):
            place.append(copy.deepcopy(value))
            return
        _step(place, last, path)
        if remove:
            del place[int(last)]
        else:
            place[int(last)] = copy.deepcopy(value)
    elif isinstance(place, dict):
        if remove:
            _step(place, last, path)
            del place[last]
        else:
            place[last] = copy.deepcopy(value)
    else:
        raise ConfigError(f"{path} leads nowhere in the document")


def _step(place: Any, part: str, path: str) -> Any:
    if isinstance(place, dict) and part in place:
        return place[part]
    if isinstance(place, list) and part.isascii() and part.isdigit() and len(part) < 9 and int(part) < len(place):
        return place[int(part)]
    raise ConfigError(f"{path} leads nowhere in the document")
