"""The ledger of fresh items: what it may ever spend, over all that can happen, and wrong ledgers that this catches."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import sys
from collections import defaultdict
from decimal import Decimal, localcontext
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import ValidationError

import harness.fresh_ledger
from harness.canonical import canonical_bytes
from harness.errors import StatisticsError
from harness.gates import GateSpec
from harness.ledger import LedgerState
from harness.statistics import EProcess

DELTA = 0.9
"""A large one: small trees of few items then hold promotions."""


def begin(impl: Any, size: int = 1_000_000, delta: float = DELTA, **more: Any) -> Any:
    """Give a fresh ledger."""
    return impl.FreshState(delta=delta, size=size, **more)


def reloaded(impl: Any, state: Any) -> Any:
    """Give the state as it comes back from the log after a crash."""
    return impl.FreshState.parse(json.loads(canonical_bytes(state.json_value())))


# ------------------------------------------------------------------------------------------------ exact enumeration

N = 4
"""Items of a test, of which each is lost (-1), tied or won (+1) in each of two gates."""
GATE = GateSpec(eval="one", kind="floor", theta=-0.95, bounds=(-1.0, 1.0))
Law = dict[tuple[int, int], float]
"""The chance of each pair of values."""


def product(one: dict[int, float], two: dict[int, float]) -> Law:
    """Two gates that know nothing of each other."""
    return {(a, b): one[a] * two[b] for a in one for b in two}


NULL, TIES, WINS, LOSES, GOOD = (
    {-1: 0.975, 1: 0.025},
    {-1: 0.95, 0: 0.05},
    {1: 1.0},
    {-1: 1.0},
    {-1: 0.1, 0: 0.2, 1: 0.7},
)
CANDIDATES: dict[str, tuple[bool, Law]] = {
    "null in one gate, perfect in the other": (True, product(NULL, WINS)),
    "perfect in one gate, null in the other": (True, product(WINS, NULL)),
    "null in both": (True, product(NULL, NULL)),
    "null in both, and alike": (True, {(-1, -1): 0.975, (1, 1): 0.025}),
    "null in both, where one wins the other loses": (True, {(1, -1): 0.025, (-1, 1): 0.025, (-1, -1): 0.95}),
    "null by ties": (True, product(TIES, GOOD)),
    "good in one gate, worse than null in the other": (True, product(GOOD, LOSES)),
    "good": (False, product(GOOD, GOOD)),
    "good, and alike": (False, {(1, 1): 0.6, (0, 0): 0.3, (-1, -1): 0.1}),
}
"""Each with whether a gate should stop it: whether the mean of one is at most -0.95."""


@cache
def log_e(counts: tuple[int, int, int]) -> float:
    """The real evidence of so many losses, ties and wins."""
    process = EProcess(GATE)
    import numpy as np

    process.update(np.repeat([-1.0, 0.0, 1.0], counts))
    return process.log_e


def outcomes(law: Law, alpha: float) -> dict[tuple[bool, tuple[float, float]], float]:
    """How a test may end: promoted or not, with which evidence in each gate; and with which chance.

    A gate that has passed takes no more items. The test ends as soon as a gate has hardly any evidence left, which is
    a stop that a ledger of refunds could be taken in by.
    """
    goal = -math.log(alpha)
    paths: dict[tuple[tuple[int, int, int], ...], float] = {((0, 0, 0), (0, 0, 0)): 1.0}
    ended: dict[tuple[bool, tuple[float, float]], float] = defaultdict(float)
    for step in range(N + 1):
        going: dict[tuple[tuple[int, int, int], ...], float] = defaultdict(float)
        for counts, chance in paths.items():
            evidence = (log_e(counts[0]), log_e(counts[1]))
            passed = all(each >= goal for each in evidence)
            if passed or step == N or min(evidence) < -0.6:
                ended[passed, evidence] += chance
                continue
            for values, likely in law.items():
                after = tuple(
                    tuple(n + (value == index - 1) for index, n in enumerate(each)) if log_e(each) < goal else each
                    for each, value in zip(counts, values, strict=True)
                )
                going[after] += chance * likely
        paths = going
    return ended


def close(state: Any, stake: Any, evidence: tuple[float, ...], *, promoted: bool) -> Any:
    """Close the test as it ended."""
    return state.promote(stake.key, N, evidence) if promoted else state.reject(stake.key, N, evidence)


def worst(state: Any, depth: int, *, rest: bool = False) -> float:
    """The greatest chance of ever promoting what a gate should stop, within so many tests, by whatever is proposed.

    With `rest`, what is left after them counts, too: so much may still be lost to all tests to come.
    """
    if not depth:
        return float(state.left) if rest else 0.0
    opened, stake = state.stake(f"t/{state.test}", N)
    found = 0.0
    for bad, law in CANDIDATES.values():
        chance = 0.0
        for (promoted, evidence), likely in outcomes(law, stake.alpha).items():
            false = bad and promoted
            after = close(opened, stake, evidence, promoted=promoted)
            chance += likely * (1.0 if false else worst(after, depth - 1, rest=rest))
        found = max(found, chance)
    return found


def the_chance_of_a_false_promotion_is_at_most_delta(impl: Any, _search: settings) -> None:
    """By whatever is proposed after whatever was seen, in trees of two tests, exactly; with all that may still come."""
    assert 0.03 < worst(begin(impl), 2) < worst(begin(impl), 2, rest=True) <= DELTA * (1 + 1e-12)


def no_step_raises_the_bound(impl: Any, search: settings) -> None:
    """From any state: the chance of a false promotion, and what is left on average without one, are at most what was left.

    So by induction over any number of tests that one chance is at most delta.
    """

    @search
    @given(st.integers(0, 200), st.floats(0.0, 0.95))
    def check(test, spent):
        state = begin(impl, test=test, spent=spent * DELTA)
        opened, stake = state.stake("t", N)
        for bad, law in CANDIDATES.values():
            after = 0.0
            for (promoted, evidence), likely in outcomes(law, stake.alpha).items():
                left = close(opened, stake, evidence, promoted=promoted).left
                after += likely * (1.0 if bad and promoted else left)
            assert after <= state.left * (1 + 1e-12)

    check()


# ------------------------------------------------------------------------------------------------ properties

EVIDENCE = st.lists(st.floats(-60, 60), min_size=1, max_size=3)


@cache
def exactly(k: int) -> Decimal:
    """The sum of j^-1.2 over all j >= k, to twenty digits: more terms of the same formula, in decimals."""
    with localcontext() as context:
        context.prec = 40
        s, n = Decimal("1.2"), Decimal(max(k, 400))
        head = sum((Decimal(j) ** -s for j in range(k, int(n))), Decimal(0))
        rest = n ** (1 - s) / (s - 1) + n**-s / 2 + s / 12 * n ** (-s - 1)
        rest -= s * (s + 1) * (s + 2) / 720 * n ** (-s - 3)
        return head + rest + s * (s + 1) * (s + 2) * (s + 3) * (s + 4) / 30240 * n ** (-s - 5)


def the_tail_is_rounded_up(impl: Any, _search: settings) -> None:
    """It is never below the sum, and at most 2e-14 of it above: so no share is ever more than the rule says."""
    for k in (1, 2, 3, 7, 50, 399, 999, 1000, 1001, 12_345, 10**9):
        assert 0 <= (Decimal(impl.tail(k)) / exactly(k) - 1) < Decimal("2e-14")
        assert Decimal(impl.share(k)) <= Decimal(k) ** Decimal("-1.2") / exactly(k)


def shares_of_a_life_without_refunds_are_those_of_gamma(impl: Any, _search: settings) -> None:
    """Where nothing comes back, the k-th stake is delta times k^-1.2 over the whole sum."""
    state = begin(impl, delta=0.05)
    for k in range(1, 60):
        state, stake = state.stake(f"t/{k}", 50)
        assert math.isclose(stake.alpha, 0.05 * k**-1.2 / float(exactly(1)), rel_tol=1e-11)
        assert (stake.test, stake.offset) == (k, 50 * (k - 1))
        state = state.reject(stake.key, 10, [-math.inf]) if k % 2 else state.abandon(stake.key)


def a_rejection_costs_what_the_least_evidence_does_not_pay(impl: Any, search: settings) -> None:
    """It costs alpha (1 - E) for the least E, nothing for one above 1, everything where nothing is known; never a gain."""

    @search
    @given(st.floats(1e-9, 0.4), EVIDENCE)
    def check(alpha, evidence):
        cost = impl.charge(alpha, evidence)
        assert math.isclose(cost, alpha * (1 - min(1.0, math.exp(min(evidence)))), rel_tol=1e-9, abs_tol=alpha * 1e-15)
        assert 0.0 <= cost <= alpha
        assert math.copysign(1.0, cost) == 1.0

    check()
    assert impl.charge(0.1, []) == 0.1
    for evidence in ([math.nan], [1.0, math.nan], [math.nan, 1.0]):
        with pytest.raises(StatisticsError, match="no number"):
            impl.charge(0.1, evidence)


def a_promotion_needs_its_evidence_and_costs_nothing(impl: Any, _search: settings) -> None:
    """Every gate's evidence is at least 1/alpha, something was scored, and then nothing is spent."""
    opened, stake = begin(impl).stake("t", 50)
    goal = -math.log(stake.alpha)
    promoted = opened.promote("t", 50, [goal, goal + 1])
    assert (promoted.left, promoted.epoch, promoted.test, promoted.offset) == (DELTA, 2, 1, 50)
    for used, evidence, keep in (
        (50, [], False), (50, [goal + 1, goal - 0.01], False), (0, [goal], False), (51, [goal], False), (50, [goal], True),
    ):  # fmt: skip
        with pytest.raises(StatisticsError):
            opened.promote("t", used, evidence, keep_items=keep)
    # People let it past one gate that is not shown: it costs what the same evidence costs of a rejection.
    let = opened.promote("t", 50, [goal, -1.0], asked=True)
    assert (let.left, let.epoch) == (opened.reject("t", 50, [goal, -1.0]).left, 2)
    for used, evidence in ((50, []), (0, [goal])):
        with pytest.raises(StatisticsError):
            opened.promote("t", used, evidence, asked=True)


