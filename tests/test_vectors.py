"""Facts about audits/vectors: two verifiers that share no code agree with each, and each can be made again."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app

ROOT = Path(__file__).parent.parent
VECTORS = ROOT / "audits" / "vectors"


def module(path: Path):
    """Import a script by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    made = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = made
    spec.loader.exec_module(made)
    return made


runner = module(VECTORS / "run.py")
verifier = module(ROOT / "audits" / "verify.py")
PATHS = runner.every()


@pytest.fixture(params=PATHS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def vector(request, tmp_path):
    """Lay one vector out; give it with the arguments for a verifier."""
    loaded = runner.load(request.param)
    return loaded, runner.lay_out(loaded, tmp_path)


def test_the_independent_verifier_agrees(vector, capsys):
    """`audits/verify.py` gives the vector's exit code, verdict, entry and clause."""
    loaded, arguments = vector
    expect = dict(loaded["expect"])
    code = verifier.main([*arguments, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert {"exit": code, **{name: report.get(name) for name in expect if name != "exit"}} == expect


def test_the_harness_agrees(vector):
    """`lockgate audit verify` gives the vector's exit code, verdict, entry and clause."""
    loaded, arguments = vector
    done = CliRunner().invoke(app, ["audit", "verify", *arguments, "--json"])
    report = json.loads(done.stdout)
    expect = dict(loaded["expect"])
    assert {"exit": done.exit_code, **{name: report.get(name) for name in expect if name != "exit"}} == expect


def test_there_are_enough():
    """There are at least 40 invalid vectors, each of which says what is wrong with it."""
    invalid = [runner.load(path) for path in PATHS if path.parent.name == "invalid"]
    assert len(invalid) >= 40
    assert all(len(each["why"]) > 5 and each["expect"]["exit"] == 5 for each in invalid)


def test_every_section_of_the_format_is_covered():
    """Each section of FORMAT.md that a run can break has a vector that breaks it."""
    clauses = {runner.load(path)["expect"].get("clause", "").split(".")[0] for path in PATHS}
    assert {f"§{number}" for number in range(1, 12)} <= clauses


def test_every_clause_of_the_order_is_covered():
    """Each clause of §7 has a vector that breaks it."""
    clauses = {runner.load(path)["expect"].get("clause") for path in PATHS}
    assert {f"§7.{number}" for number in range(1, 19)} <= clauses


def test_they_are_made_again(tmp_path):
    """The generator writes the same bytes again."""
    subprocess.run([sys.executable, ROOT / "scripts" / "vectors.py", tmp_path], check=True, capture_output=True)
    again = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.json")}
    assert again == {path.relative_to(VECTORS): path.read_bytes() for path in PATHS}


def test_the_runner_runs_any_entry_point(tmp_path):
    """The runner exits 0 for the verifier in the kit, and 1, naming vectors, for one that says yes to everything."""
    (tmp_path / "yes.py").write_text("")
    told = {}
    for name, command in (
        ("kit", f"{sys.executable} {ROOT / 'audits' / 'verify.py'}"),
        ("yes", f"{sys.executable} -S {tmp_path / 'yes.py'}"),
    ):
        told[name] = subprocess.run(
            [sys.executable, VECTORS / "run.py", "--only", "[p-s]*", "--entrypoint", command],  # all are run above
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert (told["kit"].returncode, told["yes"].returncode) == (0, 1), told["kit"].stdout
    assert "DIFFERS invalid/second-genesis" in told["yes"].stdout
