"""Proposals of weights, through the real loop: built in the sandbox from known candidates' weights, and decided."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from rigs import code, generation, knobs
from typer.testing import CliRunner

from harness import supervisor
from harness.auditing import verify_run
from harness.canonical import canonical_bytes, parse_json
from harness.cli import app
from harness.decision import reject
from harness.errors import AuditError, ProposerError
from harness.folder import RunFolder
from harness.proposal import Weights, effective_change, parse_proposal, start_of, successor
from harness.proposers import Archived, Ask, Feedback, propose
from harness.replay import replay_run

pytestmark = pytest.mark.usefixtures("quick_disk")


def weights(method: str, *sources: str, base: str = "incumbent", **more) -> dict:
    """Make a proposal of weights; what is no field of a start is a change of knobs."""
    start = {"method": method, "sources": list(sources or ["incumbent"])}
    changes = more.pop("changes", None)
    document = {"kind": "weights", "base": base, "start": {**start, **more}, "rationale": "a test"}
    return document if changes is None else {**document, "changes": changes}


def ends(opened, number: int) -> tuple[str, str]:
    """How a proposal ended: the first reason's code and its text."""
    reason = opened.supervisor.state.proposals[number].decision.reasons[0]
    return reason.code, reason.text


def test_every_start_is_built_decided_and_replayed(rig, digits, tmp_path):
    """All starts go through the real loop, each to a decision that a replay derives again."""
    assert digits
    opened = rig.open(tmp_path / "run", seed=0)
    try:
        generation(opened, 1, knobs(lr=0.02), knobs(lr=0.03))
        state = opened.supervisor.state
        one, two = sorted(state.proposals[number].built.candidate.digest for number in (1, 2))
        generation(
            opened,
            2,
            weights("continue"),
            weights("average", one, two),
            weights("low-rank", rank=2, changes={"steps": 100}),
            weights("reinforce", label="digit", steps=20),
            {**knobs("architecture", hidden=24), "inherit": True},
        )
        state = opened.supervisor.state
        for number in range(3, 8):
            found = state.proposals[number]
            assert found.developed is not None, ends(opened, number)
            assert found.decision is not None
        assert opened.supervisor.state.proposals[3].outcome == "promoted", ends(opened, 3)
        shown = [
            parse_json(opened.rooms.blobs.get(state.proposals[number].screened.document))["proposal"]["start"]
            for number in range(2, 8)
        ]
        assert shown == ["scratch", "continue", "average", "low-rank", "reinforce", "inherit"]
    finally:
        opened.close()
    assert replay_run(RunFolder(tmp_path / "run"))["decisions"] == 7
    told = CliRunner().invoke(app, ["show", str(tmp_path / "run"), "4"])
    assert f"training begins: average from {one[:19]}, {two[:19]}" in told.stdout
    pages = CliRunner().invoke(app, ["review", str(tmp_path / "run"), "--static", str(tmp_path / "pages")])
    assert pages.exit_code == 6, pages.output  # the key is the run's own
    assert f"average from {one[:19]}" in (tmp_path / "pages" / "decisions" / "4.html").read_text()


def test_a_start_from_nobody_known_is_refused(rig, digits, tmp_path):
    """A source that is no candidate of the run is an unknown base, and the text names it."""
    assert digits
    opened = rig.open(tmp_path / "run", seed=0)
    try:
        generation(opened, 1, weights("continue", "sha256:" + "7" * 64), weights("average", "incumbent"))
        assert ends(opened, 1)[0] == "unknown-base"
        assert "7777" in ends(opened, 1)[1]
        assert ends(opened, 2)[0] == "malformed"
    finally:
        opened.close()


def test_starts_tell_proposals_apart(rig, digits, tmp_path):
    """The same recipe and source begun elsewhere is another candidate; begun alike it is a duplicate."""
    assert digits
    opened = rig.open(tmp_path / "run", seed=0)
    try:
        wider = knobs("architecture", hidden=24)
        low = weights("low-rank", rank=1)
        generation(opened, 1, wider, {**wider, "inherit": True}, low, weights("low-rank", rank=2), dict(low))
        assert opened.supervisor.state.proposals[2].developed is not None
        assert opened.supervisor.state.proposals[4].developed is not None
        assert ends(opened, 5) == ("duplicate", "proposal 3 of this epoch is the same candidate")
    finally:
        opened.close()


