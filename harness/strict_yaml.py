"""YAML that means one thing: the loader of `lockgate.yaml`, of policies and of their tests.

Rules: documents of plain JSON values; YAML 1.2 core scalars (`1e-3` is a number, `no`
and `off` are strings, only `true` and `false` are booleans); keys are strings and occur
once; no anchors, aliases, tags or merge keys (so no alias bomb and no constructor); no
NaN, infinity, NUL or lone surrogate; integers within ±(2^53 - 1), as in canonical JSON;
size and depth bounded first. Every path keeps its place, so that a later complaint can
name file:line.

It does not cover comments (they are dropped) or writing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from harness.errors import ConfigError

MAX_CHARACTERS = 256 * 1024
MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1

Path = tuple[str | int, ...]

# YAML 1.2.2 §10.3.2, the core schema
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class Place(NamedTuple):
    """Where a value's first character stands, counted from 1.

    The text of a `block` (`|`, `>`) starts a line below, each line of it after `indent` blanks.
    """

    line: int
    column: int
    block: bool = False
    indent: int = 0


@dataclass(frozen=True)
class Located:
    """A plain JSON value (`value`) that remembers where each of its parts stood in the file `name`."""

    name: str
    value: Any
    _entries: dict[Path, Place] = field(repr=False)
    _values: dict[Path, Place] = field(repr=False)

    def line(self, path: Path = ()) -> int:
        """Return the line of the entry at `path`; for a path that is not there, that of its nearest parent."""
        for end in range(len(path), -1, -1):
            place = self._entries.get(path[:end])
            if place is not None:
                return place.line
        return 1

    def where(self, path: Path = ()) -> str:
        """Return `name:line` of the entry at `path`."""
        return f"{self.name}:{self.line(path)}"

    def at(self, path: Path = ()) -> str:
        """Return `name:line:column` of the entry at `path`, or of its nearest parent."""
        for end in range(len(path), -1, -1):
            place = self._entries.get(path[:end])
            if place is not None:
                return f"{self.name}:{place.line}:{place.column}"
        return f"{self.name}:1:1"

    def place_of(self, path: Path) -> Place:
        """Return where the entry at `path` starts, its key included; KeyError."""
        return self._entries[path]

    def place(self, path: Path) -> Place:
        """Return where the value at `path` itself starts, after its key (nearest parent if it is not there)."""
        return self._values.get(path) or Place(self.line(path), 1)


@dataclass
class _Open:
    """A mapping or sequence that is not closed yet."""

    path: Path
    container: dict[str, Any] | list[Any]
    key: str | None = None


def load(text: str, name: str) -> Located:
    """Parse a file of exactly one strict YAML document; `name` is the file's name in error messages.

    Raises ConfigError, with where="name:line", and nothing else.
    """
    documents = load_all(text, name)
    if len(documents) > 1:
        raise ConfigError("more than one document in the file", where=documents[1].at())
    return documents[0]


def load_all(text: str, name: str) -> list[Located]:
    """Parse a file of one or more strict YAML documents, divided by `---`.

    Raises ConfigError, with where="name:line", and nothing else.
    """
    import yaml

    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"longer than {MAX_CHARACTERS} characters", where=f"{name}:1:1", remedy="divide the file")
    try:
        documents = list(_build(yaml.parse(text, Loader=yaml.SafeLoader), name, text.splitlines()))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else f"{name}:1:1"
        parts = (error.context, error.problem)
        message = ": ".join(p for p in parts if p) or "not YAML"
        raise ConfigError(message, where=where, remedy=_advice(message)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        raise ConfigError(
            "a character that YAML does not allow",
            where=f"{name}:{line}:{column}",
            remedy='write it as an escape in double quotes, such as "\\u200b"',
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML passes an escape such as "\UFFFFFFFF" to chr(), which raises ValueError or OverflowError
        raise ConfigError(f"not YAML: {error}", where=f"{name}:1:1", remedy="look at its escapes") from error
    if not documents:
        raise ConfigError("the file is empty", where=f"{name}:1:1", remedy="write at least one key and its value")
    return documents


def _build(events: Iterator[Any], name: str, lines: list[str]) -> Iterator[Located]:
    """Build the values from parser events without recursion, so that depth costs no stack."""
    import yaml

    entries: dict[Path, Place] = {}
    values: dict[Path, Place] = {}
    stack: list[_Open] = []
    roots: list[Any] = []

    def path_of_next() -> Path:
        if not stack:
            return ()
        top = stack[-1]
        return (*top.path, len(top.container)) if isinstance(top.container, list) else (*top.path, top.key or "")

    def put(value: Any) -> None:
        if not stack:
            roots.append(value)
            return
        top = stack[-1]
        if isinstance(top.container, list):
            top.container.append(value)
        elif top.key is not None:
            top.container[top.key] = value
            top.key = None

    for event in events:
        style = getattr(event, "style", None)
        column = event.start_mark.column + (2 if style in ("'", '"') else 1)
        block = style in ("|", ">")
        place = Place(
            event.start_mark.line + 1, column, block, _indent(lines, event.start_mark.line + 1) if block else 0
        )
        where = f"{name}:{place.line}:{event.start_mark.column + 1}"
        if isinstance(event, yaml.DocumentEndEvent):
            yield Located(name, roots.pop(), entries, values)
            entries, values = {}, {}
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ConfigError("anchors and aliases are not allowed", where=where, remedy="write the value out")
        if isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise ConfigError(
                f"tags are not allowed: {tag}", where=where, remedy="leave it out, or quote what begins with !"
            )
        awaits_key = bool(stack) and isinstance(stack[-1].container, dict) and stack[-1].key is None
        if awaits_key:
            key = _key(event, where)
            top = stack[-1]
            if key in top.container:
                first = entries[(*top.path, key)].line
                raise ConfigError(
                    f"duplicate key {key!r}, first on line {first}", where=where, remedy="keep one of them"
                )
            top.key = key
            entries[(*top.path, key)] = place
            continue
        path = path_of_next()
        values[path] = place
        entries.setdefault(path, place)
        if isinstance(event, yaml.ScalarEvent):
            put(_scalar(event, where))
            continue
        if len(stack) >= MAX_DEPTH:
            raise ConfigError(f"nested more than {MAX_DEPTH} deep", where=where, remedy="flatten it")
        container: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        put(container)
        stack.append(_Open(path, container))


def _indent(lines: list[str], first: int) -> int:
    """Return how far the block is indented whose text begins on a line (from 0)."""
    return next((len(line) - len(line.lstrip(" ")) for line in lines[first:] if line.strip()), 0)


def _advice(message: str) -> str | None:
    """Return what to do about the commonest mistakes that the YAML parser words badly."""
    if "'\\t'" in message:
        return "indent with spaces, never with tabs"
    if "mapping values are not allowed" in message:
        return "put text that holds a colon in quotes"
    if "unexpected end of stream" in message or "<stream end>" in message or "expected ',' or" in message:
        return "close the bracket or the quote, and divide items by commas"
    return None


def _key(event: Any, where: str) -> str:
    """Return a mapping's key: a scalar that reads as a string."""
    import yaml

    if not isinstance(event, yaml.ScalarEvent):
        raise ConfigError("a key must be a string", where=where, remedy="write a word before the colon")
    if event.value == "<<" and event.implicit[0]:
        raise ConfigError("merge keys are not allowed", where=where, remedy="write the values out")
    key = _scalar(event, where)
    if not isinstance(key, str):
        raise ConfigError(f"a key must be a string, not {event.value!r}", where=where, remedy="put it in quotes")
    return key


