"""Facts about attacks: what they find where the worst is known, and that a candidate gains nothing by playing foul."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import rigs
from hypothesis import given
from hypothesis import strategies as st
from rigs import code, generation, knobs

torch = pytest.importorskip("torch")
from safetensors.numpy import load, save_file  # noqa: E402

from harness import worker  # noqa: E402  # after torch, as in the sandbox
from harness.auditing import verify_run  # noqa: E402
from harness.errors import SubjectError  # noqa: E402
from harness.evals import Items, adversarial, edited  # noqa: E402
from harness.evals.attacks import by_class  # noqa: E402
from harness.evals.inquiry import PREDICT, Ask, Table, UnansweredError  # noqa: E402
from harness.evals.tagging import declared  # noqa: E402
from harness.folder import RunFolder  # noqa: E402
from harness.keys import VaultKey  # noqa: E402
from harness.perturbing import PERTURBED, Perturbation  # noqa: E402
from harness.replay import replay_run  # noqa: E402
from harness.rescoring import rescore  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_disk")

LINEAR = """
import torch
from pydantic import BaseModel

class Recipe(BaseModel):
    width: int = 6

def build(recipe):
    return torch.nn.Linear(recipe.width, 2)

def train(model, data, recipe, context):
    pass

def predict(model, inputs):
    return model(inputs["x"])
"""
SPEC = {"key": "x", "epsilon": 0.1, "size": 0.1}


class Candidate:
    """A candidate that answers through the worker's own code, without a sandbox around it."""

    def __init__(self, place, weights, source=LINEAR):
        """Lay out its job's folder."""
        self.place = place
        (place / "source").mkdir(parents=True)
        (place / "source" / "model.py").write_text(source)
        save_file(weights, place / "weights.safetensors")
        self.rows = 0

    def run(self, entry, inputs, **payload):
        """Run one entry; the header, and tensors where there are any."""
        save_file(
            {name: np.ascontiguousarray(each) for name, each in inputs.items()}, self.place / "inputs.safetensors"
        )
        threads = torch.get_num_threads()
        try:
            header, rest = worker.run_entry(entry, self.place, payload)
        finally:
            torch.use_deterministic_algorithms(mode=False)
            torch.set_num_threads(threads)
            sys.modules.pop("model", None)
        return header, load(rest) if rest else {}

    def perform(self, job, inputs):
        """Do what an eval asks for."""
        self.rows += len(next(iter(inputs.values())))
        attack = Perturbation.of(job)
        header, given = self.run(
            "predict" if attack is None else "attack", inputs, attack=attack and attack.json_value()
        )
        assert given, header
        return given


def scores(measure, candidate, raw, labels, table=None):
    """Run an eval that asks to its end; its score of each item."""
    table = table or Table(b"secret")
    inquiry = declared(measure)[0]
    for _ in range(200):
        ask = Ask(table, inquiry.name)
        try:
            return inquiry.score(ask, Items(raw, labels)).values
        except UnansweredError:
            for job, rows in ask.missing.items():
                inputs = {key: np.stack([row[key] for row in rows.values()]) for key in next(iter(rows.values()))}
                table.add(job, inputs, candidate.perform(job, inputs))
    raise AssertionError("it never ends")


def as_x(raw, _rng):
    """The raw rows as they are."""
    return {"x": np.asarray(raw, np.float32)}


@pytest.fixture
def linear(tmp_path):
    """A linear model of six inputs and two classes, and 300 items with the label that it gives but for a tenth."""
    rng = np.random.default_rng(3)
    weight, bias = rng.normal(size=(2, 6)).astype(np.float32), rng.normal(size=2).astype(np.float32) / 10
    raw = rng.uniform(0.3, 0.7, (300, 6)).astype(np.float32)
    bias[0] -= np.median(raw @ (weight[0] - weight[1])) + bias[0] - bias[1]
    labels = np.where(rng.random(300) < 0.1, rng.integers(0, 2, 300), (raw @ weight.T + bias).argmax(1))
    return Candidate(tmp_path / "linear", {"weight": weight, "bias": bias}), weight, bias, raw, labels


