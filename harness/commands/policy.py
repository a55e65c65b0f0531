"""`lockgate policy`: write, check, test, compare and explain policies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.common import REJECTED, VERDICT, Json, existing, print_json, write_text

if TYPE_CHECKING:
    from harness.policy import PolicySet
    from harness.strictness import Comparison

app = typer.Typer(help="Write, check, test, compare and explain policies.", no_args_is_help=True)


@app.command("check")
def policy_check(paths: Annotated[list[str], typer.Argument(metavar="FILE|PACK…")], json_: Json = False) -> None:
    """Compile policies; every problem with file, line and column."""
    from harness.policy import check

    report = check(_policy_files(paths))
    if json_:
        print_json(report.json_value())
    else:
        for policy in report.policies:
            floors = "".join(f", {name} above {floor:g}" for name, floor in policy.floors.items())
            where = f"{policy.file}: {policy.name} ({policy.stage}; {', '.join(policy.kinds)})"
            print(f"{where}: {len(policy.rules)} rules{floors}")
        for problem in report.problems:
            print(f"{problem.where}: {problem.message}" + (f" ({problem.remedy})" if problem.remedy else ""))
        for warning in report.warnings:
            print(f"{warning.where}: warning: {warning.message} ({warning.remedy})")
        print("ok" if report.ok else f"{len(report.problems)} problem(s)")
    if not report.ok:
        raise typer.Exit(REJECTED)


@app.command("test")
def policy_test(
    paths: Annotated[list[str], typer.Argument(metavar="FILE|PACK…")],
    *,
    coverage: Annotated[bool, typer.Option("--coverage", help="Which conditions the cases have seen.")] = False,
    mutate: Annotated[bool, typer.Option("--mutate", help="Which small changes no case would notice.")] = False,
    json_: Json = False,
) -> None:
    """Run the suites beside the policies; a rule without a passing and a failing case fails, and so does a mutant."""
    from harness.policy_test import test

    report = test(_policy_files(paths), coverage=coverage, mutate=mutate)
    if json_:
        print_json(report.json_value())
    else:
        for suite in report.suites:
            for problem in suite.problems:
                print(f"{problem.where}: {problem.message}" + (f" ({problem.remedy})" if problem.remedy else ""))
            for case in suite.cases:
                print(
                    f"{'ok  ' if case.ok else 'FAIL'} {case.where}: {case.name}"
                    + (f": {case.message}" if case.message else "")
                )
            for seen in suite.coverage:
                never = [word for word, count in (("true", seen.true), ("false", seen.false)) if not count]
                print(
                    f"{'gap ' if never else 'seen'} {seen.where}: {seen.rule}: {seen.text}: {seen.true} true, "
                    f"{seen.false} false" + (f", never {' nor '.join(never)}" if never else "")
                )
            for mutant in suite.mutants:
                if not mutant.killed:
                    print(f"LIVES {mutant.where}: {mutant.rule}: {mutant.what}: {mutant.mutant}")
            print(f"{suite.file}: {sum(case.ok for case in suite.cases)} of {len(suite.cases)} cases ok")
            if mutate and not suite.mutants:
                print(f"{suite.file}: no mutants: first the suite must pass")
            if suite.mutants:
                print(f"{suite.file}: {sum(m.killed for m in suite.mutants)} of {len(suite.mutants)} mutants killed")
    if not report.ok:
        raise typer.Exit(REJECTED)


@app.command("explain")
def policy_explain(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="The folder of a run.")] = None,
    proposal: Annotated[int | None, typer.Argument(metavar="PROPOSAL", help="A proposal's number.")] = None,
    *,
    policy: Annotated[Path | None, typer.Option("--policy", help="A policy file, instead of a run.")] = None,
    document: Annotated[Path | None, typer.Option("--document", help="A document as JSON; else a sound one.")] = None,
    stage: Annotated[str | None, typer.Option("--stage", help="screen or decide; both when left out.")] = None,
    json_: Json = False,
) -> None:
    """Say why each rule was true or false: every part of it with its value, by the engine that judged it."""
    import sys

    from rich.console import Console

    from harness.errors import ConfigError
    from harness.policy_document import STAGES
    from harness.policy_explain import drawn, explain_files, explain_proposal, lines_of

    chosen = next((each for each in STAGES if each == stage), None)
    if stage is not None and chosen is None:
        raise ConfigError(f"no stage is called {stage!r}", where="--stage", remedy="screen or decide")
    if policy is not None and run is None:
        explained = explain_files(policy, document, chosen)
    elif run is not None and proposal is not None and policy is None and document is None:
        explained = explain_proposal(existing(run), proposal, chosen)
    else:
        raise ConfigError(
            "nothing to explain", where="policy explain", remedy="name RUN PROPOSAL, or --policy FILE --document FILE"
        )
    if json_:
        print_json({"explanations": [each.json_value() for each in explained]})
        return
    for each in explained:
        if sys.stdout.isatty():
            Console().print(drawn(each))
        else:
            for line in lines_of(each):
                print(line)


@app.command("new")
def policy_new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case words and dashes.")],
    folder: Annotated[Path, typer.Option("--dir", help="Where to write.")] = Path("policies"),
    *,
    json_: Json = False,
) -> None:
    """Write a policy with a suite that passes, and the schemas that lead an editor, for you to change."""
    from harness.policy_template import new_policy

    written = [str(path) for path in new_policy(name, folder)]
    if json_:
        print_json({"written": written})
    else:
        for path in written:
            print(path)
        print(f"next: lockgate policy test {folder / f'{name}.yaml'} --mutate")


@app.command("fmt")
def policy_fmt(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE…")],
    *,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 3 where a file would change.")] = False,
    json_: Json = False,
) -> None:
    """Give policies and suites one layout; what they mean stays, comments stay."""
    from harness.policy import read_text
    from harness.policy_format import format_policy

    changed = []
    for path in paths:
        text = read_text(path)
        formatted = format_policy(text, path.as_posix())
        if formatted != text:
            changed.append(path.as_posix())
            if not check:
                write_text(path, formatted)
    if json_:
        print_json({"ok": not (check and changed), "unformatted" if check else "written": changed})
    else:
        for path_name in changed:
            print(f"{path_name}: {'would change' if check else 'written'}")
    if check and changed:
        raise typer.Exit(REJECTED)


@app.command("schema")
def policy_schema(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write.")] = Path("policies"),
    *,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 3 where a file is not current.")] = False,
    json_: Json = False,
) -> None:
    """Write what a rule may read (SCHEMA.md), and JSON Schemas of policies and tests for editors."""
    from harness.policy_schema import schema_files

    stale = []
    for name, text in schema_files().items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path))
            if not check:
                write_text(path, text)
    if json_:
        print_json({"ok": not (check and stale), "stale" if check else "written": stale})
    else:
        for name in stale:
            print(f"{name}: {'not current' if check else 'written'}")
    if check and stale:
        raise typer.Exit(REJECTED)


_SET = "a file, a pack's name, a subject's folder, or a folder of policies"


@app.command("compare")
def policy_compare(
    old: Annotated[str, typer.Argument(metavar="OLD", help=f"What is in force: {_SET}.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="What would replace it, likewise.")],
    json_: Json = False,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="The solver's deadline, for all rules.")] = 30.0,
) -> None:
    """Say whether NEW is at least as strict as OLD: proved (exit 0), weaker or unknown (both exit 3)."""
    from harness.floors import compare_floors
    from harness.strictness import compare_sets, worst

    sets = _policy_set(old), _policy_set(new)
    floors = compare_floors(*sets)
    comparison = compare_sets(*sets, seconds=seconds)
    verdict = worst([comparison.verdict, *(floor.verdict for floor in floors)])
    comparison = comparison.model_copy(update={"verdict": verdict})
    if json_:
        print_json({**comparison.json_value(), "floors": [floor.json_value() for floor in floors]})
    else:
        for floor in floors:
            print(f"  {VERDICT[floor.verdict]:8}the floor on {floor.eval} {floor.what}")
        for line in told(comparison):
            print(line)
    if verdict != "at-least-as-strict":
        raise typer.Exit(REJECTED)


def told(comparison: Comparison) -> Iterator[str]:
    """Tell a comparison in lines: a rule each, and of a witness only where it is no ordinary document."""
    from harness.plain import plain

    width = max((len(f"{line.policy}/{line.rule}") for line in comparison.rules), default=0)
    head = ""
    for line in comparison.rules:
        here = f"at {line.stage}, for {', '.join(line.kinds)}:"
        if here != head:
            yield here
            head = here
        yield f"  {VERDICT[line.verdict]:8}{line.policy + '/' + line.rule if line.rule else '':{width}}  {line.why}"
        for construct in line.constructs:
            yield f"          {plain(construct)}"
        if line.witness:
            for path, value in line.witness.changed.items():
                yield f"          {plain(path)} = {plain(json.dumps(value))}"
            before, after = line.witness.before, line.witness.after
            yield f"          OLD: {before} ({', '.join(line.witness.stopped_by) or 'no rule applies'}); NEW: {after}"
    for name in comparison.added:
        yield f"added: {name}"
    for note in comparison.notes:
        yield f"note: {note}"
    yield {
        "at-least-as-strict": "at least as strict: proved for every rule of OLD",
        "weaker": "weaker: NEW lets something further than OLD does",
        "unknown": "unknown: neither proved nor refuted, so that people must decide",
    }[comparison.verdict]


def _policy_set(name: str) -> PolicySet:
    from harness.config import load_config
    from harness.policy import load_policies, load_subject_policies
    from harness.policy_file import TEST_SUFFIX

    folder = Path(name)
    if (folder / "lockgate.yaml").is_file():
        return load_subject_policies(load_config(folder).policies, folder)
    if folder.is_dir():
        return load_policies(sorted(p for p in folder.glob("*.yaml") if not p.name.endswith(TEST_SUFFIX)))
    return load_policies(_policy_files([name]))


def _policy_files(names: list[str]) -> list[Path]:
    from harness.policy import is_pack_name, resolve

    return [
        resolve(name, Path())[0][0] if is_pack_name(name) and not Path(name).exists() else Path(name) for name in names
    ]
