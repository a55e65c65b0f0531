"""The run's state is a fold over its log.

`fold` takes a state and one entry and returns the next state, or raises StateError
where the entry is illegal: the supervisor at work, recovery after a crash, `status`
and the auditor all run this same machine. It does no I/O and reads no clock. The rules
are those of audits/FORMAT.md §7, and each refusal names its clause.

What is legal, in short: genesis first and once; a proposal's stages in their order;
a stake before its measurement, one at a time; an authorisation only after a decision
to promote over the incumbent of the moment, used at most once; an intent before every
swap and its outcome right after; no authorisation and no intent to promote while halted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from harness.entries import (
    Approved,
    Authorised,
    Built,
    Decided,
    Developed,
    Entry,
    Genesis,
    Halted,
    Held,
    Intended,
    KeyRotated,
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
from harness.errors import AuditError, KeyFileError, StateError
from harness.history import History
from harness.holds import Hold, expired
from harness.keys import Verifier
from harness.ledger import gamma
from harness.pages import Numbered
from harness.records import Candidate, Decision, Digest

BASELINE: Final = 0
"""The version number of the baseline: `models/0`."""


@dataclass(frozen=True)
class ProposalState:
    """What the log knows of one proposal."""

    proposed: ProposedEntry
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
    """Holds that people have let it go on from."""

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
class RunState:
    """Everything that a supervisor must know to go on, and a reader to understand where a run stands."""

    size: int = 0
    genesis: Genesis | None = None
    started: Started | None = None
    starts: int = 0
    proposals: Numbered[ProposalState] = field(default_factory=Numbered)
    versions: dict[int, Candidate] = field(default_factory=dict)
    live: int = BASELINE
    epoch: int = 1
    answers: dict[tuple[Digest, int, int, int], Digest] = field(default_factory=dict)
    """(candidate, epoch, offset, cap) → answers to that prefix of the vault."""
    open_stake: int | None = None
    held: frozenset[int] = frozenset()
    """The proposals that wait for people. Nothing is staked while there are any."""
    authorised: dict[int, Authorised] = field(default_factory=dict)
    """Authorisations not yet used, by entry index."""
    intent: Intended | None = None
    unwatched: bool = False
    """A promotion whose smoke test has not been logged."""
    failed_watch: bool = False
    """The live model failed its smoke test and was not rolled back yet."""
    halted: Halted | None = None
    ledger: tuple[int, str] | None = None
    """Size and root of the vault's ledger when this log last spoke of it: it may only have grown since."""
    replaced: dict[int, int] = field(default_factory=dict)
    """Version → the version that it replaced when it was promoted."""
    tests: int = 0
    """Stakes of this epoch."""
    alphas: float = 0.0
    """The sum of all stakes."""
    nonces: frozenset[str] = frozenset()
    """Of all authorisations."""
    keys: tuple[Verifier, ...] = ()
    """The log's keys, the oldest first; the last one is in force. Empty where the reader does not say."""
    rolled_back: int | None = None
    """The index of a rollback after which nothing was staked yet."""
    last_time: str = ""
    active_seconds: float = 0.0
    """Time between entries, idle time between two supervisors left out: what the wall-clock budget counts."""
    history: History = field(default_factory=History)
    """What policies may read of the past."""

    def _genesis(self) -> Genesis:
        if self.genesis is None:
            raise StateError("the log has no genesis", where="entry 0")
        return self.genesis

    @property
    def incumbent(self) -> Candidate:
        """The candidate that is live."""
        return self.versions[self.live]

    @property
    def baseline(self) -> Candidate:
        """The first version of all."""
        return self._genesis().baseline

    @property
    def promotions(self) -> int:
        """How many promotions there have been, undone ones too."""
        return len(self.versions) - 1

    def candidates(self) -> dict[Digest, tuple[Candidate, dict[str, float]]]:
        """All candidates with development metrics, by digest: the archive that proposals may start from."""
        genesis = self._genesis()
        known = {genesis.baseline.digest: (genesis.baseline, genesis.development)}
        for state in self.proposals.values():
            if state.built and state.developed:
                known.setdefault(state.built.candidate.digest, (state.built.candidate, state.developed.development))
        return known

    def generation(self, number: int) -> list[ProposalState]:
        """The slots of a generation, in order."""
        return sorted(
            (p for p in self.proposals.values() if p.proposed.generation == number), key=lambda p: p.proposed.index
        )


