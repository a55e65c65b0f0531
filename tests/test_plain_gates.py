"""Facts about what is said of gates: total over all results, and never more than was shown."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import parse_config
from harness.decision import CLAIM
from harness.gates import compile_gates
from harness.plain import plain
from harness.plain_gates import asking, claims, line, unshown
from harness.statistics import GateResult, run_test

UNIT = {"rare": (0.0, 1.0), "accuracy": (0.0, 1.0)}
FINITE = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 10**7)
NAMES = st.one_of(
    st.tuples(st.sampled_from(["accuracy", "rare", "x" * 64]), st.sampled_from([*CLAIM, "floor@core", "odd", ""])).map(
        "/".join
    ),
    st.text(max_size=80),
)


@st.composite
def results(draw) -> GateResult:
    """Draw any result that the record admits, of any kind of gate or none."""
    wins, ties, losses = draw(st.one_of(st.just((0, 0, 0)), st.tuples(COUNTS, COUNTS, COUNTS)))
    n, log_e, threshold = wins + ties + losses, draw(FINITE), draw(st.one_of(FINITE, st.floats(1e-9, 700)))
    shown = n > 0 and log_e >= threshold
    return GateResult(
        name=draw(NAMES), verdict="pass" if shown else draw(st.sampled_from(["fail", "inconclusive"])), n=n,
        mean=draw(FINITE) if n else None, theta=draw(FINITE), log_e=log_e, threshold=threshold, wins=wins, ties=ties,
        losses=losses, interval=(draw(FINITE), draw(FINITE)), trajectory=(),
    )  # fmt: skip


@settings(max_examples=500)
@given(results())
def test_a_line_is_always_told_and_never_of_more_than_was_shown(result):
    """Any result gives one bounded line; it begins with "not shown" exactly where the gate did not pass."""
    told = line(result)
    assert told
    assert len(told) <= 400
    assert plain(told, 400) == told
    if not result.name.startswith("not shown"):
        assert told.startswith("not shown: ") == (result.verdict != "pass")
    for word in ("no regression", "safe", "proved"):
        assert word not in told.replace(result.name.rpartition("/")[0] or result.name, "")
    if result.verdict != "pass":
        assert "pass" not in told.replace(result.name.rpartition("/")[0] or result.name, "")


def result_of(
    kind: str, x: list[float], name: str = "accuracy", alpha: float = 0.001, **parameter: float
) -> GateResult:
    """Test one gate over these values, given as `x`."""
    gates = compile_gates([{"eval": name, "kind": kind, **parameter}], UNIT)
    values = np.array(x, dtype=float)
    return run_test(gates, lambda _gate, start, stop: values[start:stop], alpha, len(x)).gates[0]


def test_an_upper_bound_of_rare_failures_is_told_with_its_error():
    """Failures are counted, and the bound is that of the e-process: true however often one looked."""
    result = result_of("rare", [0.0] * 2000, name="rare", rate=0.01)
    told = line(result)
    assert result.verdict == "pass"
    assert re.fullmatch(
        r"rare: failing more seldom than 0\.01 \(0 failures in \d+, upper bound 0\.0\d+\), with error at most 0\.001",
        told,
    ), told
    bound = float(re.search(r"upper bound ([0-9.]+)", told)[1])
    assert -result.interval[0] <= bound <= -result.interval[0] * 1.1 + 1e-9
    assert bound <= 0.0101


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(1, 900))
def test_a_bound_is_rounded_to_where_it_says_less(failures, n):
    """The upper bound that is told is never below the one that holds, nor the error below the one spent."""
    result = result_of("rare", ([-1.0] * min(failures, n) + [0.0] * n)[:n], name="rare", alpha=0.0016, rate=0.05)
    told = line(result)
    assert float(re.search(r"upper bound ([0-9.e-]+)", told)[1]) >= -result.interval[0] * (1 - 1e-12)
    assert float(re.search(r"error at most ([0-9.e-]+)", told)[1]) >= math.exp(-result.threshold) * (1 - 1e-12)
    assert f"{result.losses:,} failure" in told


@pytest.mark.parametrize(
    ("kind", "x", "parameter", "words"),
    [
        ("improve", [1.0] * 300, {}, r"accuracy: better than the incumbent \(\d+ better, 0 worse and 0 the same of \d+\), with error at most 0\.001"),
        ("parent", [0.0] * 3000, {"margin": 0.02}, r"accuracy: not worse than the incumbent by 0\.02 \(0 better, .*\), with error at most 0\.001"),
        ("anchor", [-1.0] * 300, {"margin": 0.03}, r"not shown: accuracy is not worse than the baseline by 0\.03, given up after \d+ items \(.*\)"),
        ("floor", [1.0] * 300, {"threshold": 0.4}, r"accuracy: above the floor 0\.4 \(1 on average over \d+ items, lower bound 0\.\d+\), with .*"),
        ("floor", [0.41] * 60, {"threshold": 0.4}, r"not shown: accuracy is above the floor 0\.4, given up after 50 items \(0\.41 on average over 50 items, lower bound .* with error at most 0\.001\)"),
        ("ceiling", [-0.1] * 300, {"threshold": 0.7}, r"accuracy: below the ceiling 0\.7 \(0\.1 on average over \d+ items, upper bound 0\.\d+\), with .*"),
        ("ceiling", [-0.9] * 300, {"threshold": 0.7}, r"not shown: accuracy is below the ceiling 0\.7, after \d+ items \(0\.9 on .*\); people decide"),
        ("rare", [-1.0] * 50, {"rate": 0.01}, r"not shown: accuracy is failing more seldom than 0\.01, (given up )?after \d+ items \(\d+ failures in \d+, upper bound .*\)"),
    ],
)  # fmt: skip
def test_what_is_told_of_each_kind(kind, x, parameter, words):
    """Each kind of gate says what it claims, what was seen, and with which error, in the same order."""
    told = line(result_of(kind, x, **parameter))
    assert re.fullmatch(words, told), told


def test_only_what_stopped_it_is_told():
    """Of a stopped candidate the failed gates are told, or where none failed, those that were not shown."""
    gates = compile_gates(
        [{"eval": "accuracy", "kind": "improve"}, {"eval": "accuracy", "kind": "floor", "threshold": 0.5}], UNIT
    )
    result = run_test(
        gates, lambda name, start, stop: np.full(stop - start, -1.0 if "improve" in name else 1.0), 0.001, 400
    )
    assert [told.partition(",")[0] for told in unshown(result)] == ["not shown: accuracy is better than the incumbent"]
    result = run_test(gates[1:], lambda _name, start, stop: np.full(stop - start, 0.52), 0.001, 60)
    assert [told.partition(",")[0] for told in unshown(result)] == ["not shown: accuracy is above the floor 0.5"]


def test_what_people_are_asked_names_capability_and_ceiling():
    """A hold for a ceiling is told with the ceiling of the configuration; a name that is in none is told without."""
    config = parse_config(
        "apiVersion: lockgate/v1\nkind: Subject\nname: s\nobjective: a\nproposers: {scripted: 1}\n"
        "gates: [{eval: a, kind: improve}, {eval: b, kind: ceiling, threshold: 0.25}]\n"
    )
    assert asking(config, ["b/ceiling", "c/ceiling"]) == [
        "b is not shown to be below the ceiling 0.25",
        "c is not shown to be below its ceiling",
    ]
    assert claims(config) == {"a/improve": "a is better than the incumbent", "b/ceiling": "b is below the ceiling 0.25"}
