"""The local engine: real jobs, through the real worker, in real sandboxes."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save_file

from harness.engines import Engine
from harness.engines.local import LocalEngine
from harness.errors import SandboxError
from harness.sandbox import Job, Limits, Site

pytestmark = pytest.mark.timeout(120)

MODEL = """
import torch
from pydantic import BaseModel

class Recipe(BaseModel):
    width: int = 8

def build(recipe):
    return torch.nn.Sequential(torch.nn.Linear(4, recipe.width), torch.nn.ReLU(), torch.nn.Linear(recipe.width, 3))

def train(model, data, recipe, context):
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(5):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(data["x"]), data["y"])
        loss.backward()
        optimizer.step()
        context.progress(step, loss.item())

def predict(model, inputs):
    return model(inputs["x"])
"""
LIMITS = Limits(wall_seconds=60, idle_seconds=30, memory_mb=1500)


@pytest.fixture(scope="module")
def engine():
    """Two workers of one warm process."""
    with LocalEngine(count=2) as local:
        local.warm()
        yield local


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A subject and its data, on disk."""
    folder = tmp_path_factory.mktemp("subject")
    (folder / "source").mkdir()
    (folder / "source" / "model.py").write_text(MODEL)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 4)).astype(np.float32)
    save_file({"x": x, "y": np.arange(32) % 3}, folder / "train.safetensors")
    save_file({"x": x[:5]}, folder / "inputs.safetensors")
    return folder


def build_job(files, source=None, limits=LIMITS, **payload):
    """Return the job that builds the subject, or other source."""
    if source is not None:
        (files / "other").mkdir(exist_ok=True)
        (files / "other" / "model.py").write_text(source)
    used = {
        "source": files / ("other" if source is not None else "source"),
        "train.safetensors": files / "train.safetensors",
    }
    return Job(entry="build", files=used, payload={"seed": 1, **payload}, limits=limits)


def test_it_is_an_engine(engine):
    """The local engine has the methods that the supervisor relies on."""
    assert isinstance(engine, Engine)


def test_a_candidate_is_built_and_predicts(engine, files, tmp_path):
    """Build gives weights; a fresh sandbox with those weights and unlabelled inputs gives answers."""
    built = engine.submit(build_job(files, recipe={"width": 5})).result()
    assert built.ok, built
    assert built.header["recipe"] == {"width": 5}
    assert built.progress[-1][0] == 4
    (tmp_path / "w").write_bytes(built.output)
    used = {
        "source": files / "source",
        "weights.safetensors": tmp_path / "w",
        "inputs.safetensors": files / "inputs.safetensors",
    }
    answered = engine.submit(Job(entry="predict", files=used, payload={"recipe": {"width": 5}, "batch": 2})).result()
    assert answered.ok, answered
    assert load(answered.output)["answers"].shape == (5, 3)


def test_many_workers_give_the_same_bytes(engine, files):
    """Builds side by side give the bytes that one alone gives, in another process and a cold one too."""
    alone = engine.submit(build_job(files)).result().output
    assert alone
    together = [engine.submit(build_job(files)) for _ in range(4)]
    assert {future.result().output for future in together} == {alone}
    with LocalEngine(count=1, isolation="bwrap") as cold:
        outcome = cold.submit(build_job(files)).result()
    assert outcome.output == alone, outcome


def test_workers_run_side_by_side(engine, files):
    """Two jobs of one zygote overlap in time."""
    slow = MODEL.replace("for step in range(5):", "import time; time.sleep(1)\n    for step in range(5):")
    start = time.monotonic()
    outcomes = [future.result() for future in [engine.submit(build_job(files, slow)) for _ in range(2)]]
    assert all(outcome.ok for outcome in outcomes), outcomes
    assert time.monotonic() - start < sum(outcome.wall_seconds for outcome in outcomes)


def test_more_threads_do_not_hang_a_fork(engine, files):
    """A job that computes with two threads ends, and so does the one after it."""
    for threads in (2, 1):
        assert engine.submit(build_job(files, threads=threads)).result().ok


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("raise ValueError('mine')", "error", "model.py:"),
        ("context.progress(1, float('nan'))", "error", "NonFiniteLoss"),
        ("import os; os._exit(0)", "crashed", "without an answer"),
        ("import wordfreq", "error", "ModuleNotFoundError"),
        ("import harness.keys", "error", "ModuleNotFoundError"),
        ("open('/job/inputs.safetensors')", "error", "FileNotFoundError"),
        ("open('/job/source/model.py', 'w')", "error", "Error"),
        ("import socket; socket.socket()", "error", "PermissionError"),
        ("torch.ones(1 << 33)", "memory", "allocate"),
        ("while True: pass", "timeout", "seconds"),
    ],
)
def test_a_hostile_candidate_ends_in_an_outcome(engine, files, line, status, message):
    """Errors, exits, missing packages, shut files and endless loops each end in their own status."""
    source = MODEL.replace("    optimizer = torch", f"    {line}\n    optimizer = torch")
    limits = Limits(wall_seconds=2, idle_seconds=30, memory_mb=1500) if status == "timeout" else LIMITS
    outcome = engine.submit(build_job(files, source, limits=limits)).result()
    assert outcome.status == status, outcome
    assert message in outcome.message


def test_a_job_with_its_own_site_runs_cold(engine, tmp_path):
    """A job with another site than the engine's runs in a fresh interpreter, without torch."""
    (tmp_path / "other.py").write_text(
        "import sys\nfrom harness.isolation import inside\n\ndef main():\n"
        "    inside.answer({'torch': 'torch' in sys.modules, 'payload': inside.job()})\n"
    )
    site = Site.of((), packages=[tmp_path / "other.py"])
    outcome = engine.submit(Job(entry="propose", module="other", site=site, payload={"seed": 1})).result()
    assert outcome.header == {"torch": False, "payload": {"seed": 1}}, outcome


def test_what_cannot_start_is_an_outcome(engine):
    """A job whose file is missing answers `unavailable`; it does not raise."""
    outcome = engine.submit(Job(entry="build", files={"source": Path("/no/such/folder")})).result()
    assert outcome.status == "unavailable"
    assert "missing" in outcome.message


@pytest.mark.parametrize("isolation", ["zygote", "bwrap"])
def test_closing_cancels_what_runs(isolation, tmp_path):
    """Closing an engine ends its jobs at once, and those that wait never start."""
    (tmp_path / "slow.py").write_text("import time\n\ndef main():\n    time.sleep(60)\n")
    site = Site.of((), packages=[tmp_path / "slow.py"])
    engine = LocalEngine(count=1, isolation=isolation, site=site)
    running, waiting = [engine.submit(Job(entry="x", module="slow")) for _ in range(2)]
    time.sleep(1)
    start = time.monotonic()
    engine.close()
    assert running.result().status == "refused"
    with pytest.raises(CancelledError):
        waiting.result()
    assert time.monotonic() - start < 10
    engine.close()


def test_an_engine_without_workers_or_devices_is_refused():
    """No worker, and an accelerator that is not there, are refused when the engine is made."""
    with pytest.raises(SandboxError):
        LocalEngine(count=0)
    if not list(Path("/dev").glob("nvidia[0-9]*")):
        with pytest.raises(SandboxError, match="CUDA"):
            LocalEngine(device="cuda")


def test_no_descriptor_is_lost(engine, files):
    """After many jobs the launcher holds as many descriptors as before."""
    engine.submit(build_job(files)).result()
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(3):
        engine.submit(build_job(files)).result()
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
