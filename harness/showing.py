"""One proposal on one page: the change, each rule with its values, each gate with its evidence, the decision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.artifacts import BlobStore
from harness.canonical import parse_json
from harness.entries import Entry, kind_of
from harness.errors import ConfigError
from harness.plain import plain, plain_lines
from harness.proposal import unified_diff
from harness.state import RunState
from harness.trail import told
from harness.views import evidence_view, proposal_view

MAX_BLOB = 16 << 20


def proposal_page(run: Path, state: RunState, entries: list[Entry], number: int) -> dict[str, Any]:
    """Everything that the log and its blobs say of one proposal. ConfigError where there is none of that number."""
    found = state.proposals.get(number)
    if found is None:
        raise ConfigError(f"no proposal {number}", where=str(run), remedy=f"there are 1 to {len(state.proposals)}")
    blobs = BlobStore(run / "blobs")

    def blob(name: str | None) -> Any:
        return None if name is None else parse_json(blobs.get(name), max_bytes=MAX_BLOB)

    page = proposal_view(found)
    try:
        page["document"] = blob(found.proposed.document)
    except Exception:  # noqa: BLE001 - a proposal may be any bytes; they are shown as they are
        page["document"] = blobs.get(found.proposed.document).decode("utf-8", "backslashreplace")[:4000]
    page["change"] = blob(found.screened.change)["change"] if found.screened else None
    page["diff"] = _diff(state, found.screened.base, found.screened.source, blobs) if found.screened else ""
    page["rules"] = [
        {"stage": stage, **verdict}
        for stage, name in (
            ("screen", found.screened.judgement if found.screened else None),
            ("decide", found.judgement),
        )
        if name
        for verdict in blob(name)["verdicts"]
    ]
    page["evidence_by_gate"] = evidence_view(found, blobs)
    page["trail"] = [
        {"index": index, "kind": kind_of(entry), "time": entry.time, "text": plain(told(entry), 4000)}
        for index, entry in enumerate(entries)
        if getattr(entry, "number", None) == number
    ]
    return page


def _diff(state: RunState, base: str, source: str, blobs: BlobStore) -> str:
    known = state.candidates()
    if base not in known or known[base][0].source == source:
        return ""
    old: Any = parse_json(blobs.get(known[base][0].source))
    new: Any = parse_json(blobs.get(source))
    parts = []
    for path in sorted({*old, *new}):
        if old.get(path) != new.get(path):
            texts = [blobs.get(tree[path]).decode("utf-8", "replace") if path in tree else "" for tree in (old, new)]
            parts.append(unified_diff(path, *texts))
    return "".join(parts)


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
    if page["diff"]:
        console.print(Syntax(plain_lines(page["diff"]), "diff", background_color="default", word_wrap=True))
    if page["parameters"]:
        flops = f", {page['flops']:,} FLOPs a row (the worker's word)" if page["flops"] else ""
        console.print(Text(f"  {page['parameters']:,} parameters, {page['bytes']:,} bytes{flops}"))
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
    if page["evidence_by_gate"]:
        table = Table(title="Gates (held-out: confidential)", title_justify="left")
        for column in ("gate", "verdict", "items", "mean", "interval", "must exceed", "log e", "of"):
            table.add_column(column)
        for gate in page["evidence_by_gate"]:
            mean = "" if gate["mean"] is None else f"{gate['mean']:+.4f}"
            low, high = gate["interval"]
            table.add_row(
                gate["name"],
                gate["verdict"],
                str(gate["n"]),
                mean,
                f"[{low:+.3f}, {high:+.3f}]".replace("[", r"\["),
                f"{gate['theta']:+.3f}",
                f"{gate['log_e']:.2f}",
                f"{gate['threshold']:.2f}",
            )
        console.print(table)
    console.print(Text("Trail", style="bold"))
    for row in page["trail"]:
        console.print(Text(f"  {row['index']:>4}  {row['time'][:19]}  {row['kind']:<11} {row['text']}"), soft_wrap=True)
