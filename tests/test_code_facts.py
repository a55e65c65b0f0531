"""Facts about the facts of code."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.code_facts import MAX_DIFF_LINES, changed_files, changed_lines, facts

HONEST = '''
"""A model."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor, nn


class Recipe(BaseModel):
    hidden: int = 32


class Net(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.a = nn.Linear(4, hidden)

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(self.a(input)) * math.sqrt(2)


def build(recipe):
    return Net(recipe.hidden)


def train(model, data, recipe, context):
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            setattr(module, "bias", None)
    model.eval()


def predict(model, inputs):
    return model(inputs["x"]).float()
'''


def read(source: str):
    """Return the facts of one file."""
    return facts({"model.py": source})


def test_an_honest_model_has_nothing_dynamic() -> None:
    """Ordinary torch code parses, defines what a subject needs, and is not called dynamic."""
    found = read(HONEST)
    assert found.parses
    assert found.problem == ""
    assert found.dynamic == []
    assert found.packages == ["__future__", "math", "pydantic", "torch"]
    assert {"model.py:Recipe", "model.py:build", "model.py:train", "model.py:predict"} <= set(found.defines)
    assert {"torch.nn.Linear", "torch.nn.functional.relu", "math.sqrt"} <= set(found.calls)
    assert {"torch", "torch.nn", "torch.nn.Linear", "torch.Tensor"} <= set(found.attributes)


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("import os as math\nmath.system('x')", "os.system"),
        ("from os import system as s\ns('x')", "os.system"),
        ("import torch.hub as h\nh.load('x')", "torch.hub.load"),
        ("import torch\nt = torch\nu = t\nu.hub.load('x')", "torch.hub.load"),
        ("from torch import hub\ng = hub.load\ng('x')", "torch.hub.load"),
        ("import torch\nif (t := torch):\n    t.load('x')", "torch.load"),
        ("\uff45\uff56\uff41\uff4c('1')", "eval"),
        ("import torch\ntorch.\uff4coad('x')", "torch.load"),
    ],
)
def test_names_are_seen_through_their_aliases(source: str, calls: str) -> None:
    """A call is listed under its real name, whatever it was imported, assigned or spelt as."""
    assert calls in read(source).calls


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("eval('1')", "eval"),
        ("e = eval\ne('1')", "eval"),
        ("list(map(eval, ['1']))", "eval"),
        ("exec('1')", "exec"),
        ("compile('1', '', 'exec')", "compile"),
        ("__import__('os')", "__import__"),
        ("globals()['x']", "globals"),
        ("open('/etc/passwd')", "open"),
        ("__builtins__['eval']", "name __builtins__"),
        ("__loader__.load_module('os')", "name __loader__"),
        ("().__class__.__base__.__subclasses__()", "attribute __subclasses__"),
        ("f.__globals__", "attribute __globals__"),
        ("(lambda: 0).__code__", "attribute __code__"),
        ("g = (i for i in [])\ng.gi_frame.f_back", "attribute gi_frame"),
        ("getattr(x, 'ev' + 'al')", "getattr with a name"),
        ("getattr(x, name)", "getattr with a name"),
        ("getattr(x, '__globals__')", "dunder name in a string"),
        ("getattr(torch, 'os')", "getattr with a name"),
        ("g = getattr\n", "getattr as a value"),
        ("'{0.__class__}'.format(x)", "dunder name in a string"),
        ("type('X', (), {})", "type that makes a class"),
        ("import os", ""),
        ("import torch\ntorch.os.system('x')", "torch.os.system (module os)"),
        ("import random\nrandom._os.system('x')", "random._os.system (module _os)"),
        ("import dataclasses as d\nd.sys.modules", "dataclasses.sys.modules (module sys)"),
        ("from ctypes import CDLL\nCDLL('x')", "ctypes.CDLL (module ctypes)"),
        ("import socket\nsocket.socket()", "socket.socket (module socket)"),
        ("from os import *", "from os import *"),
        ("bytes.fromhex('00')", "attribute fromhex"),
        ("x = '" + "QUJD" * 60 + "'", "encoded blob"),
        ("x = b'" + "\\x00" * 250 + "'", "encoded blob"),
        ("# \u202e reversed\nx = 1", "bidirectional control character"),
        ("breakpoint()", "breakpoint"),
        ("input('')", "input"),
    ],
)
def test_constructs_that_escape_static_reading_are_listed(source: str, what: str) -> None:
    """Each construct is found, with its file and line."""
    found = read(source)
    if not what:
        assert found.packages == ["os"]
        return
    assert any(item.startswith("model.py:") and what in item for item in found.dynamic), found.dynamic


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def f(:\n  pass", "line 1"),
        ("x = 1\0", "model.py"),
        ("# -*- coding: utf-7 -*-\nx = 1", "encoding utf-7"),
        ("#" + "x" * 5000 + "\n# coding: latin-1\nx = 1", "encoding latin-1"),
        ("(" * 5000 + ")" * 5000, "model.py"),
        ("x" + ".y" * 50_000, "nested too deeply"),
        ("-" * 50_000 + "1", "nested too deeply"),
        ("x = 1\n" * 100_000, "longer than"),
        ("x = '\ud800'", "model.py"),
        ("\n".join(f"def f{i}(): pass" for i in range(2500)), "more than 2000 defines"),
        ("import torch as a\n" + "\n".join(f"a = a.b{i}" for i in range(60)), "meanings"),
        ("x = " + "9" * 5000, "model.py"),
    ],
)
def test_what_cannot_be_read_whole_does_not_parse(source: str, problem: str) -> None:
    """Broken, deep, long and re-encoded sources have `parses` false with a reason, and raise nothing."""
    found = read(source)
    assert not found.parses
    assert problem in found.problem


def test_no_python_file_does_not_parse() -> None:
    """Empty never passes: a tree without a Python file has `parses` false."""
    assert not facts({}).parses
    assert not facts({"readme.md": "x"}).parses


def test_too_many_files_or_characters_do_not_parse() -> None:
    """The whole tree is bounded, too."""
    assert not facts({f"m{i}.py": "x = 1" for i in range(201)}).parses
    assert not facts({f"m{i}.py": "x = 1\n" * 40_000 for i in range(5)}).parses


def test_complexity_counts_decisions() -> None:
    """The complexity of a function is one more than its decisions, nested functions apart."""
    source = (
        "def f(a):\n  if a and a > 1:\n    pass\n  for i in a:\n    pass\n  def g(b):\n    return [i for i in b if i]\n"
    )
    assert read(source).max_complexity == 4
    assert read("x = 1").max_complexity == 1


@given(st.text(max_size=200))
def test_any_text_has_facts(source: str) -> None:
    """No text makes the reader raise, and its facts are JSON."""
    assert isinstance(facts({"a.py": source, "b.txt": source}).json_value(), dict)


@given(st.lists(st.sampled_from(HONEST.split()), max_size=60), st.sampled_from([" ", "\n", "("]))
def test_shuffled_code_has_facts(words: list[str], glue: str) -> None:
    """Near-Python makes the reader raise no more than noise does."""
    assert isinstance(facts({"a.py": glue.join(words)}).parses, bool)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.lists(st.sampled_from("abc"), max_size=30))
def test_line_counts_balance(old: list[str], new: list[str]) -> None:
    """Lines added minus lines removed is the difference in length, and equal texts have neither."""
    a, b = "".join(f"{x}\n" for x in old), "".join(f"{x}\n" for x in new)
    added, removed = changed_lines(a, b)
    assert added - removed == len(new) - len(old)
    assert 0 <= added <= len(new)
    assert (added, removed) == (0, 0) if old == new else added + removed > 0


def test_long_diffs_count_every_line_between() -> None:
    """Beyond the bound of the diff every line between the first and the last difference counts, quickly."""
    count = MAX_DIFF_LINES + 1
    old = "same\n" + "a\nb\n" * count
    new = "same\n" + "b\na\n" * count + "c\n"
    started = time.monotonic()
    assert changed_lines(old, new) == (2 * count + 1, 2 * count)
    assert time.monotonic() - started < 2


def test_changed_files_are_those_that_differ() -> None:
    """Added, removed and edited files are listed with their counts, untouched ones are not."""
    changes = changed_files({"a": "1\n", "b": "1\n2\n", "c": ""}, {"b": "1\n3\n", "c": "", "d": "x"})
    assert [(c.path, c.lines_added, c.lines_removed) for c in changes] == [("a", 0, 1), ("b", 1, 1), ("d", 1, 0)]
