"""The items of a subject: what is trained on, what is tried on, and what is held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from harness.errors import EvaluatorError, SubjectError
from harness.evals.contamination import NearDuplicates, refuse_alike

Array = npt.NDArray[Any]
"""Any numpy array."""

Raw = Sequence[Any] | Array
"""Unlabelled raw items: a list (of strings, of JSON-like values) or an array whose first axis counts items."""

Inputs = Mapping[str, Array]
"""Model inputs by name; the first axis of each counts rows."""

Split = Literal["development", "vault"]
"""What proposers may see, and what is held out."""

MAIN = "items"
"""The name of the population that `Data.development` and `Data.vault` are of."""
TOLD = 3
"""So many places of repeated items are told."""

_PLAIN = "biuf"
"""The dtype kinds that become tensors: booleans, integers, floats."""


def item_key(item: Any) -> bytes:
    """Name a raw item by its content: 32 bytes of SHA-256, type and shape included.

    Strings, bytes, numbers, arrays and nested lists or dicts of them have a key; anything else raises
    SubjectError, because its identity could not be told.
    """
    if isinstance(item, str):
        return hashlib.sha256(b"s" + item.encode("utf-8", "surrogatepass")).digest()
    if isinstance(item, bytes):
        return hashlib.sha256(b"b" + item).digest()
    if isinstance(item, (np.ndarray, np.generic)):
        array = np.ascontiguousarray(item)
        if array.dtype.hasobject:
            raise SubjectError(
                "a raw item holds Python objects in an array", remedy="use lists, strings or plain dtypes"
            )
        head = f"a{array.dtype.str}{array.shape}".encode()
        return hashlib.sha256(head + array.tobytes()).digest()
    try:
        text = json.dumps(item, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SubjectError(
            f"a raw item of type {type(item).__name__} has no key ({error})",
            remedy="raw items are strings, bytes, arrays, or lists and dicts of numbers and strings",
        ) from None
    return hashlib.sha256(b"j" + text.encode("utf-8", "surrogatepass")).digest()


def _keys(raw: Iterable[Any]) -> set[bytes]:
    return {item_key(item) for item in raw}


def rows_of(arrays: Mapping[str, Array], what: str) -> int:
    """Count the rows of named arrays; SubjectError unless all are plain, finite and equally long."""
    if not isinstance(arrays, Mapping) or not arrays:
        raise SubjectError(f"{what} must be a dict of named arrays, and not an empty one")
    counts = set()
    for name, array in arrays.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray) or array.ndim == 0:
            raise SubjectError(f"{what}[{name!r}] must be a numpy array whose first axis counts rows")
        if array.dtype.kind not in _PLAIN:
            raise SubjectError(
                f"{what}[{name!r}] has dtype {array.dtype}; booleans, integers and floats become tensors"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SubjectError(f"{what}[{name!r}] holds NaN or infinity")
        counts.add(len(array))
    if len(counts) != 1:
        raise SubjectError(f"{what}: arrays of different lengths: { ({n: len(a) for n, a in arrays.items()}) }")
    return int(counts.pop())


@dataclass(frozen=True)
class Items:
    """Labelled raw items. `labels` is any plain array whose first axis counts items; models never see it."""

    raw: Raw
    labels: Array

    def __len__(self) -> int:
        """Count the items."""
        return len(self.raw)

    def take(self, indices: Sequence[int] | Array) -> Items:
        """Items at these places, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        raw: Raw = self.raw[chosen] if isinstance(self.raw, np.ndarray) else [self.raw[i] for i in chosen.tolist()]
        return Items(raw=raw, labels=self.labels[chosen])

    def check(self, what: str) -> None:
        """SubjectError unless there are items, each with a label."""
        if not isinstance(self.labels, np.ndarray) or self.labels.ndim == 0 or self.labels.dtype.hasobject:
            raise SubjectError(f"{what}.labels must be a numpy array of plain values, one row an item")
        if not hasattr(self.raw, "__len__") or not hasattr(self.raw, "__getitem__"):
            raise SubjectError(f"{what}.raw must be a list or an array")
        if len(self.raw) == 0:
            raise SubjectError(f"{what} is empty", remedy="a test without items could promote nothing")
        if len(self.raw) != len(self.labels):
            raise SubjectError(f"{what} has {len(self.raw)} raw items but {len(self.labels)} labels")
        if self.labels.dtype.kind == "f" and not np.isfinite(self.labels).all():
            raise SubjectError(f"{what}.labels holds NaN or infinity")


