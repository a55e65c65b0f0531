"""Facts about the reference and the JSON Schemas that are made from the records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from harness.expression import FUNCTIONS, Environment
from harness.expression_tree import CompileError
from harness.policy_document import DOCUMENTS, SHAPES
from harness.policy_schema import POLICY_SCHEMA, TEST_SCHEMA, rows, schema_files

ROOT = Path(__file__).parent.parent
POLICIES = [*(ROOT / "policies").glob("*.yaml"), *(ROOT / "examples").glob("*/policies/*.yaml")]


@pytest.mark.parametrize("name", sorted(schema_files()))
def test_generated_files_are_current(name: str) -> None:
    """What lies in policies/ is what the records say today; `lockgate policy schema` writes it anew."""
    assert (ROOT / "policies" / name).read_text() == schema_files()[name]


def test_every_field_has_a_meaning_and_a_range() -> None:
    """No field that a rule may read is without a type, a range and a meaning of one line."""
    told = list(rows(DOCUMENTS["decide"]))
    assert len(told) > 40
    for path, kind, span, meaning in told:
        assert kind, path
        assert span, path
        assert meaning != "None", path
        assert "\n" not in meaning, path


def test_every_function_of_the_reference_compiles_and_no_other() -> None:
    """Each function listed is known to the compiler; those that the policies exclude are not listed."""
    environment = Environment(dict(SHAPES["decide"].fields))
    arguments = {"timestamp": "1", "duration": "'90s'", "bool": "'true'", "size": "'a'"}
    macros = {"all": "x > 0", "exists": "x > 0", "exists_one": "x > 0", "filter": "x > 0", "map": "x"}
    for name in FUNCTIONS:
        if name in macros:
            text = f"[1].{name}(x, {macros[name]})"
        elif name in ("contains", "startsWith", "endsWith"):
            text = f"'ab'.{name}('a')"
        else:
            text = f"{name}({'proposal.kind' if name == 'has' else arguments.get(name, '1')})"
        environment.compile(text, boolean=False)
    for name in ("matches", "dyn"):
        assert name not in FUNCTIONS
        with pytest.raises(CompileError):
            environment.compile(f"{name}('a')", boolean=False)


def test_the_guide_lists_every_pack() -> None:
    """Each pack has its line in the guide's table and a suite beside it, and nothing else is listed."""
    packs = {path.stem for path in (ROOT / "policies").glob("*.yaml") if not path.name.endswith(".test.yaml")}
    listed = re.findall(
        r"^\| \[([a-z-]+)\]\(([a-z-]+)\.yaml\)", (ROOT / "policies" / "README.md").read_text(), re.MULTILINE
    )
    assert {name for name, _ in listed} == packs
    assert all(name == target for name, target in listed)
    assert all((ROOT / "policies" / f"{name}.test.yaml").exists() for name in packs)


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_every_policy_names_its_schema(path: Path) -> None:
    """The first line of each policy and suite leads an editor to the schema of its kind."""
    first = path.read_text().splitlines()[0]
    found = re.fullmatch(r"# yaml-language-server: \$schema=(.+)", first)
    assert found is not None
    wanted = TEST_SCHEMA if path.name.endswith(".test.yaml") else POLICY_SCHEMA
    assert (path.parent / found[1]).resolve() == ROOT / "policies" / wanted


def validator(path: Path) -> Draft7Validator:
    """Return a validator by the schema that lies in policies/ for a policy or a suite, as an editor would use it."""
    schema = json.loads(
        (ROOT / "policies" / (TEST_SCHEMA if path.name.endswith(".test.yaml") else POLICY_SCHEMA)).read_text()
    )
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_every_policy_is_valid_by_its_schema(path: Path) -> None:
    """Each document of each ready-made policy and suite validates, so that an editor underlines nothing in it."""
    schema = validator(path)
    documents = list(yaml.safe_load_all(path.read_text()))
    assert documents
    assert [(e.json_path, e.message) for each in documents for e in schema.iter_errors(each)] == []


FREE = {"params", "patch", "audit", "bases"}  # maps whose keys are the author's own


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Give every map and list of a document outside of the free maps, with the path of each thing in it."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, (*path, key)
        if isinstance(inner, dict | list) and key not in FREE:
            yield from places(inner, (*path, key))


def few_of(path: Path) -> dict[str, Any]:
    """Return the first document of a file, with at most four of its rules or cases."""
    document: dict[str, Any] = next(iter(yaml.safe_load_all(path.read_text())))
    for part in ("rules", "cases"):
        document |= {part: document[part][:4]} if part in document else {}
    return document


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_a_misspelt_key_is_flagged(path: Path) -> None:
    """Wherever a key of a record has a letter too many, the schema says so, and names the key."""
    schema, document = validator(path), few_of(path)
    keys = [(place, path[-1]) for place, path in places(document) if isinstance(place, dict)]
    assert len(keys) > 10
    for place, key in keys:
        place[f"{key}x"] = place.pop(key)
        assert any(f"'{key}x' was unexpected" in error.message for error in schema.iter_errors(document)), key
        place[key] = place.pop(f"{key}x")
    assert schema.is_valid(document)


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_a_wrong_type_is_flagged(path: Path) -> None:
    """Wherever a value is a number instead of what it must be, the schema says so, at that place or what holds it."""
    schema, document = validator(path), few_of(path)
    for place, where in list(places(document)):
        kept, place[where[-1]] = place[where[-1]], 7.5
        told = [tuple(error.absolute_path) for error in schema.iter_errors(document)]
        assert any(found and found == where[: len(found)] for found in told), where
        place[where[-1]] = kept
    assert schema.is_valid(document)
