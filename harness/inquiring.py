"""The supervisor's side of evals that ask: the rows that they miss are put to a candidate in a worker, until none are.

The evaluator says what is missing, and gathers what was answered in a table (`evals/inquiry.py`); the supervisor runs
the jobs. Neither keeps anything between two rounds but the table, which becomes a blob.

A worker refuses a whole job for one row without a sound answer. Where a property says that there is none, the evals are
asked on their own, then such properties, and of a job that fails the row that is to blame is found by halving: it
refutes them. Where no row fails on its own, the candidate is rejected for the job that failed first.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from harness.errors import EvaluatorError
from harness.records import Candidate, Digest
from harness.workshop import Failure, Workshop

REFUSALS = ("predict-output", "predict-failed")
"""How a job ends in which a row has no sound answer."""
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
    only: Literal["all", "evals", "finite"] = "all",
    **more: Any,
) -> Digest | Failure | None:
    """Have a candidate answer what the evals that ask want of these items; the table's digest, None where nobody asks.

    `only="evals"` leaves out properties, which ask on development items. Raises EvaluatorError where they never end.
    """
    place = Path(tempfile.mkdtemp(prefix="asked-", dir=workshop.work))
    known: dict[str, Any] = {"asked": None, "answered": [], "done": []}
    failed: Failure | None = None
    """What failed first, while it is looked for who is to blame."""
    asking = {"op": "inquire", "split": split, "ids": ids, "shuffle": shuffle, "place": str(place), **more}
    try:
        for _ in range(MAX_ROUNDS):
            reply = request({**asking, **known, "only": only})
            if not reply["wanted"]:
                if failed is not None and only == "evals":
                    only, known = "finite", {"asked": reply["asked"], "answered": [], "done": reply["done"]}
                    continue
                if failed is not None and not reply["refuted"]:
                    return failed
                return None if reply["asked"] is None else workshop.keep(Path(reply["asked"]).read_bytes())
            answered, refused = [], []
            for index, wanted in enumerate(reply["wanted"]):
                inputs, rows = Path(wanted["inputs"]), int(wanted["rows"])
                outputs = place / f"answered-{index}.safetensors"
                failure = workshop.perform(candidate, wanted["job"], inputs, rows, outputs)
                if failure is None and check is not None and wanted["job"] == workshop.PREDICT:
                    failure = check(inputs, rows, outputs)
                if failure is None:
                    answered.append({"job": wanted["job"], "inputs": str(inputs), "outputs": str(outputs)})
                    continue
                if failure.code not in REFUSALS or not reply["finite"]:
                    return failed or failure
                if only == "all":
                    failed, only = failure, "evals"
                    break
                row = _to_blame(request, workshop, candidate, wanted["job"], inputs, rows)
                if row is None:
                    return failed
                refused.append({"job": wanted["job"], "inputs": str(row)})
            known = {"asked": reply["asked"], "answered": answered, "done": reply["done"], "refused_rows": refused}
    finally:
        shutil.rmtree(place, ignore_errors=True)
    raise EvaluatorError(
        f"evals that ask were not done after {MAX_ROUNDS} rounds", remedy="ask for more rows at once, or for fewer"
    )


def _to_blame(
    request: Request, workshop: Workshop, candidate: Candidate, job: str, inputs: Path, rows: int
) -> Path | None:
    """A file with one of the rows of a job that failed, which fails on its own; None where halving leads to none."""
    part, answers = inputs.with_suffix(".part"), inputs.with_suffix(".answers")

    def fails(first: int, stop: int) -> bool:
        request({"op": "pick", "inputs": str(inputs), "rows": list(range(first, stop)), "dest": str(part)})
        return workshop.perform(candidate, job, part, stop - first, answers) is not None

    first, stop = 0, rows
    while stop - first > 1:
        middle = (first + stop) // 2
        first, stop = (first, middle) if fails(first, middle) else (middle, stop)
    if not fails(first, stop):
        return None
    row = inputs.with_name(f"refused-{inputs.stem}.safetensors")
    part.rename(row)
    return row
