"""A proposer's process, inside its sandbox: the ask in, one sealed answer out.

The job's document is `{"proposer": NAME, "ask": {…}, "replies": […] or null}`. The answer's header is `{"proposals": N,
"skipped": [WHY, …]}`, and the N documents follow it as one JSON array; `{"requests": N}` and N requests, where a model
is to be asked before; or `{"error": {"type", "message", "where"}}` where the proposer failed.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from harness.chat import ChatRequest, Reply
from harness.errors import LockgateError, ProposerError
from harness.isolation import inside
from harness.proposers import Ask, conclude, propose
from harness.records import first_problem

__all__ = ["main"]

_MESSAGE = 2000  # characters of an error's message that are passed on


def main() -> None:
    """Answer one ask."""
    try:
        header, values = _answer(inside.job())
        body = json.dumps(values, allow_nan=False).encode()
    except LockgateError as error:
        message = f"{error.message} ({error.remedy})" if error.remedy else error.message
        inside.answer({"error": _problem(message, error.where, type(error).__name__)})
    except (TypeError, ValueError) as error:  # documents that are not JSON
        inside.answer({"error": _problem(f"the answer is not JSON: {error}", None, "ProposerError")})
    else:
        inside.answer(header, body)


def _problem(message: str, where: str | None, kind: str) -> dict[str, str]:
    return {"type": kind, "message": message[:_MESSAGE], "where": (where or "")[:_MESSAGE]}


def _answer(job: Any) -> tuple[dict[str, Any], list[Any]]:
    """Return the header, and what follows it."""
    if not isinstance(job, dict) or set(job) != {"proposer", "ask", "replies"} or not isinstance(job["proposer"], str):
        raise ProposerError("the job names no proposer, ask and replies")
    try:
        ask = Ask.parse(job["ask"])
        replies = None if job["replies"] is None else [Reply.parse(reply) for reply in job["replies"]]
    except ValidationError as error:
        place, message = first_problem(error)
        raise ProposerError(message, where=place) from error
    if replies is not None:
        drafts = conclude(job["proposer"], ask, replies)
        return {"proposals": len(drafts.documents), "skipped": drafts.skipped}, drafts.documents
    found = propose(job["proposer"], ask)
    if found and all(isinstance(each, ChatRequest) for each in found):
        return {"requests": len(found)}, [each.json_value() for each in found if isinstance(each, ChatRequest)]
    return {"proposals": len(found), "skipped": []}, found


if __name__ == "__main__":
    main()
