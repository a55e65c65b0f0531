"""A proposer's process, inside its sandbox: the ask in, one sealed answer out.

The job's document is `{"proposer": NAME, "ask": {…}}`. The answer's header is `{"proposals": N}`, and the N documents
follow it as one JSON array. Or the document is `{"proposer": NAME, "settings": [{…}, …]}`, and the answer has each with
all defaults in place of a proposal. Or the header is `{"error": {"type", "message", "where"}}`: the proposer failed.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from harness.errors import LockgateError, ProposerError
from harness.isolation import inside
from harness.proposers import Ask, propose, settled
from harness.records import first_problem

__all__ = ["main"]

_MESSAGE = 2000  # characters of an error's message that are passed on


def main() -> None:
    """Answer one ask."""
    try:
        documents = _proposals(inside.job())
        body = json.dumps(documents, allow_nan=False).encode()
    except LockgateError as error:
        inside.answer({"error": _problem(error.message, error.where, type(error).__name__)})
    except (TypeError, ValueError) as error:  # documents that are not JSON
        inside.answer({"error": _problem(f"the answer is not JSON: {error}", None, "ProposerError")})
    else:
        inside.answer({"proposals": len(documents)}, body)


def _problem(message: str, where: str | None, kind: str) -> dict[str, str]:
    return {"type": kind, "message": message[:_MESSAGE], "where": (where or "")[:_MESSAGE]}


def _proposals(job: Any) -> list[dict[str, Any]]:
    if isinstance(job, dict) and set(job) == {"proposer", "settings"}:
        return [settled(str(job["proposer"]), each) for each in job["settings"]]
    if not isinstance(job, dict) or set(job) != {"proposer", "ask"} or not isinstance(job["proposer"], str):
        raise ProposerError("the job names no proposer and ask")
    try:
        ask = Ask.parse(job["ask"])
    except ValidationError as error:
        place, message = first_problem(error)
        raise ProposerError(message, where=place) from error
    return propose(job["proposer"], ask)


if __name__ == "__main__":
    main()
