"""Which entries may stand about people: a proposal waits, they answer, and it goes on (audits/FORMAT.md §7.17).

A part of `legality`, which asks this room about `held`, `approved` and `refused`, and wherever a proposal goes on that
was held. It does no I/O and reads no clock.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.entries import Approved, Decided, Guarding, Held, Refused, Screened
from harness.errors import AuditError
from harness.holds import Hold, expired
from harness.order import Illegal, Open, Order, Shown, free, terms_of, undecided, with_proposal


def shown(entry: Screened) -> Shown:
    """What a screen is about."""
    return Shown(*(getattr(entry, name) for name in Shown._fields))


def hold(order: Order, entry: Held, illegal: Illegal) -> dict[str, Any]:
    """A proposal waits for people."""
    found = free(order, entry.number, illegal)
    _check_hold(order, found, entry, illegal)
    return with_proposal(order, entry.number, replace(found, hold=Hold.of(entry)))


def answer(order: Order, index: int, entry: Approved | Refused, illegal: Illegal) -> dict[str, Any]:
    """People answer: what a proposal waits for, or a change of the guard."""

    def answered(hold: Hold, proposer: str) -> tuple[Hold, dict[str, Any]]:
        try:
            after, approver = hold.with_answer(entry, terms_of(order).approvers, proposer)
        except AuditError as error:
            raise illegal(str(error)) from error
        return after, {"people": {(approver.name, approver.role, approver.key): index, **order.people}}

    if entry.number is None:
        change = order.change
        if change is None:
            raise illegal("no change of the guard is open")
        after, people = answered(change.hold, change.by)
        return {"change": replace(change, hold=after), **people}
    found = undecided(order, entry.number, illegal)
    if found.hold is None:
        raise illegal(f"proposal {entry.number} is not held")
    after, people = answered(found.hold, found.proposer)
    return {**with_proposal(order, entry.number, replace(found, hold=after)), **people}


def check_approvers(entry: Guarding, illegal: Illegal) -> None:
    """Who may answer holds from here on: enough of them, each once, each in one role."""
    people, names = entry.config.approvers, {each.name for each in entry.approvers}
    if len(names) < (people.require if people else 0):
        raise illegal("fewer approvers than must agree")
    if len({each.key for each in entry.approvers}) != len(entry.approvers):
        raise illegal("one key stands twice among the approvers")
    if len({(each.name, each.role) for each in entry.approvers}) != len(names):
        raise illegal("an approver in two roles")
    if entry.approvers and people is None:
        raise illegal("approvers, of which the configuration knows nothing")


def _check_hold(order: Order, found: Open, entry: Held, illegal: Illegal) -> None:
    """A hold stands behind a screen that asks for people, or behind gates of which only ceilings have not passed."""
    terms = terms_of(order)
    if not terms.agree:
        raise illegal("the run has no approvers")
    if (entry.origin, entry.guard, entry.policies) != (terms.origin, terms.guard, terms.policies):
        raise illegal("another log, guard or policies than this run's")
    if entry.incumbent != order.incumbent.digest:
        raise illegal("another incumbent than the live one")
    if not (entry.rules or entry.gates) or expired(entry.time, entry.expires):
        raise illegal("no rule and no gate that asks for people, or expired at once")
    measured = found.measured
    if entry.gates != (list(measured.ceilings) or None if entry.stage == "decide" and measured else None):
        raise illegal("other gates than those that ask for people")
    if entry.stage == "screen":
        if found.shown is None or entry.candidate is not None:
            raise illegal("its screen does not ask for people")
        if found.shown[4:] != (entry.document, entry.judgement):
            raise illegal("another document or judgement than the screen's")
    elif measured is None or found.built is None or not (measured.passed or measured.ceilings):
        raise illegal("its gates have not passed")
    elif entry.candidate != found.built.digest:
        raise illegal("another candidate than the one measured")
    elif found.asked:
        raise illegal("people have answered this already")


def released(order: Order, found: Open, stage: str, entry: Screened | Decided, illegal: Illegal) -> Open:
    """A held proposal that people have let go on."""
    if found.hold is None or found.hold.stage != stage:
        raise illegal(f"proposal {entry.number} is not held at this stage")
    why = found.hold.why_not(terms_of(order).agree, entry.time, order.incumbent.digest)
    if why is not None:
        raise illegal(f"people have not let it go on: {why}")
    names = tuple(name for name, _ in found.hold.approvals)
    return replace(found, hold=None, asked=stage == "decide", approvals=(*found.approvals, *names))
