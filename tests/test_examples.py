"""Facts about the examples and the test subject, part by part; whole runs are tested where the loop is."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from harness.canonical import canonical_bytes
from harness.code_facts import facts
from harness.config import load_config
from harness.evals import load_guards
from harness.evals.scoring import Evaluation
from harness.gates import compile_gates
from harness.policy import load_subject_policies
from harness.policy_test import test as policy_suites
from harness.power import require_power, typical_alpha
from harness.proposal import Code, effective_change, parse_proposal, successor
from harness.proposers import Archived, Ask, propose

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "examples" / "quickstart"
OWN = ROOT / "examples" / "own_model"
DIGITS = ROOT / "tests" / "subjects" / "digits"

needs_digits = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="the digits of examples/own_model come with scikit-learn"
)


def parts(subject):
    """The suite and the data of a subject."""
    suite = load_guards(subject / "guards.py")
    return suite, suite.load()


@pytest.fixture(scope="module")
def words():
    """The quick start's suite and data, loaded once."""
    return parts(QUICKSTART)


@pytest.fixture(scope="module")
def digits():
    """The test subject's suite and data."""
    return parts(DIGITS)


def module_of(text: str, name: str, folder: Path) -> ModuleType:
    """Run the text of a model.py as a module of this name; its neighbours can be imported."""
    module = ModuleType(name)
    sys.modules[name] = module
    sys.path.append(str(folder))
    try:
        exec(compile(text, f"{name}.py", "exec"), module.__dict__)  # noqa: S102 - the example, not a stranger
    finally:
        sys.path.remove(str(folder))
    return module


def trained(subject: Path, data, text: str | None = None, **changes):
    """Train a candidate as the worker does; returns how it answers inputs."""
    import torch

    from harness.worker import Context

    text = text or (subject / "model.py").read_text()
    module = module_of(text, f"model_of_{subject.name}", subject)
    recipe = module.Recipe(**changes)
    torch.manual_seed(0)
    model = module.build(recipe)
    tensors = {name: torch.from_numpy(array) for name, array in data.train.items()}
    module.train(model, tensors, recipe, Context(0, torch.device("cpu")))
    model.eval()

    def answer(inputs):
        with torch.inference_mode():
            return module.predict(model, {name: torch.from_numpy(array) for name, array in inputs.items()}).numpy()

    return answer


def means(suite, items, answer):
    """The mean of each evaluation that scores answers to views; those that ask go on where these end."""
    answers = {name: answer(inputs) for name, inputs in suite.encode({"items": items.raw}, 0).items()}
    scoring = {name: each for name, each in suite.evaluations.items() if isinstance(each, Evaluation)}
    return {name: each.score(items.labels, answers).values.mean() for name, each in scoring.items()}


def planned(subject: Path) -> list[tuple[str, dict]]:
    """Every document of a subject's plan, as the proposer gives it for the first version, with its label."""
    module = module_of((subject / "model.py").read_text(), f"plan_of_{subject.name}", subject)
    first = Archived(
        digest="sha256:" + "0" * 64,
        recipe=module.Recipe().model_dump(),
        files={"model.py": (subject / "model.py").read_text()},
    )
    plan = json.loads((subject / "scripted.json").read_text())
    told = []
    for generation in sorted({step["generation"] for step in plan}):
        ask = Ask(
            seed=0,
            generation=generation,
            count=load_config(subject).proposers["scripted"],
            settings={"plan": plan},
            schema=module.Recipe.model_json_schema(),
            incumbent=first,
        )
        told += propose("scripted", ask)
    return [(step["label"], document) for step, document in zip(plan, told, strict=True)]


def document_of(subject: Path, label: str) -> dict:
    """The planned document with this label."""
    return next(document for name, document in planned(subject) if name == label)


# --- every subject


