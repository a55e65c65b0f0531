"""Facts about tests of policies, and that the ready-made packs pass theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import policy_test
from harness.code_facts import facts
from harness.judge import Judge
from harness.policy import load_policies
from harness.policy_test import SuiteResult, base_document

ROOT = Path(__file__).parent.parent
PACKS = sorted(path for path in (ROOT / "policies").glob("*.yaml") if not path.name.endswith(".test.yaml"))

POLICY = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: core, owner: safety}
match: {stage: decide, kinds: [code, architecture]}
params: {lines: 20}
rules:
  - {id: small, require: change.lines_changed <= params.lines, otherwise: hold}
  - {id: refusals-held, require: gates.refusal.verdict == 'pass', otherwise: deny}
"""
HEAD = "apiVersion: lockgate/v1\nkind: PolicyTest\n"
GOOD = """\
cases:
  - {name: fine, expect: pass}
  - {name: lost, patch: {gates.refusal.verdict: fail}, expect: deny, failed: [refusals-held]}
  - {name: gone, remove: [gates.refusal], expect: invalid}
  - {name: long, patch: {change.lines_changed: 21}, expect: hold, failed: [small]}
"""


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """Return one warm judge for all tests."""
    with Judge() as judge:
        yield judge


@pytest.fixture
def run(tmp_path: Path, judge: Judge):
    """Return a function that runs a suite's text beside the policy above."""

    def run(suite: str, policy: str = POLICY) -> SuiteResult:
        (tmp_path / "core.yaml").write_text(policy)
        (tmp_path / "core.test.yaml").write_text(HEAD + suite)
        (result,) = policy_test.test([tmp_path / "core.yaml"], judge).suites
        return result

    return run


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: path.stem)
def test_ready_made_packs_pass_their_tests(pack: Path, judge: Judge) -> None:
    """Every pack in policies/ has a suite, and passes it."""
    report = policy_test.test([pack], judge)
    assert [case.message for suite in report.suites for case in suite.cases if not case.ok] == []
    assert [problem for suite in report.suites for problem in suite.problems] == []
    assert report.ok


def test_a_sound_suite_passes(run) -> None:
    """A suite in which every rule passes once and fails once, exactly as said, is ok."""
    result = run(GOOD)
    assert result.ok, result
    assert [case.outcome for case in result.cases] == ["pass", "deny", "invalid", "hold"]


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ("cases: []\n", "no cases"),
        (GOOD.replace("failed: [small]", "failed: [smal]"), "no rule has the id smal"),
        (GOOD.replace(", failed: [small]", ""), "expected none to fail, but small did"),
        (GOOD.replace("failed: [small]", "failed: [small, refusals-held]"), "expected refusals-held, small"),
        (GOOD.replace("expect: hold", "expect: deny"), "the outcome is hold"),
        (GOOD.replace("expect: pass", "expect: invalid"), "the outcome is pass"),
        ("\n".join(GOOD.splitlines()[:4]), "small has no failing case"),
        ("\n".join(GOOD.splitlines()[:1] + GOOD.splitlines()[3:4]), "refusals-held has no passing case"),
        ("cases:\n  - {name: x, remove: [gates], expect: invalid}", "small never ran"),
        (GOOD.replace("remove: [gates.refusal]", "remove: [gates.refusl]"), "leads nowhere"),
        (GOOD.replace("gates.refusal.verdict", "gate.refusal.verdict"), "leads nowhere"),
        (GOOD.replace("name: long", "name: lost"), "two cases"),
        (GOOD.replace("name: fine", "name: fine, base: nonsense"), "no base is called"),
        (GOOD.replace("name: fine", "name: fine, base: screen"), "outcome is invalid"),
        (GOOD.replace("name: fine", "name: fine, basis: screen"), "Extra"),
        (
            "bases: {a: {base: b}, b: {base: a}}\n" + GOOD.replace("name: fine", "name: fine, base: a"),
            "rests on itself",
        ),
        ("params: {liness: 3}\n" + GOOD, "no param"),
        ("cases: [", "expected"),
    ],
)
def test_unsound_suites_fail(run, suite: str, message: str) -> None:
    """Each way in which a suite can be wrong, or prove nothing, makes it fail and says why."""
    result = run(suite)
    assert not result.ok
    told = [problem.message for problem in result.problems] + [case.message for case in result.cases]
    assert any(message in text for text in told), told


