"""Facts about ceilings at work: a capability that is not shown to be below one waits for people, who alone let it go on."""

from __future__ import annotations

import time

import pytest
import rigs
from people import ANN, BEN, CAT
from rigs import generation, knobs
from waiting import LISTED, answer, kinds, settle, verified

from harness.display import held_line
from harness.folder import RunFolder
from harness.review.site import write_pages
from harness.trail import trail
from harness.views import feedback, result_of, summary

pytestmark = pytest.mark.usefixtures("quick_disk")
BETTER = knobs(steps=150)
LOW = "gates:\n  - {eval: smudges, kind: ceiling, threshold: 0.12}"
HIGH = "gates:\n  - {eval: smudges, kind: ceiling, threshold: 0.99}"
WORDS = "smudges is not shown to be below the ceiling 0.12"
NEVER = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: never, owner: safety}
match: {stage: decide, kinds: all}
rules:
  - {id: each-gate, require: "size(gates) > 0 && gates.all(g, gates[g].verdict == 'pass')", otherwise: deny}
"""
BARE = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: bare-screen, owner: safety}
match: {stage: screen, kinds: all}
rules:
  - {id: parses, require: code.parses, otherwise: deny}
---
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: bare-decide, owner: safety}
match: {stage: decide, kinds: all}
rules:
  - {id: small, require: candidate.parameters < 100000, otherwise: deny}
"""


def vary(digits, place, gates=LOW, people="\napprovers: {require: 2}", **policies):
    """Give the digits with a ceiling, and people to ask."""
    listed = ", ".join(["baseline", *(f"{name.replace('__', '/')}.yaml" for name in policies)])
    rigs.vary(digits, place, ("gates:", gates), ("policies: [baseline]", f"policies: [{listed}]{people}"), **policies)
    if people:
        (place / "approvers").write_text(LISTED)
    return place


@pytest.fixture(scope="module")
def ceiling(digits, tmp_path_factory):
    """Give the digits with a ceiling that a better candidate is not below."""
    return vary(digits, tmp_path_factory.mktemp("ceiling") / "digits")


@pytest.fixture
def opened(rig, ceiling, tmp_path):
    """Open a run over them."""
    run = rig.open(tmp_path / "run", ceiling)
    yield run
    run.close()


def bit(run, number):
    """Give the one bit that a proposer learns of a proposal."""
    return feedback(run.supervisor.state.proposals[number], run.rooms.blobs).promoted


def test_a_candidate_that_is_not_shown_to_be_below_a_ceiling_waits_for_people(opened):
    """Held after every other gate passed; people are told which capability and which ceiling; a quorum promotes it."""
    generation(opened, 1, BETTER)
    state = opened.supervisor.state
    assert state.held == {1}, state.proposals[1].developed
    measured, said = state.proposals[1].measured, state.proposals[1].hold.said
    assert [gate.name for gate in measured.gates if gate.verdict != "pass"] == ["smudges/ceiling"]
    assert result_of(measured.evidence, opened.rooms.blobs).held
    assert (state.held, measured.passed, said.gates) == ({1}, False, ["smudges/ceiling"])
    assert said.rules == ["baseline-decide/ceilings-stand"]
    (told,) = summary(state)["holds"]
    assert told["gates"] == [WORDS]
    assert WORDS in held_line(told)
    assert any("smudges/ceiling is not shown" in row["text"] for row in trail(RunFolder(opened.rooms.folder.root)))
    assert bit(opened, 1) is False
    answer(opened, 1, BEN)
    assert settle(opened) == [1]
    answer(opened, 1, CAT)
    assert settle(opened) == []
    assert kinds(opened)[-5:] == ["decided", "authorised", "intended", "promoted", "watched"]
    (why,) = opened.supervisor.state.proposals[1].decision.reasons
    assert f"but smudges/ceiling, which is not shown; {BEN.name}, {CAT.name} approved" in why.text
    assert opened.supervisor.state.live == 1
    assert bit(opened, 1) is True
    assert verified(opened)["decisions"] == 1


