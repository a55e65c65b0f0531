"""Gates, and the sequential test that a candidate must pass to be promoted.

Each gate is a null hypothesis `mean of x <= theta` about a bounded value `x` per held-out item, tested by betting:
twenty fixed fractions f of the largest admissible bet, log-spaced in [.005, .98], each multiply their wealth by
`1 + f (x - theta) / (theta - lo)` per item, and E is their average. Under the null E is a nonnegative
supermartingale that starts at 1, so by Ville's inequality it *ever* reaches 1/alpha with probability at most alpha:
looking after every batch costs nothing (Waudby-Smith and Ramdas, JRSS-B 2024; Ramdas et al., Statistical Science
2023). A candidate passes only if *every* gate passes, an intersection-union test (Berger, Technometrics 1982), so
each gate has the whole alpha, with no split.

Rules: scores are never clipped, and one that is NaN or out of its bounds raises; ties are evidence and stay in;
no item and no gate ever pass; stopping early because a gate is hopeless can only turn a pass into a rejection.

Not covered: items that are not drawn at random from the population that the claim is about, scorers that change
between items, and where alpha comes from (the ledger). Replaying a test elsewhere gives the same verdicts; the last
bits of `log_e` may differ between mathematics libraries, so compare it to about 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from harness.errors import StatisticsError
from harness.gates import Floats, GateKind, GateSpec, checked, compile_gates
from harness.records import Record

__all__ = [
    "Batch",
    "Draw",
    "EProcess",
    "GateKind",
    "GateResult",
    "GateSpec",
    "SequentialTest",
    "TestResult",
    "Verdict",
    "compile_gates",
    "log_bets",
    "out_of_hope",
    "run_test",
]

Verdict = Literal["pass", "fail", "inconclusive"]
Count = Annotated[int, Field(ge=0)]

Draw = Callable[[str, int, int], Floats]
"""`draw(gate, start, stop)`: the gate's values of `x` for base items start..stop of the prefix, where it applies."""

FRACTIONS: Floats = np.geomspace(0.005, 0.98, 20)
FRACTIONS.flags.writeable = False

TRAJECTORY_POINTS = 60
BISECTIONS = 32


def log_bets(gate: GateSpec, x: Floats, theta: float | None = None) -> Floats:
    """Return the log growth [20, n] of each bet for values x [n]; `theta` replaces the gate's where given."""
    null = gate.theta if theta is None else theta
    bets = FRACTIONS / (null - gate.lo)
    return np.log1p(bets[:, None] * (x - null))


def log_prior(gate: GateSpec) -> Floats:
    """Return the log share [20] of each bet at the start: equal, or half on the largest where failures are rare."""
    share = np.full(FRACTIONS.size, 1.0 / FRACTIONS.size)
    if gate.kind == "rare":
        # Where no failure is seen the largest bet grows fastest: nearly nothing is lost against knowing so beforehand.
        share = np.full(FRACTIONS.size, 0.5 / (FRACTIONS.size - 1))
        share[-1] = 0.5
    logs: Floats = np.log(share)
    return logs


def mixture(log_wealth: Floats) -> float:
    """Sum wealth given as logs, and give the log: stable."""
    top = float(log_wealth.max())
    return top + math.log(float(np.exp(log_wealth - top).sum()))


def out_of_hope(gate: GateSpec, threshold: float, *, log_e: Any, n: Any, mean: Any, variance: Any, left: Any) -> Any:
    """Whether a gate is not going to pass within `left` more items: `log_e + left * g < threshold`; arrays broadcast.

    g is the growth per item of the best bet if the true mean lay two standard errors above what was seen, with the
    variance floored at 2/n (in units of half the width of x, squared) so that early ties do not look certain.
    This is a heuristic about power and never about validity: it can only stop a test short of passing.
    """
    unit = (gate.hi - gate.lo) / 2
    spread = np.maximum(variance, 2.0 * unit * unit / np.maximum(n, 1))
    edge = np.maximum(mean + 2.0 * np.sqrt(spread / np.maximum(n, 1)) - gate.theta, 0.0)
    growth = edge * edge / (2.0 * (spread + edge * edge))
    return (np.asarray(n) > 0) & (log_e + left * growth < threshold)


