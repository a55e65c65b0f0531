"""The run's state is a fold over its log.

`fold` takes a state and one entry and returns the next state, or raises StateError where the entry is illegal. What
is legal is `legality.advance`'s to say, which stands beneath; here is the record of what happened, which no rule of the
order asks for: everything that a supervisor must know to go on, and a reader to understand where a run stands.
It does no I/O and reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from harness.entries import (
    Approved,
    Authorised,
    Built,
    Decided,
    Developed,
    Entry,
    Genesis,
    GuardChanged,
    Guarding,
    Halted,
    Held,
    Intended,
    Measured,
    Predicted,
    Promoted,
    ProposedEntry,
    Refused,
    Resumed,
    RolledBack,
    Screened,
    Staked,
    Started,
    Voided,
    Watched,
)
from harness.errors import StateError
from harness.history import History
from harness.holds import Hold
from harness.legality import advance
from harness.order import BASELINE, Order
from harness.pages import Numbered
from harness.records import Candidate, Decision, Digest

__all__ = ["BASELINE", "ProposalState", "RunState", "fold"]


@dataclass(frozen=True)
class ProposalState:
    """What the log knows of one proposal."""

    proposed: ProposedEntry
    guard: Guarding
    """What guarded the run when it was proposed, and does until it comes to its end."""
    screened: Screened | None = None
    built: Built | None = None
    developed: Developed | None = None
    staked: Staked | None = None
    measured: Measured | None = None
    decision: Decision | None = None
    judgement: Digest | None = None
    document: Digest | None = None
    authorisation: int | None = None
    version: int | None = None
    """The version that it became."""
    outcome: str | None = None
    """`promoted` or `voided`, once an authorisation has come to an end."""
    epoch: int = 1
    """The epoch in which it was proposed."""
    hold: Hold | None = None
    """The hold that is open, or that ended in its rejection."""
    released: tuple[Hold, ...] = ()
    """The holds from which people have let it go on."""

    @property
    def approvals(self) -> list[Digest]:
        """The approvals by which it went on, in the order of the log: what an authorisation names."""
        return [digest for hold in self.released for digest, _ in hold.approvals]

    @property
    def stage(self) -> str:
        """The name of the last stage passed."""
        if self.decision:
            return "decided"
        for name in ("measured", "staked", "developed", "built", "screened"):
            if getattr(self, name) is not None:
                return name
        return "proposed"


@dataclass(frozen=True)
class RunState(Order):
    """The order of the log, and the record of what happened. It is folded from entries alone."""

    authorised: Mapping[int, Authorised] = field(default_factory=dict)
    intent: Intended | None = None
    genesis: Genesis | None = None
    guard: Guarding | None = None
    """What guards the run now: genesis, or the change of guard that was made last."""
    started: Started | None = None
    starts: int = 0
    proposals: Numbered[ProposalState] = field(default_factory=Numbered)
    answers: dict[tuple[Digest, int, int, int], Digest] = field(default_factory=dict)
    """(candidate, epoch, offset, cap) → answers to that prefix of the vault."""
    asked: dict[tuple[Digest, int, int, int], Digest] = field(default_factory=dict)
    """Likewise → what was answered to evals that ask; those that were asked nothing are not in it."""
    replaced: dict[int, int] = field(default_factory=dict)
    """Version → the version that it replaced when it was promoted."""
    failed_watch: bool = False
    """The live model failed its smoke test and was not rolled back yet."""
    rescored: dict[Digest, dict[str, float]] = field(default_factory=dict)
    """Development metrics of candidates that were live, as evals had them that changed since."""
    ended: str | None = None
    """What ended the epoch, but for a promotion, by kind and index; None once something was staked since."""
    halt: Halted | None = None
    """What halted the run, while it is halted."""
    history: History = field(default_factory=History)
    """What policies may read of the past."""
    active_seconds: float = 0.0
    """Time between entries, idle time between two supervisors left out: what the wall-clock budget counts."""

    def _genesis(self) -> Genesis:
        if self.genesis is None:
            raise StateError("the log has no genesis", where="entry 0")
        return self.genesis

    @property
    def guarding(self) -> Guarding:
        """What guards the run now; StateError before there is anything."""
        if self.guard is None:
            raise StateError("the log has no genesis", where="entry 0")
        return self.guard

    @property
    def baseline(self) -> Candidate:
        """The first version of all."""
        return self._genesis().baseline

    def candidates(self) -> dict[Digest, tuple[Candidate, dict[str, float]]]:
        """All candidates with development metrics, by digest: the archive that proposals may start from.

        Of one that was measured more than once it is what was measured last: by the evals of then, if they changed.
        """
        genesis = self._genesis()
        known = {genesis.baseline.digest: (genesis.baseline, genesis.development)}
        for state in self.proposals.values():
            if state.built and state.developed:
                known[state.built.candidate.digest] = (state.built.candidate, state.developed.development)
        for name, metrics in self.rescored.items():
            known[name] = (known[name][0], metrics)
        return known

    def development_answers(self, candidate: Digest) -> Digest | None:
        """What a candidate answered to the development items, the last time, as a blob; None where it was not asked."""
        genesis = self._genesis()
        answers = genesis.answers if candidate == genesis.baseline.digest else None
        for found in self.proposals.values():
            if found.built and found.developed and found.built.candidate.digest == candidate:
                answers = found.developed.answers
        return answers

    def counterexamples(self, generation: int) -> dict[int, Digest]:
        """Before a generation: which proposals had a counterexample to a property, and the evidence of each.

        Those of the same generation are not among them: they are built side by side, in any order.
        """
        found = {
            number: each.developed
            for number, each in sorted(self.proposals.items())
            if each.proposed.generation < generation and each.developed is not None
        }
        return {number: each.counterexamples for number, each in found.items() if each.refuted and each.counterexamples}

    def generation(self, number: int) -> list[ProposalState]:
        """The slots of a generation, in order."""
        return sorted(
            (p for p in self.proposals.values() if p.proposed.generation == number), key=lambda p: p.proposed.index
        )


def fold(state: RunState, index: int, entry: Entry) -> RunState:
    """The state after `entry`, which stands at `index`; StateError where it may not stand there."""
    after = advance(state, index, entry)
    gap = 0.0 if isinstance(entry, (Genesis, Started)) else _seconds(state.last_time, entry.time)
    return after.after(
        active_seconds=state.active_seconds + gap,
        history=state.history.after(entry),
        **_record(state, index, entry, after),
    )


def _record(state: RunState, index: int, entry: Entry, after: RunState) -> dict[str, Any]:
    """What a legal entry adds to the record; `after` is the order that it leads to."""

    def of(number: int, **changes: Any) -> dict[str, Any]:
        return {"proposals": state.proposals.with_value(number, replace(state.proposals[number], **changes))}

    match entry:
        case Genesis():
            return {"genesis": entry, "guard": entry}
        case Started():
            return {"started": entry, "starts": state.starts + 1}
        case ProposedEntry():
            fresh = ProposalState(entry, state.guarding, epoch=state.epoch)
            return {"proposals": state.proposals.with_value(entry.number, fresh)}
        case Screened():
            return of(entry.number, screened=entry, **_let_go(state.proposals[entry.number]))
        case Held():
            return of(entry.number, hold=after.open[entry.number].hold)
        case Approved() | Refused():
            return {} if entry.number is None else of(entry.number, hold=after.open[entry.number].hold)
        case GuardChanged() if state.change is not None:
            guard = state.change.hold.guard
            return {"guard": guard, "rescored": state.rescored | entry.development, "ended": f"guard/{index}"}
        case Built():
            return of(entry.number, built=entry)
        case Developed():
            return of(entry.number, developed=entry)
        case Staked():
            return of(entry.number, staked=entry) | {"ended": None}
        case Predicted():
            key = (entry.candidate, entry.epoch, entry.offset, entry.cap)
            asked = state.asked if entry.asked is None else {**state.asked, key: entry.asked}
            return {"answers": {**state.answers, key: entry.answers}, "asked": asked}
        case Measured():
            return of(entry.number, measured=entry)
        case Decided():
            decided = {"decision": entry.decision, "judgement": entry.judgement, "document": entry.document}
            if entry.decision.verdict == "reject":
                return of(entry.number, **decided)
            return of(entry.number, **decided, **_let_go(state.proposals[entry.number]))
        case Authorised():
            return of(entry.number, authorisation=index)
        case Promoted():
            replaced = {**state.replaced, entry.version: state.live}
            return of(entry.number, outcome="promoted", version=entry.version) | {"replaced": replaced}
        case Watched():
            return {"failed_watch": not entry.ok}
        case Voided():
            return of(entry.number, outcome="voided")
        case RolledBack():
            return {"failed_watch": False, "ended": f"rollback/{index}"}
        case Halted():
            return {"halt": entry}
        case Resumed():
            return {"halt": None}
    return {}


def _let_go(found: ProposalState) -> dict[str, Any]:
    """What becomes of the hold of a proposal that goes on."""
    return {} if found.hold is None else {"hold": None, "released": (*found.released, found.hold)}


def _seconds(before: str, after: str) -> float:
    """Seconds from one entry's time to the next one's; a clock that was set back counts nothing."""
    try:
        return max(0.0, (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds())
    except (ValueError, TypeError):  # TypeError: one with a time zone, one without
        return 0.0
