"""Facts about tests/simulations: it simulates the real test and the real ledger; its rivals are what they are said to be."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.gates import compile_gates
from harness.ledger import LedgerState
from harness.statistics import SequentialTest

FOLDER = Path(__file__).parent / "simulations"


def module(name):
    """Import one of the simulations' files by its path."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


simulate = module("simulate")
lives, rivals, claims = (sys.modules[name] for name in ("lives", "rivals", "claims"))

RAW = {
    "improve": {"eval": "score", "kind": "improve"},
    "parent": {"eval": "refusal", "kind": "parent", "margin": 0.05},
    "anchor": {"eval": "refusal", "kind": "anchor", "margin": 0.08, "cap": 3000},
}


def gates_of(*names):
    """Compile some gates."""
    return compile_gates([RAW[name] for name in names], simulate.BOUNDS)


def feed(gates, counts, alpha, cap, available):
    """Run the real test over items made from counts: by gate, one [losses, ties, wins] for each batch."""
    test = SequentialTest(gates, alpha=alpha, cap=cap, batch=lives.BATCH, available=available)
    while (wanted := test.next) is not None:
        at = wanted.start // lives.BATCH
        index = {gate.name: number for number, gate in enumerate(gates)}
        values = {name: np.repeat(lives.POINTS, counts[index[name]][at]) for name in wanted.gates}
        assert all(len(x) == wanted.stop - wanted.start for x in values.values())
        test.feed(values)
    result = test.result()
    return result.passed, result.items


@given(
    names=st.sampled_from([("improve",), ("improve", "parent"), ("improve", "parent", "anchor")]),
    seed=st.integers(0, 2**32),
    alpha=st.sampled_from([0.05, 1e-3, 1e-5]),
    cap=st.sampled_from([1000, 2000]),
)
@settings(deadline=None, max_examples=25)
def test_the_twin_is_the_sequential_test(names, seed, alpha, cap):
    """Fed the same items, many tests at once and the real test agree on every verdict and every number of items."""
    rng = np.random.default_rng(seed)
    gates, tests = gates_of(*names), 12
    truth = rng.choice([-0.05, -0.01, 0.0, 0.03, 0.08], size=(tests, len(gates)))
    available = rng.integers(120, 4000, size=tests)
    drawn = defaultdict(dict)

    def draw(index, rows, at, sizes):
        counts = lives.counted(rng, truth[rows, index], sizes)
        for row, looked in zip(rows, counts, strict=True):
            drawn[int(row)].setdefault(index, {}).update(zip(at.tolist(), looked, strict=True))
        return counts

    passed, items = lives.many_tests(gates, draw, np.full(tests, alpha), cap, available)
    for row in range(tests):
        assert (bool(passed[row]), int(items[row])) == feed(gates, drawn[row], alpha, cap, int(available[row]))


@pytest.mark.parametrize("names", [("improve",), ("improve", "anchor")])
def test_a_life_is_the_ledger_and_the_tests_one_after_another(names, monkeypatch):
    """Whole lives, to the last item of the vault, give the promotions, items and stakes of the real parts fed the same."""
    gates, vault, cap, proposals = gates_of(*names), 12_000, 2000, 60
    rng = np.random.default_rng(3)
    effects = rng.choice([0.0, -0.02, 0.06], size=(3, proposals))
    calls = []
    many = lives.many_tests

    def watched(gates, draw, *rest):
        seen = defaultdict(dict)

        def seeing(index, rows, at, sizes):
            counts = draw(index, rows, at, sizes)
            for row, looked in zip(rows, counts, strict=True):
                seen[int(row)].setdefault(index, {}).update(zip(at.tolist(), looked, strict=True))
            return counts

        found = many(gates, seeing, *rest)
        calls.append(seen)
        return found

    monkeypatch.setattr(lives, "many_tests", watched)
    found = lives.lead(rng, gates, effects, vault=vault, cap=cap, minimum=4000)
    ledgers = [LedgerState(delta=0.05, size=vault, minimum=4000) for _ in effects]
    for number in range(proposals):
        rows = [row for row, ledger in enumerate(ledgers) if not ledger.exhausted]
        for place, row in enumerate(rows):
            ledgers[row], stake = ledgers[row].stake(str(number), max([cap, *(gate.cap or 0 for gate in gates)]))
            passed, items = feed(gates, calls[number][place], stake.alpha, cap, stake.items)
            ledgers[row] = (ledgers[row].promote if passed else ledgers[row].reject)(str(number), items)
            assert (found.promoted[row, number], found.scored[row, number]) == (passed, items)
        for row in set(range(len(effects))) - set(rows):
            assert (found.promoted[row, number], found.scored[row, number]) == (False, 0)
    assert found.used.tolist() == [ledger.offset + ledger.high_water for ledger in ledgers]
    assert found.promoted.any()
    assert any(ledger.exhausted for ledger in ledgers)
    assert found.drift == pytest.approx(100 * (effects * found.promoted).sum(axis=1))


