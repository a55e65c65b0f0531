"""One layout for policies and their tests: `lockgate policy fmt`.

Whole lines are moved and cleaned, never rewritten: no trailing blanks, no two empty lines in a row, the keys of each
record in the order of its schema, and a first line that leads editors to the schema. Comments go with the key below
them. What was written inside a line stays as its author wrote it.

Rules: the file means the same afterwards, or it is left as it was. Its digest does change, and with it a run's guard.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, get_args

from harness.errors import ConfigError, PolicyError
from harness.policy_file import TEST_SUFFIX, PolicyFile
from harness.policy_schema import POLICY_SCHEMA, TEST_SCHEMA
from harness.policy_suite import Suite
from harness.records import Record
from harness.strict_yaml import Located, Path, load_all

_SCHEMA_LINE = re.compile(r"# yaml-language-server: \$schema=\S+")


def format_policy(text: str, name: str) -> str:
    """Return the text of a policy or suite in its layout; PolicyError for what is no strict YAML."""
    record: type[Record] = Suite if name.endswith(TEST_SUFFIX) else PolicyFile
    schema = TEST_SCHEMA if record is Suite else POLICY_SCHEMA
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    _values(text, name)
    steps: list[Callable[[str], str]] = [
        lambda text: re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE),
        lambda text: _ordered(text, name, record),
        lambda text: re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n",
        lambda text: text if _SCHEMA_LINE.search(text) else f"# yaml-language-server: $schema={schema}\n{text}",
    ]
    for step in steps:
        changed = step(text)
        if _values(changed, name) == _values(text, name):
            text = changed
    return text


def _values(text: str, name: str) -> list[Any]:
    try:
        return [located.value for located in load_all(text, name)]
    except ConfigError as error:
        raise PolicyError(error.message, where=error.where, remedy=error.remedy) from error


def _ordered(text: str, name: str, record: type[Record]) -> str:
    """Put the keys of every record that is written one key a line in the order of its fields."""
    lines = text.split("\n")
    documents = load_all(text, name)
    starts = [document.line() for document in documents] + [len(lines) + 1]
    for document, end in zip(documents, starts[1:], strict=True):
        if not isinstance(document.value, dict):
            continue
        paths: list[tuple[Path, type[Record]]] = []
        for key, field in record.model_fields.items():
            inner = (get_args(field.annotation) or (field.annotation,))[-1]
            value = document.value.get(key)
            if isinstance(inner, type) and issubclass(inner, Record):
                count = len(value) if isinstance(value, list) else 0
                paths += [((key, index), inner) for index in range(count)] + ([((key,), inner)] if not count else [])
        # the inner ones first: they stay within the lines of the outer
        for path, kind in (*paths, ((), record)):
            lines = _sort_record(lines, document, path, list(kind.model_fields), end)
    return "\n".join(lines)


def _sort_record(lines: list[str], document: Located, path: Path, order: Sequence[str], end: int) -> list[str]:
    value: Any = document.value
    for part in path:
        if not isinstance(value, dict | list) or (isinstance(value, dict) and part not in value):
            return lines
        value = value[part]  # type: ignore[index]
    if not isinstance(value, dict) or len(value) < 2 or not set(value) <= set(order):
        return lines
    places = [document.place_of((*path, key)) for key in value]
    column = places[0].column
    if any(place.column != column for place in places) or len({place.line for place in places}) < len(places):
        return lines
    indent = column - 1
    first = places[0].line - 1
    if indent and lines[first][:indent].strip() not in ("", "-"):
        return lines  # a flow mapping, or a key on its parent's line
    stop = _end_of(lines, places[-1].line, indent, end)
    # each key with the comments above it; those above the first belong to what is around
    begins = [first]
    for place in places[1:]:
        begin = place.line - 1
        while begin - 1 > begins[-1] and lines[begin - 1].lstrip().startswith("#"):
            begin -= 1
        begins.append(begin)
    lead = lines[first][:indent]
    lines = [*lines[:first], " " * indent + lines[first][indent:], *lines[first + 1 :]]
    chunks = [lines[a:b] for a, b in zip(begins, [*begins[1:], stop], strict=True)]
    ranked = sorted(zip(value, chunks, strict=True), key=lambda each: order.index(each[0]))
    inner = [line for _, chunk in ranked for line in chunk]
    if ranked[0][1][0].lstrip().startswith("#") and lead.strip():
        return [*lines[:first], lead + lines[first][indent:], *lines[first + 1 :]]  # a dash cannot stand on a comment
    inner[0] = lead + inner[0][indent:]
    sorted_lines = [*lines[:first], *inner, *lines[stop:]]
    return sorted_lines if Counter(map(len, sorted_lines)) == Counter(map(len, lines)) else lines


def _end_of(lines: list[str], start: int, indent: int, end: int) -> int:
    """Return the index after the last line of the entry that begins above index `start`."""
    stop = start
    for index in range(start, min(end - 1, len(lines))):
        line = lines[index]
        depth = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        # a list may stand at the depth of its key
        inside = depth > indent or (depth == indent and line[depth] in "-]}" and not line.startswith("---"))
        if not inside:
            break
        stop = index + 1
    return stop
