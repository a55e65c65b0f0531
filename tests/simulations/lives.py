"""Whole lives of a vault, many at once: the real ledger, and the sequential test on counts of wins, ties and losses.

A test of three-valued scores depends on counts alone, so nothing else is drawn: `many_tests` runs one test in each of
many lives side by side, with the bets, looks and rule of hopelessness of `harness.statistics`. That it gives the
verdict and the number of items of a SequentialTest which is fed the same items one by one is what
tests/test_simulate.py shows. Stakes come from `harness.ledger.LedgerState` itself, one for each life.

All tests of an epoch share one prefix. How many of a batch the incumbent answers rightly is therefore drawn once for
the epoch: a candidate can lose only there, and win only on the others. Half of the items are answered rightly,
however far a life has come, so that the law of wins and losses stays the same: drift is a sum, and may pass 100 points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.gates import GateSpec
from harness.ledger import LedgerState
from harness.power import looks

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

BATCH = 50
DISCORDANCE = 0.1
RIGHT = 0.5
"""The share of items that whoever is compared with answers rightly."""
POINTS = np.array([-1.0, 0.0, 1.0])
CHUNK = 20
"""Looks drawn at a time: most tests end early, and the rest of theirs need not be drawn."""

Draw = Callable[[int, Ints, Ints, Ints], Ints]
"""`draw(gate, tests, looks, sizes)`: counts [tests, looks, 3] of losses, ties and wins, for sizes [tests, looks]."""


def law(effect: Floats, discordance: float = DISCORDANCE) -> tuple[Floats, Floats]:
    """The chances of a loss and of a win where the mean is `effect`; an effect too large for the discordance adds to it."""
    differ = np.maximum(discordance, np.abs(effect))
    return (differ - effect) / 2, (differ + effect) / 2


def counted(
    rng: np.random.Generator,
    effect: Floats,
    sizes: Ints,
    right: Ints | None = None,
    discordance: float = DISCORDANCE,
) -> Ints:
    """Counts [tests, looks, 3] where the mean is `effect` [tests] and `right` items of each look are answered rightly."""
    lose, win = (chance[:, None] for chance in law(effect, discordance))
    known = rng.binomial(sizes, RIGHT) if right is None else np.minimum(right, sizes)
    losses = rng.binomial(known, np.minimum(lose / RIGHT, 1.0))
    wins = rng.binomial(sizes - known, np.minimum(win / (1.0 - RIGHT), 1.0))
    return np.stack([losses, sizes - losses - wins, wins], axis=-1)


def many_tests(
    gates: Sequence[GateSpec], draw: Draw, alpha: Floats, cap: int, available: Ints, batch: int = BATCH
) -> tuple[Bools, Ints]:
    """Whether each test [tests] passes, and after how many items; paired gates on scores of 0 or 1 only.

    `cap` is that of gates without one of their own; all are to be whole batches. `available` [tests] bounds them.
    """
    tests = alpha.size
    goal = -np.log(alpha)
    limits = [np.minimum(cap if gate.cap is None else gate.cap, available) for gate in gates]
    passed_at = [np.zeros(tests, np.int64) for _ in gates]
    seen = [np.zeros((tests, 3), np.int64) for _ in gates]
    failed_at = np.full(tests, np.iinfo(np.int64).max)
    last = max(int(limit.max(initial=0)) for limit in limits)
    for first in range(0, math.ceil(last / batch), CHUNK):
        at = np.arange(first, first + CHUNK)
        for index, gate in enumerate(gates):
            rows = np.flatnonzero((failed_at > first * batch) & (passed_at[index] == 0))
            if rows.size == 0:
                continue
            limit = limits[index][rows][:, None]
            position = np.minimum((at + 1) * batch, limit)
            sizes = np.maximum(position - np.minimum(at * batch, limit), 0)
            counts = draw(index, rows, at, sizes).cumsum(axis=1) + seen[index][rows][:, None, :]
            seen[index][rows] = counts[:, -1]
            passes, dies = looks(gate, POINTS, counts, goal=goal[rows][:, None], left=limit - position)
            dies |= position >= limit
            ended = (passes | dies).any(axis=1)
            end = (passes | dies).argmax(axis=1)
            items, good = position[np.arange(rows.size), end], passes[np.arange(rows.size), end]
            passed_at[index][rows[ended & good]] = items[ended & good]
            bad = rows[ended & ~good]
            failed_at[bad] = np.minimum(failed_at[bad], items[ended & ~good])
    passed = np.all([found > 0 for found in passed_at], axis=0) & (failed_at == np.iinfo(np.int64).max)
    return passed, np.where(passed, np.max(passed_at, axis=0), failed_at)


@dataclass(frozen=True)
class Lives:
    """What became of many lives under one rule; arrays are [lives, proposals] or [lives].

    `promoted`; `scored`, the items that each decision used (0: no test); `used`, items of the vault, or fresh ones, in
    all; `wrong`, promotions that a gate should have stopped; `drift`, in points, of the score that the world is about.
    """

    promoted: Bools
    scored: Ints
    used: Ints
    wrong: Bools
    drift: Floats


Means = Callable[[int, Floats], Floats]
"""`means(proposal, drift)`: the true mean of x for each gate, [lives, gates], given the drift so far in score units."""


def lead(
    rng: np.random.Generator,
    gates: Sequence[GateSpec],
    effects: Floats,
    *,
    vault: int,
    cap: int,
    means: Means | None = None,
    delta: float = 0.05,
    minimum: int = 200,
    unsafe_alpha: float | None = None,
) -> Lives:
    """Let every life [lives, proposals] of effects run under the gates, on a vault of so many items.

    With fewer than `minimum` items left no test begins, as in a run.
    `means` gives the truth for each gate; without it every gate is about the effect itself. `unsafe_alpha` replaces
    every stake of the ledger: what gates do without one.
    """
    lives, proposals = effects.shape
    widest = max(cap, *(gate.cap or cap for gate in gates))
    batches = math.ceil(widest / BATCH)
    ledgers = [LedgerState(delta=delta, size=vault, minimum=minimum) for _ in range(lives)]
    right = rng.binomial(BATCH, RIGHT, (len(gates), lives, batches))
    drift = np.zeros(lives)
    promoted = np.zeros((lives, proposals), np.bool_)
    wrong, scored = promoted.copy(), np.zeros((lives, proposals), np.int64)
    for number in range(proposals):
        truth = np.tile(effects[:, [number]], len(gates)) if means is None else means(number, drift)
        rows = np.array([row for row, ledger in enumerate(ledgers) if not ledger.exhausted], np.int64)
        if rows.size == 0:
            break
        stakes = []
        for row in rows:
            ledgers[row], stake = ledgers[row].stake(str(number), widest)
            stakes.append(stake)

        def draw(index: int, tests: Ints, at: Ints, sizes: Ints, rows: Ints = rows, truth: Floats = truth) -> Ints:
            known = right[index, rows[tests][:, None], np.minimum(at, batches - 1)]
            return counted(rng, truth[rows[tests], index], sizes, known)

        alphas = np.array([stake.alpha if unsafe_alpha is None else unsafe_alpha for stake in stakes])
        items = np.array([stake.items for stake in stakes], np.int64)
        passed, used = many_tests(gates, draw, alphas, cap, items)
        for row, good, count in zip(rows, passed, used, strict=True):
            ledger = ledgers[row]
            close = ledger.promote if good else ledger.reject
            ledgers[row] = close(str(number), int(count))
        winners = rows[passed]
        scored[rows, number] = used
        promoted[winners, number] = True
        wrong[winners, number] = (truth[winners] <= np.array([gate.theta for gate in gates])).any(axis=1)
        drift[winners] += effects[winners, number]
        right[:, winners] = rng.binomial(BATCH, RIGHT, (len(gates), winners.size, batches))
    burned = np.array([ledger.offset + ledger.high_water for ledger in ledgers], np.int64)
    return Lives(promoted, scored, burned, wrong, 100.0 * drift)