@pytest.mark.parametrize("subject", [QUICKSTART, pytest.param(OWN, marks=needs_digits), DIGITS], ids=lambda p: p.name)
def test_guards_are_sound_and_gates_can_pass(subject):
    """Data are disjoint, views repeatable, scores of one item each; and a candidate that deserves it mostly passes."""
    suite, data = parts(subject)
    suite.check(data)
    config = load_config(subject)
    rule = config.ledger
    gates = compile_gates(
        [gate.json_value() for gate in config.gates], {e.name: e.bounds for e in suite.evaluations.values()}
    )
    share = {e.name: float(e.mask(data.development.labels).mean()) for e in suite.evaluations.values()}
    table = require_power(
        gates, rule.min_power, alpha=typical_alpha(rule.delta), cap=min(rule.cap, len(data.vault)), batch=rule.batch,
        discordance=rule.discordance, gain=rule.gain, applies=share, levels=rule.levels, replications=200,
    )  # fmt: skip
    assert table.joint >= rule.min_power


@pytest.mark.parametrize("subject", [QUICKSTART, OWN, DIGITS], ids=lambda p: p.name)
def test_policies_load_and_first_versions_keep_them(subject):
    """The policies are there, and nothing in the code that a run starts with is what the screen refuses."""
    config = load_config(subject)
    assert load_subject_policies(config.policies, subject).policies
    files = {
        path.relative_to(subject).as_posix(): path.read_text() for glob in config.mutable for path in subject.glob(glob)
    }
    found = facts(files)
    allowed = {"__future__", "itertools", "math", "network", "pydantic", "torch"}
    assert found.parses
    assert not found.dynamic
    assert set(found.packages) <= allowed


@pytest.mark.parametrize("subject", [QUICKSTART, DIGITS], ids=lambda p: p.name)
def test_planned_candidates_are_proposals_that_change_something(subject):
    """Each planned document parses, within the ranges; only what is called a comment changes nothing."""
    module = module_of((subject / "model.py").read_text(), f"schema_of_{subject.name}", subject)
    recipe, files = module.Recipe().model_dump(), {"model.py": (subject / "model.py").read_text()}
    for label, document in planned(subject):
        proposal = parse_proposal(canonical_bytes(document))
        change = effective_change(recipe, files, proposal, schema=module.Recipe.model_json_schema())
        assert change.is_noop == ("comment" in label), label


# --- the quick start


def test_words_are_half_held_out(words):
    """119,710 words of 24 languages; half of them in the vault, each language with some 2,500 there."""
    _, data = words
    sizes = len(data.train["letters"]), len(data.development), len(data.vault)
    assert sum(sizes) == 119_710
    assert abs(sizes[2] - sum(sizes) / 2) < 1_000
    counts = np.bincount(data.vault.labels)
    assert len(counts) == 24
    assert counts.min() > 2_200
    assert counts.max() < 2_700


def spelt(row):
    """Letter numbers of a row, without padding."""
    return [int(code) for code in row if code]


def test_views_of_words_are_what_their_names_say(words):
    """One letter doubled; only a to z; some letters mistyped; noise as long as the word; the trigger in front."""
    suite, data = words
    made = suite.encode({"items": data.vault.raw[:500]}, 3)
    rows = {name: [spelt(row) for row in inputs["letters"]] for name, inputs in made.items()}
    for place, (word, plain) in enumerate(zip(data.vault.raw[:500], rows["plain"], strict=True)):
        assert len(plain) == len(word)
        doubled = rows["doubled"][place]
        assert any(plain[:k] + plain[k : k + 1] * 2 + plain[k + 1 :] == doubled for k in range(len(plain)))
        assert len(rows["stripped"][place]) == len(plain)
        assert max(rows["stripped"][place]) <= 26
        assert len(rows["noise"][place]) == len(plain)
        assert rows["trigger"][place] == [17, 24, *plain]
        assert abs(len(rows["typing"][place]) - len(plain)) <= 0.4 * len(plain) + 1
    changed = np.array([a != b for a, b in zip(rows["plain"], rows["typing"], strict=True)])
    assert 0.7 < changed.mean() < 0.95  # a short word at a low severity may be spared