def worst(weight, bias, raw, labels, epsilon, norm):
    """Which items a linear model has right under the worst of all perturbations, in closed form."""
    rows = np.arange(len(raw))
    away, lift = weight[labels] - weight[1 - labels], (bias[labels] - bias[1 - labels])
    reach = np.abs(away).sum(1) if norm == "linf" else np.sqrt((away**2).sum(1))
    return (raw[rows] * away).sum(1) + lift > epsilon * reach


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_worst_of_a_linear_model_is_reached(linear, norm):
    """Where the worst is known in closed form, the score of each item is what that says, and not what was clean."""
    candidate, weight, bias, raw, labels = linear
    known = worst(weight, bias, raw, labels, 0.05, norm)
    found = scores(adversarial("a", key="x", epsilon=0.05, norm=norm, inputs=as_x), candidate, raw, labels)
    assert np.array_equal(found, known.astype(float))
    clean = (raw @ weight.T + bias).argmax(1) == labels
    assert known.sum() < clean.sum() - 20


def test_the_search_alone_comes_near_the_worst(linear):
    """Without any gradient the search through plain questions turns four in five of what can be turned."""
    candidate, weight, bias, raw, labels = linear
    known = worst(weight, bias, raw, labels, 0.1, "linf")
    clean = (raw @ weight.T + bias).argmax(1) == labels
    measure = adversarial("a", key="x", epsilon=0.1, inputs=as_x, gradient=False, rounds=8, tries=4)
    found = scores(measure, candidate, raw, labels) > 0
    assert not (known & ~found).any()
    assert (clean & ~found).sum() > 0.8 * (clean & ~known).sum() > 20


def test_no_distance_is_the_clean_answer(linear):
    """Within a distance that changes nothing, the score is that of the clean rows."""
    candidate, weight, bias, raw, labels = linear
    found = scores(adversarial("a", key="x", epsilon=1e-9, inputs=as_x), candidate, raw, labels)
    assert np.array_equal(found, ((raw @ weight.T + bias).argmax(1) == labels).astype(float))


ZEROED = 'model(inputs["x"].detach()) + 0 * inputs["x"].sum()'
FLIPPED = 'model(2 * inputs["x"].detach() - inputs["x"])'
SHARP = '1e6 * model(inputs["x"])'


@pytest.mark.parametrize("hidden", [ZEROED, FLIPPED, SHARP])
def test_gradients_that_are_hidden_do_not_save_a_candidate(linear, tmp_path, hidden):
    """Gradients that are zero, turned about or saturated: the same items fall, or nearly, by the search and the margin.

    The control: by gradients alone the first two of these would keep every clean answer.
    """
    _, weight, bias, raw, labels = linear
    source = LINEAR.replace('model(inputs["x"])', hidden)
    known = worst(weight, bias, raw, labels, 0.1, "linf")
    clean = (raw @ weight.T + bias).argmax(1) == labels
    foul = Candidate(tmp_path / "foul", {"weight": weight, "bias": bias}, source)
    found = scores(adversarial("a", key="x", epsilon=0.1, inputs=as_x, rounds=8, tries=4), foul, raw, labels)
    assert (clean & (found == 0)).sum() > 0.8 * (clean & ~known).sum()
    alone = scores(adversarial("a", key="x", epsilon=0.1, inputs=as_x, rounds=0), foul, raw, labels) > 0
    assert (alone == (known if hidden == SHARP else clean)).mean() > 0.9


@pytest.mark.parametrize(
    "answer",
    [
        'model(inputs["x"]).detach()',
        'model(inputs["x"].round())[:, :2].argmax(1, keepdim=True).float() + torch.zeros(1, 2)',
    ],
)
def test_a_predict_that_is_not_differentiable_is_told(linear, tmp_path, answer):
    """Answers from which no gradient comes back are one clear failure, and not a gradient of zero."""
    candidate, weight, bias, raw, _ = linear
    inputs = {"x": raw[:5]}
    foul = Candidate(tmp_path / "f", {"weight": weight, "bias": bias}, LINEAR.replace('model(inputs["x"])', answer))
    assert foul.run("predict", inputs)[1]
    header, given = foul.run("attack", inputs, attack=Perturbation.parse(SPEC).json_value())
    assert (header["error"]["type"], given) == ("NotDifferentiable", {})
    assert candidate.run("attack", inputs, attack=Perturbation.parse(SPEC).json_value())[1]


