"""Measure a candidate on the development items: it answers them, and what the evals that ask want of it, and is scored.

What comes of it may be seen in full by whoever proposes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.inquiring import Request, inquire
from harness.records import Candidate, Digest
from harness.workshop import Failure, Workshop


@dataclass(frozen=True)
class Development:
    """What was found: the mean of each eval, and the blobs behind them."""

    means: dict[str, float]
    answers: Digest
    asked: Digest | None
    """The table of what evals that ask were answered; None where there are none."""
    flops: int | None


@dataclass(frozen=True)
class Shown:
    """The development items as they are shown: the file of their rows, how many, and the seed of their order."""

    inputs: Path
    rows: int
    shuffle: str


def develop(request: Request, workshop: Workshop, candidate: Candidate, shown: Shown) -> Development | Failure:
    """Measure it. Raises EvaluatorError where the evaluator cannot; a Failure is the candidate's own."""
    answered = workshop.predict(candidate, shown.inputs, shown.rows)
    if isinstance(answered, Failure):
        return answered
    asked = inquire(request, workshop, candidate, split="development", ids=None, shuffle=shown.shuffle)
    if isinstance(asked, Failure):
        return asked
    scored = request(
        {
            "op": "develop",
            "answers": str(workshop.blob(answered.answers)),
            "asked": None if asked is None else str(workshop.blob(asked)),
            "shuffle": shown.shuffle,
        }
    )
    return Development(means=dict(scored["development"]), answers=answered.answers, asked=asked, flops=answered.flops)
