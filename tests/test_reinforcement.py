"""harness.proposers.reinforcement: a controller that is taught by the log, and nothing that the log does not say."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from harness.errors import ProposerError
from harness.proposal import effective_change, parse_proposal, successor
from harness.proposers import Archived, Ask, Feedback, propose
from harness.proposers.controller import Controller, Diverged, Episode, nearest, values
from harness.proposers.space import read_space
from harness.proposing import Proposing

NAME = "reinforcement"


class Recipe(BaseModel):
    """A space with every type of knob."""

    deep: int = Field(0, ge=0, le=2, json_schema_extra={"group": "architecture"})
    width: int = Field(16, ge=8, le=128, json_schema_extra={"group": "architecture", "scale": "log"})
    lr: float = Field(0.01, gt=0, le=1.0, json_schema_extra={"scale": "log"})
    steps: int = Field(200, ge=100, le=2000, multiple_of=50)
    kind: str = Field("a", json_schema_extra={"enum": ["a", "b", "c", "d"]})
    warm: bool = False


SCHEMA, FIRST = Recipe.model_json_schema(), Recipe().model_dump()


def known(recipe: dict[str, Any], number: int, accuracy: float) -> Archived:
    """Make a candidate whose digest is a number."""
    return Archived(digest=f"sha256:{number:064x}", recipe=recipe, files={}, development={"accuracy": accuracy})


def asked(history: list[Feedback], *, generation: int = 1, count: int = 6, seed: int = 0, **more: Any) -> Ask:
    """Make an ask from the first version on."""
    first = known(FIRST, 0, 0.5)
    more = {"schema": SCHEMA, "incumbent": first, "archive": [first], **more}
    return Ask(seed=seed, generation=generation, count=count, objective="accuracy", history=history, **more)


def played(name: str, reward: Any, *, seed: int, generations: int = 12) -> list[list[dict[str, Any]]]:
    """Play a loop that promotes nothing: the recipes proposed, by generation."""
    history: list[Feedback] = []
    found = []
    for generation in range(1, generations + 1):
        recipes = []
        for index, document in enumerate(propose(name, asked(history, generation=generation, seed=seed))):
            recipe = {**FIRST, **document["changes"]}
            recipes.append(recipe)
            history.append(
                Feedback(
                    generation=generation, index=index, proposer=name, proposal=document, stage="developed",
                    development={"accuracy": reward(recipe)},
                )
            )  # fmt: skip
        found.append(recipes)
    return found


@settings(max_examples=25)
@given(seed=st.integers(0, 2**40), generation=st.integers(1, 40), told=st.lists(st.floats(-1, 1), max_size=12))
def test_every_proposal_parses_is_in_the_space_and_is_new(seed, generation, told):
    """After any history each document parses to itself, has an effect within the space, and repeats nothing."""
    history = [
        Feedback(
            generation=1 + place // 4, index=place % 4, proposer=NAME, stage="developed",
            proposal={"kind": "hyperparameters", "base": f"sha256:{0:064x}", "changes": {"lr": 10.0 ** -(place + 1)}},
            development={"accuracy": score}, promoted=place % 5 == 0, refuted=["odd"] if place % 7 == 6 else [],
        )
        for place, score in enumerate(told)
    ]  # fmt: skip
    ask = asked(history, generation=generation, seed=seed)
    documents = propose(NAME, ask)
    points = {json.dumps(FIRST, sort_keys=True)}
    points |= {json.dumps({**FIRST, **entry.proposal["changes"]}, sort_keys=True) for entry in history}
    before = len(points)
    for document in documents:
        proposal = parse_proposal(json.dumps(document).encode())
        assert parse_proposal(json.dumps(proposal.document()).encode()) == proposal
        assert effective_change(FIRST, {}, proposal, schema=SCHEMA).knobs
        recipe, _ = successor(FIRST, {}, proposal)
        Recipe.model_validate(recipe)
        points.add(json.dumps(recipe, sort_keys=True))
    assert documents
    assert len(points) == before + len(documents)
    assert propose(NAME, ask) == documents


def test_it_learns_what_is_rewarded():
    """Where one choice decides the reward, the share of proposals with it grows far above what even draws give."""

    def reward(recipe):
        return 0.8 if recipe["kind"] == "c" else 0.4

    late = {"random": 0.0, NAME: 0.0}
    for name in late:
        for seed in range(3):
            recipes = [recipe for generation in played(name, reward, seed=seed)[8:] for recipe in generation]
            late[name] += sum(recipe["kind"] == "c" for recipe in recipes) / len(recipes) / 3
    assert late["random"] < 0.45
    assert late[NAME] > late["random"] + 0.25


def test_it_turns_away_from_what_is_stopped():
    """A choice that a rule stops, or that cannot be built, is proposed less and less."""
    history: list[Feedback] = []
    shares = []
    for generation in range(1, 13):
        documents = propose(NAME, asked(history, generation=generation, count=8))
        stopped = [document["changes"].get("warm") is True for document in documents]
        shares.append(sum(stopped) / len(stopped))
        for index, (document, bad) in enumerate(zip(documents, stopped, strict=True)):
            history.append(
                Feedback(
                    generation=generation, index=index, proposer=NAME, proposal=document,
                    stage="screened" if bad else "developed", failed_rules=["own/cold"] if bad else [],
                    development=None if bad else {"accuracy": 0.5},
                )
            )  # fmt: skip
    assert sum(shares[-4:]) < sum(shares[:4]) / 2


def test_the_one_bit_of_the_gates_counts():
    """Of two histories that differ in who was promoted, each makes its own controller."""
    document = {"kind": "hyperparameters", "base": f"sha256:{0:064x}", "changes": {"kind": "b"}}
    other = {**document, "changes": {"kind": "d"}}
    history = [
        Feedback(
            generation=1, index=index, proposer=NAME, proposal=each, stage="developed", development={"accuracy": 0.6}
        )
        for index, each in enumerate((document, other))
    ]
    promoted = [history[0].model_copy(update={"promoted": True}), history[1]]
    assert propose(NAME, asked(history, generation=2, count=12)) != propose(
        NAME, asked(promoted, generation=2, count=12)
    )


@pytest.mark.parametrize("proposer", ["evolution", "scripted"])
def test_it_learns_from_its_own_proposals_alone(proposer):
    """What others proposed, with whatever reward, leaves the controller as it was, but is not proposed again."""
    document = {"kind": "hyperparameters", "base": f"sha256:{0:064x}", "changes": {"kind": "b"}}
    theirs = [
        Feedback(
            generation=1, index=0, proposer=proposer, proposal=document, stage="developed",
            development={"accuracy": 0.9}, promoted=True,
        )
    ]  # fmt: skip
    alone, beside = propose(NAME, asked([], generation=2)), propose(NAME, asked(theirs, generation=2))
    assert all(each["changes"] != document["changes"] for each in beside)
    assert alone != propose(NAME, asked([theirs[0].model_copy(update={"proposer": NAME})], generation=2)), (
        "own ones count"
    )
    assert [mine for mine in alone if mine["changes"] != document["changes"]] == [
        each for mine, each in zip(alone, beside, strict=True) if mine["changes"] != document["changes"]
    ]


def test_a_controller_that_diverges_is_one_error():
    """An absurd rate ends as one error that names the rate, and not as proposals."""
    history = [
        Feedback(
            generation=generation, index=index, proposer=NAME, stage="developed",
            proposal={"kind": "hyperparameters", "base": f"sha256:{0:064x}", "changes": {"steps": 100 + 50 * index}},
            development={"accuracy": index / 8},
        )
        for generation in range(1, 6)
        for index in range(4)
    ]  # fmt: skip
    with pytest.raises(ProposerError, match="the controller diverged") as caught:
        propose(NAME, asked(history, generation=6, settings={"lr": 1e30}))
    assert "lr below 1e+30" in str(caught.value.remedy)


def test_what_is_not_finite_is_found():
    """An advantage that is not finite raises Diverged, before any parameter has changed."""
    controller = Controller([3], seed=1, hidden=8, lr=0.01, entropy=0.0, keep=0.5)
    before = [each.tolist() for each in controller._network.parameters()]
    with pytest.raises(Diverged, match="loss"):
        controller.learn([Episode([1], math.nan)])
    assert [each.tolist() for each in controller._network.parameters()] == before
    controller.learn([Episode([1], 1.0)])
    assert [each.tolist() for each in controller._network.parameters()] != before


@given(seed=st.integers(0, 2**32))
def test_values_are_admitted_and_found_again(seed):
    """Every value of a knob is one that it admits, and its token is found from it."""
    for knob in read_space(SCHEMA).values():
        every = values(knob, 2 + seed % 9)
        assert len(every) >= 2
        for place, value in enumerate(every):
            assert knob.admits(value)
            assert nearest(knob, every, value) == place + 1
    assert nearest(read_space(SCHEMA)["kind"], ["a", "b"], "z") == 0


def test_an_empty_space_and_odd_settings_are_errors():
    """No knob to search, or a setting that does not fit, is one error that says so."""

    class Bare(BaseModel):
        lr: float = 0.1

    with pytest.raises(ProposerError, match="no knob to search"):
        propose(NAME, asked([], schema=Bare.model_json_schema()))
    for odd in ({"lr": 0}, {"bins": 1}, {"colour": "red"}, {"keep": 1.0}):
        with pytest.raises(ProposerError) as caught:
            propose(NAME, asked([], settings=odd))
        assert min(odd) in str(caught.value.where) + str(caught.value)


def test_the_sandbox_gives_the_same_bytes_as_this_process():
    """Asked in its sandbox, with torch, warm or after another start, and under another hash seed, it says the same."""
    history = [
        Feedback(generation=1, index=index, proposer=NAME, proposal=each, stage="developed", development={"accuracy": 0.4 + index / 10})
        for index, each in enumerate(propose(NAME, asked([])))
    ]  # fmt: skip
    ask = asked(history, generation=2)
    here = json.dumps(propose(NAME, ask))
    for _ in range(2):
        with Proposing() as proposing:
            assert json.dumps(proposing.propose(NAME, ask)) == here
            assert json.dumps(proposing.propose(NAME, ask)) == here
    code = (
        "import json, sys; from harness.proposers import Ask, propose;"
        f"print(json.dumps(propose({NAME!r}, Ask.parse(json.load(sys.stdin)))))"
    )
    for hashing in ("1", "7"):
        done = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(ask.json_value()), capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": hashing},
        )  # fmt: skip
        assert done.stdout.strip() == here
