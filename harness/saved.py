"""Where a verification ended, in a file of the reader's own: the next one goes on from there.

The file is the one of `audits/verify.py`, byte for byte: the order of the log so far, the tree head that it was under,
and a digest over both, against damage. It is as good as whoever keeps it: its writer could have written any other. So
what it says is believed of the log's first entries alone, and only of a log that extends its head.

Not covered: what lies on disk of those first entries. They are not read again, and neither are their blobs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from harness.canonical import MAX_DEPTH, canonical_bytes, digest, parse_json
from harness.durable import write_durably
from harness.errors import CanonicalError, KeyFileError, LockgateError
from harness.holds import Hold
from harness.keys import Verifier
from harness.logreader import LogReader
from harness.order import Change, Measurement, Open, Order, Shown, Stake, Terms
from harness.pages import Numbered
from harness.quorum import Approver
from harness.records import Candidate, Count, Digest, Record, Verdict

__all__ = ["load", "save"]

_MAX_BYTES = 1 << 30
_DEPTH = MAX_DEPTH + 8  # a recipe lies a little deeper here than in its entry
_OTHER = "not what --save of this version wrote"


class _Terms(Record):
    promotions: Count
    delta: float
    fresh: bool
    gates: list[tuple[str, str]]
    vault_named: bool
    origin: str
    guard: Digest
    policies: Digest
    witnesses: list[Count | str]
    """How many are required, and their keys."""
    agree: Count
    approvers: list[Approver]
    data: Digest
    vault_items: Count


class _Stake(Record):
    epoch: Count
    incumbent: Digest
    alpha: float | None


class _Measurement(Record):
    passed: bool
    evidence: Digest
    ceilings: list[str]
    """That ask for people, as eval/kind."""


class _Shown(Record):
    base: Digest
    recipe: dict[str, Any]
    source: Digest
    change: Digest
    document: Digest
    judgement: Digest


class _Hold(Record):
    stage: Literal["screen", "decide", "guard"]
    incumbent: Digest
    expires: str
    digest: Digest
    approvals: list[Digest]
    refused: bool
    answered: list[str]
    """Name and key of each, in order; that of a refusal is the last."""


class _Change(Record):
    hold: _Hold
    by: str
    free: bool
    terms: _Terms


class _Open(Record):
    proposer: str
    shown: _Shown | None
    hold: _Hold | None
    over: Digest | None
    asked: bool
    """Whether it was released from a hold of the stage `decide`."""
    approvals: list[Digest]
    """By which it was released."""
    screened: Literal["pass", "deny", "hold", "invalid"] | None
    built: Candidate | None
    developed: bool | None
    """Whether all its properties hold."""
    staked: _Stake | None
    measured: _Measurement | None
    verdict: Verdict | None
    permit: Count | None
    ended: Literal[False]


class _Version(Record):
    candidate: Candidate
    index: Count
    raw: Digest
    """Of the entry that allowed it."""


class _Permit(Record):
    number: Count
    version: Count
    candidate: Digest
    incumbent: Digest
    expires: str
    raw: Digest


class _Swap(Record):
    action: Literal["promote", "rollback"]
    version: Count
    candidate: Digest
    authorisation: Count | None


class _State(Record):
    size: Count
    keys: list[str]
    terms: _Terms
    change: _Change | None
    guards: list[Digest]
    ledger: tuple[Count, str] | None
    count: Count
    open: dict[str, _Open]
    versions: list[_Version]
    live: Count
    epoch: Count
    answered: dict[str, Literal[True]]
    """`candidate offset cap` of each."""
    stake: Count | None
    tests: Count
    alphas: float
    burned: Count
    used: Count
    permits: dict[str, _Permit]
    nonces: list[str]
    intent: _Swap | None
    unwatched: bool
    halted: bool
    time: str
    people: dict[str, Count]
    """`NAME ROLE TYPE BASE64` of each who has answered."""


class _Saved(Record):
    head: str
    state: _State
    digest: Digest


def save(path: Path, order: Order, reader: LogReader) -> None:
    """Write where the verification of a log has ended, in one step; LockgateError where that cannot be."""
    state, head = _state(order, reader), reader.head.decode()
    whole = {"head": head, "state": state, "digest": digest(canonical_bytes([head, state], max_depth=_DEPTH))}
    try:
        write_durably(path, canonical_bytes(whole, max_depth=_DEPTH), mode=0o644)
    except OSError as error:
        raise LockgateError(f"cannot be written: {error.strerror}", where=str(path)) from error


def load(path: Path) -> tuple[Order, bytes]:
    """Read it back: the order, and the note of the tree head that it was under, which nobody has verified yet.

    LockgateError where the file is not one that `save` wrote, in every byte.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except OSError as error:
        raise LockgateError(f"cannot be read: {error.strerror}", where=str(path)) from error
    try:
        value: Any = parse_json(data, max_bytes=_MAX_BYTES, max_depth=_DEPTH)
        saved = _Saved.parse(value)
        whole = saved.digest == digest(canonical_bytes([value["head"], value["state"]], max_depth=_DEPTH))
        order = _order(saved.state)
        if whole and canonical_bytes(value, max_depth=_DEPTH) == data:
            return order, saved.head.encode()
    except (CanonicalError, KeyFileError, ValueError, LookupError) as error:  # pydantic's is a ValueError
        raise LockgateError(_OTHER, where=str(path)) from error
    raise LockgateError(_OTHER, where=str(path))


