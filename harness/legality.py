"""Which entry may follow which (audits/FORMAT.md §7).

`advance` takes the order of the log so far and one entry, and returns the order after it, or raises StateError where
the entry is illegal: the supervisor at work, recovery after a crash, `status` and the auditor all run this same
machine. It does no I/O and reads no clock. Each refusal names its clause.

What is legal, in short: genesis first and once; a proposal's stages in their order; a stake before its measurement,
one at a time; an authorisation only after a decision to promote over the incumbent of the moment, used at most once;
an intent before every swap and its outcome right after; no authorisation and no intent to promote while halted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from harness.asking import answer, check_approvers, hold, released, shown
from harness.changing import change
from harness.decision import ceilings
from harness.entries import (
    Approved,
    Authorised,
    Built,
    Decided,
    Developed,
    Entry,
    Genesis,
    GuardChanged,
    GuardProposed,
    GuardRejected,
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
from harness.errors import KeyFileError, StateError
from harness.fresh_ledger import share
from harness.holds import expired
from harness.keys import Verifier
from harness.ledger import gamma
from harness.order import (
    BASELINE,
    Illegal,
    Measurement,
    Open,
    Order,
    Some,
    Stake,
    Terms,
    free,
    next_epoch,
    proposal,
    terms_of,
    undecided,
    with_proposal,
)


def advance(order: Some, index: int, entry: Entry) -> Some:
    """The order after `entry`, which stands at `index`; StateError where it may not stand there."""
    clause = CLAUSES.get(type(entry))
    if isinstance(entry, (Approved, Refused)) and entry.number is None:
        clause = CLAUSES[GuardChanged]

    def illegal(why: str) -> StateError:
        return StateError(f"{type(entry).__name__}: {why}", where=f"entry {index}", clause=clause)

    if index != order.size:
        raise illegal(f"expected entry {order.size}")
    if (order.terms is None) != isinstance(entry, Genesis):
        raise StateError("genesis comes first, and once", where=f"entry {index}", clause="§7.1")
    if order.intent is not None and not isinstance(entry, (Promoted, RolledBack, Voided, Started, Halted)):
        raise StateError("an intent is open: its outcome comes first", where=f"entry {index}", clause="§7.2")
    return order.after(size=index + 1, last_time=entry.time, **_changes(order, index, entry, illegal))


def _changes(order: Order, index: int, entry: Entry, illegal: Illegal) -> dict[str, Any]:
    """What an entry changes, once it has been found legal."""
    match entry:
        case Genesis():
            if order.keys and entry.origin != order.keys[-1].name:
                raise illegal("the origin is not the log's")
            check_approvers(entry, illegal)
            return {
                "terms": Terms.of(entry),
                "versions": {BASELINE: entry.baseline},
                "allowed_by": {BASELINE: index},
            }
        case Started():
            return {"ledger": _grown(order, entry, index)}
        case ProposedEntry():
            if entry.number != order.proposed + 1:
                raise illegal(f"expected number {order.proposed + 1}")
            return {"proposed": entry.number, "open": order.open.with_value(entry.number, Open(entry.proposer))}
        case Held():
            return hold(order, entry, illegal)
        case Approved() | Refused():
            return answer(order, index, entry, illegal)
        case GuardProposed() | GuardRejected() | GuardChanged():
            return change(order, entry, illegal)
        case Screened() | Built() | Developed():
            return _stage(order, entry, illegal)
        case Staked() | Predicted() | Measured() | Decided():
            return _test(order, index, entry, illegal)
        case Authorised():
            return _authorised(order, index, entry, illegal)
        case Intended():
            _check_promotion(order, entry, illegal) if entry.action == "promote" else _check_return(
                order, entry, illegal
            )
            return {"intent": entry}
        case Promoted() | RolledBack() | Voided():
            return _outcome(order, entry, illegal)
        case Watched():
            if entry.version != order.live or entry.candidate != order.incumbent.digest or not order.unwatched:
                raise illegal("no promotion waits for its smoke test")
            if entry.ok != (entry.answers == entry.expected):
                raise illegal("'ok' does not follow from the answers")
            return {"unwatched": False}
        case Halted():
            return {"halted": True}
        case Resumed():
            if not order.halted:
                raise illegal("the run is not halted")
            return {"halted": False}
        case KeyRotated():
            return {"keys": _rotated(order.keys, entry, illegal)}
    raise illegal("unknown kind of entry")


CLAUSES: dict[type[Entry], str] = {
    kind: f"§7.{number}"
    for number, kinds in enumerate[Sequence[type[Entry]]](
        (
            [Genesis],
            [],  # an open intent
            [Started],
            [ProposedEntry],
            [Screened, Built, Developed],
            [Staked],
            [Predicted],
            [Measured],
            [Decided],
            [Authorised],
            [Intended],
            [Promoted, RolledBack],
            [Watched],
            [Voided],
            [Halted, Resumed],
            [KeyRotated],
            [Held, Approved, Refused],
            [GuardProposed, GuardRejected, GuardChanged],
        ),
        start=1,
    )
    for kind in kinds
}
"""The clause of audits/FORMAT.md that each kind of entry is under."""


def _grown(order: Order, entry: Started | Staked, index: int) -> tuple[int, str]:
    """The vault's ledger as an entry names it: spent error comes back from no backup."""
    size, root = order.ledger or (-1, "")
    if entry.ledger_size < size or (entry.ledger_size == size and entry.ledger_root != root):
        raise StateError("the vault's ledger has shrunk or changed", where=f"entry {index}", clause="§7.3")
    return entry.ledger_size, entry.ledger_root


