"""Facts about the screen on development items: what it stops before a held-out test, and what that saves."""

from __future__ import annotations

import json
import math
import statistics

import pytest
import rigs
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rigs import generation, knobs
from typer.testing import CliRunner

from harness import trial
from harness.artifacts import BlobStore
from harness.cli import app
from harness.config import DevelopmentRule, parse_config
from harness.display import closing, screen_line
from harness.errors import AuditError, ConfigError
from harness.folder import RunFolder
from harness.kinds import kind_of
from harness.replay import replay_run
from harness.review.site import write_pages
from harness.shortfall import falls_short
from harness.views import items_used, screen_view

pytestmark = pytest.mark.usefixtures("quick_disk")
BETTER, STARVED = knobs(steps=150), knobs("architecture", hidden=64, steps=400, rare_share=0.05)
WORSE = knobs(steps=20)
SCREEN = ("development: {min_gain: 0.0}", "development: {min_gain: 0.0, max_loss: {parity: 0.1}}")
METRICS = st.dictionaries(
    st.sampled_from(["accuracy", "parity", "smudges"]), st.floats(-1, 1) | st.just(math.nan), max_size=3
)


@pytest.fixture(scope="module")
def screened(digits, tmp_path_factory):
    """Give the digits with a bar for parity on the development items."""
    return rigs.vary(digits, tmp_path_factory.mktemp("screened") / "digits", SCREEN)


