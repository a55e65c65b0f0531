"""What the schema's records say, written out: `policies/SCHEMA.md` for authors, JSON Schemas for their editors.

Nothing is declared here: the fields, types, ranges and meanings are those of the records of `policy_document`,
`policy_file` and `policy_suite`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from harness.expression import FUNCTIONS
from harness.policy_document import (
    DOCUMENTS,
    MAX_ITEMS,
    MAX_TEXT,
    STAGES,
    ListOf,
    MapOf,
    Message,
    Scalar,
    Shape,
    shape_of,
)
from harness.policy_file import Floor, PolicyFile
from harness.policy_suite import Suite
from harness.records import Record

POLICY_SCHEMA, TEST_SCHEMA, REFERENCE = "policy.schema.json", "policy-test.schema.json", "SCHEMA.md"


def schema_files() -> dict[str, str]:
    """Return the text of each generated file, by name."""
    return {
        REFERENCE: reference(),
        POLICY_SCHEMA: _json(PolicyFile, "A Lockgate policy (ChangePolicy)"),
        TEST_SCHEMA: _json(Suite, "Tests of a Lockgate policy (PolicyTest)"),
    }


def reference() -> str:
    """Return SCHEMA.md: all that a rule may read, and every function."""
    lines = [
        "# What a rule may read",
        "",
        "Generated from the records of `harness/policy_document.py` by `lockgate policy schema`.",
        "",
        "Every field is always there. A document with a field missing, unknown, of another type or out of its range",
        "reaches no rule: its outcome is `invalid`, which is a denial. Besides these, a rule reads its policy's",
        "`params` and `variables`.",
        "",
        "Rules that read `now`, `history` or `budgets` see the times of log entries, so that a replay judges alike;",
        "whether two runs judge alike depends on their clocks.",
    ]
    decide = DOCUMENTS["decide"]
    for name, field in decide.model_fields.items():
        stages = [stage for stage in STAGES if name in DOCUMENTS[stage].model_fields]
        record = _record_of(field.annotation)
        lines += [
            "",
            f"## `{name}` ({', '.join(stages)})",
            "",
            str(record.__doc__ if record else field.description),
            "",
        ]
        lines += ["| field | type | range | meaning |", "|---|---|---|---|"]
        lines += [f"| `{path}` | {kind} | {span} | {meaning} |" for path, kind, span, meaning in rows(decide, name)]
    lines += [
        "",
        "## What a policy demands beside its rules",
        "",
        "`floors` of a policy for stage `decide` and all kinds. Each is tested on held-out items, as a gate called",
        "`EVAL/floor@POLICY`; of several on one eval the highest. One of lockgate.yaml's own must be at least as high.",
        "",
        "| field | type | meaning |",
        "|---|---|---|",
    ]
    types = {"eval": "string", "floor": "double"}
    lines += [
        f"| `floors[].{name}` | {types[name]} | {each.description} |" for name, each in Floor.model_fields.items()
    ]
    lines += ["", "## Functions", "", "| function | gives | meaning |", "|---|---|---|"]
    lines += [f"| `{usage}` | {gives} | {meaning} |" for usage, gives, meaning in FUNCTIONS.values()]
    lines += [
        "",
        "Operators: `&&`, `||`, `!`, `? :`, `==`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `+`, `-`, `*`, `/`, `%`, `[ ]`.",
        "An int and a double never mix: write `5.0`, or `double(n)`. There is no `matches` and no `dyn`.",
    ]
    return "\n".join(lines) + "\n"


def rows(record: type[Record], only: str | None = None, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield path, type, range and meaning of every field below a record, depth first."""
    for name, field in record.model_fields.items():
        if only is not None and name != only:
            continue
        shape = shape_of(record)
        if isinstance(shape, Message):
            path = f"{prefix}{name}"
            if not isinstance(shape.fields[name], Message):
                yield path, *_words(shape.fields[name]), str(field.description)
            inner = _record_of(field.annotation)
            if inner is not None:
                origin = get_origin(field.annotation)
                step = "[]" if origin is list else "[KEY]" if origin is dict else ""
                yield from rows(inner, prefix=f"{path}{step}.")


def _record_of(annotation: Any) -> type[Record] | None:
    """Return the record that a field holds, itself or in a list or map."""
    inner = (get_args(annotation) or (annotation,))[-1]
    return inner if isinstance(inner, type) and issubclass(inner, Record) else None


def _words(shape: Shape) -> tuple[str, str]:
    """Return a shape's type and range in words."""
    if isinstance(shape, Message):
        return "record", ""
    if isinstance(shape, ListOf | MapOf):
        inner = "records" if isinstance(shape.item, Message) else f"{_words(shape.item)[0]}s"
        noun = "list of" if isinstance(shape, ListOf) else "map of names to"
        return f"{noun} {inner}", f"0 to {MAX_ITEMS} {'items' if isinstance(shape, ListOf) else 'entries'}"
    return shape.kind, _range(shape)


def _range(shape: Scalar) -> str:
    if shape.choices:
        return ", ".join(f"`{choice}`" for choice in shape.choices)
    if shape.kind == "string":
        return f"up to {MAX_TEXT} characters"
    if shape.kind == "bool":
        return "`true`, `false`"
    if shape.kind == "double" and shape.low is None and shape.high is None:
        return "finite"
    bound = "(2^53 - 1)" if shape.kind == "int" else "1.8e308"
    low = f"-{bound}" if shape.low is None else f"{shape.low:g}"
    return f"{low} to {bound if shape.high is None else f'{shape.high:g}'}"


def _json(record: type[Record], title: str) -> str:
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **record.model_json_schema(), "title": title}
    # draft 7, which editors' YAML servers read, calls them definitions
    text = (
        json.dumps(schema, indent=1, sort_keys=True)
        .replace('"$defs"', '"definitions"')
        .replace("#/$defs/", "#/definitions/")
    )
    return text + "\n"
