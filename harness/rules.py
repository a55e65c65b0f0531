"""What the policies are shown: the document of each stage, made from the state and the change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.canonical import parse_json
from harness.code_facts import facts
from harness.config import Config
from harness.costs import cost_facts
from harness.errors import StateError
from harness.history import History, instant
from harness.proposal import Change
from harness.records import Digest
from harness.state import ProposalState, RunState

MAX_EVIDENCE = 8 << 20


def screen_document(
    state: RunState,
    config: Config,
    found: ProposalState,
    kind: str,
    base: Digest,
    rationale: str,
    change: Change,
    files: Mapping[str, str],
) -> dict[str, Any]:
    """What is known before anything is built. The code facts are of the files as they would be."""
    budgets = config.budgets
    incumbent = state.incumbent
    return {
        "proposal": {
            "number": found.proposed.number,
            "kind": kind,
            "proposer": found.proposed.proposer,
            "base": base,
            "start": change.start.method if change.start else "scratch",
            "rationale_length": len(rationale),
        },
        "change": {
            "knobs": [knob.json_value() for knob in change.knobs],
            "files": [file.json_value() for file in change.files],
            "lines_changed": change.lines_changed,
        },
        "code": facts(files).json_value(),
        "incumbent": {
            "digest": incumbent.digest,
            "version": state.live,
            "parameters": incumbent.parameters,
            "bytes": incumbent.bytes,
        },
        "budgets": {
            "promotions_left": max(0, budgets.promotions - state.promotions),
            "proposals_left": max(0, budgets.proposals - found.proposed.number + 1),
            "wall_seconds_left": max(0.0, budgets.wall_seconds - state.active_seconds),
        },
        **past(state.history, state.last_time, state.proposals, found.proposed.generation),
        "approvals": [],
    }


def past(history: History, last_time: str, proposals: Mapping[int, ProposalState], generation: int) -> dict[str, Any]:
    """`history` and `now` of a proposal of a generation, after an entry of that time.

    Rejections are counted over earlier generations, which are decided: within one, workers race.
    """
    row = 0
    for number in sorted(proposals, reverse=True):
        other = proposals[number]
        if other.proposed.generation >= generation or other.decision is None:
            continue
        if other.decision.verdict == "promote":
            break
        row += other.decision.verdict == "reject"
    now = instant(last_time)
    return {"history": {**history.facts(now), "rejected_in_a_row": row}, "now": now}


def decide_document(
    screened: dict[str, Any], state: RunState, config: Config, found: ProposalState, evidence: bytes
) -> dict[str, Any]:
    """What is known after the measurement: the screen's document, and candidate, gates and approvals."""
    if found.built is None or found.developed is None:
        raise StateError(f"proposal {found.proposed.number} is not developed")
    result = parse_json(evidence, max_bytes=MAX_EVIDENCE)
    if not isinstance(result, dict):
        raise StateError("evidence is an object")
    gates: Any = result["result"]
    candidate = found.built.candidate
    return {
        **screened,
        **past(state.history, state.last_time, state.proposals, found.proposed.generation),
        "budgets": {
            **screened["budgets"],
            "promotions_left": max(0, config.budgets.promotions - state.promotions),
            "wall_seconds_left": max(0.0, config.budgets.wall_seconds - state.active_seconds),
        },
        "incumbent": {
            "digest": state.incumbent.digest,
            "version": state.live,
            "parameters": state.incumbent.parameters,
            "bytes": state.incumbent.bytes,
        },
        "candidate": {
            "digest": candidate.digest,
            "parameters": candidate.parameters,
            "bytes": candidate.bytes,
            "development": found.developed.development,
        },
        "gates": {
            gate["name"]: {
                "verdict": gate["verdict"],
                "n": gate["n"],
                "mean": 0.0 if gate["mean"] is None else gate["mean"],
                "theta": gate["theta"],
            }
            for gate in gates["gates"]
        },
        **cost_facts(found.measured.timed if found.measured else None, found.built.peak_mb),
        "approvals": [],
    }


def answered_document(
    document: dict[str, Any], state: RunState, config: Config, found: ProposalState, approvals: list[dict[str, str]]
) -> dict[str, Any]:
    """What is known once people have answered: the document that was held, at this moment, with the approvals in it.

    The incumbent is the same: a hold over another one has ended.
    """
    return {
        **document,
        **past(state.history, state.last_time, state.proposals, found.proposed.generation),
        "budgets": {
            **document["budgets"],
            "promotions_left": max(0, config.budgets.promotions - state.promotions),
            "wall_seconds_left": max(0.0, config.budgets.wall_seconds - state.active_seconds),
        },
        "approvals": approvals,
    }