# What a build changes in effect

IDLE = (
    "rare_share: float",
    'spare: int = Field(1, ge=0, le=9, json_schema_extra={"group": "training"})\n    rare_share: float',
)
MENTIONED = ('"""Logits."""', '"""Logits, whatever `x.spare` is."""')
IMPORT = ("ConfigDict, Field", "ConfigDict, Field, field_validator")
CLAMP = """
    @field_validator({name!r})
    @classmethod
    def _at_least(cls, value):
        return max(value, {value!r})

"""
EXTRA = "recipe.hidden + int(recipe.lr > 0.05)"
SHAPED = ("recipe.hidden), nn.ReLU(), nn.Linear(recipe.hidden", f"{EXTRA}), nn.ReLU(), nn.Linear({EXTRA}")


def changed(opened, digits, *replacements):
    """Have a changed subject built and developed as proposal 1; its digest is a base for what follows."""
    document = code(digits, *replacements)
    generation(opened, 1, document)
    found = opened.supervisor.state.proposals[1]
    assert found.developed is not None, ends(opened, 1)
    return found.built.candidate.digest


def test_a_knob_that_nothing_reads_is_a_no_op_after_the_build(rig, digits, tmp_path):
    """A text that mentions a knob passes the screen; that no code read it while it was built, trained and asked does not."""
    opened = rig.open(tmp_path / "run", seed=0)
    try:
        base = changed(opened, digits, IDLE, MENTIONED)
        generation(opened, 2, knobs(base=base, spare=2), knobs(base=base, spare=3, lr=0.02))
        found = opened.supervisor.state.proposals
        assert ends(opened, 2) == ("no-op", "nothing read spare while it was built, trained and asked")
        assert found[2].built.read == ["hidden", "lr", "rare_share", "steps"]
        assert found[2].developed is None
        assert found[3].developed is not None
    finally:
        opened.close()
    folder = RunFolder(tmp_path / "run")
    assert replay_run(folder)["decisions"] == 3
    assert verify_run(folder, folder.public_key)["verdict"].startswith("valid at size")


@pytest.mark.parametrize(("name", "value"), [("lr", 0.05), ("hidden", 32)])
def test_a_recipe_that_comes_out_otherwise_is_undeclared(rig, digits, tmp_path, name, value):
    """Code that turns a value into another is stopped: the recipe that was judged is the one that counts."""
    opened = rig.open(tmp_path / "run", seed=0)
    try:
        clamp = CLAMP.format(name=name, value=value)
        generation(opened, 1, code(digits, IMPORT, ("\n\ndef build(", f"{clamp}\n\ndef build(")))
        assert ends(opened, 1)[0] == "undeclared"
        assert repr(name) in ends(opened, 1)[1]
        assert opened.supervisor.state.proposals[1].built is not None
    finally:
        opened.close()
    assert replay_run(RunFolder(tmp_path / "run"))["decisions"] == 1


def test_training_that_changes_the_network_is_undeclared(rig, digits, tmp_path):
    """A knob that is told to be of training and shapes the network is stopped, and the text names the tensor."""
    opened = rig.open(tmp_path / "run", seed=0)
    try:
        base = changed(opened, digits, SHAPED)
        generation(opened, 2, knobs(base=base, lr=0.06))
        assert ends(opened, 2)[0] == "undeclared"
        assert "'0.bias'" in ends(opened, 2)[1]
    finally:
        opened.close()
    assert replay_run(RunFolder(tmp_path / "run"))["decisions"] == 2