def _state(order: Order, reader: LogReader) -> dict[str, Any]:
    """The order as JSON."""

    def raw(index: int) -> str:
        return digest(next(reader.read(index, index + 1)))

    intent = order.intent
    if order.terms is None:
        raise LockgateError("nothing was verified")
    return {
        "size": order.size,
        "keys": [key.vkey for key in order.keys],
        "terms": _terms(order.terms),
        "change": None if order.change is None else _change(order.change),
        "guards": list(order.guards),
        "ledger": None if order.ledger is None else list(order.ledger),
        "count": order.proposed,
        "open": {str(number): _open(found) for number, found in order.open.items()},
        "versions": [
            {"candidate": made.json_value(), "index": order.allowed_by[version], "raw": raw(order.allowed_by[version])}
            for version, made in sorted(order.versions.items())
        ],
        "live": order.live,
        "epoch": order.epoch,
        "answered": {" ".join(map(str, asked)): True for asked in order.answered},
        "stake": order.open_stake,
        "tests": order.tests,
        "alphas": order.alphas,
        "burned": order.burned,
        "used": order.used,
        "permits": {
            str(index): {
                "number": permit.number,
                "version": permit.version,
                "candidate": permit.candidate,
                "incumbent": permit.incumbent,
                "expires": permit.expires,
                "raw": raw(index),
            }
            for index, permit in order.authorised.items()
        },
        "nonces": list(order.nonces),
        "intent": None
        if intent is None
        else {name: getattr(intent, name) for name in ("action", "version", "candidate", "authorisation")},
        "unwatched": order.unwatched,
        "halted": order.halted,
        "time": order.last_time,
        "people": {" ".join(who): index for who, index in order.people.items()},
    }


def _terms(terms: Terms) -> dict[str, Any]:
    return {
        "promotions": terms.promotions,
        "delta": terms.delta,
        "fresh": terms.fresh,
        "gates": [list(gate) for gate in terms.gates],
        "vault_named": terms.vault_named,
        "origin": terms.origin,
        "guard": terms.guard,
        "policies": terms.policies,
        "witnesses": [terms.required, *terms.witnesses],
        "agree": terms.agree,
        "approvers": [each.json_value() for each in terms.approvers],
        "data": terms.data,
        "vault_items": terms.vault_items,
    }


def _change(change: Change) -> dict[str, Any]:
    return {"hold": _hold(change.hold), "by": change.by, "free": change.free, "terms": _terms(change.terms)}


def _open(found: Open) -> dict[str, Any]:
    return {
        "screened": found.screened,
        "built": None if found.built is None else found.built.json_value(),
        "developed": found.developed,
        "staked": None if found.staked is None else found.staked._asdict(),
        "measured": None if found.measured is None else _measurement(found.measured),
        "verdict": found.verdict,
        "permit": found.authorisation,
        "ended": False,
        "proposer": found.proposer,
        "shown": None if found.shown is None else found.shown._asdict(),
        "hold": None if found.hold is None else _hold(found.hold),
        "over": found.over,
        "asked": found.asked,
        "approvals": list(found.approvals),
    }


def _measurement(measured: Measurement) -> dict[str, Any]:
    return {"passed": measured.passed, "evidence": measured.evidence, "ceilings": list(measured.ceilings)}


def _hold(hold: Hold) -> dict[str, Any]:
    return {
        "stage": hold.stage,
        "incumbent": hold.incumbent,
        "expires": hold.expires,
        "digest": hold.digest,
        "approvals": [name for name, _ in hold.approvals],
        "refused": hold.refused is not None,
        "answered": hold.answered,
    }


