"""Facts about the fold: what a trail may say, in which order, and that nothing else is ever folded in."""

from __future__ import annotations

from dataclasses import fields

import people
import pytest
import trails
from hypothesis import given
from hypothesis import strategies as st
from trails import Trail, sha

from harness import entries as e
from harness import kinds
from harness.errors import StateError
from harness.legality import advance
from harness.order import Order
from harness.state import BASELINE, RunState, fold

TIMES = ("", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:07+00:00", "2026-01-01T00:00:00", "yesterday")


def at_rest():
    """Give a trail with one promotion behind it."""
    return Trail().begin().develop(1).measure(1).promote(1)


def authorised():
    """Give a trail with an unused authorisation."""
    trail = Trail().begin().develop(1).measure(1).add(trails.decided(1))
    return trail.add(trails.authorised(1, trail.state))


def intended():
    """Give a trail cut between the intent and the swap's outcome."""
    trail = authorised()
    return trail.add(trails.intended(trail.state))


def halted(trail):
    """Halt."""
    return trail.add(e.Halted(by="operator", reason="a test"))


def promoted(number, version, name):
    """Say that a candidate is live."""
    return e.Promoted(number=number, version=version, candidate=sha(f"candidate {name}"))


def rolled_back(version, name):
    """Say that an earlier version is live again."""
    return e.RolledBack(version=version, candidate=sha(f"candidate {name}"), by="operator", reason="a test")


def watched(version, name, **changes):
    """Say that the smoke test passed."""
    answers = {"expected": sha("a"), "answers": sha("a"), "ok": True}
    return e.Watched(**{"version": version, "candidate": sha(f"candidate {name}"), **answers, **changes})


def voided_before_authorisation():
    """Give a trail whose decision came to nothing."""
    return Trail().begin().develop(1).measure(1).add(trails.decided(1), e.Voided(number=1, reason="a test"))


def two_passed():
    """Give a trail in which two candidates passed in one epoch, over the same incumbent."""
    return Trail().begin().develop(1).develop(2).measure(1).measure(2).add(trails.decided(1), trails.decided(2))


def returned():
    """Give a trail whose second authorisation is left over from before a promotion and a rollback to its incumbent."""
    trail = two_passed()
    trail.add(trails.authorised(2, trail.state))
    return trail.promote(1).roll_back(0)


DAY = "2026-01-02T00:00:00Z"
ANN, BEN, CAT = trails.PEOPLE


def asked(stage="decide", *approvers, **changes):
    """Give a trail in which proposal 1 waits for people, of whom some have approved."""
    trail = Trail().begin(trails.ASKING)
    if stage == "decide":
        trail.develop(1).measure(1)
    else:
        trail.add(trails.proposed(1), trails.screened(1, "hold"))
    return trail.add(trails.held(1, trail.state, stage, **changes)).answer(1, *approvers)


def at(time, entry):
    """Give an entry of a time."""
    return entry.model_copy(update={"time": time})


def passed():
    """Give a trail of a run with approvers, in which a candidate passed its gates."""
    return Trail().begin(trails.ASKING).develop(1).measure(1)


def answer(trail, person, verdict="approve", **changes):
    """Answer the open hold of proposal 1, or one like it."""
    return person.answer(trail.state.proposals[1].hold, verdict, **changes)


STRANGER = people.Person("dan")
HOLDS = {
    "a hold where nobody can answer": (
        lambda: Trail().begin().develop(1).measure(1),
        lambda t: trails.held(1, t.state),
    ),
    "a hold of what has not passed": (
        lambda: Trail().begin(trails.ASKING).develop(1).measure(1, "pass", "fail"),
        lambda t: trails.held(1, t.state),
    ),
    "a hold of what was not measured": (
        lambda: Trail().begin(trails.ASKING).develop(1),
        lambda t: trails.held(1, t.state),
    ),
    "a hold of what was decided": (lambda: passed().add(trails.decided(1)), lambda t: trails.held(1, t.state)),
    "a second hold": (asked, lambda t: trails.held(1, t.state)),
    "a hold after people let it go on from one like it": (
        lambda: asked("decide", ANN, BEN).add(at(DAY, trails.decided(1))),
        lambda t: trails.held(1, t.state),
    ),
    "a hold without a rule": (passed, lambda t: trails.held(1, t.state, rules=[])),
    "a hold that has expired": (passed, lambda t: trails.held(1, t.state, expires="2026-01-01T00:00:00Z")),
    "a hold of another log": (passed, lambda t: trails.held(1, t.state, origin="another")),
    "a hold under another guard": (passed, lambda t: trails.held(1, t.state, guard=sha("weaker"))),
    "a hold under other policies": (passed, lambda t: trails.held(1, t.state, policies=sha("weaker"))),
    "a hold over another incumbent": (passed, lambda t: trails.held(1, t.state, incumbent=sha("x"))),
    "a hold of another candidate": (passed, lambda t: trails.held(1, t.state, candidate=sha("x"))),
    "a hold of the screen that asks for nobody": (
        lambda: Trail().begin(trails.ASKING).add(trails.proposed(1), trails.screened(1)),
        lambda t: trails.held(1, t.state, "screen"),
    ),
    "a hold of another screen": (
        lambda: Trail().begin(trails.ASKING).add(trails.proposed(1), trails.screened(1, "hold")),
        lambda t: trails.held(1, t.state, "screen", document=sha("x")),
    ),
    "a hold of a screen with a candidate": (
        lambda: Trail().begin(trails.ASKING).add(trails.proposed(1), trails.screened(1, "hold")),
        lambda t: trails.held(1, t.state, "screen", candidate=sha("x")),
    ),
    "an answer where nothing is held": (
        passed,
        lambda _: ANN.answer(asked().state.proposals[1].hold),
    ),
    "an answer to another hold": (
        asked,
        lambda _: ANN.answer(asked(expires="2998-01-01T00:00:00Z").state.proposals[1].hold),
    ),
    "an answer by a stranger": (asked, lambda t: answer(t, STRANGER)),
    "an answer in another's name": (asked, lambda t: answer(t, ANN, by=BEN.name)),
    "an answer with another's key": (asked, lambda t: answer(t, ANN, key=BEN.key.line)),
    "an approval made of a refusal": (
        asked,
        lambda t: e.Approved(**answer(t, ANN, "refuse").json_value()),
    ),
    "an approval for another reason": (asked, lambda t: answer(t, ANN, reason="because").model_copy(update={"reason": ""})),
    "a second answer of one person": (lambda: asked("decide", ANN), lambda t: answer(t, ANN)),
    "a refusal by who has approved": (lambda: asked("decide", ANN), lambda t: answer(t, ANN, "refuse")),
    "an answer after the end": (asked, lambda t: answer(t, ANN, time="2999-01-03T00:00:00Z")),
    "an answer without a time": (asked, lambda t: answer(t, ANN, time="")),
    "a promotion that people have not answered": (asked, lambda _: at(DAY, trails.decided(1))),
    "a promotion with too few approvals": (lambda: asked("decide", ANN), lambda _: at(DAY, trails.decided(1))),
    "a promotion that somebody refused": (
        lambda: asked("decide", ANN, BEN).answer(1, CAT, verdict="refuse"),
        lambda _: at(DAY, trails.decided(1)),
    ),
    "a promotion after the hold has expired": (
        lambda: asked("decide", ANN, BEN),
        lambda _: at("2999-01-03T00:00:00Z", trails.decided(1)),
    ),
    "going on from a screen with too few approvals": (
        lambda: asked("screen", ANN),
        lambda _: at(DAY, trails.screened(1)),
    ),
    "going on with another change": (
        lambda: asked("screen", ANN, BEN),
        lambda _: at(DAY, trails.screened(1).model_copy(update={"source": sha("x")})),
    ),
    "going on to another hold": (
        lambda: asked("screen", ANN, BEN),
        lambda _: at(DAY, trails.screened(1, "hold")),
    ),
    "building while people are asked": (lambda: asked("screen", ANN, BEN), lambda _: trails.built(1)),
    "a stake while another is held": (
        lambda: (
            (t := Trail().begin(trails.ASKING).develop(1).develop(2).measure(1)).add(trails.held(1, t.state))
        ),
        lambda t: trails.staked(2, t.state),
    ),
    "authorising without the approvals": (
        lambda: asked("decide", ANN, BEN).add(at(DAY, trails.decided(1))),
        lambda t: trails.authorised(1, t.state, approvals=[]),
    ),
    "authorising with one approval twice": (
        lambda: asked("decide", ANN, BEN).add(at(DAY, trails.decided(1))),
        lambda t: trails.authorised(1, t.state, approvals=t.state.proposals[1].approvals[:1] * 2),
    ),
}  # fmt: skip
ILLEGAL = HOLDS | {
    "anything before genesis": (Trail, lambda _: trails.proposed(1)),
    "a second genesis": (at_rest, lambda _: trails.GENESIS),
    "a number left out": (at_rest, lambda _: trails.proposed(3)),
    "a number taken": (at_rest, lambda _: trails.proposed(1)),
    "screening what was not proposed": (at_rest, lambda _: trails.screened(2)),
    "screening twice": (lambda: Trail().begin().develop(1), lambda _: trails.screened(1)),
    "building what was not screened": (lambda: Trail().begin().add(trails.proposed(1)), lambda _: trails.built(1)),
    "building what was denied": (
        lambda: Trail().begin().add(trails.proposed(1), trails.screened(1, "deny")),
        lambda _: trails.built(1),
    ),
    "building what was held": (
        lambda: Trail().begin().add(trails.proposed(1), trails.screened(1, "hold")),
        lambda _: trails.built(1),
    ),
    "building what was decided": (
        lambda: Trail().begin().add(trails.proposed(1), trails.screened(1), trails.decided(1, "reject")),
        lambda _: trails.built(1),
    ),
    "developing what was not built": (
        lambda: Trail().begin().add(trails.proposed(1), trails.screened(1)),
        lambda _: trails.developed(1),
    ),
    "developing twice": (lambda: Trail().begin().develop(1), lambda _: trails.developed(1)),
    "staking for what was not developed": (
        lambda: Trail().begin().add(trails.proposed(1)),
        lambda t: trails.staked(1, t.state),
    ),
    "staking twice": (
        lambda: Trail().begin().develop(1).measure(1),
        lambda t: trails.staked(1, t.state),
    ),
    "a second open stake": (
        lambda: (t := Trail().begin().develop(1).develop(2)).add(trails.staked(1, t.state)),
        lambda t: trails.staked(2, t.state),
    ),
    "a stake of another epoch": (
        lambda: Trail().begin().develop(1),
        lambda t: trails.staked(1, t.state, epoch=2),
    ),
    "a stake over another incumbent": (
        lambda: Trail().begin().develop(1),
        lambda t: trails.staked(1, t.state, incumbent=sha("candidate 1")),
    ),
    "answering the same items twice": (
        lambda: Trail().begin().add(e.Predicted(candidate=sha(1), epoch=1, offset=0, cap=9, answers=sha(2))),
        lambda _: e.Predicted(candidate=sha(1), epoch=1, offset=0, cap=9, answers=sha(3)),
    ),
    "answers to another epoch's items": (
        lambda: Trail().begin(),
        lambda _: e.Predicted(candidate=sha(1), epoch=2, offset=0, cap=9, answers=sha(2)),
    ),
    "a measurement without a stake": (lambda: Trail().begin().develop(1), lambda _: trails.measured(1)),
    "a second measurement": (lambda: Trail().begin().develop(1).measure(1), lambda _: trails.measured(1)),
    "a measurement after a rollback ended its epoch": (
        lambda: (t := at_rest().develop(2)).add(trails.staked(2, t.state)).roll_back(0),
        lambda _: trails.measured(2),
    ),
    "a pass that does not follow from the gates": (
        lambda: (t := Trail().begin().develop(1)).add(trails.staked(1, t.state)),
        lambda _: trails.measured(1, "pass", "inconclusive", passed=True),
    ),
    "a measurement without a gate": (
        lambda: (t := Trail().begin().develop(1)).add(trails.staked(1, t.state)),
        lambda _: trails.measured(1, gates=[], passed=True),
    ),
    "a stake that is not what the ledger's rule gives": (
        lambda: Trail().begin().develop(1),
        lambda t: trails.staked(1, t.state, alpha=0.0001),
    ),
    "a stake that leaves out a test": (
        lambda: Trail().begin().develop(1),
        lambda t: trails.staked(1, t.state, test=2),
    ),
    "a ledger that has shrunk": (
        lambda: Trail().begin().add(trails.started("b").model_copy(update={"ledger_size": 5})),
        lambda _: trails.started("c"),
    ),
    "a ledger of the same size with another root": (
        lambda: Trail().begin(),
        lambda _: trails.started("c").model_copy(update={"ledger_root": "11" * 32}),
    ),
    "authorising other weights": (two_passed, lambda t: trails.authorised(1, t.state, weights=sha("weights 2"))),
    "authorising with a nonce that was used": (
        lambda: at_rest().develop(2).measure(2).add(trails.decided(2)),
        lambda t: trails.authorised(2, t.state, nonce=next(iter(t.state.nonces))),
    ),
    "authorising with approvals that nobody gave": (
        two_passed,
        lambda t: trails.authorised(1, t.state, approvals=[sha("approval")]),
    ),
    "an intent after its authorisation expired": (
        authorised,
        lambda t: trails.intended(t.state, time="2030-01-01T00:00:00Z"),
    ),
    "promoting what was not measured": (lambda: Trail().begin().develop(1), lambda _: trails.decided(1)),
    "promoting what did not pass": (
        lambda: Trail().begin().develop(1).measure(1, "pass", "inconclusive"),
        lambda _: trails.decided(1),
    ),
    "rejecting without a reason": (
        lambda: Trail().begin().add(trails.proposed(1)),
        lambda _: e.Decided(number=1, decision=trails.decision("reject").model_copy(update={"reasons": []})),
    ),
    "deciding twice": (at_rest, lambda _: trails.decided(1, "reject")),
    "authorising what was rejected": (
        lambda: Trail().begin().develop(1).measure(1).add(trails.decided(1, "reject")),
        lambda t: trails.authorised(1, t.state),
    ),
    "authorising what is held": (
        lambda: asked("decide", ANN, BEN),
        lambda t: trails.authorised(1, t.state),
    ),
    "authorising twice": (authorised, lambda t: trails.authorised(1, t.state)),
    "authorising again what was promoted": (at_rest, lambda t: trails.authorised(1, t.state)),
    "authorising what was voided": (voided_before_authorisation, lambda t: trails.authorised(1, t.state)),
    "authorising while halted": (
        lambda: halted(Trail().begin().develop(1).measure(1).add(trails.decided(1))),
        lambda t: trails.authorised(1, t.state),
    ),
    "authorising another candidate": (
        two_passed,
        lambda t: trails.authorised(1, t.state, candidate=sha("candidate 2")),
    ),
    "authorising on other evidence": (two_passed, lambda t: trails.authorised(1, t.state, evidence=sha("evidence 2"))),
    "authorising under another guard": (two_passed, lambda t: trails.authorised(1, t.state, guard=sha("weaker"))),
    "authorising under other policies": (two_passed, lambda t: trails.authorised(1, t.state, policies=sha("weaker"))),
    "authorising over an incumbent that has moved": (
        lambda: two_passed().promote(1),
        lambda t: trails.authorised(2, t.state),
    ),
    "authorising after a rollback brought the incumbent back": (
        lambda: two_passed().promote(1).roll_back(0),
        lambda t: trails.authorised(2, t.state),
    ),
    "authorising a version number that is taken": (
        lambda: at_rest().develop(2).measure(2).add(trails.decided(2)),
        lambda t: trails.authorised(2, t.state, version=1),
    ),
    "an intent without an authorisation": (
        lambda: Trail().begin().develop(1).measure(1).add(trails.decided(1)),
        lambda t: trails.intended(t.state, authorisation=None),
    ),
    "an intent on an authorisation that was used": (
        at_rest,
        lambda t: trails.intended(t.state, authorisation=9, candidate=sha("candidate 1")),
    ),
    "an intent while halted": (lambda: halted(authorised()), lambda t: trails.intended(t.state)),
    "an intent for another candidate": (authorised, lambda t: trails.intended(t.state, candidate=sha("candidate 2"))),
    "an intent for another version": (authorised, lambda t: trails.intended(t.state, version=2)),
    "an intent whose incumbent has moved and come back": (returned, lambda t: trails.intended(t.state)),
    "a promotion without an intent": (authorised, lambda _: promoted(1, 1, 1)),
    "a promotion of another candidate": (intended, lambda _: promoted(1, 1, 2)),
    "a promotion of another version": (intended, lambda _: promoted(1, 2, 1)),
    "a promotion for another proposal": (
        lambda: (t := two_passed()).add(trails.authorised(1, t.state)).add(trails.intended(t.state)),
        lambda _: promoted(2, 1, 1),
    ),
    "a promotion after a voided intent": (
        lambda: intended().add(e.Voided(number=1, reason="a test")),
        lambda _: promoted(1, 1, 1),
    ),
    "a promotion that ends a rollback": (
        lambda: (t := at_rest()).add(trails.rollback(t.state, 0)),
        lambda _: promoted(1, 0, "baseline"),
    ),
    "new work while an intent is open": (intended, lambda _: trails.proposed(2)),
    "another intent while one is open": (intended, lambda t: trails.rollback(t.state, 0)),
    "resuming while an intent is open": (lambda: halted(intended()), lambda _: e.Resumed(by="operator")),
    "a smoke test of what is not live": (at_rest, lambda _: watched(0, "baseline")),
    "a second smoke test": (at_rest, lambda _: watched(1, 1)),
    "a smoke test that does not follow from the answers": (
        lambda: intended().add(promoted(1, 1, 1)),
        lambda _: watched(1, 1, answers=sha("b")),
    ),
    "voiding what was rejected": (
        lambda: Trail().begin().develop(1).add(trails.decided(1, "reject")),
        lambda _: e.Voided(number=1, reason="a test"),
    ),
    "voiding what was promoted": (at_rest, lambda _: e.Voided(number=1, reason="a test")),
    "voiding twice": (voided_before_authorisation, lambda _: e.Voided(number=1, reason="a test")),
    "voiding another while an intent is open": (
        lambda: (t := two_passed()).add(trails.authorised(1, t.state)).add(trails.intended(t.state)),
        lambda _: e.Voided(number=2, reason="a test"),
    ),
    "rolling back to what never was live": (at_rest, lambda t: trails.rollback(t.state, 2)),
    "rolling back to what is live": (at_rest, lambda t: trails.rollback(t.state, 1)),
    "rolling back under a false name": (at_rest, lambda t: trails.rollback(t.state, 0, candidate=sha("candidate 1"))),
    "a rollback without an intent": (at_rest, lambda _: rolled_back(0, "baseline")),
    "a rollback that ends a promotion": (intended, lambda _: rolled_back(0, "baseline")),
    "a rollback to another version than intended": (
        lambda: (t := at_rest()).add(trails.rollback(t.state, 0)),
        lambda _: rolled_back(1, 1),
    ),
    "resuming what is not halted": (at_rest, lambda _: e.Resumed(by="operator")),
    "an entry of no known kind": (at_rest, lambda _: e.Entry()),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_what_may_not_stand_there_is_refused(case):
    """Each entry that is illegal where it stands raises StateError, which names the entry."""
    begin, make = ILLEGAL[case]
    trail = begin()
    with pytest.raises(StateError) as error:
        trail.add(make(trail))
    assert error.value.where == f"entry {trail.state.size}"


def test_people_let_a_held_proposal_go_on():
    """With a quorum of approvals, at either stage, a held proposal goes on; its authorisation names all of them."""
    trail = asked("screen", ANN, BEN).add(at(DAY, trails.screened(1)), trails.built(1), trails.developed(1)).measure(1)
    trail.add(trails.held(1, trail.state)).answer(1, BEN, CAT).add(at(DAY, trails.decided(1)))
    approvals = trail.state.proposals[1].approvals
    trail.promote(1)
    assert (trail.state.live, len(set(approvals)), trail.state.held) == (1, 4, frozenset())
    assert next(each for each in trail.entries if isinstance(each, e.Authorised)).approvals == approvals


def test_a_rejection_ends_a_hold():
    """A held proposal may be rejected at any time, and nothing is held any more; another may then be tested."""
    for stage in ("screen", "decide"):
        trail = asked(stage, ANN).add(trails.decided(1, "reject", "hold-unanswered")).develop(2).measure(2)
        assert trail.state.held == frozenset()
        assert trail.state.proposals[1].hold.approvers == [ANN.name]


def test_one_key_is_one_person():
    """A key that is listed under two names, or a name that is in two roles, ends a log at its genesis."""
    for more in ({"name": "ann-again"}, {"role": "operator", "key": people.Person("another").key.line}):
        listed = [*trails.ASKING.approvers, ANN.approver.model_copy(update=more)]
        with pytest.raises(StateError, match=r"twice|two roles"):
            Trail().begin(trails.ASKING.model_copy(update={"approvers": listed}))


def test_nobody_answers_their_own_proposal():
    """Whoever proposed a change cannot approve it: the proposer of these trails, were it a person, is refused."""
    own = people.Person("scripted")
    genesis = trails.ASKING.model_copy(update={"approvers": [*trails.ASKING.approvers, own.approver]})
    trail = Trail().begin(genesis).develop(1).measure(1)
    trail.add(trails.held(1, trail.state))
    with pytest.raises(StateError, match="own proposal"):
        trail.add(answer(trail, own))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"approvers": trails.ASKING.approvers[:1]}, "fewer"),
        ({"approvers": [trails.ASKING.approvers[0]] * 2}, "fewer"),
        ({"config": trails.CONFIG}, "nothing"),
    ],
)
def test_a_genesis_has_as_many_people_as_must_agree(changes, why):
    """A genesis with fewer people than must agree, or with people whom its configuration does not ask, is refused."""
    with pytest.raises(StateError, match=why):
        Trail().begin(trails.ASKING.model_copy(update=changes))


