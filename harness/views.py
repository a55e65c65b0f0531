"""What people, programs and proposers are told of a run: each derived from the folded state.

The operator may see everything. A proposer sees `Ask` and `Feedback` alone: development
metrics, static rules that failed, properties that were refuted by name, and one held-out bit.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.artifacts import BlobStore
from harness.canonical import parse_json
from harness.entries import Developed, Entry, Genesis, Guarding
from harness.errors import CanonicalError, LockgateError, StateError
from harness.kinds import kind_of
from harness.plain_gates import asking, line
from harness.proposers import Archived, Feedback
from harness.records import REASONS, Candidate, Digest, Stage, first_problem
from harness.state import ProposalState, RunState

if TYPE_CHECKING:
    from harness.statistics import TestResult

MAX_DOCUMENT = 512 * 1024
MAX_EVIDENCE = 64 << 20
"""Bytes of what was tried and found of a candidate's properties."""
MAX_HISTORY = 4 << 20
"""Bytes of file texts that an ask's history may carry; older ones are left out first."""

ARCHIVE = 16
"""How many candidates of the archive a proposer is shown: the best on the development items, and then of the versions
that were live, from which most proposals start, so many of the newest."""


def summary(state: RunState, blobs: BlobStore | None = None) -> dict[str, Any]:
    """Where a run stands, for `lockgate status --json`: counts, versions, each proposal with its reasons.

    With `blobs` it says, too, what the screen on development items has saved, which the evidence of tests tells.
    """
    genesis = state.genesis
    if genesis is None:
        raise StateError("the log has no genesis")
    rejected: dict[str, int] = {}
    promoted = 0
    for found in state.proposals.values():
        promoted += found.outcome == "promoted"
        if found.decision is not None and found.decision.verdict == "reject":
            code = found.decision.reasons[0].code
            rejected[code] = rejected.get(code, 0) + 1
    config = state.guarding.config
    budgets = config.budgets
    return {
        "origin": genesis.origin,
        "subject": config.name,
        "seed": genesis.seed,
        "entries": state.size,
        "state": _rest(state),
        "halted": None if state.halt is None else {"by": state.halt.by, "reason": state.halt.reason},
        "authorised": [
            {"proposal": each.number, "version": each.version, "expires": each.expires}
            for _, each in sorted(state.authorised.items())
        ],
        "generation": max((p.proposed.generation for p in state.proposals.values()), default=0),
        "proposals": len(state.proposals),
        "promoted": promoted,
        "rejected": dict(sorted(rejected.items())),
        "development_screen": screen_view(state, blobs),
        "voided": sum(p.outcome == "voided" for p in state.proposals.values()),
        "holds": [hold_view(state, number) for number in sorted(state.held)],
        "guard_change": None if state.change is None else change_view(state),
        "undecided": sum(p.decision is None for p in state.proposals.values()),
        "epoch": state.epoch,
        "live": version_view(state, state.live),
        "versions": [version_view(state, version) for version in sorted(state.versions)],
        "objective": config.objective,
        "budgets_left": {
            "promotions": max(0, budgets.promotions - state.promotions),
            "proposals": max(0, budgets.proposals - len(state.proposals)),
            "wall_seconds": round(max(0.0, budgets.wall_seconds - state.active_seconds), 1),
        },
        "guarantee": {
            "delta": genesis.config.ledger.delta,
            "scope": "the life of the named vault" if genesis.vault_named else "this run alone: it names no vault",
        },
        "details": [proposal_view(found) for _, found in sorted(state.proposals.items())],
    }


def _rest(state: RunState) -> str:
    if state.intent is not None:
        return "a swap is open: a supervisor will finish it"
    if state.halted:
        return "halted"
    if state.held:
        return "awaiting approval"
    if any(p.decision is None for p in state.proposals.values()):
        return "in a generation"
    return "at rest"


