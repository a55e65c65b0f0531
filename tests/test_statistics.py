"""The sequential test: properties that wrong implementations do not survive, and a list of those that did not.

Each property takes the implementation as an argument, so that the same functions judge the real module and every
mutant of it.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import harness.statistics
from harness.canonical import canonical_bytes
from harness.errors import StatisticsError

RAW = {
    "improve": {},
    "parent": {"margin": 0.3},
    "anchor": {"margin": 0.1},
    "floor": {"threshold": 0.4},
    "rare": {"rate": 0.2},
    "ceiling": {"threshold": 0.7},
}


def gate(impl: Any, kind: str, name: str = "a", **changed: Any) -> Any:
    """Compile one gate on scores in [0, 1]."""
    return impl.compile_gates([{"eval": name, "kind": kind, **RAW[kind], **changed}], {name: (0.0, 1.0)})[0]


def stream(values: Any) -> Any:
    """Give a draw that reads every gate's values from one array, or from an array for each gate."""
    return lambda name, start, stop: np.asarray(values[name] if isinstance(values, dict) else values)[start:stop]


def brute_wealth(spec: Any, xs: list[float]) -> float:
    """Multiply out the definition in plain Python."""
    fractions = [0.005 * (0.98 / 0.005) ** (k / 19) for k in range(20)]
    shares = [0.5 / 19] * 19 + [0.5] if spec.kind == "rare" else [1 / 20] * 20
    bets = [math.prod(1 + f / (spec.theta - spec.lo) * (x - spec.theta) for x in xs) for f in fractions]
    return sum(share * bet for share, bet in zip(shares, bets, strict=True))


def wealth(impl: Any, spec: Any, xs: list[float]) -> float:
    """Feed all values at once and give the evidence."""
    process = impl.EProcess(spec)
    process.update(np.array(xs))
    return math.exp(process.log_e)


@st.composite
def fair_laws(draw, lo: float, theta: float, hi: float):
    """Give three points in [lo, hi] with chances under which the mean is theta."""
    low = theta - (theta - lo) * draw(st.floats(0.01, 1))
    high = theta + (hi - theta) * draw(st.floats(0.01, 1))
    third = draw(st.floats(lo, hi))
    share = draw(st.floats(0, 1))
    # The other two make up for what the third adds: feasible when its pull is small enough, so shrink it until it is.
    pull = share * (third - theta)
    if pull > 0:
        need = pull / (theta - low)
    elif pull < 0:
        need = -pull / (high - theta)
    else:
        need = 0.0
    scale = 1 / (share + need) if share + need > 1 else 1.0
    rest = Counter({third: share * scale})
    rest[low if pull > 0 else high] += need * scale
    left = 1 - sum(rest.values())
    span = high - low
    rest[low] += left * (high - theta) / span
    rest[high] += left * (theta - low) / span
    return dict(rest)


# ------------------------------------------------------------------------------------------------ properties


def one_step_is_fair(impl: Any, search: settings) -> None:
    """Wealth starts at 1, is never negative, and grows on average by nothing, whatever came before."""

    def judge(spec: Any) -> None:
        assert impl.EProcess(spec).log_e == 0.0

        @search
        @given(st.data())
        def check(data):
            history = data.draw(st.lists(st.floats(spec.lo, spec.hi), max_size=8))
            law = data.draw(fair_laws(spec.lo, spec.theta, spec.hi))
            before = wealth(impl, spec, history)
            after = sum(chance * wealth(impl, spec, [*history, x]) for x, chance in law.items())
            assert before > 0
            assert math.isclose(after, before, rel_tol=1e-6, abs_tol=1e-12)

        check()

    for kind in RAW:
        judge(gate(impl, kind))


def evidence_follows_its_definition(impl: Any, search: settings) -> None:
    """Agree with the definition in plain Python: the average over bets of the product over items, ties included."""

    def judge(spec: Any) -> None:
        values = st.sampled_from([spec.lo, spec.theta, spec.hi, 0.0 if spec.paired else spec.hi])

        @search
        @given(st.lists(values, min_size=1, max_size=12))
        def check(xs):
            assert math.isclose(wealth(impl, spec, xs), brute_wealth(spec, xs), rel_tol=1e-9)

        check()

    for kind in RAW:
        judge(gate(impl, kind))


