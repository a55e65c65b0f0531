"""Held-out items that are made when they are asked for: nobody has seen one before, and none is asked twice."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.errors import SubjectError
from harness.evals.items import Items, item_key

SAMPLE = 64
"""So many generated items, under a seed that everybody knows, stand for the generator in the data's digest."""
REDRAWS = 100
"""So often an item is drawn anew that stands among those that are known."""


@dataclass(frozen=True)
class Generated:
    """Held-out items that are made when they are asked for, each from a secret seed of its own; none is asked twice.

    capacity  how many there may be, in all
    make      `make(rng: numpy.random.Generator) -> (raw item, label)`: it draws from `rng` alone, and each item from
              the same law, which must be that of the development items
    """

    capacity: int
    make: Callable[[np.random.Generator], tuple[Any, Any]]

    def __len__(self) -> int:
        """Count the items that there may be."""
        return self.capacity

    def draw(self, secret: str, numbers: Iterable[int], known: set[bytes]) -> Items:
        """Make the items of these numbers under a secret. One that is among `known` is drawn anew.

        So they are independent draws from the generator's law, but for the known items. SubjectError where it hardly
        draws others.
        """
        drawn = [self._one(secret, int(number), known) for number in numbers]
        raw: Any = [item for item, _ in drawn]
        if drawn and all(isinstance(item, np.ndarray) for item in raw):
            shapes = {(item.shape, item.dtype) for item in raw}
            raw = np.stack(raw) if len(shapes) == 1 else raw
        try:
            return Items(raw, np.asarray([label for _, label in drawn]))
        except ValueError as error:
            raise SubjectError(
                f"a generator gave labels of several shapes: {error}", where="guards.py: load()"
            ) from error

    def _one(self, secret: str, number: int, known: set[bytes]) -> tuple[Any, Any]:
        for attempt in range(REDRAWS):
            seed = hmac.digest(secret.encode(), f"item {number} {attempt}".encode(), "sha256")
            made = self.make(np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big"))))
            if not isinstance(made, tuple) or len(made) != 2:
                raise SubjectError("a generator gave no pair of a raw item and its label", where="guards.py: load()")
            if item_key(made[0]) not in known:
                return made
        raise SubjectError(
            f"a generator drew {REDRAWS} items in a row that stand among the development or training items",
            where="guards.py: load()",
            remedy="let it draw from more, or keep fewer of them",
        )

    def sample(self, known: set[bytes]) -> Items:
        """Make the items that stand for the generator: nobody is ever asked them."""
        return self.draw("sample", range(SAMPLE), known)

    def check(self, what: str, known: set[bytes]) -> None:
        """SubjectError unless it makes labelled items, and the same ones again."""
        if type(self.capacity) is not int or not 0 < self.capacity < 1 << 40 or not callable(self.make):
            raise SubjectError(f"{what} needs a capacity, of at most 2^40 items, and a function `make(rng)`")
        first, again = self.sample(known), self.sample(known)
        first.check(what)
        keys = [[item_key(item) for item in items.raw] for items in (first, again)]
        if keys[0] != keys[1] or first.labels.tobytes() != again.labels.tobytes():
            raise SubjectError(
                f"{what} makes another item of the same seed", remedy="draw from the rng that `make` is given, alone"
            )
