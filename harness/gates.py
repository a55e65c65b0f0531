"""Gates: what a candidate must show on held-out items, as null hypotheses about a bounded value per item.

A gate of a configuration is compiled into a null `mean of x <= theta`, where x is made from scores so that a pass is
always evidence *above* theta:

    kind      x                        theta        says
    improve   candidate - incumbent    0            better than the incumbent
    parent    candidate - incumbent    -margin      not worse than the incumbent by the margin
    anchor    candidate - baseline     -margin      not worse than the first version of all: stops slow drift
    floor     score                    threshold    the mean score is above the threshold
    rare      score - 1 (- failure)    -rate        failures are rarer than the rate
    ceiling   - score                  -threshold   the mean score is below; anything else is for people to decide

Only `observe` turns scores into x, so signs are settled in one place. Nothing is ever clipped: that would hide rare
large losses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from harness.errors import StatisticsError
from harness.records import Record

__all__ = ["Floats", "GateKind", "GateSpec", "checked", "compile_gates"]

Floats = NDArray[np.float64]
GateKind = Literal["improve", "parent", "anchor", "floor", "rare", "ceiling"]

_PAIRED: dict[str, Literal["incumbent", "baseline"]] = {
    "improve": "incumbent", "parent": "incumbent", "anchor": "baseline",
}  # fmt: skip
_PARAMETER = {"parent": "margin", "anchor": "margin", "floor": "threshold", "ceiling": "threshold", "rare": "rate"}


class GateSpec(Record):
    """One gate: passes on evidence that the mean of `x` lies above `theta`, where `x` comes from `observe`.

    `bounds` are those of the eval's score, higher being better. `cap`, in base items, replaces the test's where given.
    """

    eval: str = Field(min_length=1)
    kind: GateKind
    theta: float
    bounds: tuple[float, float]
    cap: Annotated[int, Field(ge=1)] | None = None
    policy: str | None = None
    """The policy that demands it, where it is none of lockgate.yaml's."""

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError("the lower bound of the score must lie below the upper")
        if self.kind == "rare" and self.bounds != (0.0, 1.0):
            raise ValueError("a rare gate needs a score in [0, 1], where 0 is a failure")
        if not self.lo < self.theta < self.hi:
            raise ValueError(f"theta must lie strictly between {self.lo} and {self.hi}")
        return self

    @property
    def name(self) -> str:
        """`eval/kind`, and `@policy` where one demands it; unique in a configuration."""
        return f"{self.eval}/{self.kind}" + ("" if self.policy is None else f"@{self.policy}")

    @property
    def paired(self) -> Literal["incumbent", "baseline"] | None:
        """Whose scores on the same items are subtracted; None for a gate on the candidate's own scores."""
        return _PAIRED.get(self.kind)

    @property
    def lo(self) -> float:
        """The least `x` possible."""
        low, high = self.bounds
        if self.kind in _PAIRED:
            return low - high
        return {"floor": low, "rare": low - high, "ceiling": -high}[self.kind]

    @property
    def hi(self) -> float:
        """The greatest `x` possible."""
        low, high = self.bounds
        if self.kind in _PAIRED:
            return high - low
        return {"floor": high, "rare": 0.0, "ceiling": -low}[self.kind]

    def observe(self, scores: Floats, reference: Floats | None = None) -> Floats:
        """Turn scores [n] of the candidate (and, if paired, of the reference on the same items) into `x` [n].

        Paired: candidate - reference. Floor: the score. Rare: minus the failure, score - 1. Ceiling: minus the score.
        Raises StatisticsError for a score that is NaN or out of bounds, and for a reference missing or too many.
        """
        if (reference is None) != (self.paired is None):
            raise StatisticsError("paired gates need the reference's scores, others take none", where=self.name)
        candidate = checked(scores, *self.bounds, where=self.name)
        if reference is not None:
            other = checked(reference, *self.bounds, where=self.name)
            if other.shape != candidate.shape:
                raise StatisticsError(f"{candidate.size} scores against {other.size} items", where=self.name)
            return candidate - other
        if self.kind == "rare":
            return candidate - 1.0
        return 0.0 - candidate if self.kind == "ceiling" else candidate


