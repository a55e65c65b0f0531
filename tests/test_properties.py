"""Facts about properties: a counterexample is searched for, shrunk, kept, and tried again on whatever comes later."""

from __future__ import annotations

import numpy as np
import pytest
import rigs
from rigs import code, generation, knobs

from harness.auditing import verify_run
from harness.folder import RunFolder
from harness.replay import replay_run

pytestmark = pytest.mark.usefixtures("quick_disk")

# Three properties of digits. Every honest candidate has them.
PROPERTIES = '''

from harness.evals.properties import batch_single, bounded, finite, invariance


def dotted(items):
    """A digit, and a value for its first pixel."""
    from hypothesis import strategies

    return strategies.tuples(strategies.integers(0, len(items) - 1), strategies.integers(0, 255))


def bright():
    """A brightness that no digit was drawn with, among others."""
    from hypothesis import strategies

    return strategies.floats(0, 4, width=32)


@invariance("corner", cases=dotted, within=20.0, tries=60)
def corner(case):
    """A dot in the corner hardly changes what is answered."""
    item, value = case
    whole = np.resize(np.arange(64) * (item + 1) % 256, 64)
    dot = whole.copy()
    dot[0] = value
    return {"image": scaled(whole[None])}, {"image": scaled(dot[None])}


@bounded("sane", -2000, 2000, cases=bright, tries=30)
def sane(case):
    """No answer is out of all proportion."""
    return {"image": np.full((1, 64), case, np.float32)}


@finite("answers", cases=bright, tries=30)
def answers_anything(case):
    """There is an answer, however bright."""
    return {"image": np.full((2, 64), [[case], [case / 2]], np.float32)}


@batch_single("alone", cases=bright, tries=10)
def alone(case):
    """A row is answered alone as among others."""
    return {"image": np.full((2, 64), [[case], [0.5]], np.float32)}
'''
PREDICTED = '    return model(inputs["image"])'
PLANTED = '    return model(inputs["image"]) + 50 * (inputs["image"][:, :1] > {above})'
BLIND = '    return model(inputs["image"]) + 0 * torch.sqrt(2.5 - inputs["image"][:, :1])'


@pytest.fixture(scope="module")
def subject(digits, tmp_path_factory):
    """The digits with properties."""
    made = rigs.vary(digits, tmp_path_factory.mktemp("properties") / "subject")
    guards = made / "guards.py"
    guards.write_text(guards.read_text() + PROPERTIES)
    return made


@pytest.fixture(scope="module")
def props(subject, tmp_path_factory):
    """The rooms for them."""
    rig = rigs.Rig(subject, tmp_path_factory.mktemp("rig"))
    yield rig
    rig.close()


@pytest.fixture(scope="module")
def run(subject, props, tmp_path_factory):
    """A run whose first generation plants a defect that a property finds, and whose second plants it again."""
    place = tmp_path_factory.mktemp("run") / "run"
    opened = props.open(place, subject, seed=0)
    try:
        planted = code(subject, (PREDICTED, PLANTED.format(above=0.8)))
        generation(opened, 1, knobs(steps=150), planted)
        again = code(subject, (PREDICTED, PLANTED.format(above=0.7)))
        blind = code(subject, (PREDICTED, BLIND))
        generation(opened, 2, {**again, "changes": {"steps": 200}}, {**blind, "changes": {"steps": 250}})
        return place, opened.supervisor.state
    finally:
        opened.close()


def test_a_refuted_property_is_a_rejection_before_anything_is_staked(run):
    """A candidate that a property refutes is rejected for it, with the case in words, and costs no held-out item."""
    _, state = run
    for number in state.proposals:
        print(number, state.proposals[number].decision, state.proposals[number].developed)
    found = state.proposals[2]
    assert found.decision.reasons[0].code == "property"
    assert found.staked is None
    assert verify_run(RunFolder(run[0]), RunFolder(run[0]).public_key)["verdict"].startswith("valid")
    assert replay_run(RunFolder(run[0]))
