"""Conditions of the space, CMA-ES and constraints, and architecture search whose children grow out of their parents."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from harness.errors import ProposerError, SubjectError
from harness.proposal import effective_change, parse_proposal, successor
from harness.proposers import Archived, Ask, Feedback, propose
from harness.proposers.space import active, read_space
from harness.proposers.study import Study, Trial

SHAPE = {"group": "architecture"}


class Recipe(BaseModel):
    """A space in which most means something only with the rest."""

    layers: int = Field(0, ge=0, le=3, json_schema_extra=SHAPE)
    width: int = Field(16, ge=8, le=64, json_schema_extra={**SHAPE, "scale": "log", "when": {"layers": [1, 2, 3]}})
    gate: bool = Field(default=False, json_schema_extra={**SHAPE, "when": {"layers": [2, 3]}})
    heat: float = Field(0.5, ge=0.1, le=0.9, json_schema_extra={**SHAPE, "when": {"gate": [True]}})
    lr: float = Field(0.01, ge=0.001, le=0.1, json_schema_extra={"scale": "log"})


SCHEMA, FIRST = Recipe.model_json_schema(), Recipe().model_dump()
SPACE = read_space(SCHEMA)


def known(recipe: dict[str, Any], files: str = "x = 1\n", **development: float) -> Archived:
    """Make a candidate."""
    digest = hashlib.sha256(json.dumps([recipe, files], sort_keys=True).encode()).hexdigest()
    return Archived(
        digest=f"sha256:{digest}",
        recipe=recipe,
        files={"model.py": files},
        development=development or {"accuracy": 0.5},
    )


def asked(count: int = 4, seed: int = 0, generation: int = 1, schema: dict[str, Any] = SCHEMA, **more: Any) -> Ask:
    """Make an ask from the first version on."""
    first = known(FIRST)
    given_ = {"incumbent": first, "archive": [first], "objective": "accuracy", **more}
    return Ask(seed=seed, generation=generation, count=count, schema=schema, **given_)


def score(recipe: dict[str, Any]) -> float:
    """Stand for a measurement: layers help, and width where there are layers."""
    return 0.5 + 0.05 * recipe["layers"] + (0.002 * recipe["width"] if recipe["layers"] else 0.0)


def played(name: str, seed: int, *, generations: int = 4, **more: Any) -> tuple[list[dict[str, Any]], Ask]:
    """Play a loop that promotes the best of each generation: all documents, and the last ask."""
    incumbent = known(FIRST)
    archive, history, documents = [incumbent], [], []
    for generation in range(1, generations + 1):
        ask = asked(4, seed, generation, incumbent=incumbent, archive=archive, history=list(history), **more)
        for index, document in enumerate(propose(name, ask)):
            documents.append(document)
            base = next(each for each in archive if each.digest == document["base"])
            recipe, _ = successor(base.recipe, base.files, parse_proposal(json.dumps(document).encode()))
            made = known(recipe, accuracy=score(recipe), parity=0.5)
            archive.append(made)
            better = made.development["accuracy"] > incumbent.development["accuracy"]
            incumbent = made if better else incumbent
            history.append(
                Feedback(
                    generation=generation, index=index, proposer=name, proposal=document, candidate=made.digest,
                    stage="developed", development=made.development, promoted=better,
                )
            )  # fmt: skip
    return documents, ask


# Conditions


def test_a_knob_means_something_where_its_condition_holds():
    """Conditions hold through what they name: a gate's heat means nothing where the gate means nothing."""
    assert set(active(SPACE, FIRST)) == {"layers", "lr"}
    assert set(active(SPACE, {**FIRST, "layers": 1, "gate": True})) == {"layers", "width", "lr"}
    assert set(active(SPACE, {**FIRST, "layers": 2, "gate": True})) == set(SPACE)


