"""Documents near what rules speak of: tried in the engine where neither structure nor the solver has an answer.

Each is an ordinary document in which some of the parts that the rules read have other values: their constants, the
neighbours of these, and the ends of what the schema allows. Which ones they are depends on the rules alone.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

from harness.base_document import base_document
from harness.policy_document import MAX_INTEGER, SHAPES, ListOf, MapOf, Message, Scalar, Shape, Stage
from harness.records import Kind
from harness.terms import RuleTerm


def probes(stage: Stage, kinds: Sequence[Kind], rules: Sequence[RuleTerm], count: int) -> Iterator[dict[str, Any]]:
    """Yield `count` documents."""
    rng = random.Random(0)  # noqa: S311 - no secret: the same documents each time
    values = _Values(rng, rules)
    paths = sorted({path for rule in rules for path in rule.reads})
    for _ in range(count if paths else 0):
        document = base_document(stage)
        for path in rng.sample(paths, rng.randint(1, min(3, len(paths)))):
            *parents, name = path.split(".")
            place, shape = document, SHAPES[stage]
            for parent in parents:
                place, shape = place[parent], _field(shape, parent)
            place[name] = values.any(_field(shape, name), place[name])
        document["proposal"]["kind"] = rng.choice(kinds)
        yield document


def _field(shape: Message, name: str) -> Any:
    return shape.fields[name]


class _Values:
    """Values of a shape, near the constants of rules."""

    def __init__(self, rng: random.Random, rules: Sequence[RuleTerm]) -> None:
        self._rng = rng
        constants = [t.value for rule in rules for t in rule.term.walk() if t.op == "const"]
        numbers = {float(value[1]) for value in constants if value[0] in ("int", "double")}
        texts = {value[1] for value in constants if value[0] == "string"}
        near = {
            n for x in numbers for n in (x, math.nextafter(x, math.inf), math.nextafter(x, -math.inf), 2 * x, x / 2)
        }
        self._doubles = sorted(near | {0.0, 0.5, 1.0, -1.0})
        whole = {int(x) + d for x in numbers if abs(x) < MAX_INTEGER / 4 for d in (-1, 0, 1)}
        twice = {d + n * int(x) for x in numbers if abs(x) < MAX_INTEGER / 4 for n in (2, 3) for d in (-1, 0, 1)}
        self._ints = sorted(whole | twice | {0, 1, 2, MAX_INTEGER})
        self._texts = sorted(
            texts | {text + "x" for text in texts} | {text[:-1] for text in texts} | {"", "a", "zz", "1"}
        )

    def any(self, shape: Shape, default: Any) -> Any:
        """Return a value of a shape; a message is like the one that stands there."""
        rng = self._rng
        if isinstance(shape, Scalar):
            return self._scalar(shape)
        if isinstance(shape, Message):
            made = copy.deepcopy(default)
            name = rng.choice(list(shape.fields))
            made[name] = self.any(shape.fields[name], made[name])
            return made
        if isinstance(shape, ListOf):
            return [self._item(shape.item) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
        return self._map(shape)

    def _map(self, shape: MapOf) -> dict[str, Any]:
        few = self._rng.sample(self._texts, min(self._rng.randint(0, 3), len(self._texts)))
        return {key: self._item(shape.item) for key in few}

    def _item(self, shape: Shape) -> Any:
        if isinstance(shape, Message):
            return {name: self._item(part) for name, part in shape.fields.items()}
        return self.any(shape, None)

    def _scalar(self, shape: Scalar) -> Any:
        if shape.kind == "bool":
            return self._rng.random() < 0.5
        if shape.kind == "string":
            return self._rng.choice(shape.choices or self._texts)
        low = -math.inf if shape.low is None else shape.low
        high = math.inf if shape.high is None else shape.high
        value = self._rng.choice(self._ints if shape.kind == "int" else self._doubles)
        return type(value)(min(max(value, low), high))
