"""Candidate code touches no other process, and none of its own outlives it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.sandbox import Limits

pytestmark = pytest.mark.timeout(60)


def _named(name):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "comm").read_text().strip() == name:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_another_process_cannot_be_signalled(inside, outside):
    """A process of the launcher lives on when the sandbox aims at its number."""
    command = [sys.executable, "-S", "-c", "input()"]
    first = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert outside("signal_victim", victim=str(first.pid))
    assert first.wait(10) == -15
    first.communicate()
    second = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        assert inside("signal_victim", victim=str(second.pid)).header["blocked"]
        assert second.poll() is None
    finally:
        second.kill()
        second.communicate()


def test_a_daemon_does_not_outlive_its_job(inside, outside):
    """A process that left its parent and session lives outside, and is gone when a job's outcome is there."""
    name = f"lg-{os.getpid()}"
    assert outside("daemon", name=name) == "started"
    (survivor,) = _named(name)
    os.kill(survivor, 9)
    for _ in range(100):
        if not _named(name):
            break
        time.sleep(0.02)
    outcome = inside("daemon", name=name)
    assert outcome.header["got"] == "started"
    assert _named(name) == []


def test_a_fork_bomb_is_bounded(inside, outside):
    """Two hundred processes start outside; inside, no more than the limit, and the job ends."""
    assert outside("forks", count=200) == "200"
    outcome = inside("forks", count=200)
    assert outcome.status in ("ok", "crashed"), outcome
    assert "got" not in outcome.header


@pytest.mark.parametrize("attack", ["read_memory", "ptrace", "pidfd"])
def test_memory_of_other_processes_stays_shut(attack, blocked):
    """Not even a child's memory can be read, traced or held by a descriptor."""
    assert "PermissionError" in blocked(attack)


def test_a_candidate_cannot_outlive_its_warden(blocked):
    """The signal that follows the warden's death cannot be undone."""
    assert "PermissionError" in blocked("outlive_warden")


def test_sigterm_ignored_does_not_help(inside):
    """A job that ignores every polite signal ends at its deadline."""
    control = subprocess.Popen(
        [
            sys.executable,
            "-S",
            "-c",
            "import signal,time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(30)",
        ],
        stdout=subprocess.PIPE,
    )
    control.stdout.readline()
    control.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        control.wait(0.3)
    control.kill()
    control.communicate()
    start = time.monotonic()
    outcome = inside("ignore_sigterm", limits=Limits(wall_seconds=0.5, idle_seconds=9, memory_mb=256), seconds=30)
    assert outcome.status == "timeout"
    assert time.monotonic() - start < 5
