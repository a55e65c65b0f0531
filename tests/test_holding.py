"""Facts about holds at work: a run waits, people answer, and what they let go on is judged again, logged and replayed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rigs
from people import ANN, BEN, CAT, Person, armoured
from rigs import generation, knobs
from waiting import LISTED, answer, kinds, settle, verified

from harness import holding
from harness.approval import NAMESPACE, message
from harness.approving import leave, to_sign
from harness.decision import reject
from harness.errors import AuditError, ConfigError
from harness.folder import RunFolder
from harness.review.site import write_pages
from harness.trail import trail

pytestmark = pytest.mark.usefixtures("quick_disk")
BETTER, WIDER = knobs(steps=150), knobs("architecture", steps=150, hidden=24)
POLICY = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: people-screen, owner: safety}
match: {stage: screen, kinds: all}
rules:
  - {id: one-knob, require: size(change.knobs) <= 1, otherwise: hold}
---
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: people-decide, owner: safety}
match: {stage: decide, kinds: all}
rules:
  - {id: safety-agrees, require: "approvals.exists(a, a.role == 'safety')", otherwise: hold}
  - {id: small, require: candidate.parameters < 1000, otherwise: hold}
"""


@pytest.fixture(scope="module")
def asking(digits, tmp_path_factory):
    """Give the digits with rules that ask for people, two of three."""
    place = tmp_path_factory.mktemp("asking") / "digits"
    policies = ("policies: [baseline]", "policies: [baseline, policies/people.yaml]\napprovers: {require: 2}")
    rigs.vary(digits, place, policies, policies__people=POLICY)
    (place / "approvers").write_text(LISTED)
    return place


@pytest.fixture
def opened(rig, asking, tmp_path):
    """Open a run over them."""
    run = rig.open(tmp_path / "run", asking)
    yield run
    run.close()


def test_a_passed_candidate_waits_and_is_promoted_when_people_agree(opened):
    """Held after its gates passed; nothing moves until a quorum and every rule about approvals agree; then it is live."""
    generation(opened, 1, BETTER)
    state = opened.supervisor.state
    assert (state.held, state.live, kinds(opened)[-1]) == ({1}, 0, "held")
    before = state.size
    assert settle(opened) == [1]
    assert opened.supervisor.state.size == before
    answer(opened, 1, BEN)
    assert settle(opened) == [1]
    answer(opened, 1, CAT, reason="fine by me")
    assert settle(opened) == [1], "two have agreed, and nobody of safety"
    answer(opened, 1, ANN)
    assert settle(opened) == []
    assert kinds(opened)[before:] == ["approved"] * 3 + ["decided", "authorised", "intended", "promoted", "watched"]
    assert opened.supervisor.state.live == 1
    reasons = opened.supervisor.state.proposals[1].decision.reasons
    assert all(person.name in reasons[0].text for person in (ANN, BEN, CAT))
    assert not list(opened.rooms.folder.approvals.iterdir())
    assert verified(opened)["decisions"] == 1


def test_a_screen_that_asks_for_people_waits_before_anything_is_built(opened):
    """Held at the screen: neither built nor, while it waits, is anything else tested on the vault; then both go on."""
    generation(opened, 1, WIDER, BETTER)
    state = opened.supervisor.state
    assert (state.held, state.proposals[1].built) == ({1}, None)
    assert state.proposals[2].developed is not None
    assert state.proposals[2].staked is None
    answer(opened, 1, BEN)
    answer(opened, 1, CAT)
    settle(opened)
    state = opened.supervisor.state
    assert state.proposals[1].screened.outcome == "pass"
    assert state.proposals[1].developed is not None
    verified(opened)


def test_a_candidate_that_waits_behind_one_that_has_ended_is_decided(opened):
    """Held in a later slot than one that was rejected: its answers count as they do in the first slot."""
    generation(opened, 1, knobs(steps=1), BETTER)
    assert opened.supervisor.state.held == {2}
    for person in (ANN, BEN):
        answer(opened, 2, person)
    assert settle(opened) == []
    assert opened.supervisor.state.live == 1
    verified(opened)


def test_one_refusal_is_enough(opened):
    """Refused by one, a held candidate is rejected with who and why, whoever else approved; the next one is tested."""
    generation(opened, 1, BETTER)
    for person in (ANN, BEN):
        answer(opened, 1, person)
    answer(opened, 1, CAT, "refuse", "not before the audit")
    settle(opened)
    decision = opened.supervisor.state.proposals[1].decision
    assert decision == reject("hold-refused", "cat refused: not before the audit")
    generation(opened, 2, knobs(steps=140))
    assert opened.supervisor.state.proposals[2].measured is not None
    verified(opened)