def test_below_its_ceiling_nobody_is_asked(rig, digits, tmp_path):
    """A capability that is shown to be below its ceiling is promoted without people."""
    run = rig.open(tmp_path / "run", vary(digits, tmp_path / "high", HIGH))
    try:
        generation(run, 1, BETTER)
        assert run.supervisor.state.live == 1
        assert "held" not in kinds(run)
        verified(run)
    finally:
        run.close()


def test_one_refusal_rejects_and_the_pages_say_of_what(opened, tmp_path):
    """Refused, it is rejected with who and why, the bit reads false, and the page names the ceiling."""
    generation(opened, 1, BETTER)
    answer(opened, 1, ANN, "refuse", "too strong")
    settle(opened)
    (why,) = opened.supervisor.state.proposals[1].decision.reasons
    assert (why.code, why.text) == ("hold-refused", f"{ANN.name} refused: too strong")
    assert (bit(opened, 1), opened.supervisor.state.live) == (False, 0)
    folder = RunFolder(opened.rooms.folder.root)
    write_pages(folder, tmp_path / "pages", key=folder.public_key)
    page = (tmp_path / "pages" / "decisions" / "1.html").read_text()
    assert "not shown: smudges is below the ceiling 0.12, " in page
    assert f"{WORDS}: people decide" in (tmp_path / "pages" / "decisions" / "1.html").read_text()
    generation(opened, 2, knobs(steps=140))
    assert opened.supervisor.state.proposals[2].measured is not None
    verified(opened)


def test_a_ceiling_that_nobody_answers_in_time_rejects(rig, digits, tmp_path):
    """A hold whose time is over ends as a rejection."""
    brief = vary(digits, tmp_path / "brief", people="\napprovers: {require: 2, hours: 0.001}")
    run = rig.open(tmp_path / "run", brief)
    try:
        generation(run, 1, BETTER)
        assert run.supervisor.state.held == {1}
        time.sleep(3.6)
        settle(run)
        assert run.supervisor.state.proposals[1].decision.reasons[0].code == "hold-unanswered"
        verified(run)
    finally:
        run.close()


def test_without_approvers_a_ceiling_rejects(rig, digits, tmp_path):
    """Where nobody can be asked, it is a rejection that names the capability."""
    run = rig.open(tmp_path / "run", vary(digits, tmp_path / "alone", people=""))
    try:
        generation(run, 1, BETTER)
        decision = run.supervisor.state.proposals[1].decision
        assert {why.code for why in decision.reasons} == {"hold-unanswered"}
        assert "smudges is not shown to be below its ceiling" in decision.reasons[0].text
        assert "held" not in kinds(run)
        verified(run)
    finally:
        run.close()


def test_a_rule_that_denies_denies(rig, digits, tmp_path):
    """A rule that demands every gate denies what a ceiling would leave to people: nobody is asked."""
    run = rig.open(tmp_path / "run", vary(digits, tmp_path / "never", policies__never=NEVER))
    try:
        generation(run, 1, BETTER)
        decision = run.supervisor.state.proposals[1].decision
        assert {why.code for why in decision.reasons} == {"policy"}
        assert "held" not in kinds(run)
        verified(run)
    finally:
        run.close()


def test_a_ceiling_asks_people_where_no_rule_does(rig, digits, tmp_path):
    """Without a rule about gates, the gate alone holds: the entry names it and no rule, and a quorum lets it go on."""
    policies = ("policies: [baseline]", "policies: [policies/bare.yaml]\napprovers: {require: 2}")
    place = rigs.vary(digits, tmp_path / "bare", ("gates:", LOW), policies, policies__bare=BARE)
    (place / "approvers").write_text(LISTED)
    run = rig.open(tmp_path / "run", place)
    try:
        generation(run, 1, BETTER)
        said = run.supervisor.state.proposals[1].hold.said
        assert (said.rules, said.gates) == ([], ["smudges/ceiling"])
        for person in (ANN, BEN):
            answer(run, 1, person)
        assert settle(run) == []
        assert run.supervisor.state.live == 1
        verified(run)
    finally:
        run.close()