@pytest.mark.parametrize(
    ("when", "told"),
    [
        ({"depth": [1]}, "which the Recipe does not have"),
        ({"layers": [9]}, "which it never is"),
        ({"layers": [True]}, "which it never is"),
        ({"layers": 1}, "no mapping of knobs to lists"),
        ({"layers": []}, "no mapping of knobs to lists"),
        ([], "no mapping of knobs to lists"),
        ({"lr": [0.01]}, "depends on itself"),
        ({"width": [8]}, "depends on itself"),
    ],
)
def test_a_condition_that_contradicts_itself_is_one_error(when, told):
    """An unknown knob, a value that it never has, no list, itself, a circle: each is one error that names the knob."""
    schema = json.loads(json.dumps(SCHEMA))
    schema["properties"]["lr"]["when"] = when
    schema["properties"]["width"]["when"] = {"lr": [0.01]}
    with pytest.raises(SubjectError, match=told) as caught:
        read_space(schema)
    assert "'lr'" in str(caught.value) or "'width'" in str(caught.value)


@given(
    st.dictionaries(
        st.sampled_from(["layers", "width", "gate", "heat", "lr", "odd"]),
        st.recursive(st.none() | st.integers(-1, 9) | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)),
        max_size=3,
    ),
    st.sampled_from(list(SPACE)),
)
def test_any_condition_is_read_or_refused(when, name):
    """Whatever stands in a schema, it is read, and every knob can be asked about, or SubjectError says why not."""
    schema = json.loads(json.dumps(SCHEMA))
    schema["properties"][name]["when"] = when
    try:
        space = read_space(schema)
    except SubjectError:
        return
    assert set(active(space, FIRST)) <= set(space)


@settings(max_examples=15)
@given(
    st.integers(0, 2**32), st.sampled_from(["evolution", "architecture"]), st.sampled_from(["tpe", "nsga2", "cmaes"])
)
def test_no_proposal_changes_what_means_nothing(seed, name, sampler):
    """Each proposal parses, round-trips, is in the space, is new, and changes only knobs that mean something in it."""
    documents, _ = played(name, seed, settings={"sampler": sampler, "explore": 0.6})
    seen = set()
    bases = {known(FIRST).digest: FIRST}
    for document in documents:
        proposal = parse_proposal(json.dumps(document).encode())
        assert parse_proposal(json.dumps(proposal.document()).encode()) == proposal
        base = bases[document["base"]]
        assert effective_change(base, {"model.py": "vars("}, proposal, schema=SCHEMA).knobs
        recipe, _ = successor(base, {}, proposal)
        Recipe.model_validate(recipe)
        means = active(SPACE, recipe)
        assert set(document["changes"]) <= set(means)
        bases[known(recipe).digest] = recipe
        point = json.dumps({each: recipe[each] for each in means}, sort_keys=True)
        assert point not in seen
        seen.add(point)
    assert len(documents) >= 8