class _NeedMore(Exception):  # noqa: N818 - not an error: the enumeration goes one batch deeper
    """The path is too short for the test."""


def _leaves(points: list[float], chances: list[float], depth: int, batch: int, run: Any) -> Any:
    """Enumerate all sequences of `depth` values exactly, cutting where the test has ended; give (chance, result).

    Sequences that differ only within a batch are merged, with the number of them as their weight.
    """
    batches = []
    for combination in itertools.combinations_with_replacement(range(len(points)), batch):
        ways = math.factorial(batch)
        for count in Counter(combination).values():
            ways //= math.factorial(count)
        batches.append((ways * math.prod(chances[i] for i in combination), [points[i] for i in combination]))
    todo: list[tuple[float, list[float]]] = [(1.0, [])]
    while todo:
        chance, path = todo.pop()

        def draw(_name: str, _start: int, stop: int, path: list[float] = path) -> Any:
            if stop > len(path):
                raise _NeedMore
            return np.array(path[_start:stop])

        try:
            yield chance, run(draw)
        except _NeedMore:
            if len(path) >= depth:
                raise AssertionError("the test asked for more than its cap") from None
            todo += [(chance * part, path + values) for part, values in batches]


def whole_test_keeps_its_level(impl: Any, _search: settings) -> None:
    """Over all 3^8 paths of a fair law the test promotes with probability at most alpha, and its evidence averages 1."""
    alpha = 0.4
    promoted = []
    for kind, points, chances in (
        ("parent", [-1.0, 0.0, 1.0], [0.4, 0.5, 0.1]),
        ("floor", [0.0, 0.5, 1.0], [0.5, 0.2, 0.3]),
    ):
        spec = gate(impl, kind)
        assert math.isclose(sum(p * x for p, x in zip(chances, points, strict=True)), spec.theta)
        total = passing = average = 0.0
        for chance, result in _leaves(
            points, chances, 8, 2, lambda draw, spec=spec: impl.run_test([spec], draw, alpha, 8, 2)
        ):
            total += chance
            passing += chance * result.passed
            average += chance * math.exp(result.gates[0].log_e)
        assert math.isclose(total, 1.0)
        assert passing <= alpha
        assert math.isclose(average, 1.0)
        promoted.append(passing)
    assert max(promoted) > 0.02  # or the bound would say nothing


def every_gate_must_pass(impl: Any, _search: settings) -> None:
    """One gate at its null keeps the whole test at level alpha, however well the others do; ties or loss block."""
    fair, easy = gate(impl, "parent"), gate(impl, "floor", "b")

    def run(draw: Any) -> Any:
        return impl.run_test(
            [easy, fair], lambda n, a, b: np.ones(b - a) if n == easy.name else draw(n, a, b), 0.2, 6, 2
        )

    passing = sum(chance * run_.passed for chance, run_ in _leaves([-1.0, 0.0, 1.0], [0.4, 0.5, 0.1], 6, 2, run))
    assert 0 < passing <= 0.2
    improve, parent = gate(impl, "improve"), gate(impl, "parent", "b")
    for stuck in (0.0, -1.0):
        values = {improve.name: np.full(3000, stuck), parent.name: np.ones(3000)}
        result = impl.run_test([parent, improve], stream(values), 0.01, 3000)
        assert result.passed is False
        assert result.held is False
        assert result.gates[1].verdict != "pass"


def all_gates_have_the_whole_alpha(impl: Any, _search: settings) -> None:
    """Each gate's threshold is log(1/alpha), whatever the number of gates: the least evidence that suffices passes."""
    specs = [gate(impl, "parent", name) for name in "abc"]
    ones = np.ones(5)
    alpha = 1.0 / wealth(impl, specs[0], [1.0] * 5) * (1 + 1e-9)
    result = impl.run_test(specs, stream(ones), alpha, 5, 5)
    assert result.passed is True
    assert {found.threshold for found in result.gates} == {-math.log(alpha)}
    assert impl.run_test(specs, stream(ones), alpha * (1 - 1e-6), 5, 5).passed is False


