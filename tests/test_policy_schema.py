"""Facts about the reference and the JSON Schemas that are made from the records."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

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


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_no_policy_uses_a_key_that_its_schema_lacks(path: Path) -> None:
    """The JSON Schema lists every key that the ready-made policies use, and closes every record but the free ones."""
    schema = json.loads(schema_files()[TEST_SCHEMA if path.name.endswith(".test.yaml") else POLICY_SCHEMA])
    assert schema["additionalProperties"] is False
    for document in yaml.safe_load_all(path.read_text()):
        assert set(document) <= set(schema["properties"])
        assert set(schema["required"]) <= set(document)
        for case in document.get("cases", []):
            assert set(case) <= set(schema["definitions"]["Case"]["properties"])
        for rule in document.get("rules", []):
            assert set(rule) <= set(schema["definitions"]["Rule"]["properties"])
