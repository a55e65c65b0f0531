"""What a search is after: development metrics that are to grow, or to shrink, as numbers to be maximised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.errors import ProposerError

__all__ = ["Objectives"]

_PARAMETERS = "parameters"
"""The metric that is to shrink whatever a configuration says: how many numbers the model is made of."""


class Objectives:
    """The metrics that a search is after; with no names, the mean of all that are to grow."""

    def __init__(self, names: Sequence[str], shrinking: Sequence[str]) -> None:
        """Take the objectives' names, the first being the one that parents are compared by, and what is to shrink."""
        self._names = list(names)
        self._shrinking = {_PARAMETERS, *shrinking}

    def check(self, development: Mapping[str, float], where: str) -> None:
        """Raise ProposerError for an objective that is not among an incumbent's metrics, where it has any."""
        for name in self._names if development else ():
            if name not in development:
                raise ProposerError(
                    f"there is no development metric {name!r}",
                    where=where,
                    remedy=f"name some of: {', '.join(sorted(development))}",
                )

    def scores(self, development: Mapping[str, float] | None) -> list[float] | None:
        """Return the objectives, each to be maximised; None where one of them was not measured."""
        if not development:
            return None
        names = self._names or sorted(development.keys() - self._shrinking)
        if not names or not all(name in development for name in names):
            return None
        signed = [-development[name] if name in self._shrinking else development[name] for name in names]
        return signed if self._names else [sum(signed) / len(signed)]

    def gain(self, development: Mapping[str, float] | None, before: Mapping[str, float]) -> float | None:
        """Return what the first objective gained, less what other metrics lost: a gain bought elsewhere is none.

        What is to shrink and is no objective counts for nothing. None where either was not measured.
        """
        scores, present = self.scores(development), self.scores(before)
        if not development or scores is None or present is None:
            return None
        others = sorted((development.keys() & before.keys()) - self._shrinking - set(self._names))
        return scores[0] - present[0] + sum(min(0.0, development[name] - before[name]) for name in others)
