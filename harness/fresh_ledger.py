"""The ledger of a vault whose items are made afresh for every test: what a rejected test did not need comes back.

Over the life of the vault the probability of *ever* promoting a candidate that a gate should have stopped is at most
delta. With A what is left of it, A = delta at first, and k counting the tests of the whole life:

    stake     k += 1;  alpha = A * k^-1.2 / (the sum of j^-1.2 over all j >= k);  persist before the first item is made
    close     A -= alpha * (1 - min(1, least E));  the items of the stake are burned, scored or not

The least E is that of all gates' evidence where the test stopped. A promotion has E >= 1/alpha in every gate, so it
costs nothing, and so does a test that passed and that people or rules stopped. A test of which nothing is known
(cut off, its evaluator dead) costs its whole alpha.

Why it holds: (1) Of a candidate that a gate g should stop, E of g starts at 1 and is a nonnegative supermartingale of
items that nobody has seen, whatever was learnt before, so its expectation where the test stops is at most 1. (2) A
promotion pays 1 <= alpha * E of g, and any other end gives back alpha * min(1, least E) <= alpha * E of g, so in
expectation the chance of the false promotion and what is given back are together at most alpha; of a candidate that
no gate should stop, A may only fall. (3) Hence what is A until a false promotion, and 1 from then on, is a nonnegative
supermartingale that starts at delta, so the chance that it ever is 1 is at most delta. Of the shares this asks no more
than that each is fixed before its test, and no more than A: how they fall over k is a matter of power.

Conditions, each enforced elsewhere or here: the *least* E, for which gate should have stopped it is not known; items
that no test has had before (`offset` only rises, and by all that a stake covers); a stop that does not look ahead, so
that a test of fresh items is not told to how many of them an eval will apply (`evaluator.test`); evidence that is
stopped where its gate passed, or with the test. Scores of spent items may be told to anybody: none of them returns.

Not covered: a generator whose items are not independent draws; one vault key for two vaults, whose items are then the
same. No ledger can know either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

from pydantic import model_validator

from harness.errors import StatisticsError
from harness.ledger import LedgerState, Stake

__all__ = ["FreshState", "charge", "share", "tail"]

DIRECT = 1000
"""Terms below this one are added up; what follows is the formula's."""


def tail(k: int) -> float:
    """Return the sum of j^-1.2 over all j >= k, rounded up: at most 2e-14 of it too large, and never too small.

    Terms are added up to the first N >= 1000, and from there on it is Euler's and Maclaurin's formula, up to its first
    derivative. The rest has the sign of the next term and is smaller, since all derivatives alternate in sign: so what
    is left out is negative, and within .0118 N^-4.2. The factor covers the rounding of powers and sums.
    """
    if k < 1:
        raise StatisticsError(f"tests are counted from 1, not {k}")
    n = max(k, DIRECT)
    direct = [j**-1.2 for j in range(k, n)]
    return math.fsum([*direct, 5.0 * n**-0.2, n**-1.2 / 2, n**-2.2 / 10]) * (1.0 + 2.0**-46)


def share(k: int) -> float:
    """Return which part of what is left the k-th test may stake: never more than the rule says."""
    return float(k**-1.2) / tail(k)


def charge(alpha: float, log_es: Sequence[float]) -> float:
    """Return what a test costs that ended with this log evidence in its gates, one each; none where it is not known.

    StatisticsError where evidence is no number.
    """
    if any(math.isnan(log_e) for log_e in log_es):
        raise StatisticsError("evidence that is no number gives nothing back")
    return alpha * -math.expm1(min(0.0, *log_es)) + 0.0 if log_es else alpha


class FreshState(LedgerState):
    """The ledger between two entries of the log. Begin with `FreshState(delta=..., size=...)`.

    `test` counts over the life of the ledger, and `spent` is what closed tests were charged: neither ever falls. There
    is no high-water mark and no kappa, since no two tests share an item.
    """

    @model_validator(mode="after")
    def _unshared(self) -> Self:
        if self.high_water or self.kappa != 1.0:
            raise ValueError("no two tests share items")
        return self

    @property
    def left(self) -> float:
        """What is left of delta; of an open test nothing is taken yet."""
        return self.delta - self.spent

    def rule(self, test: int) -> float:
        """What the rule gives the test of this number, now."""
        return self.left * share(test)

    def _staked(self, stake: Stake) -> Self:
        return self._with(test=stake.test, pending=stake)

    def _end(self, key: str, used: int, log_es: Sequence[float], **changes: Any) -> Self:
        stake, _ = self._close(key, used)
        return self._with(
            spent=self.spent + charge(stake.alpha, log_es), offset=self.offset + stake.items, pending=None, **changes
        )

    def reject(self, key: str, used: int, log_es: Sequence[float] = ()) -> Self:
        """Close the test `key`, not promoted, which ended with this log evidence in its gates; none: nothing is known.

        Its items are burned, and what the evidence does not pay for stays spent.
        """
        return self._end(key, used, log_es)

    def promote(
        self, key: str, used: int, log_es: Sequence[float] = (), *, keep_items: bool = False, asked: bool = False
    ) -> Self:
        """Close the test `key`, promoted: its evidence has paid for it, so nothing is spent.

        `asked`: people let it past a ceiling that it is not shown to be below; what its evidence does not pay for is
        spent, as for a rejection.
        Raises StatisticsError where no such test is open, where its evidence does not bear a promotion, and for
        `keep_items`: nothing is given back for items that come again.
        """
        stake, _ = self._close(key, used)
        if keep_items:
            raise StatisticsError("fresh items are never kept", where=key)
        if used < 1 or not log_es or (min(log_es) < -math.log(stake.alpha) and not asked):
            raise StatisticsError("the evidence does not bear a promotion", where=key)
        return self._end(key, used, log_es, epoch=self.epoch + 1)

    def end_epoch(self, *, size: int | None = None) -> Self:
        """End the epoch without a promotion; tests are counted on. See `LedgerState.end_epoch`."""
        return self._with(**{**dict(super().end_epoch(size=size)), "test": self.test})
