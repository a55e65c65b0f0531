"""What a gate asks for and what its test came to, in words.

`line` says it of a result, from that result alone. What was not shown begins with "not shown", and nothing else does.
Bounds are those of the gate's own e-process: true with probability 1 - alpha whenever and for whatever reason the test
stopped, which an exact binomial bound for a number of items fixed beforehand is not. They are rounded to where they
say less, never more.

Not covered: whether the result follows from the answers (`replay`, `rescoring`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import TYPE_CHECKING

from harness.config import Config
from harness.decision import CLAIM
from harness.plain import plain

if TYPE_CHECKING:
    from harness.statistics import GateResult, TestResult

__all__ = ["asking", "claims", "line", "unshown"]

_UP, _DOWN = (Context(prec=2, rounding=way) for way in (ROUND_CEILING, ROUND_FLOOR))
MAX_LINE = 400


def claims(config: Config) -> dict[str, str]:
    """What each gate asks for, in words, by its name."""
    return {gate.name: f"{gate.eval} is {_claim(gate.kind, gate.bar)}" for gate in config.gates}


def asking(config: Config, names: Iterable[str]) -> list[str]:
    """What is not shown of the ceilings that ask for people, in words; `names` as eval/kind."""
    bars = {f"{gate.eval}/{gate.kind}": gate.bar for gate in config.gates}
    told = []
    for name in names:
        evaluation, _, kind = name.rpartition("/")
        told.append(plain(f"{evaluation} is not shown to be {_claim(kind, bars.get(name))}", MAX_LINE))
    return told


def line(gate: GateResult) -> str:
    """What a gate's test came to, in a line."""
    evaluation, _, kind = gate.name.rpartition("/")
    kind, _, policy = kind.partition("@")
    evaluation = (evaluation or gate.name) + (f" (policy {policy})" if policy else "")
    claim = _claim(kind, gate.theta if kind == "floor" else abs(gate.theta))
    seen, bound = _seen(gate, kind)
    error = f"with error at most {_up(_alpha(gate))}"
    if gate.verdict == "pass":
        return plain(f"{evaluation}: {claim} ({seen}{bound}), {error}", MAX_LINE)
    after = "given up after" if gate.verdict == "fail" else "after"
    told = f"not shown: {evaluation} is {claim}, {after} {_items(gate.n)}"
    told += f" ({seen}{bound}{f' {error}' if bound else ''})" if seen else ""
    return plain(told + ("; people decide" if kind == "ceiling" else ""), MAX_LINE)


def unshown(result: TestResult) -> list[str]:
    """The lines of the gates that stopped a candidate: those that failed, or else all that were not shown."""
    failed = [gate for gate in result.gates if gate.verdict == "fail"]
    return [line(gate) for gate in failed or result.gates if gate.verdict != "pass"]


def _claim(kind: str, bar: float | None) -> str:
    asked = CLAIM.get(kind, "beyond its bar")
    if bar is None or kind == "improve":
        return asked
    if kind == "rare":
        return f"failing more seldom than {bar:g}"
    return asked.replace("by the margin", f"by {bar:g}") if "by the margin" in asked else _of(asked, bar)


def _of(asked: str, bar: float) -> str:
    return f"{asked.replace('its', 'the')} {bar:g}"


def _seen(gate: GateResult, kind: str) -> tuple[str, str]:
    """What was seen, and the bound that follows from it; nothing of no item."""
    if gate.mean is None:
        return "", ""
    low, high = gate.interval
    if kind == "rare":
        return (
            f"{gate.losses:,} failure{'' if gate.losses == 1 else 's'} in {gate.n:,}",
            f", upper bound {_up(0.0 - low)}",
        )
    if kind == "floor":
        return f"{gate.mean:.3g} on average over {_items(gate.n)}", f", lower bound {_down(low)}"
    if kind == "ceiling":
        return f"{0.0 - gate.mean:.3g} on average over {_items(gate.n)}", f", upper bound {_up(0.0 - low)}"
    if kind in ("improve", "parent", "anchor"):
        return f"{gate.wins:,} better, {gate.losses:,} worse and {gate.ties:,} the same of {gate.n:,}", ""
    return f"{_items(gate.n)}", f", between {_down(low)} and {_up(high)}"


def _items(count: int) -> str:
    return f"{count:,} item{'' if count == 1 else 's'}"


def _alpha(gate: GateResult) -> float:
    return math.exp(-gate.threshold) if gate.threshold > 0 else 1.0


def _up(value: float) -> str:
    """Two digits, and not less than the value."""
    return _rounded(value, _UP)


def _down(value: float) -> str:
    """Two digits, and not more than the value."""
    return _rounded(value, _DOWN)


def _rounded(value: float, way: Context) -> str:
    # to twelve digits first: what a logarithm and its exponential add to 0.001 is no reason to say 0.0011
    return f"{way.create_decimal(f'{value:.12g}').normalize():g}"