@pytest.mark.parametrize("verdict", [None, reject("undeclared", "so it is said")])
def test_a_replay_derives_what_a_build_changed(rig, digits, tmp_path, monkeypatch, verdict):
    """A supervisor that lets an idle change pass, or stops one for what it is not, is found out."""
    opened = rig.open(tmp_path / "run", seed=0)
    try:
        base = changed(opened, digits, IDLE, MENTIONED)
        monkeypatch.setattr(supervisor, "shortcoming", lambda *_: verdict)
        generation(opened, 2, knobs(base=base, spare=2))
    finally:
        opened.close()
    with pytest.raises(AuditError, match="what it changes in effect derived again differs from the log"):
        replay_run(RunFolder(tmp_path / "run"))


def test_a_run_goes_on_from_a_build_that_was_not_judged_yet(rig, digits, tmp_path, monkeypatch):
    """Cut between the build and its rejection, a run rejects it for the same reason when it goes on, by the log alone."""
    opened = rig.open(tmp_path / "run", seed=0)
    try:
        base = changed(opened, digits, IDLE, MENTIONED)
        with monkeypatch.context() as patch:
            patch.setattr(supervisor, "shortcoming", lambda *_: (_ for _ in ()).throw(OSError("cut")))
            with pytest.raises(OSError, match="cut"):
                generation(opened, 2, knobs(base=base, spare=2))
        assert opened.supervisor.state.proposals[2].built is not None
        assert replay_run(RunFolder(tmp_path / "run"))["decisions"] == 1
        opened.supervisor.settle(2)
        assert ends(opened, 2)[0] == "no-op"
    finally:
        opened.close()


# The proposer


class Recipe(BaseModel):
    """A space with a knob of each type."""

    width: int = Field(16, ge=8, le=64, json_schema_extra={"group": "architecture"})
    lr: float = Field(0.01, gt=0, le=0.1, json_schema_extra={"scale": "log"})
    steps: int = Field(200, ge=100, le=2000, json_schema_extra={"scale": "log"})
    decay: float = Field(0.0, ge=0, le=0.1)
    flip: bool = False
    mix: str = Field("a", json_schema_extra={"enum": ["a", "b", "c"]})


SCHEMA = Recipe.model_json_schema()
FILES = {"model.py": "vars("}  # whatever is read as a whole reads every knob


def archived(name: str, recipe: dict, accuracy: float) -> Archived:
    """Make a known candidate."""
    digest = "sha256:" + hashlib.sha256(name.encode()).hexdigest()
    return Archived(digest=digest, recipe=recipe, files=FILES, development={"accuracy": accuracy})


def asks(seed: int, chosen: dict, *, generations: int = 3, count: int = 4):
    """Play a loop in which each proposal becomes a candidate; the asks, and each one's answer."""
    incumbent = archived("first", Recipe().model_dump(), 0.5)
    archive, history, played = [incumbent, archived("wide", Recipe(width=32).model_dump(), 0.6)], [], []
    for number in range(1, generations + 1):
        ask = Ask(
            seed=seed, generation=number, count=count, settings=chosen, schema=SCHEMA, objective="accuracy",
            incumbent=incumbent, archive=list(archive), history=list(history),
        )  # fmt: skip
        documents = propose("weights", ask)
        played.append((ask, documents))
        known = {each.digest: each for each in archive}
        for index, document in enumerate(documents):
            recipe, _ = successor(known[document["base"]].recipe, FILES, parse_proposal(json.dumps(document).encode()))
            made = archived(f"{number}/{index}", recipe, 0.5 + 0.01 * index)
            archive.append(made)
            told = Feedback(
                generation=number, index=index, proposer="weights", proposal=document, candidate=made.digest,
                stage="developed", development=made.development,
            )  # fmt: skip
            history.append(told)
    return played


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "label": st.sampled_from(["digit", "y"]),
        "methods": st.lists(
            st.sampled_from(["continue", "average", "low-rank", "reinforce"]), min_size=1, max_size=4, unique=True
        ),
        "ranks": st.lists(st.integers(1, 64), min_size=1, max_size=3),
    },
)


