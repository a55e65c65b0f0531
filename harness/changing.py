"""Which entries may stand about a change of the guard: proposed, answered, made or rejected (audits/FORMAT.md §7.18).

A part of `legality`, as `asking` is. A change is made between proposals, so that each is judged by one guard from its
first stage to its last. It does no I/O and reads no clock. It does not say whether a guard is as strict: the entry
does, where its own terms do not show otherwise, and `audit replay` derives it again. What people said of one change is
good for no other, for no body is proposed twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from harness.asking import check_approvers
from harness.entries import Entry, Genesis, GuardChanged, Guarding, GuardProposed, GuardRejected
from harness.holds import Hold, expired
from harness.order import Change, Illegal, Order, Terms, next_epoch, terms_of

AS_STRICT: Final = "at-least-as-strict"


def guards(entries: Iterable[Entry]) -> Iterator[tuple[int, Guarding, GuardChanged | None]]:
    """Each guard that was in force: the index of the entry that put it there, and what changed to it, if anything."""
    proposed: dict[str, GuardProposed] = {}
    for index, entry in enumerate(entries):
        if isinstance(entry, Genesis):
            yield index, entry, None
        elif isinstance(entry, GuardProposed):
            proposed[entry.digest] = entry
        elif isinstance(entry, GuardChanged):
            yield index, proposed[entry.hold], entry


def change(order: Order, entry: GuardProposed | GuardRejected | GuardChanged, illegal: Illegal) -> dict[str, Any]:
    """Another guard is proposed, comes to nothing, or is in force."""
    if isinstance(entry, GuardProposed):
        opened = _proposed(order, entry, illegal)
        return {"change": opened, "guards": (*order.guards, opened.hold.digest)}
    found = order.change
    if found is None or entry.hold != found.hold.digest:
        raise illegal("no such change of the guard is open")
    if isinstance(entry, GuardRejected):
        if not entry.reason:
            raise illegal("a rejection without a reason")
        return {"change": None}
    if (entry.guard, entry.policies) != (found.terms.guard, found.terms.policies):
        raise illegal("another guard or policies than those proposed")
    why = why_not(order, found, entry.time)
    if why is not None:
        raise illegal(why)
    if tuple(entry.approvals) != tuple(name for name, _ in found.hold.approvals):
        raise illegal("other approvals than those given")
    if not entry.development.keys() <= {made.digest for made in order.versions.values()}:
        raise illegal("development metrics of what was never live")
    return {"terms": found.terms, "change": None, **next_epoch(order)}


def why_not(order: Order, found: Change, time: str) -> str | None:
    """Why a proposed guard may not be put in force at `time`; None where it may."""
    terms = terms_of(order)
    if order.open:
        waiting = ", ".join(map(str, sorted(order.open)))
        return f"proposals have not come to their end: {waiting}"
    if order.unwatched:
        return "a promotion waits for its smoke test"
    if not found.free and not terms.agree:
        return "it is not at least as strict, and the run has no approvers"
    return found.hold.why_not(0 if found.free else terms.agree, time, terms.guard)


def _proposed(order: Order, entry: GuardProposed, illegal: Illegal) -> Change:
    """What is open from here on."""
    terms = terms_of(order)
    if order.change is not None:
        raise illegal("another change of the guard is open")
    if (entry.origin, entry.base) != (terms.origin, terms.guard):
        raise illegal("another log or guard than this run's")
    same = entry.data == terms.data
    if same and entry.guard == entry.base:
        raise illegal("nothing that it would change")
    check_approvers(entry, illegal)
    new = terms.under(entry)
    if (new.delta, new.fresh, new.required, new.witnesses) != (
        terms.delta,
        terms.fresh,
        terms.required,
        terms.witnesses,
    ):
        raise illegal("another delta, other items of the ledger or other witnesses: they are the run's, for good")
    if entry.vault_items < terms.vault_items or same != (entry.vault_items == terms.vault_items):
        raise illegal("held-out items are only ever added")
    if expired(entry.time, entry.expires):
        raise illegal("expired at once")
    if entry.verdict == AS_STRICT and _lowered(terms, new):
        raise illegal("said to be as strict, and not so by its own terms")
    found = Hold.of(entry)
    if found.digest in order.guards:
        # or what people said of it then would be good once more, after it was refused, or undone
        raise illegal("the very body that was proposed before")
    return Change(found, entry.by, free=same and entry.verdict == AS_STRICT, terms=new)


def _lowered(old: Terms, new: Terms) -> bool:
    """Whether the terms alone show that the new guard is not as strict: the rest is the writer's word."""
    if not {*old.gates} <= {*new.gates} or new.promotions > old.promotions:
        return True
    if not new.agree:  # nobody is asked: every hold is a rejection
        return False
    listed = [sorted((each.name, each.role, each.key) for each in terms.approvers) for terms in (old, new)]
    return listed[0] != listed[1] or new.agree < old.agree
