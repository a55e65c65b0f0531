"""What a candidate costs: as facts for the rules of the decide stage, and as a table for people.

Parameters and bytes are counted by the supervisor, memory and time are taken from outside. Operations are counted by
the worker, beside the candidate's own code: a table may show its word, and no rule reads it.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from harness.latency import UNKNOWN, UNMEASURED, latency
from harness.records import Timed
from harness.state import ProposalState, RunState


def cost_facts(timed: Timed | None, build_mb: float) -> dict[str, Any]:
    """`latency` and `memory` of a document: what a measurement found, or what stands for nothing known."""
    taken = UNMEASURED if timed is None else latency(timed.seconds, timed.incumbent_seconds)
    peaks = (UNKNOWN, 0.0) if timed is None else (timed.peak_mb, timed.incumbent_peak_mb)
    return {
        "latency": taken.json_value(),
        "memory": {"build_mb": build_mb, "predict_mb": peaks[0], "incumbent_predict_mb": peaks[1]},
    }


def cost_rows(state: RunState, found: ProposalState) -> list[dict[str, str]]:
    """A built candidate beside the incumbent that it is or was measured against: name, candidate, incumbent each.

    Empty where something is not known; a ratio is of the candidate's over the incumbent's, and has no other side.
    """
    if found.built is None:
        return []
    mine, other = found.built.candidate, found.staked.incumbent if found.staked else state.incumbent.digest
    known = state.candidates().get(other)
    its = next((each for each in state.proposals.values() if each.built and each.built.candidate.digest == other), None)
    counted = known[0].flops if known else None
    if its is not None and its.developed is not None:
        counted = its.developed.flops
    rows: list[tuple[str, float | None, float | None]] = [
        ("parameters", mine.parameters, known[0].parameters if known else None),
        ("bytes of weights", mine.bytes, known[0].bytes if known else None),
        ("FLOPs a row (the worker's word)", found.developed.flops if found.developed else None, counted),
        ("MiB to build", found.built.peak_mb, its.built.peak_mb if its and its.built else None),
    ]
    timed = found.measured.timed if found.measured else None
    if timed is not None:
        ratio = latency(timed.seconds, timed.incumbent_seconds)
        rows += [
            ("MiB to answer", timed.peak_mb, timed.incumbent_peak_mb),
            ("seconds to answer, median", median(timed.seconds), median(timed.incumbent_seconds)),
            (f"ratio of seconds, median of {ratio.pairs} pairs", ratio.ratio, None),
            ("at least, at 95 %", ratio.lower, None),
            ("at most, at 95 %", None if ratio.upper >= UNKNOWN else ratio.upper, None),
        ]
    return [{"name": name, "candidate": _figure(one), "incumbent": _figure(two)} for name, one, two in rows]


def _figure(value: float | None) -> str:
    """A number as people write it."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
