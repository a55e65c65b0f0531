"""One proposal on a terminal: the change, each rule with its values, each gate with its evidence, the decision."""

from __future__ import annotations

from typing import Any

from harness.plain import plain, plain_lines


def render(console: Any, page: dict[str, Any]) -> None:
    """Print the page for a person. What a proposal brought is text, never markup."""
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    who = (
        f"{page['proposer']}{' (scripted)' if page['scripted'] else ''}{': ' + page['label'] if page['label'] else ''}"
    )
    console.print(Text(f"Proposal {page['number']} by {who} — {page['verdict'] or page['stage']}", style="bold"))
    for why in page["reasons"]:
        console.print(Text(f"  {why['code']}: {why['text']}"), soft_wrap=True)
    document = page["document"]
    if isinstance(document, dict) and document.get("rationale"):
        console.print(Text(f"  it says: {document['rationale']!r}"), soft_wrap=True)
    if page["change"]:
        for knob in page["change"]["knobs"]:
            console.print(Text(plain(f"  {knob['name']}: {knob['old']} → {knob['new']} ({knob['group']})", 400)))
    if page["start"]:
        console.print(Text(plain(f"  training begins: {page['start']}", 1000)))
    if page["diff"]:
        console.print(Syntax(plain_lines(page["diff"]), "diff", background_color="default", word_wrap=True))
    if page["costs"]:
        table = Table(title="What it costs", title_justify="left")
        for column in ("", "candidate", "incumbent"):
            table.add_column(column, justify="right" if column else "left")
        for cost in page["costs"]:
            table.add_row(cost["name"], cost["candidate"], cost["incumbent"])
        console.print(table)
    if page["rules"]:
        table = Table(title="Rules", title_justify="left")
        for column in ("stage", "rule", "", "why"):
            table.add_column(column)
        for rule in page["rules"]:
            mark = {True: "✓", False: "✗", None: "?"}[rule["passed"]]
            table.add_row(
                rule["stage"],
                Text(f"{rule['policy']}/{rule['rule']}"),
                mark,
                Text(plain(str(rule["error"] or rule["message"]))),
            )
        console.print(table)
    if page["properties"]:
        table = Table(title="Properties (searched for counterexamples, on development items)", title_justify="left")
        for column in ("property", "", "found"):
            table.add_column(column)
        for each in page["properties"]:
            mark = "✗" if each["verdict"] == "refuted" else ""
            table.add_row(Text(f"{each['name']} ({each['where']})"), mark, Text(plain(each["found"], 1000)))
        console.print(table)
    if page["evidence_by_gate"]:
        table = Table(title="Gates (held-out: confidential)", title_justify="left")
        for column in ("gate", "verdict", "items", "mean", "interval", "must exceed", "log e", "of"):
            table.add_column(column)
        for gate in page["evidence_by_gate"]:
            mean = "" if gate["mean"] is None else f"{gate['mean']:+.4f}"
            low, high = gate["interval"]
            table.add_row(
                Text(gate["name"]),
                gate["verdict"],
                str(gate["n"]),
                mean,
                f"[{low:+.3f}, {high:+.3f}]".replace("[", r"\["),
                f"{gate['theta']:+.3f}",
                f"{gate['log_e']:.2f}",
                f"{gate['threshold']:.2f}",
            )
        console.print(table)
        for gate in page["evidence_by_gate"]:
            console.print(Text(f"  {gate['line']}"), soft_wrap=True)
    for hold in page["people"]:
        title = f"People, {hold['stage']} ({hold['outcome']}; {hold['require']} must agree): "
        title += ", ".join([*hold["gates"], *hold["rules"]])
        console.print(Text(plain(title, 1000), style="bold"))
        for each in hold["answers"]:
            why = f": {each['reason']}" if each["reason"] else ""
            console.print(
                Text(plain(f"  {each['verdict']} by {each['by']} ({each['role']}, {each['key']}){why}", 2000))
            )
        if not hold["answers"]:
            console.print(Text(f"  nobody has answered; it waits until {hold['expires']}"))
    console.print(Text("Trail", style="bold"))
    for row in page["trail"]:
        console.print(Text(f"  {row['index']:>4}  {row['time'][:19]}  {row['kind']:<11} {row['text']}"), soft_wrap=True)