def test_an_epoch_shares_its_items():
    """Two candidates of one epoch lose only where the incumbent is right: their losses go together; means are as drawn."""
    rng = np.random.default_rng(1)
    right = rng.binomial(50, 0.5, (4000, 1))
    sizes = np.full((4000, 1), 50)
    one, other = (lives.counted(rng, np.full(4000, 0.02), sizes, right)[:, 0] for _ in range(2))
    assert (one[:, 0] <= right[:, 0]).all()
    assert (one[:, 2] <= 50 - right[:, 0]).all()
    assert np.corrcoef(one[:, 0], other[:, 0])[0, 1] > 0.02
    assert (one[:, 2] - one[:, 0]).mean() / 50 == pytest.approx(0.02, abs=0.003)
    assert (one[:, 2] + one[:, 0]).mean() / 50 == pytest.approx(0.1, abs=0.003)


def test_a_promotion_that_a_gate_should_have_stopped_is_counted():
    """Without a ledger, at an alpha of a half, null candidates are promoted, and each is counted as false."""
    found = lives.lead(
        np.random.default_rng(0), gates_of("improve"), np.zeros((4, 20)), vault=10**6, cap=1000, unsafe_alpha=0.5
    )
    assert found.promoted.any()
    assert (found.wrong == found.promoted).all()


def lord_by_hand(found, alpha=0.05, wealth=0.005, count=8):
    """The levels of LORD++ by its definition, given which tests (from 1) were discoveries."""

    def gamma(j):
        return 0.07720838 * math.log(max(j, 2)) / (j * math.exp(math.sqrt(math.log(j))))

    levels = []
    for t in range(1, count + 1):
        before = [tau for tau in found if tau < t]
        level = wealth * gamma(t)
        level += (alpha - wealth) * gamma(t - before[0]) if before else 0.0
        level += alpha * sum(gamma(t - tau) for tau in before[1:])
        levels.append(level)
    return levels


def test_lord_spends_as_published():
    """The levels of LORD++ are those of its definition, life by life, and those of another implementation (online-fdr 1.0.0)."""
    rule = rivals.Lord(2, 8, 0.05)
    found = {0: [2, 4, 6], 1: []}
    levels = []
    for t in range(1, 9):
        levels.append(rule.levels.copy())
        rule.tell(np.array([t in found[0], t in found[1]]))
    assert np.array(levels)[:, 0] == pytest.approx(lord_by_hand(found[0]), rel=1e-12)
    assert np.array(levels)[:, 1] == pytest.approx(lord_by_hand(found[1]), rel=1e-12)
    printed = [0.0002675838546, 5.819102891e-05, 0.0024578171850, 0.0005649372905,
               0.0031568453399, 0.0009831020636, 0.0035125598434, 0.0012898822346]  # fmt: skip
    assert np.array(levels)[:, 0] == pytest.approx(printed, rel=1e-9)


def test_gammas_of_lord_sum_to_at_most_one():
    """The gammas of LORD++ that any life of a million tests can use sum to no more than 1."""
    assert 0.5 < rivals.lord_gammas(1_000_000).sum() <= 1.0


def test_sgm_is_bernstein_with_harmonic_spending():
    """SGM's bound is what its paper says, and ten seeds can never meet it."""
    bound = rivals.bernstein(np.array([0.1]), np.array([0.04]), 100, np.array([0.03]))[0]
    assert bound == pytest.approx(0.1 - math.sqrt(2 * 0.04 * math.log(100) / 100) - 3 * math.log(100) / 100)
    assert rivals.bernstein(np.ones(1), np.zeros(1), 10, np.array([0.05]))[0] < 0
    every = rivals.sgm(np.random.default_rng(0), np.full((1, 5), 0.1), 10_000, 0.05)
    assert every.promoted.all()


@pytest.mark.parametrize(
    ("hits", "times", "low", "high"),
    [
        (0, 100, 0.0, 1 - 0.025**0.01),
        (100, 100, 0.025**0.01, 1.0),
        (5, 10, 0.18709, 0.81291),
        (1, 20, 0.00127, 0.24873),
    ],
)
def test_intervals_are_clopper_and_pearsons(hits, times, low, high):
    """The exact interval of a probability agrees with its closed form and with printed tables."""
    assert rivals.clopper_pearson(hits, times) == pytest.approx((low, high), abs=1e-5)