def _scalar(event: Any, where: str) -> str | int | float | bool | None:
    """Resolve one scalar by the core schema; what is quoted or a block is a string."""
    text: str = event.value
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError("a NUL or a lone surrogate in a string", where=where, remedy="leave it out")
    if not event.implicit[0]:
        return text
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INTEGER.fullmatch(text):
        if len(text.lstrip("+-")) > 1 and text.lstrip("+-").startswith("0"):
            raise ConfigError(
                f"{text} reads as octal to some", where=where, remedy="drop the 0, write 0o…, or quote it"
            )
        return _bounded(int(text) if len(text) < 20 else MAX_INTEGER + 1, text, where)
    if _BASED.fullmatch(text):
        return _bounded(int(text, 0) if len(text) < 24 else MAX_INTEGER + 1, text, where)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ConfigError(
                f"{text[:40]} is beyond a 64-bit float", where=where, remedy="write a smaller number, or quote it"
            )
        return number
    if _NOT_FINITE.fullmatch(text):
        raise ConfigError(f"{text} is not a finite number", where=where, remedy="write a finite one, or quote it")
    return text


def _bounded(number: int, text: str, where: str) -> int:
    if abs(number) > MAX_INTEGER:
        raise ConfigError(
            f"the integer {text[:40]} is beyond ±(2^53 - 1)", where=where, remedy="write a smaller one, or quote it"
        )
    return number