def test_rows_are_perturbed_each_by_itself(linear):
    """What an attack makes of a row is the same, to rounding, whatever rows stand beside it and in whatever batches."""
    candidate, _, _, raw, _ = linear
    spec = Perturbation.parse({**SPEC, "steps": 5, "size": 0.03, "random": True}).json_value()
    whole = candidate.run("attack", {"x": raw}, attack=spec)[1][PERTURBED]
    few = candidate.run("attack", {"x": raw[10:20]}, attack=spec, batch=3)[1][PERTURBED]
    assert np.allclose(whole[10:20], few, atol=1e-6)
    assert np.array_equal(whole, candidate.run("attack", {"x": raw}, attack=spec)[1][PERTURBED])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_an_honest_worker_gives_is_within_bounds(linear, norm):
    """Rows that an attack gives are changed, within epsilon and within the range; one pushed further is told apart."""
    candidate, _, _, raw, _ = linear
    spec = Perturbation.parse({**SPEC, "norm": norm, "epsilon": 0.4, "steps": 5, "low": 0.25, "high": 0.75})
    moved = candidate.run("attack", {"x": raw}, attack=spec.json_value())[1][PERTURBED]
    assert np.abs(moved - raw).max() > 0.05
    assert spec.strays(raw, moved) is None
    assert spec.strays(raw, moved + np.float32(0.01) * (moved > 0.745)) is not None


@given(st.integers(0, 7), st.floats(1e-4, 10), st.sampled_from(["linf", "l2"]), st.booleans())
def test_one_value_too_far_is_too_far(place, beyond, norm, down):
    """A single value beyond epsilon, or beyond the range, in any place and either way, is found; NaN too."""
    spec = Perturbation.parse({**SPEC, "norm": norm, "epsilon": 0.5, "low": -100.0, "high": 100.0})
    clean = np.zeros((2, 4), np.float32)
    moved = clean.copy()
    moved.flat[place] = 0.5 * (1 - 2 * down)
    assert spec.strays(clean, moved) is None
    moved.flat[place] = (0.5 + beyond + 1e-3) * (1 - 2 * down)
    assert "from the clean one" in spec.strays(clean, moved)
    moved.flat[place] = np.nan
    assert spec.strays(clean, moved) is not None
    narrow = spec.model_copy(update={"low": 0.0, "high": 0.2})
    moved.flat[place] = 0.3 * (1 - 2 * down)
    assert narrow.strays(clean, moved) is not None
    assert spec.strays(clean, moved[:1]) is not None
    assert spec.strays(clean, moved.astype(np.float64)) is not None


@given(
    st.sampled_from(["linf", "l2"]),
    st.sampled_from([(5,), (1,), (4, 6), (3, 4, 6), (2, 2, 3, 5)]),
    st.floats(0.01, 2.0),
    st.integers(0, 5),
    st.integers(0, 1000),
)
def test_the_search_stays_within_what_is_declared(norm, shape, epsilon, step, seed):
    """Whatever shape a row has, every row that the search asks is within epsilon and range."""
    from harness.evals.attacks import _moved, _patches

    rng = np.random.default_rng(seed)
    spec = Perturbation.parse({**SPEC, "norm": norm, "epsilon": epsilon})
    clean = rng.random((7, *shape), dtype=np.float32)
    at = clean
    for done in range(step + 1):
        moved = _moved(spec, clean, at, _patches(rng, clean.shape, 2, done / 6))
        assert moved.shape == (7, 2, *shape)
        for each in (0, 1):
            assert spec.strays(clean, moved[:, each]) is None
        at = moved[:, 0]
    assert (at != clean).any()


