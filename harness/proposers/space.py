"""The search space: the knobs of a Recipe, read from its JSON schema.

A knob is a scalar field of the subject's `Recipe`. Its range comes from pydantic's own constraints
(`ge`, `gt`, `le`, `lt`, `multiple_of`), its choices from `Literal` or an enum, its group and scale from
`json_schema_extra={"group": "architecture" | "training", "scale": "log" | "linear"}` (training and linear
where nothing is said), and what it depends on from `json_schema_extra={"when": {"convolutions": [1, 2]}}`: the knob
means something only while each of those has one of these values. A knob that means nothing keeps its value and is
not searched.

The schema was written by the candidate's code, so nothing in it is trusted: what cannot be read as a
range or a choice becomes a knob of type `other`, which is never searched and whose values are left for the
worker to judge.

A condition is the author's word, so one that contradicts itself is an error: an unknown knob, a circle, a value
that the other knob never has.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from typing_extensions import TypeIs

from harness.errors import SubjectError
from harness.records import Record

__all__ = [
    "MAX_KNOBS",
    "Group",
    "Knob",
    "Scalar",
    "active",
    "direction",
    "options",
    "ordered",
    "read_space",
    "same",
    "snapped",
    "span",
    "uniform",
]

Scalar: TypeAlias = bool | int | float | str | None
"""What a knob may be set to."""

Group: TypeAlias = Literal["architecture", "training"]
"""What a knob shapes: the network, or how it is trained."""

MAX_KNOBS = 256
"""A Recipe with more scalar fields than this is refused."""

MAX_CHOICES = 256
FEW = 8
"""A whole number with at most so many values is searched like a choice that has an order."""

_EXACT = 2**53 - 1


class Knob(Record):
    """One knob: its group, its type, and the values that it admits (`low` and `high` inclusive)."""

    name: str
    group: Group
    type: Literal["int", "float", "bool", "choice", "other"]
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: list[Scalar] = []
    when: dict[str, list[Scalar]] = {}
    """The values of other knobs with which it means something; none: with all."""

    @property
    def searchable(self) -> bool:
        """Whether a search can draw values: two bounds apart, or two choices."""
        if self.type in ("int", "float"):
            return self.low is not None and self.high is not None and self.low < self.high
        return self.type == "bool" or (self.type == "choice" and len(self.choices) > 1)

    def admits(self, value: Scalar) -> bool:
        """Whether the value has the knob's type and lies within its declared range or choices."""
        if self.type == "other":
            return True
        if self.type == "bool":
            return isinstance(value, bool)
        if self.type == "choice":
            return any(same(value, choice) for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.type == "int" and not isinstance(value, int):
            return False
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            return False
        return self.step is None or self.type == "float" or math.fmod(value, self.step) == 0


def same(left: Any, right: Any) -> bool:
    """Whether two JSON values are the same: 1 and 1.0 are (JSON has one kind of number), 1 and true are not."""
    if isinstance(left, bool) or isinstance(right, bool):
        return isinstance(left, bool) and isinstance(right, bool) and left == right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    return bool(left == right)


def read_space(schema: Mapping[str, Any]) -> dict[str, Knob]:
    """Read the knobs of a Recipe, in the order in which they stand there, from `Recipe.model_json_schema()`.

    Raises SubjectError when the schema describes no object, or one with more than MAX_KNOBS fields, or a condition that
    contradicts itself.
    """
    fields = schema.get("properties", {})
    if schema.get("type") != "object" or not isinstance(fields, Mapping):
        raise SubjectError("the Recipe's JSON schema describes no object", remedy="make Recipe a pydantic BaseModel")
    if len(fields) > MAX_KNOBS:
        raise SubjectError(f"a Recipe of {len(fields)} fields, where at most {MAX_KNOBS} are read")
    try:
        space = {str(name): _knob(str(name), field, schema) for name, field in fields.items()}
    except (
        ArithmeticError,
        TypeError,
        ValueError,
    ) as error:  # a schema is a candidate's word: any number may stand in it
        raise SubjectError(f"the Recipe's JSON schema cannot be read: {error}") from error
    for name, knob in space.items():
        _check_condition(name, knob, space)
    return space


def active(space: Mapping[str, Knob], recipe: Mapping[str, Any]) -> dict[str, Knob]:
    """Return the knobs that mean something in a recipe: their conditions hold, and so do those of what these name."""
    found: dict[str, bool] = {}

    def means(name: str) -> bool:
        if name not in found:
            knob = space[name]
            found[name] = all(
                any(same(recipe.get(other), value) for value in values) and means(other)
                for other, values in knob.when.items()
                if other in space  # a part of a space may be asked about
            )
        return found[name]

    return {name: knob for name, knob in space.items() if means(name)}


def options(knob: Knob) -> list[Scalar]:
    """Return all values of a knob that has few: a choice, a boolean, a short range of whole numbers; else nothing."""
    if knob.type == "bool":
        return [False, True]
    if knob.type == "int" and knob.low is not None and knob.high is not None:
        step = knob.step or 1
        if (knob.high - knob.low) / step < FEW and float(step).is_integer():
            return list(range(int(knob.low), int(knob.high) + 1, int(step)))
    return list(knob.choices)


def ordered(knob: Knob) -> list[int | float]:
    """Return a knob's options in order where all of them are numbers, else nothing."""
    every = options(knob)
    numbers = [value for value in every if isinstance(value, int | float) and not isinstance(value, bool)]
    return sorted(numbers) if len(numbers) == len(every) else []


def direction(knob: Knob, old: Scalar, new: Scalar) -> int:
    """Return 1 where the value grew, -1 where it shrank, 0 where it stayed or has no order."""
    if knob.type == "choice" and not ordered(knob):
        return 0
    if not isinstance(old, int | float) or not isinstance(new, int | float):
        return 0
    return (new > old) - (new < old)


def snapped(knob: Knob, target: Scalar, present: Scalar) -> Scalar:
    """Bring a number into the knob's range and grid; a step away from `present` is a whole one at least.

    Floats keep three significant digits: what people review should be readable. Other values come back as they are.
    """
    if knob.type not in ("int", "float") or isinstance(target, bool) or not isinstance(target, int | float):
        return target
    low = -math.inf if knob.low is None else knob.low
    high = math.inf if knob.high is None else knob.high
    grid = knob.step or (1.0 if knob.type == "int" else None)
    if grid is None:
        rounded = float(f"{target:.3g}")
        return rounded if low <= rounded <= high else float(min(max(target, low), high))
    if isinstance(present, int | float) and target != present:
        target = max(target, present + grid) if target > present else min(target, present - grid)
    start = low if math.isfinite(low) else 0.0
    steps = round((target - start) / grid)
    if math.isfinite(high):
        steps = min(steps, math.floor((high - start) / grid + 1e-9))
    if math.isfinite(low):
        steps = max(steps, 0)
    value = start + steps * grid
    return round(value) if knob.type == "int" else value


def span(knob: Knob) -> tuple[float, float]:
    """Return the range in which a number with two bounds is searched: of a logarithm, at most its upper six decades.

    A bound such as `gt=0` admits numbers so small that most of the logarithm would be spent on them.
    """
    low, high = knob.low or 0.0, knob.high or 0.0
    if knob.log and low < high * 1e-6:
        low = math.ceil(high * 1e-6) if knob.type == "int" else high * 1e-6
    return low, high


def uniform(rng: random.Random, knob: Knob) -> Scalar:
    """Draw from the range of a number with two bounds, evenly on its scale."""
    low, high = span(knob)
    drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if knob.log else rng.uniform(low, high)
    return snapped(knob, drawn, drawn)


def _knob(name: str, field: Any, schema: Mapping[str, Any]) -> Knob:
    described = _resolve(field, schema)
    knob = _described(name, described)
    when = _condition(name, described)
    return knob.model_copy(update={"when": when}) if when else knob


def _described(name: str, described: Mapping[str, Any]) -> Knob:
    group: Group = "architecture" if described.get("group") == "architecture" else "training"
    kind = described.get("type")
    choices = described.get("enum")
    if isinstance(choices, list):
        if 1 <= len(choices) <= MAX_CHOICES and all(map(_is_scalar, choices)):
            return Knob(name=name, group=group, type="choice", choices=choices)
    elif "const" in described:
        if _is_scalar(described["const"]):
            return Knob(name=name, group=group, type="choice", choices=[described["const"]])
    elif kind == "boolean":
        return Knob(name=name, group=group, type="bool")
    elif kind == "integer":
        return _number(name, group, described, whole=True)
    elif kind == "number":
        return _number(name, group, described, whole=False)
    return Knob(name=name, group=group, type="other")


def _condition(name: str, described: Mapping[str, Any]) -> dict[str, list[Scalar]]:
    when = described.get("when")
    if when is None:
        return {}
    if not isinstance(when, Mapping) or not all(
        isinstance(values, list) and 1 <= len(values) <= MAX_CHOICES and all(map(_is_scalar, values))
        for values in when.values()
    ):
        raise SubjectError(
            f"the condition of the knob {name!r} is no mapping of knobs to lists of values",
            remedy='write json_schema_extra={"when": {"layers": [1, 2]}}',
        )
    return {str(other): list(values) for other, values in when.items()}


def _check_condition(name: str, knob: Knob, space: Mapping[str, Knob]) -> None:
    """Refuse a condition that no recipe can tell: an unknown knob, a value that it never has, a circle."""
    for other, values in knob.when.items():
        if other not in space:
            raise SubjectError(f"the knob {name!r} depends on {other!r}, which the Recipe does not have")
        for value in values:
            if not space[other].admits(value):
                raise SubjectError(f"the knob {name!r} depends on {other!r} being {value!r}, which it never is")
    seen, waiting = set[str](), list(knob.when)
    while waiting:
        other = waiting.pop()
        if other == name:
            raise SubjectError(f"the knob {name!r} depends on itself")
        if other not in seen:
            seen.add(other)
            waiting += space[other].when if other in space else ()


def _number(name: str, group: Group, described: Mapping[str, Any], *, whole: bool) -> Knob:
    low, high = _bound(described, whole=whole, upper=False), _bound(described, whole=whole, upper=True)
    step = described.get("multipleOf")
    step = float(step) if _is_number(step) and step > 0 else None
    if step is not None and low is not None:
        low = math.ceil(low / step) * step
    if step is not None and high is not None:
        high = math.floor(high / step) * step
    log = described.get("scale") == "log" and low is not None and low > 0
    return Knob(name=name, group=group, type="int" if whole else "float", low=low, high=high, step=step, log=log)


def _bound(described: Mapping[str, Any], *, whole: bool, upper: bool) -> float | None:
    """Return the tightest bound, made inclusive: the next integer, or the next double."""
    bounds: list[float] = []
    edge = described.get("maximum" if upper else "minimum")
    if _is_number(edge):
        bounds.append((math.floor(edge) if upper else math.ceil(edge)) if whole else edge)
    edge = described.get("exclusiveMaximum" if upper else "exclusiveMinimum")
    if _is_number(edge):
        if whole:
            bounds.append(math.ceil(edge) - 1 if upper else math.floor(edge) + 1)
        else:
            bounds.append(math.nextafter(edge, -math.inf if upper else math.inf))
    if not bounds:
        return None
    return float(min(bounds) if upper else max(bounds))


def _resolve(field: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Follow one local reference (an enum's), the field's own words winning."""
    if not isinstance(field, Mapping):
        return {}
    reference = field.get("$ref")
    alone = field.get("allOf")
    if reference is None and isinstance(alone, list) and len(alone) == 1 and isinstance(alone[0], Mapping):
        reference = alone[0].get("$ref")
    definitions = schema.get("$defs", {})
    if isinstance(reference, str) and isinstance(definitions, Mapping):
        target = definitions.get(reference.removeprefix("#/$defs/"))
        if isinstance(target, Mapping):
            return {**target, **field}
    return dict(field)


def _is_number(value: Any) -> TypeIs[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) <= _EXACT


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | str) or _is_number(value)
