"""Measure a candidate on the development items: it answers them, and what the evals that ask want of it, and is scored.

What comes of it may be seen in full by whoever proposes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.canonical import digest
from harness.inquiring import Request, inquire
from harness.records import Candidate, Digest, PropertyVerdict
from harness.workshop import Failure, Workshop


@dataclass(frozen=True)
class Development:
    """What was found: the mean of each eval, and the blobs behind them."""

    means: dict[str, float]
    answers: Digest
    asked: Digest | None
    """The table of what evals that ask were answered; None where there are none."""
    flops: int | None
    properties: dict[str, PropertyVerdict] | None = None
    """Of each property that was judged: `held` says that no counterexample was found. None where there are none."""
    counterexamples: Digest | None = None
    """What was tried, and what was found."""


@dataclass(frozen=True)
class Shown:
    """The development items as they are shown: the file of their rows, how many, and the seed of their order."""

    inputs: Path
    rows: int
    shuffle: str


def development_shuffle(seed: int) -> str:
    """The order in which a run of this seed shows its development items: 64 hexadecimal digits."""
    return digest(f"development {seed}".encode()).removeprefix("sha256:")


def develop(
    request: Request,
    workshop: Workshop,
    candidate: Candidate,
    shown: Shown,
    *,
    properties: bool = True,
    before: Mapping[int, Digest] | None = None,
) -> Development | Failure:
    """Measure it. Raises EvaluatorError where the evaluator cannot; a Failure is the candidate's own.

    `before`: the counterexamples to properties that earlier proposals had, by number. They are tried first.
    """
    answered = workshop.predict(candidate, shown.inputs, shown.rows)
    if isinstance(answered, Failure):
        return answered
    stored = [{"number": number, "evidence": str(workshop.blob(name))} for number, name in (before or {}).items()]
    asked = inquire(
        request,
        workshop,
        candidate,
        split="development",
        ids=None,
        shuffle=shown.shuffle,
        only="all" if properties else "evals",
        stored=stored,
    )
    if isinstance(asked, Failure):
        return asked
    with tempfile.TemporaryDirectory(prefix="developed-", dir=workshop.work) as place:
        evidence = Path(place) / "evidence.json"
        scored = request(
            {
                "op": "develop",
                "answers": str(workshop.blob(answered.answers)),
                "asked": None if asked is None else str(workshop.blob(asked)),
                "shuffle": shown.shuffle,
                "stored": stored,
                "dest": str(evidence) if properties else None,
            }
        )
        judged = scored["properties"]
        return Development(
            means=dict(scored["development"]),
            answers=answered.answers,
            asked=asked,
            flops=answered.flops,
            properties=judged,
            counterexamples=None if judged is None else workshop.keep(evidence.read_bytes()),
        )
