"""Facts about what comes out of a worker that answers in the candidate's own bytes: claims, and checked as such."""

from __future__ import annotations

import pytest

from harness.developing import Development, develop
from harness.entries import Built, Developed
from harness.workshop import Failure, Made

pytestmark = pytest.mark.usefixtures("quick_disk")

# A candidate can write the answer in the worker's place, seal it and end the process.
FORGE = """
import fcntl, json, os
from safetensors.torch import load_file, save


def forge(header, tensors):
    place, text = int(os.environ["LOCKGATE_OUTPUT_FD"]), header.encode()
    with os.fdopen(os.dup(place), "wb") as stream:
        stream.write(len(text).to_bytes(8, "big") + text + save(tensors))
    fcntl.fcntl(place, fcntl.F_ADD_SEALS, 15)
    os._exit(0)


def zeros(**more):
    return torch.zeros((len(load_file("/job/inputs.safetensors")["image"]), 10), **more)
"""
PREDICTED = 'return model(inputs["image"])'
TRAINED = 'image, digit = data["image"], data["digit"]'


@pytest.fixture(scope="module")
def opened(rig, digits, tmp_path_factory):
    """A run that was begun; its workshop is used alone."""
    assert digits
    opened = rig.open(tmp_path_factory.mktemp("run") / "run", seed=0)
    yield opened
    opened.close()


def forging(opened, digits, old, new):
    """A source tree that answers for itself."""
    text = (digits / "model.py").read_text().replace("from __future__ import annotations\n", "")
    assert text.count(old) == 1
    return opened.rooms.workshop.store_source({"model.py": (FORGE + text.replace(old, new)).encode()})


@pytest.mark.parametrize(
    ("header", "tensors", "code"),
    [
        ('{"flops": -1}', '{"answers": zeros()}', None),
        ('{"flops": true}', '{"answers": zeros()}', None),
        ('{"flops": 1.5}', '{"answers": zeros()}', None),
        ('{"error": 0}', '{"answers": zeros()}', "predict-failed"),
        ('{"a": 1, "a": 2}', '{"answers": zeros()}', "predict-failed"),
        ("[" * 9999, '{"answers": zeros()}', "predict-failed"),
        ("{}", '{"answers": zeros() / 0}', "predict-output"),
        ("{}", '{"answers": zeros(dtype=torch.float64)}', "predict-output"),
        ("{}", '{"answers": zeros()[:-1]}', "predict-output"),
        ("{}", '{"answers": zeros(), "more": zeros()}', "predict-output"),
    ],
)
def test_forged_answers_are_checked_as_any(opened, digits, header, tensors, code):
    """Answers of a wrong form are the candidate's failure; a count that is none is no count, and the entry is written."""
    workshop, state = opened.rooms.workshop, opened.supervisor.state
    source = forging(opened, digits, PREDICTED, f"forge({header!r}, {tensors})")
    candidate = state.baseline.model_copy(update={"source": source})
    found = develop(opened.supervisor._ask, workshop, candidate, opened.rooms.development)
    if code is not None:
        assert isinstance(found, Failure)
        assert found.code == code
        return
    assert isinstance(found, Development)
    assert Developed(number=1, development=found.means, answers=found.answers, flops=found.flops).flops is None


@pytest.mark.parametrize(
    ("header", "tensors", "code"),
    [
        ('{"recipe": {}, "schema": {"type": "object"}, "steps": -5}', '{"a": torch.ones(3)}', None),
        ('{"recipe": {}, "schema": {"type": "object"}, "steps": true}', '{"a": torch.ones(3)}', None),
        ('{"recipe": {}, "schema": {"type": "object"}}', "{}", "build-output"),
        ('{"recipe": {}, "schema": {"type": "object"}}', '{"a": torch.ones(3) / 0}', "non-finite"),
        ('{"recipe": [], "schema": {"type": "object"}}', '{"a": torch.ones(3)}', "build-output"),
    ],
)
def test_forged_weights_are_checked_as_any(opened, digits, header, tensors, code):
    """A build that leaves no weights, or unsound ones, fails; a number of steps that is none is none."""
    workshop, state = opened.rooms.workshop, opened.supervisor.state
    source = forging(opened, digits, TRAINED, f"forge({header!r}, {tensors})")
    found = workshop.build(state.baseline.recipe, source, opened.rooms.training)
    if code is not None:
        assert isinstance(found, Failure)
        assert found.code == code
        return
    assert isinstance(found, Made)
    assert Built(number=1, candidate=found.candidate, steps=found.steps, seconds=1.0, peak_mb=1.0).steps == 0
