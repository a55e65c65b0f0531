"""`lockgate gates`: whether the gates of a subject can be passed at all."""

from __future__ import annotations

import typer

from harness.commands.common import REJECTED, Json, SubjectArg, print_json

app = typer.Typer(help="The statistical gates of a subject.", no_args_is_help=True)


@app.command("power")
def gates_power_(subject: SubjectArg, json_: Json = False) -> None:
    """Say how likely each gate passes a candidate that deserves it; refuse gates that can hardly pass."""
    from harness.operating import power_of

    table, floor = power_of(subject)
    if json_:
        print_json({**table.json_value(), "floor": floor, "ok": table.joint >= floor})
    else:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        shown = Table(title=f"alpha {table.alpha:.2g}", title_justify="left")
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
        print(f"A candidate that deserves it passes all gates with probability {table.joint:.2f} (floor {floor:g}).")
    if table.joint < floor:
        raise typer.Exit(REJECTED)
