"""Run the programs that candidates write, for evals that ask: each in a fresh sandbox, none in a candidate's worker.

A program has the standard library of Python and its own inputs: no model, no weights, no source of the subject, no
accelerator, and nothing that another program has left. How it ended is its own affair, and a score of 0 where that was
badly. What is not its affair is an error, and nothing is scored: a sandbox that cannot be had, or one in which a
program of our own does not give what it must. That one is run before and after the others, so that no broken sandbox
is taken for candidates which all fail alike.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from harness.artifacts import read_tensors
from harness.engines import Engine
from harness.errors import SandboxError, SubjectError
from harness.execution import ENDINGS, RAN, ROW, Ended, Execution, Ran, read_row
from harness.sandbox import Job, Limits, Outcome, Site

_AT_ONCE = 256
"""Programs that are handed to an engine before the first of them is waited for."""
_BY_STATUS: dict[str, Ended] = {"timeout": "time", "idle": "time", "memory": "memory", "oversize": "output"}


def execute(engine: Engine, spec: Execution, inputs: Path, outputs: Path) -> None:
    """Run the rows of a file, and write what became of each: see `execution.py`.

    Raises SandboxError where the sandbox is to blame, SubjectError for a file of other rows.
    """
    import numpy as np
    from safetensors.numpy import save_file

    rows = read_tensors(inputs, None, max_bytes=1 << 32).get(ROW)
    if rows is None or rows.dtype != np.uint8 or rows.ndim != 2:
        raise SubjectError("what is asked of `execute` is no rows of programs", where="guards.py")
    _check(engine, spec)
    ran = np.stack([spec.pack(each) for each in run_programs(engine, spec, [read_row(row.tobytes()) for row in rows])])
    _check(engine, spec)
    save_file({RAN: ran}, outputs)


def run_programs(engine: Engine, spec: Execution, programs: Sequence[tuple[str, list[str]]]) -> Iterator[list[Ran]]:
    """Run programs, each on its inputs; yield what became of them, in order. Raises SandboxError."""
    for first in range(0, len(programs), _AT_ONCE):
        some = programs[first : first + _AT_ONCE]
        running = [engine.submit(_job(spec, *each)) for each in some]
        try:
            for future, (_, inputs) in zip(running, some, strict=True):
                yield _ran(future.result(), len(inputs), spec.output_kb << 10)
        finally:
            _cancel(running)


def _cancel(running: Sequence[Future[Outcome]]) -> None:
    for future in running:
        future.cancel()


def _job(spec: Execution, program: str, inputs: list[str]) -> Job:
    wall = spec.clock * len(inputs) + 10.0
    limits = Limits(
        wall_seconds=wall, idle_seconds=wall, cpu_seconds=(spec.seconds + 1) * len(inputs) + 10,
        memory_mb=spec.memory_mb + 64, output_mb=2, processes=16, text_kb=64, scratch_mb=16,
    )  # fmt: skip
    payload: dict[str, Any] = {
        **spec.json_value(), "bytes": spec.output_kb << 10, "clock": spec.clock, "program": program, "inputs": inputs
    }  # fmt: skip
    return Job(
        entry="execute", module="harness.isolation.running", site=Site.bare(), payload=payload, limits=limits
    )  # fmt: skip


def _ran(outcome: Outcome, count: int, most: int) -> list[Ran]:
    """What became of a program's inputs, by what its sandbox left behind: claims of hostile code, until checked."""
    # A job that nobody has watched to its end took no time: its sandbox, and not the program, came to grief.
    if outcome.status in ("unavailable", "refused") or outcome.wall_seconds <= 0.0:
        raise SandboxError(
            f"a program could not be run: {outcome.message}", remedy="see `lockgate doctor`; then resume"
        )
    if not outcome.ok:
        return [Ran(_BY_STATUS.get(outcome.status, "crashed"))] * count
    ended, sizes = outcome.header.get("ended"), outcome.header.get("sizes")
    told: dict[str, Ended] = {each: each for each in ENDINGS}
    found, at = [], 0
    if not isinstance(ended, list) or not isinstance(sizes, list) or not len(ended) == len(sizes) == count:
        return [Ran("crashed")] * count
    for how, size in zip(ended, sizes, strict=True):
        known = told.get(how) if isinstance(how, str) else None
        if known is None or type(size) is not int or size < 0 or (size and known != "ok"):
            return [Ran("crashed")] * count
        found.append(Ran(known, outcome.output[at : at + size]))
        at += size
    return found if at == len(outcome.output) <= most else [Ran("crashed")] * count


def _check(engine: Engine, spec: Execution) -> None:
    """Run a program of our own, and raise SandboxError unless it gives what only it could."""
    token = secrets.token_hex(16)
    if spec.call is None:
        program, given, due = "print(input()[::-1])", token, f"{token[::-1]}\n"
    else:
        program, given, due = f"def {spec.call}(x): return x[::-1]", json.dumps([token]), json.dumps(token[::-1])
    ((ran,),) = run_programs(engine, spec, [(program, [given])])
    if ran != Ran("ok", due.encode()):
        raise SandboxError(
            f"a program of the harness's own did not run as it must: it ended '{ran.ended}'",
            remedy="give programs more seconds or memory_mb; see `lockgate doctor`; then resume",
        )