def scores_point_the_right_way(impl: Any, _search: settings) -> None:
    """For each kind, a candidate that has what the gate asks for passes, and one that lacks it does not."""
    rng = np.random.default_rng(1)

    def coin(p: float) -> Any:
        return (rng.random(4000) < p).astype(float)

    def verdict(kind: str, candidate: Any, reference: Any = None, **changed: Any) -> str:
        spec = gate(impl, kind, **changed)
        x = spec.observe(candidate, reference)
        return impl.run_test([spec], stream(x), 0.001, x.size).gates[0].verdict

    half = coin(0.5)
    better = np.maximum(half, coin(0.3))
    slightly = np.minimum(half, 1 - coin(0.02))  # worse by about 1 point
    assert verdict("improve", better, half) == "pass"
    assert verdict("improve", half, better) == "fail"
    for kind in ("parent", "anchor"):
        assert verdict(kind, half, half, margin=0.05) == "pass"
        assert verdict(kind, slightly, half, margin=0.05) == "pass"
        assert verdict(kind, half, better, margin=0.05) == "fail"
    assert gate(impl, "parent").paired == "incumbent"
    assert gate(impl, "anchor").paired == "baseline"
    assert verdict("floor", coin(0.8), threshold=0.7) == "pass"
    assert verdict("floor", coin(0.6), threshold=0.7) == "fail"
    assert verdict("rare", np.ones(4000), rate=0.01) == "pass"
    assert verdict("rare", coin(0.9), rate=0.01) == "fail"
    assert verdict("ceiling", coin(0.2), threshold=0.3) == "pass"
    assert verdict("ceiling", coin(0.4), threshold=0.3) == "inconclusive"


def order_and_batches_do_not_matter(impl: Any, search: settings) -> None:
    """Give bit-identical evidence for any order within a batch, and equal evidence for any batches."""

    def judge(spec: Any) -> None:
        @search
        @given(st.lists(st.floats(spec.lo, spec.hi), min_size=1, max_size=30), st.randoms(use_true_random=False))
        def check(xs, random):
            whole, mixed, single = (impl.EProcess(spec) for _ in range(3))
            whole.update(np.array(xs))
            shuffled = list(xs)
            random.shuffle(shuffled)
            mixed.update(np.array(shuffled))
            for x in xs:
                single.update(np.array([x]))
            assert mixed.log_e == whole.log_e
            assert math.isclose(single.log_e, whole.log_e, rel_tol=1e-9, abs_tol=1e-9)
            assert (single.n, single.wins, single.ties, single.losses) == (
                whole.n, whole.wins, whole.ties, whole.losses,
            )  # fmt: skip
            assert math.isclose(single.variance, float(np.var(xs)), rel_tol=1e-6, abs_tol=1e-9)

        check()

    for kind in ("improve", "parent", "floor"):
        judge(gate(impl, kind))


def evidence_is_monotone(impl: Any, search: settings) -> None:
    """Never lower the evidence for a higher score, or for a lower theta."""

    @search
    @given(
        st.lists(st.floats(-1, 1), min_size=1, max_size=12), st.floats(0, 1), st.floats(0.01, 0.5), st.floats(0.01, 0.4)
    )
    def check(xs, lift, margin, more):
        spec = gate(impl, "parent", margin=margin)
        raised = [*xs[:-1], min(1.0, xs[-1] + lift)]
        lenient = gate(impl, "parent", margin=margin + more)
        evidence = wealth(impl, spec, xs)
        assert wealth(impl, spec, raised) >= evidence * (1 - 1e-9)
        assert wealth(impl, lenient, xs) >= evidence * (1 - 1e-9)

    check()


def bad_scores_raise(impl: Any, _search: settings) -> None:
    """NaN, infinity and values out of range raise, and leave no trace; they are never clipped."""
    for kind in RAW:
        spec = gate(impl, kind)
        process = impl.EProcess(spec)
        process.update(np.array([spec.hi]))
        before = (process.n, process.log_e, process.mean)
        for bad in (math.nan, math.inf, -math.inf, spec.hi + 0.01, spec.lo - 0.01):
            with pytest.raises(StatisticsError):
                process.update(np.array([spec.hi, bad]))
        assert (process.n, process.log_e, process.mean) == before


