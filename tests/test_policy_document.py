"""Facts about the documents that rules read."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import CanonicalError
from harness.policy_document import DOCUMENTS, MAX_ITEMS, SHAPES, STAGES, canonicalise, descriptor
from harness.policy_test import base_document

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.just(object()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every part of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [here, *(path for key, item in items for path in paths(item, (*here, key)))]


ALL_PATHS = paths(base_document("decide"))


def put(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> Any:
    """Return the document with one part replaced."""
    if not path:
        return value
    place: Any = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return document


@pytest.mark.parametrize("stage", STAGES)
def test_base_documents_are_canonical_and_records(stage: Any) -> None:
    """The documents that tests start from are their own canonical form and validate as records."""
    document = base_document(stage)
    assert canonicalise(stage, document) == document
    assert DOCUMENTS[stage].parse(document).json_value() == document


def test_the_copy_shares_nothing() -> None:
    """The canonical form is a copy: what happens to the original later does not reach a rule."""
    document = base_document("screen")
    canonical = canonicalise("screen", document)
    document["code"]["packages"].append("os")
    assert "os" not in canonical["code"]["packages"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("proposal", "proposer"), "alice\0evil", "NUL"),
        (("proposal", "proposer"), "\ud800", "surrogate"),
        (("gates",), {"a\0b": base_document("decide")["gates"]["accuracy"]}, "NUL"),
        (("gates", "accuracy", "mean"), math.nan, "finite"),
        (("gates", "accuracy", "mean"), math.inf, "finite"),
        (("gates", "accuracy", "mean"), "0.5", "must be a number"),
        (("gates", "accuracy", "mean"), True, "must be a number"),
        (("gates", "accuracy", "n"), 2**63, "2\\^53"),
        (("gates", "accuracy", "n"), 10**300, "2\\^53"),
        (("gates", "accuracy", "mean"), 10**400, "2\\^53"),
        (("gates", "accuracy", "n"), 1.0, "must be an integer"),
        (("gates", "accuracy", "n"), True, "must be an integer"),
        (("gates", "accuracy", "n"), -1, "range"),
        (("gates", "accuracy", "verdict"), "ok", "must be one of"),
        (("candidate", "parameters"), 0, "range"),
        (("code", "parses"), 1, "true or false"),
        (("code", "packages"), ("torch",), "must be a list"),
        (("code", "packages"), ["x"] * (MAX_ITEMS + 1), "items"),
        (("code", "problem"), "x" * 30_000, "longer"),
        (("code", "packages"), ["x" * 19_000] * 100, "characters of text"),
        (("gates",), [], "must be a map"),
        (("proposal",), None, "must be a map"),
        ((), None, "must be a map"),
        (("proposal", "trusted"), True, "not a field"),
        (("proposal", 7), True, "must be a string"),
    ],
)
def test_what_the_evaluator_would_misread_is_refused(path: tuple[Any, ...], value: Any, message: str) -> None:
    """NUL, NaN, big integers, other types, unknown fields and excess are CanonicalErrors."""
    with pytest.raises(CanonicalError, match=message) as caught:
        canonicalise("decide", put(base_document("decide"), path, value))
    assert caught.value.where is not None


@pytest.mark.parametrize(
    "path",
    [p for p in ALL_PATHS if p and isinstance(p[-1], str) and p[:-1] not in {("gates",), ("candidate", "development")}],
)
def test_every_field_is_required(path: tuple[Any, ...]) -> None:
    """A document that lacks any one declared field is refused."""
    document: Any = base_document("decide")
    place = document
    for part in path[:-1]:
        place = place[part]
    del place[path[-1]]
    with pytest.raises(CanonicalError, match="missing"):
        canonicalise("decide", document)


def test_a_cyclic_or_deep_document_is_refused() -> None:
    """Depth and cycles cost no stack: the walk follows the shape."""
    document = base_document("screen")
    document["proposal"]["base"] = document
    with pytest.raises(CanonicalError):
        canonicalise("screen", document)
    deep: Any = {}
    for _ in range(100_000):
        deep = {"x": deep}
    with pytest.raises(CanonicalError):
        canonicalise("screen", put(base_document("screen"), ("code", "problem"), deep))


def test_integers_in_float_fields_become_floats() -> None:
    """A float field holds a float whatever number came in, so that no rule multiplies an integer by a float."""
    document = put(base_document("decide"), ("gates", "accuracy", "mean"), 1)
    value = canonicalise("decide", document)["gates"]["accuracy"]["mean"]
    assert type(value) is float


@given(st.sampled_from(STAGES), ANYTHING)
def test_anything_is_canonical_or_refused(stage: Any, value: Any) -> None:
    """No value makes the canonicaliser raise anything but CanonicalError."""
    with pytest.raises(CanonicalError):
        canonicalise(stage, value)


@given(st.sampled_from(ALL_PATHS), ANYTHING)
def test_a_document_with_anything_anywhere_is_canonical_or_refused(path: tuple[Any, ...], value: Any) -> None:
    """Whatever stands at any place, the result is refused, or stable under a second pass and a trip through JSON."""
    try:
        canonical = canonicalise("decide", put(base_document("decide"), path, copy.copy(value)))
    except CanonicalError:
        return
    assert canonicalise("decide", canonical) == canonical
    assert canonicalise("decide", json.loads(json.dumps(canonical, allow_nan=False))) == canonical
    assert DOCUMENTS["decide"].parse(canonical).json_value() == canonical


@pytest.mark.parametrize("stage", STAGES)
def test_the_descriptor_declares_every_field(stage: Any) -> None:
    """The protobuf types that rules compile against have exactly the records' fields."""
    from google.protobuf import descriptor_pool

    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor(dict(SHAPES[stage].fields)))
    hints = DOCUMENTS[stage].model_fields
    for name in ("proposal", "change", "code", "incumbent", "budgets"):
        record = hints[name].annotation
        found = pool.FindMessageTypeByName(f"lockgate.{record.__name__}")
        assert [field.name for field in found.fields] == list(record.model_fields)