def test_an_entry_out_of_place_is_refused():
    """An entry folded under another index than the next is refused."""
    trail = at_rest()
    for index in (trail.state.size - 1, trail.state.size + 1):
        with pytest.raises(StateError, match="expected entry"):
            fold(trail.state, index, e.Halted(by="operator", reason="a test"))


def test_a_trail_of_every_kind_is_legal():
    """A run that goes through every kind of entry folds."""
    trail = Trail().add(*trails.samples(), trails.ROTATION)
    assert {kinds.kind_of(entry) for entry in trail.entries} == set(kinds.KINDS)


def test_genesis_makes_the_baseline_live():
    """After genesis the baseline is version 0, live, and the incumbent."""
    state = Trail().add(trails.GENESIS).state
    assert (state.live, state.incumbent, state.versions) == (
        BASELINE,
        trails.candidate("baseline"),
        {0: state.baseline},
    )


def test_a_promotion_begins_an_epoch():
    """After a promotion its version is live, the next epoch runs, and its authorisation is used up."""
    state = at_rest().state
    assert (state.live, state.epoch, state.promotions, state.authorised) == (1, 2, 1, {})
    assert state.incumbent == trails.candidate(1)


def test_a_failed_smoke_test_is_remembered():
    """A smoke test whose answers differ leaves the run knowing that the live model must be rolled back."""
    trail = intended().add(promoted(1, 1, 1), watched(1, 1, answers=None, ok=False))
    assert trail.state.failed_watch
    assert not trail.roll_back(0).state.failed_watch


