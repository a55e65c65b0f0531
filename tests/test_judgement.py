"""Facts about verdicts and the outcome that follows from them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import rule_maker
from hypothesis import given
from hypothesis import strategies as st

from harness.canonical import canonical_bytes
from harness.errors import PolicyError
from harness.judgement import Judgement, RuleVerdict, conclude, judge_document, rank
from harness.policy import policy_set_of
from harness.policy_compiler import CompiledPolicy, compile_policy
from harness.policy_document import SHAPES, STAGES, ListOf, MapOf, Message, Scalar, Shape, Stage
from harness.policy_file import PolicySource
from harness.policy_test import base_document

POLICY = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: core, owner: safety}
match: {stage: decide, kinds: [code, architecture]}
params: {lines: 20}
variables:
  - {name: refusal, expr: "gates.refusal.verdict"}
  - {name: refused, expr: "refusal == 'fail'"}
rules:
  - id: small
    require: change.lines_changed <= params.lines
    otherwise: hold
    messageExpr: "string(change.lines_changed) + ' lines'"
    audit: {lines: change.lines_changed, first: "code.packages[9]"}
  - id: refusals-held
    require: refusal == 'pass'
    otherwise: deny
    message: refusals must hold
  - {id: not-refused, require: "refused ? false : true", otherwise: deny}
  - {id: told, require: proposal.rationale_length > 0, otherwise: hold, messageExpr: "code.packages[9]"}
"""


COMPILED = [compile_policy(p) for p in policy_set_of([PolicySource(name="core.yaml", text=POLICY)]).policies]


@pytest.fixture
def compiled() -> list[CompiledPolicy]:
    """Return the policy above, compiled."""
    return COMPILED


def judge(compiled: list[CompiledPolicy], change: Any = None, kind: str = "code") -> Judgement:
    """Judge the base document after `change` was made to it."""
    document = base_document("decide")
    if change:
        change(document)
    return judge_document(compiled, "decide", kind, document)


def test_every_rule_is_recorded_with_what_it_read(compiled: list[CompiledPolicy]) -> None:
    """A passing judgement holds each rule's verdict, place, values, audit values and message."""
    judgement = judge(compiled)
    assert judgement.outcome == "pass"
    assert [v.rule for v in judgement.verdicts] == ["small", "refusals-held", "not-refused", "told"]
    small = judgement.verdicts[0]
    assert small.values == {"change.lines_changed": 15, "params.lines": 20}
    assert small.audit["lines"] == 15
    assert (small.message, small.where, small.error) == ("15 lines", "core.yaml:10", None)
    assert judgement.verdicts[1].values == {"refusal": "pass"}
    assert judgement.verdicts[1].message == "refusals must hold"


def test_all_failures_are_told_and_denial_outweighs_hold(compiled: list[CompiledPolicy]) -> None:
    """Every failed rule is recorded, and one that denies decides over one that holds."""

    def change(document: Any) -> None:
        document["change"]["lines_changed"] = 99
        document["gates"]["refusal"]["verdict"] = "fail"

    judgement = judge(compiled, change)
    assert judgement.outcome == "deny"
    assert judgement.failed == ["core/small", "core/refusals-held", "core/not-refused"]
    assert "core/refusals-held: refusals must hold" in judgement.reason


def test_only_holding_rules_hold(compiled: list[CompiledPolicy]) -> None:
    """Where only rules that wait for people fail, the outcome is hold."""
    assert judge(compiled, lambda d: d["change"].update(lines_changed=99)).outcome == "hold"


def test_an_error_in_a_variable_is_an_error_in_all_that_reads_it(compiled: list[CompiledPolicy]) -> None:
    """A rule that reads a failed variable, also through another, has no verdict, and the outcome is invalid."""
    judgement = judge(compiled, lambda d: d["gates"].pop("refusal"))
    assert judgement.outcome == "invalid"
    assert [v.passed for v in judgement.verdicts] == [True, None, None, True]
    assert "variable refusal" in (judgement.verdicts[2].error or "")


def test_a_failing_message_or_audit_value_changes_no_verdict(compiled: list[CompiledPolicy]) -> None:
    """An error in a message or an audit value is recorded as such beside the verdict."""
    judgement = judge(compiled)
    assert "its message failed" in judgement.verdicts[3].message
    assert judgement.verdicts[3].passed is True
    assert "error" in judgement.verdicts[0].audit["first"]


@pytest.mark.parametrize(
    ("stage", "kind", "reason"),
    [
        ("decide", "hyperparameters", "another kind"),
        ("decide", "architecture", "another kind"),
        ("screen", "code", "malformed"),
        ("later", "code", "unknown stage"),
        ("decide", "guard", "unknown stage or kind"),
        ("decide", None, "unknown stage or kind"),
    ],
)
def test_what_does_not_fit_is_invalid(compiled: list[CompiledPolicy], stage: str, kind: str, reason: str) -> None:
    """A stage or kind that is unknown, or not the document's, is invalid."""
    judgement = judge_document(compiled, stage, kind, base_document("decide"))
    assert judgement.outcome == "invalid"
    assert reason in judgement.reason


def test_no_applicable_rule_is_invalid(compiled: list[CompiledPolicy]) -> None:
    """Empty never passes: a kind to which no rule applies is invalid."""
    document = base_document("decide")
    document["proposal"]["kind"] = "hyperparameters"
    judgement = judge_document(compiled, "decide", "hyperparameters", document)
    assert (judgement.outcome, judgement.verdicts) == ("invalid", [])
    assert judge_document([], "decide", "code", base_document("decide")).outcome == "invalid"