def fold(state: RunState, index: int, entry: Entry) -> RunState:
    """The state after `entry`, which stands at `index`; StateError where it may not stand there."""

    def illegal(why: str) -> StateError:
        clause = _CLAUSES.get(type(entry).__name__)
        return StateError(f"{type(entry).__name__}: {why}", where=f"entry {index}", clause=clause)

    if index != state.size:
        raise illegal(f"expected entry {state.size}")
    if (state.genesis is None) != isinstance(entry, Genesis):
        raise StateError("genesis comes first, and once", where=f"entry {index}", clause="§7.1")
    if state.intent is not None and not isinstance(entry, (Promoted, RolledBack, Voided, Started, Halted)):
        raise StateError("an intent is open: its outcome comes first", where=f"entry {index}", clause="§7.2")
    gap = 0.0 if isinstance(entry, (Genesis, Started)) else _seconds(state.last_time, entry.time)
    state = replace(
        state,
        size=index + 1,
        last_time=entry.time,
        active_seconds=state.active_seconds + gap,
        history=state.history.after(entry),
    )

    def proposal(number: int) -> ProposalState:
        found = state.proposals.get(number)
        if found is None:
            raise illegal(f"proposal {number} is unknown")
        return found

    def with_proposal(number: int, **changes: object) -> RunState:
        changed: ProposalState = replace(proposal(number), **changes)  # type: ignore[arg-type]
        return replace(state, proposals=state.proposals.with_value(number, changed))

    def check_ledger(size: int, root: str) -> None:
        # Spent error comes back from no backup.
        if state.ledger is not None and (
            size < state.ledger[0] or (size == state.ledger[0] and root != state.ledger[1])
        ):
            raise StateError("the vault's ledger has shrunk or changed", where=f"entry {index}", clause="§7.3")

    def undecided(number: int) -> ProposalState:
        found = proposal(number)
        if found.decision is not None:
            raise illegal(f"proposal {number} is decided already")
        return found

    def free(number: int) -> ProposalState:
        found = undecided(number)
        if found.hold is not None:
            raise illegal(f"proposal {number} is held: people have not answered")
        return found

    def let_go(number: int) -> dict[str, object]:
        # What becomes of a proposal that people let go on: the hold moves to those that are behind it.
        found = undecided(number)
        if found.hold is None:
            raise illegal(f"proposal {number} is not held")
        rule = state._genesis().config.approvers  # noqa: SLF001 - the fold is the state's own machine
        why = found.hold.why_not(rule.require if rule else 1, entry.time, state.incumbent.digest)
        if why is not None:
            raise illegal(f"people have not let it go on: {why}")
        return {"hold": None, "released": (*found.released, found.hold)}

    match entry:
        case Genesis():
            if state.keys and entry.origin != state.keys[-1].name:
                raise illegal("the origin is not the log's")
            rule = entry.config.approvers
            if len({each.name for each in entry.approvers}) < (rule.require if rule else 0) or (
                entry.approvers and rule is None
            ):
                raise illegal("fewer approvers than must agree, or some without a rule")
            return replace(state, genesis=entry, versions={BASELINE: entry.baseline})
        case Started():
            check_ledger(entry.ledger_size, entry.ledger_root)
            return replace(state, started=entry, starts=state.starts + 1, ledger=(entry.ledger_size, entry.ledger_root))
        case ProposedEntry():
            if entry.number != len(state.proposals) + 1:
                raise illegal(f"expected number {len(state.proposals) + 1}")
            return replace(
                state, proposals=state.proposals.with_value(entry.number, ProposalState(entry, epoch=state.epoch))
            )
        case Screened():
            before = undecided(entry.number).screened
            if before is None:
                return with_proposal(entry.number, screened=entry)
            hold = proposal(entry.number).hold
            if hold is None or hold.entry.stage != "screen":
                raise illegal(f"proposal {entry.number} is screened already")
            same = ("base", "recipe", "source", "change")
            if any(getattr(entry, name) != getattr(before, name) for name in same) or entry.outcome != "pass":
                raise illegal("the second decision on a held screen is another change, or not 'pass'")
            changes = let_go(entry.number)
            return replace(with_proposal(entry.number, screened=entry, **changes), held=state.held - {entry.number})
        case Held():
            _check_hold(state, free(entry.number), entry, illegal)
            return replace(with_proposal(entry.number, hold=Hold.of(entry)), held=state.held | {entry.number})
        case Approved() | Refused():
            found = undecided(entry.number)
            if found.hold is None:
                raise illegal(f"proposal {entry.number} is not held")
            try:
                approvers = state._genesis().approvers  # noqa: SLF001 - the fold is the state's own machine
                hold = found.hold.with_answer(entry, approvers, found.proposed.proposer)
            except AuditError as error:
                raise illegal(str(error)) from error
            return with_proposal(entry.number, hold=hold)
        case Built():
            found = free(entry.number)
            if found.built or found.screened is None or found.screened.outcome != "pass":
                raise illegal(f"proposal {entry.number} did not pass the screen, or is built already")
            return with_proposal(entry.number, built=entry)
        case Developed():
            found = free(entry.number)
            if found.developed or found.built is None:
                raise illegal(f"proposal {entry.number} is not built, or is developed already")
            return with_proposal(entry.number, developed=entry)
        case Staked():
            found = free(entry.number)
            if state.held:
                raise illegal("a hold is open: nothing is tested on the vault meanwhile")
            if found.staked or found.developed is None or state.open_stake is not None:
                raise illegal(f"proposal {entry.number} is not developed, or a stake is open")
            if entry.epoch != state.epoch or entry.incumbent != state.incumbent.digest:
                raise illegal("the stake is of another epoch or over another incumbent")
            check_ledger(entry.ledger_size, entry.ledger_root)
            _check_alpha(state, entry, illegal)
            return replace(
                with_proposal(entry.number, staked=entry),
                open_stake=entry.number,
                tests=state.tests + 1,
                alphas=state.alphas + entry.alpha,
                rolled_back=None,
                ledger=(entry.ledger_size, entry.ledger_root),
            )
        case Predicted():
            if entry.epoch != state.epoch:
                raise illegal("answers to another epoch's items")
            key = (entry.candidate, entry.epoch, entry.offset, entry.cap)
            if key in state.answers:
                raise illegal("these items were answered already")
            return replace(state, answers={**state.answers, key: entry.answers})
        case Measured():
            found = free(entry.number)
            if state.open_stake != entry.number or found.staked is None:
                raise illegal(f"proposal {entry.number} has no open stake")
            if not entry.gates or entry.passed != all(gate.verdict == "pass" for gate in entry.gates):
                raise illegal("'passed' does not follow from the gates")
            gates = state._genesis().config.gates  # noqa: SLF001 - the fold is the state's own machine
            if sorted((g.eval, g.kind) for g in entry.gates) != sorted((g.eval, g.kind) for g in gates):
                raise illegal("other gates than those of the configuration")
            return replace(with_proposal(entry.number, measured=entry), open_stake=None)
        case Decided():
            found = undecided(entry.number)
            promotes = entry.decision.verdict == "promote"
            if promotes and (found.measured is None or not found.measured.passed):
                raise illegal("a promotion without a passed measurement")
            if not promotes and not entry.decision.reasons:
                raise illegal("a rejection without a reason")
            changes = let_go(entry.number) if promotes and found.hold is not None else {}
            closed = None if state.open_stake == entry.number else state.open_stake
            return replace(
                with_proposal(
                    entry.number,
                    decision=entry.decision,
                    judgement=entry.judgement,
                    document=entry.document,
                    **changes,
                ),
                open_stake=closed,
                held=state.held - {entry.number},
            )
        case Authorised():
            found = proposal(entry.number)
            if found.decision is None or found.decision.verdict != "promote" or found.authorisation is not None:
                raise illegal(f"proposal {entry.number} was not decided to be promoted, or is authorised already")
            if found.outcome is not None:
                raise illegal(f"proposal {entry.number} has come to its end")
            if found.staked is None or found.staked.epoch != state.epoch:
                raise illegal("the epoch of its test has ended")
            if state.halted:
                raise illegal("the run is halted")
            if found.built is None or entry.candidate != found.built.candidate.digest:
                raise illegal("another candidate than the one decided on")
            if found.measured is None or entry.evidence != found.measured.evidence:
                raise illegal("other evidence than the one decided on")
            genesis = state._genesis()  # noqa: SLF001 - the fold is the state's own machine
            if entry.guard != genesis.guard or entry.policies != genesis.policies:
                raise illegal("another guard than this run's")
            if (
                entry.incumbent != state.incumbent.digest
                or found.staked is None
                or entry.incumbent != found.staked.incumbent
            ):
                raise illegal("the incumbent has moved")
            if entry.version != len(state.versions):
                raise illegal(f"expected version {len(state.versions)}")
            if entry.weights != found.built.candidate.weights:
                raise illegal("other weights than those decided on")
            if state.promotions >= genesis.config.budgets.promotions:
                raise illegal("the budget of promotions is spent")
            if entry.approvals != found.approvals:
                raise illegal("other approvals than those by which it went on")
            if entry.nonce in state.nonces:
                raise illegal("its nonce was used before")
            return replace(
                with_proposal(entry.number, authorisation=index),
                authorised={**state.authorised, index: entry},
                nonces=state.nonces | {entry.nonce},
            )
        case Intended(action="promote"):
            authorised = state.authorised.get(-1 if entry.authorisation is None else entry.authorisation)
            if authorised is None:
                raise illegal("no unused authorisation stands behind it")
            if state.halted:
                raise illegal("the run is halted")
            if (authorised.version, authorised.candidate) != (entry.version, entry.candidate):
                raise illegal("another version than the one authorised")
            if authorised.incumbent != state.incumbent.digest:
                raise illegal("the incumbent has moved")
            staked = proposal(authorised.number).staked
            if staked is None or staked.epoch != state.epoch:
                # Incumbents may return by rollback; an epoch never does, and with it no version number is given twice.
                raise illegal("the epoch of its test has ended")
            if entry.time and expired(entry.time, authorised.expires):
                raise illegal("the authorisation has expired")
            return replace(state, intent=entry)
        case Intended():
            target = state.versions.get(entry.version)
            if target is None or target.digest != entry.candidate:
                raise illegal(f"version {entry.version} was never live")
            if entry.version == state.live:
                raise illegal(f"version {entry.version} is live already")
            if entry.authorisation is not None:
                raise illegal("a rollback uses no authorisation")
            return replace(state, intent=entry)
        case Promoted():
            intent = state.intent
            if intent is None or intent.action != "promote" or intent.authorisation is None:
                raise illegal("no intent to promote is open")
            authorised = state.authorised[intent.authorisation]
            if (authorised.number, authorised.version, authorised.candidate) != (
                entry.number,
                entry.version,
                entry.candidate,
            ):
                raise illegal("another version than the one intended")
            found = proposal(entry.number)
            if found.built is None:
                raise illegal("nothing was built")
            rest = {key: value for key, value in state.authorised.items() if key != intent.authorisation}
            return replace(
                with_proposal(entry.number, outcome="promoted", version=entry.version),
                versions={**state.versions, entry.version: found.built.candidate},
                live=entry.version,
                replaced={**state.replaced, entry.version: state.live},
                epoch=state.epoch + 1,
                tests=0,
                authorised=rest,
                intent=None,
                unwatched=True,
            )
        case Watched():
            if entry.version != state.live or entry.candidate != state.incumbent.digest or not state.unwatched:
                raise illegal("no promotion waits for its smoke test")
            if entry.ok != (entry.answers == entry.expected):
                raise illegal("'ok' does not follow from the answers")
            return replace(state, unwatched=False, failed_watch=not entry.ok)
        case Voided():
            found = proposal(entry.number)
            if found.decision is None or found.decision.verdict != "promote" or found.outcome is not None:
                raise illegal(f"proposal {entry.number} was not decided to be promoted, or has come to its end")
            if found.authorisation is not None and found.authorisation not in state.authorised:
                raise illegal(f"proposal {entry.number} has no unused authorisation")
            if state.intent is not None and (
                found.authorisation is None or state.intent.authorisation != found.authorisation
            ):
                raise illegal("another intent is open")
            rest = {key: value for key, value in state.authorised.items() if key != found.authorisation}
            return replace(with_proposal(entry.number, outcome="voided"), authorised=rest, intent=None)
        case RolledBack():
            intent = state.intent
            if intent is None or intent.action != "rollback":
                raise illegal("no intent to roll back is open")
            if (intent.version, intent.candidate) != (entry.version, entry.candidate):
                raise illegal("another version than the one intended")
            return replace(
                state,
                live=entry.version,
                epoch=state.epoch + 1,
                tests=0,
                intent=None,
                open_stake=None,
                unwatched=False,
                failed_watch=False,
                rolled_back=index,
            )
        case Halted():
            return replace(state, halted=entry)
        case Resumed():
            if state.halted is None:
                raise illegal("the run is not halted")
            return replace(state, halted=None)
        case KeyRotated():
            return replace(state, keys=_rotated(state.keys, entry, illegal))
    raise illegal("unknown kind of entry")