def test_a_swap_that_was_made_is_logged_though_halted():
    """A halt inside a swap does not stop its outcome from being logged."""
    assert halted(intended()).add(promoted(1, 1, 1)).state.live == 1


def test_the_clock_counts_work_only():
    """Seconds between entries count, but not the pause before a start, nor a clock that was set back."""
    trail = Trail()
    for time, entry in (
        ("2026-01-01T00:00:00+00:00", trails.GENESIS),
        ("2026-01-01T00:00:05+00:00", trails.proposed(1)),
        ("2026-01-02T00:00:00+00:00", trails.started("1")),
        ("2026-01-02T00:00:02+00:00", trails.screened(1)),
        ("2026-01-01T00:00:00+00:00", trails.built(1)),
    ):
        trail.add(entry.model_copy(update={"time": time}))
    assert trail.state.active_seconds == 7.0


KINDS = [
    "proposed",
    "screened",
    "built",
    "developed",
    "staked",
    "measured",
    "decided",
    "authorised",
    "intended",
    "promoted",
    "watched",
    "voided",
    "rollback",
    "rolled-back",
    "halted",
    "resumed",
    "started",
    "predicted",
    "held",
    "approved",
    "refused",
    "guard-proposed",
    "guard-answered",
    "guard-rejected",
    "guard-changed",
    "improver-begun",
    "improver-ended",
    "improver-rolled-back",
]


