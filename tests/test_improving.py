"""harness.improving: other settings of a proposer are tried in pairs, adopted or dropped, and taken back.

The proposer whose settings are tried is a real one, an installed package of a few lines: its one setting says for how
long candidates train, so that what its slots yield follows from it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rigs
import trails
from retold import edited, told_again

from harness.auditing import verify_run
from harness.config import parse_config
from harness.errors import AuditError, ProposerError, StateError
from harness.folder import RunFolder
from harness.improving import Improving
from harness.kinds import kind_of
from harness.operating import rollback
from harness.passphrase import PassphraseSource
from harness.proposers import settled
from harness.replay import replay_run
from harness.run import Watcher, guarded_loop
from harness.views import proposers_view

pytestmark = pytest.mark.usefixtures("quick_disk")
VERIFY = Path(__file__).parent.parent / "audits" / "verify.py"
STEPPER = """
import random
from pydantic import BaseModel, ConfigDict, Field

class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    steps: int = Field(62, ge=10, le=390)
    loud: bool = False

def propose(ask):
    steps = Settings(**ask.settings).steps
    rng = random.Random(f"{ask.seed} {ask.generation}")
    drawn = rng.sample(range(10), min(10, ask.count))
    return [
        {"kind": "hyperparameters", "base": "incumbent", "changes": {"steps": steps + more, "lr": 0.01 + rng.random() / 1e4},
         "rationale": "to train for as long as I am set to"}
        for more in drawn
    ]
"""
LAST = 8
GOOD, BAD = {"steps": 300}, {"steps": 20}
QUIET = Watcher(note=lambda _: None, event=lambda _: None)


def improver(**settings):
    """Make a document of other settings for the stepper."""
    return {"kind": "improver", "proposer": "stepper", "settings": settings, "rationale": "a test"}


PLAN = [
    {"generation": 1, "label": "no such setting", "proposal": improver(stride=3)},
    {"generation": 1, "label": "out of its range", "proposal": improver(steps=9000)},
    {"generation": 1, "label": "what is in force", "proposal": improver(steps=62)},
    {"generation": 1, "label": "of nobody", "proposal": {**improver(steps=9), "proposer": "nobody"}},
    {"generation": 1, "label": "of one that declares none", "proposal": {**improver(steps=9), "proposer": "scripted"}},
    {"generation": 1, "label": "good", "proposal": improver(**GOOD)},
    {"generation": 1, "label": "a second one", "proposal": improver(steps=250)},
    {"generation": 5, "label": "the same again", "proposal": improver(**GOOD)},
    {"generation": 5, "label": "bad", "proposal": improver(**BAD)},
    {"generation": 6, "label": "the bad again, with a default", "proposal": improver(**BAD, loud=False)},
]


@pytest.fixture(scope="module", autouse=True)
def stepper(tmp_path_factory):
    """Install the proposer for this process and those that it starts."""
    folder = tmp_path_factory.mktemp("stepper")
    (folder / "stepper_proposer.py").write_text(STEPPER)
    info = folder / "stepper_proposer-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stepper-proposer\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[lockgate.proposers]\nstepper = stepper_proposer:propose\n")
    (info / "RECORD").write_text(
        "".join(f"{path.relative_to(folder)},,\n" for path in [folder / "stepper_proposer.py", *info.iterdir()])
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{Path(__file__).parents[1]}")
        yield folder


@pytest.fixture(scope="module")
def subject(digits, tmp_path_factory):
    """Vary the digits: the stepper beside the plan, a short window, and nothing is promoted."""
    return rigs.vary(
        digits,
        tmp_path_factory.mktemp("subject") / "subject",
        (
            "proposers: {scripted: 4}",
            "proposers: {scripted: 7, stepper: 4}\nimprover: {alpha: 0.3, window: 3}",
        ),
        ("min_gain: 0.0", "min_gain: 0.9"),
    )


def plan(subject, steps):
    """Give a subject another plan."""
    (subject / "scripted.json").write_text(json.dumps(steps))
    return subject


@pytest.fixture(scope="module")
def tuned(subject, tmp_path_factory):
    """Run the plan in one go: one trial is adopted, one is dropped."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    rigs.lay_vault_key(out)
    told = guarded_loop(plan(subject, PLAN), out, QUIET, seed=0, generations=LAST)
    return out, told