VERDICTS = st.lists(
    st.builds(
        lambda passed, otherwise: RuleVerdict(
            policy="p", rule="r", where="f:1", passed=passed, otherwise=otherwise, require="x", message="m",
            values={}, audit={}, error="e" if passed is None else None,
        ),
        st.sampled_from([True, False, None]),
        st.sampled_from(["deny", "hold"]),
    ),
    max_size=6,
)  # fmt: skip


@given(VERDICTS)
def test_only_nothing_but_true_passes(verdicts: list[RuleVerdict]) -> None:
    """The outcome is pass exactly when there are verdicts and all are true, and invalid when any is an error."""
    judgement = conclude(verdicts)
    passed = [v.passed for v in verdicts]
    assert (judgement.outcome == "pass") == (bool(passed) and all(p is True for p in passed))
    assert (judgement.outcome == "invalid") == (not passed or None in passed)
    if judgement.outcome == "hold":
        assert all(v.passed or v.otherwise == "hold" for v in verdicts)


@given(st.text(max_size=300), st.integers(0, 10**9))
def test_a_judgement_can_be_logged(text: str, lines: int) -> None:
    """A judgement over any texts of a document has canonical bytes and reads back as itself."""
    document = base_document("decide")
    document["proposal"]["proposer"] = text
    document["change"]["lines_changed"] = lines
    judgement = judge_document(COMPILED, "decide", "code", document)
    assert canonical_bytes(judgement.json_value())
    assert Judgement.parse(judgement.json_value()) == judgement


def made(rules: list[list[tuple[Any, str]]], order: random.Random | None = None) -> list[CompiledPolicy]:
    """Compile policies of these rules, one a list, in their order or with policies and rules shuffled."""
    rules = [list(each) for each in rules]
    named = [(f"p{index}", each) for index, each in enumerate(rules)]
    if order:
        for _, each in named:
            order.shuffle(each)
        order.shuffle(named)
    texts = [rule_maker.policy_text(each, name=name) for name, each in named]
    return [compile_policy(policy) for policy in rule_maker.set_of(*texts).policies]


@given(st.integers(0, 2**32))
def test_order_is_nothing_and_a_rule_more_admits_nothing_more(seed: int) -> None:
    """Of random policies over random documents: in any order the outcome is the same, and with a rule more no better."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    maker = rule_maker.Maker(rng)
    while True:
        rules = [
            [(maker.boolean(1), rng.choice(["deny", "hold"])) for _ in range(rng.randint(1, 3))]
            for _ in range(rng.randint(1, 3))
        ]
        more = [list(each) for each in rules]
        more[rng.randrange(len(more))].append((maker.boolean(1), rng.choice(["deny", "hold"])))
        try:
            first, shuffled, grown = made(rules), made(rules, rng), made(more, rng)
            break
        except PolicyError:  # such as a rule that the lints refuse
            continue
    documents = rule_maker.Documents(rng, [policy.policy.document.model_dump_json() for policy in grown])
    for _ in range(20):
        document = documents.one()
        kind = document["proposal"]["kind"]
        told = judge_document(first, "decide", kind, document)
        assert judge_document(shuffled, "decide", kind, document).outcome == told.outcome
        assert rank(judge_document(grown, "decide", kind, document)) >= rank(told)


def fields(shape: Shape, value: Any) -> Iterator[tuple[dict[str, Any], str, Shape]]:
    """Give every declared field of a document: the map that it stands in, its name, and what it must be."""
    if isinstance(shape, Message):
        for name, field in shape.fields.items():
            yield value, name, field
            yield from fields(field, value[name])
    elif isinstance(shape, ListOf | MapOf):
        for each in value if isinstance(shape, ListOf) else value.values():
            yield from fields(shape.item, each)


PYTHON = {"string": (str,), "int": (int,), "double": (int, float), "bool": (bool,)}
EASY = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {{name: easy, owner: tests}}
match: {{stage: {}, kinds: all}}
rules: [{{id: any, require: change.lines_changed >= 0, otherwise: deny}}]
"""
ADMITS_ALL = {stage: [compile_policy(p) for p in rule_maker.set_of(EASY.format(stage)).policies] for stage in STAGES}
SOMETHING = st.one_of(
    st.none(), st.booleans(), st.integers(0, 9), st.floats(0, 1), st.text(max_size=3),
    st.builds(list), st.builds(dict), st.builds(tuple), st.binary(max_size=3),
)  # fmt: skip


@given(st.sampled_from(STAGES), st.integers(0, 2**32), SOMETHING)
def test_a_document_that_lacks_a_field_or_has_it_of_another_type_never_passes(
    stage: Stage, seed: int, other: Any
) -> None:
    """Even by a rule that is true of every document, and whether or not a rule reads the field."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    document = rule_maker.Documents(rng, [], stage).one()
    kind = document["proposal"]["kind"]
    assert judge_document(ADMITS_ALL[stage], stage, kind, document).outcome == "pass"
    place, name, shape = rng.choice(list(fields(SHAPES[stage], document)))
    kept = place.pop(name)
    assert judge_document(ADMITS_ALL[stage], stage, kind, document).outcome == "invalid"
    fitting = PYTHON[shape.kind] if isinstance(shape, Scalar) else (list,) if isinstance(shape, ListOf) else (dict,)
    if type(other) in fitting:
        other = [kept]  # no field holds a list of what it holds
    place[name] = other
    assert judge_document(ADMITS_ALL[stage], stage, kind, document).outcome == "invalid"
