"""What importing a room costs, and what it must not bring along.

The contracts in `pyproject.toml` say who may import whom in the source; here the same is seen in a real process.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SLOW = {"cel_expr_python", "cryptography", "libcst", "numpy", "optuna", "pydantic", "securesystemslib", "sqlalchemy"}
SERVERS = {"jinja2", "starlette", "structlog", "uvicorn"}


def loaded(statement: str) -> set[str]:
    """Run a statement in a fresh interpreter; the top-level packages that it loaded."""
    program = (
        f"import json, sys\n{statement}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_probe_sees_what_is_loaded() -> None:
    """The way of looking finds a package that was imported: the other tests here can fail."""
    assert {"numpy", "torch"} <= loaded("import torch")


def test_the_command_line_starts_light() -> None:
    """Importing the command line loads nothing slow: no torch, no server, no search, no crypto, not even pydantic."""
    assert not loaded("import harness.cli") & ({"torch"} | SLOW | SERVERS)


def test_help_of_every_command_starts_light() -> None:
    """Building the whole tree of commands and printing its help loads nothing slow either (typer itself takes pydantic)."""
    statement = (
        "from typer.testing import CliRunner\nfrom harness.cli import app\nimport typer\n"
        "def walk(group, path):\n"
        "    assert CliRunner().invoke(app, [*path, '--help']).exit_code == 0, path\n"
        "    for name, command in getattr(group, 'commands', {}).items():\n"
        "        walk(command, [*path, name])\n"
        "walk(typer.main.get_command(app), [])"
    )
    assert not loaded(statement) & ({"torch"} | SLOW - {"pydantic"} | SERVERS)


@pytest.mark.parametrize(
    "room", ["supervisor", "service", "evaluator", "judge", "run", "proposing", "operating", "auditing"]
)
def test_a_trusted_room_loads_no_torch(room: str) -> None:
    """No process that decides, scores, judges or asks loads torch, a web server, or a client before it is used."""
    assert not loaded(f"import harness.{room}") & ({"torch", "openai", "httpx2"} | SERVERS - {"structlog"})


def test_reading_tensors_loads_no_torch() -> None:
    """The evaluator's own way to read answers, labels and guards works on numpy alone."""
    statement = (
        "from harness.artifacts import read_tensors\nfrom harness.evals import load_guards\nimport numpy\n"
        "from safetensors.numpy import save\n"
        "assert read_tensors(save({'answers': numpy.zeros((2, 3), numpy.float32)}), None, 1 << 20)['answers'].shape == (2, 3)"
    )
    assert "torch" not in loaded(statement)


def test_the_facade_starts_light() -> None:
    """Importing `harness` loads nothing slow, and what verifies a promoted model loads no torch: building it does."""
    assert not loaded("import harness") & ({"torch"} | SLOW | SERVERS)
    assert "torch" not in loaded("from harness import Trust, load_promoted")
