"""Facts about `harness.scaffold`: what `lockgate new` writes, and that it is a subject."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import Config, load_config
from harness.errors import ConfigError
from harness.evals import load_guards
from harness.gates import compile_gates
from harness.policy import load_subject_policies
from harness.power import require_power, typical_alpha
from harness.scaffold import new_subject, subject_name


@pytest.fixture
def subject(tmp_path):
    """A subject as it is written."""
    new_subject(tmp_path / "my words")
    return tmp_path / "my words"


def test_a_new_subject_has_its_four_files_and_nothing_else(tmp_path):
    """What is returned is what stands there, named after the folder."""
    written = new_subject(tmp_path / "deep" / "spirals")
    assert sorted(path.name for path in written) == ["README.md", "guards.py", "lockgate.yaml", "model.py"]
    assert sorted((tmp_path / "deep" / "spirals").iterdir()) == sorted(written)
    assert load_config(tmp_path / "deep" / "spirals").name == "spirals"
    assert not [path for path in written if "NAME" in path.read_text()]


def test_its_guards_load_and_check(subject):
    """Data, views and evaluations of the template are sound."""
    suite = load_guards(subject / "guards.py")
    suite.check(suite.load())


def test_its_gates_can_pass(subject):
    """The template is no configuration that refuses everything."""
    config, suite = load_config(subject), load_guards(subject / "guards.py")
    data = suite.load()
    gates = compile_gates(
        [gate.json_value() for gate in config.gates], {e.name: e.bounds for e in suite.evaluations.values()}
    )
    share = {e.name: float(e.mask(data.development.labels).mean()) for e in suite.evaluations.values()}
    rule = config.ledger
    require_power(
        gates, rule.min_power, alpha=typical_alpha(rule.delta), cap=rule.cap, discordance=rule.discordance,
        gain=rule.gain, applies=share, replications=200,
    )  # fmt: skip


def test_its_policies_load(subject):
    """The policies that it names are there, and take the parameters that it gives."""
    assert load_subject_policies(load_config(subject).policies, subject).policies


def test_its_model_learns(subject):
    """A recipe with a hidden layer trains, answers in the declared shape, and beats the default of the template."""
    import torch

    from harness.worker import Context

    suite = load_guards(subject / "guards.py")
    data = suite.load()
    spec = importlib.util.spec_from_file_location("template_model", subject / "model.py")
    model_py = importlib.util.module_from_spec(spec)
    sys.modules["template_model"] = model_py
    spec.loader.exec_module(model_py)
    scores = {}
    for layers in (0, 1):
        torch.manual_seed(0)
        recipe = model_py.Recipe(layers=layers)
        model = model_py.build(recipe)
        model_py.train(
            model, {k: torch.from_numpy(a) for k, a in data.train.items()}, recipe, Context(0, torch.device("cpu"))
        )
        inputs = suite.encode({"items": data.development.raw}, 0)
        with torch.inference_mode():
            answers = {
                name: model_py.predict(model, {k: torch.from_numpy(a) for k, a in each.items()}).numpy()
                for name, each in inputs.items()
            }
        assert answers["plain"].shape == (len(data.development), *data.output)
        scores[layers] = suite.evaluations["accuracy"].score(data.development.labels, answers).values.mean()
    assert scores[1] > scores[0] + 0.2


def test_nothing_is_overwritten(tmp_path):
    """A folder that holds anything is left as it is."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        new_subject(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_place_that_cannot_be_is_one_error(tmp_path):
    """A path through a file is a ConfigError that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        new_subject(tmp_path / "file" / "subject")


@given(st.text(min_size=1, max_size=100))
def test_any_folders_name_becomes_a_name_that_the_configuration_accepts(text):
    """Whatever the folder is called, lockgate.yaml has a name that validates."""
    pattern = next(m for m in Config.model_fields["name"].metadata if hasattr(m, "pattern")).pattern
    import re

    assert re.fullmatch(pattern.removeprefix("^").removesuffix("$"), subject_name(text))


def test_the_template_is_part_of_the_package():
    """The templates lie inside `harness`, so that a wheel carries them."""
    import harness

    assert {path.name for path in (Path(harness.__file__).parent / "template").iterdir()} >= {
        "lockgate.yaml", "model.py.txt", "guards.py.txt", "README.md",
    }  # fmt: skip