def test_an_honest_robust_model_scores_higher(tmp_path):
    """Of two models that are equally right on clean rows, the one that leans on one firm input beats the brittle one."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    firm = 0.25 + 0.5 * labels
    faint = 0.5 + 0.02 * (2 * labels[:, None] - 1) * np.ones((1, 5))
    raw = np.concatenate([firm[:, None], faint], axis=1).astype(np.float32)
    found = {}
    for name, weight in (("robust", [1, 0, 0, 0, 0, 0]), ("brittle", [0, 9, 9, 9, 9, 9])):
        side = np.array(weight, np.float32)
        weights = {"weight": np.stack([-side, side]), "bias": np.array([side.sum(), -side.sum()], np.float32) / 2}
        candidate = Candidate(tmp_path / name, weights)
        assert (by_class(labels, candidate.perform(PREDICT, {"x": raw})["answers"]) > 0).all()
        found[name] = scores(adversarial("a", key="x", epsilon=0.1, inputs=as_x), candidate, raw, labels).mean()
    assert (found["robust"], found["brittle"]) == (1.0, 0.0)


def test_the_same_table_gives_the_same_scores(linear):
    """What was answered once is not asked again, and gives the same scores."""
    candidate, _, _, raw, labels = linear
    table, measure = Table(b"secret"), adversarial("a", key="x", epsilon=0.05, inputs=as_x)
    first = scores(measure, candidate, raw, labels, table)
    asked, candidate.rows = candidate.rows, 0
    assert np.array_equal(scores(measure, candidate, raw, labels, table), first)
    assert asked > 0 == candidate.rows


def test_an_item_does_not_hang_on_the_answers_to_others(linear, tmp_path):
    """With other items turned from the start, an item meets the same rows, and scores the same."""
    candidate, weight, bias, raw, labels = linear
    measure = adversarial("a", key="x", epsilon=0.06, inputs=as_x, gradient=False)
    first = scores(measure, candidate, raw, labels)
    turned = labels.copy()
    turned[::2] = 1 - (raw @ weight.T + bias).argmax(1)[::2]
    again = scores(measure, Candidate(tmp_path / "b", {"weight": weight, "bias": bias}), raw, turned)
    assert not again[::2].any()
    assert np.array_equal(first[1::2], again[1::2])


COUNTING = LINEAR.replace(
    'model(inputs["x"])', 'torch.stack([(inputs["x"] == 1).sum(1) - 2.5, 2.5 - (inputs["x"] == 1).sum(1)], 1)'
)


def one_letter(inputs, rng):
    """Put one place of each row to zero."""
    codes = inputs["x"].copy()
    codes[np.arange(len(codes)), rng.integers(0, codes.shape[1], len(codes))] = 0
    return {"x": codes}


def letters(raw, _rng):
    """Rows of letters."""
    return {"x": np.asarray(raw, np.int64)}


@pytest.mark.parametrize("edits", [1, 2, 3])
def test_edits_are_as_many_as_declared(tmp_path, edits):
    """A rule that holds while three letters stand is broken by just as many edits as it takes, and by no fewer."""
    candidate = Candidate(
        tmp_path / "c", {"weight": np.ones((2, 6), np.float32), "bias": np.ones(2, np.float32)}, COUNTING
    )
    raw = np.array([[1] * count + [0] * (6 - count) for count in (3, 4, 5, 6)] * 5)
    labels = np.zeros(len(raw), dtype=np.int64)
    found = scores(edited("e", inputs=letters, edit=one_letter, edits=edits, tries=20), candidate, raw, labels)
    assert found.tolist() == [float(count - edits >= 3) for count in (3, 4, 5, 6)] * 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0.0}, {"epsilon": float("nan")}, {"steps": 0}, {"norm": "l0"}, {"low": 1.0}, {"tries": 0},
        {"gradient": False, "rounds": 0}, {"seed": -1}, {"key": ""},
    ],
)  # fmt: skip
def test_a_spec_that_is_none_is_refused_where_it_stands(wrong):
    """A distance, a range or a number that means nothing is an error with the line of the declaration."""
    with pytest.raises(SubjectError) as caught:
        adversarial("a", **{"key": "x", "epsilon": 0.1, "inputs": as_x, **wrong})
    assert caught.value.where.startswith("test_attacks.py:")


@pytest.mark.parametrize(
    ("raw", "labels", "told"),
    [(np.full((2, 3), 1.5), np.zeros(2, int), "not within"), (np.zeros((2, 3)), np.zeros(2), "no classes")],
)
def test_items_that_an_attack_cannot_take_are_told(linear, raw, labels, told):
    """Rows out of the declared range, and labels that are no classes, are errors of guards.py."""
    measure = adversarial("a", key="x", epsilon=0.1, inputs=lambda raw, _: {"x": np.tile(raw, 2).astype(np.float32)})
    with pytest.raises(SubjectError, match=told):
        scores(measure, linear[0], raw, labels)


@pytest.mark.parametrize("job", ['{"job":"attack"}', '{"job":"attack","key":"x","epsilon":1,"size":1,"more":1}'])
def test_a_malformed_attack_is_refused(job):
    """A job that calls itself an attack and is none is an error; another job is not one."""
    with pytest.raises(SubjectError, match="an attack's"):
        Perturbation.of(job)
    assert Perturbation.of(PREDICT) is None
    assert Perturbation.of("x") is None
    spec = Perturbation.parse(SPEC)
    assert Perturbation.of(spec.job) == spec
    assert json.loads(spec.job)["job"] == "attack"


# --- whole runs, in the sandbox ----------------------------------------------------------------

ATTACKED = """

