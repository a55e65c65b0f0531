"""Another guard for a run: whether people have let it, and how it is put in force. The supervisor's side of `guarding`.

A change is made at a start, by the supervisor that works under it: it has loaded what was proposed, found its gates to
have power, and finds no proposal under way. Then the epoch ends, and held-out items that were added join the vault.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from harness.changing import why_not
from harness.channel import Child
from harness.desk import Rooms
from harness.developing import develop
from harness.entries import GuardChanged, GuardRejected
from harness.errors import ConfigError, StateError
from harness.folder import RunFolder
from harness.genesis import evaluate
from harness.holding import take_in
from harness.journal import Journal
from harness.order import terms_of
from harness.records import Candidate, Digest
from harness.state import RunState
from harness.workshop import Failure


def settle_change(folder: RunFolder, journal: Journal) -> None:
    """Take in what people have answered; end a proposed change that was refused, or that expired.

    Not while a swap is open, which a crash has cut: its outcome comes first, and answers wait where they lie.
    """
    if journal.state.intent is not None:
        return
    take_in(folder, journal)
    change = journal.state.change
    if change is None:
        return
    terms = terms_of(journal.state)
    why = change.hold.ended(0 if change.free else terms.agree, _now(), terms.guard)
    if why is not None:
        journal.commit(GuardRejected(hold=change.hold.digest, reason=why.reasons[0].text))


def check_may_change(state: RunState) -> None:
    """ConfigError where the proposed guard, which stands on the disk, may not be put in force."""
    if state.change is None:
        raise StateError("no change of the guard is open")
    why = "a swap was cut" if state.intent is not None else why_not(state, state.change, _now())
    if why is not None:
        raise ConfigError(
            f"the guard that stands on the disk is proposed, and not in force: {why}",
            remedy="with the old one restored, the run goes on; `lockgate status RUN` says what is waited for",
        )


def put_in_force(rooms: Rooms) -> None:
    """Log that the proposed guard is in force; StateError where that is not legal any more.

    Every version is scored anew on the development items: candidates are compared with the incumbent as the evals have
    it now. Each answers once more, for views may have changed, and then what it answered was asked of it otherwise.
    ConfigError where one does not answer.
    """
    state = rooms.journal.state
    change = state.change
    if change is None:
        raise StateError("no change of the guard is open")
    entry = change.hold.guard
    rooms.journal.commit(
        GuardChanged(
            hold=change.hold.digest,
            guard=entry.guard,
            policies=entry.policies,
            approvals=[name for name, _ in change.hold.approvals],
            development={made.digest: _scored(rooms, made) for made in state.versions.values()},
        )
    )


def fingerprint_of(evaluator: Child) -> Callable[[int], Digest]:
    """How to ask what the data's digest is with only so many held-out items."""

    def ask(items: int) -> Digest:
        return str(evaluate(evaluator, {"op": "fingerprint", "vault": items})["digest"])

    return ask


def _scored(rooms: Rooms, version: Candidate) -> dict[str, float]:
    # What is or was live is under no property that it did not come under: they are for what is to follow it.
    found = develop(
        lambda request: evaluate(rooms.evaluator, request),
        rooms.workshop,
        version,
        rooms.development,
        properties=False,
    )
    if isinstance(found, Failure):
        raise ConfigError(
            f"the proposed guard cannot be put in force: {version.digest[7:19]}, which is or was live, does not answer "
            f"what it asks: {found.text}",
            remedy="`lockgate guard withdraw RUN`, and propose one whose views it can answer",
        )
    return found.means


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