_CLAUSES = {
    name: f"§7.{number}"
    for number, names in enumerate(
        (
            ["Genesis"],
            [],  # an open intent
            ["Started"],
            ["ProposedEntry"],
            ["Screened", "Built", "Developed"],
            ["Staked"],
            ["Predicted"],
            ["Measured"],
            ["Decided"],
            ["Authorised"],
            ["Intended"],
            ["Promoted", "RolledBack"],
            ["Watched"],
            ["Voided"],
            ["Halted", "Resumed"],
            ["KeyRotated"],
            ["Held", "Approved", "Refused"],
        ),
        start=1,
    )
    for name in names
}
"""The clause of audits/FORMAT.md that each kind of entry is under."""


def _check_hold(state: RunState, found: ProposalState, entry: Held, illegal: Callable[[str], StateError]) -> None:
    """A hold stands behind a screen that asks for people, or behind gates that passed, and names what is there."""
    genesis = state._genesis()  # noqa: SLF001 - the fold is the state's own machine
    if genesis.config.approvers is None:
        raise illegal("the run has no approvers")
    if (entry.origin, entry.guard, entry.policies) != (genesis.origin, genesis.guard, genesis.policies):
        raise illegal("another log, guard or policies than this run's")
    if entry.incumbent != state.incumbent.digest:
        raise illegal("another incumbent than the live one")
    if not entry.rules or expired(entry.time, entry.expires):
        raise illegal("no rule that asks for people, or expired at once")
    screened, built = found.screened, found.built
    if entry.stage == "screen":
        if screened is None or screened.outcome != "hold" or entry.candidate is not None:
            raise illegal("its screen does not ask for people")
        if (screened.document, screened.judgement) != (entry.document, entry.judgement):
            raise illegal("another document or judgement than the screen's")
    elif found.measured is None or not found.measured.passed or built is None:
        raise illegal("its gates have not passed")
    elif entry.candidate != built.candidate.digest:
        raise illegal("another candidate than the one measured")
    elif any(hold.entry.stage == "decide" for hold in found.released):
        raise illegal("people have answered this already")


