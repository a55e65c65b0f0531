"""Facts about imports where a model is served: what the sandbox had, from the place where it had it, or nothing."""

from __future__ import annotations

import importlib
import sys

import pytest

from harness.engines.local import LocalEngine
from harness.errors import SubjectError
from harness.importable import Importable
from harness.modules import SourceTree
from harness.sandbox import Job, Limits

TRIED = [
    "import json", "import tabnanny", "import os.path", "import numpy.linalg", "import torch.nn.functional",
    "import pydantic", "from safetensors.torch import load", "import mpmath", "import typing_extensions",
    "import near", "from rich import NAME", "import rich.console", "import optuna", "import cryptography.x509",
    "import libcst", "import yaml", "import pytest", "import harness", "import harness.errors",
    "from harness.worker import Context", "import harness.keys", "from harness import keys", "from harness import worker",
    "import harness.isolation.kernel", "import nowhere_at_all", "import __main__.other", "import sitecustomize",
]  # fmt: skip
MODEL = f"""
from pydantic import BaseModel

def found(statement):
    try:
        exec(statement, globals())
    except ImportError:
        return False
    return True

FOUND = [found(statement) for statement in {TRIED!r}]

class Recipe(BaseModel):
    found: list[bool] = FOUND
"""
FILES = {"model.py": MODEL.encode(), "near.py": b"", "rich.py": b"NAME = 'its own'\n"}


def load(text, **arguments):
    """Run a model.py of this text, as serving does."""
    return SourceTree({"model.py": text.encode()}, "x", **arguments).load("model")


def forget(monkeypatch, name):
    """Let nothing of a module be left when the test is over."""
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, name)


@pytest.mark.timeout(120)
def test_the_same_imports_work_as_in_the_sandbox(tmp_path):
    """Of many imports, the very ones that the real sandbox has succeed where the model is served, and no other."""
    (tmp_path / "source").mkdir()
    for name, data in FILES.items():
        (tmp_path / "source" / name).write_bytes(data)
    job = Job(entry="describe", files={"source": tmp_path / "source"}, limits=Limits(wall_seconds=60, idle_seconds=30))
    with LocalEngine(count=1) as engine:
        outcome = engine.submit(job).result()
    assert outcome.ok, outcome
    measured = dict(zip(TRIED, outcome.header["recipe"]["found"], strict=True))
    served = dict(zip(TRIED, SourceTree(FILES, "x").load("model").FOUND, strict=True))
    assert served == measured
    assert (measured["import torch.nn.functional"], measured["from rich import NAME"]) == (True, True)
    assert (measured["import optuna"], measured["import harness.keys"]) == (False, False)


def test_a_module_of_the_server_s_path_is_not_found(tmp_path, monkeypatch):
    """What a plain import finds on this process's path is not there for the model's code, loaded already or not."""
    (tmp_path / "helper_of_the_server.py").write_text("NAME = 'decoy'\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget(monkeypatch, "helper_of_the_server")
    text = "import helper_of_the_server\n"
    with pytest.raises(ModuleNotFoundError, match="no module 'helper_of_the_server' where this model was measured"):
        load(text)
    assert importlib.import_module("helper_of_the_server").NAME == "decoy"
    with pytest.raises(ModuleNotFoundError, match="packages"):
        load(text)
    with pytest.raises(ModuleNotFoundError):
        load("def late():\n    from helper_of_the_server import NAME\n    return NAME\n").late()
    assert load(f"try:\n    {text}except ImportError:\n    GONE = True\n").GONE


@pytest.mark.parametrize("name", ["tabnanny", "isympy", "torchgen"])
@pytest.mark.parametrize("loaded", [False, True])
def test_a_decoy_before_what_was_measured_is_refused(tmp_path, monkeypatch, name, loaded):
    """A module that lies before the standard library's or a package's on the path is an error that nothing swallows."""
    (tmp_path / f"{name}.py").write_text("NAME = 'decoy'\n")
    for known in [each for each in sys.modules if each.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, known)
    forget(monkeypatch, name)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        if loaded:
            assert importlib.import_module(name).NAME == "decoy"
        with pytest.raises(SubjectError, match=f"'{name}' would come from .*{name}.py"):
            load(f"try:\n    import {name}\nexcept ImportError:\n    pass\n")
    sys.modules.pop(name, None)
    importlib.invalidate_caches()
    Importable().check(name)


def test_named_packages_are_the_model_s_too():
    """A distribution that the run's configuration names can be imported when serving code names it; others stay out."""
    assert load("import rich.console\n", packages=["rich"]).rich.console
    with pytest.raises(ModuleNotFoundError):
        load("import rich.console\n")
    with pytest.raises(SubjectError, match="not installed") as caught:
        load("", packages=["no-such-distribution"])
    assert "pip install" in caught.value.remedy
