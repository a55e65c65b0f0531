"""harness.proposers.improver: proposals of other settings for the proposers beside it, each of them one that is sound."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ProposerError
from harness.proposal import Improver, parse_proposal
from harness.proposers import Archived, Ask, Feedback, propose, settled
from harness.proposers.space import same

BESIDE = {
    "evolution": {"explore": 0.5},
    "codegen": {},
    "reinforcement": {},
    "architecture": {},
    "weights": {},
    "improver": {},
    "random": {},
    "somebody": {"speed": 3},
}
FIRST = Archived(digest=f"sha256:{0:064x}", recipe={"lr": 0.1}, files={"model.py": "x = 1\n"})


def asked(history: list[Feedback] | None = None, *, count: int = 3, seed: int = 0, generation: int = 1, **more) -> Ask:
    """Make an ask beside other proposers."""
    given_ = {"proposers": BESIDE, **more}
    return Ask(
        seed=seed, generation=generation, count=count, schema={"type": "object", "properties": {}}, incumbent=FIRST,
        history=history or [], **given_,
    )  # fmt: skip


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_every_proposal_is_sound_and_new(seed, count):
    """Through some generations each parses, round-trips, is what its proposer reads, differs from what is in force."""
    history: list[Feedback] = []
    seen: list[tuple[str, str]] = []
    for generation in range(1, 5):
        ask = asked(history, count=count, seed=seed, generation=generation)
        documents = propose("improver", ask)
        assert documents == propose("improver", ask)
        for index, document in enumerate(documents):
            proposal = parse_proposal(json.dumps(document).encode())
            assert isinstance(proposal, Improver)
            assert parse_proposal(json.dumps(proposal.document()).encode()) == proposal
            read = settled(proposal.proposer, proposal.settings)
            assert not same(read, settled(proposal.proposer, BESIDE[proposal.proposer]))
            assert proposal.proposer in {"evolution", "codegen", "reinforcement", "architecture", "weights"}
            seen.append((proposal.proposer, json.dumps(read, sort_keys=True)))
            history.append(
                Feedback(generation=generation, index=index, proposer="improver", proposal=document, stage="screened")
            )
    assert len(seen) == 4 * count
    assert len(set(seen)) == len(seen)


def test_nothing_is_proposed_while_settings_are_tried():
    """One trial at a time: while one is open there is no proposal."""
    assert propose("improver", asked(trial="evolution")) == []
    assert propose("improver", asked()) != []


def test_a_rewrite_is_left_out_or_taken_back():
    """Of `codegen` the list of rewrites is moved by one name, crossover among them."""
    names = set()
    for seed in range(60):
        for document in propose("improver", asked(seed=seed, proposers={"codegen": {}}, count=1)):
            kept = document["settings"]["rewrites"]
            everything = settled("codegen", {})["rewrites"] or None
            assert everything is None
            names |= {len(kept)}
            assert len(set(kept)) == len(kept)
    assert names == {10}, "eleven there are, and one is left out"


def test_of_names_proposers_that_can_be_improved():
    """Settings that do not fit, or a name without settings that can be moved, are one error."""
    assert {each["proposer"] for each in propose("improver", asked(settings={"of": ["weights"]}))} == {"weights"}
    for wrong in ({"of": ["random"]}, {"of": ["somebody"]}, {"of": ["improver"]}, {"speed": 1}):
        with pytest.raises(ProposerError):
            propose("improver", asked(settings=wrong))


@pytest.mark.parametrize("name", ["architecture", "codegen", "evolution", "random", "reinforcement", "weights"])
def test_what_became_of_settings_changes_no_proposal_of_a_model(name):
    """Each proposer of models says the same whether or not it is told of settings that were proposed."""
    knobs = {
        "lr": {"type": "number", "minimum": 0.01, "maximum": 1.0},
        "width": {"type": "integer", "minimum": 1, "maximum": 64, "group": "architecture"},
    }
    schema = {"type": "object", "properties": knobs}
    text = "import torch\n\n\ndef train(model):\n    return torch.optim.Adam(model.parameters(), lr=0.1)\n"
    first = FIRST.model_copy(update={"recipe": {"lr": 0.1, "width": 8}, "files": {"model.py": text}})
    document = {"kind": "improver", "proposer": name, "settings": {"explore": 0.25}}
    told = [Feedback(generation=1, index=0, proposer="improver", proposal=document, stage="screened")]
    asks = [
        Ask(seed=5, generation=3, count=2, schema=schema, objective="accuracy", incumbent=first, history=history)
        for history in ([], told)
    ]
    assert propose(name, asks[0]) == propose(name, asks[1]) != []