@pytest.fixture(scope="module")
def stopped(rig, screened, tmp_path_factory):
    """Make a run with a promotion, one that starves parity, and one that is worse."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    run = rig.open(out, screened)
    generation(run, 1, BETTER)
    generation(run, 2, STARVED, WORSE)
    run.close()
    return out


@given(mine=METRICS, theirs=METRICS, gain=st.floats(-0.5, 0.5), loss=st.floats(0, 1))
def test_only_what_gains_enough_and_loses_little_goes_on(mine, theirs, gain, loss):
    """A candidate goes on exactly where both metrics are there, the objective gains more and parity loses no more."""
    rule = DevelopmentRule(min_gain=gain, max_loss={"parity": loss})
    there = {"accuracy", "parity"} <= mine.keys() & theirs.keys()
    passes = there and mine["accuracy"] - theirs["accuracy"] > gain and theirs["parity"] - mine["parity"] <= loss
    assert (falls_short(rule, "accuracy", mine, theirs) is None) == passes


def test_what_fell_short_is_named_with_its_bar():
    """The eval, both means, and what it may lose are told."""
    rule = DevelopmentRule(max_loss={"parity": 0.1})
    mine, theirs = {"accuracy": 0.9, "parity": 0.3}, {"accuracy": 0.8, "parity": 0.5}
    assert falls_short(rule, "accuracy", mine, theirs) == (
        "parity 0.3000 on the development items, the incumbent 0.5000: it may lose 0.1"
    )
    assert falls_short(rule, "accuracy", theirs, theirs) == (
        "accuracy 0.8000 on the development items, the incumbent 0.8000"
    )


def test_a_candidate_that_starves_another_eval_costs_no_held_out_items(stopped):
    """It gains on the objective, and is rejected before anything is staked, by the eval that it starves."""
    state, entries = rigs.trail_of(stopped)
    found = state.proposals[2]
    before = state.candidates()[state.incumbent.digest][1]
    assert found.developed.development["accuracy"] > before["accuracy"]
    (why,) = found.decision.reasons
    assert (why.code, why.text.split()[0]) == ("development", "parity")
    assert [entry.number for entry in entries if kind_of(entry) == "staked"] == [1]


def test_a_replay_derives_the_screen(stopped):
    """What the screen stopped, and what it let pass, follow from the log."""
    assert replay_run(RunFolder(stopped))["decisions"] == 3


def test_a_stake_that_the_screen_should_have_stopped_is_found(rig, screened, tmp_path, monkeypatch):
    """A writer that spends held-out items on what its own rule stops is found by a replay."""
    run = rig.open(tmp_path / "run", screened)
    with monkeypatch.context() as patch:
        patch.setattr(trial, "falls_short", lambda *_: None)
        generation(run, 1, BETTER)
        generation(run, 2, STARVED)
    run.close()
    with pytest.raises(AuditError, match=r"proposal 2: what the development items show.*parity"):
        replay_run(RunFolder(tmp_path / "run"))


def test_a_rejection_that_the_screen_does_not_give_is_found(rig, screened, tmp_path, monkeypatch):
    """A writer that stops a good candidate as if development items had is found by a replay."""
    run = rig.open(tmp_path / "run", screened)
    with monkeypatch.context() as patch:
        patch.setattr(trial, "falls_short", lambda *_: "I do not like it")
        generation(run, 1, BETTER)
    run.close()
    with pytest.raises(AuditError, match=r"proposal 1: what the development items show.*I do not like it"):
        replay_run(RunFolder(tmp_path / "run"))


# --- what it is declared with


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{parity: -0.1}", "greater than or equal to 0"),
        ("{accuracy: 0.1}", "names the objective"),
        ("0.1", "should be an object"),
    ],
)
def test_bars_that_mean_nothing_are_refused(screened, rule, message):
    """A negative loss, one for the objective, or no mapping is an error with its line."""
    text = (screened / "lockgate.yaml").read_text().replace("{parity: 0.1}", rule)
    with pytest.raises(ConfigError, match=message):
        parse_config(text)


def test_a_bar_for_an_eval_that_is_not_there_is_refused(rig, screened, tmp_path):
    """A misspelt eval would stop everything: the run does not begin, and the evals that there are are named."""
    other = rigs.vary(screened, tmp_path / "other", ("{parity: 0.1}", "{party: 0.1}"))
    with pytest.raises(ConfigError, match="max_loss names 'party'") as caught:
        rig.open(tmp_path / "run", other)
    assert "parity" in caught.value.remedy


# --- what it saves


def test_without_a_rejected_test_nothing_is_said_of_what_was_saved(stopped):
    """Two were stopped; how long their tests would have been, no rejected test of this run can tell."""
    told = screen_view(rigs.trail_of(stopped)[0], BlobStore(stopped / "blobs"))
    assert told == {"stopped": 2, "tests": 1, "median": None, "saved": None}
    assert screen_line(told) == (
        "Development items stopped 2 before any held-out item was asked; there were 1 test on held-out ones."
    )


def test_what_was_saved_is_estimated_by_the_rejected_tests(finished, capsys, tmp_path):
    """The estimate is the median of what rejected tests scored, for each that was stopped, and is called one."""
    state, blobs = rigs.trail_of(finished)[0], BlobStore(finished / "blobs")
    used = [
        items_used(found, blobs)
        for found in state.proposals.values()
        if found.measured is not None and found.decision.verdict == "reject"
    ]
    codes = [found.decision.reasons[0].code for found in state.proposals.values()]
    told = json.loads(CliRunner().invoke(app, ["status", str(finished), "--json"]).output)
    screen = told["development_screen"]
    assert screen["stopped"] == codes.count("development") > 0
    assert screen["median"] == round(statistics.median(used)) > 0
    assert screen["saved"] == screen["stopped"] * screen["median"]
    assert screen["tests"] == sum(found.staked is not None for found in state.proposals.values())
    closing(Console(width=400), told, finished)
    assert f"saved some {screen['saved']:,} item scorings: an estimate" in capsys.readouterr().out
    write_pages(RunFolder(finished), tmp_path / "own")
    assert f"saved some {screen['saved']:,} item scorings" in (tmp_path / "own" / "index.html").read_text()
    write_pages(RunFolder(finished), tmp_path / "public", public=True)
    public = (tmp_path / "public" / "index.html").read_text()
    assert "stopped by development items" in public
    assert "item scorings" not in public, "how many items a test scored is confidential"


def test_evidence_that_cannot_be_read_leaves_the_estimate_out(copy):
    """Status works on a damaged run: the counts are the log's, and no number is made up."""
    state = rigs.trail_of(copy)[0]
    measured = next(f.measured for f in state.proposals.values() if f.measured and f.decision.verdict == "reject")
    BlobStore(copy / "blobs").path(measured.evidence).unlink()
    told = screen_view(state, BlobStore(copy / "blobs"))
    assert told["stopped"] > 0
    assert (told["median"], told["saved"]) == (None, None)
