"""The ledger of a vault: how much error probability each test on its held-out items may spend.

Over the life of the vault, in all its runs together, the probability of *ever* promoting a candidate that a gate
should have stopped is at most delta. With gamma(k) = k^-1.2 / 5.5916, whose sum over all k is at most 1:

    stake     test += 1;  alpha = delta * gamma(epoch) * gamma(test) * kappa;  persist before the first item is scored
    reject    nothing is given back, and nothing is revealed
    promote   the prefix is burned up to the last item that any test of the epoch scored;
              epoch += 1, test = 0, kappa = 1

Within an epoch all tests share one prefix of the vault's secret order. That is valid because a proposer learns one
bit for each test: along the path on which all are rejected, later candidates carry no information about the items, so
a union bound over that path holds (Blum and Hardt, ICML 2015, give the argument for leaderboards). A promotion reveals
more, and so retires what was used. Where items are kept all the same, the bound is over all nodes of the tree of
decisions, and kappa carries the share of the branch taken (Kraft's inequality).

The state is a fold over the log: frozen, its transitions pure. A stake has a key (the run's origin and the proposal's
number), and asking again with the key of the open stake gives that stake, so a test that a crash interrupted goes on
with its own: no refund, no second spending. A state that cannot be raises, as does an illegal order.

Items made afresh for every test have a rule of their own, in `fresh_ledger`. Not covered: people who relay scores.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from harness.errors import StatisticsError
from harness.records import Record

__all__ = ["GAMMA_TOTAL", "LedgerState", "Stake", "gamma"]

GAMMA_TOTAL = 5.5916
"""At least zeta(1.2) = 5.59158..., so that the gammas sum to no more than 1."""

Count = Annotated[int, Field(ge=0)]


def gamma(k: int) -> float:
    """Return the share of the k-th of infinitely many, k >= 1."""
    if k < 1:
        raise StatisticsError(f"shares are counted from 1, not {k}")
    return float(k**-1.2) / GAMMA_TOTAL


class Stake(Record):
    """What one test may spend (`alpha`) and score: `items` of the vault's secret order from `offset` on."""

    key: str = Field(min_length=1, max_length=256)
    epoch: int = Field(ge=1)
    test: int = Field(ge=1)
    alpha: float = Field(gt=0.0, lt=1.0)
    offset: Count
    items: int = Field(ge=1)