@settings(max_examples=40)
@given(st.integers(0, 2**32), SETTINGS)
def test_proposals_of_weights_parse_change_something_and_never_come_twice(seed, chosen):
    """Each is of its kind, of the settings, within the declared space, starts from known candidates, and is new."""
    seen = set()
    for ask, documents in asks(seed, chosen):
        known = {each.digest: each for each in (*ask.archive, ask.incumbent)}
        for document in documents:
            proposal = parse_proposal(json.dumps(document).encode())
            assert isinstance(proposal, Weights)
            assert parse_proposal(canonical_bytes(proposal.document())) == proposal
            assert proposal.start.method in chosen.get("methods", ["continue", "average", "low-rank", "reinforce"])
            assert proposal.start.method != "reinforce" or proposal.start.label == chosen["label"]
            assert {proposal.base, *proposal.start.sources} <= known.keys()
            widths = {known[source].recipe["width"] for source in (proposal.base, *proposal.start.sources)}
            assert len(widths) == 1, "the weights would not fit"
            base = known[proposal.base]
            start = start_of(proposal, base.digest, ask.incumbent.digest)
            change = effective_change(base.recipe, FILES, proposal, schema=SCHEMA, start=start)
            assert not change.is_noop
            Recipe(**successor(base.recipe, FILES, proposal)[0])
            seen.add(json.dumps({**document, "rationale": ""}, sort_keys=True))
    assert len(seen) == sum(len(documents) for _, documents in asks(seed, chosen))


@pytest.mark.parametrize("chosen", [{}, {"label": "y"}])
def test_the_same_ask_gets_the_same_proposals(chosen):
    """Asked again from its canonical JSON, it answers the same: there is no state beside the ask."""
    for ask, documents in asks(7, chosen):
        assert propose("weights", Ask.parse(json.loads(canonical_bytes(ask.json_value())))) == documents
    assert asks(7, chosen)[0][1] != asks(8, chosen)[0][1]


def test_every_way_is_taken():
    """With a label, all four are proposed in a few generations; without one, nothing is reinforced."""
    ways = {d["start"]["method"] for _, documents in asks(1, {"label": "y"}, generations=5) for d in documents}
    assert ways == {"continue", "average", "low-rank", "reinforce"}
    ways = {d["start"]["method"] for _, documents in asks(1, {}, generations=5) for d in documents}
    assert ways == {"continue", "average", "low-rank"}


def test_a_way_that_gains_is_taken_more_often():
    """After one way gained and another lost, the first has most of the slots."""
    first = archived("first", Recipe().model_dump(), 0.5)
    history = [
        Feedback(
            generation=1, index=index, proposer="weights", stage="developed", development={"accuracy": accuracy},
            proposal={"kind": "weights", "base": first.digest, "start": {"method": method, "sources": [first.digest]}},
        )
        for index, (method, accuracy) in enumerate([("continue", 0.6), ("low-rank", 0.4)])
    ]  # fmt: skip
    ways = [
        document["start"]["method"]
        for seed in range(20)
        for document in propose(
            "weights",
            Ask(
                seed=seed, generation=2, count=4, settings={"methods": ["continue", "low-rank"]}, schema=SCHEMA,
                objective="accuracy", incumbent=first, archive=[first], history=history,
            ),
        )
    ]  # fmt: skip
    assert ways.count("continue") > 2 * ways.count("low-rank")


@pytest.mark.parametrize(
    "wrong", [{"methods": []}, {"methods": ["guess"]}, {"label": "a b"}, {"ranks": [0]}, {"lr": 1}, {"more": 1}]
)
def test_settings_that_do_not_fit_are_one_error(wrong):
    """Unknown ways, labels that name no tensor and numbers out of range are errors with their place."""
    with pytest.raises(ProposerError) as caught:
        asks(0, wrong, generations=1)
    assert caught.value.where.startswith("weights: ")


def test_evolution_learns_nothing_of_proposals_of_weights():
    """What began elsewhere says nothing about its point: with or without it in the history, evolution proposes the same."""
    ask, documents = asks(3, {})[0]
    told = [
        Feedback(
            generation=1,
            index=0,
            proposer="weights",
            proposal=document,
            stage="developed",
            development={"accuracy": 0.9},
        )
        for document in documents
    ]
    later = ask.model_copy(update={"generation": 2, "settings": {}})
    assert propose("evolution", later.model_copy(update={"history": told})) == propose("evolution", later)
