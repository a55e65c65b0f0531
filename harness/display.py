"""What a person sees on a terminal while a run goes on, and after it: rich tables and plain words."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.artifacts import BlobStore
from harness.canonical import parse_json
from harness.errors import LockgateError
from harness.plain import plain
from harness.plain_gates import unshown
from harness.views import result_of

_COLOUR = {"promoted": "bold green", "reject": "red", "voided": "yellow", "hold": "yellow"}
_STAGE = {
    "proposed": "screening",
    "screened": "building",
    "built": "developing",
    "developed": "waiting for the vault",
    "staked": "on the vault",
    "measured": "deciding",
}


class RunDisplay:
    """A live table on a terminal; one line an event where there is none."""

    def __init__(self, console: Console, out: Path) -> None:
        """Draw on `console` what happens to the run in `out`."""
        self._console = console
        self._out = out
        self._live: Live | None = None
        self._rows: dict[int, dict[str, Any]] = {}
        self._title = "lockgate"
        self._objective = ""
        self._note = ""
        self._budget: dict[str, Any] = {}
        self._before: set[int] = set()
        self._since = time.monotonic()
        self._lines = not console.is_terminal

    def __enter__(self) -> Self:
        """Begin to draw."""
        if not self._lines:
            self._live = Live(self._render(), console=self._console, refresh_per_second=4, transient=False)
            self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave the last picture standing."""
        if self._live:
            self._note = ""
            self._live.update(self._render())
            self._live.__exit__(None, None, None)

    def note(self, text: str) -> None:
        """Say what takes time."""
        self._note = text
        if self._lines:
            self._console.print(Text(f"· {text}"), soft_wrap=True)
        self._draw()

    def event(self, event: dict[str, Any]) -> None:
        """Take one event of the run in."""
        kind = event.get("event")
        if kind == "status":
            self._begin(event["summary"])
        elif kind == "generation":
            self.note(f"generation {event['generation']}" + (f" of {event['of']}" if event["of"] else ""))
        proposal = event.get("proposal")
        if proposal:
            self._rows[proposal["number"]] = proposal
            ended = kind in ("promoted", "voided", "improver-begun", "improver-ended") or (
                kind == "decided" and proposal["verdict"] != "promote"
            )
            if self._lines and ended:
                self._console.print(Text.from_markup(_sentence(proposal, self._score(proposal))), soft_wrap=True)
        if kind == "held" and proposal:
            self.note(f"proposal {proposal['number']} waits for people")
        if kind in ("approved", "refused"):
            self.note(f"{kind} by {event.get('by', '')}")
        if kind == "predicted":
            self.note("answering held-out items")
        if kind == "staked":
            self.note(f"proposal {proposal['number'] if proposal else ''}: held-out test")
        if kind == "rolled-back":
            self.note(f"rolled back: {event.get('reason', '')}")
        self._draw()

    def _begin(self, summary: dict[str, Any]) -> None:
        self._objective = summary["objective"]
        self._title = f"{summary['subject']} · seed {summary['seed']} · {summary['origin']}"
        self._budget = summary["budgets_left"]
        for proposal in summary["details"]:
            self._rows[proposal["number"]] = proposal
        self._before, self._since = set(self._rows), time.monotonic()
        if summary["keys"]["own"] and not summary["proposals"]:
            self._console.print(Text(summary["keys"]["meaning"]), soft_wrap=True)
        live = summary["live"]
        self.note(
            f"version {live['version']} is live: {self._objective} "
            f"{live['development'][self._objective]:.4f} in development"
        )

    def _draw(self) -> None:
        if self._live:
            self._live.update(self._render())

    def _render(self) -> Group:
        table = Table(title=escape(self._title), title_justify="left", expand=False)
        for name, justify in (("gen", "right"), ("no.", "right"), ("proposer", "left"), ("stage", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        table.add_column(f"{self._objective or 'objective'} (dev)", justify="right")
        table.add_column("gain held out", justify="right")
        table.add_column("why")
        for _, row in sorted(self._rows.items())[-24:]:
            verdict = row["verdict"]
            shown = Text(verdict or _STAGE.get(row["stage"], row["stage"]), style=_COLOUR.get(verdict or "", "cyan"))
            table.add_row(
                str(row["generation"]),
                str(row["number"]),
                Text(_who(row)),
                shown,
                _metric(row, self._objective),
                self._score(row),
                Text(_why(row), overflow="ellipsis", no_wrap=True),
            )
        return Group(table, Text(self._left(), style="dim"), Text(f"… {self._note}" if self._note else "", style="dim"))

    def _left(self) -> str:
        """What is left of the hard budgets, counted on from where this client began."""
        if not self._budget:
            return ""
        promoted = sum(row["verdict"] == "promoted" for number, row in self._rows.items() if number not in self._before)
        seconds = self._budget["wall_seconds"] - (time.monotonic() - self._since)
        return (
            f"left: {self._budget['promotions'] - promoted} promotions, "
            f"{self._budget['proposals'] - len(self._rows) + len(self._before)} proposals, {max(0.0, seconds):.0f} s"
        )

    def _score(self, row: dict[str, Any]) -> str:
        """The objective's held-out gain with its interval: for the operator, who may see it."""
        return objective_interval(self._out, row, self._objective)


def objective_interval(out: Path, row: dict[str, Any], objective: str) -> str:
    """`+0.052 [+0.013, +0.091]` from the confidential evidence; empty where there is none to be read."""
    if not row.get("evidence"):
        return ""
    try:
        value: Any = parse_json(BlobStore(out / "blobs").get(row["evidence"]), max_bytes=8 << 20)
    except LockgateError:
        return ""
    for gate in value["result"]["gates"]:
        if gate["name"] == f"{objective}/improve" and gate["mean"] is not None:
            low, high = gate["interval"]
            return f"{gate['mean']:+.3f} [{low:+.3f}, {high:+.3f}] n={gate['n']}"
    return ""


def not_shown(out: Path, row: dict[str, Any]) -> list[str]:
    """What its gates did not show of a candidate, a line each, from the confidential evidence; none where all was."""
    if not row.get("evidence") or all(gate["verdict"] == "pass" for gate in row["gates"]):
        return []
    try:
        return unshown(result_of(row["evidence"], BlobStore(out / "blobs")))
    except LockgateError:
        return []


def _who(row: dict[str, Any]) -> str:
    return plain(f"{row['proposer']}: {row['label']}" if row["label"] else str(row["proposer"]), 200)


def _metric(row: dict[str, Any], objective: str) -> str:
    development = row["development"] or {}
    return f"{development[objective]:.4f}" if objective in development else ""


def _why(row: dict[str, Any]) -> str:
    if row["verdict"] == "reject":
        return plain("; ".join(f"{why['code']}: {why['text']}" for why in row["reasons"]), 2000)
    return ""


def _sentence(row: dict[str, Any], score: str) -> str:
    verdict = row["verdict"] or row["stage"]
    colour = _COLOUR.get(verdict, "cyan")
    why = _why(row)
    tail = f" {escape(score)}" if score else ""
    return f"[{colour}]{verdict:<8}[/] {row['number']:>3} {escape(_who(row))}{tail}{': ' + escape(why) if why else ''}"


def model_line(name: str, spent: dict[str, Any]) -> str:
    """What a proposer's language model was asked, what that took, and how many replies came to nothing."""
    cost = f", {spent['cost']:g} of {spent['of_cost']:g} in cost" if "cost" in spent else ""
    vain = sum(spent["without_proposal"].values())
    told = f"; {vain} replies led to no proposal (RUN/replies/{name} says why)" if vain else ""
    tokens = f"{spent['tokens']:,} of {spent['of_tokens']:,} tokens"
    return f"Model of {name}: {spent['requests']} requests, {tokens}{cost}{told}."


def closing(console: Console, summary: dict[str, Any], out: Path) -> None:
    """The end of a run, in words: what was promoted, what was stopped and why, and what to type next."""
    objective = summary["objective"]
    versions = summary["versions"]
    first, live = versions[0]["development"][objective], summary["live"]["development"][objective]
    console.print()
    console.print(
        f"[bold]{summary['promoted']} promoted[/] of {summary['proposals']} proposals; "
        f"version {summary['live']['version']} is live: {escape(objective)} {first:.4f} → {live:.4f} (development)."
    )
    by_number = {row["number"]: row for row in summary["details"]}
    for version in versions[1:]:
        row = by_number.get(version["proposal"])
        if row:
            console.print(
                Text(
                    f"  version {version['version']}: proposal {row['number']} by {_who(row)}, "
                    f"{version['parameters']:,} parameters, held out {objective_interval(out, row, objective)}"
                ),
                soft_wrap=True,
            )
    if summary["rejected"]:
        console.print("Stopped:")
    for row in summary["details"]:
        if row["verdict"] == "reject":
            why = row["reasons"][0]
            gain = objective_interval(out, row, objective)
            console.print(
                Text(
                    f"  {row['number']:>3} {_who(row)} — {why['code']}: {plain(why['text'])}"
                    + (f" (objective {gain})" if gain else "")
                ),
                soft_wrap=True,
            )
            for told in not_shown(out, row):
                console.print(Text(f"      {told}"), soft_wrap=True)
    if screened := screen_line(summary["development_screen"]):
        console.print(Text(screened), soft_wrap=True)
    for name, spent in summary.get("models", {}).items():
        console.print(Text(model_line(name, spent)), soft_wrap=True)
    guarantee = summary["guarantee"]
    console.print(
        f"Error budget: the chance of ever promoting a candidate that is worse than a gate allows is at most "
        f"{guarantee['delta']:g} over {guarantee['scope']}.",
        soft_wrap=True,
    )
    if summary["keys"]["meaning"]:
        console.print(Text(f"Keys: {summary['keys']['meaning']}"), soft_wrap=True)
    if summary["guard_change"]:
        console.print(Text(f"Proposed: {change_line(summary['guard_change'])}"), soft_wrap=True)
    for hold in summary["holds"]:
        console.print(Text(f"Waiting for people: {held_line(hold)}"), soft_wrap=True)
        for told in not_shown(out, by_number[hold["number"]]):
            console.print(Text(f"      {told}"), soft_wrap=True)
    if summary["holds"]:
        number = summary["holds"][0]["number"]
        console.print(
            Text(f"To answer: lockgate approve {out} {number} --key KEY (or refuse); then lockgate resume {out}"),
            soft_wrap=True,
        )
    if summary["state"] == "halted":
        halted = summary["halted"]
        console.print(Text(f"The run is halted by the {halted['by']}: {plain(halted['reason'], 1000)}"), soft_wrap=True)
        console.print(Text(f"To go on: lockgate resume {out}"), soft_wrap=True)
    for each in summary["authorised"]:
        console.print(Text(_authorised(each, datetime.now(UTC))), soft_wrap=True)
    console.print(
        Text(f"Next: lockgate audit verify {out}   ·   lockgate show {out} {_interesting(summary)}"), soft_wrap=True
    )


def _authorised(told: dict[str, Any], now: datetime) -> str:
    """Until when a proposal that was authorised may go live, and what comes after."""
    left = (datetime.fromisoformat(told["expires"]) - now).total_seconds()
    who = f"Proposal {told['proposal']} was authorised as version {told['version']}"
    if left <= 0:
        return f"{who} until {told['expires']}, which is past: an authorisation expires, and this one will be voided"
    return f"{who} until {told['expires']} ({left / 60:.0f} minutes left): a run that goes on later voids it"


def _interesting(summary: dict[str, Any]) -> int:
    for hold in summary["holds"]:
        return int(hold["number"])
    for row in summary["details"]:
        if row["verdict"] == "reject" and row["gates"]:
            return int(row["number"])
    return 1


def standing(console: Console, summary: dict[str, Any]) -> None:
    """Where a run stands: a line, and the table of versions."""
    console.print(
        Text(
            f"{summary['subject']}: {summary['state']}, generation {summary['generation']}, "
            f"{summary['proposals']} proposals, epoch {summary['epoch']}, {summary['entries']} entries"
        ),
        soft_wrap=True,
    )
    if witnesses := summary.get("witnesses"):
        console.print(Text(_witnessed(witnesses)), soft_wrap=True)
    table = Table(title="Versions", title_justify="left")
    for column in ("version", "proposal", "parameters", summary["objective"], "candidate"):
        table.add_column(column, justify="left" if column == "candidate" else "right")
    for version in summary["versions"]:
        table.add_row(
            f"{version['version']}{' live' if version['live'] else ''}",
            "baseline" if version["proposal"] is None else str(version["proposal"]),
            f"{version['parameters']:,}",
            f"{version['development'][summary['objective']]:.4f}",
            version["candidate"][7:19],
        )
    console.print(table)
    left = summary["budgets_left"]
    console.print(
        f"Left: {left['promotions']} promotions, {left['proposals']} proposals, {left['wall_seconds']:.0f} s",
        soft_wrap=True,
    )


def change_line(change: dict[str, Any]) -> str:
    """A proposed change of the guard in a line."""
    by = f" ({', '.join(change['approved_by'])})" if change["approved_by"] else ""
    need = f"{len(change['approved_by'])} of {change['require']} approvals{by}" if change["require"] else "no approval"
    why = f" ({change['reason']})" if change["reason"] else ""
    return plain(
        f"the guard, proposed by {change['by']}{why}: {change['verdict'].replace('-', ' ')}; {need}, "
        f"until {change['expires'][:16]}Z; guard {change['guard']}",
        2000,
    )


def screen_line(screen: dict[str, Any]) -> str:
    """What the screen on development items has saved, in a line; empty where it stopped nothing."""
    if not screen["stopped"]:
        return ""
    tests = f"{screen['tests']} test{'s' * (screen['tests'] != 1)} on held-out ones"
    line = f"Development items stopped {screen['stopped']} before any held-out item was asked; there were {tests}"
    if screen["saved"] is None:
        return f"{line}."
    return (
        f"{line}. That saved some {screen['saved']:,} item scorings: an estimate, at the {screen['median']:,} that "
        "rejected tests of this run took in the median."
    )


def held_line(hold: dict[str, Any]) -> str:
    """A hold in a line: what asks for people, how many have agreed, and until when it waits."""
    by = f" ({', '.join(hold['approved_by'])})" if hold["approved_by"] else ""
    more = ", and a rule asks for more" if len(hold["approved_by"]) >= hold["require"] else ""
    asks = ", ".join([*hold["gates"], *hold["rules"]])
    return plain(
        f"proposal {hold['number']} by {hold['proposer']}, {hold['stage']}: {asks}; "
        f"{len(hold['approved_by'])} of {hold['require']} approvals{by}{more}, until {hold['expires'][:16]}Z",
        2000,
    )


def _witnessed(told: dict[str, Any]) -> str:
    """What the witnesses have signed, and what stands in the way, in a line."""
    line = (
        f"Witnesses: {len(told['cosigned'])} of {len(told['of'])} have cosigned the head of {told['size']} entries, "
        f"{told['required']} required"
    )
    problems = "; ".join(f"{plain(name)}: {plain(why, 300)}" for name, why in sorted(told["problems"].items()))
    return f"{line}; {problems}" if problems else line
