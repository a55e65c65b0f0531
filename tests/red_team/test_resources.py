"""Candidate code uses no more than it was given."""

from __future__ import annotations

import pytest

from harness.sandbox import Limits

pytestmark = pytest.mark.timeout(60)

SMALL = Limits(wall_seconds=20, idle_seconds=20, memory_mb=128, output_mb=8, processes=32)


def test_memory_of_one_process_is_bounded(inside, outside):
    """A process beyond its memory is ended, near the limit."""
    assert outside("one_process_memory", mb=600) == "600"
    outcome = inside("one_process_memory", limits=SMALL, mb=600)
    assert outcome.status == "memory", outcome
    assert outcome.peak_mb < 600


def test_memory_of_several_processes_is_bounded(inside, outside):
    """Processes that are each within the limit, and together beyond it, are ended."""
    assert outside("many_process_memory", count=6, mb=40, seconds=0) == "6"
    outcome = inside("many_process_memory", limits=SMALL, count=6, mb=40, seconds=10)
    assert outcome.status == "memory", outcome


def test_forks_that_share_memory_are_not_counted_twice(inside):
    """Children that only look at their parent's memory do not add to it."""
    outcome = inside("many_process_memory", limits=SMALL, count=16, mb=1, seconds=1)
    assert outcome.header.get("got") == "16", outcome


@pytest.mark.parametrize("attack", ["memfd", "shared_segment"])
def test_memory_that_no_process_owns_cannot_be_made(attack, blocked):
    """Memory files and System V segments, which no process is charged for, are refused."""
    assert "PermissionError" in blocked(attack)


def test_printing_is_bounded(inside, outside):
    """A flood of text ends the job, and the launcher keeps only its end."""
    assert outside("flood", mb=16) == "written"
    outcome = inside("flood", mb=512)
    assert outcome.status == "oversize"
    assert len(outcome.text) <= 4096


def test_the_scratch_is_bounded(blocked, inside):
    """The scratch fills up at its size, and so does shared memory."""
    for scratch in ("/tmp", "/dev/shm"):
        reason = inside("fill_scratch", limits=Limits(output_mb=256, memory_mb=512), scratch=scratch, mb=100)
        assert "No space left" in str(reason.header["blocked"])
    assert blocked("fill_scratch", scratch="/tmp", mb=70)


def test_a_sparse_terabyte_is_refused(blocked):
    """A file of a terabyte cannot be made, however empty."""
    assert "File too large" in blocked("sparse", scratch="/tmp")


def test_limits_cannot_be_raised(blocked):
    """A limit stays where it was set."""
    blocked("raise_limits")
