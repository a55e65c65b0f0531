"""Canonical bytes and digests: the one place where values become bytes that are hashed or signed.

Rules. What is written has exactly one form (RFC 8785, the JSON Canonicalization Scheme), and
whatever `canonical_bytes` accepts, `parse_json` reads back as an equal value. What is read is
bounded first (bytes, then depth) and is I-JSON (RFC 7493): strict UTF-8, no duplicate names, no
NaN or infinity, no lone surrogate, integers that a double holds exactly. Bytes that were signed are
verified as they are, never canonicalised again.

Not covered: Unicode normalisation (two spellings of one letter stay two strings).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, Never, TypeAlias

from harness.errors import CanonicalError

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "Json",
    "canonical_bytes",
    "decode_base64",
    "digest",
    "digest_file",
    "digest_json",
    "parse_json",
]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""A value that JSON can carry."""

MAX_BYTES = 1 << 20
"""Default bound on the size of a document, in bytes."""

MAX_DEPTH = 32
"""Default bound on nesting: `[[1]]` has depth 2."""

_MAX_INT = 2**53 - 1  # RFC 7493 §2.2: beyond it a double is not exact

# A bracket and what stands before it. Strings are skipped whole, so that brackets inside them do not count. The
# quantifiers are possessive and the end of the text matches: each character is looked at once, whatever the text.
_NESTING = re.compile(r'(?:[^"\[{\]}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"?)*+([\[{]|[\]}]|\Z)', re.DOTALL)


def canonical_bytes(value: Any, *, max_depth: int = MAX_DEPTH) -> bytes:
    """Serialize a JSON value in the one form of RFC 8785.

    Accepts None, bool, int, float, str, list, tuple (as a list) and dict with str keys. Refuses, with
    CanonicalError: anything else, NaN and infinities, lone surrogates, cycles and nesting beyond
    `max_depth`, and numbers that are integral and beyond ±(2^53-1), whether int or float, because the
    digits RFC 8785 gives such a float read back as an integer that no double need hold.
    """
    import rfc8785

    _check(value, max_depth, "")
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:  # pragma: no cover - checked above
        raise CanonicalError(f"no canonical form: {error}") from error


def parse_json(data: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Json:
    """Read one JSON document from untrusted bytes; raise CanonicalError for anything that is not I-JSON.

    Linear in the size of `data`, which is bounded by `max_bytes` before it is looked at.
    """
    if len(data) > max_bytes:
        raise CanonicalError(f"{len(data)} bytes of JSON where at most {max_bytes} are read")
    try:
        text = bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CanonicalError("not UTF-8", where=f"byte {error.start}") from error
    _check_nesting(text, max_depth)
    try:
        value: Json = _DECODER.decode(text)
        if "\\u" in text:  # only an escape can smuggle in a lone surrogate: UTF-8 has none
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise CanonicalError(error.msg, where=f"line {error.lineno}, column {error.colno}") from error
    except UnicodeEncodeError as error:
        raise CanonicalError("a lone surrogate") from error
    except RecursionError as error:  # the caller's own stack was nearly full
        raise CanonicalError("no room on the stack to read this document") from error
    return value


def decode_base64(text: str) -> bytes:
    """Decode standard padded base64 in its one form (RFC 4648 §3.5: no loose final bits); raises CanonicalError."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise CanonicalError("not base64") from error
    if base64.b64encode(data).decode() != text:
        raise CanonicalError("base64 that is not in its one form")
    return data


def digest(data: bytes) -> str:
    """Return the SHA-256 of `data` as `sha256:` and 64 lower-case hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_json(value: Any) -> str:
    """Return the digest of the canonical bytes of a JSON value; raises CanonicalError."""
    return digest(canonical_bytes(value))


def digest_file(path: Path | str) -> str:
    """Return the digest of a file's bytes, read in pieces; raises OSError when it cannot be read."""
    with Path(path).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _check(value: Any, room: int, where: str) -> None:
    """Refuse what has no canonical form, naming the place by a JSON pointer."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, int):
        if not -_MAX_INT <= value <= _MAX_INT:
            raise CanonicalError("an integer beyond ±(2^53-1)", where=where or "/")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise CanonicalError(f"{value} is no JSON number", where=where or "/")
        # ECMA-262 prints a float of this range with all its digits and no exponent: as an integer.
        if _MAX_INT < abs(value) < 1e21:
            raise CanonicalError("an integral float beyond ±(2^53-1)", where=where or "/")
    elif isinstance(value, list | tuple):
        if room < 1:
            raise CanonicalError("nested too deeply", where=where or "/")
        for index, item in enumerate(value):
            _check(item, room - 1, f"{where}/{index}")
    elif isinstance(value, dict):
        if room < 1:
            raise CanonicalError("nested too deeply", where=where or "/")
        for name, item in value.items():
            if not isinstance(name, str):
                raise CanonicalError(f"a name of type {type(name).__name__}", where=where or "/")
            _check_text(name, where)
            _check(item, room - 1, f"{where}/{name}")
    else:
        raise CanonicalError(f"{type(value).__name__} is no JSON type", where=where or "/")


def _check_text(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CanonicalError("a lone surrogate", where=where or "/") from error


def _check_nesting(text: str, max_depth: int) -> None:
    """Bound the depth before the parser recurses."""
    if text.count("[") + text.count("{") <= max_depth:
        return
    depth = 0
    for match in _NESTING.finditer(text):
        bracket = match[1]
        if bracket in ("[", "{"):
            depth += 1
            if depth > max_depth:
                raise CanonicalError("nested too deeply", where=f"character {match.start(1)}")
        elif bracket:
            depth -= 1


def _integer(text: str) -> int:
    # 16 digits and a sign hold 2^53-1; longer text is not even converted. The ASCII check keeps out
    # other scripts' digits, which the pure-Python scanner of the json module lets through.
    if len(text) > 17 or not text.isascii() or abs(int(text)) > _MAX_INT:
        raise CanonicalError("an integer beyond ±(2^53-1)")
    return int(text)


def _number(text: str) -> float:
    if not text.isascii() or not math.isfinite(number := float(text)):
        raise CanonicalError("a number beyond the range of a double")
    return number


def _constant(text: str) -> Never:
    raise CanonicalError(f"{text} is no JSON number")


def _members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise CanonicalError(f"the name {twice[:80]!a} stands twice in one object")
    return members


_DECODER = json.JSONDecoder(
    parse_int=_integer, parse_float=_number, parse_constant=_constant, object_pairs_hook=_members, strict=True
)