def hold_view(state: RunState, number: int) -> dict[str, Any]:
    """What waits for people: which proposal, at which stage, for which rules, until when, and who has answered."""
    found = state.proposals[number]
    hold, guard = found.hold, found.guard
    if hold is None or guard.config.approvers is None:
        raise StateError(f"proposal {number} is not held")
    return {
        "number": number,
        "proposer": found.proposed.proposer,
        "hold": hold.digest,
        "stage": hold.stage,
        "rules": hold.said.rules,
        "gates": asking(guard.config, hold.said.gates or []),
        "candidate": hold.said.candidate,
        "expires": hold.expires,
        "approved_by": [approver.name for _, approver in hold.approvals],
        "refused_by": hold.refused[0].name if hold.refused else None,
        "require": guard.config.approvers.require,
        "approvers": _names(guard),
    }


def change_view(state: RunState) -> dict[str, Any]:
    """The change of the guard that is open: what it is, how it compares, and who has answered; StateError."""
    change, guard = state.change, state.guarding
    if change is None:
        raise StateError("no change of the guard is open")
    hold, entry, rule = change.hold, change.hold.guard, guard.config.approvers
    return {
        "by": entry.by,
        "reason": entry.reason,
        "verdict": entry.verdict,
        "items_added": entry.vault_items - guard.vault_items,
        "guard": entry.guard,
        "comparison": entry.comparison,
        "hold": hold.digest,
        "expires": hold.expires,
        "approved_by": hold.approvers,
        "refused_by": hold.refused[0].name if hold.refused else None,
        "require": 0 if change.free else rule.require if rule else None,
        "approvers": _names(guard),
    }


def _names(guard: Guarding) -> list[str]:
    return sorted({f"{each.name} ({each.role})" for each in guard.approvers})


def version_view(state: RunState, version: int) -> dict[str, Any]:
    """One version that is or was live."""
    candidate = state.versions[version]
    proposal = next(
        (number for number, p in state.proposals.items() if p.version == version),
        None,
    )
    _, development = state.candidates()[candidate.digest]
    return {
        "version": version,
        "candidate": candidate.digest,
        "proposal": proposal,
        "parameters": candidate.parameters,
        "recipe": candidate.recipe,
        "development": development,
        "live": version == state.live,
    }


def proposal_view(found: ProposalState) -> dict[str, Any]:
    """One proposal: who, what stage, what came of it and why."""
    decision = found.decision
    verdict = None if decision is None else decision.verdict
    return {
        "number": found.proposed.number,
        "generation": found.proposed.generation,
        "proposer": found.proposed.proposer,
        "scripted": found.proposed.scripted,
        "label": found.proposed.label,
        "stage": found.stage,
        "verdict": found.outcome or verdict or ("hold" if found.hold else None),
        "approved_by": [approver.name for hold in found.released for _, approver in hold.approvals],
        "reasons": [] if decision is None else [why.json_value() for why in decision.reasons],
        "candidate": found.built.candidate.digest if found.built else None,
        "parameters": found.built.candidate.parameters if found.built else None,
        "bytes": found.built.candidate.bytes if found.built else None,
        "flops": found.developed.flops if found.developed else None,
        "development": found.developed.development if found.developed else None,
        "gates": [gate.json_value() for gate in found.measured.gates] if found.measured else [],
        "evidence": found.measured.evidence if found.measured else None,
        "seconds": round(found.built.seconds, 2) if found.built else None,
    }


def event_view(state: RunState, index: int, entry: Entry) -> dict[str, Any]:
    """One entry, as it happens, for whoever watches a run."""
    kind = kind_of(entry)
    number = getattr(entry, "number", None)
    view: dict[str, Any] = {"event": kind, "index": index, "time": entry.time}
    if number is not None and number in state.proposals:
        view["proposal"] = proposal_view(state.proposals[number])
    if kind in ("promoted", "rolled-back", "genesis", "watched"):
        view["live"] = version_view(state, state.live)
    for name in ("reason", "by", "ok"):
        value = getattr(entry, name, None)
        if value is not None:
            view[name] = value
    return view


def evidence_view(found: ProposalState, blobs: BlobStore) -> list[dict[str, Any]]:
    """Each gate's numbers, and a line of words, from the confidential evidence: for the operator, never a proposer."""
    if found.measured is None:
        return []
    return [{**gate.json_value(), "line": line(gate)} for gate in result_of(found.measured.evidence, blobs).gates]