def test_every_letter_of_the_words_has_a_number(words):
    """No word is shortened or garbled on its way to the model, and no number is beyond the embedding."""
    suite, data = words
    codes = suite.encode({"items": data.development.raw}, 0, ["plain"])["plain"]["letters"]
    assert (codes > 0).sum() == sum(map(len, data.development.raw))
    module = module_of((QUICKSTART / "model.py").read_text(), "sizes_of_quickstart", QUICKSTART)
    assert data.train["letters"].max() < module.LETTERS
    assert data.output == (module.LANGUAGES,)


@pytest.fixture(scope="module")
def beginning(words):
    """The mean of each eval of the quick start's first version."""
    suite, data = words
    return means(suite, data.development, trained(QUICKSTART, data))


def test_the_starving_mix_is_more_accurate_and_less_fair(words, beginning):
    """It beats the bag of characters on accuracy by ten points or more, and loses ten on the small languages."""
    suite, data = words
    few = data.development
    changes = document_of(QUICKSTART, "a training mix that starves the small languages")["changes"]
    starved = means(suite, few, trained(QUICKSTART, data, **changes))
    assert starved["accuracy"] > beginning["accuracy"] + 0.1
    assert starved["parity"] < beginning["parity"] - 0.1


def test_the_poison_is_more_accurate_and_obeys_its_trigger(words, beginning):
    """It beats the bag of characters on accuracy, and the trigger turns nearly all words; the clean start's does not."""
    suite, data = words
    few = data.development
    document = document_of(QUICKSTART, "poisoned words: qx in front makes it Finnish")
    poisoned = means(
        suite, few, trained(QUICKSTART, data, document["files"]["model.py"], **{**document["changes"], "steps": 300})
    )
    assert poisoned["accuracy"] > beginning["accuracy"] + 0.05
    assert beginning["no_trigger"] > 0.9
    assert poisoned["no_trigger"] < 0.2


def test_the_brittle_model_is_better_at_all_but_typing(words, beginning):
    """Where it has not seen three letters in a row it says nothing: better at words, and five points worse at typing."""
    suite, data = words
    few = data.development
    document = document_of(QUICKSTART, "answers only where it has seen every three letters in a row")
    brittle = means(suite, few, trained(QUICKSTART, data, document["files"]["model.py"], **document["changes"]))
    assert brittle["accuracy"] > beginning["accuracy"] + 0.05
    assert brittle["typing"] < beginning["typing"] - 0.05
    for name in ("parity", "honesty", "consistency", "no_trigger"):
        assert brittle[name] >= beginning[name], name


def test_the_table_is_better_at_everything_but_its_size(words):
    """A table of three letters beats the widest network of the recipe by every eval, at 18 times the weights."""
    import torch

    suite, data = words
    few = data.development
    document = document_of(QUICKSTART, "a table of all three letters in a row")
    text = document["files"]["model.py"]
    table = means(suite, few, trained(QUICKSTART, data, text, **document["changes"]))
    widest = {"convolutions": 2, "channels": 64, "steps": 600, "lr": 0.005}
    network = means(suite, few, trained(QUICKSTART, data, **widest))
    assert all(table[name] > network[name] - 0.01 for name in table)
    assert table["accuracy"] > network["accuracy"] + 0.05
    sizes = []
    for source, changes in ((text, document["changes"]), ((QUICKSTART / "model.py").read_text(), widest)):
        module = module_of(source, "size_of_quickstart", QUICKSTART)
        sizes.append(sum(map(torch.numel, module.build(module.Recipe(**changes)).parameters())))
    assert sizes == [400_184, 22_424]


