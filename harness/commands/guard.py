"""`lockgate guard`: whether what guards a run has changed, and whether it is as strict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.common import REJECTED, VERDICT, Json, Run, print_json

app = typer.Typer()


@app.command("guard")
def guard_(
    run: Run,
    subject: Annotated[
        Path | None, typer.Argument(metavar="SUBJECT", help="Another folder than the one that the run is about.")
    ] = None,
    json_: Json = False,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="The solver's deadline, for all rules.")] = 30.0,
) -> None:
    """Say whether what guards a run, as it stands on the disk now, is at least as strict as its log says."""
    from harness.folder import RunFolder
    from harness.guarding import compare_with_run

    comparison = compare_with_run(RunFolder(run), subject, seconds=seconds)
    if json_:
        print_json(comparison.json_value())
    else:
        for point in comparison.points:
            print(f"{VERDICT[point.verdict]:8}{point.where}: {point.what}")
        if comparison.policies is not None:
            from harness.commands.policy import told

            print("the policies:")
            for line in told(comparison.policies):
                print(f"  {line}")
        same = not comparison.points and comparison.policies is None
        print("the same" if same else MEANING[comparison.verdict])
    if comparison.verdict != "at-least-as-strict":
        raise typer.Exit(REJECTED)


MEANING = {
    "at-least-as-strict": "at least as strict: no bar is lowered (data, labels and the baseline are not compared)",
    "weaker": "weaker: a bar is lowered",
    "unknown": "unknown: neither shown to be as strict nor weaker, so that people must decide",
}