def result_of(evidence: Digest, blobs: BlobStore) -> TestResult:
    """The test's result in a blob of evidence; StateError where there is none."""
    from harness.statistics import TestResult  # late: it brings numpy

    try:
        return TestResult.parse(_result(evidence, blobs))
    except ValidationError as error:
        place, message = first_problem(error)
        raise StateError(f"the evidence is malformed: {place}: {message}", where=evidence) from error


def _result(evidence: Digest, blobs: BlobStore) -> dict[str, Any]:
    """The test's result in a blob of evidence; StateError where there is none."""
    try:
        value = parse_json(blobs.get(evidence), max_bytes=8 << 20)
    except CanonicalError as error:
        raise StateError(f"the evidence is malformed: {error}", where=evidence) from error
    result = value.get("result") if isinstance(value, dict) else None
    if not isinstance(result, dict):
        raise StateError("the evidence holds no result", where=evidence)
    return result


def properties_of(entry: Developed | Genesis, blobs: BlobStore) -> dict[str, Any]:
    """What was tried of a candidate's properties, and what was found. StateError where it is not what the entry says.

    `properties` of it are, by name: the verdict, `where` the check stands, `seed`, how many cases were `tried`, how
    many counterexamples of earlier proposals were `replayed` and how many `set_aside`, since the property that they
    were of is another by now. Of what is refuted the `counterexample`: the `case`, in `words` and as it was `drawn`,
    what is `wrong` with it, the `answers`, how many cases more were tried to make it simpler (`shrinks`), and `of`
    which proposal it was before. Also the digest of `guards`, and the version of `hypothesis`.
    """
    name, said = str(entry.counterexamples), entry.properties
    try:
        value: Any = parse_json(blobs.get(name, max_bytes=MAX_EVIDENCE), max_bytes=MAX_EVIDENCE)
        verdicts = {each: judged["verdict"] for each, judged in value["properties"].items()}
        for judged in value["properties"].values():
            _ = property_words(judged)
    except (CanonicalError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"the evidence of properties is malformed: {error!r}", where=name) from error
    if verdicts != said:
        raise StateError(f"the evidence of properties says {verdicts}, the log {said}"[:600], where=name)
    return dict(value)


def property_words(judged: Mapping[str, Any]) -> str:
    """What was found of one property, in words. None found is no proof that there is none, and is not told as one."""
    again = f", and in {judged['replayed']} of earlier proposals" if judged["replayed"] else ""
    aside = f"; {judged['set_aside']} of another guard are of no use now" if judged["set_aside"] else ""
    if judged["verdict"] == "held":
        return f"no counterexample in {judged['tried']} cases{again}{aside}"
    return f"refuted by {judged['counterexample']['words']}: {judged['counterexample']['wrong']}"


def items_used(found: ProposalState, blobs: BlobStore) -> int | None:
    """How many held-out items a proposal's test scored, from the evidence; None where nothing was measured."""
    if found.measured is None:
        return None
    return int(_result(found.measured.evidence, blobs)["items"])


def screen_view(state: RunState, blobs: BlobStore | None) -> dict[str, Any]:
    """What the screen on development items stopped, how many tests there were, and an estimate of what that saved.

    `saved` is how many items the stopped candidates would have been scored on, were each rejected after as many as the
    rejected tests of this run were in the median, `median`. Both are None where no test was rejected, where `blobs` are
    not given, for the counts of tests are confidential, or cannot be read.
    """
    stopped, used = 0, list[int]()
    readable = blobs is not None
    for found in state.proposals.values():
        rejected = found.decision is not None and found.decision.verdict == "reject"
        stopped += rejected and found.decision is not None and found.decision.reasons[0].code == "development"
        if rejected and found.measured is not None and blobs is not None and readable:
            try:
                used.append(items_used(found, blobs) or 0)
            except (LockgateError, KeyError, TypeError, ValueError):
                readable = False
    median = round(statistics.median(used)) if used and readable else None
    return {
        "stopped": stopped,
        "tests": sum(found.staked is not None for found in state.proposals.values()),
        "median": median,
        "saved": None if median is None else stopped * median,
    }