def nothing_passes_on_nothing(impl: Any, _search: settings) -> None:
    """No items, no applicable items, or no gates never pass."""
    spec = gate(impl, "parent")
    assert impl.EProcess(spec).passed(0.999) is False
    for result in (
        impl.run_test([spec], stream(np.ones(0)), 0.05, 0),
        impl.run_test([spec], stream(np.ones(100)), 0.05, 100, available=0),
        impl.run_test([spec], lambda *_: np.ones(0), 0.05, 200),
    ):
        assert result.passed is False
        assert result.gates[0].verdict == "inconclusive"
        assert result.gates[0].mean is None
    with pytest.raises(StatisticsError):
        impl.run_test([], stream(np.ones(10)), 0.05, 10)


def batches_follow_one_prefix(impl: Any, _search: settings) -> None:
    """Batches are contiguous from 0, each item is drawn once, and a gate that has passed draws no more."""
    asked: dict[str, list[tuple[int, int]]] = {}
    rng = np.random.default_rng(3)
    slow = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.85, 0.1], size=4000)

    def draw(name: str, start: int, stop: int) -> Any:
        asked.setdefault(name, []).append((start, stop))
        return np.ones(stop - start) if name == "b/parent" else slow[start:stop]

    result = impl.run_test([gate(impl, "improve"), gate(impl, "parent", "b")], draw, 0.001, 4000, 30)
    assert result.passed is True
    for ranges in asked.values():
        assert ranges == [(k * 30, k * 30 + 30) for k in range(len(ranges))]
    assert len(asked["b/parent"]) == 1
    assert result.items == asked["a/improve"][-1][1]
    assert result.gates[0].n == result.items
    assert result.gates[1].n == 30


def hopelessness_is_measured(impl: Any, _search: settings) -> None:
    """Stop a worse candidate early, and never pass it; a batch of ties with many items to come is not hopeless."""
    improve = gate(impl, "improve")
    early = impl.EProcess(improve)
    early.update(np.zeros(50))
    assert early.hopeless(0.001, 9950) is False
    assert early.hopeless(0.001, 10) is True
    slightly = impl.EProcess(improve)
    slightly.update(np.full(50, -0.03))  # so few items are no proof of a loss, however alike they are
    assert slightly.hopeless(0.001, 9950) is False
    rng = np.random.default_rng(5)
    worse = rng.choice([-1.0, 0.0, 1.0], p=[0.15, 0.75, 0.1], size=10_000)
    result = impl.run_test([improve], stream(worse), 0.001, 10_000)
    assert result.passed is False
    assert result.gates[0].verdict == "fail"
    assert 50 <= result.items < 1500
    # A gate that failed ends the test: no other gate spends items on it.
    calm = gate(impl, "parent", "calm", margin=0.001)
    both = impl.run_test([calm, improve], stream({improve.name: worse, calm.name: np.zeros(10_000)}), 0.001, 10_000)
    assert both.items == both.gates[0].n == result.items
    assert both.gates[0].verdict == "inconclusive"
    # A gate that applies to every tenth item has a tenth of them to come, said beforehand or estimated.
    sparse = gate(impl, "improve", "s")
    gains = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.8, 0.15], size=10_000)

    def tenth(_name: str, start: int, stop: int) -> Any:
        return gains[start:stop][np.arange(start, stop) % 10 == 0]

    assert impl.run_test([sparse], tenth, 0.01, 10_000).passed is True
    assert impl.run_test([sparse], tenth, 0.01, 10_000, applicable={sparse.name: 1000}).passed is True
    few = impl.run_test([sparse], tenth, 1e-9, 2000, applicable={sparse.name: 200})
    assert few.gates[0].verdict == "fail"


def a_ceiling_holds(impl: Any, _search: settings) -> None:
    """Hold for people where there is no evidence that the mean is below a ceiling: passed reads false."""
    ceiling, parent = gate(impl, "ceiling"), gate(impl, "parent", "b")
    values = {ceiling.name: np.full(2000, -0.9), parent.name: np.ones(2000)}
    result = impl.run_test([ceiling, parent], stream(values), 0.001, 2000)
    assert (result.passed, result.held) == (False, True)
    assert result.gates[0].verdict == "inconclusive"
    values[parent.name] = -np.ones(2000)
    result = impl.run_test([ceiling, parent], stream(values), 0.001, 2000)
    assert (result.passed, result.held) == (False, False)


