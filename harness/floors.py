"""Floors that policies demand: each becomes a gate on held-out items, tested like those of lockgate.yaml.

A floor is part of a policy's text, and so of the guard. `guarded` puts a gate of kind `floor` for it among those of the
configuration, called `EVAL/floor@POLICY`; it is that configuration which a run is begun with, which its log names and
which a replay derives again from lockgate.yaml's gates and the policies in the blobs.

Of several floors on one eval the highest is tested: whoever is above it is above the others. Where lockgate.yaml has
one of its own, that must be at least as high: then it is the one tested, and else it is refused, for two gates of one
eval and kind cannot stand side by side. A floor that is not below a ceiling of the same eval is refused, too: no
candidate could be above the one and below the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.config import Config, GateRule
from harness.errors import ConfigError
from harness.policy import PolicySet
from harness.reading import Reader
from harness.records import Record
from harness.strictness import Verdict

__all__ = ["FloorPoint", "bare", "check_floors", "compare_floors", "floors_of", "guarded"]


_OTHERS = 16


@dataclass(frozen=True)
class Demand:
    """A floor, and who demands it."""

    eval: str
    floor: float
    policy: str
    where: str
    """file:line:column."""

    @property
    def gate(self) -> GateRule:
        """The gate that it becomes."""
        return GateRule(eval=self.eval, kind="floor", threshold=self.floor, policy=self.policy)


class FloorPoint(Record):
    """One difference between the floors of two sets of policies."""

    eval: str
    what: str
    verdict: Verdict


def floors_of(policies: PolicySet) -> dict[str, Demand]:
    """The highest floor on each eval, by eval; of equal ones, that of the policy whose name comes first."""
    highest: dict[str, Demand] = {}
    for demand in sorted(_demands(policies), key=lambda each: (each.eval, -each.floor, each.policy)):
        highest.setdefault(demand.eval, demand)
    return highest


def _demands(policies: PolicySet) -> Iterator[Demand]:
    for policy in policies.policies:
        for index, floor in enumerate(policy.document.floors):
            yield Demand(floor.eval, floor.floor, policy.name, policy.located.at(("floors", index)))


def guarded(config: Config, policies: PolicySet) -> Config:
    """The configuration with a gate for each floor; ConfigError where one contradicts a gate of lockgate.yaml."""
    own = {(gate.eval, gate.kind): gate.threshold for gate in config.gates}
    gates = []
    for demand in floors_of(policies).values():
        low, high = own.get((demand.eval, "floor")), own.get((demand.eval, "ceiling"))
        asks = f"policy {demand.policy} asks for a floor of {demand.floor:g} on {demand.eval}"
        if high is not None and high <= demand.floor:
            raise ConfigError(
                f"{asks}, and lockgate.yaml has a ceiling of {high:g}: nothing is above the one and below the other",
                where=demand.where,
                remedy="lower the floor, or raise the ceiling",
            )
        if low is None:
            gates.append(demand.gate)
        elif low < demand.floor:
            raise ConfigError(
                f"{asks}, and lockgate.yaml's own is only {low:g}",
                where=demand.where,
                remedy=f"raise lockgate.yaml's to {demand.floor:g} or more, or remove it there: the policy's is tested",
            )
    return config.model_copy(update={"gates": [*config.gates, *gates]}) if gates else config


def bare(config: Config) -> Config:
    """The configuration as lockgate.yaml has it, without the gates of policies."""
    own = [gate for gate in config.gates if gate.policy is None]
    return config.model_copy(update={"gates": own})


def check_floors(policies: PolicySet, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Check floors against the evals that there are, given the bounds of their scores; ConfigError names the place."""
    for demand in _demands(policies):
        if demand.eval not in bounds:
            raise ConfigError(
                f"policy {demand.policy} asks for a floor on '{demand.eval}', and no eval is called so",
                where=demand.where,
                remedy=f"there is {', '.join(sorted(bounds))}",
            )
        low, high = bounds[demand.eval]
        if not low < demand.floor < high:
            raise ConfigError(
                f"policy {demand.policy} asks for a floor of {demand.floor:g} on {demand.eval}, whose scores lie "
                f"between {low:g} and {high:g}",
                where=demand.where,
                remedy="a floor lies strictly between the two",
            )


def compare_floors(old: PolicySet, new: PolicySet) -> list[FloorPoint]:
    """Each difference of the floors that are tested, and whether it lowers a bar.

    A floor that is higher or new is as strict, or unknown where a rule of OLD may let something pass by it. Which gates
    there are besides is not known here, so that is tried with one to sixteen of them; the comparison of guards takes
    those that there are.
    """
    before, now = floors_of(old), floors_of(new)
    readers = [each for each in Reader.all_of(old) if each.reads("gates")]
    gains = any(not each.reads_verdicts_only() or _gains(each, before, now) for each in readers)
    points = []
    for name in sorted(before.keys() | now.keys()):
        was, is_ = (every[name].floor if name in every else None for every in (before, now))
        if was == is_:
            continue
        verdict: Verdict = "at-least-as-strict" if is_ is not None and (was is None or is_ > was) else "weaker"
        if verdict != "weaker" and gains:
            verdict = "unknown"
        what = "is gone" if is_ is None else f"is new: {is_:g}" if was is None else f"{was:g} → {is_:g}"
        points.append(FloorPoint(eval=name, what=what, verdict=verdict))
    return points


def _gains(reader: Reader, before: Mapping[str, Demand], now: Mapping[str, Demand]) -> bool:
    """Whether a rule may pass by the gates of these floors that did not by those before."""
    old, new = ([each.gate.name for each in every.values()] for every in (before, now))
    if {*old} == {*new}:
        return False
    others = [f"~{number}/improve" for number in range(_OTHERS)]
    return any(reader.gains_by([*others[:size], *old], [*others[:size], *new]) for size in range(1, _OTHERS + 1))
