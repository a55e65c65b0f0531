"""Facts about why a rule is said to be true or false."""

from __future__ import annotations

from typing import Any

import pytest

from harness.explanation import Explanation, Part, explain
from harness.judgement import judge_document
from harness.policy import policy_set_of
from harness.policy_compiler import compile_policy
from harness.policy_file import PolicySource
from harness.policy_suite import base_document

POLICY = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: core, owner: safety}
match: {stage: decide, kinds: [code]}
params: {lines: 20, allowed: [torch, pydantic]}
variables:
  - {name: foreign, expr: "code.packages.filter(p, !(p in params.allowed))"}
  - {name: broken, expr: "gates.nothing.n"}
rules:
  - id: gates
    require: size(gates) > 0 && gates.all(g, gates[g].verdict == 'pass')
    otherwise: deny
  - {id: small, require: change.lines_changed <= params.lines && size(foreign) == 0, otherwise: hold}
  - {id: hopeless, require: "broken > 3", otherwise: deny}
  - {id: someone, require: "approvals.exists(a, a.role == 'human')", otherwise: deny}
"""


@pytest.fixture
def explained():
    """Return a function that explains the base document after a change."""
    policies = [compile_policy(p) for p in policy_set_of([PolicySource(name="core.yaml", text=POLICY)]).policies]

    def explained(**gates: Any) -> dict[str, Any]:
        document = base_document("decide")
        document["gates"] |= {name: {**document["gates"]["refusal"], **gate} for name, gate in gates.items()}
        told = explain(policies, "decide", "code", document)
        judged = judge_document(policies, "decide", "code", document)
        assert [(r.id, r.passed) for p in told.policies for r in p.rules] == [
            (v.rule, v.passed) for v in judged.verdicts
        ]
        assert (told.outcome, told.reason) == (judged.outcome, judged.reason)
        assert Explanation.parse(told.json_value()) == told
        return {"told": told, **{rule.id: rule.tree for rule in told.policies[0].rules}}

    return explained


def found(part: Part, text: str) -> Part:
    """Return the part of a text."""
    waiting = [part]
    while waiting:
        each = waiting.pop()
        if each.text == text:
            return each
        waiting += each.parts
    raise LookupError(text)


def test_every_conjunct_has_its_value(explained) -> None:
    """The operands of a chain are told one by one, and the values that they compare below them."""
    tree = explained()["small"]
    assert [(part.text, part.value) for part in tree.parts] == [
        ("change.lines_changed <= params.lines", True),
        ("size(foreign) == 0", True),
    ]
    assert [(part.text, part.value) for part in tree.parts[0].parts] == [
        ("change.lines_changed", 15),
        ("params.lines", 20),
    ]


def test_all_shows_the_first_item_that_fails(explained) -> None:
    """Of a macro's items the one that decides is told, whatever the order in which the engine walked the map."""
    for _ in range(3):
        tree = explained(b={"verdict": "fail"}, c={"verdict": "inconclusive"}, a={"verdict": "pass"})["gates"]
        loop = found(tree, "gates.all(g, gates[g].verdict == 'pass')")
        assert (loop.value, loop.note) == (False, "3 of 5")
        item = loop.parts[-1]
        assert (item.text, item.value, item.note) == ("g", "b", "first")
        assert found(item, "gates[g].verdict").value == "fail"


def test_exists_shows_the_first_item_that_does(explained) -> None:
    """For exists it is the first of which the condition is true."""
    loop = explained()["someone"]
    assert (loop.value, loop.note) == (True, "1 of 1")
    assert found(loop.parts[-1], "a.role").value == "human"


def test_an_error_stands_where_it_arose(explained) -> None:
    """A part that cannot be evaluated has its error, and so has what reads it."""
    told = explained()["told"].policies[0]
    variable = next(each for each in told.variables if each.text == "broken")
    assert variable.value is None
    assert "nothing" in variable.parts[0].value["error"]
    assert "error" in explained()["hopeless"].value


def test_params_and_variables_are_told_with_their_values(explained) -> None:
    """The params in force and each variable's value and expression are part of an explanation."""
    told = explained()["told"].policies[0]
    assert told.params == {"lines": 20, "allowed": ["torch", "pydantic"]}
    assert (told.variables[0].text, told.variables[0].value) == ("foreign", [])
    assert found(told.variables[0], "code.packages").value == ["pydantic", "torch"]


def test_a_document_that_reaches_no_rule_has_no_parts() -> None:
    """What is malformed is invalid with its reason, as it is when it is judged."""
    policies = [compile_policy(p) for p in policy_set_of([PolicySource(name="core.yaml", text=POLICY)]).policies]
    told = explain(policies, "decide", "code", {"proposal": 3})
    assert (told.outcome, told.policies) == ("invalid", [])
    assert "malformed" in told.reason