def entry_of(kind, number, version, state, draw):
    """Make an entry of a kind that fits the state more or less."""
    verdict = draw(st.sampled_from(("promote", "promote", "reject")))
    name = state.intent.candidate if state.intent else sha(f"candidate {number}")
    match kind:
        case "proposed":
            return trails.proposed(number)
        case "screened":
            return trails.screened(number, draw(st.sampled_from(("pass", "pass", "pass", "deny", "hold"))))
        case "held":
            return trails.held(number, state, draw(st.sampled_from(("decide", "screen"))))
        case "approved" | "refused":
            found = state.proposals.get(number)
            hold = found.hold if found and found.hold else asked().state.proposals[1].hold
            person = draw(st.sampled_from((*trails.PEOPLE, STRANGER)))
            return person.answer(hold, "approve" if kind == "approved" else "refuse")
        case "guard-proposed":
            verdict = draw(st.sampled_from(("weaker", "at-least-as-strict", "unknown")))
            people = [each.approver for each in (*trails.PEOPLE, STRANGER)]
            changes = {"approvers": people} if draw(st.booleans()) and verdict == "weaker" else {}
            guard = sha(f"guard {state.size}")
            return trails.guard_proposed(state, guard=guard, verdict=verdict, **changes)
        case "guard-answered":
            hold = state.change.hold if state.change else asked().state.proposals[1].hold
            person = draw(st.sampled_from((*trails.PEOPLE, STRANGER)))
            return person.answer(hold, draw(st.sampled_from(("approve", "approve", "approve", "refuse"))), number=None)
        case "guard-rejected" if state.change:
            return trails.guard_rejected(state)
        case "guard-changed" if state.change:
            return trails.guard_changed(state)
        case "improver-begun":
            return trails.tried(number, draw(st.sampled_from(("scripted", "evolution"))))
        case "improver-ended":
            trial = state.trial.number if state.trial else number
            return trails.tried_out(trial, draw(st.sampled_from((None, len(state.tuned) + 1, version))))
        case "improver-rolled-back":
            return trails.taken_back(version, draw(st.sampled_from(("scripted", "evolution"))))
        case "built":
            return trails.built(number, draw(st.sampled_from((number, number, 1, "baseline"))))
        case "developed":
            return trails.developed(number)
        case "staked":
            return trails.staked(number, state)
        case "measured":
            return trails.measured(number, "pass", draw(st.sampled_from(("pass", "pass", "fail"))))
        case "decided":
            return trails.decided(number, verdict)
        case "authorised":
            return trails.authorised(number, state)
        case "intended":
            chosen = draw(st.sampled_from([None, *state.authorised]))
            found = state.authorised.get(chosen)
            changes = {"version": found.version, "candidate": found.candidate} if found else {}
            return trails.intended(state, authorisation=chosen, **changes)
        case "promoted":
            return e.Promoted(number=number, version=state.intent.version if state.intent else version, candidate=name)
        case "watched":
            right = draw(st.booleans())
            return watched(
                state.live, "x", candidate=state.incumbent.digest, answers=sha("a" if right else "b"), ok=right
            )
        case "voided":
            return e.Voided(number=number, reason="a test")
        case "rollback":
            return trails.rollback(state, version)
        case "rolled-back":
            return e.RolledBack(
                version=state.intent.version if state.intent else version,
                candidate=name,
                by="operator",
                reason="a test",
            )
        case "halted":
            return e.Halted(by="operator", reason="a test")
        case "resumed":
            return e.Resumed(by="operator")
        case "started":
            return trails.started("1")
        case _:
            return e.Predicted(candidate=name, epoch=state.epoch, offset=0, cap=10, answers=sha("answers"))


