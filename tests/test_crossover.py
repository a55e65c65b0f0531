"""Crossover of code: what comes over compiles, brings what it needs, and is never put among names of another meaning."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.proposal import Code, parse_proposal
from harness.proposers import Archived, Ask, propose
from harness.proposers.crossover import children

QUICKSTART = (Path(__file__).parents[1] / "examples" / "quickstart" / "model.py").read_text(encoding="utf-8")
OURS = """import math

WIDTH = 3


def helper(x):
    return x + 1


def build(x):
    return helper(x) * WIDTH


def train(x):  # ours
    return math.sqrt(x)
"""


def crossed(donor: str, receiver: str = OURS) -> dict[str, str]:
    """All children by name of what came over."""
    return dict(children(receiver, donor))


def test_a_definition_takes_its_namesakes_place():
    """The donor's function stands where the receiver's stood, and the rest of the file is as it was, to the byte."""
    donor = OURS.replace("return math.sqrt(x)", "return math.exp(x)")
    assert crossed(donor) == {
        "train": OURS.replace(
            "def train(x):  # ours\n    return math.sqrt(x)", "def train(x):  # ours\n    return math.exp(x)"
        )
    }


def test_what_it_needs_comes_along():
    """Imports, constants and definitions that the receiver lacks come with it, behind the imports, and run."""
    donor = """import json
from functools import reduce as fold

BASE = 10


def scaled(x):
    return x * BASE


def build(x):
    return json.dumps(fold(max, [scaled(x), 1]))
"""
    made = crossed(donor)
    assert set(made) == {"build"}
    names: dict = {}
    exec(compile(made["build"], "made", "exec"), names)  # noqa: S102 - our own text
    assert names["build"](2) == "20"
    assert names["train"](9) == 3


def test_no_child_among_names_of_another_meaning():
    """Where a constant or an import is another in the receiver, nothing comes over."""
    assert crossed("WIDTH = 4\n\n\ndef build(x):\n    return WIDTH - x\n") == {}
    assert crossed("import cmath as math\n\n\ndef train(x):\n    return math.exp(x)\n") == {}


def test_equal_definitions_and_texts_that_do_not_parse_have_no_child():
    """Another layout is no other definition, and what is no Python gives nothing."""
    assert crossed(OURS.replace("return x + 1", "return (x + 1)  # the same")) == {}
    for broken in ("def build(:", "", "\0", "def build(x):\n\treturn 1\n        return 2\n"):
        assert crossed(broken) == {}
        assert dict(children(broken, OURS)) == {}


PIECES = st.lists(
    st.sampled_from(
        [*OURS.split("\n\n\n"), *QUICKSTART.split("\n\n\n"), "def build(x):\n    return x", "WIDTH = 9", "x = ("]
    ),
    max_size=8,
).map("\n\n\n".join)


@settings(max_examples=60)
@given(PIECES, PIECES)
def test_any_two_modules_give_children_that_compile(receiver, donor):
    """Of any two texts made of pieces of modules, every child compiles, differs, and has the receiver's definitions."""
    for name, text in children(receiver, donor):
        tree = ast.parse(text)
        compile(text, "made", "exec")
        assert text != receiver
        defined = {node.name for node in ast.parse(receiver).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in defined
        assert defined <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_codegen_crosses_the_incumbent_with_the_archive():
    """A proposal by crossover parses, carries the whole file, names its donor, and is made once."""
    recipe = {"lr": 0.1}
    first = Archived(digest=f"sha256:{1:064x}", recipe=recipe, files={"model.py": OURS})
    other = Archived(digest=f"sha256:{2:064x}", recipe=recipe, files={"model.py": OURS.replace("x + 1", "x + 2")})
    same = other.model_copy(update={"digest": f"sha256:{3:064x}"})
    ask = Ask(
        seed=1, generation=1, count=4, schema={"type": "object", "properties": {}}, incumbent=first,
        archive=[other, same, first], settings={"rewrites": ["crossover"]},
    )  # fmt: skip
    assert propose("codegen", ask) == []  # where nothing else differs, the child is the donor itself: no news
    third = OURS.replace("x + 1", "x + 2").replace("math.sqrt", "math.exp")
    both = other.model_copy(update={"files": {"model.py": third}})
    documents = propose("codegen", ask.model_copy(update={"archive": [both, first]}))
    assert {document["rationale"].split(":")[1].split()[0] for document in documents} == {"helper", "train"}
    assert all(isinstance(parse_proposal(json.dumps(document).encode()), Code) for document in documents)
    assert documents == propose("codegen", ask.model_copy(update={"archive": [both, first]}))
    assert all(other.digest[7:19] in document["rationale"] for document in documents)
