"""What may be asked of the judge's process besides a judgement; see `Judge.study`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import PolicyError
from harness.explanation import explain
from harness.mutation import cover, mutate
from harness.policy_compiler import CompiledPolicy


def study(policies: Sequence[CompiledPolicy], request: dict[str, Any]) -> Any:
    """Return the answer to a question as JSON; PolicyError for one that nobody knows."""
    match request["question"]:
        case "explain":
            return explain(policies, request["stage"], request["kind"], request["document"]).json_value()
        case "cover":
            return [each.json_value() for each in cover(policies, request["cases"])]
        case "mutate":
            return [each.json_value() for each in mutate(policies, request["cases"], request["only"])]
    raise PolicyError(f"no such question: {request['question']!r}")
