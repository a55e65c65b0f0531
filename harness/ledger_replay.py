"""The ledger of a run's own vault, derived again from its log: what was staked, spent and burned, and what is left."""

from __future__ import annotations

import math

from harness.artifacts import BlobStore
from harness.entries import Entry, Genesis, GuardChanged, GuardProposed, Measured, Staked
from harness.errors import AuditError
from harness.fresh_ledger import FreshState, charge
from harness.kinds import kind_of
from harness.ledger import LedgerState
from harness.records import Decision
from harness.state import RunState
from harness.views import items_used, log_evidence


def replay_ledger(entries: list[Entry], state: RunState, blobs: BlobStore) -> tuple[LedgerState, int]:
    """Where the ledger stands after these entries, and how many stakes there were.

    AuditError where a stake in the log is not what the rule gives, or where the vault is not the run's own.
    """
    genesis = entries[0]
    if not isinstance(genesis, Genesis) or genesis.vault_named:
        raise AuditError("the ledger of a named vault does not follow from the log of one run", where="entry 0")
    ledger = genesis.config.ledger
    kind = FreshState if ledger.items == "fresh" else LedgerState
    fold = kind(delta=ledger.delta, size=genesis.vault_items, minimum=genesis.vault_minimum)
    used: dict[int, int] = {}
    evidence: dict[int, list[float]] = {}
    items, stakes = genesis.vault_items, 0
    for index, entry in enumerate(entries):
        if isinstance(entry, Staked):
            fold, stake = fold.stake(str(entry.number), entry.cap)
            stakes += 1
            # Not to the last bit: powers differ between maths libraries by an ulp.
            same = math.isclose(stake.alpha, entry.alpha, rel_tol=1e-12)
            if not same or (stake.test, stake.offset) != (entry.test, entry.offset):
                raise AuditError(
                    f"the ledger gives alpha {stake.alpha!r}, the log says {entry.alpha!r}", where=f"entry {index}"
                )
        elif isinstance(entry, Measured):
            used[entry.number] = items_used(state.proposals[entry.number], blobs) or 0
            if isinstance(fold, FreshState):
                evidence[entry.number] = log_evidence(state.proposals[entry.number], blobs)
                _check_charged(fold, entry, evidence[entry.number], f"entry {index}")
        elif isinstance(entry, GuardProposed):
            items = entry.vault_items  # of the last one before a change is made
        elif isinstance(entry, GuardChanged):
            fold = fold.end_epoch(size=items)
        else:
            fold = _after(fold, entry, used, evidence)
    return fold, stakes


def _check_charged(fold: FreshState, entry: Measured, evidence: list[float], where: str) -> None:
    """What the log says that a test costs follows from its evidence."""
    stake = fold.pending
    if stake is None or entry.charged is None:
        raise AuditError("measured without a stake, or at no cost that is said", where=where)
    costs = charge(stake.alpha, evidence)
    if not math.isclose(costs, entry.charged, rel_tol=1e-9, abs_tol=1e-12 * stake.alpha):
        raise AuditError(f"its evidence costs {costs!r}, the log says {entry.charged!r}", where=where)


def _after(fold: LedgerState, entry: Entry, used: dict[int, int], evidence: dict[int, list[float]]) -> LedgerState:
    kind, body = kind_of(entry), entry
    number = getattr(body, "number", None)
    pending = fold.pending
    if kind == "rolled-back":
        log_es = evidence.get(int(pending.key), []) if pending else []
        if pending and log_es and isinstance(fold, FreshState):
            return fold.reject(pending.key, used[int(pending.key)], log_es).end_epoch()
        return (fold.abandon(pending.key) if pending else fold).end_epoch()
    if pending is None or pending.key != str(number):
        return fold
    items, log_es = used.get(int(pending.key), pending.items), evidence.get(int(pending.key), [])
    decision: Decision | None = getattr(body, "decision", None)
    rejected = kind == "voided" or (decision is not None and decision.verdict == "reject")
    if isinstance(fold, FreshState):
        if kind == "promoted":
            return fold.promote(pending.key, items, log_es)
        return fold.reject(pending.key, items, log_es) if rejected else fold
    if kind == "promoted":
        return fold.promote(pending.key, items)
    return fold.reject(pending.key, items) if rejected else fold
