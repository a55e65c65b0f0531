"""Facts about views: what an operator sees, and that a proposer learns one bit of the vault and no more."""

from __future__ import annotations

import pytest
import rigs
import trails
from hypothesis import given
from hypothesis import strategies as st
from trails import Trail, sha

from harness.artifacts import BlobStore
from harness.canonical import canonical_bytes
from harness.entries import Halted, Predicted
from harness.errors import StateError
from harness.proposers import Ask
from harness.state import RunState
from harness.views import (
    ARCHIVE,
    ask_view,
    event_view,
    evidence_view,
    feedback,
    next_generation,
    proposal_view,
    summary,
)

FIELDS = {
    "generation",
    "index",
    "proposer",
    "proposal",
    "candidate",
    "stage",
    "development",
    "failed_rules",
    "refuted",
    "promoted",
}


class Documents:
    """Blobs that hold, for any name, a document: what a view reads of a made-up trail."""

    def get(self, _name):
        """Give a proposal, a schema and a manifest in one."""
        return b'{"kind":"code"}'


@st.composite
def held_out(draw):
    """Draw everything that the vault says of one proposal: verdicts, counts, evidence, stake, answers."""
    verdicts = draw(st.lists(st.sampled_from(["pass", "fail", "inconclusive"]), min_size=2, max_size=2))
    return {
        "verdicts": verdicts,
        "evidence": sha(draw(st.integers())),
        "items": draw(st.integers()),
        "code": draw(
            st.sampled_from(["gate-objective", "gate-alignment", "inconclusive", "policy", "vault-exhausted"])
        ),
        "text": draw(st.text(max_size=20)),
        "answers": draw(st.none() | st.integers()),
    }


def rejected(world):
    """Make a run of one proposal that the vault, or what came after, rejected; `None` before it was ever staked."""
    trail = Trail().begin().develop(1)
    if world is None:
        return trail.add(trails.decided(1, "reject", "development"))
    staked = trails.staked(1, trail.state, items=sha(world["items"]))
    trail.add(staked)
    if world["answers"] is not None:
        answers = sha(world["answers"])
        trail.add(Predicted(candidate=sha("candidate 1"), epoch=1, offset=0, cap=1000, answers=answers, number=1))
    trail.add(trails.measured(1, *world["verdicts"], evidence=world["evidence"]))
    return trail.add(trails.decided(1, "reject", world["code"]))


@given(st.none() | held_out(), st.none() | held_out())
def test_what_a_proposer_is_told_of_a_rejection_does_not_depend_on_the_vault(one, other):
    """Whatever the held-out items said of a rejected candidate, the proposers' next ask is the same, byte for byte."""
    asks = [canonical_bytes(ask_view(rejected(world).state, Documents())) for world in (one, other)]
    assert asks[0] == asks[1]


def test_a_promotion_is_the_one_bit():
    """Between a rejected and a promoted candidate the feedback differs in `promoted` alone."""
    lost = rejected({"verdicts": ["fail", "pass"], "items": 9, "evidence": sha(1),
                     "code": "gate-objective", "text": "", "answers": None}).state  # fmt: skip
    won = Trail().begin().develop(1).measure(1).promote(1).state
    one, other = (feedback(state.proposals[1], Documents()).json_value() for state in (lost, won))
    assert {name for name in one if one[name] != other[name]} == {"promoted"}
    assert (one["promoted"], other["promoted"]) == (False, True)


def test_feedback_has_no_room_for_more():
    """The fields of a feedback are these, and none of them is of the vault."""
    assert set(feedback(Trail().begin().develop(1).state.proposals[1], Documents()).json_value()) == FIELDS


def test_a_voided_decision_shows_as_not_promoted():
    """A candidate that passed and was not promoted all the same gives no other bit than a rejected one."""
    trail = Trail().begin().develop(1).measure(1).add(trails.decided(1))
    assert feedback(trail.state.proposals[1], Documents()).promoted is False


