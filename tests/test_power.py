"""Power: the figures that margins were chosen by, and refusals that say what would do."""

from __future__ import annotations

import json
import math

import numpy as np
import paper_run
import pytest
from typer.testing import CliRunner

from harness import operating
from harness.canonical import canonical_bytes
from harness.cli import app
from harness.errors import ConfigError, StateError, StatisticsError
from harness.folder import RunFolder
from harness.gates import compile_gates
from harness.ledger import LedgerState, gamma
from harness.power import LADDER, PowerTable, Reach, looks, power, reach, require_power, typical_alpha
from harness.statistics import SequentialTest, run_test

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


def test_looks_are_those_of_the_test():
    """Whether many tests pass or are out of hope, look by look, is what the sequential test says of the same counts."""
    spec = gates(("a", "parent", "margin", 0.1))[0]
    rng = np.random.default_rng(8)
    counts = rng.multinomial(50, [0.2, 0.65, 0.15], size=(40, 10)).cumsum(axis=1)
    left = 500 - counts.sum(axis=2)
    passes, dies = looks(spec, np.array([-1.0, 0.0, 1.0]), counts, goal=-math.log(0.01), left=left)
    dies[:, -1] = True
    for row in range(40):
        test = SequentialTest([spec], alpha=0.01, cap=500, batch=50)
        steps = np.diff(counts[row], axis=0, prepend=0)
        while (wanted := test.next) is not None:
            test.feed({spec.name: np.repeat([-1.0, 0.0, 1.0], steps[wanted.start // 50])})
        end = int((passes[row] | dies[row]).argmax())
        assert (bool(passes[row, end]), 50 * (end + 1)) == (test.result().passed, test.result().items)
    assert 0 < passes.any(axis=1).sum() < 40


def test_effects_need_the_items_that_were_measured():
    """At a tenth discordance and alpha .001, 5 points take about 700 items, 2 about 4,000, half a point is not found."""
    half, two, five = reach(gates(IMPROVE), [0.005, 0.02, 0.05], alpha=1e-3, cap=10_000, discordance=0.1)
    assert 600 < five.median < 800
    assert five.median < five.ninety < 1500
    assert 3600 < two.median < 4800
    assert (half.median, half.ninety, half.detectable) == (None, None, False)
    assert half.probability < 0.1
    assert (half.cap, two.detectable, two.true_mean) == (10_000, True, 0.02)


def test_the_quantiles_are_those_of_real_tests():
    """The median and the nine-in-ten number of items to a pass agree with those of 200 real tests."""
    spec = gates(("a", "parent", "margin", 0.1))
    found = reach(spec, [0.1], alpha=0.01, cap=2000, discordance=0.3)[0]
    rng = np.random.default_rng(4)
    items = []
    for _ in range(200):
        x = rng.choice([-1.0, 0.0, 1.0], p=[0.15, 0.7, 0.15], size=2000)
        result = run_test(spec, lambda _, a, b, x=x: x[a:b], 0.01, 2000)
        items.append(result.items if result.passed else math.inf)
    assert np.median(items) == pytest.approx(found.median, rel=0.2)
    assert np.quantile(items, 0.9, method="higher") == pytest.approx(found.ninety, rel=0.25)


def test_an_effect_is_the_distance_from_the_null():
    """For every kind of gate the true mean assumed lies the effect above its null, and larger ones need fewer items."""
    specs = gates(
        IMPROVE, ("b", "parent", "margin", 0.05), ("b", "anchor", "margin", 0.08), ("a", "floor", "threshold", 0.6),
        ("b", "ceiling", "threshold", 0.6), ("c", "rare", "rate", 0.2), ("wide", "parent", "margin", 0.5),
    )  # fmt: skip
    found = reach(specs, [0.06, 0.12], alpha=1e-3, cap=6000, discordance=0.1, replications=200)
    for gate, small, large in zip(specs, found[::2], found[1::2], strict=True):
        assert (small.gate, large.gate) == (gate.name, gate.name)
        assert (small.true_mean, large.true_mean) == pytest.approx((gate.theta + 0.06, gate.theta + 0.12))
        assert (large.median or math.inf) < (small.median or math.inf) or gate.eval == "wide"


def test_items_are_those_of_the_vault():
    """Where an eval applies to a quarter of the items, a decision takes four times as many of the vault's."""
    assumed = {"alpha": 1e-3, "cap": 20_000, "discordance": 0.1}
    whole, quarter = (reach(gates(IMPROVE), [0.05], **assumed, applies={"a": share})[0] for share in (1.0, 0.25))
    assert quarter.median == pytest.approx(4 * whole.median, rel=0.1)
    assert quarter.median <= quarter.cap == 20_000


def test_what_is_left_bounds_what_can_be_found():
    """With few items left, an effect that the cap would find is not detectable, and the bound is told."""
    assumed = {"alpha": 1e-3, "cap": 10_000, "discordance": 0.1}
    assert reach(gates(IMPROVE), [0.05], **assumed)[0].detectable
    found = reach(gates(IMPROVE), [0.05], **assumed, available=300)[0]
    assert (found.cap, found.detectable, found.median) == (300, False, None)


def test_a_smaller_stake_needs_more_items():
    """The later in the ledger, the more items the same effect takes."""
    early, late = (reach(gates(IMPROVE), [0.05], alpha=alpha, cap=10_000, discordance=0.1)[0] for alpha in (1e-2, 1e-6))
    assert early.median < late.median


def test_no_score_has_an_effect_beyond_its_end():
    """An effect that would lift the mean beyond what the score can be is told as such; one within takes the least ties."""
    floor = gates(("a", "floor", "threshold", 0.95))
    beyond = reach(floor, [0.1], alpha=1e-3, cap=1000, discordance=0.1)[0]
    assert (beyond.possible, beyond.probability, beyond.median) == (False, 0.0, None)
    assert reach(gates(IMPROVE), [1.0], alpha=1e-3, cap=1000, discordance=0.1)[0].discordance == 1.0
    raised = reach(gates(IMPROVE), [0.3], alpha=1e-3, cap=1000, discordance=0.1)[0]
    assert (raised.discordance, raised.possible) == (pytest.approx(0.3), True)


@pytest.mark.parametrize("effects", [[], [0.0], [-0.1], [math.nan], [math.inf], [0.1] * 21])
def test_effects_are_above_nothing(effects):
    """An effect that is not a positive number raises, and so do none and too many."""
    with pytest.raises(StatisticsError, match="effect"):
        reach(gates(IMPROVE), effects, alpha=1e-3, cap=100, discordance=0.1)


def test_reaches_repeat_and_round_trip():
    """The same assumptions give the same figures, which survive canonical JSON, for every effect of the ladder."""
    assumed = {"alpha": 1e-3, "cap": 1000, "discordance": 0.2, "replications": 100}
    found = reach(gates(IMPROVE), **assumed)
    assert reach(gates(IMPROVE), **assumed) == found
    assert [one.effect for one in found] == list(LADDER)
    assert [Reach.parse(json.loads(canonical_bytes(one.json_value()))) for one in found] == list(found)


# ------------------------------------------------------------------------------------------------ at a run's next test


def begun(folder, tell=lambda _teller, _paper: None, **genesis):
    """Write a run that has begun, and on which `tell` goes on; give its folder."""

    def story(paper):
        teller = paper_run.Teller(paper, paper.candidate("base"))
        teller.begin()
        teller.items[0].body.update(genesis)
        tell(teller, paper)
        for place, item in enumerate(teller.items):
            item.body["time"] = f"2026-01-02T03:00:{place:02}Z"
        return teller.items

    paper_run.write(folder, story)
    return RunFolder(folder)


def rejected(teller, paper):
    """Tell of one proposal that was tested and rejected."""
    teller.propose(1)
    teller.test(1, paper.candidate("two"), "fail")
    measured = run_test(gates(IMPROVE), lambda _, a, b: -np.ones(b - a), 1e-3, 1000)
    teller.items[-1].body["evidence"] = paper.blobs.put(canonical_bytes({"result": measured.json_value()}))
    teller.decide(1, "reject", "gate-objective")


def test_the_next_test_stakes_what_the_ledger_gives(tmp_path):
    """After one rejection the second stake of the epoch is what is told; where a test is open, what follows its rejection."""
    first = operating._next_test(paper_run.CONFIG, begun(tmp_path / "first"))
    assert (first.epoch, first.test, first.items_left, first.in_force) == (1, 1, 5000, True)
    assert first.alpha == LedgerState(delta=0.05, size=5000).stake("x", 1)[1].alpha
    second = operating._next_test(paper_run.CONFIG, begun(tmp_path / "second", rejected))
    assert second.test == 2
    assert second.alpha == pytest.approx(0.05 * gamma(1) * gamma(2))

    def opened(teller, paper):
        rejected(teller, paper)
        del teller.items[-1]

    assert operating._next_test(paper_run.CONFIG, begun(tmp_path / "open", opened)) == second


def test_an_exhausted_vault_stakes_nothing(tmp_path, monkeypatch):
    """With fewer items left than a test needs, there is no stake to tell: `gates power` says so, and ends with 3."""
    found = operating._next_test(paper_run.CONFIG, begun(tmp_path / "run", vault_items=150))
    assert (found.alpha, found.items_left, found.minimum) == (None, 150, 200)
    told = operating.GatesPower(floor=0.0, table=None, reach=(), run=found)
    assert not told.ok
    monkeypatch.setattr(operating, "power_of", lambda *_: told)
    for options in ([], ["--json"]):
        done = CliRunner().invoke(app, ["gates", "power", "subject", "--run", str(tmp_path / "run"), *options])
        assert done.exit_code == 3
        assert "exhausted: 150 items" in done.output if not options else not json.loads(done.output)["ok"]


def test_other_gates_than_those_in_force_are_told(tmp_path):
    """Where the configuration on the disk has other gates or another ledger than the run's log, that is said."""
    run = begun(tmp_path / "run")
    raw = paper_run.CONFIG.json_value()
    raw["gates"][1]["margin"] = 0.2
    assert not operating._next_test(type(paper_run.CONFIG).parse(raw), run).in_force


def test_a_ledger_that_does_not_follow_from_the_log_is_refused(tmp_path):
    """A run of another subject, one on a named vault, and one whose stakes are not the rule's are errors, each its own."""
    raw = {**paper_run.CONFIG.json_value(), "name": "other"}
    with pytest.raises(ConfigError, match="'paper', not of 'other'"):
        operating._next_test(type(paper_run.CONFIG).parse(raw), begun(tmp_path / "other"))
    with pytest.raises(ConfigError, match="named one") as caught:
        operating._next_test(paper_run.CONFIG, begun(tmp_path / "named", vault_named=True))
    assert "--run" in caught.value.remedy

    def generous(teller, paper):
        rejected(teller, paper)
        next(item for item in teller.items if item.kind == "staked").body["alpha"] = 0.04

    with pytest.raises(StateError, match="the ledger's rule"):
        operating._next_test(paper_run.CONFIG, begun(tmp_path / "generous", generous))
    assert typical_alpha(0.05, fresh=True) == pytest.approx(0.05 / 5.5916 * 20**-1.2)