def _stage(order: Order, entry: Screened | Built | Developed, illegal: Illegal) -> dict[str, Any]:
    """A proposal goes on: screened, built, developed, each once, but for a screen that people have answered."""
    found = undecided(order, entry.number, illegal)
    if isinstance(entry, Screened) and found.hold is not None and found.shown is not None:
        if shown(entry)[:4] != found.shown[:4] or entry.outcome != "pass":
            raise illegal("the second screen of a held proposal is of another change, or not `pass`")
        gone_on = released(order, found, "screen", entry, illegal)
        return with_proposal(
            order, entry.number, replace(gone_on, screened=entry.outcome, shown=None, over=found.hold.incumbent)
        )
    found = free(order, entry.number, illegal)
    match entry:
        case Screened():
            if found.screened:
                raise illegal(f"proposal {entry.number} is screened already")
            found = replace(found, screened=entry.outcome, shown=shown(entry) if entry.outcome == "hold" else None)
        case Built():
            if found.built or found.screened != "pass":
                raise illegal(f"proposal {entry.number} did not pass the screen, or is built already")
            found = replace(found, built=entry.candidate)
        case Developed():
            if found.developed is not None or found.built is None:
                raise illegal(f"proposal {entry.number} is not built, or is developed already")
            found = replace(found, developed=not entry.refuted)
    return with_proposal(order, entry.number, found)


def _test(order: Order, index: int, entry: Staked | Predicted | Measured | Decided, illegal: Illegal) -> dict[str, Any]:
    """A test from its stake to the decision."""
    if isinstance(entry, Predicted):
        if entry.epoch != order.epoch:
            raise illegal("answers to another epoch's items")
        key = (entry.candidate, entry.offset, entry.cap)
        if key in order.answered:
            raise illegal("these items were answered already")
        return {"answered": order.answered | {key}}
    find = undecided if isinstance(entry, Decided) else free
    found = find(order, entry.number, illegal)
    closed = None if order.open_stake == entry.number else order.open_stake
    match entry:
        case Staked():
            if order.held:
                raise illegal("a hold is open: nothing is tested on the vault meanwhile")
            if found.staked or found.developed is None or order.open_stake is not None:
                raise illegal(f"proposal {entry.number} is not developed, or a stake is open")
            if not found.developed:
                raise illegal(f"a property of proposal {entry.number} is refuted: nothing is staked on it")
            if entry.epoch != order.epoch or entry.incumbent != order.incumbent.digest:
                raise illegal("the stake is of another epoch or over another incumbent")
            if found.over not in (None, entry.incumbent):
                raise illegal("people let it go on over another incumbent")
            ledger = _grown(order, entry, index)
            _check_alpha(order, entry, illegal)
            fresh = terms_of(order).fresh
            stake = Stake(entry.epoch, entry.incumbent, entry.alpha if fresh else None)
            return {
                **with_proposal(order, entry.number, replace(found, staked=stake)),
                "open_stake": entry.number,
                "tests": entry.test if fresh else order.tests + 1,
                "alphas": order.alphas + entry.alpha,
                "burned": entry.offset,
                "used": entry.offset + entry.cap,
                "ledger": ledger,
            }
        case Measured():
            if order.open_stake != entry.number or found.staked is None:
                raise illegal(f"proposal {entry.number} has no open stake")
            if not entry.gates or entry.passed != all(gate.verdict == "pass" for gate in entry.gates):
                raise illegal("'passed' does not follow from the gates")
            if tuple(sorted((gate.eval, gate.kind) for gate in entry.gates)) != terms_of(order).gates:
                raise illegal("other gates than those of the configuration")
            if any(gate.name.partition("@")[0] != f"{gate.eval}/{gate.kind}" for gate in entry.gates):
                raise illegal("a gate under another's name")
            back = _given_back(found.staked, entry, illegal)
            found = replace(found, measured=Measurement(entry.passed, entry.evidence, ceilings(entry.gates)))
            return {
                **with_proposal(order, entry.number, found),
                "open_stake": None,
                "alphas": order.alphas - back,
            }
        case Decided():
            verdict = entry.decision.verdict
            measured, asked = found.measured, found.hold is not None
            if verdict == "promote" and not (measured and (measured.passed or (measured.ceilings and asked))):
                raise illegal("a promotion without a passed measurement, or without the people whom a ceiling asks for")
            if verdict != "promote" and not entry.decision.reasons:
                raise illegal("a rejection without a reason")
            if verdict == "reject":
                return {"open": order.open.without(entry.number), "open_stake": closed}
            if found.hold is not None:
                found = released(order, found, "decide", entry, illegal)
            return {**with_proposal(order, entry.number, replace(found, verdict=verdict)), "open_stake": closed}