def _check_alpha(state: RunState, entry: Staked, illegal: Callable[[str], StateError]) -> None:
    """What a stake may spend: by the ledger's rule where the vault is this run's own, and never more than delta."""
    genesis = state._genesis()  # noqa: SLF001 - the fold is the state's own machine
    delta = genesis.config.ledger.delta
    if entry.alpha <= 0 or state.alphas + entry.alpha > delta:
        raise illegal("more is staked than the budget of error allows")
    if genesis.vault_named:
        return  # other runs stake there, too
    rule = delta * gamma(entry.epoch) * gamma(max(entry.test, 1))
    if entry.test != state.tests + 1 or not math.isclose(entry.alpha, rule, rel_tol=1e-12):
        raise illegal(f"the ledger's rule gives test {state.tests + 1} of the epoch {rule!r}")


def _rotated(
    keys: tuple[Verifier, ...], entry: KeyRotated, illegal: Callable[[str], StateError]
) -> tuple[Verifier, ...]:
    """The keys after a rotation. That both have signed it is the envelope's to check."""
    try:
        old, new = Verifier.parse(entry.old), Verifier.parse(entry.new)
    except KeyFileError as error:
        raise illegal(str(error)) from error
    if entry.old.endswith("\n") or entry.new.endswith("\n"):
        raise illegal("a key is a line without its newline")
    if keys and old != keys[-1]:
        raise illegal("`old` is not the key in force")
    if new.name != old.name or new.key in {key.key for key in (*keys, old)}:
        raise illegal("the new key bears another name, or was in force before")
    return (*keys, new)


def _seconds(before: str, after: str) -> float:
    """Seconds from one entry's time to the next one's; a clock that was set back counts nothing."""
    try:
        return max(0.0, (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds())
    except (ValueError, TypeError):  # TypeError: one with a time zone, one without
        return 0.0