SCREENED = {"pass": "built", "hold": "held"}


def natural(state):
    """Name the entry that an honest supervisor would write next, and for which proposal."""
    if state.intent is not None:
        if state.intent.action == "rollback":
            return "rolled-back", 1
        return "promoted", state.authorised[state.intent.authorisation].number
    if state.unwatched:
        return "watched", 1
    for number, found in state.proposals.items():
        if found.begun is not None:
            continue
        if number in state.held:
            ready = len(found.hold.approvals) >= 2
            return (
                "approved" if not ready else "screened" if found.hold.entry.stage == "screen" else "decided"
            ), number
        steps = {
            "proposed": "screened",
            "screened": SCREENED.get(found.screened.outcome if found.screened else "", "decided"),
            "built": "developed",
            "developed": "staked",
            "staked": "measured",
            "measured": "decided",
        }
        if found.stage in steps:
            return steps[found.stage], number
        if found.decision.verdict == "promote" and found.outcome is None:
            if found.staked.epoch != state.epoch:
                return "voided", number
            return ("authorised" if found.authorisation is None else "intended"), number
    if state.change is not None:
        ready = state.change.free or len(state.change.hold.approvals) >= 2
        ended = state.change.hold.refused is not None
        return ("guard-rejected" if ended else "guard-changed" if ready else "guard-answered"), 1
    return "proposed", len(state.proposals) + 1


