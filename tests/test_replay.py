"""Facts about replay: a trail that verifies, and whose decisions do not follow from its blobs, is found out.

Each lie here is told by whoever holds the run's own key: the entries are signed rightly and stand in a legal order.
"""

from __future__ import annotations

import json
import shutil

import pytest
import rigs

from harness.artifacts import BlobStore
from harness.auditing import verify_run
from harness.auditlog import AuditLog
from harness.canonical import canonical_bytes
from harness.envelope import seal
from harness.errors import AuditError, StateError
from harness.folder import RunFolder
from harness.keys import Signer
from harness.kinds import KINDS, kind_of, subjects_of
from harness.replay import replay_run


def told_again(run, change):
    """Write the run's log anew, each body changed by `change(kind, body, blobs)`, all signed by the run's own key."""
    folder = RunFolder(run)
    signer, blobs = Signer.load(folder.signing_key), BlobStore(folder.blobs)
    entries = rigs.trail_of(run)[1]
    shutil.rmtree(folder.log)
    with AuditLog.create(folder.log, signer, signer.name) as log:
        for entry in entries:
            kind, body = kind_of(entry), entry.json_value()
            change(kind, body, blobs)
            log.append([seal(kind, body, subjects_of(KINDS[kind].parse(body)), signer)])
    return folder


def edited(blobs, name, edit):
    """Keep a blob like this one with something changed, and name it."""
    value = json.loads(blobs.get(name))
    edit(value)
    return blobs.put(canonical_bytes(value))


def measured(edit):
    """Change the evidence of the first measurement, wherever it is named."""

    def change(kind, body, blobs, names={}):  # noqa: B006 - one for each lie
        if kind == "measured" and not names:
            names[body["evidence"]] = edited(blobs, body["evidence"], edit)
        if kind in ("measured", "authorised"):
            body["evidence"] = names.get(body["evidence"], body["evidence"])

    return change


def of_kind(wanted, edit):
    """Change the bodies of a kind."""

    def change(kind, body, blobs):
        if kind == wanted:
            edit(body, blobs)

    return change


def promise(body, _blobs):
    """Give a rejection another reason than the one that was found."""
    if body["decision"]["verdict"] == "reject":
        body["decision"]["reasons"][0]["text"] += ", and the weather"


def rule(body, blobs):
    """Let the decide stage's judgement say that a rule read something else."""
    if body["document"] is not None:
        body["judgement"] = edited(blobs, body["judgement"], lambda value: value["verdicts"][0].update(message="well"))


def screen(body, blobs):
    """Let the screen's judgement say that a rule read something else."""
    body["judgement"] = edited(blobs, body["judgement"], lambda value: value["verdicts"][0].update(message="well"))


def tell_time(body, blobs):
    """Let the screen's rules be shown another time than the log's."""
    body["document"] = edited(blobs, body["document"], lambda value: value.update(now=value["now"] + 1.0))


def tell_history(body, blobs):
    """Let the rules of the decide stage be shown a quieter past than the log's."""
    if body["document"] is not None:
        edit = lambda value: value["history"].update(seconds_since_rollback=1e8)  # noqa: E731
        body["document"] = edited(blobs, body["document"], edit)


def other_gate(value):
    """Let the evidence name its first gate otherwise."""
    value["result"]["gates"][0]["name"] = "accuracy/parent"


def lower_bar(value):
    """Let the evidence say that a gate needed less than its stake asks for."""
    value["result"]["gates"][0]["threshold"] -= 1.0


LIES = {
    "a gate of another name": (measured(other_gate), "proposal 1"),
    "another alpha": (measured(lambda value: value["result"].update(alpha=0.001)), "proposal 1"),
    "a bar lower than alpha's": (measured(lower_bar), "proposal 1"),
    "no result": (measured(lambda value: value.pop("result")), "sha256:"),
    "gates that are none": (measured(lambda value: value["result"].update(gates=[])), "proposal 1"),
    "an outcome that does not follow": (measured(lambda value: value["result"].update(passed=False)), "proposal 1"),
    "another reason": (of_kind("decided", promise), "proposal"),
    "another reading of a rule": (of_kind("decided", rule), "proposal 1"),
    "another reading at the screen": (of_kind("screened", screen), "proposal 1"),
    "another time at the screen": (of_kind("screened", tell_time), "proposal 1"),
    "another history": (of_kind("decided", tell_history), "proposal 1"),
    "fewer items used": (measured(lambda value: value["result"].update(items=7)), "entry"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_decision_that_does_not_follow_is_found(copy, lie):
    """The trail verifies as it stands, and replay reports the first thing that does not follow, with its place."""
    change, where = LIES[lie]
    folder = told_again(copy, change)
    assert verify_run(folder, folder.public_key, log_only=True)["verdict"].startswith("valid")
    with pytest.raises((AuditError, StateError)) as caught:
        replay_run(folder)
    assert caught.value.where.startswith(where), caught.value


def test_a_policy_that_is_another_is_found(copy):
    """Where the policies in the blobs are not those that the log names, nothing is derived from them."""

    def other(body, blobs):
        body["policy_sources"] = edited(blobs, body["policy_sources"], lambda sources: sources.pop())

    with pytest.raises(AuditError, match="not those that the log names"):
        replay_run(told_again(copy, of_kind("genesis", other)))


def test_a_trail_told_again_unchanged_replays(copy):
    """The control: the same trail, signed anew without a change, verifies and replays whole."""
    folder = told_again(copy, lambda *_: None)
    state = rigs.trail_of(copy)[0]
    assert replay_run(folder)["decisions"] == len(state.proposals)


@pytest.mark.parametrize("left_out", ["judgement", "document"])
def test_a_promotion_without_what_its_rules_said_is_found(copy, left_out):
    """A decision to promote that names no judgement, or nothing that was judged, does not replay."""

    def unjudged(body, _blobs):
        if body["decision"]["verdict"] == "promote":
            body[left_out] = None

    folder = told_again(copy, of_kind("decided", unjudged))
    with pytest.raises((AuditError, StateError), match="judge"):
        replay_run(folder)
