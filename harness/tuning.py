"""Which entries may stand about a proposer's settings: tried, adopted or dropped, and rolled back (FORMAT §7.19).

A part of `legality`, as `asking` and `changing` are. It does no I/O and reads no clock. That a verdict follows from the
pairs is for a replay to find, as with gates.
"""

from __future__ import annotations

from typing import Any

from harness.entries import ProposedEntry
from harness.improver_entries import ImproverBegun, ImproverEnded, ImproverRolledBack
from harness.order import Illegal, Order, Trial, free


def check_arm(order: Order, entry: ProposedEntry, illegal: Illegal) -> None:
    """A slot is of a pair only while its proposer is on trial."""
    if entry.arm is not None and (order.trial is None or order.trial.proposer != entry.proposer):
        raise illegal(f"a slot of a pair, and no trial of {entry.proposer}'s settings is open")


def tune(order: Order, entry: ImproverBegun | ImproverEnded | ImproverRolledBack, illegal: Illegal) -> dict[str, Any]:
    """A trial begins or ends, or earlier settings come back."""
    trial = order.trial
    match entry:
        case ImproverBegun():
            found = free(order, entry.number, illegal)
            if found.screened != "pass" or found.built is not None:
                raise illegal(f"proposal {entry.number} did not pass the screen, or is built")
            if trial is not None:
                raise illegal(f"a trial of {trial.proposer}'s settings is open: there is one at a time")
            return {"open": order.open.without(entry.number), "trial": Trial(entry.number, entry.proposer)}
        case ImproverEnded():
            if trial is None or trial.number != entry.number:
                raise illegal(f"no trial of proposal {entry.number} is open")
            if entry.verdict == "dropped":
                if entry.version is not None:
                    raise illegal("what was dropped is no version")
                return {"trial": None}
            if entry.version != len(order.tuned) + 1 or not entry.pairs:
                raise illegal(f"expected version {len(order.tuned) + 1}, on one pair at least")
            tuned = (*order.tuned, trial.proposer)
            return {"trial": None, "tuned": tuned, "tuning": {**order.tuning, trial.proposer: entry.version}}
        case ImproverRolledBack():
            if entry.version and (entry.version > len(order.tuned) or order.tuned[entry.version - 1] != entry.proposer):
                raise illegal(f"version {entry.version} is none of {entry.proposer}'s settings")
            tried = trial is not None and trial.proposer == entry.proposer
            if not tried and entry.version == order.tuning.get(entry.proposer, 0):
                raise illegal(f"version {entry.version} is in force already")
            tuning = {name: version for name, version in order.tuning.items() if name != entry.proposer}
            if entry.version:
                tuning[entry.proposer] = entry.version
            return {"tuning": tuning, "trial": None if tried else trial}
