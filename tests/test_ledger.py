"""The ledger: what it spends over all that can happen, and wrong ledgers that its properties catch."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import harness.ledger
from harness.canonical import canonical_bytes
from harness.errors import StatisticsError

DELTA = 0.05
KEY = "run/7"


def begin(impl: Any, size: int = 100_000, **more: Any) -> Any:
    """Give a fresh ledger."""
    return impl.LedgerState(delta=DELTA, size=size, **more)


def alphas(state: Any, tests: int) -> list[tuple[float, Any]]:
    """Stake and reject so many tests; give each stake and the state with that stake open."""
    found = []
    for number in range(tests):
        state, stake = state.stake(f"{state.epoch}/{number}", 50)
        found.append((stake.alpha, state))
        state = state.reject(stake.key, 10)
    return found


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["reject", "promote", "keep", "abandon", "resume", "end"]), st.integers(1, 60)),
    max_size=25,
)


def play(impl: Any, actions: list[tuple[str, int]], size: int = 100_000) -> Any:
    """Go through a history; give every (state before, stake or None, state after)."""
    state = begin(impl, size)
    for number, (action, wanted) in enumerate(actions):
        if action == "end":
            after = state.end_epoch()
            yield state, None, after
        else:
            opened, stake = state.stake(f"t/{number}", 60)
            if action == "resume":
                opened, again = opened.stake(stake.key, 60)
                assert again == stake
            used = min(wanted, stake.items)
            after = {
                "reject": lambda o=opened, s=stake, u=used: o.reject(s.key, u),
                "resume": lambda o=opened, s=stake, u=used: o.reject(s.key, u),
                "abandon": lambda o=opened, s=stake: o.abandon(s.key),
                "promote": lambda o=opened, s=stake, u=used: o.promote(s.key, u),
                "keep": lambda o=opened, s=stake, u=used: o.promote(s.key, u, keep_items=True),
            }[action]()
            yield opened, stake, after
        state = after


# ------------------------------------------------------------------------------------------------ properties


def shares_sum_to_at_most_one(impl: Any, _search: settings) -> None:
    """Sum 100,000 gammas, bound the tail by its integral, and stay below 1, and close to it."""
    head = math.fsum(impl.gamma(k) for k in range(1, 100_001))
    tail = 5 * 100_000**-0.2 / impl.GAMMA_TOTAL
    assert 0.999 < head + tail <= 1.0


def kept_items_obey_kraft(impl: Any, _search: settings) -> None:
    """Where items are kept, all nodes of the tree of decisions together spend at most delta, and as the rule says."""

    def total(state: Any, depth: int) -> float:
        found = 0.0
        for alpha, opened in alphas(state, 8):
            found += alpha
            if depth > 1:
                found += total(opened.promote(opened.pending.key, 10, keep_items=True), depth - 1)
        return found

    share = math.fsum(k**-1.2 / 5.5916 for k in range(1, 9))
    expected = DELTA * math.fsum(e**-1.2 / 5.5916 * share**e for e in range(1, 5))
    assert math.isclose(total(begin(impl), 4), expected, rel_tol=1e-9)
    assert expected <= DELTA


def burned_epochs_share_delta(impl: Any, _search: settings) -> None:
    """Where items are burned, the all-reject paths of all epochs together spend at most delta, and as the rule says."""
    state, spent = begin(impl), 0.0
    for epoch in range(1, 40):
        found = alphas(state, 30)
        assert math.isclose(found[4][0], DELTA * epoch**-1.2 / 5.5916 * 5**-1.2 / 5.5916, rel_tol=1e-12)
        spent += sum(alpha for alpha, _ in found)
        opened = found[-1][1]
        state = opened.promote(opened.pending.key, 10)
    assert spent <= DELTA
    assert math.isclose(state.spent, spent, rel_tol=1e-9)


def stakes_do_not_depend_on_outcomes(impl: Any, search: settings) -> None:
    """Within an epoch the k-th stake is the same, whatever earlier tests scored and however they were closed."""

    @search
    @given(st.lists(st.tuples(st.sampled_from(["reject", "abandon", "resume"]), st.integers(1, 60)), max_size=15))
    def check(actions):
        found = [stake.alpha for _, stake, _ in play(impl, actions)]
        assert found == [alpha for alpha, _ in alphas(begin(impl), len(actions))]

    check()


def nothing_is_refunded(impl: Any, search: settings) -> None:
    """Spending never falls, grows by exactly the stakes, and never exceeds delta; a rejection changes no counter."""

    @search
    @given(ACTIONS)
    def check(actions):
        spent = 0.0
        for before, stake, after in play(impl, actions):
            spent += stake.alpha if stake else 0.0
            assert after.spent == before.spent
            assert math.isclose(after.spent, spent, rel_tol=1e-9, abs_tol=1e-15)
            assert after.spent <= DELTA
            if after.epoch == before.epoch:
                assert (after.test, after.kappa, after.offset) == (before.test, before.kappa, before.offset)

    check()


def resuming_spends_nothing(impl: Any, _search: settings) -> None:
    """Staking again with the key of the open stake gives that stake and leaves the state; another key raises."""
    opened, stake = begin(impl).stake(KEY, 500)
    assert opened.stake(KEY, 500) == (opened, stake)
    with pytest.raises(StatisticsError, match="is open"):
        opened.stake("run/8", 500)


def burned_items_never_return(impl: Any, search: settings) -> None:
    """Tests of one epoch share one offset; after a promotion none scores an item that was scored before it."""

    @search
    @given(ACTIONS)
    def check(actions):
        scored = retired = 0  # ends of the items scored, and of those that must not come back
        epoch_offset: dict[int, int] = {}
        kept = False
        for before, stake, after in play(impl, actions):
            if stake is not None:
                assert epoch_offset.setdefault(stake.epoch, stake.offset) == stake.offset
                assert stake.offset >= retired
                scored = max(scored, after.offset + after.high_water, before.offset + before.high_water)
            if after.epoch > before.epoch:
                kept = after.kappa < 1.0
                if not kept:
                    retired = scored
                    assert after.offset == retired
                    assert (after.high_water, after.kappa) == (0, 1.0)
                assert after.test == 0

    check()


def the_high_water_mark_counts_rejected_tests(impl: Any, _search: settings) -> None:
    """A promotion after 10 items burns the 80 that an earlier, rejected test of the epoch scored."""
    state, stake = begin(impl).stake("a", 100)
    state, stake = state.reject("a", 80).stake("b", 100)
    state = state.promote("b", 10)
    assert (state.offset, state.remaining) == (80, 99_920)
    state, stake = state.stake("c", 100)
    assert stake.offset == 80
    assert state.abandon("c").high_water == 100


def an_empty_vault_tests_nothing(impl: Any, _search: settings) -> None:
    """With fewer items left than the minimum no stake is given, so nothing can be promoted."""
    with pytest.raises(StatisticsError, match="exhausted"):
        begin(impl, size=0).stake(KEY, 100)
    state, stake = begin(impl, size=150, minimum=100).stake(KEY, 100)
    state = state.promote(KEY, 100)
    assert state.exhausted
    with pytest.raises(StatisticsError, match="exhausted"):
        state.stake("next", 100)
    assert not state.end_epoch(size=500).exhausted
    state, stake = begin(impl, size=150).stake(KEY, 200)
    assert stake.items == 150


def illegal_orders_raise(impl: Any, _search: settings) -> None:
    """Closing what is not open, closing twice, scoring more than staked, and promoting on nothing raise."""
    fresh = begin(impl)
    opened, _ = fresh.stake(KEY, 100)
    closed = opened.reject(KEY, 1)
    for call in (
        lambda: fresh.reject(KEY, 1),
        lambda: fresh.abandon(KEY),
        lambda: closed.promote(KEY, 1),
        lambda: opened.reject("other", 1),
        lambda: opened.promote("other", 1),
        lambda: opened.reject(KEY, 101),
        lambda: opened.reject(KEY, -1),
        lambda: opened.promote(KEY, 101),
        lambda: opened.promote(KEY, 0),
        opened.end_epoch,
        lambda: fresh.end_epoch(size=10),
        lambda: fresh.stake(KEY, 0),
    ):
        with pytest.raises(StatisticsError):
            call()


PROPERTIES = [
    shares_sum_to_at_most_one,
    resuming_spends_nothing,
    the_high_water_mark_counts_rejected_tests,
    an_empty_vault_tests_nothing,
    illegal_orders_raise,
    burned_epochs_share_delta,
    kept_items_obey_kraft,
    stakes_do_not_depend_on_outcomes,
    nothing_is_refunded,
    burned_items_never_return,
]


@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.__name__)
def test_property(prop):
    """The ledger has the property that its name and docstring state."""
    prop(harness.ledger, settings())


# ------------------------------------------------------------------------------------------------ mutants

MUTANTS = {
    "the shares sum to more than one": ("GAMMA_TOTAL = 5.5916", "GAMMA_TOTAL = 5.5"),
    "the shares fall too slowly": ("k**-1.2", "k**-1.1"),
    "every test has the whole delta": ("gamma(self.epoch) * gamma(test) * self.kappa", "self.kappa"),
    "epochs do not share": ("self.delta * gamma(self.epoch) * gamma(test)", "self.delta * gamma(test)"),
    "tests do not share": ("self.delta * gamma(self.epoch) * gamma(test)", "self.delta * gamma(self.epoch)"),
    "kappa is ignored": ("gamma(test) * self.kappa", "gamma(test)"),
    "kappa is not carried": ("kappa = self.kappa * gamma(stake.test)", "kappa = self.kappa"),
    "a rejection gives the test back": ("return self._with(high_water=high, pending=None)", "return self._with(high_water=high, pending=None, test=self.test - 1)"),
    "a rejection refunds": ("return self._with(high_water=high, pending=None)", "return self._with(high_water=high, pending=None, spent=0.0)"),
    "a rejection forgets what it scored": ("return self._with(high_water=high, pending=None)", "return self._with(pending=None)"),
    "an abandoned test scored nothing": ("stake.items if stake is not None else 0", "0"),
    "the stake grows with what was scored": ("gamma(test) * self.kappa", "gamma(test) * self.kappa * (1 + self.high_water / self.size)"),
    "resuming spends again": ("if self.pending.key == key:", "if False:"),
    "any key resumes": ("if self.pending.key == key:", "if True:"),
    "a second stake replaces the first": ("if self.pending is not None:\n            if", "if False:\n            if"),
    "a promotion burns only its own items": ("return stake, max(self.high_water, used)", "return stake, used"),
    "a promotion burns nothing": ("offset=self.offset + high,", "offset=self.offset,"),
    "a promotion stays in its epoch": ("epoch=self.epoch + 1, test=0, kappa=1.0", "epoch=self.epoch, test=0, kappa=1.0"),
    "a promotion goes on counting": ("epoch=self.epoch + 1, test=0, kappa=1.0", "epoch=self.epoch + 1, kappa=1.0"),
    "a promotion on nothing": ("if used < 1:", "if used < 0:"),
    "the end of an epoch burns nothing": ("offset=self.offset + self.high_water,", "offset=self.offset,"),
    "an epoch ends under an open test": ("if self.pending is not None:\n            raise", "if False:\n            raise"),
    "the vault shrinks": ("size is not None and size < self.size", "False"),
    "an exhausted vault tests": ("if self.exhausted:", "if False:"),
    "a test scores more than it staked for": ("if not 0 <= used <= stake.items:", "if not 0 <= used:"),
    "a test scores beyond the vault": ("items=min(cap, self.remaining)", "items=cap"),
    "anybody closes": ("if stake is None or stake.key != key:", "if stake is None:"),
}  # fmt: skip

KILLED = (AssertionError, StatisticsError, ValidationError, pytest.fail.Exception)
"""How a property fails; a mutant that merely does not run is none."""


def mutant(old: str, new: str) -> ModuleType:
    """Load the module from its source with one place changed; the real one stays as it is."""
    source = Path(harness.ledger.__file__).read_text()
    assert source.count(old) == 1, f"the source has changed: {old!r} stands in it {source.count(old)} times"
    loaded = importlib.util.module_from_spec(importlib.util.spec_from_loader("mutant_ledger", None))
    sys.modules[loaded.__name__] = loaded
    exec(compile(source.replace(old, new), "mutant ledger", "exec"), loaded.__dict__)  # noqa: S102 - our own source, one place changed
    return loaded


QUICK = settings(max_examples=50, phases=[Phase.generate], database=None, derandomize=True, deadline=None)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(name, monkeypatch):
    """A plausible wrong ledger is caught by at least one property."""
    monkeypatch.setitem(sys.modules, "mutant_ledger", None)
    impl = mutant(*MUTANTS[name])
    for prop in PROPERTIES:
        try:
            prop(impl, QUICK)
        except KILLED:
            return
    pytest.fail("survived every property")


def test_an_unchanged_copy_survives(monkeypatch):
    """Loading the module as mutants are loaded changes nothing: it is the mutation that kills."""
    monkeypatch.setitem(sys.modules, "mutant_ledger", None)
    impl = mutant("GAMMA_TOTAL = 5.5916", "GAMMA_TOTAL = 5.5916")
    for prop in PROPERTIES:
        prop(impl, QUICK)


# ------------------------------------------------------------------------------------------------ the rest


@given(ACTIONS)
def test_states_come_back_from_the_log_unchanged(actions):
    """Every state, with or without an open stake, survives canonical JSON bit for bit: a crash grows nothing."""
    for before, _, after in play(harness.ledger, actions):
        for state in (before, after):
            assert harness.ledger.LedgerState.parse(json.loads(canonical_bytes(state.json_value()))) == state


def test_states_that_cannot_be_are_refused():
    """A state that claims a larger stake, more items, or more spent than the rule allows is no state."""
    opened, _ = begin(harness.ledger).stake(KEY, 100)
    raw = opened.json_value()
    forged = [
        {**raw, "pending": {**raw["pending"], "alpha": 0.04}},
        {**raw, "pending": {**raw["pending"], "epoch": 2}},
        {**raw, "pending": {**raw["pending"], "offset": 5}},
        {**raw, "pending": {**raw["pending"], "items": 100_001}},
        {**raw, "kappa": 0.5},
        {**raw, "spent": 0.06},
        {**raw, "offset": 100_001},
        {**raw, "kappa": 1.5, "pending": None},
        {**raw, "delta": 0.0, "pending": None},
    ]
    for value in forged:
        with pytest.raises(ValidationError):
            harness.ledger.LedgerState.parse(value)


@pytest.mark.parametrize("k", [0, -1])
def test_shares_are_counted_from_one(k):
    """There is no zeroth test."""
    with pytest.raises(StatisticsError, match="counted from 1"):
        harness.ledger.gamma(k)
