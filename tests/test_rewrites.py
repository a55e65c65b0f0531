"""What codegen makes of real models: it builds, trains and answers; its proposals compile and stay where they may be."""

from __future__ import annotations

import ast
import functools
import itertools
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import libcst
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.canonical import canonical_bytes
from harness.context import Context
from harness.proposal import Code, is_mutable, parse_proposal, successor
from harness.proposers import Archived, Ask, propose
from harness.proposers.crossover import children
from harness.proposers.rewrites import REWRITES

ROOT = Path(__file__).parents[1]
SUBJECTS = {
    path.parent.name: path.read_text(encoding="utf-8")
    for path in (
        ROOT / "examples" / "quickstart" / "model.py",
        *sorted((ROOT / "tests" / "subjects").glob("*/model.py")),
    )
}
QUICKSTART = SUBJECTS["quickstart"]
SWAPS = {"activation swap", "optimiser swap"}
STEPS = 24


@functools.cache
def variants(text: str) -> dict[str, list[str]]:
    """All texts that each rewrite makes of one."""
    module = libcst.parse_module(text)
    return {rewrite.name: [variant.code for variant in rewrite.variants(module)] for rewrite in REWRITES}


def words() -> dict[str, torch.Tensor]:
    """512 words of the quick start's form, whose language is told by their first letter."""
    letters = torch.randint(1, 160, (512, 18), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    letters[:, 12:] = 0
    language = letters[:, 0].long() % 24
    return {"letters": letters, "language": language, "small": language < 3}


def trained(text: str, convolutions: int) -> tuple[torch.nn.Module, dict[str, torch.Tensor], list[float], torch.Tensor]:
    """Build and train one text of the quick start: the network, its first weights, the losses, and its answers."""
    module = ModuleType("rewritten")
    sys.modules["rewritten"] = module  # where pydantic looks up the annotations
    try:
        exec(compile(text, "model.py", "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - our own rewrites
        recipe = module.Recipe(convolutions=convolutions, channels=24, lr=0.01).model_copy(update={"steps": STEPS})
        torch.manual_seed(1)
        network = module.build(recipe)
        first = {name: value.clone() for name, value in network.state_dict().items()}
        context = Context(1, torch.device("cpu"))
        data = words()
        module.train(network.train(), data, recipe, context)
        with torch.no_grad():
            answers = module.predict(network.eval(), {"letters": data["letters"]})
    finally:
        del sys.modules["rewritten"]
    return network, first, [loss for _, loss in context.kept], answers


def holds(text: str, convolutions: int) -> None:
    """Assert that a text of the quick start learns: finite losses that fall, other weights, finite answers."""
    network, first, losses, answers = trained(text, convolutions)
    assert len(losses) == STEPS
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(
        not torch.equal(value, first[name]) for name, value in network.state_dict().items() if name.startswith("out.")
    )
    assert answers.shape == (512, 24)
    assert answers.isfinite().all()


@pytest.mark.parametrize("name", [rewrite.name for rewrite in REWRITES])
def test_what_each_rewrite_makes_of_the_quick_start_trains(name):
    """With one convolution and two, every variant builds, learns within a few steps, and answers."""
    assert variants(QUICKSTART)[name]
    for text, convolutions in itertools.product(variants(QUICKSTART)[name], (1, 2)):
        holds(text, convolutions)


def test_what_crossover_makes_of_the_quick_start_trains():
    """Of any two rewritten quick starts with both other training and another network, every child learns."""
    chosen = {name: texts[0] for name, texts in variants(QUICKSTART).items()}
    made = {child for ours, theirs in itertools.permutations(chosen.values(), 2) for _, child in children(ours, theirs)}
    made -= {*chosen.values(), QUICKSTART}
    assert len(made) >= 20
    for text in sorted(made)[::8]:
        holds(text, 2)


def test_the_rewritten_network_does_what_the_rewrite_says():
    """Normalisation is in the network, embeddings keep the padding's zeros, and decay and penalty shrink the weights."""
    (normalised,) = variants(QUICKSTART)["normalisation"]
    assert sum(isinstance(part, torch.nn.BatchNorm1d) for part in trained(normalised, 2)[0].modules()) == 2
    for text in variants(QUICKSTART)["initialisation"]:
        _, first, _, _ = trained(text, 1)
        assert not first["embed.weight"][0].any()
        assert not torch.equal(first["out.weight"], trained(QUICKSTART, 1)[1]["out.weight"])

    def size(text: str) -> float:
        return sum(float(value.detach().abs().sum()) for value in trained(text, 1)[0].parameters())

    plain = size(QUICKSTART)
    for name in ("weight decay", "L1 penalty"):
        weak, strong = map(size, variants(QUICKSTART)[name])
        assert strong < weak < plain


@pytest.mark.parametrize("text", SUBJECTS.values(), ids=SUBJECTS)
def test_no_rewrite_adds_twice_in_one_place(text):
    """What was added once has fewer places left to be added to; a swap has no more than before."""
    for rewrite in REWRITES:
        name, texts = rewrite.name, variants(text)[rewrite.name]
        for code in texts:
            left = len(rewrite.variants(libcst.parse_module(code)))
            assert (left <= len(texts)) if name in SWAPS else (left < len(texts)), name


def test_the_readme_names_every_rewrite():
    """The names that the setting `rewrites` takes stand in README, crossover among them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = readme.split("`rewrites` takes these names: ")[1].split(".")[0]
    assert [each.strip(" `\n") for each in names.split(",")] == [*(rewrite.name for rewrite in REWRITES), "crossover"]


def test_a_feature_by_itself_is_not_normalised():
    """Behind a head that gives one number there is no normalisation, which would make it a constant."""
    assert all("LayerNorm(1)" not in code for code in variants(SUBJECTS["letters"])["normalisation"])


def test_the_listed_layers_are_normalised_unless_their_weights_are_used():
    """A list that is made in one expression gets a normalisation behind each layer, where nobody looks inside."""
    layer = "nn.Sequential(nn.Conv1d(before, after, kernel_size=3, padding=1), nn.BatchNorm1d(after))"
    assert layer in variants(QUICKSTART)["normalisation"][0]
    used = QUICKSTART.replace(
        "x = functional.relu(convolution(x))", "x = functional.relu(convolution(x)) * convolution.weight.mean()"
    )
    assert used != QUICKSTART
    assert variants(used)["normalisation"] == []


@pytest.mark.parametrize(
    "made", ["SGD(model.parameters(), 0.1, 0.9, 0, 0.01)", "SGD(model.parameters(), **more)", "Adam(model.parameters(), weight_decay=0)"]
)  # fmt: skip
def test_decay_is_added_only_where_there_is_none(made):
    """An optimiser whose decay stands there, by name, by place or behind stars, is left alone."""
    text = QUICKSTART.replace("Adam(model.parameters(), lr=recipe.lr)", made)
    assert text != QUICKSTART
    assert variants(text)["weight decay"] == []


def test_a_penalty_needs_a_plain_backward_of_the_network_s_own_optimiser():
    """A scaled loss, arguments to `backward`, a name that is taken, or another owner of the parameters: no penalty."""
    for old, new in (
        ("loss.backward()", "scaler.scale(loss).backward()"),
        ("loss.backward()", "loss.backward(retain_graph=True)"),
        ("Adam(model.parameters()", "Adam(list(model.parameters())"),
        ("loss.backward()", "penalty = 0\n        loss.backward()"),
    ):
        text = QUICKSTART.replace(old, new)
        assert text != QUICKSTART
        assert variants(text)["L1 penalty"] == []


@functools.cache
def everything() -> list[str]:
    """All subjects, and all that the rewrites make of them."""
    return [text for subject in SUBJECTS.values() for text in (subject, *itertools.chain(*variants(subject).values()))]


@settings(max_examples=12)
@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=3),
    st.integers(0, 2**32),
    st.sampled_from([["*.py"], ["model.py"], ["more/*.py"], ["none.py"]]),
)
def test_every_proposal_of_code_compiles_stays_in_bounds_and_round_trips(drawn, seed, mutable):
    """Whatever is in the archive: proposals parse, change mutable files alone, compile, and survive their bytes."""
    texts = [everything()[number % len(everything())] for number in drawn]
    known = [
        Archived(digest=f"sha256:{number:064x}", recipe={}, files={"model.py": text, "more/loop.py": texts[0]})
        for number, text in enumerate(texts)
    ]
    schema = {"type": "object", "properties": {}}
    asked = Ask(
        seed=seed,
        generation=1,
        count=6,
        schema=schema,
        incumbent=known[0],
        archive=known,
        mutable=mutable,
    )
    documents = propose("codegen", asked)
    assert bool(documents) == (mutable != ["none.py"])
    for document in documents:
        assert json.loads(canonical_bytes(document)) == document
        proposal = parse_proposal(canonical_bytes(document), mutable=mutable)
        assert isinstance(proposal, Code)
        assert proposal.files == document["files"]
        (path,) = proposal.files
        assert is_mutable(path, mutable)
        text = proposal.files[path]
        compile(text, path, "exec", dont_inherit=True)
        assert ast.dump(ast.parse(text)) not in {ast.dump(ast.parse(each)) for each in texts}
        assert successor({}, known[0].files, proposal)[1] == {**known[0].files, path: text}