RECIPES = st.fixed_dictionaries(
    {
        "layers": st.integers(0, 3),
        "width": st.integers(8, 64),
        "gate": st.booleans(),
        "heat": st.floats(0.1, 0.9),
        "lr": st.floats(0.001, 0.1),
    }
)
TOLD = st.fixed_dictionaries(
    {
        "recipe": RECIPES,
        "file": st.sampled_from(["x = 1\n", "x = 2\n"]),
        "kind": st.sampled_from(["hyperparameters", "architecture", "code", "weights", "odd"]),
        "base": st.integers(-1, 20),  # -1: of nobody
        "failed_rules": st.lists(st.sampled_from(["own/slow", "own/wide"]), max_size=2, unique=True),
        "refuted": st.lists(st.sampled_from(["proportion", "order"]), max_size=2, unique=True),
        "accuracy": st.none() | st.floats(0, 1),
        "promoted": st.booleans(),
    }
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(TOLD, max_size=20),
    st.integers(0, 2**32),
    st.sampled_from(
        [(name, sampler) for name in ("evolution", "architecture") for sampler in ("tpe", "nsga2", "cmaes")]
        + [("random", ""), ("weights", "")]
    ),
)
def test_whatever_was_told_each_proposal_parses_round_trips_and_is_in_the_space(told, seed, how):
    """Over any history, with inactive knobs set and points refused in every way, proposals are new and of the space."""
    name, sampler = how
    first = known(FIRST, accuracy=0.5)
    archive, history = {first.digest: first}, []
    for index, each in enumerate(told):
        made = known(each["recipe"], each["file"], accuracy=each["accuracy"] or 0.0)
        bases = list(archive)
        base = "sha256:" + "f" * 64 if each["base"] < 0 else bases[each["base"] % len(bases)]
        measured = each["accuracy"] is not None
        if measured:
            archive.setdefault(made.digest, made)
        history.append(
            Feedback(
                generation=index // 4, index=index % 4, proposer=name, candidate=made.digest if measured else None,
                proposal={"kind": each["kind"], "base": base, "changes": each["recipe"]},
                stage="developed" if measured else "proposed",
                development={"accuracy": each["accuracy"]} if measured else None,
                failed_rules=each["failed_rules"], refuted=each["refuted"], promoted=measured and each["promoted"],
            )
        )  # fmt: skip
    more = {"settings": {"sampler": sampler, "explore": 0.6}} if sampler else {}
    ask = asked(4, seed, 9, incumbent=first, archive=list(archive.values()), history=history, **more)
    seen = [shape_of(made.recipe) for made in archive.values()]
    for document in propose(name, ask):
        proposal = parse_proposal(json.dumps(document).encode())
        assert parse_proposal(json.dumps(proposal.document()).encode()) == proposal
        if name == "weights":
            continue
        base = archive[document["base"]]
        assert effective_change(base.recipe, {"model.py": "vars("}, proposal, schema=SCHEMA).knobs
        recipe, _ = successor(base.recipe, base.files, proposal)
        Recipe.model_validate(recipe)
        assert set(document["changes"]) <= set(active(SPACE, recipe))
        assert shape_of(recipe) not in seen
        seen.append(shape_of(recipe))


def shape_of(recipe: dict[str, Any]) -> dict[str, Any]:
    """Reduce a recipe to what means something in it."""
    return {name: recipe[name] for name in active(SPACE, recipe)}


@pytest.mark.parametrize("name", ["evolution", "random"])
def test_points_that_differ_in_what_means_nothing_are_one_point(name):
    """Of a space of three points two are known, one of them with another value of a knob that means nothing there."""

    class Small(BaseModel):
        deep: bool = True
        extra: bool = Field(default=True, json_schema_extra={"when": {"deep": [True]}})

    first, shallow = known({"deep": True, "extra": True}), known({"deep": False, "extra": False})
    for seed in range(5):
        ask = asked(8, seed, schema=Small.model_json_schema(), incumbent=first, archive=[first, shallow])
        assert [document["changes"] for document in propose(name, ask)] == [{"extra": False}]


# Architecture


def test_architecture_changes_the_network_alone_and_its_children_inherit():
    """Every proposal is of the kind architecture, over knobs of that group, and says that the child inherits."""
    documents, _ = played("architecture", 3)
    assert {document["kind"] for document in documents} == {"architecture"}
    assert {document["inherit"] for document in documents} == {True}
    assert {name for document in documents for name in document["changes"]} <= {"layers", "width", "gate", "heat"}
    scratch, _ = played("architecture", 3, settings={"inherit": False})
    assert not [document for document in scratch if "inherit" in document]


def test_architecture_needs_a_network_to_search():
    """A Recipe without a knob of the architecture is an error with its remedy; so is a setting that does not fit."""

    class Flat(BaseModel):
        lr: float = Field(0.01, ge=0.001, le=0.1)

    with pytest.raises(ProposerError, match="no knob to search"):
        propose("architecture", asked(schema=Flat.model_json_schema()))
    with pytest.raises(ProposerError, match="architecture: speed"):
        propose("architecture", asked(settings={"speed": 1}))


# Parents and constraints


