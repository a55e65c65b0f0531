"""Power: the figures that margins were chosen by, and refusals that say what would do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.canonical import canonical_bytes
from harness.errors import StatisticsError
from harness.gates import compile_gates
from harness.power import PowerTable, power, require_power, typical_alpha
from harness.statistics import run_test

UNIT = {"a": (0.0, 1.0), "b": (0.0, 1.0), "c": (0.0, 1.0), "wide": (-3.0, 2.0)}


def gates(*raw):
    """Compile gates given as (eval, kind, parameter, value)."""
    return compile_gates([{"eval": e, "kind": k, **({p: v} if p else {})} for e, k, p, v in raw], UNIT)


IMPROVE = ("a", "improve", None, None)


@pytest.mark.parametrize(
    ("discordance", "margin", "expected"),
    [(0.10, 0.02, 0.84), (0.16, 0.02, 0.54), (0.16, 0.05, 0.99), (0.25, 0.02, 0.21), (0.25, 0.05, 0.98),
     (0.33, 0.02, 0.14), (0.33, 0.05, 0.95)],
)  # fmt: skip
def test_equal_candidates_pass_as_often_as_measured(discordance, margin, expected):
    """An equal candidate passes one gate at alpha 1.3e-4 and cap 10,000 with the probability measured beforehand."""
    table = power(gates(("a", "parent", "margin", margin)), alpha=1.3e-4, cap=10_000, discordance=discordance)
    assert table.joint == pytest.approx(expected, abs=0.05)


def test_gains_are_found_as_often_as_they_can_be():
    """At a tenth discordance and alpha .001, five points are found within some 700 items, half a point hardly ever."""
    large, small = (
        power(gates(IMPROVE), alpha=1e-3, cap=10_000, discordance=0.1, gain=gain).rows[0] for gain in (0.05, 0.005)
    )
    assert large.probability > 0.98
    assert 500 < large.items < 900
    assert small.probability < 0.1


def test_the_simulation_is_the_test():
    """The share of passes agrees with that of 100 real tests, within five standard errors of both."""
    specs = gates(("a", "parent", "margin", 0.1))
    table = power(specs, alpha=0.01, cap=500, discordance=0.3)
    rng = np.random.default_rng(4)
    real = 0
    for _ in range(100):
        x = rng.choice([-1.0, 0.0, 1.0], p=[0.15, 0.7, 0.15], size=500)
        real += run_test(specs, lambda _, a, b, x=x: x[a:b], 0.01, 500).passed
    assert 0.2 < table.joint < 0.9
    assert abs(real / 100 - table.joint) < 5 * (0.05 + 0.02)


def test_the_joint_is_the_product():
    """Gates multiply, so more of them pass together more seldom."""
    three = gates(IMPROVE, ("b", "parent", "margin", 0.03), ("b", "anchor", "margin", 0.03))
    table = power(three, alpha=2e-4, cap=5000, discordance=0.15)
    assert table.joint == pytest.approx(np.prod([row.probability for row in table.rows]))
    assert table.joint < min(row.probability for row in table.rows)


def test_power_grows_with_margin_cap_and_share():
    """A wider margin, a higher cap, or an eval that applies to more of the items make a gate easier to pass."""
    assumed = {"alpha": 2e-4, "cap": 3000, "discordance": 0.2}
    middle = power(gates(("a", "parent", "margin", 0.04)), **assumed).joint
    assert power(gates(("a", "parent", "margin", 0.06)), **assumed).joint > middle
    assert power(gates(("a", "parent", "margin", 0.04)), **{**assumed, "cap": 6000}).joint > middle
    assert power(gates(("a", "parent", "margin", 0.04)), **assumed, applies={"a": 0.3}).joint < middle


def test_no_cap_reaches_beyond_the_vault():
    """A gate's own cap counts in place of the test's, but never more items than the vault holds."""
    specs = compile_gates([{"eval": "a", "kind": "anchor", "margin": 0.05, "cap": 2000}], UNIT)
    assumed = {"alpha": 1e-3, "cap": 100, "discordance": 0.2}
    assert power(specs, **assumed).rows[0].cap == 2000
    assert power(specs, **assumed, available=300).rows[0].cap == 300


def test_only_the_evals_to_be_improved_gain():
    """The gain counts for every pair on the objective, and for nothing else; the scale is that of the score."""
    specs = gates(IMPROVE, ("a", "anchor", "margin", 0.05), ("wide", "parent", "margin", 0.5))
    rows = power(specs, alpha=1e-3, cap=1000, discordance=0.2, gain=0.04).rows
    assert [row.true_mean for row in rows] == pytest.approx([0.04, 0.04, 0.0])


def test_discordance_is_found_by_gate_or_eval():
    """An anchor may have a discordance of its own; a pair without any is refused, a floor needs none."""
    specs = gates(("a", "parent", "margin", 0.05), ("a", "anchor", "margin", 0.05), ("b", "floor", "threshold", 0.5))
    table = power(specs, alpha=1e-3, cap=1000, discordance={"a": 0.1, "a/anchor": 0.4})
    assert [row.discordance for row in table.rows] == [0.1, 0.4, None]
    with pytest.raises(StatisticsError, match="no discordance"):
        power(specs, alpha=1e-3, cap=1000, discordance={"b": 0.1})


def test_unpaired_gates_need_a_level():
    """A floor near the assumed mean is hard to pass, one far below it easy; a ceiling and rare failures likewise."""
    specs = gates(("a", "floor", "threshold", 0.7), ("b", "ceiling", "threshold", 0.6), ("c", "rare", "rate", 0.02))
    assumed = {"alpha": 1e-3, "cap": 3000, "discordance": 0.1}
    far = power(specs, **assumed, levels={"a": 0.8, "b": 0.5, "c": 1.0})
    near = power(specs, **assumed, levels={"a": 0.705, "b": 0.595, "c": 0.981})
    assert min(row.probability for row in far.rows) > 0.95
    assert max(row.probability for row in near.rows) < 0.2
    assert [row.true_mean for row in power(specs, **assumed).rows] == pytest.approx([0.85, -0.3, -0.002])


def test_hopeless_configurations_are_refused_with_a_remedy():
    """Gates that hardly pass are refused; the margin that the error names for the weakest makes it pass."""
    specs = gates(IMPROVE, ("b", "parent", "margin", 0.02))
    assumed = {"alpha": typical_alpha(0.05), "cap": 6000, "discordance": 0.2}
    with pytest.raises(StatisticsError, match=r"below 0\.5") as caught:
        require_power(specs, **assumed)
    assert caught.value.where == "b/parent"
    words = caught.value.remedy.split()
    assert words[:5] == ["widen", "its", "margin", "from", "0.02"]
    wider = gates(IMPROVE, ("b", "parent", "margin", float(words[7])))
    assert require_power(wider, **assumed).joint > 0.5
    assert "cap from 6000" in caught.value.remedy


def test_a_gain_too_small_to_find_is_refused():
    """An objective whose gain cannot be found under the cap is refused, and the error says so."""
    with pytest.raises(StatisticsError) as caught:
        require_power(gates(IMPROVE), alpha=2e-4, cap=2000, discordance=0.2, gain=0.005)
    assert caught.value.remedy.endswith("look for gains above 0.005")


@pytest.mark.parametrize(
    "changed",
    [
        {"discordance": 0.01, "gain": 0.05},
        {"discordance": 1.5},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"cap": 0},
        {"batch": 0},
        {"replications": 0},
        {"applies": {"a": 0.0}},
        {"applies": {"a": 1.1}},
        {"levels": {"b": 1.1}},
    ],
)
def test_impossible_assumptions_are_refused(changed):
    """Assumptions that no scores can fulfil raise."""
    specs = gates(IMPROVE, ("b", "floor", "threshold", 0.5))
    with pytest.raises(StatisticsError):
        power(specs, **{"alpha": 1e-3, "cap": 100, "discordance": 0.2, **changed})
    with pytest.raises(StatisticsError, match="no gate"):
        power([], alpha=1e-3, cap=100, discordance=0.2)


def test_tables_repeat_and_round_trip():
    """The same assumptions give the same table, which survives canonical JSON; a gate's figures are its own."""
    specs = gates(IMPROVE, ("b", "parent", "margin", 0.05))
    assumed = {"alpha": 1e-3, "cap": 1000, "discordance": 0.2, "replications": 100}
    table = power(specs, **assumed)
    assert power(specs, **assumed) == table
    assert power(specs[1:], **assumed).rows[0] == table.rows[1]
    assert PowerTable.parse(json.loads(canonical_bytes(table.json_value()))) == table


def test_the_typical_stake_is_the_fifth():
    """Power is calculated at the fifth stake of the first epoch unless another is named."""
    assert typical_alpha(0.05) == pytest.approx(0.05 / 5.5916 * 5**-1.2 / 5.5916)
    assert typical_alpha(0.05, fresh=True) == pytest.approx(0.05 / 5.5916 * 20**-1.2)
