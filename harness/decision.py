"""Verdicts of gates and rules in, a Decision out. Pure: no clock, no chance, no I/O.

A candidate is promoted only where every gate passed **and** every rule of the decide
stage held. Everything else is a rejection with its reasons. A hold waits for people; where there
are none to ask, nobody can answer it, and it ends as a rejection.

A ceiling asks for people as a rule may: where every other gate passed, and a capability is only not shown to be below
its ceiling, a quorum of approvers lets it be promoted, and nothing else does. What a rule denies stays denied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from harness.plain import plain
from harness.records import Decision, GateVerdict, Reason, Why


class RuleLike(Protocol):
    """What a decision reads of one rule's verdict."""

    @property
    def policy(self) -> str:
        """The policy's name."""

    @property
    def rule(self) -> str:
        """The rule's id."""

    @property
    def passed(self) -> bool | None:
        """True, False, or None where it could not be evaluated."""

    @property
    def otherwise(self) -> str:
        """`deny` or `hold`."""

    @property
    def of_people(self) -> bool:
        """Whether it reads the approvals."""

    @property
    def message(self) -> str:
        """Why, in words."""


class JudgementLike(Protocol):
    """What a decision reads of a judgement."""

    @property
    def outcome(self) -> str:
        """One of pass, deny, hold, invalid."""

    @property
    def verdicts(self) -> Sequence[RuleLike]:
        """One for each rule that applied."""

    @property
    def reason(self) -> str:
        """Why it is invalid, where it is."""


MAX_REASONS = 20
"""More reasons help nobody, and an entry of the log holds 64 kB."""

_BY_EVAL_KIND: Mapping[str, Reason] = {
    "capability": "gate-capability",
    "alignment": "gate-alignment",
    "robustness": "gate-robustness",
}

CLAIM = {
    "improve": "better than the incumbent",
    "parent": "not worse than the incumbent by the margin",
    "anchor": "not worse than the baseline by the margin",
    "floor": "above its floor",
    "rare": "rarer than its rate",
    "ceiling": "below its ceiling",
}


def reject(code: Reason, text: str) -> Decision:
    """A rejection for one reason. The text may hold a stranger's words: it is made plain."""
    return Decision(verdict="reject", reasons=[Why(code=code, text=plain(text))])


def refuted(evidence: Mapping[str, Any]) -> Decision:
    """A rejection for each property that is refuted, with the case that shows it; from the evidence of `Developed`."""
    reasons = []
    for name, judged in sorted(evidence["properties"].items()):
        if judged["verdict"] != "refuted":
            continue
        found = judged["counterexample"]
        how = f"found among {_cases(judged['tried'])}, and made simpler by {found['shrinks']} more"
        if found["of"] is not None:
            how = f"the counterexample of proposal {found['of']}"
        text = f"{name} ({judged['where']}) does not hold of {found['words']}: {found['wrong']} ({how})"
        reasons.append(Why(code="property", text=plain(text, 1000)))
    return Decision(verdict="reject", reasons=reasons[:MAX_REASONS])


def _cases(count: int) -> str:
    return f"{count} case{'' if count == 1 else 's'}"


def answerable(judgement: JudgementLike) -> bool:
    """Whether a quorum of people lets a held proposal go on: all that failed are rules which ask for them.

    A rule that reads the approvals says itself which ones it asks for, and must be true.
    """
    failed = [rule for rule in judgement.verdicts if rule.passed is not True]
    return judgement.outcome == "hold" and all(
        rule.passed is False and rule.otherwise == "hold" and not rule.of_people for rule in failed
    )


def judged(judgement: JudgementLike, *, answered: bool = False) -> list[Why]:
    """The reasons that a judgement gives against a proposal; empty only where it passed, or people let it go on.

    `answered`: a quorum of people has approved, and their approvals are in the document that was judged.
    """
    if answered and answerable(judgement):
        return []
    failed = [rule for rule in judgement.verdicts if rule.passed is not True]
    if judgement.outcome == "pass" and judgement.verdicts and not failed:
        return []
    if judgement.outcome == "pass":
        return [Why(code="judge-failed", text="outcome 'pass' without a rule that passed, or with one that did not")]
    if judgement.outcome == "invalid":
        return [Why(code="judge-failed", text=plain(judgement.reason or "the judgement is invalid"))]
    code: Reason = "hold-unanswered" if judgement.outcome == "hold" else "policy"
    reasons = [
        Why(code=code, text=plain(f"{rule.policy}/{rule.rule}: {rule.message or 'not satisfied'}")) for rule in failed
    ]
    return reasons[:MAX_REASONS] or [
        Why(code="judge-failed", text=f"outcome '{judgement.outcome}' without a failed rule")
    ]


def ceilings(gates: Sequence[GateVerdict]) -> tuple[str, ...]:
    """Which ceilings ask for people, as eval/kind, sorted: those not shown, where every other gate has passed."""
    missed = [gate for gate in gates if gate.verdict != "pass"]
    if any(gate.kind != "ceiling" for gate in missed):
        return ()
    return tuple(sorted(f"{gate.eval}/{gate.kind}" for gate in missed))


def gated(gates: Sequence[GateVerdict], eval_kinds: Mapping[str, str]) -> list[Why]:
    """The reasons that the gates give against a candidate; empty only where every gate passed."""
    if not gates:
        return [Why(code="inconclusive", text="no gate was tested")]
    reasons = []
    for gate in gates:
        if gate.verdict == "fail":
            code = "gate-objective" if gate.kind == "improve" else _BY_EVAL_KIND.get(eval_kinds.get(gate.eval, ""))
            reasons.append(
                Why(code=code or "gate-capability", text=f"{gate.eval} is not shown to be {CLAIM[gate.kind]}")
            )
    if reasons:
        return reasons
    return [
        Why(code="inconclusive", text=f"{gate.eval}: the items allowed do not show it to be {CLAIM[gate.kind]}")
        for gate in gates
        if gate.verdict != "pass"
    ]


def decide(
    gates: Sequence[GateVerdict],
    eval_kinds: Mapping[str, str],
    judgement: JudgementLike,
    *,
    approvers: Sequence[str] = (),
) -> Decision:
    """Promote where all gates passed and all rules held; otherwise reject, with every reason.

    `approvers` are those who let a held proposal go on, a quorum of them; none where it was not held here.
    """
    asking = ceilings(gates)
    # Where a gate failed, the rule that demands passed gates fails too: one reason for one fact.
    against = [] if asking else gated(gates, eval_kinds)
    against = against or judged(judgement, answered=bool(approvers))
    if asking and not approvers and all(why.code == "hold-unanswered" for why in against):
        against = [*_unanswered(gates), *against][:MAX_REASONS]
    if against:
        return Decision(verdict="reject", reasons=against)
    names = ", ".join(sorted({gate.name for gate in gates if gate.verdict == "pass"}))
    text = f"passed every gate ({names}) and every rule"
    if approvers:
        missed = f" but {', '.join(asking)}, which is not shown" if asking else ""
        text = f"passed every gate ({names}){missed}; {', '.join(approvers)} approved "
        text += "that it goes on all the same" if asking else "what the rules leave to people"
    return Decision(verdict="promote", reasons=[Why(code="passed", text=text)])


def _unanswered(gates: Sequence[GateVerdict]) -> list[Why]:
    """Why a candidate is rejected that is only not shown to be below its ceilings, and of which nobody was asked."""
    return [
        Why(code="hold-unanswered", text=f"{gate.eval} is not shown to be {CLAIM[gate.kind]}, and nobody can be asked")
        for gate in gates
        if gate.verdict != "pass"
    ]