def bounds_agree_with_the_verdict(impl: Any, search: settings) -> None:
    """Keep the mean seen within the interval, whose lower end reaches theta exactly when the gate has passed."""

    @search
    @given(st.floats(0, 1), st.integers(1, 300), st.sampled_from([0.3, 0.01]), st.integers(0, 99))
    def check(p, n, alpha, seed):
        spec = gate(impl, "floor")
        xs = (np.random.default_rng(seed).random(n) < p).astype(float)
        process = impl.EProcess(spec)
        process.update(xs)
        lower, upper = process.interval(alpha)
        assert 0.0 <= lower <= xs.mean() <= upper <= 1.0
        assert (lower >= spec.theta) == process.passed(alpha)

    check()


PROPERTIES = [
    nothing_passes_on_nothing,
    bad_scores_raise,
    all_gates_have_the_whole_alpha,
    scores_point_the_right_way,
    batches_follow_one_prefix,
    a_ceiling_holds,
    hopelessness_is_measured,
    evidence_follows_its_definition,
    one_step_is_fair,
    order_and_batches_do_not_matter,
    evidence_is_monotone,
    bounds_agree_with_the_verdict,
    every_gate_must_pass,
    whole_test_keeps_its_level,
]


@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.__name__)
def test_property(prop):
    """The implementation has the property that its name and docstring state."""
    prop(harness.statistics, settings())


# ------------------------------------------------------------------------------------------------ mutants

MUTANTS = {
    "the margin adds instead of subtracting": ("gates", 'kind == "floor" else -float(value)', 'kind == "floor" else float(value)'),
    "differences are taken the wrong way round": ("gates", "return candidate - other", "return other - candidate"),
    "the anchor is the parent": ("gates", '"anchor": "baseline"', '"anchor": "incumbent"'),
    "failures count as successes": ("gates", "return candidate - 1.0", "return 0.0 - candidate"),
    "a ceiling is a floor": ("gates", "0.0 - candidate if", "candidate - 1.0 if"),
    "scores are clipped": ("gates", "x = x.astype(np.float64)", "x = np.clip(x.astype(np.float64), lo, hi)"),
    "NaN gets through": ("gates", "not np.all((x >= lo) & (x <= hi))", "np.any((x < lo) | (x > hi))"),
    "ties are dropped": (
        "statistics",
        "(log_bets(self.gate, distinct) * counts)",
        "(log_bets(self.gate, distinct) * counts * (distinct != 0))",
    ),
    "bets are scaled by the wrong side": ("statistics", "(null - gate.lo)", "(gate.hi - null)"),
    "bets are too large": ("statistics", "np.geomspace(0.005, 0.98, 20)", "np.geomspace(0.005, 1.6, 20)"),
    "bets ignore theta": ("statistics", "(x - null))", "x)"),
    "the prior is left out": ("statistics", "1.0 / FRACTIONS.size)", "1.0)"),
    "the best bet counts alone": (
        "statistics",
        "return top + math.log(float(np.exp(log_wealth - top).sum()))",
        "return top + math.log(log_wealth.size)",
    ),
    "alpha is split across gates": (
        "statistics",
        "self._threshold = _threshold(alpha)",
        "self.alpha = alpha / len(gates); self._threshold = _threshold(self.alpha)",
    ),
    "alpha is not turned into a threshold": ("statistics", "return -math.log(alpha)", "return 1.0 - alpha"),
    "any gate will do": ("statistics", 'bool(gates) and all(gate.verdict == "pass" for', 'bool(gates) and any(gate.verdict == "pass" for'),
    "hopeless counts as passed": ("statistics", 'kind == "ceiling" else "fail"', 'kind == "ceiling" else "pass"'),
    "out of items counts as passed": (
        "statistics",
        'elif self._position >= gate.cap:\n                gate.verdict = "inconclusive"',
        'elif self._position >= gate.cap:\n                gate.verdict = "pass"',
    ),
    "a ceiling that is not met passes": ("statistics", '"inconclusive" if gate.process.gate.kind', '"pass" if gate.process.gate.kind'),
    "a ceiling fails": ("statistics", '"inconclusive" if gate.process.gate.kind', '"fail" if gate.process.gate.kind'),
    "an empty stream passes": ("statistics", "return self.n > 0 and self.log_e >= _threshold(alpha)", "return self.log_e >= 0.0"),
    "hopeless forgets what is to come": ("statistics", "(log_e + left * growth < threshold)", "(log_e + growth < threshold)"),
    "nothing is ever hopeless": ("statistics", "(log_e + left * growth < threshold)", "(log_e != log_e)"),
    "early ties look certain": ("statistics", "np.maximum(variance, 2.0 * unit * unit / np.maximum(n, 1))", "np.maximum(variance, 1e-300)"),
    "sparse evals are taken for dense": ("statistics", "return max(self.applicable - self.process.n, 0)", "return self.applicable * 10"),
    "items are scored twice": ("statistics", "self._position = batch.stop\n", "self._position = batch.stop - (batch.start == 0)\n"),
    "a passed gate goes on": ("statistics", "if gate.verdict is None}", "if gate.verdict is None or (gate.verdict == 'pass' and any(g.verdict is None for g in self._gates.values()))}"),
    "a failed gate does not stop the test": ("statistics", 'in ("fail", "inconclusive")', 'in ("broken",)'),
    "the order within a batch matters": (
        "statistics",
        "distinct, counts = np.unique(values, return_counts=True)  #",
        "distinct, counts = values, np.arange(values.size) * 0 + 1 + 1e-12 * np.arange(values.size)  #",
    ),
    "the bound is on the wrong side": ("statistics", ">= goal:\n            low = probe", "< goal:\n            low = probe"),
}  # fmt: skip