def test_an_archived_candidate_of_other_code_is_a_parent_once_it_was_promoted():
    """Other code has children where it was promoted before, and none where it only scored well."""
    first = known(FIRST, accuracy=0.60)
    older = known({**FIRST, "layers": 1}, "x = 2\n", accuracy=0.59)
    poisoned = known({**FIRST, "layers": 2}, "x = 3\n", accuracy=0.9)
    archive = [first, older, poisoned]
    told = Feedback(
        generation=0, index=0, proposer="codegen", proposal={"kind": "code"}, candidate=older.digest, stage="developed",
        development={"accuracy": 0.59}, promoted=True,
    )  # fmt: skip
    bases = set()
    for seed in range(20):
        ask = asked(4, seed, incumbent=first, archive=archive, history=[told])
        bases |= {document["base"] for document in propose("evolution", ask)}
    assert bases == {first.digest, older.digest}


def test_settings_say_what_is_to_shrink():
    """Of archived candidates the quicker is a parent where latency is to shrink, and the slower where it is to grow."""
    first = known(FIRST, accuracy=0.6, latency=5.0)
    quick = known({**FIRST, "layers": 1}, accuracy=0.6, latency=2.0)
    slow = known({**FIRST, "layers": 2}, accuracy=0.6, latency=9.0)

    def parents(**more: Any) -> set[str]:
        asks = [
            asked(4, seed, incumbent=first, archive=[first, quick, slow], settings={"objectives": ["latency"], **more})
            for seed in range(20)
        ]
        return {document["base"] for ask in asks for document in propose("evolution", ask)}

    assert parents(minimise=["latency"]) == {first.digest, quick.digest}
    assert parents() == {first.digest, slow.digest}


def test_what_is_to_shrink_is_no_loss_where_it_shrank():
    """A candidate that gained and is smaller and quicker has lost nothing, and is a parent; one that is less fair is none."""
    first = known(FIRST, accuracy=0.6, latency=5.0, parameters=100.0, parity=0.5)
    better = known({**FIRST, "layers": 1}, accuracy=0.7, latency=2.0, parameters=50.0, parity=0.5)
    unfair = known({**FIRST, "layers": 2}, accuracy=0.7, latency=2.0, parameters=50.0, parity=0.1)
    archive = [first, better, unfair]
    asks = [asked(4, seed, incumbent=first, archive=archive, settings={"minimise": ["latency"]}) for seed in range(20)]
    bases = {document["base"] for ask in asks for document in propose("evolution", ask)}
    assert bases == {first.digest, better.digest}


@pytest.mark.parametrize("name", ["evolution", "architecture"])
def test_an_objective_that_nobody_measures_is_an_error(name):
    """The error names the setting, the metric, and what there is."""
    with pytest.raises(ProposerError, match=r"'latancy'.*accuracy") as caught:
        propose(name, asked(settings={"objectives": ["latancy"], "minimise": ["latancy"]}))
    assert f"{name}: objectives" in str(caught.value)


def test_a_point_is_named_by_the_recipe_that_it_was_tried_with():
    """Tried where a condition on a training knob did not hold, a point of the network is still new where it holds."""

    class Mixed(BaseModel):
        noise: bool = False
        gate: bool = Field(default=False, json_schema_extra={**SHAPE, "when": {"noise": [True]}})
        tied: bool = Field(default=False, json_schema_extra=SHAPE)

    plain = known({"noise": False, "gate": False, "tied": False})
    first = known({"noise": True, "gate": False, "tied": False})
    refused = Feedback(
        generation=0, index=0, proposer="architecture", stage="proposed", failed_rules=["own/slow"],
        proposal={"kind": "architecture", "base": plain.digest, "changes": {"tied": True}},
    )  # fmt: skip
    ask = asked(8, schema=Mixed.model_json_schema(), incumbent=first, archive=[plain, first], history=[refused])
    changes = [document["changes"] for document in propose("architecture", ask) if document["base"] == first.digest]
    assert {"tied": True} in changes


