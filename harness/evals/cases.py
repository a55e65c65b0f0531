"""Cases of a property as JSON: what a search has drawn, kept so that it can be put to every later candidate.

What comes back is what went in: types, dtypes, shapes and bits. So a check is only ever given a case that has been
through here, and a stored one is judged as it was when it was found. Floats are tagged, for 1.0 would come back as 1.

Kept are None, booleans, integers, floats, strings, bytes, numpy arrays and scalars of plain dtypes, and lists, tuples
and dicts of these.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from harness.canonical import Json, canonical_bytes
from harness.errors import CanonicalError, SubjectError

MAX_CASE = 256 * 1024
"""Bytes of a case as JSON."""
_WORDS = 240
_EXACT = 2**53


def encode(case: Any, most: int = MAX_CASE) -> Json:
    """The JSON of a case. SubjectError for a case that has none, or has more than `most` bytes."""
    value = _encoded(case)
    try:
        size = len(canonical_bytes(value))
    except CanonicalError as error:
        raise SubjectError(f"a case that cannot be kept: {error}") from None
    if size > most:
        raise SubjectError(f"a case of {size} bytes; at most {most} are kept")
    return value


def decode(value: Json) -> Any:
    """The case of which this is the JSON, made anew. SubjectError for other JSON."""
    try:
        return _decoded(value)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise SubjectError(f"a stored case is malformed: {type(error).__name__}: {error}") from error


def words(case: Any) -> str:
    """A case in words: bounded, and not all of a large array."""
    with np.printoptions(threshold=32, edgeitems=4, linewidth=_WORDS, precision=4):
        text = " ".join(repr(case).split())
    return text if len(text) <= _WORDS else text[: _WORDS - 1] + "…"


def _encoded(case: Any) -> Json:
    match case:
        case None | bool() | str():
            return case
        case np.ndarray() | np.generic():
            array = np.asarray(case)
            if array.dtype.kind not in "biuf":
                raise SubjectError(f"a case holds an array of {array.dtype}: booleans, integers and floats are kept")
            kind = "array" if isinstance(case, np.ndarray) else "scalar"
            data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
            return {kind: {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}}
        case int():
            return case if abs(case) < _EXACT else {"int": str(case)}
        case float():
            return {"float": repr(case)}
        case bytes():
            return {"bytes": base64.b64encode(case).decode()}
        case list():
            return [_encoded(each) for each in case]
        case tuple():
            return {"tuple": [_encoded(each) for each in case]}
        case dict():
            return {"dict": [[_encoded(key), _encoded(each)] for key, each in case.items()]}
    raise SubjectError(
        f"a case holds a {type(case).__name__}, which cannot be kept",
        remedy="draw numbers, strings, arrays, and lists, tuples and dicts of them; make the rest of it in the check",
    )


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    match kind:
        case "array" | "scalar":
            array = np.frombuffer(base64.b64decode(held["data"]), dtype=np.dtype(held["dtype"])).reshape(held["shape"])
            return array.copy() if kind == "array" else array[()]
        case "int":
            return int(held)
        case "float":
            return float(held)
        case "bytes":
            return base64.b64decode(held)
        case "tuple":
            return tuple(_decoded(each) for each in held)
        case "dict":
            return {_decoded(key): _decoded(each) for key, each in held}
    raise ValueError(f"unknown kind {kind!r}")
