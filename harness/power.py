"""How likely a configuration's gates are to pass a candidate that deserves it, before any run begins.

Error control alone is easy: refuse everything. A gate whose margin is narrow against the share of items on which
neighbours differ (their discordance) nearly does that, and its run would burn its budget on good candidates. So each
gate is simulated, with a fixed seed, as it will be run: the same bets, looks and rule of hopelessness, at an alpha
that the ledger gives after a few rejections. A configuration that falls below a floor is refused, with the margin or
the cap that would do.

The candidate assumed: it gains `gain` on every eval that has an improve gate and is equal elsewhere; paired scores
differ on a share `discordance` of the items, by the whole width of the score, which is the worst case for variance.
Gates without a pair need a true mean (`levels`, in units of the score); where none is stated it is halfway between the
threshold and the better end of the score, and for rare failures a tenth of the rate.

Not covered: dependence between gates. The joint probability is the product; where the gates' scores go up and down
together the truth is higher.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harness.errors import StatisticsError
from harness.gates import Floats, GateSpec
from harness.ledger import gamma
from harness.records import Record
from harness.statistics import log_bets, log_prior, out_of_hope

__all__ = ["LADDER", "GatePower", "PowerTable", "Reach", "looks", "power", "reach", "require_power", "typical_alpha"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]

MAX_LOOKS = 400
"""More looks than this change the answer less than the simulation's own error: larger caps are looked at less often."""

LADDER = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Effects that are told where none is named."""
MOST_EFFECTS = 20

WIDER = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0)
LONGER = (2, 4, 8, 16)


class GatePower(Record):
    """One gate: the mean of x assumed, the discordance (None where not paired), and what came of it.

    `probability` of a pass; `items`, the median number of applicable items after which it is decided; `cap`, likewise.
    """

    gate: str
    theta: float
    true_mean: float
    discordance: float | None
    cap: int
    probability: Share
    items: float


class PowerTable(Record):
    """All gates at one alpha. `joint` is the product of their probabilities."""

    alpha: float
    rows: Annotated[tuple[GatePower, ...], Field(min_length=1)]
    joint: Share


class Reach(Record):
    """How many base items one gate needs where the true mean of x lies `effect` above its null.

    `median` and `ninety`: within so many items half of such tests pass, and nine in ten; None where fewer ever do.
    `probability` of a pass within `cap` base items; 0 for an effect that no score can have (`possible` is false).
    """

    gate: str
    effect: float
    true_mean: float
    discordance: float | None
    cap: int
    possible: bool
    probability: Share
    median: int | None
    ninety: int | None

    @property
    def detectable(self) -> bool:
        """Whether at least half of the tests pass."""
        return self.median is not None


def typical_alpha(delta: float, epoch: int = 1, test: int = 5, *, fresh: bool = False) -> float:
    """Return the stake of a typical test: by default the fifth of the first epoch.

    Where every test has fresh items, tests count over the life of the ledger: the twentieth, when nothing came back.
    """
    return delta * gamma(20) if fresh else delta * gamma(epoch) * gamma(test)


def power(
    gates: Sequence[GateSpec],
    *,
    alpha: float,
    cap: int,
    batch: int = 50,
    discordance: float | Mapping[str, float],
    gain: float | Mapping[str, float] = 0.05,
    levels: Mapping[str, float] | None = None,
    applies: Mapping[str, float] | None = None,
    available: int | None = None,
    replications: int = 600,
    seed: int = 0,
) -> PowerTable:
    """Simulate each gate `replications` times, at `alpha` and up to `cap` base items, looking every `batch`.

    `discordance` may be given by gate (as for an anchor, from which candidates drift) or by eval; `gain`, `levels` and
    `applies` (the share of base items to which the eval applies) by eval. A slice without a discordance or a level of
    its own has those of the whole eval. `available`, the items in the vault, bounds
    every cap. The standard error of a probability is at
    most .02. Raises StatisticsError for assumptions that no scores can fulfil.
    """
    if not gates:
        raise StatisticsError("no gate to calculate for", remedy="declare gates")
    if not 0.0 < alpha < 1.0 or cap < 1 or batch < 1 or replications < 1:
        raise StatisticsError("alpha must lie strictly between 0 and 1; cap, batch and replications must be at least 1")
    improved = {gate.eval for gate in gates if gate.kind == "improve"}
    rows = []
    for gate in gates:
        differ = discordance if isinstance(discordance, float | int) else _look_up(discordance, gate)
        better = gain if isinstance(gain, float | int) else gain.get(gate.eval, 0.0)
        _, items, step = _sizes(gate, cap, batch, available, (applies or {}).get(gate.eval, 1.0))
        points, chances = _law(gate, differ, better if gate.eval in improved else 0.0, _level(levels, gate))
        passed, ends = _simulate(
            gate, points, chances, goal=-math.log(alpha), items=items, step=step, times=replications, seed=seed
        )
        rows.append(
            GatePower(
                gate=gate.name,
                theta=gate.theta,
                true_mean=float(points @ chances) + 0.0,
                discordance=float(differ) if gate.paired else None,
                cap=items,
                probability=float(passed.mean()),
                items=float(np.median(ends)),
            )
        )
    return PowerTable(alpha=alpha, rows=tuple(rows), joint=math.prod(row.probability for row in rows))


def reach(
    gates: Sequence[GateSpec],
    effects: Sequence[float] = LADDER,
    *,
    alpha: float,
    cap: int,
    batch: int = 50,
    discordance: float | Mapping[str, float],
    applies: Mapping[str, float] | None = None,
    available: int | None = None,
    replications: int = 600,
    seed: int = 0,
) -> tuple[Reach, ...]:
    """Simulate how many base items each gate needs for each effect: how far the true mean lies above its null.

    For an improve gate that is the gain; for a parent or anchor with a margin of .05, an equal candidate has an effect
    of .05. Effects are in units of the score. Where scores differ on fewer items than an effect needs, they differ on
    just as many. The rest as in `power`. Raises StatisticsError for an effect that is not above 0, and for
    too many of them.
    """
    if not all(0.0 < effect < math.inf for effect in effects):
        raise StatisticsError("an effect is a number above 0: how far the truth lies above what a gate demands")
    if not 1 <= len(effects) <= MOST_EFFECTS:
        raise StatisticsError(f"{len(effects)} effects, where 1 to {MOST_EFFECTS} can be told")
    found = []
    for gate in gates:
        differ = discordance if isinstance(discordance, float | int) else _look_up(discordance, gate)
        share = (applies or {}).get(gate.eval, 1.0)
        base, items, step = _sizes(gate, cap, batch, available, share)
        for effect in effects:
            mean = gate.theta + effect
            least = max(float(differ), abs(mean) / gate.hi) if gate.paired else None
            within = np.full(replications, np.inf)
            if mean <= gate.hi:
                points, chances = _law_at(gate, mean, least)
                passed, ends = _simulate(
                    gate, points, chances, goal=-math.log(alpha), items=items, step=step, times=replications, seed=seed
                )
                within = np.sort(np.where(passed, np.minimum(np.ceil(ends / share), base), np.inf))
            median, ninety = (
                int(n) if np.isfinite(n := within[math.ceil(part * replications) - 1]) else None for part in (0.5, 0.9)
            )
            found.append(
                Reach(
                    gate=gate.name,
                    effect=effect,
                    true_mean=mean + 0.0,
                    discordance=least if mean <= gate.hi else None,
                    cap=base,
                    possible=mean <= gate.hi,
                    probability=float(np.isfinite(within).mean()),
                    median=median,
                    ninety=ninety,
                )
            )
    return tuple(found)


def _sizes(gate: GateSpec, cap: int, batch: int, available: int | None, share: float) -> tuple[int, int, int]:
    """Return a gate's cap in base items, in items that its eval applies to, and how many of these make a batch."""
    if not 0.0 < share <= 1.0:
        raise StatisticsError(f"an eval cannot apply to a share {share!r} of the items", where=gate.name)
    own = cap if gate.cap is None else gate.cap
    base = own if available is None else min(own, available)
    return base, max(math.floor(base * share), 1), max(round(batch * share), 1)