def bodies(run, *wanted):
    """Give the bodies of the entries of these kinds, without their times."""
    return [
        (kind_of(entry), {**entry.json_value(), "time": ""})
        for entry in rigs.trail_of(run)[1]
        if kind_of(entry) in wanted
    ]


TRIALS = ("improver-begun", "improver-ended", "improver-rolled-back")


def test_better_settings_are_adopted_and_worse_ones_dropped(tuned):
    """Settings that yield more are in force as version 1; those that yield less are dropped at the window's end."""
    ended = [body for kind, body in bodies(tuned[0], *TRIALS) if kind == "improver-ended"]
    assert [(body["verdict"], body["version"]) for body in ended] == [("adopted", 1), ("dropped", None)]
    told = tuned[1]["proposers"]
    assert told["in_force"]["stepper"] == {"version": 1, "settings": GOOD}
    assert told["versions"] == [{"version": 1, "proposer": "stepper", "settings": GOOD}]
    assert told["trial"] is None
    verdicts = {each["label"]: each["verdict"] for each in tuned[1]["details"] if each["label"]}
    assert (verdicts["good"], verdicts["bad"]) == ("adopted", "dropped")


def test_what_can_be_no_trial_is_a_rejection_with_its_reason(tuned):
    """Unknown settings, ranges, proposers, a second trial and a repetition are rejected, each with its reason."""
    reasons = {
        each["label"]: (each["reasons"][0]["code"], each["reasons"][0]["text"])
        for each in tuned[1]["details"]
        if each["label"] and each["reasons"]
    }
    assert {label: code for label, (code, _) in reasons.items()} == {
        "no such setting": "improver",
        "out of its range": "improver",
        "what is in force": "no-op",
        "of nobody": "improver",
        "of one that declares none": "improver",
        "a second one": "improver",
        "the same again": "no-op",
        "the bad again, with a default": "duplicate",
    }
    assert "stride" in reasons["no such setting"][1]
    assert "390" in reasons["out of its range"][1]
    assert "one at a time" in reasons["a second one"][1]


def test_slots_are_in_pairs_while_a_trial_is_open(tuned):
    """In each generation of a trial as many slots are made with the old settings as with the new; before, no slot is."""
    made = {}
    for entry in rigs.trail_of(tuned[0])[1]:
        if kind_of(entry) == "proposed" and entry.proposer == "stepper":
            made.setdefault(entry.generation, []).append(entry.arm)
    assert sorted(made) == list(range(1, LAST + 1))
    ended = rigs.trail_of(tuned[0])[0].proposals[6].begun is not None
    assert ended
    arms = {at: (each.count("old"), each.count("new")) for at, each in made.items()}
    assert arms[1] == arms[5] == (0, 0), "no trial is open in these"
    assert arms[2] == arms[6] == (2, 2)


def test_a_trial_spends_nothing_of_the_vault(tuned):
    """No held-out item was staked for the trials."""
    state, _ = rigs.trail_of(tuned[0])
    assert all(found.staked is None for found in state.proposals.values())


