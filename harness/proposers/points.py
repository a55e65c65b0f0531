"""Points of the space, for proposers that draw whole ones: the knobs, what is taken, the document of one."""

from __future__ import annotations

from typing import Any, TypeAlias

from harness.canonical import canonical_bytes
from harness.errors import ProposerError
from harness.proposers import Ask
from harness.proposers.space import Scalar, active, read_space, same

__all__ = ["Point", "Points"]

Point: TypeAlias = dict[str, Scalar]
"""A value for each knob that is searched."""


class Points:
    """The knobs that an ask's proposers may search, in the order of their names, and the points that are taken."""

    def __init__(self, ask: Ask, who: str) -> None:
        """Read the space and the history; ProposerError, for a proposer called `who`, where nothing can be searched."""
        self._every = read_space(ask.schema_)
        self.knobs = {name: knob for name, knob in sorted(self._every.items()) if knob.searchable}
        if not self.knobs:
            raise ProposerError(
                "the Recipe has no knob to search",
                where=who,
                remedy="give fields bounds with Field(ge=…, le=…), or choices with Literal",
            )
        self._base = ask.incumbent
        known = {each.digest: each for each in (*ask.archive, ask.incumbent)}
        recipes = [each.recipe for each in known.values()]
        for entry in ask.history:
            base, changes = known.get(str(entry.proposal.get("base"))), entry.proposal.get("changes")
            if base is not None and isinstance(changes, dict):
                recipes.append({**base.recipe, **changes})
        self._taken = {self._name(recipe) for recipe in recipes}

    @property
    def present(self) -> Point:
        """The incumbent's own point."""
        return {name: self._base.recipe.get(name) for name in self.knobs}

    def take(self, point: Point, rationale: str) -> dict[str, Any] | None:
        """Return the proposal that makes the incumbent's recipe that of the point; None where it is taken already.

        Knobs that mean nothing in it keep their values.
        """
        recipe = self._base.recipe
        means = active(self._every, {**recipe, **point})
        name = self._name({**recipe, **point})
        if name in self._taken:
            return None
        self._taken.add(name)
        changes = {name: value for name, value in point.items() if name in means and not same(value, recipe.get(name))}
        shaping = any(self.knobs[name].group == "architecture" for name in changes)
        kind = "architecture" if shaping else "hyperparameters"
        return {"kind": kind, "base": self._base.digest, "changes": changes, "rationale": rationale}

    def _name(self, recipe: dict[str, Any]) -> bytes:
        """Name a recipe's point by the knobs that mean something in it; 1 and 1.0 are one number."""
        means = active(self._every, recipe)
        return canonical_bytes({name: recipe.get(name) for name in self.knobs if name in means})
