"""The data of a subject: what is trained on, what is tried on, and what is held out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from harness.errors import EvaluatorError, SubjectError
from harness.evals.contamination import NearDuplicates, refuse_alike
from harness.evals.generated import Generated
from harness.evals.items import MAIN, Array, Items, Raw, item_key, keys_of, rows_of

Split = Literal["development", "vault"]
"""What proposers may see, and what is held out."""

TOLD = 3
"""So many places of repeated items are told."""

MIXED = 100
"""The most items after which the mix of generated populations repeats itself."""


@dataclass(frozen=True)
class Population:
    """Items of one kind, of which some evals are: words, say, or prompts. Neither half may be empty."""

    development: Items
    vault: Items | Generated


@dataclass(frozen=True)
class Chosen:
    """The items of one population among a choice of items: `places` [m] int64 in the choice, rising, and the items."""

    places: npt.NDArray[np.int64]
    items: Items


@dataclass(frozen=True)
class Data:
    """What `load()` returns.

    train        named arrays for `train(model, data, …)`, all of one length; the build job gets them as tensors
    development  items that proposers may see in full
    vault        held-out items, whose labels never leave the evaluator; or how they are `Generated`
    output       the shape of one row of answers, say (24,): `predict` returns [rows, *output] float32
    train_raw    the raw items behind `train`, where there are such; then they too are checked against both others
    near_duplicates   when texts of two of the three are too much alike; None compares content exactly, and no more
    also         items of other populations by name, for evals that are not about `development` and `vault`

    All held-out items stand in one order, those of `vault` first, and are spent together: a test that reads so many of
    them reads each population's share. Items may be added at the end, so of the last population only.

    Either all held-out items are generated or none are. Where they are, populations take turns, each as often as its
    capacity has it; more may be made possible where the turns stay the same.
    """

    train: Mapping[str, Array]
    development: Items
    vault: Items | Generated
    output: tuple[int, ...]
    train_raw: Raw | None = None
    near_duplicates: NearDuplicates | None = field(default_factory=NearDuplicates)
    also: Mapping[str, Population] = field(default_factory=dict)

    @property
    def populations(self) -> dict[str, Population]:
        """All populations by name, in the order in which their items are numbered."""
        return {MAIN: Population(self.development, self.vault), **self.also}

    @property
    def generated(self) -> dict[str, Generated]:
        """How held-out items are made, by population; none where they are not."""
        return {name: each.vault for name, each in self.populations.items() if isinstance(each.vault, Generated)}

    def split(self, name: Split) -> dict[str, Items]:
        """One half of every population; SubjectError for held-out items that are not there but made."""
        halves = {each: getattr(population, name) for each, population in self.populations.items()}
        if any(isinstance(half, Generated) for half in halves.values()):
            raise SubjectError("held-out items that are generated are not there all at once")
        return halves

    def count(self, name: Split) -> int:
        """How many items one half has, of all populations."""
        return sum(len(getattr(population, name)) for population in self.populations.values())

    def choose(self, name: Split, ids: Sequence[int] | None = None, secret: str = "") -> dict[str, Chosen]:
        """The items of these numbers, by population, in this order; all of them where none are named.

        `secret`: under which held-out items are made, where they are generated. Raises SubjectError for a number that
        no item has.
        """
        total = self.count(name)
        if ids is not None and len(set(ids)) < len(ids):
            raise EvaluatorError(f"{len(ids) - len(set(ids))} of the {name} items are asked for twice")
        made = name == "vault" and bool(self.generated)
        if made and (ids is None or not secret):
            raise SubjectError("held-out items that are generated are made by number, and under a secret")
        wanted = np.arange(total) if ids is None else np.asarray(ids, dtype=np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < total):
            raise SubjectError(f"items are asked for that there are not: {total} in {name}")
        if made:
            return self._make(wanted, secret)
        chosen, first = {}, 0
        for population, items in self.split(name).items():
            places = np.flatnonzero((wanted >= first) & (wanted < first + len(items)))
            chosen[population] = Chosen(places, items.take(wanted[places] - first))
            first += len(items)
        return chosen

    def turns(self) -> dict[str, int]:
        """How many of a round of generated items are of each population: their capacities, in least terms."""
        capacities = {name: each.capacity for name, each in self.generated.items()}
        common = math.gcd(*capacities.values())
        return {name: capacity // common for name, capacity in capacities.items()}

    def known(self) -> set[bytes]:
        """The keys of development and training items: no generated item is one of them."""
        parts = [items.raw for items in self.split("development").values()]
        return {key for raw in (*parts, *([] if self.train_raw is None else [self.train_raw])) for key in keys_of(raw)}

    def _make(self, wanted: npt.NDArray[np.int64], secret: str) -> dict[str, Chosen]:
        turns, known = self.turns(), self.known()
        place = wanted % sum(turns.values())
        chosen, first = {}, 0
        for name, turn in turns.items():
            places = np.flatnonzero((place >= first) & (place < first + turn))
            chosen[name] = Chosen(places, self.generated[name].draw(f"{secret}/{name}", wanted[places], known))
            first += turn
        return chosen

    def check(self) -> None:
        """SubjectError unless shapes agree and nothing held out is seen elsewhere."""
        rows_of(self.train, "train")
        if not isinstance(self.also, Mapping) or not all(isinstance(each, Population) for each in self.also.values()):
            raise SubjectError("also must be a dict of Populations by name", where="guards.py: load()")
        if not isinstance(self.near_duplicates, NearDuplicates | None):
            raise SubjectError("near_duplicates must be NearDuplicates(…) or None", where="guards.py: load()")
        for name, population in self.populations.items():
            of = "" if name == MAIN else f"also[{name!r}]."
            population.development.check(f"{of}development")
            if not isinstance(population.vault, Generated):
                population.vault.check(f"{of}vault")
            if name in self.also and (name == MAIN or not name.isidentifier()):
                raise SubjectError(f"{name!r} is no name for another population", where="guards.py: load()")
        if not isinstance(self.output, tuple) or not all(type(n) is int and n > 0 for n in self.output):
            raise SubjectError(f"output must be a tuple of positive integers, not {self.output!r}")
        if self.generated:
            return self._check_generated()
        development, vault = (
            {key for items in self.split(name).values() for key in keys_of(items.raw)}
            for name in ("development", "vault")
        )
        for name, items in self.split("vault").items():
            refuse_repeated(items.raw, "vault" if name == MAIN else f"also[{name!r}].vault")
        refuse_shared(development, vault, "development", "vault")
        if self.train_raw is not None:
            train = keys_of(self.train_raw)
            refuse_shared(train, vault, "training", "vault")
            refuse_shared(train, development, "training", "development")
        if self.near_duplicates is not None:
            seen = {} if self.train_raw is None else {"training": self.train_raw}
            tried = self.split("development")
            for name, items in self.split("vault").items():
                for other, each in tried.items():  # what is tried of one population may be held out of another
                    parts = {_part(other, "development"): each.raw, _part(name, "vault"): items.raw}
                    refuse_alike({**(seen if other == name else {}), **parts}, self.near_duplicates)
        return None

    def _check_generated(self) -> None:
        if len(self.generated) != len(self.populations):
            raise SubjectError(
                "some held-out items are generated and some are not",
                where="guards.py: load()",
                remedy="generate those of every population, or of none",
            )
        if self.train_raw is not None:
            development = {key for items in self.split("development").values() for key in keys_of(items.raw)}
            refuse_shared(keys_of(self.train_raw), development, "training", "development")
        known = self.known()
        for name, generated in self.generated.items():
            generated.check("vault" if name == MAIN else f"also[{name!r}].vault", known)
        turns = self.turns()
        if sum(turns.values()) > MIXED:
            raise SubjectError(
                f"the capacities of the generated populations mix them in rounds of {sum(turns.values())} items",
                where="guards.py: load()",
                remedy=f"let their proportions be small numbers, {MIXED} in all: 2,000,000 to 1,000,000, say",
            )

    def check_added(self, before: int) -> None:
        """SubjectError where the text of a held-out item from place `before` on nearly repeats an earlier one's.

        One that was retired and comes back would be asked again, after its answer was revealed. `check` refuses copies.
        """
        held_out = [item for items in self.split("vault").values() for item in items.raw]
        if self.near_duplicates is not None:
            refuse_alike({"vault": held_out[:before], "added": held_out[before:]}, self.near_duplicates)


def _part(population: str, half: Split) -> str:
    return half if population == MAIN else f"also[{population!r}].{half}"


def refuse_repeated(raw: Iterable[Any], name: str) -> None:
    """SubjectError where an item stands twice: the tests count items as independent, and a copy is no evidence."""
    first: dict[bytes, int] = {}
    copies = []
    for place, item in enumerate(raw):
        before = first.setdefault(item_key(item), place)
        if before != place:
            copies.append((before, place))
    if copies:
        told = ", ".join(f"{place} is {before}" for before, place in copies[:TOLD])
        raise SubjectError(
            f"{len(copies)} of the {name} items stand there before: item {told}{', …' if copies[TOLD:] else ''}",
            where="guards.py: load()",
            remedy="drop duplicates in load(): each copy would count as one more independent item",
        )


def refuse_shared(a: set[bytes], b: set[bytes], a_name: str, b_name: str) -> None:
    """SubjectError where two sets of item keys meet."""
    shared = len(a & b)
    if shared:
        raise SubjectError(
            f"{shared} raw items stand both among the {a_name} items and in the {b_name} items",
            where="guards.py: load()",
            remedy="split by a hash of the raw item, and drop duplicates first",
        )