class EProcess:
    """The evidence of one gate: `update` with values, read `log_e`. For scores of few values, their counts suffice."""

    def __init__(self, gate: GateSpec) -> None:
        """Start with a wealth of 1."""
        self.gate = gate
        self.n = 0
        self.wins = self.ties = self.losses = 0
        self._log_wealth = log_prior(gate)
        self._sum = self._squares = 0.0
        self._seen: list[Floats] = []

    def update(self, x: Floats) -> None:
        """Take values x [n]. Raises StatisticsError, and keeps nothing of them, if any is NaN or out of bounds."""
        values = checked(x, self.gate.lo, self.gate.hi, where=self.gate.name)
        if values.size == 0:
            return
        distinct, counts = np.unique(values, return_counts=True)  # sorted: the order within a batch leaves no trace
        self._log_wealth = self._log_wealth + (log_bets(self.gate, distinct) * counts).sum(axis=1)
        self.n += int(values.size)
        self._sum += float((distinct * counts).sum())
        self._squares += float(((distinct - self.gate.theta) ** 2 * counts).sum())
        middle = 0.0 if self.gate.paired else self.gate.theta
        self.wins += int(counts[distinct > middle].sum())
        self.losses += int(counts[distinct < middle].sum())
        self.ties = self.n - self.wins - self.losses
        self._seen.append(values)

    @property
    def log_e(self) -> float:
        """Log of the evidence against the null; 0 before the first item."""
        return mixture(self._log_wealth) if self.n else 0.0

    @property
    def mean(self) -> float | None:
        """The mean of x so far."""
        return self._sum / self.n + 0.0 if self.n else None

    @property
    def variance(self) -> float:
        """The variance of x so far (0 before the first item)."""
        return max(self._squares / self.n - (self._sum / self.n - self.gate.theta) ** 2, 0.0) if self.n else 0.0

    def passed(self, alpha: float) -> bool:
        """Whether the null is rejected at alpha, now."""
        return self.n > 0 and self.log_e >= _threshold(alpha)

    def hopeless(self, alpha: float, left: int) -> bool:
        """Whether `left` more applicable items are not going to make it pass."""
        state = {"log_e": self.log_e, "n": self.n, "mean": self.mean or 0.0, "variance": self.variance, "left": left}
        return bool(out_of_hope(self.gate, _threshold(alpha), **state))

    def interval(self, alpha: float) -> tuple[float, float]:
        """Bounds of the mean of x, each true with probability 1 - alpha, whenever and for whatever reason one stopped.

        The lower bound is the greatest null that the gate's own e-process rejects (so a gate passes exactly when it
        reaches theta); the upper is the same of -x. Found by bisection, rounded outwards to 2^-32 of the width.
        """
        if self.n == 0:
            return self.gate.lo, self.gate.hi
        distinct, counts = np.unique(np.concatenate(self._seen), return_counts=True)
        low, high, goal = self.gate.lo, self.gate.hi, _threshold(alpha)
        lower = _greatest_rejected(self.gate, distinct, counts, goal, self.gate.theta)
        mirror = GateSpec(eval="mirror", kind="floor", theta=-(low + high) / 2, bounds=(-high, -low))
        upper = -_greatest_rejected(mirror, -distinct, counts, goal, mirror.theta)
        return lower + 0.0, upper + 0.0


def _greatest_rejected(gate: GateSpec, distinct: Floats, counts: NDArray[np.int_], goal: float, first: float) -> float:
    """Find the greatest null that is rejected, or give the least value possible: evidence falls as the null rises."""
    prior = log_prior(gate)
    low, high, probe = gate.lo, gate.hi, first
    for _ in range(BISECTIONS):
        if not low < probe < high:
            break
        if mixture(prior + (log_bets(gate, distinct, probe) * counts).sum(axis=1)) >= goal:
            low = probe
        else:
            high = probe
        probe = (low + high) / 2
    return low


def _threshold(alpha: float) -> float:
    if not 0.0 < alpha < 1.0:
        raise StatisticsError(f"alpha must lie strictly between 0 and 1, not {alpha!r}")
    return -math.log(alpha)