def test_bases_patches_and_pointers_build_the_document(run) -> None:
    """A case may start from the suite's own base, append to a list, and name a key with a dot by a pointer."""
    suite = (
        "params: {lines: 16}\nbases:\n  long: {base: decide, patch: {change.lines_changed: 17}}\n"
        + GOOD
        + "  - {name: own base, base: long, expect: hold, failed: [small]}\n"
        + "  - {name: appended, patch: {code.packages.2: math}, expect: pass}\n"
        + "  - {name: pointer, patch: {/candidate/development/a.b: 0.5}, expect: pass}\n"
    )
    result = run(suite)
    assert result.ok, result


def test_a_policy_without_tests_fails(tmp_path: Path, judge: Judge) -> None:
    """A policy with no suite beside it, no policy at all, and a policy that does not load are not ok."""
    (tmp_path / "core.yaml").write_text(POLICY)
    report = policy_test.test([tmp_path / "core.yaml"], judge)
    assert report.suites[0].problems[0].message == "a policy without tests"
    assert not report.ok
    assert not policy_test.test([], judge).ok
    (tmp_path / "core.test.yaml").write_text(HEAD + GOOD)
    (tmp_path / "core.yaml").write_text(POLICY.replace("lines_changed", "line_changed"))
    assert "line_changed" in policy_test.test([tmp_path / "core.yaml"], judge).suites[0].problems[0].message


def test_the_test_file_may_be_named_instead(tmp_path: Path) -> None:
    """Naming the suite runs it, once, with a judge of its own where none is given."""
    (tmp_path / "core.yaml").write_text(POLICY)
    (tmp_path / "core.test.yaml").write_text(HEAD + GOOD)
    report = policy_test.test([tmp_path / "core.test.yaml", tmp_path / "core.yaml"])
    assert report.ok
    assert len(report.suites) == 1


SUBJECT = """\
import torch
from pydantic import BaseModel
from torch import nn

class Recipe(BaseModel):
    hidden: int = 8

def build(recipe):
    return nn.Linear(4, recipe.hidden)

def train(model, data, recipe, context):
    {train}

def predict(model, inputs):
    return model(inputs["x"])
"""


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("pass", None),
        ("optimiser = torch.optim.Adam(model.parameters())", None),
        ("import os; os.environ", "packages-allowed"),
        ("import socket", "packages-allowed"),
        ("t = torch; t.load('x')", "nothing-forbidden"),
        ("from torch.utils import cpp_extension", "nothing-forbidden"),
        ("torch.hub.load('a', 'b')", "nothing-forbidden"),
        ("eval('1')", "nothing-dynamic"),
        ("getattr(torch, 'ha' + 'sh')", "nothing-dynamic"),
        ("().__class__.__mro__", "nothing-dynamic"),
        ("def (", "code-parses"),
    ],
)
def test_the_baseline_stops_what_the_facts_show(judge: Judge, line: str, rule: str | None) -> None:
    """From source to verdict: the pack admits ordinary training code and stops each escape by the rule for it."""
    document = base_document("screen")
    document["code"] = facts({"model.py": SUBJECT.replace("{train}", line)}).json_value()
    judgement = judge.decide(load_policies([ROOT / "policies" / "baseline.yaml"]), "screen", "code", document)
    if rule is None:
        assert judgement.outcome == "pass", judgement.reason
    else:
        assert judgement.outcome == "deny"
        assert f"baseline-screen/{rule}" in judgement.failed