def check(trail):
    """Require, from the entries alone, what every legal trail must satisfy."""
    entries, state = trail.entries, trail.state
    live, versions, used, intent, halt, open_stake = (
        0,
        {0: trails.candidate("baseline").digest},
        set(),
        None,
        False,
        None,
    )
    decided, permits, holds, going_on = {}, {}, {}, set()
    trial, tuned, tuning = None, [], {}
    guard, change, answers, people = entries[0].guard, None, [], {each.name for each in entries[0].approvers}
    for index, entry in enumerate(entries):
        match kinds.kind_of(entry):
            case "proposed":
                going_on.add(entry.number)
            case "guard-proposed":
                assert change is None
                change, answers = entry, []
            case "approved" | "refused" if entry.number is None:
                assert entry.by in people
                answers.append(entry)
            case "guard-rejected":
                change = None
            case "guard-changed":
                assert not going_on
                assert all(kinds.kind_of(answer) == "approved" for answer in answers)
                assert change.verdict == "at-least-as-strict" or len({answer.by for answer in answers}) >= 2
                guard, people, change = change.guard, {each.name for each in change.approvers}, None
                trial, tuning = None, {}
            case "held":
                assert entry.guard == guard
                assert entry.number not in holds
                holds[entry.number] = []
            case "approved":
                holds[entry.number].append((entry.by, entry.key))
            case "refused":
                holds[entry.number] += [None]
            case "screened" if entry.number in holds:
                assert_released(holds.pop(entry.number))
            case "staked":
                assert not holds
                assert open_stake is None
                open_stake = entry.number
            case "measured":
                assert open_stake == entry.number
                open_stake = None
                decided[entry.number] = entry.passed
            case "decided":
                assert entry.decision.verdict != "promote" or decided[entry.number]
                if entry.number in holds and entry.decision.verdict == "promote":
                    assert_released(holds[entry.number])
                holds.pop(entry.number, None)
                open_stake = None if open_stake == entry.number else open_stake
                going_on -= {entry.number} if entry.decision.verdict == "reject" else set()
            case "authorised":
                assert entry.guard == guard
                assert not halt
                assert entry.incumbent == versions[live]
                permits[index] = entry
            case "intended":
                assert intent is None
                if entry.action == "promote":
                    assert not halt
                    assert entry.authorisation not in used
                    assert permits[entry.authorisation].incumbent == versions[live]
                    assert permits[entry.authorisation].candidate == entry.candidate
                intent = entry
            case "promoted":
                assert (intent.action, intent.version, intent.candidate) == ("promote", entry.version, entry.candidate)
                assert entry.version not in versions
                used.add(intent.authorisation)
                going_on.remove(entry.number)
                versions[entry.version], live, intent = entry.candidate, entry.version, None
            case "rolled-back":
                assert versions[entry.version] == entry.candidate == intent.candidate
                live, intent, open_stake = entry.version, None, None
            case "voided":
                used |= {index for index, permit in permits.items() if permit.number == entry.number}
                going_on.remove(entry.number)
                intent = None
            case "improver-begun":
                assert trial is None
                trial = (entry.number, entry.proposer)
                going_on.remove(entry.number)
            case "improver-ended":
                assert trial[0] == entry.number
                if entry.verdict == "adopted":
                    tuned.append(trial[1])
                    tuning[trial[1]] = len(tuned)
                trial = None
            case "improver-rolled-back":
                assert entry.version == 0 or tuned[entry.version - 1] == entry.proposer
                tried = trial is not None and trial[1] == entry.proposer
                assert tried or tuning.get(entry.proposer, 0) != entry.version
                tuning[entry.proposer], trial = entry.version, None if tried else trial
            case "halted":
                halt = True
            case "resumed":
                halt = False
    assert (state.trial, list(state.tuned)) == (trial, tuned)
    assert dict(state.tuning) == {name: version for name, version in tuning.items() if version}
    assert state.live == live
    assert {version: found.digest for version, found in state.versions.items()} == versions
    assert state.open_stake == open_stake
    assert set(state.authorised) == set(permits) - used
    assert (state.intent is None, state.halted) == (intent is None, halt)
    again, order = RunState(), Order()
    for index, entry in enumerate(entries):
        again, order = fold(again, index, entry), advance(order, index, entry)
    assert again == state
    assert asdict_shallow(state) == asdict_shallow(order)
    assert set(order.open) == going_on
    assert (state.terms.guard, state.guard.guard, state.change is None) == (guard, guard, change is None)


