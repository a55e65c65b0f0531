"""Facts about the documents that are tried: each is one that rules may be shown, and they are the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.policy import load_policies
from harness.policy_compiler import compile_policy
from harness.policy_document import KINDS, STAGES, Stage, canonicalise
from harness.probing import probes
from harness.terms import RuleTerm, rule_terms

BASELINE = Path(__file__).parent.parent / "policies" / "baseline.yaml"


def rules(stage: Stage) -> list[RuleTerm]:
    """Return the baseline's rules of a stage."""
    return [r for p in load_policies([BASELINE]).policies if p.stage == stage for r in rule_terms(compile_policy(p))]


@pytest.mark.parametrize("stage", STAGES)
def test_every_probe_is_canonical(stage: Stage) -> None:
    """No probe is wasted on a document that would be refused: they are of the stage's shape, ranges and choices."""
    found = list(probes(stage, KINDS, rules(stage), 300))
    assert len(found) == 300
    assert [canonicalise(stage, document) for document in found] == found
    assert {document["proposal"]["kind"] for document in found} == set(KINDS)


def test_probes_are_the_same_each_time_and_near_the_constants() -> None:
    """The rules alone decide which documents are tried; bounds and their neighbours are among them."""
    bounded = [rule for rule in rules("screen") if rule.rule == "small-diff"]
    found = list(probes("screen", ["code"], bounded, 100))
    assert found == list(probes("screen", ["code"], bounded, 100))
    assert {399, 400, 401} <= {document["change"]["lines_changed"] for document in found}
