"""Facts about a run whose held-out items are made afresh for every test: from guards.py to both verifiers and a replay."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rigs
from people import BEN, CAT
from rigs import generation, knobs
from waiting import LISTED, answer, settle, verified

from harness import desk
from harness.auditing import verify_run
from harness.auditlog import AuditLog
from harness.commands.vault import _fresh
from harness.entries import Measured, Predicted, Promoted, Staked
from harness.envelope import seal
from harness.errors import AuditError, ConfigError
from harness.folder import RunFolder
from harness.fresh_ledger import FreshState, charge, share
from harness.journal import read_run
from harness.keys import Signer, VaultKey, VerifierChain
from harness.kinds import KINDS, kind_of, subjects_of
from harness.ledger_replay import replay_ledger
from harness.operating import power_of
from harness.power import typical_alpha
from harness.replay import replay_run
from harness.rescoring import rescore
from harness.retirement import retired_items

pytestmark = pytest.mark.usefixtures("quick_disk")

VERIFY = Path(__file__).parent.parent / "audits" / "verify.py"
GENERATED = '''

import dataclasses

from harness.evals import Generated

ordinary = load


def one(rng):
    """One digit, as the others are drawn."""
    raw, labels = draw(1, rng)
    return raw[0], labels[0]


def load():
    """The digits, of which held-out ones are drawn for each test."""
    return dataclasses.replace(ordinary(), vault=Generated(40_000, one))
'''
BETTER, BEST = {"steps": 150}, {"hidden": 96, "steps": 400}
STARVED = {"hidden": 64, "steps": 400, "rare_share": 0.05}


@pytest.fixture(scope="module")
def fresh(digits, tmp_path_factory):
    """Open the rooms for the digits that are drawn for each test."""
    place = rigs.vary(digits, tmp_path_factory.mktemp("fresh") / "digits", ("ledger: {", "ledger: {items: fresh, "))
    with (place / "guards.py").open("a") as guards:
        guards.write(GENERATED)
    rig = rigs.Rig(place, tmp_path_factory.mktemp("rooms"))
    yield rig
    rig.close()


@pytest.fixture(scope="module")
def run(fresh, tmp_path_factory):
    """Run two that are rejected, a promotion, one more that is rejected, a promotion, and a rollback."""
    out = tmp_path_factory.mktemp("run") / "run"
    opened = fresh.open(out)
    generation(
        opened, 1, knobs("architecture", **STARVED), knobs("architecture", **{**STARVED, "hidden": 48}), knobs(**BETTER)
    )
    generation(opened, 2, knobs("architecture", **{**STARVED, "hidden": 32}), knobs("architecture", **BEST))
    opened.supervisor.rollback(1, by="tests", reason="a look")
    generation(opened, 3, knobs("architecture", **{**STARVED, "hidden": 80}))
    opened.rooms.folder.root.joinpath("ledger.json").write_text(json.dumps(opened.rooms.vault.state.json_value()))
    opened.close()
    return out


def entries_of(run):
    """Read the log."""
    return rigs.trail_of(run)[1]


def stakes(run):
    """Every stake, with what it cost."""
    costs = {entry.number: entry for entry in entries_of(run) if isinstance(entry, Measured)}
    return [(entry, costs[entry.number]) for entry in entries_of(run) if isinstance(entry, Staked)]


def test_stakes_follow_the_rule_and_promotions_cost_nothing(run):
    """Each stake is the rule's share of what is left; a rejected test costs what its evidence does not pay for."""
    left, promoted = 0.05, {entry.number for entry in entries_of(run) if isinstance(entry, Promoted)}
    told = stakes(run)
    assert [entry.number in promoted for entry, _ in told] == [False, False, True, False, True, False]
    for k, (staked, measured) in enumerate(told, 1):
        assert staked.test == k
        assert staked.alpha == pytest.approx(left * share(k), rel=1e-12)
        assert (measured.charged == 0.0) == (staked.number in promoted) == measured.passed
        assert 0.0 <= measured.charged < staked.alpha
        left -= measured.charged
    assert left > 0.04


