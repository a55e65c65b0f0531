"""Gates: compiled from configuration, and the one place where scores become x."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.canonical import canonical_bytes
from harness.errors import StatisticsError
from harness.gates import GateSpec, compile_gates

UNIT = {"a": (0.0, 1.0), "wide": (-2.0, 3.0)}
GOOD = [
    {"eval": "a", "kind": "improve"},
    {"eval": "a", "kind": "parent", "margin": 0.02},
    {"eval": "a", "kind": "anchor", "margin": 0.03, "cap": 20_000},
    {"eval": "a", "kind": "floor", "threshold": 0.75},
    {"eval": "a", "kind": "rare", "rate": 0.01},
    {"eval": "a", "kind": "ceiling", "threshold": 0.9},
]


def test_each_kind_has_its_null_and_range():
    """Every kind compiles to the null mean, range and reference that it stands for."""
    found = {
        gate.kind: (gate.name, gate.theta, gate.lo, gate.hi, gate.paired, gate.cap)
        for gate in compile_gates(GOOD, UNIT)
    }
    assert found == {
        "improve": ("a/improve", 0.0, -1.0, 1.0, "incumbent", None),
        "parent": ("a/parent", -0.02, -1.0, 1.0, "incumbent", None),
        "anchor": ("a/anchor", -0.03, -1.0, 1.0, "baseline", 20_000),
        "floor": ("a/floor", 0.75, 0.0, 1.0, None, None),
        "rare": ("a/rare", -0.01, -1.0, 0.0, None, None),
        "ceiling": ("a/ceiling", -0.9, -1.0, 0.0, None, None),
    }


def test_a_paired_difference_ranges_over_the_width_of_the_score():
    """With bounds [a, b] of the score, a difference lies in [a - b, b - a], and a ceiling's x in [-b, -a]."""
    raw = [{"eval": "wide", "kind": "parent", "margin": 1}, {"eval": "wide", "kind": "ceiling", "threshold": 2}]
    parent, ceiling = compile_gates(raw, UNIT)
    assert (parent.lo, parent.hi, parent.theta) == (-5.0, 5.0, -1.0)
    assert (ceiling.lo, ceiling.hi, ceiling.theta) == (-3.0, 2.0, -2.0)


@pytest.mark.parametrize(
    "raw",
    [
        {"eval": "b", "kind": "improve"},
        {"eval": "a", "kind": "better"},
        {"eval": "a"},
        {"eval": "a", "kind": "improve", "margin": 0.1},
        {"eval": "a", "kind": "parent"},
        {"eval": "a", "kind": "parent", "threshold": 0.1},
        {"eval": "a", "kind": "parent", "margin": 0.0},
        {"eval": "a", "kind": "parent", "margin": -0.1},
        {"eval": "a", "kind": "parent", "margin": 1.0},
        {"eval": "a", "kind": "parent", "margin": True},
        {"eval": "a", "kind": "parent", "margin": "0.1"},
        {"eval": "a", "kind": "parent", "margin": float("nan")},
        {"eval": "a", "kind": "floor", "threshold": 1.0},
        {"eval": "a", "kind": "floor", "threshold": 0.0},
        {"eval": "a", "kind": "ceiling", "threshold": 1.5},
        {"eval": "a", "kind": "rare", "rate": 0.0},
        {"eval": "wide", "kind": "rare", "rate": 0.1},
        {"eval": "a", "kind": "improve", "cap": 0},
        {"eval": "a", "kind": "improve", "cap": 10.5},
        {"eval": "a", "kind": "improve", "unknown": 1},
    ],
)
def test_a_gate_that_cannot_be_tested_is_refused(raw):
    """A gate with a wrong eval, kind, parameter or cap is refused, and the error says which one it is."""
    with pytest.raises(StatisticsError) as caught:
        compile_gates([GOOD[0], raw], UNIT)
    assert caught.value.where == "gates[1]"


def test_no_gates_and_equal_names_are_refused():
    """No gate at all, or two of one name, is a mistake and never an easy pass."""
    with pytest.raises(StatisticsError, match="no gate"):
        compile_gates([], UNIT)
    with pytest.raises(StatisticsError, match="two gates"):
        compile_gates([GOOD[1], {**GOOD[1], "margin": 0.3}], UNIT)


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.0, float("inf")), (0.0, float("nan")), (0.0, 0.0)])
def test_bounds_that_are_no_interval_are_refused(bounds):
    """An eval must have finite bounds, the lower first."""
    with pytest.raises(StatisticsError, match="not an interval"):
        compile_gates([GOOD[0]], {"a": bounds})


def test_absent_parameters_may_be_none():
    """A configuration record that spells absent parameters as None compiles like one that leaves them out."""
    spelled = [{"margin": None, "threshold": None, "rate": None, "cap": None, **raw} for raw in GOOD]
    assert compile_gates(spelled, UNIT) == compile_gates(GOOD, UNIT)


def test_specs_come_back_from_the_log_unchanged():
    """A spec survives canonical JSON bit for bit."""
    for gate in compile_gates(GOOD, UNIT):
        assert GateSpec.parse(json.loads(canonical_bytes(gate.json_value()))) == gate


@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20),
)
def test_observed_values_stay_in_range(raw, pairs):
    """Whatever scores lie in bounds, x lies in the gate's range, without clipping."""
    (gate,) = compile_gates([raw], UNIT)
    candidate, reference = np.array(pairs).T
    x = gate.observe(candidate, reference if gate.paired else None)
    assert np.all((x >= gate.lo) & (x <= gate.hi))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.001, 1.001])
def test_scores_out_of_bounds_raise_on_either_side(bad):
    """A score that is NaN or out of bounds raises, even where the difference would look harmless."""
    parent, floor = compile_gates([GOOD[1], GOOD[3]], UNIT)
    good, wrong = np.array([0.5, 0.5]), np.array([0.5, bad])
    for call in (
        lambda: parent.observe(wrong, wrong),
        lambda: parent.observe(good, wrong),
        lambda: floor.observe(wrong),
    ):
        with pytest.raises(StatisticsError, match="NaN or outside"):
            call()


def test_references_must_fit():
    """A paired gate needs as many reference scores as the candidate's; an unpaired one takes none."""
    parent, floor = compile_gates([GOOD[1], GOOD[3]], UNIT)
    two, three = np.zeros(2), np.zeros(3)
    for call in (lambda: parent.observe(two), lambda: parent.observe(two, three), lambda: floor.observe(two, two)):
        with pytest.raises(StatisticsError):
            call()


@pytest.mark.parametrize("scores", [np.zeros((2, 2)), np.array(["a"]), np.array([1j]), np.array(0.5)])
def test_scores_of_another_shape_or_type_raise(scores):
    """Scores are one real number for each item."""
    (floor,) = compile_gates([GOOD[3]], UNIT)
    with pytest.raises(StatisticsError, match="one real number"):
        floor.observe(scores)