def what_cannot_be_is_refused(impl: Any, _search: settings) -> None:
    """A state that claims a larger stake, shared items or more spent than delta is no state."""
    opened, _ = begin(impl).stake("t", 100)
    raw = opened.json_value()
    for changes in (
        {"pending": {**raw["pending"], "alpha": 0.3}},
        {"pending": {**raw["pending"], "offset": 5}},
        {"high_water": 10},
        {"kappa": 0.5},
        {"spent": 0.89},
        {"spent": 0.91, "pending": None},
    ):
        with pytest.raises(ValidationError):
            impl.FreshState.parse({**raw, **changes})


def machine(impl: Any) -> type[RuleBasedStateMachine]:
    """Any history of tests, with a crash before or after any step."""

    class Life(RuleBasedStateMachine):
        """The ledger, and what a reader of its stakes can say of it."""

        @initialize()
        def begun(self) -> None:
            self.state = begin(impl, size=3000, minimum=20, delta=0.05)
            self.count = self.end = 0
            self.least = self.cost = 0.0
            self.stake: Any = None

        @rule(crashed=st.booleans())
        @precondition(lambda self: self.stake is None and not self.state.exhausted)
        def stakes(self, crashed: bool) -> None:
            before = self.state
            self.state, self.stake = before.stake(f"t/{self.count}", 60)
            self.count += 1
            self.state = reloaded(impl, self.state) if crashed else self.state
            assert self.state.stake(self.stake.key, 60) == (self.state, self.stake)
            with pytest.raises(StatisticsError, match="is open"):
                self.state.stake("another", 60)
            assert self.state.left == before.left >= self.stake.alpha > 0
            assert self.stake.test == self.count
            assert self.stake.offset == self.end  # right after the last test's, and never again
            self.end = self.stake.offset + self.stake.items
            assert self.end <= self.state.size

        def closed(self, after: Any, cost: float) -> None:
            self.cost += cost
            assert 0 <= cost <= self.stake.alpha
            assert after.pending is None
            assert after.spent == pytest.approx(self.cost, rel=1e-9, abs=1e-18)
            self.state, self.stake = after, None

        @rule(evidence=EVIDENCE, used=st.integers(0, 60))
        @precondition(lambda self: self.stake is not None)
        def rejects(self, evidence: list[float], used: int) -> None:
            used = min(used, self.stake.items)
            cost = self.stake.alpha * (1 - min(1.0, math.exp(min(evidence))))
            self.closed(self.state.reject(self.stake.key, used, evidence), cost)

        @rule()
        @precondition(lambda self: self.stake is not None)
        def abandons(self) -> None:
            self.closed(self.state.abandon(self.stake.key), self.stake.alpha)

        @rule(more=st.lists(st.floats(0, 5), min_size=1, max_size=3))
        @precondition(lambda self: self.stake is not None)
        def promotes(self, more: list[float]) -> None:
            evidence = [-math.log(self.stake.alpha) + each for each in more]
            self.closed(self.state.promote(self.stake.key, 1, evidence), 0.0)

        @rule(more=st.integers(0, 300))
        @precondition(lambda self: self.stake is None)
        def ends_the_epoch(self, more: int) -> None:
            before = self.state
            self.state = before.end_epoch(size=before.size + more)
            assert (self.state.epoch, self.state.left) == (before.epoch + 1, before.left)

        @rule()
        def crashes(self) -> None:
            assert reloaded(impl, self.state) == self.state
            self.state = reloaded(impl, self.state)

        @invariant()
        def nothing_comes_back(self) -> None:
            if hasattr(self, "state"):
                assert self.least <= self.state.spent <= self.state.delta
                self.least = self.state.spent
                assert self.state.test == self.count
                assert self.state.offset == (self.stake.offset if self.stake else self.end)

    return Life