def test_no_two_tests_share_an_item(run):
    """Each test's items begin where those of the one before end, and all three who are compared answer them anew."""
    ends = 0
    for staked, _ in stakes(run):
        assert staked.offset == ends
        ends += staked.cap
        asked = [e.candidate for e in entries_of(run) if isinstance(e, Predicted) and e.offset == staked.offset]
        assert len(asked) == len(set(asked)) >= 2  # the baseline may be the incumbent


def test_both_verifiers_and_the_replay_agree(run, fresh):
    """The trail verifies, from outside too; every stake and every measurement can be derived again."""
    assert verify_run(RunFolder(run), key=run / "keys" / "log.pub")["verdict"].startswith("valid")
    done = subprocess.run([sys.executable, str(VERIFY), str(run), "--key", str(run / "keys" / "log.pub")], capture_output=True, text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert replay_run(RunFolder(run))["stakes"] == 6
    key = VaultKey.load(run / "private" / "vault.key", None)
    assert rescore(RunFolder(run), fresh.subject, key) == {"measurements": 6, "other_evals": 0}


def test_what_people_let_past_a_ceiling_costs_what_its_evidence_does_not_pay(fresh, tmp_path):
    """A candidate that is not shown to be below a ceiling goes live by a quorum; ledger, verifiers and replay agree."""
    ceiling = "gates:\n  - {eval: smudges, kind: ceiling, threshold: 0.12}"
    place = rigs.vary(
        fresh.subject,
        tmp_path / "digits",
        ("gates:", ceiling),
        ("policies: [baseline]", "policies: [baseline]\napprovers: {require: 2}"),
    )
    (place / "approvers").write_text(LISTED)
    opened = fresh.open(tmp_path / "run", place)
    try:
        generation(opened, 1, knobs(**BETTER))
        assert opened.supervisor.state.held == {1}
        for person in (BEN, CAT):
            answer(opened, 1, person)
        assert settle(opened) == []
        assert opened.supervisor.state.live == 1
        kept = opened.rooms.vault.state
        assert verified(opened)["decisions"] == 1
    finally:
        opened.close()
    (measured,) = [entry for entry in entries_of(tmp_path / "run") if isinstance(entry, Measured)]
    assert not measured.passed
    assert kept.spent == pytest.approx(measured.charged, rel=1e-9)
    assert (kept.epoch, kept.pending) == (2, None)


def test_items_that_are_generated_are_not_published_and_not_added(run, fresh):
    """`vault retired` and `vault add` say in one error what to do where no held-out item stands in load()."""
    with pytest.raises(ConfigError, match="generated, each for one test") as error:
        retired_items(RunFolder(run), fresh.subject, VaultKey.load(run / "private" / "vault.key", None))
    assert "vault status" in error.value.remedy
    add = [sys.executable, "-m", "harness.cli", "vault", "add", str(run)]
    done = subprocess.run(add, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "no held-out items were added" in done.stderr


def test_the_ledger_follows_from_the_log(run):
    """What `vault status` derives from the log is what the vault's ledger says, and it is told in words."""
    state, entries = read_run(run / "log", VerifierChain.load(run / "keys" / "log.pub"))
    history = replay_ledger(entries, state, desk.BlobStore(run / "blobs"))
    ledger = history.ledger
    kept = FreshState.parse(json.loads((run / "ledger.json").read_text()))
    assert history.stakes == 6
    assert ledger.spent == pytest.approx(kept.spent, rel=1e-9)
    assert {**ledger.json_value(), "spent": 0} == {**kept.json_value(), "spent": 0}
    told = subprocess.run([sys.executable, "-m", "harness.cli", "vault", "status", str(run)], capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert told.strip() == _fresh(ledger, ledger.rule(7))
    assert "12,000 of the 40,000 that may be made are spent" in told


def test_the_same_key_makes_the_same_items(run, fresh, tmp_path):
    """A second run under the same vault key and seed decides as the first; under another key it is asked other items."""
    again = fresh.open(tmp_path / "again")
    generation(again, 1, knobs("architecture", **STARVED))
    again.close()
    rigs.lay_vault_key(tmp_path / "other", bytes(32))
    other = fresh.open(tmp_path / "other")
    generation(other, 1, knobs("architecture", **STARVED))
    other.close()
    answers = [
        next(e.answers for e in entries_of(place) if isinstance(e, Predicted))
        for place in (run, tmp_path / "again", tmp_path / "other")
    ]
    assert answers[0] == answers[1] != answers[2]


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("place", ["staked in the ledger", "staked", "answered", "measured", "decided"])
def test_killed_anywhere_in_a_test_nothing_is_lost_or_given_back(run, fresh, tmp_path, place):
    """Whatever a test was cut at, it goes on with its own stake, asks the same items and costs what it would have."""
    opened = fresh.open(tmp_path / "cut")
    patch = pytest.MonkeyPatch()
    kinds = {"answered": Predicted, "measured": Measured, "decided": desk.Decided}

    def kill(*_, **__):
        raise Killed

    commit = type(opened.rooms.journal).commit

    def commit_and_die(self, *entries):
        commit(self, *entries)
        if place in kinds and isinstance(entries[0], kinds[place]):
            raise Killed

    with patch.context() as patched:
        if place == "staked in the ledger":
            patched.setattr(desk, "Staked", kill)
        if place == "staked":
            patched.setattr(type(opened.supervisor._trial), "measure", kill)
        patched.setattr(type(opened.rooms.journal), "commit", commit_and_die)
        with pytest.raises(Killed):
            generation(opened, 1, knobs("architecture", **STARVED))
    opened.close()
    opened = fresh.open(tmp_path / "cut")
    generation(opened, 1, knobs("architecture", **STARVED))
    state = opened.rooms.vault.state
    opened.close()
    (cut,), whole = stakes(tmp_path / "cut"), stakes(run)[0]
    for entries in (cut, whole):
        assert entries[1].charged == charge(
            entries[0].alpha, evidence(run if entries is whole else tmp_path / "cut", entries[1])
        )
    assert (cut[0].alpha, cut[0].offset, cut[1].charged) == (whole[0].alpha, whole[0].offset, whole[1].charged)
    assert (state.test, state.offset, state.spent, state.pending) == (1, cut[0].cap, cut[1].charged, None)


def test_a_measured_test_that_a_rollback_ends_costs_what_was_measured(fresh, tmp_path):
    """Killed after its measurement, and then ended by a rollback: log and vault have the same cost, and the run goes on."""
    opened = fresh.open(tmp_path / "run")
    generation(opened, 1, knobs(**BETTER))
    commit = type(opened.rooms.journal).commit

    def commit_and_die(self, *entries):
        commit(self, *entries)
        if isinstance(entries[0], Measured):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(opened.rooms.journal), "commit", commit_and_die)
        with pytest.raises(Killed):
            generation(opened, 2, knobs("architecture", **STARVED))
    opened.close()
    opened = fresh.open(tmp_path / "run")
    assert opened.rooms.vault.state.pending is not None
    opened.supervisor.rollback(0, by="tests", reason="a look")
    state = opened.rooms.vault.state
    opened.close()
    opened = fresh.open(tmp_path / "run")  # the end of the epoch is asked for again, and nothing is charged again
    assert opened.rooms.vault.state == state
    opened.supervisor.settle(2)
    generation(opened, 3, knobs("architecture", **{**STARVED, "hidden": 80}))
    state = opened.rooms.vault.state
    opened.close()
    told = stakes(tmp_path / "run")
    assert [staked.test for staked, _ in told] == [1, 2, 3]
    assert state.spent == pytest.approx(sum(measured.charged for _, measured in told), rel=1e-12)
    assert told[2][0].alpha == pytest.approx((0.05 - told[1][1].charged) * share(3), rel=1e-12)
    assert replay_run(RunFolder(tmp_path / "run"))["stakes"] == 3


def test_a_cost_that_does_not_follow_is_found(fresh, tmp_path):
    """Signed rightly and legal by the log alone: a test that gives more back than its evidence is worth."""
    run = tmp_path / "run"
    opened = fresh.open(run)
    generation(opened, 1, knobs("architecture", **STARVED))
    opened.close()
    folder, entries = RunFolder(run), entries_of(run)
    signer = Signer.load(folder.signing_key)
    shutil.rmtree(folder.log)
    with AuditLog.create(folder.log, signer, signer.name) as log:
        for entry in entries:
            kind, body = kind_of(entry), entry.json_value()
            if kind == "measured":
                body["charged"] /= 2
            log.append([seal(kind, body, subjects_of(KINDS[kind].parse(body)), signer)])
    assert verify_run(folder, key=folder.public_key, log_only=True)["verdict"].startswith("valid")
    with pytest.raises(AuditError, match="its evidence costs") as error:
        verify_run(folder, key=folder.public_key)
    assert error.value.clause == "§8.5"
    with pytest.raises(AuditError, match="its evidence costs"):
        replay_run(folder)


def evidence(run, measured):
    """Read the log evidence of a test's gates."""
    told = json.loads(desk.BlobStore(run / "blobs").get(measured.evidence))
    return [gate["log_e"] for gate in told["result"]["gates"]]


def test_another_named_run_goes_on_with_the_ledger(fresh, tmp_path):
    """Two runs on one named vault count tests on, share what is left, and are never asked the same item."""
    subject = rigs.vary(fresh.subject, tmp_path / "subject", ("generations: 3", "generations: 3\nvault: {dir: vault}"))
    key = tmp_path / "vault.key"
    VaultKey.create(key, None)
    told = []
    for name in ("one", "two"):
        opened = fresh.open(tmp_path / name, subject, vault_key=key)
        generation(opened, 1, knobs("architecture", **STARVED))
        opened.close()
        told += stakes(tmp_path / name)
        assert verify_run(RunFolder(tmp_path / name), key=tmp_path / name / "keys" / "log.pub")["verdict"].startswith(
            "valid"
        )
    (first, cost), (second, _) = told
    assert (first.test, second.test, second.offset) == (1, 2, first.offset + first.cap)
    assert second.alpha == pytest.approx((0.05 - cost.charged) * share(2), rel=1e-12)


def test_power_is_calculated_for_the_twentieth_test_of_a_life(fresh):
    """`gates power` assumes of fresh items the stake of the twentieth test, of which nothing has come back."""
    found = power_of(fresh.subject)
    assert found.table is not None
    assert found.table.alpha == typical_alpha(0.05, fresh=True)
    assert found.ok


@pytest.mark.parametrize(("items", "other"), [("scarce", "fresh"), ("fresh", "scarce")])
def test_a_ledger_of_the_other_kind_is_one_clear_error(fresh, digits, tmp_path, items, other):
    """Items that are generated go with a ledger of fresh items, and no others do."""
    base = fresh.subject if other == "fresh" else digits
    subject = shutil.copytree(base, tmp_path / "subject")
    text = (subject / "lockgate.yaml").read_text().replace("items: fresh, ", "")
    (subject / "lockgate.yaml").write_text(text.replace("ledger: {", f"ledger: {{items: {items}, "))
    with pytest.raises(ConfigError, match=f"ledger.items is {items}") as error:
        fresh.open(tmp_path / "run", subject)
    assert f"items: {other}" in error.value.remedy


def test_a_generator_that_has_changed_is_other_data(run, fresh, tmp_path):
    """The data's digest shows a generator that draws otherwise, though no held-out item is at hand."""
    subject = shutil.copytree(fresh.subject, tmp_path / "subject")
    text = (subject / "guards.py").read_text().replace("raw[0], labels[0]", "255 - raw[0], labels[0]")
    (subject / "guards.py").write_text(text)
    key = VaultKey.load(run / "private" / "vault.key", None)
    with pytest.raises(AuditError, match="items or labels are not those of the log"):
        rescore(RunFolder(run), subject, key)
