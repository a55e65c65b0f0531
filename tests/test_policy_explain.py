"""Facts about explaining a run's own decisions, and a policy file's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import ConfigError, PolicyError
from harness.folder import RunFolder
from harness.journal import read_run
from harness.keys import VerifierChain
from harness.policy_explain import drawn, explain_files, explain_proposal, lines_of
from harness.policy_suite import base_document

ROOT = Path(__file__).parent.parent
BASELINE = ROOT / "policies" / "baseline.yaml"


def test_a_runs_decisions_are_explained_from_its_blobs(copy) -> None:
    """Each proposal that met rules is explained at each of its stages, and comes out as the log says."""
    folder = RunFolder(copy)
    state, _ = read_run(folder.log, VerifierChain.load(folder.public_key))
    met = {number: found for number, found in state.proposals.items() if found.screened}
    assert met
    for number, found in met.items():
        stages = explain_proposal(folder, number)
        assert [each.stage for each in stages] == ["screen", *(["decide"] if found.document else [])]
        assert stages[0].outcome == found.screened.outcome
        told = sorted(f"{p.policy}/{r.id}" for p in stages[0].policies for r in p.rules if r.passed is not True)
        assert told == list(found.screened.failed)
    decided = next(number for number, found in met.items() if found.document)
    (only,) = explain_proposal(folder, decided, "decide")
    assert any(rule.id == "gates-pass" for policy in only.policies for rule in policy.rules)


def test_a_proposal_that_is_none_is_refused(copy) -> None:
    """A number that the run does not have is a ConfigError with what to do."""
    with pytest.raises(ConfigError, match="no proposal 999") as caught:
        explain_proposal(RunFolder(copy), 999)
    assert caught.value.remedy


def test_a_policy_is_explained_over_a_document_from_a_file(tmp_path: Path) -> None:
    """A file's rules over a document of one's own, and over the sound one where none is given."""
    document = base_document("decide")
    document["gates"]["refusal"]["verdict"] = "fail"
    (tmp_path / "d.json").write_text(json.dumps(document))
    (told,) = explain_files(BASELINE, tmp_path / "d.json", "decide")
    assert told.outcome == "deny"
    assert [each.outcome for each in explain_files(BASELINE, None)] == ["pass", "pass"]


def test_the_tree_shows_what_failed_and_why(tmp_path: Path) -> None:
    """The lines hold the rule, its consequence, and the item of the map that decided."""
    document = base_document("decide")
    document["gates"]["refusal"]["verdict"] = "fail"
    (tmp_path / "d.json").write_text(json.dumps(document))
    (told,) = explain_files(BASELINE, tmp_path / "d.json", "decide")
    text = "\n".join(lines_of(told))
    for line in ("✗ gates-pass → deny: 1 of 2", 'g = "refusal"  [first]', 'gates[g].verdict = "fail"', "[1 of 2]"):
        assert line in text
    assert drawn(told).children


def test_what_a_stranger_wrote_does_not_act_on_the_terminal(tmp_path: Path) -> None:
    """Escapes and newlines of a document are spelt out, and square brackets are no markup."""
    document = base_document("screen")
    document["code"] |= {"parses": False, "problem": "\x1b[2J\n[bold]x"}
    (tmp_path / "d.json").write_text(json.dumps(document))
    (told,) = explain_files(BASELINE, tmp_path / "d.json", "screen")
    text = "\n".join(lines_of(told))
    assert "\x1b" not in text
    assert "\\x1b[2J\\n[bold]x" in text


def test_an_expression_as_deep_as_they_get_is_explained(tmp_path: Path) -> None:
    """What the compiler still takes at its limit of nesting has all its parts told."""
    text = "change.lines_changed"
    for _ in range(28):
        text = f"({text} + 1)"
    head = "apiVersion: lockgate/v1\nkind: ChangePolicy\nmetadata: {name: core, owner: safety}\n"
    head += "match: {stage: decide, kinds: all}\n"
    rule = f"rules:\n  - {{id: deep, require: '{text} > 3', otherwise: deny}}\n"
    (tmp_path / "deep.yaml").write_text(head + rule)
    (told,) = explain_files(tmp_path / "deep.yaml", None)
    assert told.outcome == "pass"
    assert '"change.lines_changed", "value": 15' in json.dumps(told.json_value()).replace("'", '"')


@pytest.mark.parametrize(("text", "error"), [("{", ConfigError), ("{}", PolicyError), ("[]", PolicyError)])
def test_a_document_that_is_none_is_refused(tmp_path: Path, text: str, error: type[Exception]) -> None:
    """What is no JSON, or reaches no rule, is an error that names the document."""
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(error):
        explain_files(BASELINE, tmp_path / "d.json", "screen")
