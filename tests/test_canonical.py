"""Facts about canonical bytes, strict JSON and digests."""

from __future__ import annotations

import json
import math
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.canonical import (
    canonical_bytes,
    decode_base64,
    digest,
    digest_file,
    digest_json,
    parse_json,
)
from harness.errors import CanonicalError

LIMIT = 2**53 - 1

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(-LIMIT, LIMIT) | st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda x: not LIMIT < abs(x) < 1e21
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_round_trip(value):
    """Whatever has canonical bytes is read back as an equal value."""
    assert parse_json(canonical_bytes(value)) == value


@given(values)
def test_canonical_bytes_are_a_fixed_point(value):
    """Reading canonical bytes and writing them again changes nothing."""
    raw = canonical_bytes(value)
    assert canonical_bytes(parse_json(raw)) == raw


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0dDeE+-.1 ntrf', max_size=60).map(str.encode))
def test_only_canonical_error_escapes_the_parser(data):
    """Any bytes at all are either a value or a CanonicalError, and a value agrees with the json module's."""
    try:
        value = parse_json(data)
    except CanonicalError:
        return
    assert value == json.loads(data)


@given(
    st.recursive(st.none() | st.floats() | st.integers() | st.text() | st.binary(), lambda x: st.lists(x, max_size=3))
)
def test_only_canonical_error_escapes_the_serializer(value):
    """Any Python value is either written or a CanonicalError."""
    try:
        canonical_bytes(value)
    except CanonicalError:
        return


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("ffefffffffffffff", "-1.7976931348623157e+308"),
        ("433fffffffffffff", "9007199254740991"),
        ("44b52d02c7e14af6", "1e+23"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("41b3de4355555553", "333333333.3333332"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_rfc_8785_number_vectors(bits, text):
    """Doubles are printed as in RFC 8785, appendix B."""
    assert canonical_bytes(struct.unpack(">d", bytes.fromhex(bits))[0]).decode() == text


def test_rfc_8785_sorting_vector():
    """Names are sorted by UTF-16 code units (RFC 8785 §3.2.3)."""
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    written = canonical_bytes(dict.fromkeys(names, 0)).decode()
    assert list(json.loads(written)) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


@pytest.mark.parametrize(
    "value",
    [
        math.nan, math.inf, -math.inf, 2**53, -(2**53), 1e20, float(2**53), {1: 2}, {"a": {None: 1}}, "\ud800",
        {"\udc00": 1}, b"x", {1, 2}, object(), [[1, (2, {"x": math.nan})]],
    ],
)  # fmt: skip
def test_values_without_a_canonical_form(value):
    """NaN, inexact integers, lone surrogates and foreign types have no canonical form."""
    with pytest.raises(CanonicalError):
        canonical_bytes(value)


def test_a_cycle_is_refused():
    """A list that holds itself is a CanonicalError, not a RecursionError."""
    cycle = []
    cycle.append(cycle)
    with pytest.raises(CanonicalError, match="deep"):
        canonical_bytes(cycle)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}', '{"a":1,"\\u0061":2}', "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9007199254740992",
        "1" * 5000, '"\\ud800"', '{"\\ud800":1}', '"\\udc00\\ud800"', "01", "+1", "1_000", ".5", "1.", "'a'", "[1,]",
        "", " ", "[1] 2", "\ufeff1", '"\x01"', "\u0663", "[" * 33 + "]" * 33, "{", '"', '"\\', "nul", "True",
    ],
)  # fmt: skip
def test_texts_that_are_not_strict_json(text):
    """Duplicate names, NaN, overflow, lone surrogates, loose numbers and bad syntax are refused."""
    with pytest.raises(CanonicalError):
        parse_json(text.encode("utf-8"))


@pytest.mark.parametrize("data", [b"\xff", b'"\xed\xa0\x80"', "1".encode("utf-16"), b'"\xc0\xaf"'])
def test_bytes_that_are_not_utf8(data):
    """Other encodings, overlong forms and encoded surrogates are refused."""
    with pytest.raises(CanonicalError):
        parse_json(data)


def test_bounds_are_exact():
    """A document of exactly the largest size and depth is read, and one beyond is not."""
    assert parse_json(b"[1]", max_bytes=3) == [1]
    with pytest.raises(CanonicalError, match="bytes"):
        parse_json(b"[1] ", max_bytes=3)
    deep = b"[" * 32 + b"]" * 32
    assert canonical_bytes(parse_json(deep)) == deep
    assert parse_json(b'["[[[[[[[[\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", [], []]', max_depth=2)
    with pytest.raises(CanonicalError, match="deep"):
        parse_json(b"[[],[[]]]", max_depth=2)


brackets = st.text(alphabet='[]{}"\\\\a', max_size=8)


def depth_of(value):
    """Return how deep a value is nested: `[[1]]` has depth 2."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@given(
    st.recursive(
        brackets,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(brackets, inner, max_size=4),
        max_leaves=20,
    ),
    st.sampled_from([None, 1]),
)
def test_the_depth_that_is_bounded_is_the_value_s(value, indent):
    """Brackets, quotes and backslashes in texts and names do not count, and those that nest do, however it is laid out."""
    data, depth = json.dumps(value, indent=indent).encode(), depth_of(value)
    assert parse_json(data, max_depth=depth) == value
    if depth:
        with pytest.raises(CanonicalError, match="deep"):
            parse_json(data, max_depth=depth - 1)


@pytest.mark.parametrize("unit", ['\\"', "[", '["', '"', '{"a":', "[],", '"\\\\",'])
def test_a_hostile_megabyte_takes_little_time(unit):
    """No megabyte of brackets, quotes or escapes makes the parser take more than linear time."""
    data = ('"' + unit * ((1 << 20) // len(unit)))[: 1 << 20].encode()
    begin = time.process_time()
    with pytest.raises(CanonicalError):
        parse_json(data)
    with pytest.raises(CanonicalError):
        parse_json(data[1:])
    assert time.process_time() - begin < 2


def test_many_duplicates_take_little_time():
    """A duplicate at the end of an object with many names is found in linear time."""
    names = ",".join(f'"{i}":0' for i in range(60_000))
    begin = time.process_time()
    with pytest.raises(CanonicalError, match="twice"):
        parse_json(f'{{{names},"59999":1}}'.encode())
    assert time.process_time() - begin < 2


def test_digests(tmp_path):
    """All three digests are SHA-256 with the prefix `sha256:`, over bytes, canonical bytes, and a file's bytes."""
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest(b"") == empty
    assert digest_json({"b": 1, "a": 2.0}) == digest(b'{"a":2,"b":1}')
    (tmp_path / "x").write_bytes(b"\x00" * 3_000_000)
    assert digest_file(tmp_path / "x") == digest(b"\x00" * 3_000_000)


@pytest.mark.parametrize(
    "text", ["QQ", "QQ=", "QR==", "QQ==\n", " QQ==", "Q Q==", "QQ==QQ==", "-_==", "QQ===", "\u0663Q=="]
)
def test_loose_base64_is_refused(text):
    """Base64 without padding, with loose final bits, blanks or another alphabet is not decoded."""
    with pytest.raises(CanonicalError):
        decode_base64(text)