def _check_alpha(order: Order, entry: Staked, illegal: Illegal) -> None:
    """What a stake may spend: by the ledger's rule where the vault is this run's own, and never more than delta."""
    terms = terms_of(order)
    if entry.alpha <= 0 or order.alphas + entry.alpha > terms.delta:
        raise illegal("more is staked than the budget of error allows")
    if terms.fresh:
        return _check_fresh(order, entry, illegal)
    if entry.offset < order.burned:
        raise illegal(f"its items begin at {entry.offset}, and those before {order.burned} are burned")
    if terms.vault_named:
        return None  # other runs stake there, too
    if entry.offset > (order.burned if order.tests else order.used):
        raise illegal(f"its items begin at {entry.offset}: no test of an epoch before burned so many")
    rule = terms.delta * gamma(entry.epoch) * gamma(max(entry.test, 1))
    if entry.test != order.tests + 1 or not math.isclose(entry.alpha, rule, rel_tol=1e-12):
        raise illegal(f"the ledger's rule gives test {order.tests + 1} of the epoch {rule!r}")
    return None


def _check_fresh(order: Order, entry: Staked, illegal: Illegal) -> None:
    """The same where every test has items of its own: what other runs do in the vault only makes stakes smaller."""
    terms, own = terms_of(order), order.tests + 1
    if entry.test < own or (entry.test > own and not terms.vault_named):
        raise illegal(f"expected test {own}: tests are counted over the life of the ledger")
    if entry.offset < order.used or (entry.offset > order.used and not terms.vault_named):
        raise illegal(f"its items begin at {entry.offset}, and those of the test before end at {order.used}")
    rule = (terms.delta - order.alphas) * share(entry.test)
    if entry.alpha > rule * (1 + 1e-12) or (entry.alpha < rule * (1 - 1e-12) and not terms.vault_named):
        raise illegal(f"the ledger's rule gives test {entry.test} {rule!r}")


def _given_back(stake: Stake, entry: Measured, illegal: Illegal) -> float:
    """What a test's evidence gives back of its stake: nothing where items are shared."""
    if (stake.alpha is None) != (entry.charged is None):
        raise illegal("what a test costs is said where its items are fresh, and only there")
    if stake.alpha is None or entry.charged is None:
        return 0.0
    if not 0 <= entry.charged <= stake.alpha or (entry.passed and entry.charged):
        raise illegal(
            f"it is charged {entry.charged!r} of {stake.alpha!r}: no more than that, and nothing if it passed"
        )
    return stake.alpha - entry.charged


