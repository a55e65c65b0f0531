"""Facts about changes of the guard: proposed in the log, answered by who is asked now, and in force between proposals.

What may not stand in a log is held to both verifiers by audits/vectors; here is what a legal change does.
"""

from __future__ import annotations

import pytest
import trails
from people import Person
from trails import Trail, sha

from harness import entries as e
from harness import kinds
from harness.canonical import digest_json
from harness.errors import StateError
from harness.state import RunState, fold

ANN, BEN, CAT = trails.PEOPLE
DAN, EVE = Person("dan"), Person("eve")
OTHERS = [DAN.approver, EVE.approver]
MORE = {"eval": "parity", "kind": "floor", "threshold": 0.4}


def config(**changes):
    """Give the configuration of a run that asks two people, changed."""
    return type(trails.WITH_PEOPLE).parse({**trails.WITH_PEOPLE.json_value(), **changes})


def begun():
    """Begin a run in which two of three people answer."""
    return Trail().begin(trails.ASKING)


def weakened(trail, **changes):
    """Let two people put another guard in force, which other people answer for."""
    trail.propose_guard(verdict="weaker", approvers=OTHERS, **changes)
    return trail.answer(None, ANN, BEN).change_guard()


def test_a_guard_at_least_as_strict_needs_nobody():
    """Said to be as strict, over the same data, it is in force without an answer."""
    gates = [gate.json_value() for gate in trails.CONFIG.gates]
    trail = begun().propose_guard(config=config(gates=[*gates, MORE])).change_guard()
    assert trail.state.terms.guard == trail.state.guarding.guard == sha("another guard")
    assert ("parity", "floor") in trail.state.terms.gates
    assert trail.state.change is None


def test_until_it_is_made_nothing_is_changed():
    """While another guard is only proposed, proposals are tested, promoted and authorised by the one in force."""
    trail = begun().propose_guard(verdict="weaker").develop(1).measure(1).promote(1)
    assert trail.state.terms.guard == trails.GENESIS.guard
    assert trail.state.live == 1
    assert trail.state.change is not None


def test_a_change_ends_the_epoch_and_nothing_else():
    """What was staked stays spent and what is live stays live; tests are counted anew, on items not asked before."""
    trail = begun().develop(1).measure(1, "fail", "pass").add(trails.decided(1, "reject", "gate-objective"))
    before, after = trail.state, trail.propose_guard().change_guard().state
    assert (after.epoch, after.tests, after.answered) == (before.epoch + 1, 0, frozenset())
    assert (after.alphas, after.live, after.versions, after.proposed) == (
        before.alphas, before.live, before.versions, before.proposed,
    )  # fmt: skip
    assert after.ended == f"guard/{after.size - 1}"
    assert trail.develop(2).measure(2).state.ended is None


def test_no_number_of_changes_spends_more_than_delta():
    """Over a hundred guards, each with a test of its own, the alphas together are below the run's delta."""
    trail = begun()
    for number in range(1, 101):
        trail.develop(number).measure(number, "fail", "pass").add(trails.decided(number, "reject", "gate-objective"))
        trail.propose_guard(guard=sha(f"guard {number}")).change_guard()
    assert trail.state.epoch == 101
    assert 0 < trail.state.alphas < trails.CONFIG.ledger.delta


def test_the_new_people_answer_from_then_on():
    """After the list has changed, those who left answer nothing, and those who came let proposals go on."""
    trail = weakened(begun()).develop(1).measure(1)
    trail.add(trails.held(1, trail.state))
    with pytest.raises(StateError, match="none of this run's approvers"):
        trail.answer(1, ANN)
    trail.answer(1, DAN, EVE).add(trails.decided(1).model_copy(update={"time": "2026-01-02T00:00:00Z"})).promote(1)
    assert trail.state.live == 1
    asked = {name for name, _, _ in trail.state.people}
    assert asked == {person.name for person in (ANN, BEN, DAN, EVE)}


def test_what_was_laid_down_for_good_stays():
    """Delta, origin, witnesses and whether the vault is named are those of genesis, whatever is changed."""
    first, last = begun().state.terms, weakened(begun()).state.terms
    assert last != first
    for name in ("origin", "delta", "required", "witnesses", "vault_named"):
        assert getattr(last, name) == getattr(first, name)


