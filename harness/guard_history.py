"""How a run's guard has changed, in one place: `lockgate guard show` prints it, the review pages draw it.

Each change that was proposed: what differs and whether it lowers a bar, who answered, and what became of it.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from harness.artifacts import BlobStore
from harness.canonical import parse_json
from harness.entries import GuardChanged, GuardProposed, GuardRejected
from harness.errors import LockgateError
from harness.guard_change import GuardComparison
from harness.quorum import Approver
from harness.state import RunState
from harness.telling import Notebook, answers_to

MAX_BLOB = 16 << 20


def guard_history(blobs: BlobStore, state: RunState, notebook: Notebook) -> list[dict[str, Any]]:
    """Every proposed change of the guard, the oldest first. A blob that cannot be read is told, and hides nothing."""
    approvers = [] if state.genesis is None else state.genesis.approvers
    listed: dict[str, list[Approver]] = {}
    found: dict[str, dict[str, Any]] = {}
    for line, entry in notebook.events:
        if isinstance(entry, GuardProposed):
            comparison, problem = _comparison(blobs, entry.comparison)
            listed[entry.digest] = entry.approvers
            found[entry.digest] = {
                "entry": line.index,
                "time": entry.time,
                "by": entry.by,
                "reason": entry.reason,
                "verdict": entry.verdict,
                "base": entry.base,
                "guard": entry.guard,
                "hold": entry.digest,
                "expires": entry.expires,
                "comparison": None if comparison is None else comparison.json_value(),
                "problem": problem,
                "answers": answers_to(entry.digest, notebook, approvers),
                "outcome": "open",
                "why": "",
                "ended": None,
            }
        elif isinstance(entry, GuardRejected):
            found[entry.hold] |= {"outcome": "rejected", "why": entry.reason, "ended": line.index}
        elif isinstance(entry, GuardChanged):
            for each in found.values():
                each["outcome"] = "replaced" if each["outcome"] == "in force" else each["outcome"]
            found[entry.hold] |= {"outcome": "in force", "ended": line.index}
            approvers = listed[entry.hold]
    return list(found.values())


def _comparison(blobs: BlobStore, name: str) -> tuple[GuardComparison | None, str]:
    """What people were shown, or why it cannot be."""
    try:
        value: Any = parse_json(blobs.get(name, max_bytes=MAX_BLOB), max_bytes=MAX_BLOB)
        return GuardComparison.parse(value), ""
    except ValidationError:
        return None, "what differs cannot be shown: it is no comparison"
    except (LockgateError, OSError) as error:
        return None, f"what differs cannot be shown: {error}"
