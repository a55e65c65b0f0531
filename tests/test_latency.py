"""Facts about what a candidate costs: the interval of a ratio is exact, times are taken fairly, and rules fail closed."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import rigs
from hypothesis import given
from hypothesis import strategies as st
from rigs import code, generation, knobs
from trails import sha
from typer.testing import CliRunner

from harness.auditing import verify_run
from harness.cli import app
from harness.costs import cost_facts
from harness.developing import Shown
from harness.errors import ConfigError, StatisticsError
from harness.folder import RunFolder
from harness.latency import FEWEST, MOST, UNKNOWN, UNMEASURED, latency
from harness.policy_document import SHAPES
from harness.replay import replay_run
from harness.shapes import Room
from harness.timing import take_times
from harness.workshop import Answered, Failure

SECONDS = st.floats(1e-3, 1e3)
PAIRS = st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=MOST)


def split(pairs):
    """The times of both sides."""
    return [one for one, _ in pairs], [two for _, two in pairs]


@pytest.mark.parametrize("count", range(1, 13))
def test_the_interval_misses_as_seldom_as_it_says(count):
    """Over every way in which ratios can fall about the median, at most one in twenty leaves it outside; exactly."""
    misses = 0
    for signs in itertools.product((0.5, 2.0), repeat=count):
        found = latency(signs, [1.0] * count)
        misses += not found.lower <= 1.0 <= found.upper
    assert misses * 20 <= 2**count
    bounded = latency([1.0] * count, [1.0] * count).upper < UNKNOWN
    assert bounded == (count >= FEWEST)
    if bounded:  # one ratio fewer between the bounds would miss too often
        rank = next(
            r for r in range(count) if latency(sorted(map(float, range(1, count + 1))), [1.0] * count).lower == r + 1
        )
        assert 2 * sum(math.comb(count, below) for below in range(rank + 2)) * 20 > 2**count


@given(PAIRS)
def test_the_bounds_are_about_the_median(pairs):
    """The ratio lies within its bounds, and bounds are ratios that were taken, or say that nothing is known."""
    found = latency(*split(pairs))
    assert found.lower <= found.ratio <= found.upper
    if len(pairs) < FEWEST:
        assert (found.lower, found.upper) == (0.0, UNKNOWN)
    else:
        assert {found.lower, found.upper} <= {one / two for one, two in pairs}


@given(PAIRS, st.randoms(use_true_random=False), st.floats(0.1, 10))
def test_neither_order_nor_the_unit_matters(pairs, random, unit):
    """Pairs in another order give the same; a slower machine, for both runs of each pair, nearly the same."""
    found = latency(*split(pairs))
    shuffled = random.sample(pairs, len(pairs))
    assert latency(*split(shuffled)) == found
    scaled = latency(*split([(one * unit, two * unit) for one, two in pairs]))
    assert scaled.ratio == pytest.approx(found.ratio)
    assert scaled.upper == pytest.approx(found.upper)


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=FEWEST, max_size=MOST), st.data())
def test_a_slower_candidate_has_no_lower_bound(pairs, data):
    """Where one run of the candidate takes longer, no bound and no ratio becomes smaller."""
    found = latency(*split(pairs))
    place = data.draw(st.integers(0, len(pairs) - 1))
    slower = [*pairs]
    slower[place] = (pairs[place][0] * 2, pairs[place][1])
    again = latency(*split(slower))
    assert (again.lower >= found.lower, again.ratio >= found.ratio, again.upper >= found.upper) == (True, True, True)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_times_that_are_none_are_refused(wrong):
    """A time of nothing, a negative one and NaN are errors on either side, and so are odd ones out."""
    good = [1.0] * 8
    for one, two in (([*good[1:], wrong], good), (good, [*good[1:], wrong])):
        with pytest.raises(StatisticsError):
            latency(one, two)
    with pytest.raises(StatisticsError, match="8 times of the candidate for 7"):
        latency(good, good[1:])


def test_what_nobody_measured_is_unknown():
    """Without any pair the facts are of the schema, and no upper bound passes; what was measured is of it, too."""
    assert latency([], []) == UNMEASURED
    for facts in (cost_facts(None, 10.0), cost_facts(None, 10.0) | {"latency": latency([1e9], [1e-3]).json_value()}):
        for name, value in facts.items():
            assert Room().take(SHAPES["decide"].fields[name], value, name) == value
        assert not facts["latency"]["upper"] <= 1e6
    assert not facts["memory"]["predict_mb"] <= 1e6 * facts["memory"]["incumbent_predict_mb"]


# --- taken by turns ----------------------------------------------------------------------------


@dataclass
class Clocked:
    """A workshop that notes who was asked, and gives the times that it was told to."""

    seconds: dict
    answers: dict
    asked: list

    def predict(self, candidate, _inputs, _rows):
        """Answer at once, and say how long it took."""
        self.asked.append(candidate)
        given = self.answers[candidate]
        return given if isinstance(given, Failure) else Answered(given, None, self.seconds[candidate].pop(0), 7.0)


def clocked(pairs=6, **answers):
    """Two candidates of which one takes longer each time."""
    seconds = {"one": [9.0 + at for at in range(pairs + 1)], "two": [1.0 + at for at in range(pairs + 1)]}
    return Clocked(seconds, {"one": sha("one"), "two": sha("two")} | answers, [])


SHOWN = Shown(Path("rows"), 10, "ab")


def test_candidate_and_incumbent_take_turns():
    """After one run each that is not counted, pairs go one way and the other: ABBA, and each time is of its own pair."""
    shop = clocked()
    timed = take_times(shop, ("one", sha("one")), ("two", None), SHOWN, 6)
    assert shop.asked == ["one", "two", *["two", "one", "one", "two"] * 3]
    assert timed.seconds == [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]
    assert timed.incumbent_seconds == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"one": sha("other")}, "predict-output"),
        ({"two": sha("other")}, "evaluator-failed"),
        ({"one": Failure("predict-failed", "on purpose")}, "predict-failed"),
        ({"two": Failure("predict-failed", "on purpose")}, "evaluator-failed"),
    ],
)
def test_other_answers_or_none_are_no_times(answers, code):
    """Whoever gives other answers than before, or none, is not timed; of the incumbent it is no candidate's fault."""
    found = take_times(clocked(**answers), ("one", sha("one")), ("two", sha("two")), SHOWN, 6)
    assert isinstance(found, Failure)
    assert found.code == code