def compile_gates(gates: Sequence[Mapping[str, Any]], bounds: Mapping[str, tuple[float, float]]) -> list[GateSpec]:
    """Compile the gates of a configuration, given the score bounds of each eval.

    A gate is {eval, kind, margin (parent, anchor) | threshold (floor, ceiling) | rate (rare), cap?, policy?}; keys
    whose value is None count as absent. Raises StatisticsError, `where` naming the gate, for anything that is not a
    gate that can be tested: an unknown eval, a missing or superfluous parameter, one outside the score's bounds, two
    of one name.
    """
    if not gates:
        raise StatisticsError("no gate: nothing would stand in the way of a promotion", remedy="declare gates")
    compiled: dict[str, GateSpec] = {}
    for index, raw in enumerate(gates):
        spec = _compile_gate({key: value for key, value in raw.items() if value is not None}, bounds, f"gates[{index}]")
        if spec.name in compiled:
            raise StatisticsError(
                f"two gates are called {spec.name}", where=f"gates[{index}]", remedy="keep the stricter"
            )
        compiled[spec.name] = spec
    return list(compiled.values())


def _compile_gate(raw: dict[str, Any], bounds: Mapping[str, tuple[float, float]], where: str) -> GateSpec:
    evaluation, kind, cap = raw.pop("eval", None), raw.pop("kind", None), raw.pop("cap", None)
    policy = raw.pop("policy", None)
    if not isinstance(evaluation, str) or evaluation not in bounds:
        raise StatisticsError(f"no eval is called {evaluation!r}", where=where, remedy=f"have {sorted(bounds)}")
    if kind != "improve" and kind not in _PARAMETER:
        raise StatisticsError(f"no gate is of kind {kind!r}", where=where)
    if cap is not None and (type(cap) is not int or cap < 1):
        raise StatisticsError("a cap is a positive number of items", where=where)
    wanted = {_PARAMETER[kind]} if kind in _PARAMETER else set()
    if set(raw) != wanted:
        names = ", ".join(wanted) or "no parameter"
        raise StatisticsError(f"{kind} takes {names}, not {', '.join(sorted(raw)) or 'nothing'}", where=where)
    low, high = (float(bound) for bound in bounds[evaluation])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise StatisticsError(f"the bounds of {evaluation} are not an interval", where=where)
    if kind == "improve":
        return GateSpec(eval=evaluation, kind="improve", theta=0.0, bounds=(low, high), cap=cap)
    parameter = next(iter(wanted))
    value = raw[parameter]
    least, most = {"margin": (0.0, high - low), "threshold": (low, high), "rate": (0.0, 1.0)}[parameter]
    if isinstance(value, bool) or not isinstance(value, int | float) or not least < value < most:
        raise StatisticsError(f"{parameter} must lie strictly between {least:g} and {most:g}", where=where)
    if parameter == "rate" and (low, high) != (0.0, 1.0):
        raise StatisticsError(f"a rare gate needs a score in [0, 1], not [{low:g}, {high:g}]", where=where)
    return GateSpec(eval=evaluation, kind=kind, theta=theta_of(kind, value), bounds=(low, high), cap=cap, policy=policy)


def theta_of(kind: str, value: float) -> float:
    """The null of a gate with this margin, threshold or rate; 0 for what has none of them."""
    return float(value) if kind == "floor" else -float(value)


def checked(values: Floats, lo: float, hi: float, *, where: str) -> Floats:
    """Return values as float64 [n]; raise StatisticsError for another shape, a NaN, or a value out of bounds."""
    x = np.asarray(values)
    if x.ndim != 1 or x.dtype.kind not in "fiub":
        raise StatisticsError("scores must be one real number for each item", where=where)
    x = x.astype(np.float64)
    if not np.all((x >= lo) & (x <= hi)):  # NaN compares false, and so is refused here too
        raise StatisticsError(f"a score is NaN or outside [{lo:g}, {hi:g}]", where=where, remedy="mend the scorer")
    return x
