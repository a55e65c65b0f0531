"""Facts about what rules read of a guard: where a stricter setting may let a rule pass that did not, people decide."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base_document import base_document
from harness.config import GateRule, PolicyRef, parse_config
from harness.guard_change import Guard, compare_guards
from harness.judgement import judge_document
from harness.policy import load_subject_policies, policy_set_of
from harness.policy_compiler import compile_policy
from harness.policy_file import PolicySource
from harness.reading import Reader

TEXT = """\
apiVersion: lockgate/v1
kind: Subject
name: s
objective: accuracy
proposers: {evolution: 1}
gates: [{eval: accuracy, kind: improve}, {eval: parity, kind: parent, margin: 0.1}]
policies: [baseline]
approvers: {require: 1}
"""


def policies(require: str, variables: str = "[]", otherwise: str = "deny"):
    """One rule of the decide stage."""
    text = f"""\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {{name: p, owner: o}}
match: {{stage: decide, kinds: all}}
variables: {variables}
rules:
  - {{id: r, require: {json.dumps(require)}, otherwise: {otherwise}}}
"""
    return policy_set_of([PolicySource(name="p.yaml", text=text)])


def guard(require: str, variables: str = "[]", otherwise: str = "deny") -> Guard:
    """A guard with that rule."""
    return Guard(parse_config(TEXT), policies(require, variables, otherwise), (), "sha256:" + "0" * 64, None)


def changed(old: Guard, **parts) -> str:
    """The verdict on a guard with another part of its configuration."""
    document = old.config.json_value()
    for name, value in parts.items():
        document[name] = {**document[name], **value} if isinstance(value, dict) else value
    return compare_guards(old, replace(old, config=type(old.config).parse(document))).verdict


@pytest.mark.parametrize(
    ("require", "variables", "verdict"),
    [
        ("budgets.promotions_left > 0", "[]", "at-least-as-strict"),
        ("1 <= budgets.promotions_left && candidate.parameters < 10", "[]", "at-least-as-strict"),
        ("candidate.parameters < 10 || budgets.promotions_left >= 2", "[]", "at-least-as-strict"),
        ("budgets.proposals_left < 3", "[]", "at-least-as-strict"),
        ("budgets.promotions_left <= 3", "[]", "unknown"),
        ("3 >= budgets.promotions_left", "[]", "unknown"),
        ("!(budgets.promotions_left > 3)", "[]", "unknown"),
        ("budgets.promotions_left != 3", "[]", "unknown"),
        ("budgets.promotions_left > 3 ? candidate.parameters < 10 : true", "[]", "unknown"),
        ("budgets.promotions_left > 5 - budgets.promotions_left", "[]", "unknown"),
        ("left > 3", "[{name: left, expr: 5 - budgets.promotions_left}]", "unknown"),
    ],
)
def test_fewer_promotions_are_strict_only_where_no_rule_asks_for_few(require, variables, verdict):
    """A smaller budget is as strict where each rule that reads it asks for much; in any other form it is unknown."""
    assert changed(guard(require, variables), budgets={"promotions": 5}) == verdict


@pytest.mark.parametrize(
    ("require", "variables", "new", "tighter"),
    [
        ("size(gates) > 0 && gates.all(g, gates[g].verdict == 'pass')", "[]", True, True),
        ("candidate.parameters < 10", "[]", True, True),
        ("size(gates) > 0 && size(failed) == 0", "[{name: failed, expr: 'gates.filter(g, gates[g].verdict != \"pass\")'}]", True, True),
        ("size(gates) < 3", "[]", True, True),
        ("size(gates) > 2", "[]", False, True),
        ("'parity/anchor' in gates", "[]", False, True),
        ("candidate.parameters < 10 || 'parity/anchor' in gates", "[]", False, True),
        ("'parity/parent' in gates && gates['parity/parent'].n > 50", "[]", False, False),
        ("size(gates) > 0 && gates.all(g, gates[g].mean > 0.01)", "[]", False, False),
    ],
)  # fmt: skip
def test_gates_are_strict_only_where_no_rule_passes_by_them(require, variables, new, tighter):
    """A new gate is as strict where no rule asks for it, a tighter one where no rule reads its numbers."""
    old = guard(require, variables)
    gates = old.config.json_value()["gates"]
    word = {True: "at-least-as-strict", False: "unknown"}
    more = GateRule(eval="parity", kind="anchor", margin=1.0).json_value()
    assert changed(old, gates=[*gates, more]) == word[new]
    assert changed(old, gates=[gates[0], {**gates[1], "margin": 0.05}]) == word[tighter]


@pytest.mark.parametrize(
    ("require", "otherwise", "new", "tighter"),
    [
        ("size(gates) > 0 && gates.all(g, gates[g].verdict == 'pass')", "deny", True, True),
        ("gates.exists(g, !g.endsWith('/ceiling')) && size(gates) > 0 && gates.all(g, gates[g].verdict == 'pass' || g.endsWith('/ceiling'))", "deny", True, True),
        ("size(gates) > 0 && gates.all(g, gates[g].verdict == 'pass')", "hold", True, True),
        ("gates.exists(g, gates[g].verdict == 'inconclusive')", "deny", False, False),
        ("gates.exists(g, gates[g].verdict != 'pass')", "hold", False, False),
        ("'parity/ceiling' in gates ? gates['parity/ceiling'].verdict != 'pass' : true", "deny", True, False),
        ("'parity/ceiling' in gates && gates['parity/ceiling'].verdict == 'pass'", "deny", False, True),
    ],
)  # fmt: skip
def test_a_ceiling_is_strict_only_where_no_rule_passes_by_its_being_missed(require, otherwise, new, tighter):
    """A new or a lower ceiling may be missed, and people let that go on: unknown where a rule passes by it that did not."""
    old = guard(require, otherwise=otherwise)
    gates = old.config.json_value()["gates"]
    word = {True: "at-least-as-strict", False: "unknown"}
    high, low = (GateRule(eval="parity", kind="ceiling", threshold=each).json_value() for each in (0.9, 0.8))
    assert changed(old, gates=[*gates, high]) == word[new]
    capped = replace(old, config=type(old.config).parse({**old.config.json_value(), "gates": [*gates, high]}))
    assert changed(capped, gates=[*gates, low]) == word[tighter]
    assert (
        changed(
            replace(capped, config=type(old.config).parse({**old.config.json_value(), "gates": [*gates, low]})),
            gates=[*gates, high],
        )
        == "weaker"
    )
    assert changed(capped, gates=gates) == "weaker"


def test_more_approvals_are_strict_only_where_no_rule_reads_them():
    """A rule that denies until there are three approvals passes where three must agree; one that is silent does not."""
    three = guard("size(approvals) >= 3", otherwise="hold")
    assert changed(three, approvers={"require": 3}) == "unknown"
    assert changed(guard("candidate.parameters < 10"), approvers={"require": 3}) == "at-least-as-strict"
    assert changed(three, approvers={"hours": 1.0}) == "at-least-as-strict"


@pytest.mark.parametrize("pack", ["baseline", "research", "rate", "code"])
def test_a_pack_lets_margins_and_budgets_be_tightened(pack):
    """Under each pack that asks no people, smaller budgets and a new gate are as strict: nobody need be asked."""
    for reader in Reader.all_of(load_subject_policies([PolicyRef(pack=pack)], None)):
        assert reader.reads_verdicts_only()
        for fact in ("promotions", "proposals", "wall_seconds"):
            assert reader.grows_with(f"budgets.{fact}_left")
        for more in ("b/parent", "b/ceiling"):
            assert not reader.reads("gates") or not reader.gains_by(["a/improve"], ["a/improve", more])


ATOMS = st.sampled_from(
    [
        "budgets.promotions_left {} 3", "3 {} budgets.promotions_left", "budgets.promotions_left {} candidate.parameters",
        "candidate.parameters {} 3", "budgets.promotions_left - 2 {} budgets.proposals_left",
    ]
)  # fmt: skip
COMPARED = st.tuples(ATOMS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="])).map(
    lambda each: each[0].format(each[1])
)
RULES = st.recursive(
    COMPARED,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda each: f"({each[0]} {each[1]} {each[2]})"),
        inner.map(lambda each: f"!({each})"),
        st.tuples(inner, inner, inner).map(lambda each: f"({each[0]} ? {each[1]} : {each[2]})"),
    ),
    max_leaves=5,
)


@settings(max_examples=150)
@given(RULES, st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))
def test_what_is_said_to_grow_does(require, smaller, larger, parameters):
    """Where a rule is known to let no more pass for fewer promotions, the engine agrees on documents with fewer."""
    smaller, larger = sorted((smaller, larger))
    (policy,) = policies(require).policies
    compiled = compile_policy(policy, [])
    if not compiled.rules or not Reader(compiled, compiled.rules[0]).grows_with("budgets.promotions_left"):
        return
    outcomes = []
    for left in (smaller, larger):
        document = base_document("decide")
        document["budgets"]["promotions_left"] = left
        document["candidate"]["parameters"] = parameters
        outcomes.append(judge_document([compiled], "decide", document["proposal"]["kind"], document).outcome == "pass")
    assert outcomes[1] or not outcomes[0]
