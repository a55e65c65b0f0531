"""Verify and print a run's trail from the outside: the log, the blobs, the live model; no supervisor.

This shares the fold with the supervisor on purpose: it is the very machine that ran. A
verifier that shares nothing with it is the reviewer's kit in `audits/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.artifacts import BlobStore
from harness.entries import Entry, kind_of
from harness.errors import AuditError, LockgateError
from harness.folder import RunFolder
from harness.journal import read_run
from harness.keys import Verifier
from harness.live import check_version, live_version
from harness.logreader import check_log
from harness.plain import plain

MAX_BLOB = 16 << 20


def verify_run(folder: RunFolder, key: Path | None) -> dict[str, Any]:
    """Verify everything that can be seen from the run's folder; AuditError or StateError at the first defect.

    With `key`, the reviewer's own copy of the public key, the verdict is `valid at size N, freshness
    unproven`; with the key that lies in the run itself, which whoever replaced the log would have replaced
    too, it is `identity unproven`.
    """
    verifier = Verifier.load(key or folder.public_key)
    head = check_log(folder.log, verifier)
    state, entries = read_run(folder.log, verifier)
    if state.size != head.size:
        raise AuditError(f"the tree head names {head.size} entries, {state.size} were read")
    blobs = BlobStore(folder.blobs)
    checked = 0
    for index, entry in enumerate(entries):
        for name in sorted(blob_digests(entry)):
            try:
                blobs.check(name)
            except LockgateError as error:
                raise AuditError(f"{kind_of(entry)}: {error}", where=f"entry {index}") from error
            checked += 1
    live = live_version(folder.root)
    # Cut inside a swap, the link names the version before it or the one that the open intent names: nothing else.
    if live not in {state.live, state.live if state.intent is None else state.intent.version}:
        raise AuditError(f"version {live} is live, the log says {state.live}", where=str(folder.root / "current"))
    for version, candidate in state.versions.items():
        check_version(folder.root, version, candidate)
    if key is None:
        verdict = "identity unproven"
        summary = (
            f"all {head.size} entries and {checked} blobs hold together, but the key came from the run itself; "
            f"verify again with --key and your own copy of {folder.public_key}"
        )
    else:
        verdict = f"valid at size {head.size}, freshness unproven"
        summary = (
            f"{head.size} entries signed by {verifier.name}, {checked} blobs by digest, "
            f"{len(state.versions)} versions, version {state.live} live"
        )
    return {
        "verdict": verdict,
        "summary": summary,
        "size": head.size,
        "root": head.root.hex(),
        "origin": head.origin,
        "blobs": checked,
        "live": state.live,
        "promotions": state.promotions,
    }


def blob_digests(entry: Entry) -> set[str]:
    """The blobs behind an entry: each must be there, byte for byte."""
    found: set[str] = set()
    for name in ("document", "change", "judgement", "answers", "evidence", "policy_sources"):
        value = getattr(entry, name, None)
        if isinstance(value, str):
            found.add(value)
    candidate = getattr(entry, "candidate", None) or getattr(entry, "baseline", None)
    if candidate is not None and not isinstance(candidate, str):
        found |= {candidate.weights, candidate.source, candidate.schema_digest}
    return found


def trail(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Each entry in words, in order."""
    _, entries = read_run(folder.log, Verifier.load(folder.public_key))
    for index, entry in enumerate(entries):
        yield {
            "index": index,
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
            baseline = _short(body.baseline.digest)
            return f"{body.origin}: seed {body.seed}, baseline {baseline}, guard {_short(body.guard)}"
        case "started":
            return f"supervisor {body.nonce}, workers by {body.isolation} on {body.device}"
        case "proposed":
            name = f" “{body.label}”" if body.label else ""
            return f"no. {body.number} by {body.proposer}{' (scripted)' if body.scripted else ''}{name}"
        case "screened":
            return f"no. {body.number}: {body.outcome}" + (f", failed {', '.join(body.failed)}" if body.failed else "")
        case "built":
            made, took = body.candidate, f"{body.steps} steps, {body.seconds:.1f} s"
            return f"no. {body.number}: candidate {_short(made.digest)}, {made.parameters:,} parameters, {took}"
        case "developed":
            return f"no. {body.number}: " + ", ".join(f"{k} {v:.4f}" for k, v in sorted(body.development.items()))
        case "staked":
            which = f"test {body.test} of epoch {body.epoch}"
            return f"no. {body.number}: {which} at alpha {body.alpha:.3g}, up to {body.cap} items"
        case "predicted":
            what = f"{body.cap} items of epoch {body.epoch}"
            return f"candidate {_short(body.candidate)} answered {what}: {_short(body.answers)}"
        case "measured":
            return f"no. {body.number}: {'passed' if body.passed else 'not passed'}: " + ", ".join(
                f"{g.name} {g.verdict}" for g in body.gates
            )
        case "decided":
            reasons = "; ".join(f"{why.code}: {why.text}" for why in body.decision.reasons)
            return f"no. {body.number}: {body.decision.verdict}: {reasons}"
        case "authorised":
            what = f"candidate {_short(body.candidate)} as version {body.version}"
            return f"no. {body.number}: {what}, once, before {body.expires}"
        case "intended":
            return f"{body.action} version {body.version}" + (f" ({body.by}: {body.reason})" if body.reason else "")
        case "promoted" | "rolled-back":
            return f"version {body.version} is live: candidate {_short(body.candidate)}"
        case "watched":
            return f"version {body.version} {'gives' if body.ok else 'DOES NOT give'} the answers that were measured"
        case _:
            return ", ".join(f"{k} {v}" for k, v in entry.json_value().items() if k != "time" and v not in ("", None))


def _short(name: object) -> str:
    """The beginning of a digest, for the eye."""
    return str(name)[7:19]