def test_a_proposal_keeps_the_guard_it_was_proposed_under():
    """The record of each proposal names what guarded it from its first stage to its last."""
    trail = begun().develop(1).measure(1).promote(1).propose_guard().change_guard().develop(2)
    assert trail.state.proposals[1].guard == trails.ASKING
    assert trail.state.proposals[2].guard.guard == sha("another guard")


def test_metrics_are_those_of_the_evals_in_force():
    """What was live is compared with what it has on the development items as they are now."""
    trail = begun().propose_guard()
    trail.change_guard(development={trail.state.baseline.digest: {"accuracy": 0.1}})
    assert trail.state.candidates()[trail.state.baseline.digest][1] == {"accuracy": 0.1}


def test_a_rejected_change_leaves_no_trace_in_force():
    """Refused and rejected, it is gone, and another one may be proposed."""
    trail = begun().propose_guard(verdict="weaker").answer(None, CAT, verdict="refuse")
    trail.add(trails.guard_rejected(trail.state))
    assert (trail.state.change, trail.state.terms.guard, trail.state.epoch) == (None, trails.GENESIS.guard, 1)
    assert trail.propose_guard(reason="again").state.change is not None


def test_only_a_guard_with_its_own_body_is_proposed_again():
    """The very body of one that was undone is refused, for its approvals would be good again; at another time it is not."""
    trail = begun().propose_guard(verdict="weaker").answer(None, ANN, BEN).change_guard()
    first = trail.entries[2]
    trail.propose_guard(guard=trails.GENESIS.guard).change_guard()
    with pytest.raises(StateError, match="the very body"):
        trail.add(first)
    trail.add(first.model_copy(update={"time": "2026-01-01T00:00:01Z"}))
    with pytest.raises(StateError, match="another hold"):
        trail.add(next(entry for entry in trail.entries if isinstance(entry, e.Approved)))


def test_each_hold_is_of_one_kind():
    """What holds a proposal is no change of the guard, and the other way round."""
    trail = begun().propose_guard().develop(1).measure(1)
    trail.add(trails.held(1, trail.state))
    assert trail.state.change.hold.guard.by == "operator"
    assert trail.state.open[1].hold.said.number == 1
    for hold, name in ((trail.state.change.hold, "said"), (trail.state.open[1].hold, "guard")):
        with pytest.raises(StateError):
            getattr(hold, name)


def test_a_guard_that_was_read_is_the_one_that_was_written():
    """Read back from its body, a proposed guard is equal to what was written, and is signed by the same digest."""
    written = begun().propose_guard().entries[-1]
    read = kinds.read_entry("guard-proposed", written.json_value(), 0)
    assert read == written
    assert read.digest == written.digest
    assert read != written.model_copy(update={"reason": "another"})


def test_people_sign_the_body_as_it_stands():
    """A configuration that leaves out what a later version means by default is signed, and folded, as it was written."""
    body = begun().propose_guard().entries[-1].json_value()
    del body["config"]["generations"]
    read = kinds.read_entry("guard-proposed", body, 0)
    assert read.digest == digest_json(body) != digest_json(read.json_value())
    state = fold(begun().state, 2, read)
    assert state.change.hold.digest == state.guards[0] == digest_json(body)


def test_a_changed_copy_has_a_digest_of_its_own():
    """A copy of what was read is signed as what was read, and a changed one as what it says."""
    read = kinds.read_entry("guard-proposed", begun().propose_guard().entries[-1].json_value(), 0)
    changed = read.model_copy(update={"reason": "another"})
    assert read.model_copy().digest == read.digest
    assert changed.digest == digest_json(changed.json_value()) != read.digest


def test_the_state_is_folded_from_the_entries_alone():
    """A trail of changes folds to the same state again, from the bodies of its entries."""
    trail = weakened(begun().develop(1).measure(1).promote(1)).propose_guard(guard=sha("a third"))
    state = RunState()
    for index, entry in enumerate(trail.entries):
        state = fold(
            state, index, kinds.read_entry(kinds.kind_of(entry), {**entry.json_value(), "time": entry.time}, index)
        )
    assert state == trail.state
