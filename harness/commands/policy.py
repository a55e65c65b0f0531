"""`lockgate policy`: check and test policies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.common import REJECTED, Json, print_json

app = typer.Typer(help="Check and test policies.", no_args_is_help=True)


@app.command("check")
def policy_check(paths: Annotated[list[str], typer.Argument(metavar="FILE|PACK…")], json_: Json = False) -> None:
    """Compile policies; every problem with file, line and column."""
    from harness.policy import check

    report = check(_policy_files(paths))
    if json_:
        print_json(report.json_value())
    else:
        for policy in report.policies:
            print(
                f"{policy.file}: {policy.name} ({policy.stage}; {', '.join(policy.kinds)}): {len(policy.rules)} rules"
            )
        for problem in report.problems:
            print(f"{problem.where}: {problem.message}" + (f" ({problem.remedy})" if problem.remedy else ""))
        for warning in report.warnings:
            print(f"{warning.where}: warning: {warning.message} ({warning.remedy})")
        print("ok" if report.ok else f"{len(report.problems)} problem(s)")
    if not report.ok:
        raise typer.Exit(REJECTED)


@app.command("test")
def policy_test(paths: Annotated[list[str], typer.Argument(metavar="FILE|PACK…")], json_: Json = False) -> None:
    """Run the suites beside the policies; a rule without a passing and a failing case fails."""
    from harness.policy_test import test

    report = test(_policy_files(paths))
    if json_:
        print_json(report.json_value())
    else:
        for suite in report.suites:
            for problem in suite.problems:
                print(f"{problem.where}: {problem.message}")
            for case in suite.cases:
                print(
                    f"{'ok  ' if case.ok else 'FAIL'} {case.where}: {case.name}"
                    + (f": {case.message}" if case.message else "")
                )
            print(f"{suite.file}: {sum(case.ok for case in suite.cases)} of {len(suite.cases)} cases ok")
    if not report.ok:
        raise typer.Exit(REJECTED)


@app.command("schema")
def policy_schema(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write.")] = Path("policies"),
    *,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 3 where a file is not current.")] = False,
    json_: Json = False,
) -> None:
    """Write what a rule may read (SCHEMA.md), and JSON Schemas of policies and tests for editors."""
    from harness.commands.common import write_text
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


def _policy_files(names: list[str]) -> list[Path]:
    from harness.policy import is_pack_name, resolve

    return [
        resolve(name, Path())[0][0] if is_pack_name(name) and not Path(name).exists() else Path(name) for name in names
    ]
