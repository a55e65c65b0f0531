"""Where workers run: an engine takes jobs and answers with futures of outcomes.

`local` is the one there is. What the supervisor asks of an engine is the protocol below, so that workers on other
machines are one more module of this folder.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol, Self, runtime_checkable

from harness.sandbox import Job, Outcome

__all__ = ["Engine"]


@runtime_checkable
class Engine(Protocol):
    """Takes jobs, runs at most `count` of them at a time, and answers each with an outcome.

    A future of an engine holds an outcome whatever the job did, also when no sandbox could be had (`unavailable`):
    it raises only when it was cancelled before it started.
    """

    count: int
    device: str
    """`cpu` or `cuda`: what a job's payload tells the worker to put the model on."""

    def submit(self, job: Job) -> Future[Outcome]:
        """Queue a job."""

    def close(self) -> None:
        """Cancel what runs and free everything. Safe to call twice."""

    def __enter__(self) -> Self:
        """Return the engine."""

    def __exit__(self, *problem: object) -> None:
        """Close it."""