class LedgerState(Record):
    """The ledger between two entries of the log. Begin with `LedgerState(delta=..., size=...)`.

    `size`: items in the vault. `minimum`: with fewer left, no test is begun. `offset`: items burned, for good.
    `high_water`: items after `offset` that tests of this epoch scored. `spent`: the sum of all stakes so far.
    """

    delta: float = Field(gt=0.0, lt=1.0)
    size: Count
    minimum: int = Field(default=1, ge=1)
    epoch: int = Field(default=1, ge=1)
    test: Count = 0
    kappa: float = Field(default=1.0, gt=0.0, le=1.0)
    offset: Count = 0
    high_water: Count = 0
    spent: float = Field(default=0.0, ge=0.0)
    pending: Stake | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.offset + self.high_water > self.size:
            raise ValueError("more items used than the vault holds")
        if self.spent > self.delta:
            raise ValueError("more spent than delta")
        stake = self.pending
        if stake is not None:
            here = (self.epoch, self.test, self.offset)
            if (stake.epoch, stake.test, stake.offset) != here or stake.items > self.remaining:
                raise ValueError("the open stake is not of this epoch and test")
            if not math.isclose(stake.alpha, self.rule(self.test), rel_tol=1e-12):
                raise ValueError("the open stake is not what the rule gives")
        return self

    def _with(self, **changes: Any) -> Self:
        return type(self)(**{**dict(self), **changes})  # model_copy would not validate

    def rule(self, test: int) -> float:
        """What the rule gives the test of this number, now."""
        return self.delta * gamma(self.epoch) * gamma(test) * self.kappa

    @property
    def remaining(self) -> int:
        """Items that are not burned."""
        return self.size - self.offset

    @property
    def exhausted(self) -> bool:
        """Whether too few items are left to begin a test."""
        return self.remaining < self.minimum

    def stake(self, key: str, cap: int) -> tuple[Self, Stake]:
        """Stake for the test `key`, which may score up to `cap` items. Persist the state before scoring the first.

        With the key of the open stake, that stake comes back and nothing changes. Raises StatisticsError when another
        is open, when the vault is exhausted, and for a cap below 1.
        """
        if self.pending is not None:
            if self.pending.key == key:
                return self, self.pending
            raise StatisticsError(
                f"the test {self.pending.key} is open", where=key, remedy="finish it first, or abandon it"
            )
        if self.exhausted:
            raise StatisticsError(
                f"the vault is exhausted: {self.remaining} items left, {self.minimum} needed",
                where=key,
                remedy="add held-out items, which begins an epoch",
            )
        if cap < 1:
            raise StatisticsError(f"a test of {cap} items cannot pass", where=key)
        # Only the counter decides the stake: no outcome, score or count of an earlier test enters.
        test = self.test + 1
        stake = Stake(
            key=key,
            epoch=self.epoch,
            test=test,
            alpha=self.rule(test),
            offset=self.offset,
            items=min(cap, self.remaining),
        )
        return self._staked(stake), stake

    def _staked(self, stake: Stake) -> Self:
        return self._with(test=stake.test, spent=self.spent + stake.alpha, pending=stake)

    def _close(self, key: str, used: int) -> tuple[Stake, int]:
        stake = self.pending
        if stake is None or stake.key != key:
            raise StatisticsError("no such test is open", where=key)
        if not 0 <= used <= stake.items:
            raise StatisticsError(f"{used} items scored of {stake.items} staked for", where=key)
        return stake, max(self.high_water, used)

    def reject(self, key: str, used: int) -> Self:
        """Close the test `key`, not promoted, after scoring `used` items. The stake stays spent."""
        _, high = self._close(key, used)
        return self._with(high_water=high, pending=None)

    def abandon(self, key: str) -> Self:
        """Close the test `key`, of which it is not known how much was scored: all that it might have counts as used."""
        stake = self.pending
        return self.reject(key, stake.items if stake is not None else 0)

    def promote(self, key: str, used: int, *, keep_items: bool = False) -> Self:
        """Close the test `key`, promoted, and begin the next epoch on items that no test has seen.

        With `keep_items` the prefix is not burned, and all later stakes are the smaller for it.
        Raises StatisticsError where no such test is open, or it scored nothing.
        """
        stake, high = self._close(key, used)
        if used < 1:
            raise StatisticsError("nothing was scored: that promotes nothing", where=key)
        if keep_items:
            kappa = self.kappa * gamma(stake.test)
            return self._with(epoch=self.epoch + 1, test=0, kappa=kappa, high_water=high, pending=None)
        return self._with(
            epoch=self.epoch + 1, test=0, kappa=1.0, offset=self.offset + high, high_water=0, pending=None
        )

    def end_epoch(self, *, size: int | None = None) -> Self:
        """End the epoch without a promotion (a rollback, a changed guard, new items), burning what was scored.

        `size`: how many items the vault holds now, at the end of the order; never fewer than before.
        Raises StatisticsError while a test is open.
        """
        if self.pending is not None:
            raise StatisticsError(f"the test {self.pending.key} is open", remedy="close it before the epoch")
        if size is not None and size < self.size:
            raise StatisticsError(f"a vault of {self.size} items cannot shrink to {size}")
        return self._with(
            epoch=self.epoch + 1,
            test=0,
            kappa=1.0,
            offset=self.offset + self.high_water,
            high_water=0,
            size=self.size if size is None else size,
        )