def _authorised(order: Order, index: int, entry: Authorised, illegal: Illegal) -> dict[str, Any]:
    """A proposal may be made live, once."""
    found, terms = proposal(order, entry.number, illegal), terms_of(order)
    if found.verdict != "promote" or found.authorisation is not None:
        raise illegal(f"proposal {entry.number} was not decided to be promoted, or is authorised already")
    if found.staked is None or found.staked.epoch != order.epoch:
        raise illegal("the epoch of its test has ended")
    if order.halted:
        raise illegal("the run is halted")
    if found.built is None or entry.candidate != found.built.digest:
        raise illegal("another candidate than the one decided on")
    if found.measured is None or entry.evidence != found.measured.evidence:
        raise illegal("other evidence than the one decided on")
    if entry.guard != terms.guard or entry.policies != terms.policies:
        raise illegal("another guard than this run's")
    if not entry.incumbent == order.incumbent.digest == found.staked.incumbent:
        raise illegal("the incumbent has moved")
    if entry.version != len(order.versions):
        raise illegal(f"expected version {len(order.versions)}")
    if entry.weights != found.built.weights:
        raise illegal("other weights than those decided on")
    if order.promotions >= terms.promotions:
        raise illegal("the budget of promotions is spent")
    if tuple(entry.approvals) != found.approvals:
        raise illegal("other approvals than those by which it went on")
    if entry.nonce in order.nonces:
        raise illegal("its nonce was used before")
    return {
        **with_proposal(order, entry.number, replace(found, authorisation=index)),
        "authorised": {**order.authorised, index: entry},
        "nonces": (*order.nonces, entry.nonce),
    }


def _check_promotion(order: Order, entry: Intended, illegal: Illegal) -> None:
    """An intent to promote uses an authorisation that still holds."""
    permit = order.authorised.get(-1 if entry.authorisation is None else entry.authorisation)
    if permit is None:
        raise illegal("no unused authorisation stands behind it")
    if order.halted:
        raise illegal("the run is halted")
    if (permit.version, permit.candidate) != (entry.version, entry.candidate):
        raise illegal("another version than the one authorised")
    if permit.incumbent != order.incumbent.digest:
        raise illegal("the incumbent has moved")
    staked = proposal(order, permit.number, illegal).staked
    if staked is None or staked.epoch != order.epoch:
        # Incumbents may return by rollback; an epoch never does, and with it no version number is given twice.
        raise illegal("the epoch of its test has ended")
    if entry.time and expired(entry.time, permit.expires):
        raise illegal("the authorisation has expired")


def _check_return(order: Order, entry: Intended, illegal: Illegal) -> None:
    """An intent to roll back names an earlier version."""
    target = order.versions.get(entry.version)
    if target is None or target.digest != entry.candidate:
        raise illegal(f"version {entry.version} was never live")
    if entry.version == order.live:
        raise illegal(f"version {entry.version} is live already")
    if entry.authorisation is not None:
        raise illegal("a rollback uses no authorisation")


def _outcome(order: Order, entry: Promoted | RolledBack | Voided, illegal: Illegal) -> dict[str, Any]:
    """The swap was made, or came to nothing."""
    intent = order.intent
    ended: dict[str, Any] = {"intent": None, **next_epoch(order)}
    match entry:
        case Promoted():
            if intent is None or intent.action != "promote" or intent.authorisation is None:
                raise illegal("no intent to promote is open")
            index, permit = intent.authorisation, order.authorised[intent.authorisation]
            if (permit.number, permit.version, permit.candidate) != (entry.number, entry.version, entry.candidate):
                raise illegal("another version than the one intended")
            found = proposal(order, entry.number, illegal)
            if found.built is None:
                raise illegal("nothing was built")
            return {
                **ended,
                "open": order.open.without(entry.number),
                "versions": {**order.versions, entry.version: found.built},
                "allowed_by": {**order.allowed_by, entry.version: index},
                "live": entry.version,
                "burned": order.burned + 1,  # it scored one item at least
                "authorised": {key: value for key, value in order.authorised.items() if key != index},
                "unwatched": True,
            }
        case RolledBack():
            if intent is None or intent.action != "rollback":
                raise illegal("no intent to roll back is open")
            if (intent.version, intent.candidate) != (entry.version, entry.candidate):
                raise illegal("another version than the one intended")
            return {**ended, "live": entry.version, "open_stake": None, "unwatched": False}
        case Voided():
            found = proposal(order, entry.number, illegal)
            if found.verdict != "promote":
                raise illegal(f"proposal {entry.number} was not decided to be promoted")
            if intent is not None and (found.authorisation is None or intent.authorisation != found.authorisation):
                raise illegal("another intent is open")
            rest = {key: value for key, value in order.authorised.items() if key != found.authorisation}
            return {"open": order.open.without(entry.number), "authorised": rest, "intent": None}


def _rotated(keys: tuple[Verifier, ...], entry: KeyRotated, illegal: Illegal) -> tuple[Verifier, ...]:
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
