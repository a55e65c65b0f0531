"""`lockgate gates`: whether the gates of a subject can be passed at all, and how many held-out items that takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.common import REJECTED, Json, SubjectArg, existing, print_json

if TYPE_CHECKING:
    from harness.operating import GatesPower
    from harness.power import PowerTable, Reach

app = typer.Typer(help="The statistical gates of a subject.", no_args_is_help=True)

RunOption = Annotated[
    Path | None, typer.Option("--run", metavar="RUN", help="At the next test of this run: its stake, its items left.")
]
Effects = Annotated[
    list[float] | None,
    typer.Option("--effect", help="How far the truth lies above what a gate demands; may be repeated."),
]


@app.command("power")
def gates_power_(subject: SubjectArg, run: RunOption = None, effect: Effects = None, json_: Json = False) -> None:
    """Say how likely each gate passes a candidate that deserves it, and after how many items; refuse hopeless gates."""
    from harness.operating import power_of
    from harness.power import LADDER

    found = power_of(subject, None if run is None else existing(run), sorted(set(effect or LADDER)))
    if json_:
        table = {} if found.table is None else found.table.json_value()
        effects = [{**one.json_value(), "detectable": one.detectable} for one in found.reach]
        standing = None if found.run is None else found.run.json_value()
        print_json({**table, "floor": found.floor, "ok": found.ok, "effects": effects, "run": standing})
    else:
        _show(found)
    if not found.ok:
        raise typer.Exit(REJECTED)


def _show(found: GatesPower) -> None:
    standing = found.run
    if standing is not None and not standing.in_force:
        print("Not in force: the run's gates and ledger rule are others than those of the subject on the disk.")
    if standing is not None and found.table is None:
        print(f"exhausted: {standing.items_left:,} items are left, no test begins with fewer than {standing.minimum:,}")
        print("add some at the end of the vault in guards.py, and `lockgate guard propose`")
    if found.table is None:
        return
    where = "a typical test" if standing is None else f"the next test (epoch {standing.epoch}, test {standing.test})"
    _show_table(found.table, where)
    joint = f"{found.table.joint:.2f} (floor {found.floor:g})"
    print(f"A candidate that deserves it passes all gates with probability {joint}.")
    _show_reach(found.reach)


def _show_table(table: PowerTable, where: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=f"alpha {table.alpha:.2g}, {where}", title_justify="left")
    for column in ("gate", "null: mean ≤", "true mean", "discordance", "items at most", "decided after", "passes"):
        shown.add_column(column, justify="left" if column == "gate" else "right")
    for row in table.rows:
        differ = "" if row.discordance is None else f"{row.discordance:.2f}"
        shown.add_row(
            escape(row.gate),
            f"{row.theta:+.3f}",
            f"{row.true_mean:+.3f}",
            differ,
            str(row.cap),
            f"{row.items:.0f}",
            f"{row.probability:.2f}",
        )
    Console().print(shown)


def _show_reach(reach: tuple[Reach, ...]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    effects = sorted({one.effect for one in reach})
    by_gate: dict[str, dict[float, Reach]] = {}
    for one in reach:
        by_gate.setdefault(one.gate, {})[one.effect] = one
    shown = Table(
        title="items until half pass / nine in ten, by how far the truth lies above the null",
        title_justify="left",
    )
    shown.add_column("gate")
    for effect in effects:
        shown.add_column(f"{effect:+g}", justify="right")
    for gate, row in by_gate.items():
        shown.add_row(escape(gate), *(_cell(row[effect]) for effect in effects))
    Console().print(shown)
    for gate, row in by_gate.items():
        small = [f"{one.effect:+g}" for one in row.values() if one.possible and not one.detectable]
        if small:
            cap = next(iter(row.values())).cap
            print(f"{gate}: not detectable within {cap:,} items: {', '.join(small)}")


def _cell(one: Reach) -> str:
    if not one.possible:
        return "beyond the score"
    if one.median is None:
        return f"not in {one.cap:,}"
    return f"{one.median:,} / " + ("–" if one.ninety is None else f"{one.ninety:,}")