def test_pages_say_what_people_said(opened, tmp_path):
    """A decision's page and `show` name who answered, with which key, and why; their words are text."""
    generation(opened, 1, BETTER)
    answer(opened, 1, ANN, reason="<b>fine</b>")
    answer(opened, 1, CAT, "refuse")
    settle(opened)
    folder = RunFolder(opened.rooms.folder.root)
    (tmp_path / "listed").write_text(LISTED)
    report = write_pages(folder, tmp_path / "pages", key=folder.public_key, approvers=tmp_path / "listed")
    page = (tmp_path / "pages" / "decisions" / "1.html").read_text()
    assert report["verdict"].startswith("valid")
    for word in (ANN.name, CAT.name, ANN.key.fingerprint, "&lt;b&gt;fine&lt;/b&gt;", "people-decide/small", "refused"):
        assert word in page
    assert "<b>fine" not in page


def test_a_hold_that_is_not_answered_in_time_is_rejected(rig, asking, tmp_path):
    """A hold whose time is over ends as a rejection that says how many approvals there were."""
    brief = rigs.vary(asking, tmp_path / "brief", ("{require: 2}", "{require: 2, hours: 0.001}"))
    run = rig.open(tmp_path / "run", brief)
    try:
        generation(run, 1, BETTER)
        signed = armoured(ANN.sign(to_sign(run.supervisor.state, 1, "approve", ""))).encode()
        time.sleep(3.6)
        with pytest.raises(ConfigError, match="has expired"):
            leave(run.rooms.folder, run.supervisor.state, 1, "approve", "", signed)
        settle(run)
        decision = run.supervisor.state.proposals[1].decision
        assert decision.reasons[0].code == "hold-unanswered"
        assert "0 of 2 approvals" in decision.reasons[0].text
        verified(run)
    finally:
        run.close()


def test_without_approvers_a_hold_is_a_rejection(rig, asking, tmp_path):
    """A run that names nobody rejects what its rules would ask people about, with the reason."""
    alone = rigs.vary(asking, tmp_path / "alone", ("\napprovers: {require: 2}", ""))
    run = rig.open(tmp_path / "run", alone)
    try:
        generation(run, 1, WIDER, BETTER)
        codes = [found.decision.reasons[0].code for found in run.supervisor.state.proposals.values()]
        assert codes == ["hold-unanswered", "hold-unanswered"]
        assert "held" not in kinds(run)
        verified(run)
    finally:
        run.close()


def test_a_rollback_ends_a_hold(opened):
    """What people were asked about an incumbent that moved is rejected: their approvals do not count for another one."""
    generation(opened, 1, BETTER)
    for person in (ANN, BEN):
        answer(opened, 1, person)
    settle(opened)
    generation(opened, 2, knobs(steps=250))
    state = opened.supervisor.state
    if not state.held:
        pytest.fail(f"nothing is held: {state.proposals[2].decision}")
    opened.supervisor.rollback(0, by="operator", reason="a test")
    for person in (ANN, BEN):
        answer(opened, 2, person)
    settle(opened, 2)
    assert opened.supervisor.state.proposals[2].decision.reasons[0].code == "interrupted"
    assert opened.supervisor.state.live == 0
    verified(opened)


def test_what_people_let_through_over_one_incumbent_is_not_tested_over_another(rig, asking, tmp_path):
    """Approved at the screen over the baseline, and another went live before its test: rejected, nothing is staked."""
    own = rigs.vary(asking, tmp_path / "own", policies__people=POLICY.partition("---")[0])
    run = rig.open(tmp_path / "run", own)
    try:
        generation(run, 1, BETTER, knobs("architecture", steps=400, hidden=48))
        for person in (ANN, BEN):
            answer(run, 2, person)
        assert settle(run) == []
        found = run.supervisor.state.proposals[2]
        assert (run.supervisor.state.live, found.staked) == (1, None)
        assert [why.code for why in found.decision.reasons] == ["interrupted"]
        verified(run)
    finally:
        run.close()


def test_a_held_run_goes_on_where_it_was(rig, asking, tmp_path):
    """Closed while it waits and opened again, a run still waits; answers left meanwhile are taken in, nothing is redone."""
    run = rig.open(tmp_path / "run", asking)
    generation(run, 1, BETTER)
    answer(run, 1, ANN)
    run.close()
    run = rig.open(tmp_path / "run", asking)
    try:
        before = kinds(run)
        answer(run, 1, BEN)
        settle(run)
        assert run.supervisor.state.live == 1
        assert [kind for kind in kinds(run)[len(before) :] if kind in ("built", "staked", "measured")] == []
        verified(run)
    finally:
        run.close()