@pytest.mark.parametrize("pairs", [0, FEWEST - 1, MOST + 1])
def test_too_few_pairs_are_no_configuration(digits, tmp_path, pairs):
    """A number of pairs that gives no interval is refused before any run."""
    subject = rigs.vary(
        digits, tmp_path / "s", ("generations: 3", f"generations: 3\nefficiency: {{latency_pairs: {pairs}}}")
    )
    from harness.config import load_config

    with pytest.raises(ConfigError, match=r"efficiency\.latency_pairs"):
        load_config(subject)


# --- whole runs, in the sandbox ----------------------------------------------------------------

PREDICTED = '    return model(inputs["image"])'
SLEEPING = (PREDICTED, f"    import time\n\n    time.sleep(3 if len(inputs['image']) == 488 else 0)\n{PREDICTED}")
POLICIES = (
    "policies: [baseline]",
    """efficiency: {latency_pairs: 6}
policies:
  - {pack: baseline, params: {packages: [__future__, pydantic, time, torch]}}
  - {pack: efficiency, params: {max_time: 2.5, max_memory: 5.0}}""",
)


@pytest.fixture(scope="module")
def run(rig, digits, tmp_path_factory):
    """A run in which an honest candidate is promoted, and one as good that sleeps over it is rejected for that."""
    place = tmp_path_factory.mktemp("timed")
    subject = rigs.vary(digits, place / "subject", POLICIES)
    opened = rig.open(place / "run", subject, seed=0)
    try:
        generation(opened, 1, {**code(subject, SLEEPING), "changes": {"steps": 150}}, knobs(steps=150))
        yield place / "run", opened.supervisor.state
    finally:
        opened.close()


@pytest.mark.usefixtures("quick_disk")
def test_a_candidate_that_sleeps_is_too_slow(run):
    """One that passes every gate and sleeps over the development rows is rejected by the rule, on evidence.

    The same without the sleep is promoted, unless this machine made it look slow: just as the rule has it.
    """
    _, state = run
    slow, honest = state.proposals[1], state.proposals[2]
    assert slow.measured.passed, slow.decision
    assert slow.decision.reasons[0].code == "policy"
    assert "not-slower" in slow.decision.reasons[0].text
    found = latency(slow.measured.timed.seconds, slow.measured.timed.incumbent_seconds)
    assert found.pairs == 6
    assert found.lower > 1
    assert min(slow.measured.timed.peak_mb, slow.measured.timed.incumbent_peak_mb) > 10
    took = latency(honest.measured.timed.seconds, honest.measured.timed.incumbent_seconds)
    assert (honest.outcome == "promoted") == (took.upper <= 2.5), honest.decision


@pytest.mark.usefixtures("quick_disk")
def test_times_are_in_the_log_and_judged_again(run):
    """Times stand in the log; both verifiers take it, and a replay derives from them what the rules were shown."""
    place, state = run
    folder = RunFolder(place)
    assert verify_run(folder, folder.public_key)["verdict"].startswith(f"valid at size {state.size}")
    assert replay_run(folder)["decisions"] == 2
    done = CliRunner().invoke(app, ["show", str(place), "1"])
    assert "ratio of seconds, median of 6 pairs" in done.output
    assert "MiB to answer" in done.output
