"""Crossover of code: what comes over compiles, brings what it needs, and is never put among names of another meaning."""

from __future__ import annotations

import ast
import builtins
import dis
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
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


@pytest.mark.parametrize(
    ("receiver", "donor", "result"),
    [
        ("def make():\n    return 2\n\ndef build():\n    return 0\n", "def make():\n    return 3\n\nT = make()\n\ndef build():\n    return T\n", 2),
        ("def build():\n    return 0\n", "try:\n    import math\nexcept ImportError:\n    math = None\n\ndef build():\n    return math.floor(1.5)\n", 1),
        ("from math import floor\n\ndef build():\n    return 0\n", "from math import ceil, floor\n\ndef build():\n    return floor(ceil(1.5))\n", 2),
        ("import os\n\ndef build():\n    return 0\n", "import os\nimport os.path\n\ndef build():\n    return os.path.join('a')\n", "a"),
        ("def build():\n    return 0\n", "N = 1\nN += 1\n\ndef build():\n    return N\n", 2),
        ('"""Doc."""\n\ndef build():\n    return 0\n', "import math\nN = 1\n\ndef build():\n    return math.floor(N)\n", 1),
    ],
)  # fmt: skip
def test_what_is_brought_is_whole_and_in_its_order(receiver, donor, result):
    """Of a line of imports the name that lacks, all statements of a name, and each behind what it reads at once."""
    child = crossed(donor, receiver)["build"]
    names: dict[str, Any] = {}
    exec(compile(child, "made", "exec"), names)  # noqa: S102 - our own text
    assert names["build"]() == result
    assert ast.get_docstring(ast.parse(child)) == ast.get_docstring(ast.parse(receiver))


@pytest.mark.parametrize(
    ("receiver", "donor"),
    [
        ("def other(x):\n    return sum(x)\n\ndef build():\n    return 0\n", "def sum(x):\n    return 0\n\ndef build():\n    return sum([1])\n"),
        ("def sum(x):\n    return 0\n\ndef build():\n    return 0\n", "def build():\n    return sum([1])\n"),
        ("def build():\n    return 0\n", "from math import *\n\ndef build():\n    return sqrt(1)\n"),
        ("def build():\n    return 0\n", "from __future__ import annotations\n\ndef build(x: later = 1):\n    return x\n"),
        ("def build():\n    return 0\n\nclass Base:\n    pass\n", "class Base:\n    pass\n\ndef build(x=Base):\n    return x\n"),
        ("A = 5\n\ndef build():\n    return 0\n", "A, B = 1, 2\n\ndef build():\n    return B\n"),
        ("A = 5\n\ndef build():\n    return 0\n", "try:\n    import A\n    B = 2\nexcept ImportError:\n    B = 1\n\ndef build():\n    return B\n"),
        ("def build():\n    return 0\n", "def build():\n    return nowhere\n"),
        ("def build():\n    return 0\n", "def more():\n    global N\n    N = 1\n\ndef build():\n    return N\n"),
    ],
)  # fmt: skip
def test_no_child_where_a_name_would_be_missing_late_or_another(receiver, donor):
    """Builtins stay what they are, star imports tell nothing, and what is read at once has to be there."""
    assert "build" not in crossed(donor, receiver)


def test_what_is_brought_is_in_one_order_whatever_the_hashes():
    """Processes with other hash seeds make the same bytes."""
    names = ["ceil", "exp", "floor", "fsum", "gcd", "log", "sqrt", "tan"]
    donor = f"from math import {', '.join(names)}\n\n\ndef build():\n    return {', '.join(names)}\n"
    program = "import sys; from harness.proposers.crossover import children; print(dict(children(*sys.argv[1:])))"
    made = {
        subprocess.run(
            [sys.executable, "-c", program, "def build():\n    return 0\n", donor],
            env={**os.environ, "PYTHONHASHSEED": seed}, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(made) == 1
    assert all(f"from math import {name}\\n" in next(iter(made)) for name in names)


def test_nesting_that_no_parser_takes_has_no_child():
    """A text may be hostile: it ends in nothing, not in an error."""
    deep = "def build():\n    return " + "-" * 5000 + "1\n"
    assert crossed(deep) == {}


RUNNING = [
    "import math", "from math import floor, ceil", "from math import ceil as floor", "import os.path", "import os", "A = 1", "B = 2", "A, B = 1, 2",
    "A += 1", "T = make()", "try:\n    import json as j\nexcept ImportError:\n    j = None", "if A:\n    C = A\nelse:\n    C = 0",
    "def make():\n    return 1", "def make():\n    return floor(A)", "def make(at=A):\n    return math.floor(at)", "class Base:\n    size = 1",
    "class Base:\n    size = A", "class Net(Base):\n    def get(self):\n        return self.size + B", "class Net(Base):\n    pass",
    "def build():\n    return Net().size", "def build():\n    return T + ceil(1.5)", "def build(*, kind=Base):\n    return j.dumps(C)",
    "def build():\n    return os.path.join(str(make()))", "def build():\n    return sum([A for A in [B]])", "def sum(x):\n    return 0", "F = lambda: build()",
]  # fmt: skip
"""Statements that run in some orders."""


def ran(text: str) -> dict[str, Any]:
    """The names of a module, run."""
    names: dict[str, Any] = {}
    exec(compile(text, "made", "exec"), names)  # noqa: S102 - our own text
    return names


def global_names(code: CodeType) -> Iterator[str]:
    """The names that a compiled text looks up outside of functions, those in functions too."""
    yield from (each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from global_names(constant)


def unknown(text: str, names: dict[str, Any]) -> set[str]:
    """The names that a module which has run looks up and has not."""
    looked = set(global_names(compile(text, "made", "exec")))
    return looked - set(names) - set(dir(builtins)) - {"__module__", "__qualname__", "__name__", "size"}


def running(pieces: list[str]) -> str:
    """A module of those statements that find their names where they stand, functions those that they look up later."""
    while True:
        names: dict[str, Any] = {}
        kept = []
        for piece in pieces:
            try:
                exec(compile(piece, "made", "exec"), names)  # noqa: S102 - our own text
            except NameError:
                continue
            kept.append(piece)
        pieces = [piece for piece in kept if not unknown(piece, names)]
        if pieces == kept:
            return "\n\n".join(pieces)


RUNS = st.lists(st.sampled_from(RUNNING), min_size=6, max_size=20).map(running)


@settings(max_examples=300)
@given(RUNS, RUNS)
def test_of_modules_that_run_every_child_runs_and_knows_its_names(receiver, donor):
    """Whatever two modules that run: a child runs, knows every name that it looks up, and keeps its constants."""
    ours = ran(receiver)
    for name, text in children(receiver, donor):
        child = ran(text)
        assert not unknown(text, child), text
        assert all(child[kept] == ours[kept] for kept in ("A", "B") if kept in ours), text
        assert callable(child[name])


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
    """A proposal by crossover parses, carries the whole file, names both candidates, and is made once."""
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
    for document in documents:
        assert f"of candidate {other.digest[7:19]} in {first.digest[7:19]}" in document["rationale"]
