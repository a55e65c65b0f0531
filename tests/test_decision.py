"""Facts about the decision: it promotes only where everything passed, and says why not everywhere else."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from trails import CONFIG

from harness.decision import ceilings, decide, gated, judged, reject
from harness.judgement import Judgement, RuleVerdict
from harness.records import GateVerdict, Reason

KINDS = ("improve", "parent", "anchor", "floor", "rare", "ceiling")
EVALS = {"accuracy": "capability", "parity": "alignment", "noise": "robustness"}
VERDICTS = ("pass", "fail", "inconclusive")


def gate(eval_, kind, verdict):
    """Make one gate's verdict."""
    return GateVerdict(name=f"{eval_}/{kind}", eval=eval_, kind=kind, verdict=verdict)


def judgement(outcome, *passed):
    """Make a judgement with one rule for each of these."""
    rules = [
        RuleVerdict(
            policy="pack", rule=f"r{index}", where="p:1", passed=each, otherwise="deny", require="true", message="m",
            values={}, audit={},
        )
        for index, each in enumerate(passed)
    ]  # fmt: skip
    return Judgement(outcome=outcome, reason="because", verdicts=rules)


def all_gates():
    """Yield every combination of verdicts of no, one, two and three gates."""
    specs = [("accuracy", "improve"), ("parity", "parent"), ("noise", "floor")]
    for count in range(4):
        for verdicts in itertools.product(VERDICTS, repeat=count):
            yield [gate(*spec, verdict) for spec, verdict in zip(specs, verdicts, strict=False)]


def all_judgements():
    """Yield every outcome with every combination of no, one and two rules."""
    for outcome in ("pass", "deny", "hold", "invalid"):
        for count in range(3):
            for passed in itertools.product((True, False, None), repeat=count):
                yield judgement(outcome, *passed)


def test_only_everything_passed_promotes():
    """Over all combinations: promoted exactly where there are gates and rules, and every one of them passed."""
    promoted = 0
    for gates, judged_ in itertools.product(list(all_gates()), list(all_judgements())):
        decision = decide(gates, EVALS, judged_)
        sound = bool(gates) and all(g.verdict == "pass" for g in gates)
        ruled = judged_.outcome == "pass" and bool(judged_.verdicts) and all(v.passed is True for v in judged_.verdicts)
        assert (decision.verdict == "promote") == (sound and ruled)
        assert decision.verdict in ("promote", "reject")
        assert decision.reasons
        assert ([why.code for why in decision.reasons] == ["passed"]) == (decision.verdict == "promote")
        promoted += decision.verdict == "promote"
    assert promoted == 6  # one, two or three gates, one or two rules


def test_a_missed_ceiling_promotes_only_with_people():
    """Over all combinations with ceilings: promoted over a missed one exactly where all else passed and people agreed."""
    specs = [("accuracy", "improve"), ("parity", "parent"), ("jumps", "ceiling"), ("reach", "ceiling")]
    promoted = 0
    for verdicts, outcome, approvers in itertools.product(
        itertools.product(VERDICTS, repeat=4), ("pass", "deny", "hold", "invalid"), ([], ["ann"])
    ):
        gates = [gate(*spec, verdict) for spec, verdict in zip(specs, verdicts, strict=True)]
        rule = judgement(outcome, outcome == "pass")
        if outcome == "hold":
            rule = rule.model_copy(update={"verdicts": [rule.verdicts[0].model_copy(update={"otherwise": "hold"})]})
        decision = decide(gates, EVALS, rule, approvers=approvers)
        strict = set(verdicts[:2]) == {"pass"}
        missed = tuple(f"{g.eval}/ceiling" for g in gates[2:] if g.verdict != "pass") if strict else ()
        assert ceilings(gates) == missed
        ruled = outcome == "pass" or (outcome == "hold" and bool(approvers))
        assert (decision.verdict == "promote") == (strict and ruled and (not missed or bool(approvers)))
        if missed and not approvers and outcome in ("pass", "hold"):
            assert {why.code for why in decision.reasons} == {"hold-unanswered"}
            assert len(decision.reasons) == len(missed) + (outcome == "hold")
        if missed and decision.verdict == "promote":
            assert all(name in decision.reasons[0].text for name in (*missed, "ann"))
            promoted += 1
    assert promoted == 2 * 8  # pass or hold, and the eight ways to miss one of two


def test_no_gates_never_promote():
    """A candidate that was tested by no gate is rejected as inconclusive."""
    assert decide([], EVALS, judgement("pass", True)).reasons[0].code == "inconclusive"


def test_no_rules_never_promote():
    """A judgement that claims to pass without a rule is a failed judgement."""
    assert [why.code for why in judged(judgement("pass"))] == ["judge-failed"]


@pytest.mark.parametrize("passed", [False, None])
def test_a_pass_with_a_rule_that_did_not_pass_is_no_pass(passed):
    """A judgement that claims to pass although a rule did not is a failed judgement."""
    assert [why.code for why in judged(judgement("pass", True, passed))] == ["judge-failed"]


@pytest.mark.parametrize("outcome", ["deny", "hold", "invalid", "?"])
def test_every_other_outcome_has_a_reason(outcome):
    """Any outcome but `pass` gives a reason, with a failed rule or without."""
    for passed in ((), (True,), (False,), (None,)):
        assert judged(judgement("deny", *passed).model_copy(update={"outcome": outcome}))


@pytest.mark.parametrize(
    ("eval_", "kind", "code"),
    [("accuracy", "improve", "gate-objective"), ("noise", "improve", "gate-objective")]
    + [(e, k, f"gate-{EVALS[e]}") for e in EVALS for k in KINDS if k != "improve"],
)
def test_a_failed_gate_names_what_it_guards(eval_, kind, code):
    """A failed gate's code is the objective's, or that of its eval's kind."""
    assert [why.code for why in gated([gate(eval_, kind, "fail")], EVALS)] == [code]


@pytest.mark.parametrize("kind", KINDS)
def test_an_inconclusive_gate_is_named(kind):
    """A gate that could not tell rejects as inconclusive, and the reason names its eval."""
    (why,) = gated([gate("parity", kind, "inconclusive"), gate("accuracy", "improve", "pass")], EVALS)
    assert why.code == "inconclusive"
    assert "parity" in why.text


def test_an_eval_of_unknown_kind_still_rejects():
    """A failed gate on an eval whose kind nobody knows is a capability's."""
    assert gated([gate("mystery", "parent", "fail")], {})[0].code == "gate-capability"


def test_every_failed_gate_is_a_reason():
    """Where several gates failed, each is among the reasons, and no inconclusive one."""
    gates = [
        gate("accuracy", "improve", "fail"),
        gate("parity", "parent", "fail"),
        gate("noise", "floor", "inconclusive"),
    ]
    assert [why.code for why in gated(gates, EVALS)] == ["gate-objective", "gate-alignment"]


def test_a_hold_that_nobody_can_answer_is_a_rejection():
    """A hold ends as a rejection that says so."""
    decision = decide([gate("accuracy", "improve", "pass")], EVALS, judgement("hold", True, False))
    assert (decision.verdict, decision.reasons[0].code) == ("reject", "hold-unanswered")


def test_any_code_can_reject():
    """`reject` gives one reason, of any code of the closed list."""
    for code in get_args(Reason):
        assert [(why.code, why.text) for why in reject(code, "so").reasons] == [(code, "so")]


def test_a_configuration_has_a_gate():
    """The decision's input is never empty by configuration: one improving gate is demanded."""
    assert [gate.kind for gate in CONFIG.gates].count("improve") == 1
