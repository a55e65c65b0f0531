"""Watching one job from outside, and ending it: deadlines, memory, processes, output.

The warden never asks the job how it is: time is taken here, memory is read from /proc, and the job's own
signs of life count only for the idle deadline. The job's first process is the first of its pid namespace:
the kernel reports its end only when every other process of the namespace is gone, so a report means
that the sandbox is empty. Nothing is parsed before that.

Source of the pid-namespace rule: pid_namespaces(7), "The namespace init process".
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness.isolation.limits import Limits, descendants, memory_of

POLL_SECONDS = 0.02
_PROGRESS_KEPT = 200
_LINE = 256
_TAIL = 4096
_CHUNK = 1 << 16
_DEATH_SECONDS = 20.0  # from SIGKILL to an empty namespace: more means a kernel in trouble

Ending = Literal["ended", "timeout", "idle", "memory", "oversize", "processes", "cancelled"]


@dataclass(frozen=True)
class Report:
    """How a job ended: `ended` by itself, or stopped for a reason; times in seconds, memory in MiB."""

    ending: Ending
    wall_seconds: float
    peak_mb: float
    progress: tuple[tuple[int, float], ...]
    text: str
    empty: bool

    def json_value(self) -> dict[str, Any]:
        """Return the report as a JSON value."""
        return asdict(self)


@dataclass(frozen=True)
class Ended:
    """What a backend knows when a job is over.

    report: None if candidate code never started; then `problem` says why. status: of the first process, as
    waitpid(2) gives it. cpu_seconds: of the first process and what it waited for.
    """

    report: Report | None
    problem: str = ""
    status: int = 0
    cpu_seconds: float = 0.0

    def json_value(self) -> dict[str, Any]:
        """Return the whole as a JSON value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Ended:
        """Read what `json_value` wrote."""
        parts = dict(value)
        if parts["report"] is not None:
            report = dict(parts["report"])
            report["progress"] = tuple((step, loss) for step, loss in report["progress"])
            parts["report"] = Report(**report)
        return cls(**parts)


class _Progress:
    """Lines of `{"step", "loss"}`, bounded in length and thinned to a fixed number."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, float]] = []
        self._stride = 1
        self._count = 0
        self._rest = b""

    def feed(self, data: bytes) -> bool:
        """Take bytes; return whether there was a valid sign of life among them."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_LINE:]
        signs = [self._line(line) for line in lines]  # all of them, before any answer
        return any(signs)

    def _line(self, line: bytes) -> bool:
        if len(line) > _LINE:
            return False
        try:
            value = json.loads(line)
            step, loss = int(value["step"]), float(value["loss"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return False
        if not math.isfinite(loss) or not 0 <= step < 1 << 53:
            return False
        if self._count % self._stride == 0:
            self.kept.append((step, loss))
        self._count += 1
        if len(self.kept) > _PROGRESS_KEPT:
            self.kept = self.kept[::2]
            self._stride *= 2
        return True


def watch(
    *,
    pid: int,
    pidfd: int,
    text_fd: int,
    progress_fd: int,
    cancel_fd: int | None,
    limits: Limits,
    kill: Callable[[], None],
) -> Report:
    """Watch until the namespace is empty, and say why it ended.

    pid and pidfd name the first process of the namespace. text_fd and progress_fd are read ends of pipes, set
    non-blocking here. cancel_fd, when readable, cancels. `kill` must end the first process; it may be called twice.
    """
    start = time.monotonic()
    poll = select.poll()
    for descriptor in (pidfd, text_fd, progress_fd, cancel_fd):
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
    for descriptor in (text_fd, progress_fd):
        os.set_blocking(descriptor, False)
    progress, text, printed = _Progress(), b"", 0
    ending: Ending = "ended"
    sign, peak, next_look, killed = start, 0, start, 0.0
    while True:
        now = time.monotonic()
        events = {fd for fd, _ in poll.poll(max(0.0, (next_look - now) * 1000))}
        now = time.monotonic()
        if text_fd in events:
            data = _read(text_fd, poll)
            printed += len(data)
            text = (text + data)[-_TAIL:]
        if progress_fd in events and progress.feed(_read(progress_fd, poll)):
            sign = now
        if pidfd in events:
            break
        if killed:
            if now - killed > _DEATH_SECONDS:
                return Report(ending, now - start, peak / (1 << 20), tuple(progress.kept), _clean(text), empty=False)
            next_look = now + POLL_SECONDS
            kill()
            continue
        reason: Ending | None = None
        if cancel_fd is not None and cancel_fd in events:
            reason = "cancelled"
        elif now >= next_look:
            pids = descendants(pid)
            used = memory_of(pids, limits.memory_mb << 20)
            peak = max(peak, used)
            next_look = now + POLL_SECONDS
            if used > limits.memory_mb << 20:
                reason = "memory"
            elif len(pids) > limits.processes:
                reason = "processes"
        if reason is None:
            if printed > limits.text_kb << 10:
                reason = "oversize"
            elif now - start > limits.wall_seconds:
                reason = "timeout"
            elif now - sign > limits.idle_seconds:
                reason = "idle"
        if reason is not None:
            ending, killed = reason, now
            kill()
    wall = time.monotonic() - start
    text = (text + _read(text_fd, None))[-_TAIL:]
    progress.feed(_read(progress_fd, None))
    return Report(ending, wall, peak / (1 << 20), tuple(progress.kept), _clean(text), empty=True)


def _read(descriptor: int, poll: select.poll | None) -> bytes:
    with contextlib.suppress(BlockingIOError):
        data = os.read(descriptor, _CHUNK)
        if not data and poll is not None:  # the other end is closed: stop asking
            poll.unregister(descriptor)
        return data
    return b""


def _clean(text: bytes) -> str:
    """Keep what can be shown and logged: UTF-8, no control characters but newlines."""
    decoded = text.decode("utf-8", "replace")
    return "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in decoded
    )