def test_the_fixed_test_finds_what_it_was_sized_for():
    """The z-test with its own number of items finds 2 points nine times in ten, and calls nothing a gain 1 in 20 times."""
    n = rivals.oracle_items(0.02, 0.05, 0.9)
    rng = np.random.default_rng(0)
    assert rivals.per_test(rng, np.full((1, 20_000), 0.02), n, 0.05).promoted.mean() == pytest.approx(0.9, abs=0.01)
    assert rivals.per_test(rng, np.zeros((1, 20_000)), n, 0.05).promoted.mean() == pytest.approx(0.05, abs=0.007)
    assert rivals.hoeffding_items(0.05, 1e-3) == 5527


TINY = simulate.Size(lives=80, frogs=2, errors=300, items=300, banks=2, proposals=60)


@pytest.fixture(scope="module")
def tiny():
    """Simulate a little of everything."""
    return simulate.simulate(TINY)


def test_the_claims_hold_in_a_small_world(tiny):
    """In 80 lives of 60 proposals nothing that is claimed is refuted, and the bound on false promotions holds."""
    assert {row["claim"]: row["figures"] for row in tiny["claims"] if row["holds"] is False} == {}
    ours = [row for row in tiny["worlds"] if row["rule"].startswith("lockgate")]
    assert len(ours) == 6
    assert all(row["any_false"] <= 0.05 for row in ours)
    assert all(row["any_false"] > 0.9 for row in tiny["worlds"] if row["rule"].startswith("greedy"))
    assert len([row for row in tiny["claims"] if row["holds"]]) >= 12


def test_the_same_seed_gives_the_same_table(tiny):
    """A seed gives the same figures twice, and another seed others."""
    assert simulate.bank(TINY, 0) == tiny["bank"]
    assert simulate.errors(TINY, 0) == tiny["errors"]
    assert simulate.errors(TINY, 1) != tiny["errors"]


def broken(found, **changed):
    """A document in which our rows of the worlds say something else."""
    rows = [{**row, **changed} if row["rule"].startswith("lockgate") else row for row in found["worlds"]]
    return {**found, "worlds": rows}


def test_a_claim_that_does_not_hold_is_told(tiny):
    """An interval above delta is NO, one that straddles it cannot be told, and a drift below 0 is NO."""
    first = tiny["claims"][0]["claim"]

    def said(document):
        return {row["claim"]: row["holds"] for row in claims.claims(document)}

    assert said(broken(tiny, any_false_interval=(0.06, 0.2)))[first] is False
    assert said(broken(tiny, any_false_interval=(0.04, 0.06)))[first] is None
    assert said(broken(tiny, any_false_interval=(0.0, 0.05)))[first] is True
    fallen = said(broken(tiny, drift=-1.0))
    assert fallen["nothing but noise and harm: ours does not fall, greedy does"] is False
    assert fallen["1 % improvements: ours rises, greedy falls"] is False


@pytest.mark.parametrize(("interval", "options", "code"), [
    ((0.0, 0.01), [], 0), ((0.04, 0.06), [], 1), ((0.04, 0.06), ["--quick"], 0), ((0.06, 0.2), ["--quick"], 1),
])  # fmt: skip
def test_the_command_ends_with_1_where_a_claim_fails(tiny, interval, options, code, monkeypatch, capsys):
    """A refuted claim ends with 1; one that cannot be told does so unless the simulation was a quick one."""
    document = broken(tiny, any_false_interval=interval)
    rows = [row for row in claims.claims(document) if "false promotion" in row["claim"]]
    monkeypatch.setattr(simulate, "simulate", lambda _size, _seed: {**document, "claims": rows})
    monkeypatch.setattr(sys, "argv", ["simulate.py", *options, "--json"])
    assert simulate.main() == code
    assert json.loads(capsys.readouterr().out)["claims"] == rows


def test_the_tables_say_what_was_found(tiny, capsys):
    """Each rule, gate, alpha, effect and claim has its row."""
    claims.show(tiny)
    printed = capsys.readouterr().out
    for part in ("worlds", "frog"):
        assert all(row["rule"] in printed for row in tiny[part])
    assert all(row["claim"] in printed for row in tiny["claims"])
    assert printed.count("\n| ") == sum(len(tiny[part]) for part in
                                        ("worlds", "frog", "errors", "items", "bank", "claims")) + 2 * 6  # fmt: skip
