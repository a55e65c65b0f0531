"""Raw items and their labels, and the name that each has by its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import SubjectError

Array = npt.NDArray[Any]
"""Any numpy array."""

Raw = Sequence[Any] | Array
"""Unlabelled raw items: a list (of strings, of JSON-like values) or an array whose first axis counts items."""

Inputs = Mapping[str, Array]
"""Model inputs by name; the first axis of each counts rows."""

Encode = Callable[[Raw, np.random.Generator], Inputs]
"""What a view is made of: raw items to model inputs. A function that is tagged as a view is one."""

MAIN = "items"
"""The name of the population that `Data.development` and `Data.vault` are of."""

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
    except (TypeError, ValueError, RecursionError) as error:
        raise SubjectError(
            f"a raw item of type {type(item).__name__} has no key ({error})",
            remedy="raw items are strings, bytes, arrays, or lists and dicts of numbers and strings",
        ) from None
    return hashlib.sha256(b"j" + text.encode("utf-8", "surrogatepass")).digest()


def keys_of(raw: Iterable[Any]) -> set[bytes]:
    """Name raw items by their contents, see `item_key`."""
    return {item_key(item) for item in raw}


def _plain_array(value: Any) -> bool:
    """Whether a value is an array of numpy's that says all it holds: what lies beneath a mask would be used unseen."""
    return isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)


def rows_of(arrays: Mapping[str, Array], what: str) -> int:
    """Count the rows of named arrays; SubjectError unless all are plain, finite and equally long."""
    if not isinstance(arrays, Mapping) or not arrays:
        raise SubjectError(f"{what} must be a dict of named arrays, and not an empty one")
    counts = set()
    for name, array in arrays.items():
        if not isinstance(name, str) or not _plain_array(array) or array.ndim == 0:
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


def encoded(inputs: Encode, raw: Raw) -> dict[str, Array]:
    """The clean inputs of raw items. A view's randomness, where it has some, is the same each time."""
    clean = dict(inputs(raw, np.random.default_rng(0)))
    rows_of(clean, "what inputs() gave")
    return clean


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
        if not _plain_array(self.labels) or self.labels.ndim == 0 or self.labels.dtype.hasobject:
            raise SubjectError(f"{what}.labels must be a numpy array of plain values, one row an item")
        if not hasattr(self.raw, "__len__") or not hasattr(self.raw, "__getitem__"):
            raise SubjectError(f"{what}.raw must be a list or an array")
        if len(self.raw) == 0:
            raise SubjectError(f"{what} is empty", remedy="a test without items could promote nothing")
        if len(self.raw) != len(self.labels):
            raise SubjectError(f"{what} has {len(self.raw)} raw items but {len(self.labels)} labels")
        if self.labels.dtype.kind == "f" and not np.isfinite(self.labels).all():
            raise SubjectError(f"{what}.labels holds NaN or infinity")