class GateResult(Record):
    """What one gate ended with.

    `fail`: stopped as hopeless. `inconclusive`: out of items, or stopped because another gate failed; a ceiling ends
    in nothing else but `pass`. Neither promotes. `mean`, `theta` and `interval` are in units of x (a difference, minus
    a failure rate, minus a score); `threshold` is log(1/alpha). Wins, ties and losses are x above, at and below 0
    (paired) or theta (others: the losses of a rare gate are its failures).
    """

    name: str
    verdict: Verdict
    n: Count
    mean: float | None
    theta: float
    log_e: float
    threshold: float
    wins: Count
    ties: Count
    losses: Count
    interval: tuple[float, float]
    trajectory: Annotated[tuple[tuple[Count, float], ...], Field(max_length=TRAJECTORY_POINTS)]

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.wins + self.ties + self.losses != self.n or (self.mean is None) != (self.n == 0):
            raise ValueError("counts that do not add up")
        if (self.verdict == "pass") != (self.n > 0 and self.log_e >= self.threshold):
            raise ValueError("the verdict is not what the evidence says")
        return self


class TestResult(Record):
    """What a candidate's test on held-out items ended with. `passed` is the one bit that a proposer may learn."""

    __test__: ClassVar[bool] = False  # no test class, whatever pytest makes of its name

    gates: Annotated[tuple[GateResult, ...], Field(min_length=1)]
    items: Count
    alpha: float = Field(gt=0.0, lt=1.0)
    passed: bool
    held: bool

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.passed, self.held) != _outcome(self.gates):
            raise ValueError("the outcome is not what the gates say")
        # Else a verdict would follow from its evidence, and not from the stake.
        if any(not math.isclose(gate.threshold, _threshold(self.alpha), rel_tol=1e-12) for gate in self.gates):
            raise ValueError("a gate's threshold is not that of alpha")
        if any(gate.n > self.items for gate in self.gates):
            raise ValueError("a gate with more values than items were scored")
        return self


def _outcome(gates: Sequence[GateResult]) -> tuple[bool, bool]:
    """All passed; or held: all passed but for ceilings, which ask for people."""
    passed = bool(gates) and all(gate.verdict == "pass" for gate in gates)
    held = bool(gates) and all(gate.verdict == "pass" or gate.name.endswith("/ceiling") for gate in gates)
    return passed, held and not passed


class Batch(NamedTuple):
    """The next items to score: base items start..stop of the prefix, for these gates."""

    start: int
    stop: int
    gates: tuple[str, ...]


@dataclass
class _Running:
    process: EProcess
    cap: int
    applicable: int | None
    verdict: Verdict | None = None
    trajectory: list[tuple[int, float]] = field(default_factory=list)

    def left(self, position: int) -> int:
        """How many items are still to come for this gate: known, or at the rate seen so far, taken generously."""
        if self.applicable is not None:
            return max(self.applicable - self.process.n, 0)
        n = self.process.n
        rate = min(1.0, (n + 2.0 * math.sqrt(n) + 2.0) / position)
        return math.ceil((self.cap - position) * rate)


