"""Facts about the strict YAML loader."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ConfigError
from harness.strict_yaml import MAX_DEPTH, Place, load, load_all

PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | PRINTABLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PRINTABLE, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5E4", 15000.0),
        ("-7", -7),
        ("0x1f", 31),
        ("0o17", 15),
        ("true", True),
        ("no", "no"),
        ("off", "off"),
        ("yes", "yes"),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("'1'", "1"),
        ("~", None),
        ("=", "="),
    ],
)
def test_scalars_follow_the_yaml_1_2_core_schema(text: str, value: object) -> None:
    """A plain scalar reads as YAML 1.2's core schema says, with its exact type."""
    got = load(f"a: {text}\n", "f").value["a"]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "duplicate key 'a', first on line 1"),
        ("a:\n  b: 1\n  b: 1\n", 3, "duplicate"),
        ("{a: 1, a: 2}", 1, "duplicate"),
        ("a: &x 1\nb: *x\n", 1, "anchors"),
        ("a: !!python/object:os.system 1\n", 1, "tags"),
        ("a: !!str 1\n", 1, "tags"),
        ("x: 1\n<<: {a: 1}\n", 2, "merge"),
        ("a: .nan\n", 1, "finite"),
        ("a: -.inf\n", 1, "finite"),
        ("a: 1e999\n", 1, "64-bit"),
        ("a: 9007199254740992\n", 1, "2\\^53"),
        ("a: " + "9" * 5000, 1, "2\\^53"),
        ("a: 0x" + "f" * 5000, 1, "2\\^53"),
        ("a: 010\n", 1, "octal"),
        ("1: a\n", 1, "key must be a string"),
        ("true: a\n", 1, "key must be a string"),
        ("[1]: a\n", 1, "key must be a string"),
        ("? {a: 1}\n: b\n", 1, "key must be a string"),
        ("a: 1\n---\nb: 2\n", 3, "more than one"),
        ("", 1, "empty"),
        ("# nothing\n", 1, "empty"),
        ('a: "x\\0y"\n', 1, "NUL"),
        ('a: "\\ud800"\n', 1, "surrogate"),
        ('a: "\\UFFFFFFFF"\n', 1, "not YAML"),
        ("a: 1\nb: [1\n", 3, "flow sequence"),
        ("a: 1\n\x07", 2, "character"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), 1, "deep"),
        ("[" * 100_000, 1, "deep"),
        ("a" * 300_000, 1, "longer"),
    ],
)
def test_what_is_ambiguous_or_not_json_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    """Each ambiguity, non-JSON value and excess is a ConfigError that names the line."""
    with pytest.raises(ConfigError, match=message) as caught:
        load(text, "f.yaml")
    assert re.fullmatch(rf"f\.yaml:{line}:[1-9][0-9]*", caught.value.where or "")


def test_every_path_knows_its_line() -> None:
    """Entries, list items and values on later lines are found by path; an absent path gives its parent's line."""
    located = load("top:\n  list:\n    - a\n    - {k: v}\n  text: >\n    folded\n", "f")
    assert located.line(()) == 1
    assert located.line(("top", "list")) == 2
    assert located.line(("top", "list", 1, "k")) == 4
    assert located.line(("top", "text", "gone")) == 5
    assert located.where(("top", "list", 0)) == "f:3"
    assert located.place(("top", "list", 1, "k")) == Place(4, 11)
    assert located.place(("top", "text")) == Place(5, 9, block=True, indent=4)


def test_documents_of_one_file_keep_their_lines_apart() -> None:
    """Documents divided by --- are loaded in order, and each knows the lines of its own entries."""
    first, second = load_all("a: 1\n---\na: 2\nb: 'x'\n", "f")
    assert (first.value, second.value) == ({"a": 1}, {"a": 2, "b": "x"})
    assert (first.line(("a",)), second.line(("a",)), second.place(("b",))) == (1, 3, Place(4, 5))


@given(JSON)
def test_json_is_read_as_itself(value: object) -> None:
    """JSON of printable ASCII is YAML, and reads as the same value with the same types."""
    document = {"v": value}
    assert json.dumps(load(json.dumps(document), "f").value) == json.dumps(document)


@given(st.text(max_size=80) | st.text(alphabet="[]{}:-,&*!|>'\"\n \\ua1%@`?#~<", max_size=60))
def test_any_text_loads_or_is_a_config_error(text: str) -> None:
    """No text makes the loader raise anything but ConfigError, and what loads is JSON."""
    try:
        value = load(text, "f").value
    except ConfigError as error:
        place = error.where
    else:
        json.dumps(value, allow_nan=False).encode()
        place = "f:1"
    assert place is not None
    assert place.startswith("f:")
