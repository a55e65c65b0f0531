"""Facts about serving: what was promoted is what answers, from the bytes that were verified, and nothing else is built."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import rigs
import torch
from safetensors.torch import load_file, save

import harness
from harness import serving
from harness.bundle import Trust
from harness.canonical import digest
from harness.errors import AuditError, KeyFileError, SubjectError
from harness.kinds import kind_of
from harness.serving import load_promoted


@pytest.fixture
def served(finished, tmp_path):
    """Give a copy of version 2 of the finished run with nothing around it, and a copy of the log's key."""
    key = shutil.copy(finished / "keys" / "log.pub", tmp_path / "mine.pub")
    return shutil.copytree(finished / "models" / "2", tmp_path / "served"), key


@pytest.fixture
def one_thread():
    """Compute as the workers did: with as many threads as the subject's configuration says."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(run):
    """Give the unlabelled development rows that the run's smoke test asked."""
    return load_file(run / "work" / "rows.safetensors")


@pytest.mark.usefixtures("one_thread")
def test_a_served_version_answers_what_was_logged(finished):
    """Every version gives, to the development rows, the very bytes of which the log has the digest."""
    entries = rigs.trail_of(finished)[1]
    logged = {entry.version: entry.answers for entry in entries if kind_of(entry) == "watched"}
    logged[0] = entries[0].answers
    assert set(logged) == {0, 1, 2}
    for version, answers in logged.items():
        model = load_promoted(finished / "models" / str(version), trust=finished / "keys" / "log.pub").build()
        assert digest(save({"answers": model.predict(rows(finished))})) == answers


def test_nothing_is_read_again(finished, served):
    """What was verified is in memory: the folder may change, or go, before the model is built."""
    folder, key = served
    promoted = load_promoted(folder, trust=key)
    before = promoted.build().predict(rows(finished))
    shutil.rmtree(folder)
    assert promoted.version == 2
    assert torch.equal(promoted.build().predict(rows(finished)), before)


def test_the_model_is_ready_to_be_asked(served):
    """`build` gives a module in eval mode with the weights of the file, under no name that others import."""
    folder, key = served
    built = load_promoted(folder, trust=key).build()
    weights = load_file(folder / "weights.safetensors")
    assert not built.model.training
    assert {name: value.tolist() for name, value in built.model.state_dict().items()} == {
        name: value.tolist() for name, value in weights.items()
    }
    assert built.source.__name__.startswith("_lockgate_")
    assert "model" not in sys.modules


@pytest.mark.parametrize("name", ["weights.safetensors", "source/model.py", "recipe.json", "authorisation.proof"])
def test_what_does_not_verify_is_not_loaded(served, name):
    """One flipped byte anywhere, and there is no model."""
    folder, key = served
    data = bytearray((folder / name).read_bytes())
    data[-5] ^= 1
    (folder / name).unlink()
    (folder / name).write_bytes(data)
    with pytest.raises(AuditError) as caught:
        load_promoted(folder, trust=key)
    assert caught.value.clause


def test_source_that_was_not_verified_never_runs(served, tmp_path):
    """Verification comes before the first line of the candidate's code."""
    folder, key = served
    model = folder / "source" / "model.py"
    text = model.read_text()
    model.unlink()
    model.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{text}")
    with pytest.raises(AuditError):
        load_promoted(folder, trust=key).build()
    assert not (tmp_path / "ran").exists()


def test_a_server_may_insist(served):
    """Trust says more than keys: a version below the one asked for is refused."""
    folder, key = served
    assert load_promoted(folder, trust=Trust.load(key, at_least=2)).version == 2
    with pytest.raises(AuditError, match="at least 3"):
        load_promoted(folder, trust=Trust.load(key, at_least=3))
    with pytest.raises(KeyFileError):
        load_promoted(folder, trust=folder / "no.pub")


@pytest.mark.parametrize(
    "inputs", [{}, {"image": torch.zeros(0, 64)}, {"image": torch.zeros(2, 3)}, {"other": torch.zeros(2, 64)}]
)
def test_a_question_that_fails_is_one_clear_error(served, inputs):
    """Whatever the subject's code raises comes out as a SubjectError with its place."""
    folder, key = served
    with pytest.raises(SubjectError) as caught:
        load_promoted(folder, trust=key).build().predict(inputs)
    assert caught.value.where.startswith("model.py")


def test_answers_do_not_lean_on_the_batch(finished, served):
    """Rows are asked in batches, and joined in order."""
    folder, key = served
    built = load_promoted(folder, trust=key).build()
    whole = built.predict(rows(finished))
    assert torch.allclose(built.predict(rows(finished), batch=7), whole, atol=1e-5)
    assert len(whole) == len(rows(finished)["image"])


def test_the_facade_offers_it():
    """`harness` hands out what serving code needs, by the names in its `__all__`, and nothing that is not there."""
    assert harness.load_promoted is serving.load_promoted
    assert {name: getattr(harness, name).__module__ for name in harness.__all__ if name != "__version__"} == {
        "PromotedModel": "harness.serving",
        "ServedModel": "harness.serving",
        "Trust": "harness.bundle",
        "load_promoted": "harness.serving",
    }
    with pytest.raises(AttributeError):
        harness.unheard_of  # noqa: B018 - that it raises is the fact


def lockgate(*arguments):
    """Run the command line; give exit code, output and errors."""
    command = [sys.executable, "-m", "harness.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_model_verify_says_what_was_shown(served):
    """`model verify` exits 0 for what holds, 5 for what does not, with file and clause, and 2 without a key."""
    folder, key = served
    code, out, _ = lockgate("model", "verify", folder, "--key", key, "--json")
    told = json.loads(out)
    assert (code, told["verdict"], told["version"]) == (0, "valid", 2)
    assert lockgate("model", "verify", folder)[0] == 2
    (folder / "more").touch()
    code, out, _ = lockgate("model", "verify", folder, "--key", key, "--json")
    told = json.loads(out)
    assert (code, told["verdict"], told["clause"], told["where"]) == (5, "invalid", "§9.1", str(folder))
    code, out, _ = lockgate("model", "verify", folder, "--key", key)
    assert code == 5
    assert out.startswith("invalid: ")
    assert len(out.splitlines()) == 1
