"""The ledger of a run's own vault, derived again from its log: what was staked, spent and burned, and what is left."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal

from harness.artifacts import BlobStore
from harness.entries import Entry, Genesis, GuardChanged, GuardProposed, Measured, Staked
from harness.errors import AuditError
from harness.fresh_ledger import FreshState, charge
from harness.kinds import kind_of
from harness.ledger import LedgerState
from harness.records import Decision
from harness.state import RunState
from harness.views import items_used, log_evidence

Ending = Literal["promoted", "rolled-back", "guard-changed"]


@dataclass(frozen=True)
class Epoch:
    """An epoch that has ended: its tests, the items that its end retired, and what ended it."""

    epoch: int
    tests: int
    retired: int
    ended: Ending


@dataclass(frozen=True)
class LedgerHistory:
    """Where the ledger stands, how many stakes there were, and the epochs that have ended."""

    ledger: LedgerState
    stakes: int
    epochs: list[Epoch]

    def lasts(self, items: int, cap: int) -> dict[str, int | None]:
        """How many promotions a vault of `items` may last for, its sizes before included, were the epoch ended now.

        `at_least`: were every promotion to retire all that a test may score, `cap`; `likely`: were each to retire what
        those of this run did in the median, `median`. The last two are None where nothing was promoted.
        """
        left = items - self.ledger.offset - self.ledger.high_water
        retired = [each.retired for each in self.epochs if each.ended == "promoted"]
        median = round(statistics.median(retired)) if retired else None
        likely = None if median is None else left // median
        return {"left": left, "at_least": left // cap, "likely": likely, "median": median}


def replay_ledger(entries: list[Entry], state: RunState, blobs: BlobStore) -> LedgerHistory:
    """The ledger after these entries, derived from them.

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
    asked: set[str] = set()
    items, stakes = genesis.vault_items, 0
    epochs: list[Epoch] = []
    for index, entry in enumerate(entries):
        before = fold
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
            if not entry.passed:
                asked.add(str(entry.number))  # what goes live nonetheless, people let past a ceiling
            if isinstance(fold, FreshState):
                evidence[entry.number] = log_evidence(state.proposals[entry.number], blobs)
                _check_charged(fold, entry, evidence[entry.number], f"entry {index}")
        elif isinstance(entry, GuardProposed):
            items = entry.vault_items  # of the last one before a change is made
        elif isinstance(entry, GuardChanged):
            fold = fold.end_epoch(size=items)
        else:
            fold = _after(fold, entry, used, evidence, asked)
        if fold.epoch > before.epoch and not isinstance(fold, FreshState):
            epochs.append(Epoch(before.epoch, before.test, fold.offset - before.offset, _ending(entry)))
    return LedgerHistory(fold, stakes, epochs)


def _ending(entry: Entry) -> Ending:
    if isinstance(entry, GuardChanged):
        return "guard-changed"
    return "promoted" if kind_of(entry) == "promoted" else "rolled-back"


def _check_charged(fold: FreshState, entry: Measured, evidence: list[float], where: str) -> None:
    """What the log says that a test costs follows from its evidence."""
    stake = fold.pending
    if stake is None or entry.charged is None:
        raise AuditError("measured without a stake, or at no cost that is said", where=where)
    costs = charge(stake.alpha, evidence)
    if not math.isclose(costs, entry.charged, rel_tol=1e-9, abs_tol=1e-12 * stake.alpha):
        raise AuditError(f"its evidence costs {costs!r}, the log says {entry.charged!r}", where=where)


def _after(
    fold: LedgerState, entry: Entry, used: dict[int, int], evidence: dict[int, list[float]], asked: set[str]
) -> LedgerState:
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
            return fold.promote(pending.key, items, log_es, asked=pending.key in asked)
        return fold.reject(pending.key, items, log_es) if rejected else fold
    if kind == "promoted":
        return fold.promote(pending.key, items)
    return fold.reject(pending.key, items) if rejected else fold