def test_what_does_not_count_is_put_aside(opened):
    """Junk, links, a stranger's and a stale answer move nothing; each lies aside with the reason beside it."""
    generation(opened, 1, BETTER)
    folder = opened.rooms.folder.approvals
    good = Path(answer(opened, 1, ANN)["file"])
    told = json.loads(good.read_text())
    shutil.move(good, folder.parent / "kept.json")
    size = opened.supervisor.state.size
    bad = {
        "a-junk": b"{",
        "b-large": b" " * 100_000,
        "c-stale": json.dumps(told | {"hold": "sha256:" + "0" * 64}).encode(),
        "d-verdict": json.dumps(told | {"verdict": "refuse"}).encode(),
        "e-field": json.dumps(told | {"by": "ben"}).encode(),
    }
    for name, data in bad.items():
        (folder / f"{name}.json").write_bytes(data)
    (folder / "f-link.json").symlink_to(folder.parent / "kept.json")
    assert settle(opened) == [1]
    assert opened.supervisor.state.size == size
    assert sorted(path.name for path in folder.glob("*.rejected")) == [f"{name}.rejected" for name in [*bad, "f-link"]]
    assert all((folder / f"{name}.rejected.why").read_text().strip() for name in bad)
    shutil.copy(folder.parent / "kept.json", folder / "good.json")
    shutil.copy(folder.parent / "kept.json", folder / "twice.json")
    settle(opened)
    assert len(opened.supervisor.state.proposals[1].hold.approvals) == 1
    assert "already" in (folder / "twice.rejected.why").read_text()


def test_an_answer_that_cannot_count_is_told_at_once(opened):
    """Whoever signs with a strange key, or twice, or for what is not held, is told so, and nothing is left."""
    generation(opened, 1, BETTER)
    state, folder = opened.supervisor.state, opened.rooms.folder
    stranger = Person("dan")
    signature = armoured(stranger.sign(to_sign(state, 1, "approve", ""))).encode()
    with pytest.raises(ConfigError, match="none of this run's") as error:
        leave(folder, state, 1, "approve", "", signature)
    assert ANN.name in error.value.remedy
    with pytest.raises(ConfigError, match="does not wait") as error:
        to_sign(state, 2, "approve", "")
    assert error.value.remedy == "waiting: 1"
    with pytest.raises(ConfigError, match="one line"):
        to_sign(state, 1, "approve", "two\nlines")
    assert not folder.approvals.exists()


