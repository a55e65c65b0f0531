"""What a simulation says: its tables, and the claims that must hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import rivals


def below(interval: tuple[float, float], bound: float) -> bool | None:
    """Whether what lies in the interval is at most the bound; None where it cannot be told."""
    low, high = interval
    return True if high <= bound else False if low > bound else None


def claims(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What must hold, with the figures that say so. `holds` is None where too little was simulated to tell."""
    drift = {(row["world"], row["rule"].split(",")[0]): row["drift"] for row in reversed(found["worlds"])}
    frogs = {row["rule"]: row for row in found["frog"]}
    banks = {row["revealed"]: row["passes"] for row in found["bank"]}
    said: list[tuple[str, bool | None, str]] = []
    for row in found["worlds"]:
        if row["rule"].startswith("lockgate"):
            low, high = row["any_false_interval"]
            text = f"{row['world']}, {row['rule']}: P(any false promotion) <= {found['delta']}"
            figures = f"{row['any_false']:.4f} [{low:.4f}, {high:.4f}] in {row['lives']:,} lives"
            said.append((text, below((low, high), found["delta"]), figures))
    for row in found["errors"]:
        low, high = row["lockgate_interval"]
        text = f"type I at {row['alpha']:g} with peeking, discordance {row['discordance']:g}"
        said.append((text, below((low, high), row["alpha"]), f"{row['lockgate']:.5f} [{low:.5f}, {high:.5f}]"))
    for row in found["items"]:
        if row["effect"] < 0.02:
            continue
        point = f"{100 * row['effect']:+g} points at alpha {row['alpha']:.2g}, discordance .1"
        if row["alpha"] == 1e-3:
            low, high = row["power_interval"]
            figures = f"{row['power']:.3f} [{low:.3f}, {high:.3f}]"
            said.append((f"{point}: power >= .9", below((1.0 - high, 1.0 - low), 0.1), figures))
        figures = f"{row['items']:,.0f} against {row['oracle']:,}"
        said.append(
            (f"{point}: mean items <= those of the z-test of equal power", row["items"] <= row["oracle"], figures)
        )

    def beside(text: str, holds: bool, one: float, other: float, digits: int = 1) -> None:
        said.append((text, holds, f"{one:+.{digits}f} against {other:+.{digits}f}"))

    mine, theirs = drift["null or harmful", "lockgate"], drift["null or harmful", "greedy"]
    beside("nothing but noise and harm: ours does not fall, greedy does", theirs < 0 <= mine, mine, theirs)
    mine, theirs = drift["1 % improvements", "lockgate"], drift["1 % improvements", "greedy"]
    beside("1 % improvements: ours rises, greedy falls", theirs < 0 < mine, mine, theirs)
    mine, theirs = drift["20 % improvements", "lockgate"], drift["20 % improvements", "greedy"]
    beside("20 % improvements: greedy gains more than ours", theirs > mine, mine, theirs)
    mine, theirs = frogs["parent and anchor"]["least_drift"], frogs["parent"]["drift"]
    beside(
        "boiled frog: no life falls below its anchor, the parent gate alone does", theirs < -3.0 < mine, mine, theirs
    )
    mine, theirs = banks["one bit"], banks["scores"]
    beside("one bank: one bit lets no null vote pass, scores do", mine <= 0.05 and theirs >= 0.95, mine, theirs, 2)
    best = float(rivals.bernstein(np.ones(1), np.zeros(1), 10, np.array([found["delta"]]))[0])
    said.append(
        ("SGM accepts nothing with its own 10 seeds, whatever they show", best < 0.0, f"its best bound is {best:.2f}")
    )
    return [{"claim": text, "holds": holds, "figures": figures} for text, holds, figures in said]


HOLDS = {True: "yes", False: "NO", None: "cannot be told"}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that is Markdown, too."""
    widths = [max(len(row[at]) for row in [columns, *rows]) for at in range(len(columns))]
    print(f"\n{title}\n")
    for row in [columns, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def show(found: dict[str, Any]) -> None:
    """Print the document as tables."""
    head = ["world", "rule", "false promotions", "P(any false), 95 %", "drift, points", "improvements kept",
            "items a decision", "items in all", "page, points"]  # fmt: skip
    rows = [
        [row["world"], row["rule"], f"{row['false']:.2f}",
         f"{row['any_false']:.3f} [{row['any_false_interval'][0]:.3f}, {row['any_false_interval'][1]:.3f}]",
         f"{row['drift']:+.1f} ± {row['drift_error']:.1f}", f"{row['kept']:.1f} of {row['improvements']:.1f}",
         f"{row['items_per_decision']:,.0f}", f"{row['items']:,.0f}", row["page"] or ""]
        for row in found["worlds"]
    ]  # fmt: skip
    table(f"{found['size']['lives']} lives of {found['size']['proposals']} proposals, means of a life:", head, rows)
    rows = [
        [row["rule"], f"{row['promotions']:.1f}", f"{row['drift']:+.2f}", f"{row['least_drift']:+.1f}",
         f"{row['items_per_decision']:,.0f}", f"{row['items']:,.0f}", row["page"] or ""]
        for row in found["frog"]
    ]  # fmt: skip
    head = ["gates", "promotions", "drift, points", "the worst life's", "items a decision", "items in all", "page"]
    table(f"Boiled frog, {found['size']['frogs']} lives: 200 proposals, each +5 points of the objective and -0.5 of what "
          "must not regress (parent margin 2, anchor 3), endless vault:", head, rows)  # fmt: skip
    rows = [
        [f"{row['discordance']:g}", f"{row['alpha']:g}", f"{row['lockgate']:.5f}", f"{row['without_futility']:.5f}",
         f"{row['z_peeking']:.4f}", row["page"]]
        for row in found["errors"]
    ]  # fmt: skip
    head = ["discordance", "alpha", "lockgate", "without futility", "z-test, peeking", "page"]
    table(f"A null candidate passes, 200 looks, {found['size']['errors']:,} tests each:", head, rows)
    rows = [
        [f"{100 * row['effect']:+g}", f"{row['alpha']:.2g}", f"{row['power']:.3f}", f"{row['items']:,.0f}",
         f"{row['power_without_futility']:.3f}", f"{row['items_without_futility']:,.0f}", *(f"{row[name]:,}" if name in row else ""
         for name in ("oracle", "oracle_90", "hoeffding")), row["page"] or ""]
        for row in found["items"]
    ]  # fmt: skip
    head = ["points", "alpha", "power", "mean items", "power without futility", "mean items", "z-test of equal power", "z-test, power .9",
            "Hoeffding, power .5", "page"]  # fmt: skip
    table(f"Items to a decision at discordance .1, cap 10,000, {found['size']['items']:,} tests each:", head, rows)
    rows = [[row["revealed"], f"{row['passes']:.2f}", row["page"]] for row in found["bank"]]
    table(f"One bank of 2,000 items after 1,000 null candidates: a null vote of them passes alpha 1e-5, in "
          f"{found['size']['banks']} banks:", ["revealed", "passes", "page"], rows)  # fmt: skip
    table("Claims:", ["holds", "claim", "figures"],
          [[HOLDS[row["holds"]], row["claim"], row["figures"]] for row in found["claims"]])  # fmt: skip
