"""Is a candidate slower than the incumbent? A ratio from runs by turns, with an interval that assumes no distribution.

The same job is run by both in pairs, and each pair gives a ratio of wall times: what slows the machine down slows both
runs of a pair. The interval is that of the sign test (order statistics: Conover, *Practical Nonparametric Statistics*,
§3.2): with n independent ratios of one median, the j-th lowest lies above that median with probability P(B < j), B
binomial(n, 1/2), and the j-th highest below it with the same. So it is exact, holds for n as small as six, and with
fewer there is none at 95 %: then nothing is known, which no rule of the form `latency.upper <= x` passes.

It speaks of the jobs that were run on this machine, with the start of the model in them, and so of a small model's
start more than of its answers. It does not cover a candidate that is slow on other rows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from harness.errors import StatisticsError
from harness.records import Record

MISS = 20
"""One interval in so many may miss the median: 95 %."""
FEWEST = 6
"""With fewer pairs there is no such interval."""
MOST = 64
UNKNOWN = 1e9
"""What stands for a ratio, or a number of megabytes, that nobody has measured: more than any rule allows."""


class Latency(Record):
    """Ratios of candidate to incumbent: the median, and bounds of it; 0 to `UNKNOWN` where too few were taken."""

    pairs: int
    ratio: float
    lower: float
    upper: float


UNMEASURED = Latency(pairs=0, ratio=UNKNOWN, lower=0.0, upper=UNKNOWN)


def latency(seconds: Sequence[float], incumbent: Sequence[float]) -> Latency:
    """The ratio of times that were taken in pairs. StatisticsError for times that are none, or that are no pairs."""
    if len(seconds) != len(incumbent):
        raise StatisticsError(f"{len(seconds)} times of the candidate for {len(incumbent)} of the incumbent")
    if not all(math.isfinite(each) and each > 0 for each in (*seconds, *incumbent)):
        raise StatisticsError("a time is a number of seconds above 0")
    if not seconds:
        return UNMEASURED
    ratios = sorted(min(one / other, UNKNOWN) for one, other in zip(seconds, incumbent, strict=True))
    count, rank = len(ratios), _rank(len(ratios))
    return Latency(
        pairs=count,
        ratio=statistics.median(ratios),
        lower=ratios[rank - 1] if rank else 0.0,
        upper=ratios[count - rank] if rank else UNKNOWN,
    )


def _rank(count: int) -> int:
    """How many of the lowest and of the highest ratios the interval leaves out, plus one; 0 where there is none."""
    rank, tail = 0, 1  # tail: 2^count P(B <= rank)
    while MISS * 2 * tail <= 2**count:
        rank += 1
        tail += math.comb(count, rank)
    return rank
