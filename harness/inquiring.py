"""The supervisor's side of evals that ask: the rows that they miss are put to a candidate in a worker, until none are.

The evaluator says what is missing, and gathers what was answered in a table (`evals/inquiry.py`); the supervisor runs
the jobs. Neither keeps anything between two rounds but the table, which becomes a blob.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import EvaluatorError
from harness.records import Candidate, Digest
from harness.workshop import Failure, Workshop

MAX_ROUNDS = 400
"""More rounds than this are no question any more: an eval that never ends would hold up a run for good."""

Request = Callable[[dict[str, Any]], dict[str, Any]]
"""How the evaluator is asked: a request in, its result out."""
Check = Callable[[Path, int, Path], Failure | None]
"""What else must hold of answers (a file) to so many rows of inputs (a file)."""


def inquire(
    request: Request,
    workshop: Workshop,
    candidate: Candidate,
    *,
    split: str,
    ids: list[int] | None,
    shuffle: str,
    check: Check | None = None,
    **more: Any,
) -> Digest | Failure | None:
    """Have a candidate answer what the evals that ask want of these items; the table's digest, None where nobody asks.

    Raises EvaluatorError where they never end.
    """
    place = Path(tempfile.mkdtemp(prefix="asked-", dir=workshop.work))
    known: dict[str, Any] = {"asked": None, "answered": [], "done": []}
    try:
        for _ in range(MAX_ROUNDS):
            reply = request(
                {"op": "inquire", "split": split, "ids": ids, "shuffle": shuffle, "place": str(place), **known, **more}
            )
            if not reply["wanted"]:
                return None if reply["asked"] is None else workshop.keep(Path(reply["asked"]).read_bytes())
            answered = []
            for index, wanted in enumerate(reply["wanted"]):
                inputs, rows = Path(wanted["inputs"]), int(wanted["rows"])
                outputs = place / f"answered-{index}.safetensors"
                failure = workshop.perform(candidate, wanted["job"], inputs, rows, outputs)
                if failure is None and check is not None and wanted["job"] == workshop.PREDICT:
                    failure = check(inputs, rows, outputs)
                if failure is not None:
                    return failure
                answered.append({"job": wanted["job"], "inputs": str(inputs), "outputs": str(outputs)})
            known = {"asked": reply["asked"], "answered": answered, "done": reply["done"]}
    finally:
        shutil.rmtree(place, ignore_errors=True)
    raise EvaluatorError(
        f"evals that ask were not done after {MAX_ROUNDS} rounds", remedy="ask for more rows at once, or for fewer"
    )