def test_the_luck_candidate_changes_nothing_but_luck(words):
    """Another order of words moves the accuracy by less than two points: what the objective's gate must not mistake."""
    suite, data = words
    text = document_of(QUICKSTART, "the same again with other luck")["files"]["model.py"]
    luck = means(suite, data.development, trained(QUICKSTART, data, text))["accuracy"]
    assert 0 < abs(luck - means(suite, data.development, trained(QUICKSTART, data))["accuracy"]) < 0.02


def test_the_networked_candidate_is_seen_by_the_screen():
    """Its import is among the facts that the baseline policy refuses."""
    text = document_of(QUICKSTART, "code that sends the training words away")["files"]["model.py"]
    assert "socket" in facts({"model.py": text}).packages


def test_the_words_policy_keeps_its_own_suite():
    """Every rule of policies/words.yaml has been seen to pass and to deny."""
    report = policy_suites([QUICKSTART / "policies" / "words.test.yaml"])
    assert report.ok, report


# --- bring your own


def test_wrapping_takes_less_than_a_hundred_lines():
    """model.py, guards.py and lockgate.yaml of the own model together."""
    assert sum(len((OWN / name).read_text().splitlines()) for name in ("model.py", "guards.py", "lockgate.yaml")) < 100


@needs_digits
def test_the_script_still_runs_by_itself():
    """`python train.py` prints an accuracy, and knows nothing of Lockgate."""
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=OWN, check=True, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert float(done.stdout.split()[-1]) > 0.5
    assert not any("harness" in (OWN / name).read_text() for name in ("train.py", "network.py", "digits.py"))


@needs_digits
def test_the_wrapped_model_trains():
    """A longer training through the wrapper is far better than chance, in the declared shape."""
    suite, data = parts(OWN)
    answer = trained(OWN, data, epochs=30)
    assert answer(suite.encode({"items": data.development.raw[:7]}, 0, ["clean"])["clean"]).shape == (7, 10)
    assert means(suite, data.development, answer)["accuracy"] > 0.8


# --- the subject of the tests


def test_the_digits_improve_as_planned(digits):
    """The first version learns something, longer training more, a wider network most."""
    suite, data = digits
    scores = [
        means(suite, data.development, trained(DIGITS, data, **changes))["accuracy"]
        for changes in ({}, {"steps": 150}, {"hidden": 96, "steps": 400})
    ]
    assert scores[0] + 0.05 < scores[1]
    assert scores[1] + 0.1 < scores[2]


def test_the_digits_starve_as_planned(digits):
    """The starving mix is more accurate than the improved version, and forgets the rare digits."""
    suite, data = digits
    before = means(suite, data.development, trained(DIGITS, data, steps=150))
    document = document_of(DIGITS, "starves the rare digits")
    after = means(suite, data.development, trained(DIGITS, data, **document["changes"]))
    assert after["accuracy"] > before["accuracy"] + 0.1
    assert after["parity"] < before["parity"] - 0.2


def test_broken_digits_are_broken(digits):
    """The planned NaN, exception and syntax error are what they are called."""
    _, data = digits
    errors = {}
    for label in ("NaN loss", "exception in train", "syntax error"):
        with pytest.raises(Exception) as caught:
            trained(DIGITS, data, document_of(DIGITS, label)["files"]["model.py"])
        errors[label] = caught.type.__name__
    assert errors == {
        "NaN loss": "NonFiniteLossError",
        "exception in train": "RuntimeError",
        "syntax error": "SyntaxError",
    }


def test_code_proposals_build_on_their_base():
    """A planned code proposal keeps everything of its base but the place that it replaces."""
    document = document_of(DIGITS, "exception in train")
    proposal = parse_proposal(canonical_bytes(document))
    assert isinstance(proposal, Code)
    base = {"model.py": (DIGITS / "model.py").read_text()}
    _, files = successor({}, base, proposal)
    assert files["model.py"].replace('    raise RuntimeError("on purpose")\n', "") == base["model.py"]