def _look_up(discordance: Mapping[str, float], gate: GateSpec) -> float:
    for key in (gate.name, gate.eval, _whole(gate)):
        if key in discordance:
            return discordance[key]
    if gate.paired:
        raise StatisticsError(f"no discordance is given for {gate.eval}", where=gate.name)
    return 0.0


def _level(levels: Mapping[str, float] | None, gate: GateSpec) -> float | None:
    known = levels or {}
    return known.get(gate.eval, known.get(_whole(gate)))


def _whole(gate: GateSpec) -> str:
    """The eval of which a gate's eval is a slice, or that eval itself."""
    return gate.eval.partition("[")[0]


def _law(gate: GateSpec, discordance: float, gain: float, level: float | None) -> tuple[Floats, Floats]:
    """Return the values of x and their chances: three for pairs (loss, tie, win), the ends of the score for others."""
    low, high = gate.bounds
    if gate.paired:
        tilt = gain / (high - low)
        if not abs(tilt) <= discordance <= 1.0:
            raise StatisticsError(
                f"a gain of {gain:g} does not fit a discordance of {discordance:g}",
                where=gate.name,
                remedy="whoever gains on a share of the items differs on at least that share",
            )
        return _law_at(gate, gain, discordance)
    if level is None:
        level = {
            "floor": (gate.theta + high) / 2,
            "ceiling": (low - gate.theta) / 2,
            "rare": 1.0 + gate.theta / 10,
        }[gate.kind]
    if not low <= level <= high:
        raise StatisticsError(f"a mean of {level:g} lies outside the bounds of the score", where=gate.name)
    return _law_at(gate, float(gate.observe(np.array([level]))[0]), None)


