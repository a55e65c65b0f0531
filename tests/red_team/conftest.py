"""Run an attack outside, as its positive control, and inside each kind of sandbox."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.isolation import bwrap
from harness.isolation.client import Zygote
from harness.sandbox import Job, Limits, Outcome, Site, run_cold, run_in

ATTACKS = Path(__file__).parent / "attacks.py"
LIMITS = Limits(wall_seconds=20, idle_seconds=20, memory_mb=256, output_mb=8, processes=32)


@pytest.fixture(scope="session")
def site() -> Site:
    """The smallest site, and the attacks."""
    return Site.of((), packages=[ATTACKS])


@pytest.fixture(scope="session")
def zygote(site: Site) -> Iterator[Zygote]:
    """One warm process for all attacks."""
    warm = Zygote(site)
    yield warm
    warm.close()


@pytest.fixture(params=["zygote", "bwrap"])
def inside(request: pytest.FixtureRequest, site: Site, zygote: Zygote) -> Callable[..., Outcome]:
    """Run an attack in a sandbox; the answer's token is checked, unless the job was stopped."""
    if request.param == "bwrap" and bwrap.find() is None:
        pytest.skip("there is no bubblewrap")

    def attack(name: str, /, limits: Limits = LIMITS, files: dict[str, Path] | None = None, **targets: Any) -> Outcome:
        token = secrets.token_hex(8)
        job = Job(
            entry="attack", module="attacks", site=site, limits=limits, files=files or {},
            payload={"attack": name, "token": token, "targets": targets},
        )  # fmt: skip
        outcome = run_in(zygote, job) if request.param == "zygote" else run_cold(job, "bwrap")
        if outcome.ok:
            assert outcome.header["ran"] == token
        else:
            assert outcome.status in ("timeout", "idle", "memory", "oversize", "crashed"), outcome
        return outcome

    return attack


@pytest.fixture
def outside() -> Callable[..., str]:
    """Run an attack in an ordinary process, and return its evidence; a control that fails is no control."""

    def attack(
        name: str, /, *, pass_fds: tuple[int, ...] = (), env: dict[str, str] | None = None, **targets: Any
    ) -> str:
        token = secrets.token_hex(8)
        job = {"attack": name, "token": token, "targets": targets}
        done = subprocess.run(
            [sys.executable, "-S", "-B", str(ATTACKS)], input=json.dumps(job), text=True, timeout=60, check=True,
            capture_output=True, pass_fds=pass_fds, env=env or {"PATH": os.environ["PATH"]},
        )  # fmt: skip
        answer = json.loads(done.stderr)
        assert answer["ran"] == token
        if "got" not in answer:
            pytest.skip(f"this machine has no control for it: {answer['blocked']}")
        return str(answer["got"])

    return attack


@pytest.fixture
def blocked(inside: Callable[..., Outcome], outside: Callable[..., str]) -> Callable[..., str]:
    """Show that an attack works outside and not inside; return why it failed."""

    def show(name: str, /, **targets: Any) -> str:
        assert outside(name, inside=False, **targets)
        outcome = inside(name, inside=True, **targets)
        assert outcome.ok, outcome
        assert "got" not in outcome.header, outcome.header
        return str(outcome.header["blocked"])

    return show


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a secret in its environment."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, env={"SECRET": "a-canary-of-the-environment"}
    )
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A file that everybody on this machine may read: only the sandbox stands before it."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    path = tmp_path / "signing.key"
    path.write_text("a-canary-of-a-key")
    return path