@dataclass(frozen=True)
class Population:
    """Items of one kind, of which some evals are: words, say, or prompts. Neither half may be empty."""

    development: Items
    vault: Items


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
    vault        held-out items; their labels never leave the evaluator
    output       the shape of one row of answers, say (24,): `predict` returns [rows, *output] float32
    train_raw    the raw items behind `train`, where there are such; then they too are checked against both others
    near_duplicates   when texts of two of the three are too much alike; None compares content exactly, and no more
    also         items of other populations by name, for evals that are not about `development` and `vault`

    All held-out items stand in one order, those of `vault` first, and are spent together: a test that reads so many of
    them reads each population's share. Items may be added at the end, so of the last population only.
    """

    train: Mapping[str, Array]
    development: Items
    vault: Items
    output: tuple[int, ...]
    train_raw: Raw | None = None
    near_duplicates: NearDuplicates | None = field(default_factory=NearDuplicates)
    also: Mapping[str, Population] = field(default_factory=dict)

    @property
    def populations(self) -> dict[str, Population]:
        """All populations by name, in the order in which their items are numbered."""
        return {MAIN: Population(self.development, self.vault), **self.also}

    def split(self, name: Split) -> dict[str, Items]:
        """One half of every population."""
        return {each: getattr(population, name) for each, population in self.populations.items()}

    def count(self, name: Split) -> int:
        """How many items one half has, of all populations."""
        return sum(len(items) for items in self.split(name).values())

    def choose(self, name: Split, ids: Sequence[int] | None = None) -> dict[str, Chosen]:
        """The items of these numbers, by population, in this order; all of them where none are named.

        Raises SubjectError for a number that no item has.
        """
        total = self.count(name)
        if ids is not None and len(set(ids)) < len(ids):
            raise EvaluatorError(f"{len(ids) - len(set(ids))} of the {name} items are asked for twice")
        wanted = np.arange(total) if ids is None else np.asarray(ids, dtype=np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < total):
            raise SubjectError(f"items are asked for that there are not: {total} in {name}")
        chosen, first = {}, 0
        for population, items in self.split(name).items():
            places = np.flatnonzero((wanted >= first) & (wanted < first + len(items)))
            chosen[population] = Chosen(places, items.take(wanted[places] - first))
            first += len(items)
        return chosen

    def check(self) -> None:
        """SubjectError unless shapes agree and nothing held out is seen elsewhere."""
        rows_of(self.train, "train")
        for name, population in self.populations.items():
            of = "" if name == MAIN else f"also[{name!r}]."
            population.development.check(f"{of}development")
            population.vault.check(f"{of}vault")
            if name in self.also and (name == MAIN or not name.isidentifier()):
                raise SubjectError(f"{name!r} is no name for another population", where="guards.py: load()")
        if not isinstance(self.output, tuple) or not all(isinstance(n, int) and n > 0 for n in self.output):
            raise SubjectError(f"output must be a tuple of positive integers, not {self.output!r}")
        development, vault = (
            {key for items in self.split(name).values() for key in _keys(items.raw)}
            for name in ("development", "vault")
        )
        for name, items in self.split("vault").items():
            refuse_repeated(items.raw, "vault" if name == MAIN else f"also[{name!r}].vault")
        refuse_shared(development, vault, "development", "vault")
        if self.train_raw is not None:
            train = _keys(self.train_raw)
            refuse_shared(train, vault, "training", "vault")
            refuse_shared(train, development, "training", "development")
        if self.near_duplicates is not None:
            seen = {} if self.train_raw is None else {"training": self.train_raw}
            for each in self.populations.values():
                held_out = {"development": each.development.raw, "vault": each.vault.raw}
                refuse_alike({**seen, **held_out}, self.near_duplicates)

    def check_added(self, before: int) -> None:
        """SubjectError where a held-out item from place `before` on repeats another one, or its text nearly does.

        An item that was retired and comes back would be asked again, after its answer was revealed.
        """
        first: dict[bytes, int] = {}
        held_out = [item for items in self.split("vault").values() for item in items.raw]
        for place, item in enumerate(held_out):
            other = first.setdefault(item_key(item), place)
            if place >= before and other != place:
                raise SubjectError(
                    f"the added vault item {place} is vault item {other} again",
                    where="guards.py: load()",
                    remedy="add items that were not held out before",
                )
        if self.near_duplicates is not None:
            refuse_alike({"vault": held_out[:before], "added": held_out[before:]}, self.near_duplicates)


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