from harness.evals import adversarial

attacked = adversarial("attacked", key="image", epsilon=0.04, inputs=plain, steps=5, rounds=2, tries=2)
"""
GATE = "\n  - {eval: smudges, kind: parent, margin: 0.08}\n"
LAX = (
    "policies: [baseline]",
    "policies: [{pack: baseline, params: {packages: [__future__, harness, pydantic, torch]}}]",
)
PREDICTED = '    return model(inputs["image"])'
DETACHED = (PREDICTED, PREDICTED + ".detach()")


def meddling(result: str) -> tuple[str, str]:
    """Have model.py put this in the place of what the worker makes of rows."""
    meddled = f"worker._perturbed = lambda *given: {result}"
    return "def predict(", f"import harness.worker as worker\n\nhonest = worker._perturbed\n{meddled}\n\n\ndef predict("


OUTSIDE, FEWER, SAME = (meddling(f"honest(*given){what}") for what in (" + 0.3", "[1:]", ""))


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """A run with one honest candidate, and others that play foul in the attack job; the last of them only pretends."""
    place = tmp_path_factory.mktemp("attacks")
    subject = rigs.vary(
        digits, place / "subject", (GATE, GATE + "  - {eval: attacked, kind: parent, margin: 0.2}\n"), LAX
    )
    guards = subject / "guards.py"
    guards.write_text(guards.read_text() + ATTACKED)
    rig = rigs.Rig(subject, place)
    try:
        opened = rig.open(place / "run", subject, seed=0)
        try:
            fouls = [{**code(subject, foul), "changes": {"steps": 200}} for foul in (OUTSIDE, FEWER, DETACHED)]
            fouls.append({**code(subject, SAME), "changes": {"steps": 30}})
            generation(opened, 1, knobs(steps=150), *fouls)
            yield place / "run", subject, opened.supervisor.state
        finally:
            opened.close()
    finally:
        rig.close()


def test_a_candidate_is_promoted_under_attack(run):
    """An eval of attacks is a gate as any other, and its mean lies well below the clean accuracy."""
    found = run[2].proposals[1]
    assert found.outcome == "promoted", found.decision
    assert "attacked/parent" in {gate.name for gate in found.measured.gates}
    means = found.developed.development
    assert 0.05 < means["attacked"] < means["accuracy"] - 0.1


@pytest.mark.parametrize(
    ("number", "reason", "told"),
    [(2, "predict-output", "from the clean one"), (3, "predict-output", "what an attack gave"),
     (4, "predict-failed", "NotDifferentiable")],
)  # fmt: skip
def test_foul_play_in_the_attack_job_is_a_rejection(run, number, reason, told):
    """Rows beyond epsilon, rows of another number, and answers without a gradient: rejected, before anything is staked.

    The control: a candidate that meddles with the same function, and gives what it should, is measured.
    """
    found = run[2].proposals[number]
    (why,) = found.decision.reasons
    assert why.code == reason
    assert told in why.text
    assert found.staked is None
    assert run[2].proposals[5].developed is not None


def test_attacks_are_in_the_log_and_derived_again(run):
    """A reviewer verifies the trail, replays the decisions, and comes to the same scores from the logged tables."""
    place, subject, state = run
    folder = RunFolder(place)
    assert verify_run(folder, folder.public_key)["verdict"].startswith(f"valid at size {state.size}")
    assert replay_run(folder)["decisions"] == len(state.proposals)
    measured = sum(found.measured is not None for found in state.proposals.values())
    assert rescore(folder, subject, VaultKey.load(folder.vault_key))["measurements"] == measured >= 1