def _order(state: _State) -> Order:
    """The order that it says; ValueError or LookupError where its parts do not fit each other."""
    terms, opened = _terms_of(state.terms), Numbered[Open]()
    for number, found in state.open.items():
        opened = opened.with_value(int(number), _proposal(found, state.terms.approvers))
    permits = {int(index): permit for index, permit in state.permits.items()}
    versions = {version: known.candidate for version, known in enumerate(state.versions)}
    asked = [key.split(" ") for key in state.answered]
    order = Order(
        size=state.size,
        keys=tuple(map(Verifier.parse, state.keys)),
        terms=terms,
        change=None if state.change is None else _changing(state.change, state.terms.approvers),
        guards=tuple(state.guards),
        ledger=state.ledger,
        proposed=state.count,
        open=opened,
        versions=versions,
        allowed_by={version: known.index for version, known in enumerate(state.versions)},
        live=state.live,
        epoch=state.epoch,
        answered=frozenset((name, int(offset), int(cap)) for name, offset, cap in asked),
        open_stake=state.stake,
        tests=state.tests,
        alphas=state.alphas,
        burned=state.burned,
        used=state.used,
        authorised=permits,
        nonces=tuple(state.nonces),
        intent=state.intent,
        unwatched=state.unwatched,
        halted=state.halted,
        last_time=state.time,
        people={_person(who): index for who, index in state.people.items()},
    )
    _check(order)
    return order


def _terms_of(terms: _Terms) -> Terms:
    required, *witnesses = terms.witnesses
    if not isinstance(required, int):
        raise ValueError("no number of witnesses")  # noqa: TRY004 - as of any part that does not fit
    return Terms(
        origin=terms.origin,
        guard=terms.guard,
        policies=terms.policies,
        delta=terms.delta,
        fresh=terms.fresh,
        promotions=terms.promotions,
        gates=tuple(terms.gates),
        vault_named=terms.vault_named,
        required=required,
        witnesses=tuple(map(str, witnesses)),
        agree=terms.agree,
        approvers=tuple(terms.approvers),
        data=terms.data,
        vault_items=terms.vault_items,
    )


def _changing(change: _Change, approvers: list[Approver]) -> Change:
    return Change(_held(change.hold, approvers), change.by, free=change.free, terms=_terms_of(change.terms))


def _person(who: str) -> tuple[str, str, str]:
    name, role, key = who.split(" ", 2)
    return name, role, key


def _held(found: _Hold, approvers: list[Approver]) -> Hold:
    listed = {(each.name, each.key): each for each in approvers}
    people = [listed[found.answered[at], found.answered[at + 1]] for at in range(0, len(found.answered), 2)]
    if len(people) != len(found.approvals) + found.refused:
        raise ValueError("answers that do not fit each other")
    return Hold(
        found.digest,
        found.stage,
        found.incumbent,
        found.expires,
        approvals=tuple(zip(found.approvals, people, strict=False)),  # a refusal comes last, and has none
        refused=(people[-1], "") if found.refused else None,
    )


def _proposal(found: _Open, approvers: list[Approver]) -> Open:
    staked, told = found.staked, found.measured
    return Open(
        proposer=found.proposer,
        shown=None if found.shown is None else Shown(*(getattr(found.shown, name) for name in Shown._fields)),
        hold=None if found.hold is None else _held(found.hold, approvers),
        over=found.over,
        asked=found.asked,
        approvals=tuple(found.approvals),
        screened=found.screened,
        built=found.built,
        developed=found.developed,
        staked=None if staked is None else Stake(staked.epoch, staked.incumbent, staked.alpha),
        measured=None if told is None else Measurement(told.passed, told.evidence, tuple(told.ceilings)),
        verdict=found.verdict,
        authorisation=found.permit,
    )


def _check(order: Order) -> None:
    """Let nothing be looked up later that is not there: LookupError, ValueError."""
    indices = [*order.allowed_by.values(), *order.authorised]
    numbers = [*order.open, *([] if order.open_stake is None else [order.open_stake])]
    if not order.keys or not all(index < order.size for index in indices) or not order.versions[order.live]:
        raise ValueError("parts that do not fit each other")
    if not all(1 <= number <= order.proposed for number in numbers):
        raise ValueError("a proposal that was not made")
    for permit in order.authorised.values():
        _ = order.open[permit.number]
    if order.intent is not None and order.intent.action == "promote":
        _ = order.authorised[-1 if order.intent.authorisation is None else order.intent.authorisation]
