"""harness.proposers.random_search: even draws over the declared space, what other proposers have to beat."""

from __future__ import annotations

import hashlib
import json
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from harness.errors import ProposerError
from harness.proposal import effective_change, parse_proposal, successor
from harness.proposers import Archived, Ask, Feedback, propose
from harness.proposers.space import read_space


class Recipe(BaseModel):
    """A space with every type of knob."""

    deep: int = Field(0, ge=0, le=2, json_schema_extra={"group": "architecture"})
    width: int = Field(16, ge=8, le=128, json_schema_extra={"group": "architecture", "scale": "log"})
    lr: float = Field(0.01, ge=0.0001, le=1.0, json_schema_extra={"scale": "log"})
    steps: int = Field(200, ge=100, le=2000, multiple_of=50)
    warm: bool = False


def asked(
    schema: dict[str, Any], recipe: dict[str, Any], *, count: int = 4, seed: int = 0, generation: int = 1, **more: Any
) -> Ask:
    """Make an ask of a run that has a first version alone."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    first = Archived(digest=f"sha256:{digest}", recipe=recipe, files={"model.py": "x = 1\n"})
    return Ask(seed=seed, generation=generation, count=count, schema=schema, incumbent=first, archive=[first], **more)


@given(seed=st.integers(0, 2**32), generation=st.integers(0, 50), count=st.integers(1, 12))
def test_every_proposal_parses_is_in_the_space_and_is_new(seed, generation, count):
    """Each document parses to itself, changes only what the space admits, has an effect, and is like no other."""
    ask = asked(Recipe.model_json_schema(), Recipe().model_dump(), count=count, seed=seed, generation=generation)
    documents = propose("random", ask)
    assert len(documents) == count
    points = [json.dumps(ask.incumbent.recipe, sort_keys=True)]
    for document in documents:
        proposal = parse_proposal(json.dumps(document).encode())
        assert parse_proposal(json.dumps(proposal.document()).encode()) == proposal
        change = effective_change(ask.incumbent.recipe, ask.incumbent.files, proposal, schema=ask.schema_)
        assert len(change.knobs) == len(proposal.changes)
        recipe, _ = successor(ask.incumbent.recipe, ask.incumbent.files, proposal)
        Recipe.model_validate(recipe)
        points.append(json.dumps(recipe, sort_keys=True))
    assert len(set(points)) == len(points)
    assert propose("random", ask) == documents


def test_what_was_proposed_is_not_proposed_again():
    """In a space of few points each is proposed once, and then there are none."""

    class Small(BaseModel):
        deep: int = Field(0, ge=0, le=2)
        warm: bool = False

    history: list[Feedback] = []
    recipe, schema = Small().model_dump(), Small.model_json_schema()
    for generation in range(1, 8):
        ask = asked(schema, recipe, count=2, generation=generation, history=history)
        for index, document in enumerate(propose("random", ask)):
            history.append(
                Feedback(generation=generation, index=index, proposer="random", proposal=document, stage="screened")
            )
    assert len(history) == 5


def test_draws_are_even_on_the_scale_of_each_knob():
    """Half of the draws of a logarithmic knob are below its geometric middle, half of a linear one's below its middle."""
    ask = asked(Recipe.model_json_schema(), Recipe().model_dump(), count=256)
    points = [{**ask.incumbent.recipe, **document["changes"]} for document in propose("random", ask)]
    assert 0.4 < statistics.fmean(point["lr"] < 0.01 for point in points) < 0.6
    assert 0.4 < statistics.fmean(point["steps"] < 1050 for point in points) < 0.6
    assert read_space(ask.schema_)["lr"].log


def test_it_has_no_settings_and_needs_a_space():
    """A setting is an error that names it; so is a Recipe without a range."""

    class Bare(BaseModel):
        lr: float = 0.1

    with pytest.raises(ProposerError, match="no setting 'speed'"):
        propose("random", asked(Recipe.model_json_schema(), Recipe().model_dump(), settings={"speed": 1}))
    with pytest.raises(ProposerError, match="no knob to search"):
        propose("random", asked(Bare.model_json_schema(), Bare().model_dump()))


def test_a_logarithm_without_a_lower_bound_is_searched_in_six_decades():
    """A knob above 0, on a logarithm, is drawn from the upper six decades, and not from numbers next to nothing."""

    class Above(BaseModel):
        lr: float = Field(0.01, gt=0, le=1.0, json_schema_extra={"scale": "log"})

    documents = propose("random", asked(Above.model_json_schema(), Above().model_dump(), count=64))
    drawn = [document["changes"]["lr"] for document in documents]
    assert min(drawn) >= 1e-6
    assert 0.3 < statistics.fmean(value < 1e-3 for value in drawn) < 0.7
