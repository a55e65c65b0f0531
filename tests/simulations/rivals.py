"""Other ways to decide what is kept: each on fresh items for every test, and without a vault that could run out.

    greedy      keep what scores better on n items
    per test    a one-sided z-test at alpha = .05 for each, with the items that find 2 points nine times in ten
    SGM         Wu et al., arXiv 2510.10232, as its published code has it: accept where the empirical Bernstein bound
                (Audibert, Munos and Szepesvari, TCS 2009) m - sqrt(2 v log(3/d) / n) - 3 log(3/d) / n is at least 0,
                d = delta / (t H) for the t-th of so many rounds, H their harmonic number
    LORD++      Ramdas et al., NeurIPS 2017, with the gammas of Javanmard and Montanari, Annals of Statistics 2018,
                eq. 31: it bounds the share of the promotions that are false (FDR), and not the chance of any

and the figures that go with tests of a size fixed beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from lives import DISCORDANCE, Bools, Floats, Ints, Lives, law

NORMAL = NormalDist()
GAMMA = 0.07720838
"""What makes the gammas of LORD++ sum to 1, as online FDR libraries have it."""


def fixed(rng: np.random.Generator, effects: Floats, n: int) -> tuple[Floats, Floats]:
    """Mean and variance of x over n fresh items for each proposal."""
    lose, win = law(effects)
    losses = rng.binomial(n, lose)
    wins = rng.binomial(n - losses, win / (1.0 - lose))
    mean = (wins - losses) / n
    return mean, (wins + losses) / n - mean * mean


def z_scores(mean: Floats, variance: Floats, n: int | Ints) -> Floats:
    """The mean in standard errors; nothing that differs is no evidence."""
    error = np.sqrt(variance / n)
    return np.divide(mean, error, out=np.zeros_like(mean), where=error > 0)


def greedy(rng: np.random.Generator, effects: Floats, n: int) -> Lives:
    """Keep what scores better on n items."""
    return _lives(fixed(rng, effects, n)[0] > 0.0, effects, n)


def per_test(rng: np.random.Generator, effects: Floats, n: int, alpha: float) -> Lives:
    """A z-test at alpha for each."""
    return _lives(z_scores(*fixed(rng, effects, n), n) >= -NORMAL.inv_cdf(alpha), effects, n)


def bernstein(mean: Floats, variance: Floats, n: int, delta: Floats) -> Floats:
    """SGM's lower bound of a mean of values in [-1, 1]; its range R is 1."""
    log = np.log(3.0 / np.maximum(delta, 1e-12))
    return mean - np.sqrt(2.0 * variance * log / n) - 3.0 * log / n


def sgm(rng: np.random.Generator, effects: Floats, n: int, delta: float) -> Lives:
    """SGM's rule, with its spending over the known number of rounds."""
    rounds = np.arange(1, effects.shape[1] + 1)
    spending = delta / (rounds * (1.0 / rounds).sum())
    return _lives(bernstein(*fixed(rng, effects, n), n, spending) >= 0.0, effects, n)


def lord_gammas(count: int) -> Floats:
    """The first gammas of LORD++."""
    j = np.arange(1, count + 1)
    gammas: Floats = GAMMA * np.log(np.maximum(j, 2)) / (j * np.exp(np.sqrt(np.log(j))))
    return gammas


class Lord:
    """LORD++ in many lives at once: read `levels`, then `tell` which were rejections of the null (discoveries)."""

    def __init__(self, lives: int, proposals: int, alpha: float, wealth: float | None = None) -> None:
        """Begin with a wealth of alpha/10, if not said otherwise."""
        self.alpha, self.wealth = alpha, alpha / 10 if wealth is None else wealth
        self._gammas = lord_gammas(proposals)
        self._plan = np.tile(self.wealth * self._gammas, (lives, 1))
        self._found = np.zeros(lives, np.bool_)
        self._at = 0

    @property
    def levels(self) -> Floats:
        """The level of the next test in each life."""
        return self._plan[:, self._at]

    def tell(self, discovered: Bools) -> None:
        """Pay for discoveries: alpha - wealth for the first of a life, alpha for each later one."""
        self._at += 1
        left = self._gammas[: self._plan.shape[1] - self._at]
        pay = np.where(self._found, self.alpha, self.alpha - self.wealth)[discovered]
        self._plan[discovered, self._at :] += pay[:, None] * left
        self._found |= discovered


def lord(rng: np.random.Generator, effects: Floats, n: int, alpha: float) -> Lives:
    """LORD++ over z-tests on n items each."""
    z = z_scores(*fixed(rng, effects, n), n)
    rule = Lord(*effects.shape, alpha)
    kept = np.zeros(effects.shape, np.bool_)
    for number in range(effects.shape[1]):
        kept[:, number] = z[:, number] >= [-NORMAL.inv_cdf(level) for level in rule.levels]
        rule.tell(kept[:, number])
    return _lives(kept, effects, n)


def _lives(kept: Bools, effects: Floats, n: int) -> Lives:
    scored = np.full(effects.shape, n)
    return Lives(kept, scored, scored.sum(axis=1), kept & (effects <= 0.0), 100.0 * (effects * kept).sum(axis=1))


def oracle_items(effect: float, alpha: float, power: float, discordance: float = DISCORDANCE) -> int:
    """Items of a one-sided z-test of size fixed beforehand by somebody who knows the effect and the variance."""
    null, true = math.sqrt(discordance), math.sqrt(discordance - effect * effect)
    spread = -NORMAL.inv_cdf(alpha) * null + NORMAL.inv_cdf(power) * true
    return math.ceil((spread / effect) ** 2)


def hoeffding_items(effect: float, alpha: float) -> int:
    """Items after which Hoeffding's bound excludes no gain where the mean seen is just the effect: power one half."""
    return math.ceil(2.0 * math.log(1.0 / alpha) / effect**2)


def clopper_pearson(hits: int, times: int, error: float = 0.05) -> tuple[float, float]:
    """The exact interval of a probability (Clopper and Pearson, Biometrika 1934), by bisection on the binomial's tails."""

    def tail(first: int, last: int, p: float) -> float:
        logs = [
            math.lgamma(times + 1) - math.lgamma(k + 1) - math.lgamma(times - k + 1)
            + k * math.log(p) + (times - k) * math.log1p(-p)
            for k in range(first, last + 1)
        ]  # fmt: skip
        return math.fsum(math.exp(log) for log in logs)

    low = 0.0 if hits == 0 else _crossing(lambda p: tail(hits, times, p) >= error / 2)
    high = 1.0 if hits == times else _crossing(lambda p: tail(0, hits, p) <= error / 2)
    return low, high


def _crossing(above: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) else (middle, high)
    return (low + high) / 2