def log_evidence(found: ProposalState, blobs: BlobStore) -> list[float]:
    """The log evidence that each gate of a proposal's test ended with; none where nothing was measured."""
    if found.measured is None:
        return []
    return [float(gate["log_e"]) for gate in _result(found.measured.evidence, blobs)["gates"]]


def archived(candidate: Candidate, development: dict[str, float], blobs: BlobStore) -> Archived:
    """A candidate as proposers see it."""
    manifest = parse_json(blobs.get(candidate.source))
    if not isinstance(manifest, dict):
        raise StateError("a source tree's manifest is malformed")
    files = {path: blobs.get(str(blob)).decode("utf-8", "replace") for path, blob in manifest.items()}
    return Archived(digest=candidate.digest, recipe=candidate.recipe, files=files, development=development)


def feedback(found: ProposalState, blobs: BlobStore) -> Feedback:
    """All that a proposer is told of one proposal. What lies behind the development stage shows as one bit."""
    try:
        # The bounds of a proposal: what is nested deeper could not be asked with again.
        document = parse_json(blobs.get(found.proposed.document), max_bytes=MAX_DOCUMENT, max_depth=4)
    except CanonicalError:
        document = {}
    if isinstance(document, dict):
        # Free text could carry the time at which it was written, and with it how long a held-out test took.
        document.pop("rationale", None)
    stage: Stage = "proposed"
    if found.developed:
        stage = "developed"
    elif found.built:
        stage = "built"
    elif found.screened:
        stage = "screened"
    return Feedback(
        generation=found.proposed.generation,
        index=found.proposed.index,
        proposer=found.proposed.proposer,
        proposal=document if isinstance(document, dict) else {},
        candidate=found.built.candidate.digest if found.built else None,
        stage=stage,
        development=found.developed.development if found.developed else None,
        failed_rules=found.screened.failed if found.screened else [],
        refuted=found.developed.refuted if found.developed else [],
        promoted=found.outcome == "promoted",
    )


def next_generation(state: RunState) -> int:
    """The generation to propose for, or to finish: the last one while a slot of it is undecided, else the next."""
    last = max((p.proposed.generation for p in state.proposals.values()), default=0)
    open_slots = any(
        p.decision is None or (p.decision.verdict == "promote" and p.outcome is None) for p in state.proposals.values()
    )
    return last if open_slots else last + 1


def ask_view(state: RunState, blobs: BlobStore) -> dict[str, Any]:
    """What proposers are asked with: the incumbent, the archive, the history, the space."""
    genesis, config = state.genesis, state.guarding.config
    if genesis is None:
        raise StateError("the log has no genesis")
    generation = next_generation(state)
    known = state.candidates()
    objective = config.objective
    best = sorted(known.values(), key=lambda pair: (-pair[1].get(objective, 0.0), pair[0].digest))[:ARCHIVE]
    shown = {candidate.digest for candidate, _ in best}
    lived = {candidate.digest: None for _, candidate in sorted(state.versions.items()) if candidate.digest not in shown}
    best += [known[digest] for digest in list(lived)[-ARCHIVE:]]
    incumbent = state.incumbent
    before = [p for _, p in sorted(state.proposals.items()) if p.proposed.generation < generation]
    return {
        "seed": genesis.seed,
        "generation": generation,
        "schema": parse_json(blobs.get(incumbent.schema_digest)),
        "objective": objective,
        "mutable": config.mutable,
        "incumbent": archived(incumbent, known[incumbent.digest][1], blobs).json_value(),
        "archive": [archived(candidate, metrics, blobs).json_value() for candidate, metrics in best],
        "history": _bounded([feedback(found, blobs).json_value() for found in before]),
    }


def _bounded(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history within its bound: from the newest on, file texts are kept as long as there is room."""
    room = MAX_HISTORY
    for told in reversed(history):
        files = told["proposal"].get("files")
        size = sum(len(str(text)) for text in files.values()) if isinstance(files, dict) else 0
        room -= size
        if room < 0 and size:
            told["proposal"] = {key: value for key, value in told["proposal"].items() if key != "files"}
    return history


def meaning(code: str) -> str:
    """What a reason code means, in one line."""
    return REASONS.get(code, code)
