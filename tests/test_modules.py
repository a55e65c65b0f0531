"""Facts about modules from bytes: a source tree imports its own verified files and nothing in their place."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import traceback
from pathlib import Path

import pytest

from harness.errors import SubjectError
from harness.modules import SourceTree

TREE = {
    "model.py": b"import parts.layer\nfrom near import NAME\nfrom parts.layer import WIDTH as wide\nWIDTH = parts.layer.WIDTH\n",
    "near.py": b"NAME = 'near'\n",
    "parts/layer.py": b"from .inner import WIDTH\n",
    "parts/inner.py": b"WIDTH = 3\n",
}


def test_neighbours_are_found_among_the_files():
    """Plain, dotted, from-imports and relative ones find the tree's own files, packages with and without a page."""
    module = SourceTree(TREE, "x").load("model")
    assert (module.WIDTH, module.wide, module.NAME) == (3, 3, "near")
    packed = {**TREE, "parts/__init__.py": b"from near import NAME\n"}
    assert SourceTree(packed, "x").load("model").parts.NAME == "near"


def test_two_trees_do_not_meet():
    """Each tree is a package of its own: equal names hold different modules, and `model` is none of them."""
    one, two = (SourceTree({**TREE, "near.py": f"NAME = {name!r}".encode()}, "x").load("model") for name in "ab")
    assert (one.NAME, two.NAME) == ("a", "b")
    assert "model" not in sys.modules
    assert "near" not in sys.modules


def test_nothing_of_the_process_takes_a_neighbour_s_place(tmp_path, monkeypatch):
    """A module of that name on this process's path, or imported already, is not what the source gets."""
    (tmp_path / "near.py").write_text("NAME = 'another'\n")
    monkeypatch.syspath_prepend(tmp_path)
    import near

    assert near.NAME == "another"
    assert SourceTree(TREE, "x").load("model").NAME == "near"
    monkeypatch.delitem(sys.modules, "near")


@pytest.mark.parametrize("name", ["json.py", "numpy.py", "torch/nn.py", "typing_extensions.py", "harness/keys.py"])
def test_a_file_that_was_never_measured_is_refused(name):
    """In the sandbox an installed module came before a file of its name: such a file would run here for the first time."""
    with pytest.raises(SubjectError, match="came before it"):
        SourceTree({**TREE, name: b""}, "x")


def test_other_imports_go_where_they_always_go():
    """Installed packages are the process's own, and what is nowhere is an ImportError."""
    import numpy as np

    assert SourceTree({"model.py": b"import numpy\n"}, "x").load("model").numpy is np
    with pytest.raises(ModuleNotFoundError):
        SourceTree({"model.py": b"import nowhere_at_all\n"}, "x").load("model")
    with pytest.raises(ModuleNotFoundError):
        SourceTree(TREE, "x").load("missing")


def test_source_can_be_looked_at():
    """Tracebacks name file and line, and `inspect` finds the text: some libraries read their caller's source."""
    tree = SourceTree({"model.py": b"def fail():\n    raise ValueError('here')\n"}, "x")
    module = tree.load("model")
    with pytest.raises(ValueError, match="here") as caught:
        module.fail()
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno) == (f"{tree.root}/model.py", 2)
    assert "raise ValueError" in inspect.getsource(module.fail)


def test_classes_know_their_module():
    """Dataclasses and typed records look their module up by name, and find it."""
    text = b"from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Kept:\n    at: int = 3\n"
    kept = SourceTree({"model.py": text}, "x").load("model").Kept
    assert [field.name for field in dataclasses.fields(kept)] == ["at"]
    assert sys.modules[kept.__module__].Kept is kept


def test_bytes_are_decoded_as_python_does():
    """A declared encoding holds, and what cannot be compiled is a SyntaxError with its line."""
    assert SourceTree({"model.py": b"# coding: latin-1\nNAME = '\xe9'\n"}, "x").load("model").NAME == "é"
    with pytest.raises(SyntaxError) as caught:
        SourceTree({"model.py": b"x = 1\nx = = 2\n"}, "x").load("model")
    assert caught.value.lineno == 2


def test_an_ordinary_script_of_two_files_is_built():
    """The example that wraps a training script imports its network from the file beside it."""
    example = Path(__file__).parent.parent / "examples" / "own_model"
    files = {name: (example / name).read_bytes() for name in ("model.py", "network.py")}
    module = SourceTree(files, "x").load("model")
    assert sum(p.numel() for p in module.build(module.Recipe()).parameters()) > 0
