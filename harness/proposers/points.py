"""Points of the space, for proposers that draw whole ones: the knobs, what is taken, the document of one."""

from __future__ import annotations

from typing import Any, TypeAlias

from harness.canonical import canonical_bytes
from harness.errors import ProposerError
from harness.proposers import Ask
from harness.proposers.space import Knob, Scalar, read_space, same

__all__ = ["Point", "document", "key", "searched", "taken"]

Point: TypeAlias = dict[str, Scalar]
"""A value for each knob that is searched."""


def searched(ask: Ask, who: str) -> dict[str, Knob]:
    """Return the knobs that can be searched, by name and in that order; ProposerError where there is none."""
    space = {name: knob for name, knob in sorted(read_space(ask.schema_).items()) if knob.searchable}
    if not space:
        raise ProposerError(
            "the Recipe has no knob to search",
            where=who,
            remedy="give fields bounds with Field(ge=…, le=…), or choices with Literal",
        )
    return space


def key(point: Point) -> bytes:
    """Name a point so that equal points have equal names: 1 and 1.0 are one number."""
    return canonical_bytes(point)


def taken(ask: Ask, space: dict[str, Knob]) -> set[bytes]:
    """Return the names of all points that have been built or proposed, as far as their base is known."""
    known = {each.digest: each for each in (*ask.archive, ask.incumbent)}
    recipes = [each.recipe for each in known.values()]
    for entry in ask.history:
        base, changes = known.get(str(entry.proposal.get("base"))), entry.proposal.get("changes")
        if base is not None and isinstance(changes, dict):
            recipes.append({**base.recipe, **changes})
    return {key({name: recipe.get(name) for name in space}) for recipe in recipes}


def document(ask: Ask, space: dict[str, Knob], point: Point, rationale: str) -> dict[str, Any]:
    """Return the proposal that makes the incumbent's recipe that of the point, which differs from it."""
    before = ask.incumbent.recipe
    changes = {name: value for name, value in point.items() if not same(value, before.get(name))}
    shaping = any(space[name].group == "architecture" for name in changes)
    kind = "architecture" if shaping else "hyperparameters"
    return {"kind": kind, "base": ask.incumbent.digest, "changes": changes, "rationale": rationale}
