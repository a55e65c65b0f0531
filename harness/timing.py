"""What a candidate costs beside the incumbent: the same job by both, by turns, time and memory taken from outside.

No other job of the run is at work meanwhile: tests on the vault come one at a time, when a generation is built. Nothing
that the worker says is used, and both must give the answers that they gave when they were measured: a candidate that is
quick because it does something else is rejected. Times are no promise: the same run takes others another time (P9). So
this is done only where `efficiency.latency_pairs` asks for it, and decisions are derived again from what the log says.
"""

from __future__ import annotations

from harness.developing import Shown
from harness.records import Candidate, Digest, Reason, Timed
from harness.workshop import Failure, Workshop

Role = tuple[Candidate, Digest | None]
"""A candidate, and the digest of the answers that it gave to the same rows; None where that is not known."""


def take_times(workshop: Workshop, candidate: Role, incumbent: Role, shown: Shown, pairs: int) -> Timed | Failure:
    """Run both on the development items, `pairs` times each after one that is not counted, in the order ABBA."""
    roles = {"candidate": candidate, "incumbent": incumbent}
    seconds: dict[str, list[float]] = {name: [] for name in roles}
    peak = dict.fromkeys(roles, 0.0)
    for pair in range(-1, pairs):
        for name in ("candidate", "incumbent") if pair % 2 else ("incumbent", "candidate"):
            sealed, answers = roles[name]
            given = workshop.predict(sealed, shown.inputs, shown.rows)
            if isinstance(given, Failure):
                return given if name == "candidate" else Failure("evaluator-failed", f"the incumbent: {given.text}")
            if answers is not None and given.answers != answers:
                code: Reason = "predict-output" if name == "candidate" else "evaluator-failed"
                return Failure(code, f"the {name} gave other answers to the same rows when it was timed")
            peak[name] = max(peak[name], given.peak_mb)
            if pair >= 0:
                seconds[name].append(given.seconds)
    return Timed(
        seconds=seconds["candidate"],
        incumbent_seconds=seconds["incumbent"],
        peak_mb=peak["candidate"],
        incumbent_peak_mb=peak["incumbent"],
    )