def test_each_kind_of_refusal_is_a_constraint_of_its_own():
    """A study is told by name which constraints a trial broke: rules, properties, and what was never built."""
    trials = [
        Trial(values={"lr": 0.01}, parent={"lr": 0.02}, scores=[0.5], gain=0.0),
        Trial(values={"lr": 0.05}, parent={"lr": 0.02}, scores=None, gain=None, broken=["rule own/slow"]),
        Trial(values={"lr": 0.06}, parent={"lr": 0.02}, scores=None, gain=None, broken=["built", "property odd"]),
    ]
    study = Study({"lr": SPACE["lr"]}, trials, sampler="tpe", seed=1, population=4)
    told = [trial.constraints for trial in study._study.get_trials()]
    assert [sorted(name for name, value in each.items() if value > 0) for each in told] == [
        [], ["rule own/slow"], ["built", "property odd"],
    ]  # fmt: skip
    assert {len(each) for each in told} == {3}


def test_cma_es_samples_near_the_best_and_random_draws_do_not():
    """Told of a valley in two dimensions, CMA-ES draws nearer to its middle than even draws are."""

    class Valley(BaseModel):
        a: float = Field(0.5, ge=0.0, le=1.0)
        b: float = Field(0.5, ge=0.0, le=1.0)

    space = read_space(Valley.model_json_schema())
    rng = random.Random(1)  # noqa: S311 - points, not secrets
    trials = []
    for _ in range(40):
        point = {"a": rng.random(), "b": rng.random()}
        away = (point["a"] - 0.2) ** 2 + (point["b"] - 0.8) ** 2
        trials.append(Trial(values=point, parent=point, scores=[-away], gain=0.0))
    drawn = [Study(space, trials, sampler="cmaes", seed=seed, population=4).draw() for seed in range(40)]
    nearness = sum(((p["a"] - 0.2) ** 2 + (p["b"] - 0.8) ** 2) ** 0.5 for p in drawn) / len(drawn)
    even = sum(-trial.scores[0] for trial in trials if trial.scores) / len(trials)
    assert nearness < 0.7 * even**0.5


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "cmaes"])
def test_a_trial_below_what_is_searched_is_told_all_the_same(sampler):
    """A value that a knob admits below the six decades of its logarithm breaks no sampler."""

    class Above(BaseModel):
        a: float = Field(0.5, gt=0.0, le=1.0, json_schema_extra={"scale": "log"})
        b: float = Field(0.5, ge=0.0, le=1.0)

    space = read_space(Above.model_json_schema())
    points = [{"a": 10.0**-exponent, "b": exponent / 20} for exponent in range(15)]
    trials = [Trial(values=point, parent=point, scores=[point["b"]], gain=0.0) for point in points]
    drawn = Study(space, trials, sampler=sampler, seed=1, population=4).draw()
    assert 1e-6 <= drawn["a"] <= 1


def test_cma_es_takes_one_objective():
    """Two objectives are an error that names the setting."""
    with pytest.raises(ProposerError, match="one objective"):
        propose("evolution", asked(settings={"sampler": "cmaes", "objectives": ["accuracy", "parameters"]}))


# The same bytes


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        *((name, sampler) for name in ("evolution", "architecture") for sampler in ("tpe", "nsga2", "cmaes")),
        ("random", None),
        ("weights", None),
    ],
)
def test_fresh_processes_say_the_same_bytes(name, sampler):
    """Two processes with other hash seeds answer one ask with the same bytes."""
    more = {"settings": {"sampler": sampler, "explore": 0.6}} if sampler else {}
    _, ask = played("evolution", 5)
    ask = ask.model_copy(update=more)
    code = (
        "import json, sys; from harness.proposers import Ask, propose;"
        f"print(json.dumps(propose({name!r}, Ask.parse(json.load(sys.stdin)))))"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(ask.json_value()), capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": hashing}, cwd=Path(__file__).parents[1],
        ).stdout
        for hashing in ("1", "7")
    }  # fmt: skip
    assert len(answers) == 1
    assert len(json.loads(answers.pop())) >= 3
