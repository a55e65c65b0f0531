"""Facts about README: what it lists is what there is. A table that drifts from the code fails here."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from harness import cli
from harness.commands import common
from harness.config import Config, parse_config
from harness.records import REASONS, Record

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def table(heading: str) -> list[list[str]]:
    """The cells of the table whose header row begins with `heading`, without the header."""
    lines = README[README.index(f"\n| {heading} |") + 1 :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def commands(group: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command of the command line, by its words."""
    found: dict[tuple[str, ...], Any] = {}
    for name, command in getattr(group, "commands", {}).items():
        found |= commands(command, (*path, name)) if hasattr(command, "commands") else {(*path, name): command}
    return found


@pytest.fixture(scope="module")
def known_commands() -> dict[tuple[str, ...], Any]:
    """What the command line really has."""
    import typer

    return commands(typer.main.get_command(cli.app))


def test_the_first_two_sh_blocks_are_the_two_commands() -> None:
    """The first sets up and runs the main job, the second sets up and runs the tests; CI runs the second from here."""
    first, second = [text for kind, text in BLOCKS if kind == "sh"][:2]
    assert first == "sh scripts/setup.sh && .venv/bin/lockgate run examples/quickstart\n"
    assert second == "sh scripts/setup.sh && .venv/bin/python -m pytest\n"


def test_the_tree_lists_every_file_and_no_other() -> None:
    """README's tree is the tree: nothing missing, nothing gone, in order, and each with its purpose."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so ignored files cannot be told from others")
    spec = importlib.util.spec_from_file_location("readme_tree", ROOT / "scripts" / "readme_tree.py")
    assert spec is not None
    assert spec.loader is not None
    readme_tree = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme_tree)
    listed = readme_tree.listed(README)
    assert list(listed) == readme_tree.wanted(), "run python scripts/readme_tree.py"
    assert [path for path, purpose in listed.items() if purpose in ("", "?") and not path.endswith("/")] == []


def test_reason_codes_are_those_of_the_records() -> None:
    """The table of reason codes has every code with its own words, in order."""
    assert table("code") == [[f"`{code}`", text] for code, text in REASONS.items()]


def config_fields(record: type[Record], prefix: str = "") -> dict[str, str]:
    """The name of each leaf of a configuration with its default as README writes it."""
    found = {}
    for name, field in record.model_fields.items():
        inner = [a for a in nested(field.annotation) if isinstance(a, type) and issubclass(a, Record)]
        many = "[]" if "list[" in str(field.annotation) else ""
        if not inner or many:
            value = "none" if field.default is None else f"`{field.default}`".replace("'", "")
            found[prefix + name] = "required" if field.is_required() else value
        for record_ in inner:
            found |= config_fields(record_, f"{prefix}{name}{many}.")
    return found


def nested(annotation: Any) -> list[Any]:
    """An annotation and everything inside it."""
    return [annotation, *(inner for argument in get_args(annotation) for inner in nested(argument))]


def test_configuration_fields_are_those_of_the_record() -> None:
    """The table of `lockgate.yaml` has every field, in order, with its default, and nothing else."""
    expected = config_fields(Config)
    expected |= {"apiVersion": "required", "kind": "required"}
    assert {row[0].strip("`"): row[1] for row in table("field")} == expected
    assert [row[0].strip("`") for row in table("field")] == list(expected)
    assert all(row[2] for row in table("field"))


def test_settings_of_a_model_are_those_of_the_record() -> None:
    """The table of `proposer_settings.llm` has every setting, with its default, and nothing else; its example is sound."""
    from harness.chat import Endpoint, Prompting, Settings

    expected = config_fields(Endpoint) | config_fields(Prompting)
    assert {row[0].strip("`"): row[1] for row in table("of `llm`")} == {**expected, "task": "none"}
    assert set(expected) == set(Settings.model_fields)
    (example,) = [text for kind, text in BLOCKS if kind == "yaml" and "endpoint:" in text]
    subject = ROOT / "tests" / "subjects" / "digits" / "lockgate.yaml"
    parse_config(subject.read_text().replace("proposers: {scripted: 4}\n", example))


def test_gate_kinds_are_explained() -> None:
    """Each kind of gate has its line."""
    explained = next(part for part in README.split("\n\n") if part.startswith("Gates: "))
    kinds = get_args(next(f.annotation for n, f in Config.model_fields.items() if n == "gates"))[0].model_fields["kind"]
    assert set(get_args(kinds.annotation)) == set(re.findall(r"`(\w+)` \(", explained))


def test_exit_codes_are_those_of_the_command_line() -> None:
    """The table of exit codes says what the command line says of itself, and has its constants."""
    said = dict(re.findall(r"(\d) ([a-z][^·(]*)", " ".join((cli.__doc__ or "").split("Exit codes:")[1].split())))
    rows = {row[0]: row[1] for row in table("exit code")}
    assert set(rows) == set(said)
    for code, words in said.items():
        assert rows[code].startswith(words.strip(" .")), code
    assert {str(code) for code in (common.REJECTED, common.AUDIT_FAILED, common.UNPROVEN, common.STALE)} <= set(rows)


def test_every_command_is_listed(known_commands: dict[tuple[str, ...], Any]) -> None:
    """The table of commands is the command line's own list."""
    listed = {
        tuple(re.findall(r"\b[a-z]+\b", row[0].strip("`").removeprefix("lockgate").split("--")[0]))
        for row in table("command")
    }
    assert listed == set(known_commands)