def test_a_generation_is_told_whole():
    """The history holds finished generations only: nothing of the one that is being worked on."""
    trail = Trail().begin().develop(1).add(trails.decided(1, "reject"))
    trail.add(trails.proposed(2, generation=2), trails.proposed(3, generation=2, index=1))
    trail.add(trails.decided(2, "reject"))
    assert [each["generation"] for each in ask_view(trail.state, Documents())["history"]] == [1]


def test_the_archive_is_the_best_on_development():
    """Proposers see the sixteen best candidates on the development items, then the versions that were live."""
    trail = Trail().begin()
    for number in range(1, ARCHIVE + 5):
        trail.add(trails.proposed(number), trails.screened(number), trails.built(number))
        means = {"accuracy": 0.5 + number / 1000, "parity": 0.5}
        trail.add(trails.developed(number).model_copy(update={"development": means}))
        trail.add(trails.decided(number, "reject"))
    archive = ask_view(trail.state, Documents())["archive"]
    assert len(archive) == ARCHIVE + 1
    assert [each["development"]["accuracy"] for each in archive[:2]] == [0.52, 0.519]
    assert archive[-1]["digest"] == trail.state.versions[0].digest, "the base of the first proposals"


def test_the_next_generation_is_the_open_one():
    """The generation to work on is the last one while a slot of it is open, and the next one then."""
    trail = Trail().begin()
    assert next_generation(trail.state) == 1
    trail.develop(1)
    assert next_generation(trail.state) == 1
    trail.measure(1).add(trails.decided(1))
    assert next_generation(trail.state) == 1  # decided, and not promoted yet
    trail.promote(1)
    assert next_generation(trail.state) == 2


def test_a_summary_counts():
    """The summary counts proposals, promotions, and rejections by the code of their first reason."""
    trail = Trail().begin().develop(1).measure(1).promote(1)
    trail.add(trails.proposed(2, 2), trails.decided(2, "reject", "malformed"))
    trail.add(trails.proposed(3, 2, 1), trails.decided(3, "reject", "malformed"), trails.proposed(4, 2, 2))
    told = summary(trail.state)
    assert (told["proposals"], told["promoted"], told["rejected"], told["undecided"]) == (4, 1, {"malformed": 2}, 1)
    assert (told["live"]["version"], told["live"]["proposal"], told["state"]) == (1, 1, "in a generation")
    assert told["budgets_left"]["proposals"] == 996
    assert summary(trail.add(Halted(by="operator", reason="a test")).state)["state"] == "halted"


def test_a_log_without_genesis_has_no_summary():
    """An empty log is a StateError, for people and for proposers."""
    for view in (summary, lambda state: ask_view(state, Documents())):
        with pytest.raises(StateError, match="genesis"):
            view(RunState())


def test_every_entry_has_an_event():
    """Each entry of a trail gives an event that names its kind and is JSON."""
    trail = Trail()
    for entry in trails.samples():
        trail.add(entry)
        event = event_view(trail.state, trail.state.size - 1, entry)
        assert canonical_bytes(event)
        assert event["index"] == trail.state.size - 1


def test_a_real_run_is_asked_about_without_the_vault(finished):
    """After a whole run no number of the evidence stands in the next ask, and the ask is one that proposers can read."""
    state, _ = rigs.trail_of(finished)
    blobs = BlobStore(finished / "blobs")
    view = ask_view(state, blobs)
    asked = canonical_bytes(view).decode()
    Ask.parse({**view, "count": 1})
    numbers = 0
    for found in state.proposals.values():
        for gate in evidence_view(found, blobs):
            for number in (gate["log_e"], *gate["interval"]):
                assert repr(number) not in asked
                numbers += 1
        if found.measured:
            assert found.measured.evidence not in asked
    assert numbers > 10
    assert {each["promoted"] for each in view["history"]} == {True, False}


def test_a_proposal_s_view_is_whole(finished):
    """Every proposal of a run has a view with its verdict and a reason for it."""
    state, _ = rigs.trail_of(finished)
    views = [proposal_view(found) for found in state.proposals.values()]
    assert {view["verdict"] for view in views} == {"promoted", "reject"}
    assert all(view["reasons"] for view in views)
