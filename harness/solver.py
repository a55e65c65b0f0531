"""The solver's process: asked for documents that one set of policies stops and another lets through.

z3 may take any time and any memory, so it runs in a process that caps its own memory and that is killed at the
deadline; what it has answered by then counts. Nothing is believed of it but `proved`, and documents are judged again.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.canonical import parse_json
from harness.errors import CanonicalError
from harness.policy import PolicySet
from harness.policy_document import Stage
from harness.records import Kind, Record

REMEDY = "pip install lockgate[compare]"
MAX_ANSWER = 8 * 1024 * 1024
_START = "import sys; sys.path.insert(0, sys.argv[1]); from harness.countermodel import main; main(int(sys.argv[2]))"


class Goal(Record):
    """A rule of OLD (policy/rule) of which structure does not say that NEW has it, and where it applies."""

    stage: Stage
    kinds: list[Kind]
    rule: str


class Solved(Record):
    """An answer: a proof, a document to be judged, or why there is neither and which constructs stopped it."""

    goal: int
    proved: bool = False
    document: dict[str, Any] | None = None
    why: str = ""
    constructs: list[str] = []


class Question(Record):
    """What the process is asked: two sets of policies, as JSON, and the goals; `seconds` for all of them."""

    old: list[dict[str, Any]]
    new: list[dict[str, Any]]
    goals: list[Goal]
    seconds: float


class Solver:
    """Asks z3, where it is installed. Total: every goal has an answer."""

    def __init__(self, *, seconds: float = 30.0, memory_mb: int = 2048) -> None:
        """`seconds` is the deadline of all goals together, `memory_mb` the cap on address space (RLIMIT_AS)."""
        self._seconds = seconds
        self._memory = memory_mb * 1024 * 1024

    def solve(self, old: PolicySet, new: PolicySet, goals: Sequence[Goal]) -> list[Solved]:
        """Return an answer for each goal, in order."""
        if importlib.util.find_spec("z3") is None:
            return [
                Solved(goal=i, why=f"structure does not decide it, and there is no solver: {REMEDY}")
                for i in range(len(goals))
            ]
        question = Question(old=old.json_value(), new=new.json_value(), goals=list(goals), seconds=self._seconds)
        root = str(Path(__file__).resolve().parent.parent)
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, root, str(self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,  # an interrupt at the terminal is for this process, which then ends that one
        )
        late = False
        try:
            output, _ = process.communicate(json.dumps(question.json_value()).encode(), timeout=self._seconds)
        except subprocess.TimeoutExpired:
            late = True
            process.kill()
            output, _ = process.communicate()
        finally:
            process.kill()
            process.wait()
        answers = _read(output)
        if late:
            why = f"the solver did not answer within {self._seconds:g} s"
        elif process.returncode == -signal.SIGKILL:
            why = "the solver was killed"
        else:
            why = "the solver ended without an answer: out of memory, perhaps"
        return [answers.get(i) or Solved(goal=i, why=why) for i in range(len(goals))]


def _read(output: bytes) -> dict[int, Solved]:
    """Return the answers that stand on whole lines."""
    answers = {}
    for line in output.split(b"\n")[:-1]:
        try:
            answer = Solved.parse(parse_json(line, max_bytes=MAX_ANSWER))
        except (CanonicalError, ValidationError):
            continue
        answers[answer.goal] = answer
    return answers
