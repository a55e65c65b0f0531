"""Hypothesis profiles, chosen explicitly: with CI set, hypothesis would load one of its own; and runs that tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile(
    "ci",
    max_examples=100,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("deep", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("LOCKGATE_HYPOTHESIS", "ci" if os.environ.get("CI") else "dev"))

sys.path.insert(0, str(Path(__file__).parent / "support"))

import rigs  # noqa: E402  # what tests of whole runs share


@pytest.fixture(scope="session")
def digits():
    """Name the quick subject of the tests."""
    return Path(__file__).parent / "subjects" / "digits"


@pytest.fixture(scope="session")
def rig(digits, tmp_path_factory):
    """Open the slow rooms for the digits once."""
    rig = rigs.Rig(digits, tmp_path_factory.mktemp("rig"))
    yield rig
    rig.close()


@pytest.fixture(scope="session")
def finished(digits, tmp_path_factory):
    """Run the whole of the digits' plan by the command line, once; tests work on copies of its folder."""
    out = tmp_path_factory.mktemp("finished") / "run"
    rigs.lay_vault_key(out)
    command = [sys.executable, "-m", "harness.cli", "run", str(digits), "--out", str(out), "--seed", "0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"the run ended with {done.returncode}: {done.stdout}{done.stderr}")
    (out.parent / "summary.json").write_text(done.stdout)
    return out


@pytest.fixture
def copy(finished, tmp_path):
    """Give a copy of the finished run."""
    return rigs.copy_run(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def quick_disk():
    """Skip fsync: what hangs on it is shown, call by call, in tests/crash/test_power_cut.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        yield