KILLED = (AssertionError, StatisticsError, ValidationError, RuntimeWarning, pytest.fail.Exception)
"""How a property fails; a mutant that merely does not run is none."""


def mutant(part: str, old: str, new: str) -> ModuleType:
    """Load the two modules from their source with one place changed; the real ones stay as they are."""
    folder = Path(harness.statistics.__file__).parent
    loaded = None
    for name in ("gates", "statistics"):
        source = (folder / f"{name}.py").read_text()
        if name == part:
            assert source.count(old) == 1, f"the source has changed: {old!r} stands in it {source.count(old)} times"
            source = source.replace(old, new)
        source = source.replace("from harness.gates import", "from mutant_gates import")
        loaded = importlib.util.module_from_spec(importlib.util.spec_from_loader(f"mutant_{name}", None))
        sys.modules[loaded.__name__] = loaded
        exec(compile(source, f"mutant {name}", "exec"), loaded.__dict__)  # noqa: S102 - our own source, one place changed
    return loaded


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(name, monkeypatch):
    """A plausible wrong implementation is caught by at least one property."""
    for module in ("mutant_gates", "mutant_statistics"):
        monkeypatch.setitem(sys.modules, module, None)
    impl = mutant(*MUTANTS[name])
    quick = settings(max_examples=30, phases=[Phase.generate], database=None, derandomize=True, deadline=None)
    for prop in PROPERTIES:
        try:
            prop(impl, quick)
        except KILLED:
            return
    pytest.fail("survived every property")


def test_an_unchanged_copy_survives(monkeypatch):
    """Loading the modules as mutants are loaded changes nothing: it is the mutation that kills."""
    for module in ("mutant_gates", "mutant_statistics"):
        monkeypatch.setitem(sys.modules, module, None)
    impl = mutant("statistics", "TRAJECTORY_POINTS = 60", "TRAJECTORY_POINTS = 60")
    quick = settings(max_examples=30, phases=[Phase.generate], database=None, derandomize=True, deadline=None)
    for prop in PROPERTIES:
        prop(impl, quick)


# ------------------------------------------------------------------------------------------------ the rest


def test_peeking_keeps_the_error_below_its_nominal_level():
    """Looking after every batch at alpha .05, an equal candidate is called better in fewer than 5 % of 600 tests."""
    spec = gate(harness.statistics, "improve")
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(600):
        x = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.9, 0.05], size=1000)
        hits += harness.statistics.run_test([spec], stream(x), 0.05, 1000).passed
    assert 0.002 < hits / 600 < 0.05


def test_rare_failures_need_about_the_least_possible_number_of_items():
    """With no failure seen, a rate of 1 % at alpha .001 is excluded within a fifth more than the 688 items it must take."""
    spec = gate(harness.statistics, "rare", rate=0.01)
    result = harness.statistics.run_test([spec], stream(np.zeros(2000)), 0.001, 2000, 1)
    assert result.passed
    assert 688 <= result.items <= 826
    assert result.gates[0].losses == 0


