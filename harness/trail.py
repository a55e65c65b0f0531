"""The trail in words: each entry in a line that a person can read.

What is printed comes from strangers in part (labels, reasons, errors of candidates), so it goes through `plain`.

Not covered: whether the trail holds together (`auditing`), and one entry in full (`exhibit`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.entries import Entry
from harness.folder import RunFolder
from harness.journal import follow
from harness.keys import VerifierChain
from harness.kinds import kind_of
from harness.plain import plain


def trail(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Each entry in words, in order."""
    for step in follow(folder.log, VerifierChain.load(folder.public_key)):
        entry = step.entry
        yield {
            "index": step.index,
            "time": entry.time,
            "kind": kind_of(entry),
            "text": plain(told(entry), 4000),
            "body": entry.json_value(),
        }


def told(entry: Entry) -> str:
    """One entry in one line of words."""
    body: Any = entry
    match kind_of(entry):
        case "genesis":
            baseline = short(body.baseline.digest)
            return f"{body.origin}: seed {body.seed}, baseline {baseline}, guard {short(body.guard)}"
        case "started":
            return f"supervisor {body.nonce}, workers by {body.isolation} on {body.device}"
        case "proposed":
            name = f" “{body.label}”" if body.label else ""
            return f"no. {body.number} by {body.proposer}{' (scripted)' if body.scripted else ''}{name}"
        case "screened":
            return f"no. {body.number}: {body.outcome}" + (f", failed {', '.join(body.failed)}" if body.failed else "")
        case "held":
            asks = ", ".join([*(f"{name} is not shown" for name in body.gates or []), *body.rules])
            return f"no. {body.number} waits for people ({body.stage}): {asks}, until {body.expires}"
        case "approved" | "refused":
            why, what = f": {body.reason}" if body.reason else "", "the guard"
            return f"{what if body.number is None else f'no. {body.number}'}: {kind_of(entry)} by {body.by}{why}"
        case "guard-proposed":
            verdict, why = body.verdict.replace("-", " "), f": {body.reason}" if body.reason else ""
            return (
                f"guard {short(body.guard)} for {short(body.base)} by {body.by}: {verdict}{why}; until {body.expires}"
            )
        case "guard-rejected":
            return f"the guard stays: {body.reason}"
        case "guard-changed":
            by = f"by {len(body.approvals)} approvals" if body.approvals else "without people: it is as strict"
            return f"guard {short(body.guard)} is in force, {by}"
        case "built":
            made, took = body.candidate, f"{body.steps} steps, {body.seconds:.1f} s"
            return f"no. {body.number}: candidate {short(made.digest)}, {made.parameters:,} parameters, {took}"
        case "developed":
            means = ", ".join(f"{k} {v:.4f}" for k, v in sorted(body.development.items()))
            words = {"held": "no counterexample found", "refuted": "refuted"}
            found = "".join(f"; {k}: {words[v]}" for k, v in sorted((body.properties or {}).items()))
            return f"no. {body.number}: {means}{found}"
        case "staked":
            which = f"test {body.test} of epoch {body.epoch}"
            return f"no. {body.number}: {which} at alpha {body.alpha:.3g}, up to {body.cap} items"
        case "predicted":
            what = f"{body.cap} items of epoch {body.epoch}"
            return f"candidate {short(body.candidate)} answered {what}: {short(body.answers)}"
        case "measured":
            cost = "" if body.charged is None else f", at a cost of {body.charged:.3g}"
            return f"no. {body.number}: {'passed' if body.passed else 'not passed'}{cost}: " + ", ".join(
                f"{g.name} {g.verdict}" for g in body.gates
            )
        case "decided":
            reasons = "; ".join(f"{why.code}: {why.text}" for why in body.decision.reasons)
            return f"no. {body.number}: {body.decision.verdict}: {reasons}"
        case "authorised":
            what = f"candidate {short(body.candidate)} as version {body.version}"
            return f"no. {body.number}: {what}, once, before {body.expires}"
        case "intended":
            return f"{body.action} version {body.version}" + (f" ({body.by}: {body.reason})" if body.reason else "")
        case "promoted" | "rolled-back":
            return f"version {body.version} is live: candidate {short(body.candidate)}"
        case "watched":
            return f"version {body.version} {'gives' if body.ok else 'DOES NOT give'} the answers that were measured"
        case _:
            return ", ".join(f"{k} {v}" for k, v in entry.json_value().items() if k != "time" and v not in ("", None))


def short(name: object) -> str:
    """The beginning of a digest, for the eye."""
    return str(name)[7:19]