def _law_at(gate: GateSpec, mean: float, discordance: float | None) -> tuple[Floats, Floats]:
    """Return the values of x, with their chances, where its mean is this: at the ends alone, or ties on the rest."""
    if discordance is not None:
        tilt = mean / gate.hi
        chances = np.array([(discordance - tilt) / 2, 1.0 - discordance, (discordance + tilt) / 2])
        return np.array([gate.lo, 0.0, gate.hi]), np.maximum(chances, 0.0)
    upper = min(max((mean - gate.lo) / (gate.hi - gate.lo), 0.0), 1.0)
    return np.array([gate.lo, gate.hi]), np.array([1.0 - upper, upper])


def _simulate(
    gate: GateSpec, points: Floats, chances: Floats, *, goal: float, items: int, step: int, times: int, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return for each of so many tests whether it passes, and the number of items after which it is decided."""
    n, counts = _draws(gate, chances, items=items, step=step, times=times, seed=seed)
    passes, dies = looks(gate, points, counts, goal=goal, left=items - n)
    dies[:, -1] = True
    ends = (passes | dies).argmax(axis=1)
    return passes[np.arange(times), ends], n[ends]


def _draws(
    gate: GateSpec, chances: Floats, *, items: int, step: int, times: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the items at each look [looks], and how often each value was seen until then [times, looks, values]."""
    step = max(step, math.ceil(items / MAX_LOOKS))
    sizes = np.diff(np.append(np.arange(0, items, step), items))
    # Each gate has a stream of its own, so adding one leaves the others' figures alone.
    rng = np.random.Generator(np.random.PCG64([seed, *gate.name.encode()]))
    return sizes.cumsum(), rng.multinomial(sizes, chances, size=(times, sizes.size)).cumsum(axis=1)


def looks(
    gate: GateSpec, points: Floats, counts: NDArray[np.int64], *, goal: Any, left: Any
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether the gate passes, and whether it is out of hope, at each look of many tests at once.

    `counts` [tests, looks, values]: how often each value of `points` was seen up to that look. `goal`, log(1/alpha),
    and `left`, the items still to come, broadcast to [tests, looks]. A test ends at its first look of either kind, as
    a SequentialTest that is fed the same counts does; out of items is for the caller to see.
    """
    wealth = counts @ log_bets(gate, points).T + log_prior(gate)
    top = wealth.max(axis=-1)
    log_e = top + np.log(np.exp(wealth - top[..., None]).sum(axis=-1))
    n = counts.sum(axis=-1)
    mean = counts @ points / np.maximum(n, 1)
    variance = np.maximum(counts @ points**2 / np.maximum(n, 1) - mean**2, 0.0)
    passes = (n > 0) & (log_e >= goal)
    dies = out_of_hope(gate, goal, log_e=log_e, n=n, mean=mean, variance=variance, left=left)
    return passes, dies


def require_power(gates: Sequence[GateSpec], floor: float = 0.5, **assumed: Any) -> PowerTable:
    """Return `power(gates, **assumed)`, or raise StatisticsError where the joint probability is below `floor`.

    The error names the weakest gate, and as a remedy the margin or the cap at which that gate alone would reach nine
    passes in ten.
    """
    table = power(gates, **assumed)
    if table.joint >= floor:
        return table
    weakest = min(range(len(gates)), key=lambda index: table.rows[index].probability)
    row, gate = table.rows[weakest], gates[weakest]
    raise StatisticsError(
        f"a candidate that deserves it passes all gates with probability {table.joint:.2f}, below {floor:g}; "
        f"the weakest is {row.gate} with {row.probability:.2f} at alpha {table.alpha:.2g} and {row.cap} items",
        where=row.gate,
        remedy=_remedy(gates, gate, row, assumed),
    )


def _remedy(gates: Sequence[GateSpec], gate: GateSpec, row: GatePower, assumed: Mapping[str, Any]) -> str:
    def reached(changed: GateSpec, **other: Any) -> bool:
        others = [one for one in gates if one.kind == "improve" and one.name != changed.name]
        table = power([changed, *others], **{**assumed, "replications": 200, **other})
        return table.rows[0].probability >= 0.9

    ways = []
    if gate.kind in ("parent", "anchor"):
        for factor in WIDER:
            wide = -gate.theta * factor
            if wide < gate.hi and reached(gate.model_copy(update={"theta": -wide})):
                ways.append(f"widen its margin from {-gate.theta:g} to about {wide:.2g}")
                break
    base = assumed["cap"] if gate.cap is None else gate.cap
    for times in LONGER:
        if reached(gate.model_copy(update={"cap": base * times})):
            ways.append(f"raise its cap from {base} to about {base * times} items")
            break
    if gate.kind == "improve":
        ways.append(f"look for gains above {row.true_mean:g}")
    return (
        " or ".join(ways) or "choose a margin or threshold further from what a good candidate scores, or a higher cap"
    )