class SequentialTest:
    """One candidate's test as a machine without input or output: score `next`, `feed` it, until `next` is None.

    Counts are base items of one prefix shared by all gates; a gate whose eval applies to a part of them gets fewer
    values. `cap` bounds every gate that has no cap of its own, `available` (what is left of the vault) all of them.
    `applicable` says for gates by name how many values the items up to their cap hold; where it does not, the number
    still to come is estimated from the rate so far, generously, without looking ahead. It only tells what is hopeless.

    A gate that passed stays passed and takes no further items. The test ends when no gate is left to run, or as soon
    as a gate other than a ceiling cannot pass. A ceiling that cannot pass ends alone: people may still decide.
    """

    def __init__(
        self,
        gates: Sequence[GateSpec],
        *,
        alpha: float,
        cap: int,
        batch: int = 50,
        applicable: Mapping[str, int] | None = None,
        available: int | None = None,
    ) -> None:
        """Raise StatisticsError for no gates, two of one name, an alpha outside (0, 1), or a batch below 1."""
        if not gates or len({gate.name for gate in gates}) != len(gates):
            raise StatisticsError("a test needs gates, each of another name")
        if batch < 1 or cap < 0 or (available is not None and available < 0):
            raise StatisticsError("batch must be at least 1, caps at least 0")
        self.alpha = alpha
        self._threshold = _threshold(alpha)  # no split across gates: all must pass
        self._batch = batch
        self._position = 0
        self._gates: dict[str, _Running] = {}
        for gate in gates:
            own = cap if gate.cap is None else gate.cap
            limit = own if available is None else min(own, available)
            self._gates[gate.name] = _Running(EProcess(gate), limit, (applicable or {}).get(gate.name))
        self._settle()

    @property
    def next(self) -> Batch | None:
        """What to score next; None when the test has ended."""
        running = {name: gate for name, gate in self._gates.items() if gate.verdict is None}
        if not running or self._blocked:
            return None
        stop = min(self._position + self._batch, *(gate.cap for gate in running.values()))
        return Batch(self._position, stop, tuple(running))

    def feed(self, values: Mapping[str, Floats]) -> None:
        """Take x [<= stop - start] for each gate of `next`. Raises StatisticsError for anything else."""
        batch = self.next
        if batch is None or set(values) != set(batch.gates):
            raise StatisticsError("values that the test did not ask for")
        for name in batch.gates:
            if np.size(values[name]) > batch.stop - batch.start:
                raise StatisticsError("more values than items", where=name)
            self._gates[name].process.update(values[name])
        self._position = batch.stop
        for name in batch.gates:
            process = self._gates[name].process
            self._gates[name].trajectory.append((process.n, process.log_e))
        self._settle()

    def _settle(self) -> None:
        for gate in self._gates.values():
            if gate.verdict is not None:
                continue
            if gate.process.passed(self.alpha):
                gate.verdict = "pass"
            elif self._position >= gate.cap:
                gate.verdict = "inconclusive"
            elif self._position and gate.process.hopeless(self.alpha, gate.left(self._position)):
                gate.verdict = "inconclusive" if gate.process.gate.kind == "ceiling" else "fail"

    @property
    def _blocked(self) -> bool:
        strict = (gate for gate in self._gates.values() if gate.process.gate.kind != "ceiling")
        return any(gate.verdict in ("fail", "inconclusive") for gate in strict)

    def result(self) -> TestResult:
        """Give the result. Raises StatisticsError while the test has not ended."""
        if self.next is not None:
            raise StatisticsError("the test has not ended")
        results = tuple(self._gate_result(gate) for gate in self._gates.values())
        passed, held = _outcome(results)
        return TestResult(gates=results, items=self._position, alpha=self.alpha, passed=passed, held=held)

    def _gate_result(self, gate: _Running) -> GateResult:
        process = gate.process
        points = gate.trajectory
        if len(points) > TRAJECTORY_POINTS:
            points = [points[round(i)] for i in np.linspace(0, len(points) - 1, TRAJECTORY_POINTS)]
        return GateResult(
            name=process.gate.name,
            verdict=gate.verdict or "inconclusive",
            n=process.n,
            mean=process.mean,
            theta=process.gate.theta,
            log_e=process.log_e + 0.0,
            threshold=self._threshold,
            wins=process.wins,
            ties=process.ties,
            losses=process.losses,
            interval=process.interval(self.alpha),
            trajectory=tuple(points),
        )


def run_test(
    gates: Sequence[GateSpec],
    draw: Draw,
    alpha: float,
    cap: int,
    batch: int = 50,
    *,
    applicable: Mapping[str, int] | None = None,
    available: int | None = None,
) -> TestResult:
    """Run a whole test, drawing values as they are asked for; see SequentialTest for the arguments and the errors."""
    test = SequentialTest(gates, alpha=alpha, cap=cap, batch=batch, applicable=applicable, available=available)
    while (wanted := test.next) is not None:
        test.feed({name: draw(name, wanted.start, wanted.stop) for name in wanted.gates})
    return test.result()
