"""Facts about proofs by structure: what follows, and what only looks as if it did."""

from __future__ import annotations

import json

import pytest

from harness.entailment import Prover, holds
from harness.policy import policy_set_of
from harness.policy_compiler import compile_policy
from harness.policy_file import PolicySource
from harness.terms import rule_terms


def follows(premise: str, goal: str) -> bool:
    """Return whether a proof was found that one rule is true wherever the other is."""
    text = "apiVersion: lockgate/v1\nkind: ChangePolicy\nmetadata: {name: p, owner: t}\n"
    text += "match: {stage: decide, kinds: all}\nrules:\n"
    for index, rule in enumerate((premise, goal)):
        text += f"  - {{id: r{index}, require: {json.dumps(rule)}, otherwise: deny}}\n"
    (policy,) = policy_set_of([PolicySource(name="p.yaml", text=text)]).policies
    one, two = rule_terms(compile_policy(policy))
    return Prover().proves([holds(one.term)], holds(two.term))


X, Y = "change.lines_changed", "code.max_complexity"
FOLLOWS = [
    (f"{X} <= 3", f"{X} <= 4"),
    (f"{X} < 4", f"{X} <= 3"),
    (f"{X} == 3", f"{X} < 4"),
    (f"3 >= {X}", f"!({X} > 3)"),
    (f"{X} <= 3 && {Y} <= 2", f"{Y} <= 2"),
    (f"{X} <= 3", f"{X} <= 4 || {Y} <= 2"),
    (f"{X} <= 3 || {Y} <= 2", f"{Y} <= 3 || {X} <= 4"),
    (f"code.parses ? {X} <= 3 : {Y} <= 2", f"code.parses ? {X} <= 4 : {Y} <= 2"),
    (f"double({X}) <= 2.0 * double({Y})", f"double({X}) <= 3.0 * double({Y})"),
    (f"{X} != 0", f"{X} >= 1"),
    (f"{X} <= 3", f"{X} != 5"),
    ("proposal.proposer == 'a'", "proposal.proposer in ['a', 'b']"),
    ("proposal.proposer in ['a', 'b']", "proposal.proposer != 'c'"),
    (
        "size(code.calls) > 0 && code.calls.all(c, c in ['a'])",
        "size(code.calls) > 0 && code.calls.all(c, c in ['a', 'b'])",
    ),
    ("change.files.exists(f, f.lines_added > 5)", "change.files.exists(g, g.lines_added > 4)"),
    (
        "size(change.files.filter(f, f.lines_added > 4)) == 0",
        "!change.files.exists(f, f.lines_added > 5) && size(change.files) >= 0",
    ),
    ("size(change.files.filter(f, f.lines_added > 4)) <= 2", "size(change.files.filter(f, f.lines_added > 5)) <= 3"),
    ("size(change.files) <= 2", "size(change.files.filter(f, f.lines_added > 5)) <= 2"),
    ("size(gates) > 0 && gates.all(g, gates[g].n > 5)", "size(gates) > 0 && gates.all(h, gates[h].n > 4)"),
]
DOES_NOT = [
    (f"{X} <= 4", f"{X} <= 3"),
    (f"{X} <= 3", f"{Y} <= 3"),
    (f"{X} <= 3 || {Y} <= 2", f"{X} <= 3"),
    (f"double({X}) <= 3.0 * double({Y})", f"double({X}) <= 2.0 * double({Y})"),
    ("gates['a'].mean <= -1.0", "gates['a'].mean * 2.0 <= gates['a'].mean * 1.0"),
    (f"{X} <= 3", f"{X} * 4000000000000000000 <= 3 * 4000000000000000000"),
    ("proposal.proposer in ['a', 'b']", "proposal.proposer == 'a'"),
    ("proposal.proposer != 'c'", "proposal.proposer in ['a', 'b']"),
    ("change.files.exists(f, f.lines_added > 5)", "size(change.files) > 0 && change.files.all(f, f.lines_added > 5)"),
    (
        "change.files.exists(f, f.lines_added > 5) && change.files.exists(f, f.path == 'a')",
        "change.files.exists(f, f.lines_added > 5 && f.path == 'a')",
    ),
    ("size(code.calls) >= 0 && code.calls.all(c, c == 'a')", "code.calls.exists(c, c == 'a')"),
    ("size(change.files.filter(f, f.lines_added > 5)) <= 2", "size(change.files.filter(f, f.lines_added > 4)) <= 2"),
    ("candidate.parameters / 2 <= 4", "candidate.parameters <= 8"),
    (f"({X} - 500) * 3 <= -1500", f"({X} - 500) * 2 <= -1500"),
    (f"size([{X}, -5].filter(x, x >= 0)) <= 1", f"size([{X}, -5].filter(x, x >= -10)) <= 1"),
    # the range of the first item of a list says nothing of the others
    ("code.parses", f"[{X}, -5].exists_one(x, x >= 0) == [{X}, -5].exists_one(x, true)"),
]


@pytest.mark.parametrize(("premise", "goal"), FOLLOWS)
def test_what_follows_is_proved(premise: str, goal: str) -> None:
    """A weaker bound, a larger set, a part of a conjunction, a larger disjunction, the same under a quantifier."""
    assert follows(premise, goal)


@pytest.mark.parametrize(("premise", "goal"), DOES_NOT)
def test_what_does_not_follow_is_not_proved(premise: str, goal: str) -> None:
    """What some document contradicts has no proof: negative factors, overflow, other elements, empty lists."""
    assert not follows(premise, goal)


def test_a_proof_that_would_take_too_long_is_given_up() -> None:
    """Many alternatives end the search, without a proof and in time."""
    many = " && ".join(f"({X} == {i} || {Y} == {i + 1} || size(code.calls) == {i})" for i in range(40))
    assert not follows(many, f"{X} == 41")
