"""What the rules say of one document: a verdict of each, and the outcome that follows from all.

Rules: total and pure; a document that is not canonical, a rule that ends in an error, a kind
or stage without any rule are `invalid`, which is treated as a denial. Every rule is evaluated
and recorded, not only the first that fails, with the values that it read.

It does not cover runaway evaluation: `judge` runs this in a process that can be killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from harness.errors import CanonicalError
from harness.expression import Failed, shown
from harness.policy_compiler import CompiledPolicy, CompiledRule
from harness.policy_document import KINDS, STAGES, Stage, canonicalise
from harness.records import Kind, Record

Outcome = Literal["pass", "deny", "hold", "invalid"]

MAX_REASON = 2_000


class RuleVerdict(Record):
    """One rule's verdict on one document. `passed` is None where the rule ended in an error."""

    policy: str
    rule: str
    where: str
    """file:line of the rule."""
    passed: bool | None
    otherwise: Literal["deny", "hold"]
    of_people: bool = False
    """It reads the approvals: a quorum does not answer it, it must come true."""
    require: str
    message: str
    values: dict[str, Any]
    """What the rule read, by path, bounded."""
    audit: dict[str, Any]
    error: str | None = None


class Judgement(Record):
    """What a policy set says of one document. Only `pass` lets a proposal go on; `hold` waits for people."""

    outcome: Outcome
    reason: str
    verdicts: list[RuleVerdict]

    @property
    def failed(self) -> list[str]:
        """The rules that are not exactly true, as policy/rule, in order."""
        return [f"{v.policy}/{v.rule}" for v in self.verdicts if v.passed is not True]


def rank(judgement: Judgement) -> int:
    """How far a document is stopped: 0 not, 1 until a quorum answers, 2 until those whom a rule asks do, 3 for good.

    Where no document has a lower rank with it, a set of policies lets nothing through that another one stops.
    """
    if judgement.outcome == "hold":
        return 2 if any(each.of_people and each.passed is not True for each in judgement.verdicts) else 1
    return 0 if judgement.outcome == "pass" else 3


def invalid(reason: str, verdicts: Sequence[RuleVerdict] = ()) -> Judgement:
    """Return the judgement of what could not be judged."""
    return Judgement(outcome="invalid", reason=reason[:MAX_REASON], verdicts=list(verdicts))


def conclude(verdicts: Sequence[RuleVerdict]) -> Judgement:
    """Return the judgement that follows from the verdicts. None at all is invalid: empty never passes."""
    if not verdicts:
        return invalid("no rule applies to this kind of proposal at this stage")
    outcome = outcome_of([(v.passed, v.otherwise) for v in verdicts])
    broken = [v for v in verdicts if v.passed is None]
    denied = [v for v in verdicts if v.passed is False and v.otherwise == "deny"]
    held = [v for v in verdicts if v.passed is False and v.otherwise == "hold"]
    told = broken or denied or held
    reason = "; ".join(f"{v.policy}/{v.rule}: {v.error or v.message}" for v in told) or "every rule holds"
    return Judgement(outcome=outcome, reason=reason[:MAX_REASON], verdicts=list(verdicts))


def outcome_of(verdicts: Sequence[tuple[bool | None, str]]) -> Outcome:
    """Return what follows from (passed, otherwise) of each rule that ran."""
    if not verdicts or any(passed is None for passed, _ in verdicts):
        return "invalid"
    failed = {otherwise for passed, otherwise in verdicts if not passed}
    return "deny" if failed - {"hold"} else "hold" if failed else "pass"


def judge_document(policies: Sequence[CompiledPolicy], stage: Any, kind: Any, document: Any) -> Judgement:
    """Judge a document by the policies that apply; total over any document."""
    if stage not in STAGES or kind not in KINDS:
        return invalid("an unknown stage or kind of proposal")
    try:
        canonical = canonicalise(stage, document)
    except CanonicalError as error:
        return invalid(f"malformed document: {error}")
    return judge_canonical(policies, stage, kind, canonical)


def judge_canonical(
    policies: Sequence[CompiledPolicy], stage: Stage, kind: Kind, canonical: dict[str, Any]
) -> Judgement:
    """Judge what `canonicalise` has returned for the stage, and nothing else: the rules are run on it as it is."""
    if canonical["proposal"]["kind"] != kind:
        return invalid("the document is about another kind of proposal")
    verdicts: list[RuleVerdict] = []
    for compiled in policies:
        if compiled.policy.stage == stage and kind in compiled.policy.kinds:
            verdicts += _judge_policy(compiled, canonical)
    return conclude(verdicts)


def values_of(compiled: CompiledPolicy, canonical: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a policy's rules read, its params and variables included, and why variables have no value."""
    values = {**canonical, "params": compiled.policy.params}
    failed: dict[str, str] = {}
    for name, expression in compiled.variables:
        upstream = sorted(failed.keys() & expression.names)
        value = Failed(failed[upstream[0]]) if upstream else expression.run(compiled.environment.activation(values))
        if isinstance(value, Failed):
            failed[name] = f"variable {name}: {value.why}"
        else:
            values[name] = value
    return values, failed


def _judge_policy(compiled: CompiledPolicy, canonical: dict[str, Any]) -> list[RuleVerdict]:
    values, failed = values_of(compiled, canonical)
    # a name without a value is an error where it is read, so a failed variable needs no stand-in
    activation = compiled.environment.activation(values)
    read = {path for rule in compiled.rules for path in rule.require.reads}
    told = {path: shown(_look_up(values, path)) for path in read}
    return [_judge_rule(compiled.policy.name, rule, told, activation, failed) for rule in compiled.rules]


def _judge_rule(
    policy: str, rule: CompiledRule, told: dict[str, Any], activation: Any, failed: dict[str, str]
) -> RuleVerdict:
    upstream = sorted(failed.keys() & rule.require.names)
    result = Failed(failed[upstream[0]]) if upstream else rule.require.holds(activation)
    message: str = rule.rule.message or rule.rule.description or rule.rule.require
    if rule.message is not None:
        text = rule.message.run(activation)
        # a message that fails must not hide the verdict
        message = f"{message} (its message failed: {text.why})" if isinstance(text, Failed) else str(shown(text))
    return RuleVerdict(
        policy=policy,
        rule=rule.rule.id,
        where=rule.where,
        passed=None if isinstance(result, Failed) else result,
        otherwise=rule.rule.otherwise,
        of_people=rule.of_people,
        require=rule.rule.require,
        message=message,
        values={path: told[path] for path in rule.require.reads},
        audit={name: shown(expression.run(activation)) for name, expression in rule.audit.items()},
        error=result.why if isinstance(result, Failed) else None,
    )


def _look_up(values: dict[str, Any], path: str) -> Any:
    """Return the value at a dotted path, for the record of why."""
    value: Any = values
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return Failed("is not there")
        value = value[part]
    return value
