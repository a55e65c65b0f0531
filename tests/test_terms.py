"""Facts about terms: what is the same is equal, and what may fail is never said to be safe."""

from __future__ import annotations

import json

import pytest

from harness.base_document import base_document
from harness.errors import PolicyError
from harness.expression import Failed
from harness.policy import policy_set_of
from harness.policy_compiler import CompiledPolicy, compile_policy
from harness.policy_file import PolicySource
from harness.term_facts import cannot_fail, interval, iterations
from harness.terms import RuleTerm, rule_terms


def compiled(rule: str, more: str = "") -> CompiledPolicy:
    """Return a policy of one rule."""
    text = "apiVersion: lockgate/v1\nkind: ChangePolicy\nmetadata: {name: p, owner: t}\n"
    text += f"match: {{stage: decide, kinds: all}}\n{more}rules:\n"
    text += f"  - {{id: r, require: {json.dumps(rule)}, otherwise: deny}}\n"
    (policy,) = policy_set_of([PolicySource(name="p.yaml", text=text)]).policies
    return compile_policy(policy)


def term(rule: str, more: str = "") -> RuleTerm:
    """Return a rule as a term."""
    (found,) = rule_terms(compiled(rule, more))
    return found


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("change.files.exists(f, f.path == 'a')", "change.files.exists(other, other.path == 'a')"),
        ("gates.exists(g, gates[g].n > 3)", "gates.exists(h, gates[h].n > 3)"),
        ("gates.a.n > 3", "gates['a'].n > 3"),
        ("has(gates.a)", "'a' in gates"),
    ],
)
def test_ways_of_writing_are_one_term(one: str, two: str) -> None:
    """The name of a loop variable, and how a key is written, make no other term."""
    assert term(one).term == term(two).term


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("proposal.number == 1", "proposal.number == 2"),
        ("1.0 / gates['a'].mean > 0.0", "1.5 / gates['a'].mean > 0.0"),
        ("gates['a'].mean / 0.0 > 1.0", "gates['a'].mean / -0.0 > 1.0"),
        ("change.files.exists(f, f.lines_added > 0)", "change.files.exists(f, f.lines_removed > 0)"),
        (
            "timestamp(proposal.base) > timestamp('2030-01-01T00:00:00Z')",
            "timestamp(proposal.base) > timestamp('2031-01-01T00:00:00Z')",
        ),
    ],
)
def test_what_means_something_else_is_another_term(one: str, two: str) -> None:
    """Another constant, another field, another sign of zero: another term."""
    assert term(one).term != term(two).term


def test_params_and_variables_are_expanded() -> None:
    """A variable and a param are what they stand for, in loops, too, where names may be taken twice."""
    more = "params: {most: 3}\nvariables: [{name: big, expr: 'change.files.filter(f, f.lines_added > params.most)'}]\n"
    inline = "change.knobs.exists(f, size(change.files.filter(f, f.lines_added > 3)) > 2 && f.name == 'a')"
    *needed, body = term("change.knobs.exists(f, size(big) > 2 && f.name == 'a')", more).term.args
    assert body == term(inline).term
    assert [need.value for need in needed] == ["filter"]


def test_the_order_of_a_maps_keys_is_nothing_to_rely_on() -> None:
    """No rule picks an item by its place of a list that comes from a map: the compiler refuses it, so no term has one."""
    with pytest.raises(PolicyError, match="no fixed order"):
        term("gates.map(g, gates[g].mean)[0] > 0.5")


@pytest.mark.parametrize(
    "rule",
    [
        "gates['a'].n > 0",
        "gates.all(g, candidate.development[g] > 0.5) && size(gates) > 0",
        "candidate.parameters * 5000 > 3",
        "candidate.parameters / proposal.number > 3",
        "code.packages[0] == 'a'",
        "int(proposal.base) == 3",
        "candidate.parameters + 9223372036854775807 > 3",
        "timestamp(proposal.base) > timestamp('2030-01-01T00:00:00Z')",
    ],
)
def test_what_may_fail_is_not_called_safe(rule: str) -> None:
    """A key, an index, a division, an overflow and a conversion may end in an error."""
    assert not cannot_fail(term(rule).term)


@pytest.mark.parametrize(
    "rule",
    [
        "size(gates) > 0 && gates.all(g, gates[g].n > 0)",
        "size(gates.filter(g, gates[g].n > 0)) > 0",
        "candidate.parameters + incumbent.parameters > 3",
        "double(candidate.parameters) * 1e300 / 0.0 > 3.0",
        "has(gates.a) || 'b' in gates",
        "code.problem + 'a' == 'b' ? code.parses : size(code.problem) > 3",
    ],
)
def test_what_cannot_fail_is_known(rule: str) -> None:
    """A map's own keys, sums of the document's integers, doubles, comparisons: these always have a value."""
    found = compiled(rule)
    assert cannot_fail(term(rule).term)
    for gates in ({}, base_document("decide")["gates"]):
        values = {**base_document("decide"), "gates": gates}
        assert not isinstance(found.rules[0].require.holds(found.environment.activation(values)), Failed)


def test_bounds_are_those_of_the_schema() -> None:
    """A count is never negative, a product of bounded numbers is bounded, and what may overflow has no bounds."""
    counted = term("change.lines_changed > 5").term.args[0]
    assert interval(counted) == (0, 2**53 - 1)
    assert interval(term("change.lines_changed * 1000 > 5").term.args[0]) == (0, 1000 * (2**53 - 1))
    assert interval(term("change.lines_changed * 10000 > 5").term.args[0]) is None
    assert interval(term("gates['a'].mean * 2.0 > 0.5").term.args[0]) is None


def test_iterations_are_counted_at_their_most() -> None:
    """One loop over a list of the document takes up to 4,000 steps, one within another their product."""
    assert iterations(term("code.packages.exists(p, p == 'a')").term) == 4000
    nested = "code.packages.exists(p, code.imports.exists(i, i == p))"
    assert iterations(term(nested).term) == 4000 * 4001
    assert iterations(term("['a', 'b'].exists(p, p == proposal.base)").term) == 2