def in_no_history_anything_grows_or_comes_again(impl: Any, search: settings) -> None:
    """What is left never grows, by no crash either; tests count on for life; no item is staked for twice."""
    run_state_machine_as_test(machine(impl), settings=settings(search, stateful_step_count=12))


PROPERTIES = [
    a_rejection_costs_what_the_least_evidence_does_not_pay,
    a_promotion_needs_its_evidence_and_costs_nothing,
    what_cannot_be_is_refused,
    the_tail_is_rounded_up,
    shares_of_a_life_without_refunds_are_those_of_gamma,
    in_no_history_anything_grows_or_comes_again,
    no_step_raises_the_bound,
    the_chance_of_a_false_promotion_is_at_most_delta,
]


@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.__name__)
def test_property(prop):
    """The ledger of fresh items has the property that its name and docstring state."""
    prop(harness.fresh_ledger, settings(deadline=None))


# ------------------------------------------------------------------------------------------------ mutants

MUTANTS = {
    "a refund beyond the stake": ("min(0.0, *log_es)", "min(log_es)"),
    "the greatest evidence decides": ("min(0.0, *log_es)", "min(0.0, max(log_es))"),
    "the first gate decides": ("min(0.0, *log_es)", "min(0.0, log_es[0])"),
    "the evidence is multiplied": ("min(0.0, *log_es)", "min(0.0, sum(log_es))"),
    "every rejection is refunded": ("spent=self.spent + charge(stake.alpha, log_es)", "spent=self.spent"),
    "what is not known is refunded": ("if log_es else alpha", "if log_es else 0.0"),
    "evidence that is no number is refunded": ("any(math.isnan(log_e) for log_e in log_es)", "False"),
    "items are shared": ("offset=self.offset + stake.items", "offset=self.offset"),
    "only what was scored is burned": ("offset=self.offset + stake.items", "offset=self.offset + used"),
    "a promotion starts the count anew": ("log_es, epoch=self.epoch + 1)", "log_es, epoch=self.epoch + 1, test=0)"),
    "the end of an epoch starts the count anew": ('"test": self.test', '"test": 0'),
    "a promotion is refunded twice": ("log_es, epoch=self.epoch + 1)", "log_es, epoch=self.epoch + 1)._with(spent=0.0)"),
    "a promotion costs its stake": ("return self._end(key, used, log_es, epoch", "return self._end(key, used, (), epoch"),
    "a promotion without evidence": ("or not log_es or (min(log_es) < -math.log(stake.alpha) and not asked)", ""),
    "a promotion on no evidence at all": ("or not log_es or (min", "or log_es and (min"),
    "one gate is enough for a promotion": ("min(log_es) < -math.log", "max(log_es) < -math.log"),
    "people are never asked": (" and not asked)", ")"),
    "people are always taken to be asked": (" and not asked)", " and False)"),
    "a promotion on nothing": ("if used < 1 or", "if"),
    "items are kept": ("        if keep_items:", "        if False:"),
    "stakes of the whole delta": ("return self.left * share(test)", "return self.delta * share(test)"),
    "an open stake is taken twice": ("test=stake.test, pending=stake)", "test=stake.test, pending=stake, spent=self.spent + stake.alpha)"),
    "states of shared items are read": ("if self.high_water or self.kappa != 1.0:", "if False:"),
    "the sum of all tests, not of those to come": ("n = max(k, DIRECT)", "n, k = DIRECT, 1"),
    "the sum leaves this test out": ("range(k, n)", "range(k + 1, n)"),
    "the sum stops": ("5.0 * n**-0.2, ", ""),
    "the sum is without its half": ("n**-1.2 / 2, ", ""),
    "the sum is without its slope": (", n**-2.2 / 10", ""),
    "the sum is added up no further than ten": ("DIRECT = 1000", "DIRECT = 10"),
    "the sum is rounded down": ("(1.0 + 2.0**-46)", "(1.0 - 2.0**-46)"),
    "the sum is not rounded": (" * (1.0 + 2.0**-46)", ""),
    "shares fall more slowly": ("float(k**-1.2)", "float(k**-1.1)"),
}  # fmt: skip

