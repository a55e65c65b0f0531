"""The few numbers of a run's past that policies may read, kept by the fold.

Time is that of the log's entries, so a replay finds the same. It does not cover budgets (`rules`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from harness.entries import Entry, Promoted, RolledBack
from harness.policy_document import NEVER

HOUR = 3600.0


@dataclass(frozen=True)
class History:
    """What happened to the live model, and when, in seconds since 1970."""

    promotions: int = 0
    promoted: tuple[float, ...] = ()
    """When the latest promotion was, and those of the hour before it."""
    rollbacks: int = 0
    rolled_back: float | None = None

    def after(self, entry: Entry) -> History:
        """What it is after an entry."""
        if isinstance(entry, Promoted):
            at = instant(entry.time)
            recent = tuple(time for time in self.promoted if at - time < HOUR)
            return replace(self, promotions=self.promotions + 1, promoted=(*recent, at))
        if isinstance(entry, RolledBack):
            return replace(self, rollbacks=self.rollbacks + 1, rolled_back=instant(entry.time))
        return self

    def facts(self, now: float) -> dict[str, Any]:
        """What rules read of it at a time; a clock that was set back makes what is past recent."""
        return {
            "promotions": self.promotions,
            "promotions_last_hour": sum(now - time < HOUR for time in self.promoted),
            "seconds_since_promotion": _since(self.promoted[-1] if self.promoted else None, now),
            "rollbacks": self.rollbacks,
            "seconds_since_rollback": _since(self.rolled_back, now),
        }


def instant(time: str) -> float:
    """An entry's time in seconds since 1970; 0 where it has none."""
    try:
        parsed = datetime.fromisoformat(time)
    except ValueError:
        return 0.0
    # one without a zone must not mean another instant on another machine
    return max(0.0, (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())


def _since(time: float | None, now: float) -> float:
    return NEVER if time is None else min(NEVER, max(0.0, now - time))