def test_results_come_back_from_the_log_unchanged():
    """A result, its floats included, survives canonical JSON bit for bit, and is replayed to the same record."""
    rng = np.random.default_rng(2)
    specs = [gate(harness.statistics, kind) for kind in RAW]
    cases = {
        spec.name: rng.uniform(spec.theta, spec.hi, 500) if spec.kind != "improve" else rng.uniform(-1, 1, 500)
        for spec in specs
    }
    first, second = (harness.statistics.run_test(specs, stream(cases), 1e-4, 500, 7) for _ in range(2))
    assert first == second
    assert harness.statistics.TestResult.parse(json.loads(canonical_bytes(first.json_value()))) == first
    assert max(len(found.trajectory) for found in first.gates) <= 60


def test_a_record_that_claims_more_than_its_evidence_is_refused():
    """A result whose verdict, counts or outcome do not follow from what it holds is no result."""
    result = harness.statistics.run_test([gate(harness.statistics, "improve")], stream(np.zeros(100)), 0.01, 100)
    raw = result.json_value()
    forged = [
        {**raw, "passed": True},
        {**raw, "held": True},
        {**raw, "gates": []},
        {**raw, "gates": [{**raw["gates"][0], "verdict": "pass"}], "passed": True},
        {**raw, "gates": [{**raw["gates"][0], "wins": 5}]},
        {**raw, "gates": [{**raw["gates"][0], "threshold": -9.0, "verdict": "pass"}], "passed": True},
        {**raw, "items": 1},
    ]
    for value in forged:
        with pytest.raises(ValidationError):
            harness.statistics.TestResult.parse(value)


def test_the_outcome_is_one_bool():
    """What a proposer may learn of a test is exactly a bool."""
    result = harness.statistics.run_test([gate(harness.statistics, "parent")], stream(np.ones(100)), 0.01, 100)
    assert type(result.passed) is bool
    assert result.passed is True


def test_a_gate_has_its_own_cap_within_what_is_available():
    """A gate's own cap replaces the test's, and what is left of the vault bounds both."""
    long = gate(harness.statistics, "improve", cap=400)
    slow = np.tile([1.0, -1.0, 1.0, 0.0], 200)
    run = harness.statistics.run_test
    assert run([long], stream(slow), 1e-30, 100, 50, applicable={long.name: 10**6}).items == 400
    assert run([long], stream(slow), 1e-30, 100, 50, applicable={long.name: 10**6}, available=230).items == 230


def test_the_test_takes_only_what_it_asked_for():
    """Feeding other gates, more values than items, or after the end raises; so does asking early for a result."""
    spec = gate(harness.statistics, "parent")
    test = harness.statistics.SequentialTest([spec], alpha=0.01, cap=100, batch=10)
    assert test.next == (0, 10, ("a/parent",))
    for wrong in ({}, {"b/parent": np.ones(10)}, {"a/parent": np.ones(11)}):
        with pytest.raises(StatisticsError):
            test.feed(wrong)
    with pytest.raises(StatisticsError, match="not ended"):
        test.result()
    while test.next:
        test.feed({"a/parent": np.ones(10)})
    with pytest.raises(StatisticsError, match="did not ask"):
        test.feed({"a/parent": np.ones(10)})


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_alpha_must_be_a_probability(alpha):
    """An alpha that is not strictly between 0 and 1 raises."""
    with pytest.raises(StatisticsError, match="alpha"):
        harness.statistics.run_test([gate(harness.statistics, "improve")], stream(np.ones(10)), alpha, 10)


def test_bounds_cover_whenever_one_looks():
    """In at least 95 % of 100 streams neither bound is on the wrong side of the truth at any of eight looks."""
    spec = gate(harness.statistics, "floor")
    rng = np.random.default_rng(11)
    missed = 0
    for _ in range(100):
        process = harness.statistics.EProcess(spec)
        wrong = False
        for _ in range(8):
            process.update((rng.random(30) < 0.6).astype(float))
            lower, upper = process.interval(0.025)
            wrong |= not lower <= 0.6 <= upper
        missed += wrong
    assert missed <= 5