def test_changed_approvers_are_another_guard(rig, asking, tmp_path):
    """A run does not go on where the list of its approvers was changed."""
    own = rigs.vary(asking, tmp_path / "own")
    (own / "approvers").write_text(LISTED)
    rig.open(tmp_path / "run", own).close()
    (own / "approvers").write_text(LISTED + f"dan {Person('dan').key.line}\n")
    with pytest.raises(ConfigError, match=r"guards the run has changed.*approver dan \(human\) is new"):
        rig.open(tmp_path / "run", own)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_the_command_line_asks_waits_and_goes_on(asking, tmp_path):
    """`run` ends with 4 while people are asked; `approve` signs by ssh-keygen, also elsewhere; `resume` goes on."""
    subject = rigs.vary(
        asking, tmp_path / "subject", ("{require: 2}", "{require: 1}"), ("generations: 3", "generations: 1")
    )
    keys = [tmp_path / "ann", tmp_path / "stranger"]
    for key in keys:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (subject / "approvers").write_text(f"ann,role:safety {(tmp_path / 'ann.pub').read_text()}")
    out = tmp_path / "run"
    rigs.lay_vault_key(out)

    def lockgate(*words, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli", *map(str, words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "Waiting for people: proposal 1" in lockgate("run", subject, "--out", out, code=4)
    assert json.loads(lockgate("status", out, "--json"))["holds"][0]["require"] == 1
    assert "none of this run's approvers" in lockgate("approve", out, 1, "--key", keys[1], code=1)
    assert "needed" in lockgate("approve", out, 1, code=1)
    lockgate("approve", out, 1, "--message", tmp_path / "message", "--reason", "seen")
    assert b'"verdict":"approve"' in (tmp_path / "message").read_bytes()
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", NAMESPACE, "-f", keys[0], tmp_path / "message"]
    subprocess.run(command, check=True, capture_output=True)
    said = lockgate("approve", out, 1, "--signature", tmp_path / "message.sig", "--reason", "seen")
    assert "approved by ann" in said
    assert "version 1 is live" in lockgate("resume", out)
    assert "approved by ann: seen" in "\n".join(row["text"] for row in trail(RunFolder(out)))
    assert message("sha256:" + "0" * 64, "approve", "seen")


def test_what_lies_in_the_folder_cannot_stop_the_run(opened):
    """Folders, pipes, names of any bytes and length, and what cannot be moved: the run goes on, and a good answer counts."""
    generation(opened, 1, BETTER)
    folder = opened.rooms.folder.approvals
    folder.mkdir(mode=0o755)
    (folder / "a.json").mkdir()
    (folder / "a.rejected").mkdir()
    (folder / "a.rejected" / "full").touch()
    os.mkfifo(folder / "b.json")
    (folder / f"{'c' * 250}.json").write_bytes(b"{")
    (folder / "d\nd.json").write_bytes(b"{")
    (folder / os.fsdecode(b"\xff.json")).symlink_to(folder / "nowhere")
    (folder / "e.json").write_bytes(b"{")
    (folder / "e.rejected.why").mkdir()
    held = len(list(Path("/proc/self/fd").iterdir()))
    for person in (ANN, BEN):
        answer(opened, 1, person)
    assert settle(opened) == []
    assert opened.supervisor.state.live == 1
    assert [path.name for path in folder.glob("*.json")] == ["a.json"]
    assert len(list(Path("/proc/self/fd").iterdir())) <= held


def test_a_link_in_the_folder_s_place_is_not_followed(opened):
    """Where `approvals` is a link, nothing behind it is read, moved or removed."""
    generation(opened, 1, BETTER)
    elsewhere = opened.rooms.folder.root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "recipe.json").write_text("{}")
    opened.rooms.folder.approvals.symlink_to(elsewhere)
    assert settle(opened) == [1]
    assert [path.name for path in elsewhere.iterdir()] == ["recipe.json"]


def test_a_hold_that_expires_while_it_is_judged_again_is_rejected(rig, asking, tmp_path, monkeypatch):
    """A quorum in time, and a judge so slow that the time is over: a rejection, and no error that ends the run."""
    brief = rigs.vary(asking, tmp_path / "brief", ("{require: 2}", "{require: 2, hours: 0.002}"))
    run = rig.open(tmp_path / "run", brief)

    prompt = run.rooms.judge.decide

    def slow(*words):
        time.sleep(7.3)
        return prompt(*words)

    try:
        generation(run, 1, BETTER)
        for person in (ANN, BEN):
            answer(run, 1, person)
        monkeypatch.setattr(run.rooms.judge, "decide", slow)
        assert settle(run) == []
        assert run.supervisor.state.proposals[1].decision.reasons[0].code == "hold-unanswered"
        verified(run)
    finally:
        run.close()


def test_what_is_judged_after_people_were_asked_is_what_they_were_asked_about(opened, monkeypatch):
    """A supervisor that shows the rules another document, once people have approved one, is found by replay."""
    honest = holding.answered_document

    def another(*parts):
        document = honest(*parts)
        return {**document, "candidate": {**document["candidate"], "bytes": 1}}

    monkeypatch.setattr(holding, "answered_document", another)
    generation(opened, 1, BETTER)
    for person in (ANN, BEN):
        answer(opened, 1, person)
    settle(opened)
    assert opened.supervisor.state.live == 1
    with pytest.raises(AuditError, match="`candidate`, shown after"):
        verified(opened)


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("{id: nobody, require: size(approvals) == 0, otherwise: deny}", "policy"),
        ("{id: one, require: candidate.parameters % (2 - size(approvals)) >= 0, otherwise: hold}", "judge-failed"),
    ],
)
def test_a_rule_that_fails_once_people_have_answered_rejects(rig, asking, tmp_path, rule, code):
    """A quorum answers neither a rule that denies what was approved, nor one that ends in an error then."""
    own = rigs.vary(asking, tmp_path / "own", policies__people=f"{POLICY}  - {rule}\n")
    run = rig.open(tmp_path / "run", own)
    try:
        generation(run, 1, BETTER)
        for person in (ANN, BEN):
            answer(run, 1, person)
        assert settle(run) == []
        assert {why.code for why in run.supervisor.state.proposals[1].decision.reasons} == {code}
        assert run.supervisor.state.live == 0
        verified(run)
    finally:
        run.close()