KILLED = (AssertionError, StatisticsError, ValidationError, pytest.fail.Exception)
"""How a property fails; a mutant that merely does not run is none."""


def mutant(old: str, new: str) -> ModuleType:
    """Load the module from its source with one place changed; the real one stays as it is."""
    source = Path(harness.fresh_ledger.__file__).read_text()
    assert source.count(old) == 1, f"the source has changed: {old!r} stands in it {source.count(old)} times"
    loaded = importlib.util.module_from_spec(importlib.util.spec_from_loader("mutant_fresh_ledger", None))
    sys.modules[loaded.__name__] = loaded
    exec(compile(source.replace(old, new), "mutant fresh ledger", "exec"), loaded.__dict__)  # noqa: S102 - our own source, one place changed
    return loaded


QUICK = settings(max_examples=25, phases=[Phase.generate], database=None, derandomize=True, deadline=None)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(name, monkeypatch):
    """A plausible wrong ledger of fresh items is caught by at least one property."""
    monkeypatch.setitem(sys.modules, "mutant_fresh_ledger", None)
    impl = mutant(*MUTANTS[name])
    for prop in PROPERTIES:
        try:
            prop(impl, QUICK)
        except KILLED:
            return
    pytest.fail("survived every property")


def test_an_unchanged_copy_survives(monkeypatch):
    """Loading the module as mutants are loaded changes nothing: it is the mutation that kills."""
    monkeypatch.setitem(sys.modules, "mutant_fresh_ledger", None)
    impl = mutant("DIRECT = 1000", "DIRECT = 1000")
    for prop in PROPERTIES:
        prop(impl, QUICK)