def assert_released(answers):
    """Require of the answers to a hold from which a proposal went on that they are a quorum, and nobody refused."""
    assert None not in answers
    assert len({name for name, _ in answers}) == len({key for _, key in answers}) == len(answers) >= 2
    assert {name for name, _ in answers} <= {person.name for person in trails.PEOPLE}


def asdict_shallow(order):
    """Give the parts of an order by name."""
    return {part.name: getattr(order, part.name) for part in fields(Order)}


def test_of_what_has_come_to_its_end_no_order_is_kept():
    """A thousand proposals that were denied leave a number behind, and nothing of themselves; a reader's record stays."""
    trail = Trail().begin()
    before = asdict_shallow(trail.state)
    for number in range(1, 1001):
        trail.add(trails.proposed(number), trails.screened(number, "deny"), trails.decided(number, "reject"))
    after = asdict_shallow(trail.state)
    assert {name for name in before if before[name] != after[name]} == {"size", "proposed"}
    assert len(trail.state.proposals) == 1000


@given(st.data())
def test_no_order_of_entries_breaks_the_rules(data):
    """Whatever is tried: only StateError, one live model that was authorised over its incumbent, each permit used once."""
    trail = Trail().begin(trails.ASKING)
    for _ in range(data.draw(st.integers(5, 60), label="steps")):
        kind, number = natural(trail.state)
        if data.draw(st.integers(0, 3)) == 0:
            kind = data.draw(st.sampled_from(KINDS))
            number = data.draw(st.integers(1, len(trail.state.proposals) + 1))
        version = data.draw(st.integers(0, len(trail.state.versions)))
        entry = entry_of(kind, number, version, trail.state, data.draw)
        before = trail.state
        try:
            # What people sign has its time, and what they are asked has, too.
            timed = isinstance(entry, (e.Held, e.Answered, e.GuardProposed))
            trail.add(entry if timed else at(data.draw(st.sampled_from(TIMES)), entry))
        except StateError:
            assert trail.state is before
    check(trail)


def test_the_walk_reaches_promotions():
    """The walk of the last test, where nothing disturbs it, promotes: the property is about something."""
    trail = Trail().begin()

    class Draw:
        """Draw the first of everything."""

        def __call__(self, strategy):
            """Draw."""
            return strategy.elements[0] if hasattr(strategy, "elements") else True

    for _ in range(40):
        kind, number = natural(trail.state)
        chosen = max(trail.state.authorised, default=None)
        if kind == "intended":
            trail.add(trails.intended(trail.state, authorisation=chosen))
        elif kind == "watched":
            trail.add(watched(trail.state.live, "x", candidate=trail.state.incumbent.digest))
        elif kind == "measured":
            trail.add(trails.measured(number))
        elif kind == "built":
            trail.add(trails.built(number))
        else:
            trail.add(entry_of(kind, number, 0, trail.state, Draw()))
    check(trail)
    assert trail.state.promotions >= 2
