"""Code proposals by a language model: what it is asked, and what becomes of its answers. There is no network here.

A `Dialogue` of two pure functions. `requests` writes one chat for each proposal that is wanted, each with a seed of its
own that follows from the ask's; `documents` reads the replies into proposals over the incumbent, of code and of knobs.
A reply that leads to none has a reason instead, and nothing is made up in its place.

Settings, of `proposer_settings.llm` those that are not the endpoint's: see `harness.chat.Prompting`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from harness.chat import ChatRequest, Prompting, Reply
from harness.errors import ProposalError, ProposerError, SubjectError
from harness.plain import plain
from harness.proposal import parse_proposal
from harness.proposers import Ask, Dialogue, Drafts
from harness.proposers.answers import read_answer
from harness.proposers.prompt import messages, shown_files
from harness.proposers.space import read_space
from harness.records import first_problem

__all__ = ["Settings", "documents", "propose", "requests"]

Settings = Prompting
"""What proposals may change of its settings; those of its endpoint are the configuration's alone."""

_RATIONALE = 400


def requests(ask: Ask) -> list[ChatRequest]:
    """Return `ask.count` requests; ProposerError where settings do not fit, or no file fits into a prompt."""
    settings = _settings(ask)
    files = _files(ask, settings)
    return [
        ChatRequest(
            messages=messages(ask, settings, files, index),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=_seed(ask, index),
        )
        for index in range(ask.count)
    ]


def documents(ask: Ask, replies: list[Reply]) -> Drafts:
    """Read the replies: a proposal from each that is one, a reason for each that is none."""
    files = _files(ask, _settings(ask))
    drafts: list[dict[str, Any]] = []
    skipped: list[str] = []
    for reply in replies[: ask.count]:
        document, why = _draft(reply, files, ask)
        if document is not None and any(_same(document, other) for other in drafts):
            document, why = None, "the same change as another answer"
        if document is None:
            skipped.append(plain(why, 200))
        else:
            drafts.append(document)
    return Drafts(documents=drafts, skipped=skipped)


def _draft(reply: Reply, files: dict[str, str], ask: Ask) -> tuple[dict[str, Any] | None, str]:
    if reply.text is None:
        return None, reply.failure
    if reply.finish == "length":
        return None, "an answer that was cut off at max_tokens"
    answer = read_answer(reply.text, files, ask.mutable)
    if answer.problem:
        return None, answer.problem
    document: dict[str, Any] = {
        "kind": "code" if answer.files else _kind(answer.changes, ask),
        "base": ask.incumbent.digest,
        "changes": answer.changes,
        "rationale": plain(f"llm: {answer.words or 'no reason was given'}", _RATIONALE),
    }
    if answer.files:
        document["files"] = answer.files
    try:
        parse_proposal(json.dumps(document).encode(), mutable=ask.mutable)
    except ProposalError as error:
        return None, str(error)
    return document, ""


def _kind(changes: Iterable[str], ask: Ask) -> str:
    """What a change of knobs alone is called."""
    with suppress(SubjectError):
        space = read_space(ask.schema_)
        if any(name in space and space[name].group == "architecture" for name in changes):
            return "architecture"
    return "hyperparameters"


def _same(document: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(document.get(name) == other.get(name) for name in ("files", "changes"))


def _settings(ask: Ask) -> Prompting:
    try:
        return Prompting.parse(ask.settings)
    except ValidationError as error:
        place, message = first_problem(error)
        raise ProposerError(message, where=f"llm: {place}") from error


def _files(ask: Ask, settings: Prompting) -> dict[str, str]:
    files = shown_files(ask, settings.prompt_bytes * 2 // 3)
    if not files:
        raise ProposerError(
            "none of the files that may be changed fits into a prompt", where="llm", remedy="raise prompt_bytes"
        )
    return files


def _seed(ask: Ask, index: int) -> int:
    told = f"lockgate/llm/{ask.seed}/{ask.generation}/{ask.round}/{index}"
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:4], "big") >> 1


propose = Dialogue(requests, documents)