# ------------------------------------------------------------------------------------------------ the rest


def test_the_refund_of_the_greatest_evidence_would_break_the_bound():
    """Why it is the least: with the greatest, a candidate that is null in one gate gets every stake back, for ever."""
    wrong = mutant("min(0.0, *log_es)", "min(0.0, max(log_es))")
    with pytest.raises(AssertionError):
        no_step_raises_the_bound(wrong, QUICK)
    sys.modules.pop("mutant_fresh_ledger", None)


def test_a_stop_that_looks_ahead_would_break_the_bound():
    """Why a test is not told what is to come: one that stops before a loss that it knows of keeps evidence above 1."""
    alpha, back = 0.05, 0.0
    for path in itertools.product((-1, 1), repeat=N):
        chance = math.prod(NULL[value] for value in path)
        before = path.index(-1) if -1 in path else N
        counts = (0, 0, before)
        promoted = log_e(counts) >= -math.log(alpha)
        back += chance * (1.0 if promoted else alpha * min(1.0, math.exp(log_e(counts))))
    assert back > alpha


def test_no_ledger_of_shared_items_takes_evidence():
    """Where items are shared there is no way to give anything back: its transitions know no evidence."""
    opened, stake = LedgerState(delta=0.05, size=1000).stake("t", 50)
    with pytest.raises(TypeError):
        opened.reject(stake.key, 10, [0.0])
    assert opened.reject(stake.key, 10).spent == stake.alpha


@pytest.mark.parametrize("k", [0, -1])
def test_tests_are_counted_from_one(k):
    """There is no zeroth test."""
    with pytest.raises(StatisticsError, match="counted from 1"):
        harness.fresh_ledger.tail(k)