def test_every_command_in_a_block_exists(known_commands: dict[tuple[str, ...], Any]) -> None:
    """Each line of a sh block that calls lockgate names a command and options that it has, and files that are there."""
    for line in (line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()):
        if "lockgate " not in line:
            continue
        words = line.partition("#")[0].split("lockgate ", 1)[1].split()
        found = next((path for path in known_commands if tuple(words[: len(path)]) == path), None)
        assert found, line
        options = {option for parameter in known_commands[found].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
        for word in words:
            if "/" in word and not word.startswith(("runs/", "mine/", '"$')):
                assert (ROOT / word).exists(), line


def test_options_of_run_are_all_named(known_commands: dict[tuple[str, ...], Any]) -> None:
    """The row of `run` names each of its options."""
    row = next(row for row in table("command") if row[0].startswith("`lockgate run "))
    options = {option for parameter in known_commands["run",].params for option in parameter.opts if option[:2] == "--"}
    assert options - {"--json"} == set(re.findall(r"--[a-z-]+", row[1]))


def test_dependencies_are_those_of_the_distribution() -> None:
    """The table of dependencies lists each direct one, once, with a reason."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = sorted(re.split(r"[^A-Za-z0-9-]", text)[0].lower() for text in project["dependencies"])
    assert [row[0] for row in table("package")] == names
    assert all(row[1] for row in table("package"))


def test_links_lead_somewhere() -> None:
    """Every relative link names a file, and a link that names a test names one that is in that file."""
    links = re.findall(r"\[([^\]]+)\]\(([^)#]+)\)", README)
    assert len(links) > 20
    for text, target in links:
        path = ROOT / target
        assert path.exists(), target
        if text.startswith("test_"):
            functions = {
                node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)
            }
            assert text in functions, f"{target}::{text}"


def test_every_promise_is_shown_by_a_test() -> None:
    """P1 to P10 each stand once, with at least one link to a test."""
    rows = [line for line in README.splitlines() if re.match(r"\| P\d+ \|", line)]
    assert [row.split("|")[1].strip() for row in rows] == [f"P{number}" for number in range(1, 11)]
    assert all("](tests/" in row for row in rows)


EVALS_BEGIN = """
import numpy as np
from harness.evals import Data, Items
from digits import draw, scaled

def is_even(labels):
    return labels[:, 0] % 2 == 0

def is_odd(labels):
    return labels[:, 0] % 2 == 1

def load():
    rng = np.random.default_rng(0)
    vault, development = Items(*draw(4000, rng)), Items(*draw(600, rng))
    return Data(
        train={"image": scaled(draw(10, rng)[0])},
        vault=plant_canaries(vault, 10, "any words"),
        development=plant_canaries(development, 10, "any words"),
        output=(10,),
    )
"""


def test_the_evals_shown_are_sound_and_their_gates_can_be_passed(tmp_path: Path) -> None:
    """The guards.py of 'Bringing an eval' loads and is checked as at a start, and its gates pass a good candidate."""
    from harness.config import parse_config
    from harness.operating import power_of

    (code,) = [text for kind, text in BLOCKS if kind == "python" and "@corrupted" in text]
    (gates,) = [text for kind, text in BLOCKS if kind == "yaml" and "[*]" in text]
    subject = ROOT / "tests" / "subjects" / "digits"
    (tmp_path / "digits.py").write_text((subject / "guards.py").read_text())
    (tmp_path / "guards.py").write_text(EVALS_BEGIN + code)
    text = (subject / "lockgate.yaml").read_text()
    ledger = "ledger: {delta: 0.05, cap: 4000, gain: 0.1, discordance: 0.2}\n"
    text = text[: text.index("gates:")] + gates + ledger + text[text.index("generations:") :]
    assert parse_config(text).names_slices
    (tmp_path / "lockgate.yaml").write_text(text)
    found = power_of(tmp_path)
    assert [row.gate for row in found.table.rows] == [
        "accuracy/improve",
        "accuracy[even]/parent",
        "accuracy[odd]/parent",
        "honesty/parent",
        "canaries/floor",
        "noise/parent",
    ]
    assert found.ok