def test_the_trail_verifies_and_replays(tuned):
    """Both verifiers accept the run, and a replay derives the verdicts from its development metrics."""
    folder = RunFolder(tuned[0])
    assert verify_run(folder, folder.public_key)["verdict"].startswith("valid")
    assert replay_run(folder)["entries"] == rigs.trail_of(tuned[0])[0].size
    done = subprocess.run(
        [sys.executable, VERIFY, tuned[0], "--key", folder.public_key], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_cut_off_in_the_window_it_ends_as_uninterrupted(tuned, subject, tmp_path):
    """A run that is ended within both windows and begun again has the same proposals, trials and evidence."""
    rigs.lay_vault_key(tmp_path / "run")
    for last in (1, 3, 6, LAST):
        guarded_loop(subject, tmp_path / "run", QUIET, seed=0, generations=last)
    kinds = (*TRIALS, "proposed", "decided", "developed", "screened")

    def in_order(run):
        told = [(kind, {**body, "document": "", "judgement": ""}) for kind, body in bodies(run, *kinds)]
        return sorted(told, key=lambda each: json.dumps(each, sort_keys=True))

    assert in_order(tmp_path / "run") == in_order(tuned[0])
    assert bodies(tmp_path / "run", *TRIALS) == bodies(tuned[0], *TRIALS)


def lie(kind, edit, **where):
    """Change the bodies of a kind in which these members are so."""

    def change(each, body, blobs):
        if each == kind and all(body.get(name) == value for name, value in where.items()):
            edit(body, blobs)

    return change


def of_evidence(edit):
    """Change the evidence of what was adopted."""

    def change(body, blobs):
        body["evidence"] = edited(blobs, body["evidence"], edit)

    return lie("improver-ended", change, verdict="adopted")


LIES = {
    "settings that were not proposed": lie(
        "improver-begun", lambda body, _: body["settings"].update(steps=301), settings=GOOD
    ),
    "a dropped trial that is adopted": lie(
        "improver-ended", lambda body, _: body.update(verdict="adopted", version=2), verdict="dropped"
    ),
    "more pairs than there are": lie(
        "improver-ended", lambda body, _: body.update(pairs=body["pairs"] + 1), verdict="adopted"
    ),
    "more evidence than there is": of_evidence(lambda told: told.update(log_e=told["log_e"] + 1)),
    "another difference": of_evidence(lambda told: told["differences"].append(0.5)),
    "another alpha": of_evidence(lambda told: told.update(alpha=0.9)),
    "arms that changed places": lie("proposed", lambda body, _: body.update(arm="new"), arm="old"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_verdict_that_does_not_follow_is_found_by_a_replay(tuned, tmp_path, lie):
    """Signed with the run's own key: what was not proposed, or does not follow from the pairs, ends the replay."""
    run = rigs.copy_run(tuned[0], tmp_path / "run")
    folder = told_again(run, LIES[lie])
    with pytest.raises(AuditError, match="proposal"):
        replay_run(folder)


MUTANTS = {
    "a trial of a proposal that is unknown": ("improver-begun", {"number": 900}),
    "an end of another trial": ("improver-ended", {"number": 1}),
    "a version that is not the next": ("improver-ended", {"version": 2}),
    "adopted, and no version": ("improver-ended", {"version": None}),
    "adopted without a pair": ("improver-ended", {"pairs": 0}),
    "a verdict that is none": ("improver-ended", {"verdict": "maybe"}),
    "settings that are no object": ("improver-begun", {"settings": [1]}),
    "a trial of another proposer's": ("improver-begun", {"proposer": "scripted"}),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_both_verifiers_refuse_a_mutant(tuned, tmp_path, mutant):
    """An entry that may not stand there, or is none, is refused by both, at the same entry for the same clause."""
    kind, changes = MUTANTS[mutant]
    run, done = rigs.copy_run(tuned[0], tmp_path / "run"), []

    def change(each, body, _blobs):
        if each == kind and not done:
            done.append(body.update(changes))

    folder = told_again(run, change)
    with pytest.raises((AuditError, StateError)) as ours:
        verify_run(folder, folder.public_key)
    theirs = subprocess.run(
        [sys.executable, VERIFY, run, "--key", folder.public_key, "--json"], capture_output=True, text=True, check=False
    )
    report = json.loads(theirs.stdout)
    assert theirs.returncode == 5
    assert (f"entry {report['entry']}", report["clause"]) == (ours.value.where, ours.value.clause)


def test_settings_are_taken_back_like_a_model(tuned, subject, tmp_path):
    """A rollback puts the configuration's settings in force again, logged with its reason; the same twice is refused."""
    run = rigs.copy_run(tuned[0], tmp_path / "run")
    source = PassphraseSource(None)
    where = {"subject": subject, "vault_key": None, "proposer": "stepper"}
    rollback(RunFolder(run), 0, "they train too long", source, **where)
    state, entries = rigs.trail_of(run)
    assert state.settings_of("stepper") == {}
    assert entries[-1].json_value() | {"time": ""} == {
        "proposer": "stepper", "version": 0, "by": "operator", "reason": "they train too long", "time": "",
    }  # fmt: skip
    with pytest.raises(StateError, match="in force already"):
        rollback(RunFolder(run), 0, "again", source, **where)
    rollback(RunFolder(run), 1, "and forth", source, **where)
    assert rigs.trail_of(run)[0].settings_of("stepper") == GOOD
    with pytest.raises(StateError, match="none of stepper's"):
        rollback(RunFolder(run), 2, "too far", source, **where)
    folder = RunFolder(run)
    assert verify_run(folder, folder.public_key)["verdict"].startswith("valid")
    replay_run(folder)


def test_a_supervisor_killed_before_it_ended_a_trial_ends_it_at_its_next_start(tuned, rig, subject, tmp_path):
    """Cut between the last slot's end and the trial's, the run recovers: the trial has ended as it would have."""
    rigs.lay_vault_key(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Improving, "judge", lambda _self, _generation: None)
        guarded_in_process(rig, subject, tmp_path / "run", 4)
    cut, _ = rigs.trail_of(tmp_path / "run")
    assert cut.trial is not None
    opened = rig.open(tmp_path / "run", subject)
    opened.close()
    assert bodies(tmp_path / "run", *TRIALS) == bodies(tuned[0], *TRIALS)[:2]


def guarded_in_process(rig, subject, run, last):
    """Drive the run with the loop's own slots, and the supervisor in this process."""
    from harness.config import load_config
    from harness.proposing import Proposing
    from harness.run import proposer_settings, slots_of
    from harness.supervisor import Slot
    from harness.views import ask_view

    opened = rig.open(run, subject, seed=0)
    config, supervisor = load_config(subject), opened.supervisor
    plans = {name: proposer_settings(subject, config, name) for name in config.proposers}
    try:
        with Proposing() as proposing:
            for generation in range(1, last + 1):
                asked = {
                    "ask": ask_view(supervisor.state, opened.rooms.blobs),
                    "proposers": proposers_view(supervisor.state),
                }
                made, *_ = slots_of(asked, generation, config, dict(config.proposers), plans, proposing, {}, QUIET)
                slots = [
                    Slot(s["proposer"], s["document"].encode(), s["scripted"], s["label"], s.get("arm")) for s in made
                ]
                supervisor.submit(generation, slots)
                supervisor.settle(generation)
    finally:
        opened.close()


@pytest.mark.usefixtures("stepper")
def test_settings_that_were_screened_are_no_twin_of_a_model(rig, subject, tmp_path):
    """A way back to the incumbent's recipe is no duplicate of settings that left the incumbent be: it is built."""
    opened = rig.open(tmp_path / "run", plan(subject, PLAN), seed=0)
    try:
        rigs.generation(opened, 1, improver(**GOOD), improver(steps=250), rigs.knobs(steps=90))
        there = opened.supervisor.state.proposals[3].built.candidate.digest
        rigs.generation(opened, 2, rigs.knobs(base=there, steps=60))
        state = opened.supervisor.state
    finally:
        opened.close()
    assert state.proposals[2].decision.reasons[0].code == "improver"
    assert state.proposals[2].screened is not None
    assert state.proposals[4].built is not None
    assert state.proposals[4].decision.reasons[0].code != "duplicate"


def test_nobody_is_told_where_a_model_is():
    """The settings in force of a proposer that asks a model are those of its prompt; its endpoint is not to be tried."""
    config = parse_config(
        trails.CONFIG_TEXT.replace("{scripted: 2}", "{scripted: 2, llm: 2}") + "improver: {}\n"
        "proposer_settings: {llm: {endpoint: 'http://127.0.0.1:9/v1', model: m, budget_tokens: 9, temperature: 0.5}}\n"
    )
    state = trails.Trail().begin(trails.GENESIS.model_copy(update={"config": config})).state
    assert state.settings_of("llm") == {"temperature": 0.5}
    assert "127.0.0.1" not in json.dumps(proposers_view(state))
    assert settled("llm", {"temperature": 0.25})["temperature"] == 0.25
    with pytest.raises(ProposerError, match="endpoint"):
        settled("llm", {"endpoint": "http://127.0.0.1:10/v1"})
