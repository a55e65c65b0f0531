"""harness.proposing: proposers in a real sandbox, and answers bounded before they are passed on."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ProposerError, SandboxError
from harness.proposal import MAX_PROPOSAL_BYTES
from harness.proposers import Archived, Ask, Feedback, propose
from harness.proposing import Proposing, documents_of
from harness.sandbox import Limits, Outcome

SCHEMA = {
    "type": "object",
    "properties": {
        "width": {"type": "integer", "minimum": 1, "maximum": 99, "group": "architecture"},
        "deep": {"type": "boolean"},
    },
}
MODEL = "import torch\n\n\ndef train(model, data, recipe, context):\n    loss = torch.nn.functional.cross_entropy(model(data), data)\n"


def ask(count: int = 2, **more: Any) -> Ask:
    """Make an ask with one known candidate."""
    first = Archived(digest="sha256:" + "0" * 64, recipe={"width": 9, "deep": False}, files={"model.py": MODEL})
    return Ask(seed=1, generation=1, count=count, schema=SCHEMA, incumbent=first, **more)


@pytest.fixture(scope="module")
def proposing():
    """Lend one asker to the tests of this module: its warm process takes seconds to start."""
    with Proposing(limits=Limits(wall_seconds=60, idle_seconds=60, memory_mb=1024, output_mb=8)) as asker:
        yield asker


@pytest.fixture(scope="module")
def spy(tmp_path_factory):
    """Install a distribution with a proposer that reports what it can reach; gives the path that it is told of."""
    folder = tmp_path_factory.mktemp("spy")
    (folder / "spy_proposer.py").write_text(
        "import importlib.util, os, pathlib, socket\n"
        "def attempt(action):\n"
        "    try:\n        return f'open {action()}'\n"
        "    except Exception as error:\n        return type(error).__name__\n"
        "def propose(ask):\n"
        "    path, port = ask.settings['path'], ask.settings['port']\n"
        "    return [{\n"
        "        'read': attempt(lambda: pathlib.Path(path, 'signing.key').read_text()),\n"
        "        'list': attempt(lambda: os.listdir(path)),\n"
        "        'write': attempt(lambda: pathlib.Path(path, 'new').write_text('x')),\n"
        "        'tcp': attempt(lambda: socket.create_connection(('127.0.0.1', port), 2).close()),\n"
        "        'code': attempt(lambda: pathlib.Path(__file__).open('a').close()),\n"
        "        'torch': attempt(lambda: importlib.util.find_spec('torch') is not None),\n"
        "        'data': attempt(lambda: importlib.util.find_spec('wordfreq') is not None),\n"
        "        'environment': sorted(os.environ),\n"
        "        'ran': True,\n"
        "    }]\n"
    )
    info = folder / "spy_proposer-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spy-proposer\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[lockgate.proposers]\nspy = spy_proposer:propose\n")
    (info / "RECORD").write_text(
        "".join(f"{path.relative_to(folder)},,\n" for path in [folder / "spy_proposer.py", *info.iterdir()])
    )
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.mark.parametrize("name", ["evolution", "codegen", "scripted"])
def test_a_sandboxed_proposer_answers_what_it_would_answer_here(proposing, name):
    """The walls change nothing: the same ask has the same answer inside and outside."""
    plan = {"plan": [{"generation": 1, "proposal": {"kind": "hyperparameters", "changes": {"deep": True}}}]}
    asked = ask(settings=plan if name == "scripted" else {})
    answer = proposing.propose(name, asked)
    assert answer
    assert answer == json.loads(json.dumps(propose(name, asked)))


def test_samplers_with_a_history_answer_behind_the_walls_what_they_answer_here(proposing):
    """Each sampler, told enough to be asked, has all that it needs in the sandbox; CMA-ES does not fall back on TPE."""
    numbers = {name: {"type": "number", "minimum": 0, "maximum": 1, "group": "architecture"} for name in ("a", "b")}
    schema = {"type": "object", "properties": numbers}
    archive = [
        Archived(
            digest=f"sha256:{place:064x}",
            recipe={"a": place / 20, "b": (place * 7 % 20) / 20},
            files={"model.py": MODEL},
            development={"accuracy": 1 - abs(place - 8) / 20},
        )
        for place in range(16)
    ]
    history = [
        Feedback(
            generation=1, index=place, proposer="evolution", candidate=made.digest, stage="developed",
            proposal={"kind": "architecture", "base": archive[0].digest, "changes": made.recipe},
            development=made.development,
        )
        for place, made in enumerate(archive[1:])
    ]  # fmt: skip
    told = {"schema": schema, "incumbent": archive[0], "archive": archive, "history": history, "objective": "accuracy"}
    answers = {}
    for sampler in ("tpe", "nsga2", "cmaes"):
        asked = Ask(seed=1, generation=2, count=3, settings={"sampler": sampler, "explore": 1.0}, **told)
        answers[sampler] = proposing.propose("architecture", asked)
        assert answers[sampler] == json.loads(json.dumps(propose("architecture", asked)))
        assert all(f"sampled by {sampler}" in str(document["rationale"]) for document in answers[sampler])
    changes = {sampler: json.dumps([each["changes"] for each in found]) for sampler, found in answers.items()}
    assert len(set(changes.values())) == 3


@pytest.mark.usefixtures("spy")
def test_a_proposer_reaches_no_run_folder_and_no_network(proposing, tmp_path):
    """An installed proposer that tries finds no key, no folder, no port, no code to change, no torch, no data."""
    import socket

    (tmp_path / "signing.key").write_text("a key that is none")
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = {"path": str(tmp_path), "port": server.getsockname()[1]}
        outside = propose("spy", ask(settings=settings))[0]
        found = proposing.propose("spy", ask(settings=settings))[0]
    assert outside["read"] == "open a key that is none", "a control: outside of the sandbox each attempt works"
    assert all(outside[name].startswith("open") for name in ("list", "write", "tcp", "code"))
    assert found["ran"] is True
    assert found["read"] == found["list"] == "FileNotFoundError"
    assert not any(str(found[name]).startswith("open") for name in ("write", "tcp", "code"))
    assert found["torch"] == found["data"] == "open False"
    assert not {"PATH_INFO", "VIRTUAL_ENV", "PYTHONPATH"} & set(found["environment"])


def test_a_failing_proposer_is_an_error_that_names_it(proposing):
    """What the proposer says of its failure comes out, with its name."""
    with pytest.raises(ProposerError, match=r"proposer evolution: .*sampler"):
        proposing.propose("evolution", ask(settings={"sampler": "magic"}))


def test_an_unknown_proposer_starts_nothing(proposing):
    """An unknown name is refused before any process starts."""
    with pytest.raises(ProposerError, match=r"no proposer is called 'oracle'"):
        proposing.propose("oracle", ask())


def test_a_sandbox_that_cannot_be_had_is_a_sandbox_error():
    """A job that never started is no fault of the proposer."""
    with pytest.raises(SandboxError, match="no walls"):
        documents_of(Outcome(status="unavailable", message="no walls"), 1, "proposer x")


def answered(output: bytes) -> Outcome:
    """Make the outcome of a proposer that answered these bytes."""
    return Outcome(status="ok", header={"proposals": 1}, output=output)


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (Outcome(status="timeout", message="it ran longer"), "it ran longer"),
        (Outcome(status="crashed", message="\x1b[2Jgone"), r"\\x1b\[2Jgone"),
        (answered(b""), "not JSON"),
        (answered(b"{}"), "something else than a list"),
        (answered(b"[1]"), "no JSON object"),
        (answered(b"[{}, {}, {}]"), "3 proposals where 2"),
        (answered(b'[{"a": NaN}]'), "not JSON"),
        (answered(b'[{"a": 1, "a": 2}]'), "not JSON"),
        (answered(b'[{"a": "' + b"x" * MAX_PROPOSAL_BYTES + b'"}]'), "a proposal of [0-9]+ bytes"),
        (answered(b"[" + b" " * (2 * MAX_PROPOSAL_BYTES + 9) + b"]"), "not JSON"),
        (answered(b'[{"a": ' + b"[" * 40 + b"]" * 40 + b"}]"), "not JSON"),
    ],
)
def test_an_answer_that_is_none_is_a_proposer_error(outcome, message):
    """Too many, too large, too deep, not JSON, not objects, or no answer: an error with the proposer's name."""
    with pytest.raises(ProposerError, match=f"proposer x: .*{message}"):
        documents_of(outcome, 2, "proposer x")


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda value: json.dumps(value).encode())
)
def test_any_answer_is_documents_or_a_proposer_error(output):
    """Whatever bytes a proposer answers, at most the count of JSON objects comes out, or a ProposerError."""
    with contextlib.suppress(ProposerError):
        documents = documents_of(answered(output), 2, "proposer x")
        assert len(documents) <= 2
        assert all(isinstance(document, dict) for document in documents)


def test_fewer_documents_than_asked_for_are_not_filled_up():
    """An answer of one where two were wanted is one."""
    assert documents_of(answered(b'[{"kind": "code"}]'), 2, "x") == [{"kind": "code"}]


def test_the_site_of_a_proposer_has_no_torch_and_no_data():
    """What a built-in proposer can import is the harness, optuna, LibCST and what they require."""
    site = Proposing._site("evolution")
    assert {"optuna", "libcst", "pydantic"} <= set(site.distributions)
    assert not {"torch", "wordfreq", "safetensors", "openai", "httpx2"} & set(site.distributions)
    assert dict(site.entries)["harness"] == str(Path(sys.modules["harness"].__file__).parent)
