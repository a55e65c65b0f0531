"""Which kinds of entries there are: by what name a body is written, how one is read back, and what it is about.

A body that is not of a kind does not enter the log, and one read back that does not validate is an AuditError.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from harness.entries import (
    Approved,
    Authorised,
    Built,
    Decided,
    Developed,
    Entry,
    Genesis,
    GuardChanged,
    Guarding,
    GuardProposed,
    GuardRejected,
    Halted,
    Held,
    Intended,
    KeyRotated,
    Measured,
    Predicted,
    Promoted,
    ProposedEntry,
    Refused,
    Resumed,
    RolledBack,
    Screened,
    Staked,
    Started,
    Voided,
    Watched,
)
from harness.errors import AuditError
from harness.records import Candidate, first_problem

KINDS: dict[str, type[Entry]] = {
    "genesis": Genesis,
    "started": Started,
    "proposed": ProposedEntry,
    "screened": Screened,
    "held": Held,
    "approved": Approved,
    "refused": Refused,
    "guard-proposed": GuardProposed,
    "guard-rejected": GuardRejected,
    "guard-changed": GuardChanged,
    "built": Built,
    "developed": Developed,
    "staked": Staked,
    "predicted": Predicted,
    "measured": Measured,
    "decided": Decided,
    "authorised": Authorised,
    "intended": Intended,
    "promoted": Promoted,
    "watched": Watched,
    "voided": Voided,
    "rolled-back": RolledBack,
    "halted": Halted,
    "resumed": Resumed,
    "key-rotated": KeyRotated,
}
_NAMES = {body: kind for kind, body in KINDS.items()}


def kind_of(entry: Entry) -> str:
    """The kind under which a body is written."""
    return _NAMES[type(entry)]


def read_entry(kind: str, body: dict[str, Any], index: int) -> Entry:
    """Validate a body read back from the log; AuditError names the entry."""
    record = KINDS.get(kind)
    if record is None:
        raise AuditError(f"unknown kind of entry '{kind}'", where=f"entry {index}", clause="§6")
    try:
        # A configuration has parts that only JSON's reading makes; all other bodies read the same without writing them
        # out again, which tests/test_entries.py holds them to: every entry of a log goes through here.
        entry = record.parse(body) if issubclass(record, Guarding) else record.model_validate(body)
    except ValidationError as error:
        place, message = first_problem(error)
        raise AuditError(f"{kind}.{place}: {message}", where=f"entry {index}", clause="§6") from error
    if isinstance(entry, Guarding):
        # A default of this version is not what the log says: the next version may have another.
        config = body["config"]
        for part, name in (("ledger", "delta"), ("budgets", "promotions")):
            if name not in config.get(part, {}):
                raise AuditError(f"{kind}.config.{part}.{name}: left out", where=f"entry {index}", clause="§6")
    return entry


def subjects_of(entry: Entry) -> dict[str, str]:
    """What an entry is about, by digest: the subject of its statement (FORMAT §5.8). Empty: about its run."""
    if isinstance(entry, Authorised):
        return {"candidate": entry.candidate, "weights.safetensors": entry.weights}
    for name in _ABOUT[type(entry)]:
        value = getattr(entry, name)
        if value is not None:
            return {name: value if isinstance(value, str) else value.digest}
    return {}


def blob_digests(entry: Entry) -> set[str]:
    """The blobs that an entry names (FORMAT §8.1): each must be there, byte for byte."""
    found = {value for name in _BLOBS[type(entry)] if (value := getattr(entry, name)) is not None}
    candidate = candidate_of(entry)
    return found if candidate is None else found | {candidate.weights, candidate.source, candidate.schema_digest}


def candidate_of(entry: Entry) -> Candidate | None:
    """The candidate record in an entry, where there is one."""
    return entry.candidate if isinstance(entry, Built) else entry.baseline if isinstance(entry, Genesis) else None


def _members_of(*names: str) -> dict[type[Entry], tuple[str, ...]]:
    """Which of these members each body may have, in this order."""
    return {body: tuple(name for name in names if name in body.model_fields) for body in KINDS.values()}


_ABOUT = _members_of("candidate", "baseline", "document", "evidence", "answers", "hold", "guard")
_BLOBS = _members_of(
    "document",
    "change",
    "judgement",
    "answers",
    "asked",
    "counterexamples",
    "evidence",
    "policy_sources",
    "comparison",
)
