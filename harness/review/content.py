"""What stands on the pages, as plain records for the templates: derived from the folded state, in words and rows.

Nothing here knows HTML. What needs a picture is drawn by `drawing`; everything else is text, however hostile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from harness.artifacts import BlobStore
from harness.review.drawing import Node, interval, lineage, process, times
from harness.state import ProposalState, RunState
from harness.telling import Notebook
from harness.views import meaning, summary

__all__ = ["Pages", "decision", "index"]

STAGES = ("proposed", "screened", "built", "developed", "staked", "predicted", "measured", "decided", "authorised")
MOST_NODES = 240
"""Of more candidates than this, the picture of the lineage shows those that went live, and what they came from."""
MOST_LINES = 1500
"""Of a file's diff."""

FATES = {
    "promoted": "promoted",
    "undone": "promoted, and rolled back later",
    "reject": "rejected",
    "voided": "allowed, and then voided",
    "hold": "on hold",
    "promote": "allowed",
    "open": "not decided yet",
}

GUARDS = {
    "at-least-as-strict": "No bar is lowered, so that nobody need be asked.",
    "weaker": "A bar is lowered: people must agree.",
    "unknown": "It is not shown to be as strict: people must agree.",
}


@dataclass(frozen=True)
class Pages:
    """One set of pages under construction: the verified run, and what may be shown of it."""

    report: dict[str, Any]
    """What the verification said, which was made while these pages were written."""
    state: RunState
    notebook: Notebook
    public: bool
    """Leave out what held-out items say."""
    guards: list[dict[str, Any]]
    """Every change of the guard that was proposed (`guard_history`)."""
    blobs: BlobStore
    """Where the evidence of tests lies, for what the pages may show of it."""

    def fate(self, found: ProposalState) -> str:
        """What became of a proposal: a key of FATES."""
        if found.version is not None and found.outcome == "promoted":
            return "undone" if found.version in self.notebook.undone else "promoted"
        if found.outcome == "voided":
            return "voided"
        if found.decision is None:
            return "hold" if found.hold is not None else "open"
        return found.decision.verdict


def page_of(number: int) -> str:
    """Where the page of a proposal lies, from the index."""
    return f"decisions/{number}.html"


def index(pages: Pages) -> dict[str, Any]:
    """The first page: where the run stands, who came from whom, and everything that happened, in order."""
    state, told = pages.state, summary(pages.state, None if pages.public else pages.blobs)
    spent = state.alphas
    return {
        "title": told["subject"],
        "told": told,
        "report": pages.report,
        "spent": spent,
        "spent_share": min(1.0, spent / told["guarantee"]["delta"]),
        "reasons": [(code, count, meaning(code)) for code, count in told["rejected"].items()],
        "versions": [_version(pages, row) for row in told["versions"]],
        "lineage": _lineage(pages),
        "generations": _timeline(pages),
        "guards": pages.guards,
        "guard_words": GUARDS,
        "guard_badge": {"in force": "promoted", "replaced": "undone", "rejected": "reject", "open": "open"},
        "bar_words": {"at-least-as-strict": "not lowered", "weaker": "lowered", "unknown": "not known"},
        "signers": sorted(pages.notebook.signers.items(), key=lambda pair: pair[1]),
        "keys": [key.vkey for key in state.keys],
        "words": FATES,
    }


def _version(pages: Pages, row: dict[str, Any]) -> dict[str, Any]:
    undone = pages.notebook.undone.get(row["version"])
    if row["live"]:
        fate = "live"
    elif undone is not None:
        fate = f"rolled back at entry {undone.index}"
    else:
        fate = "replaced"
    page = None if row["proposal"] is None else page_of(row["proposal"])
    objective = pages.state.guarding.config.objective
    return {**row, "fate": fate, "page": page, "score": row["development"].get(objective)}


def _timeline(pages: Pages) -> list[dict[str, Any]]:
    """Generations in order, each with its proposals; what happened to the run as a whole stands where it happened."""
    rows: dict[int, list[dict[str, Any]]] = {0: []}
    begun: dict[int, int] = {}
    for number, found in sorted(pages.state.proposals.items()):
        generation = found.proposed.generation
        at = pages.notebook.lines[number][0].index
        begun.setdefault(generation, at)
        rows.setdefault(generation, []).append({"at": at, "event": None, **_row(pages, found)})
    for line, _ in pages.notebook.events:
        inside = max((generation for generation, at in begun.items() if at <= line.index), default=0)
        rows[inside].append({"at": line.index, "event": line})
    return [
        {"number": generation, "rows": sorted(rows[generation], key=lambda row: row["at"])}
        for generation in sorted(rows)
        if rows[generation]
    ]


def _row(pages: Pages, found: ProposalState) -> dict[str, Any]:
    """One proposal in a row."""
    objective = found.guard.config.objective
    fate = pages.fate(found)
    why = "" if found.decision is None or fate in ("promoted", "undone") else found.decision.reasons[0].text
    return {
        "number": found.proposed.number,
        "page": page_of(found.proposed.number),
        "proposer": found.proposed.proposer,
        "label": found.proposed.label,
        "fate": fate,
        "code": "" if found.decision is None else found.decision.reasons[0].code,
        "why": why,
        "score": found.developed.development.get(objective) if found.developed else None,
    }


def _lineage(pages: Pages) -> dict[str, Any]:
    """The picture of who came from whom, and whether somebody had to be left out of it."""
    state = pages.state
    built = [found for _, found in sorted(state.proposals.items()) if found.built is not None]
    left_out = 0
    if len(built) > MOST_NODES:
        kept = [found for found in built if found.version is not None]
        left_out, built = len(built) - len(kept), kept
    places = {state.baseline.digest: 0}
    for place, found in enumerate(built, 1):
        places.setdefault(_digest(found), place)
    parents = {place: _parent(places, place, found) for place, found in enumerate(built, 1)}
    chain = {0}
    live: int | None = next((p for p, found in enumerate(built, 1) if found.version == state.live), 0)
    while live:
        chain.add(live)
        live = parents[live]
    generations = sorted({found.proposed.generation for found in built})
    nodes = [Node("start", "the baseline", "baseline", 0, 0, None, None, live=state.live == 0, ancestor=True)]
    columns: dict[int, int] = {}
    for place, found in enumerate(built, 1):
        row = 1 + generations.index(found.proposed.generation)
        columns[row] = columns.get(row, -1) + 1
        fate = pages.fate(found)
        drawn = {"reject": "rejected", "promote": "open", "hold": "open"}.get(fate, fate)
        number = found.proposed.number
        title = f"no. {number} by {found.proposed.proposer}: {FATES[fate]}"
        parent = parents[place]
        nodes.append(
            Node(
                f"{number}", title, drawn, row, columns[row], parent, page_of(number),
                live=found.version is not None and found.version == state.live, ancestor=place in chain,
            )
        )  # fmt: skip
    drawing = lineage(nodes, ["start", *(f"gen. {generation}" for generation in generations)])
    return {"svg": drawing, "left_out": left_out}


def _digest(found: ProposalState) -> str:
    return found.built.candidate.digest if found.built else ""


def _parent(places: dict[str, int], place: int, found: ProposalState) -> int:
    """The place of what a candidate came from; of the baseline, where that is not drawn. It always lies before."""
    base = places.get(found.screened.base if found.screened else "", 0)
    return base if base < place else 0


def decision(pages: Pages, page: dict[str, Any], proofs: dict[int, list[str]]) -> dict[str, Any]:
    """The page of one proposal, from what `telling.proposal_page` says; `proofs` are the inclusion proofs by entry."""
    number = page["number"]
    found = pages.state.proposals[number]
    fate = pages.fate(found)
    numbers = sorted(pages.state.proposals)
    place = numbers.index(number)
    return {
        **page,
        "title": f"Proposal {number}: {FATES[fate]}",
        "fate": fate,
        "words": FATES,
        "report": pages.report,
        "public": pages.public,
        "previous": numbers[place - 1] if place else None,
        "next": numbers[place + 1] if place + 1 < len(numbers) else None,
        "stages": _stages(found, page["trail"]),
        "rationale": _rationale(page["document"]),
        "raw": page["document"] if isinstance(page["document"], str) else None,
        "diffs": [_diff(path, text) for path, text in page["files"]],
        "gates_told": [_gate(gate, page["claims"]) for gate in page["evidence_by_gate"]],
        "metrics": _metrics(pages, found),
        "properties": page["properties"],
        "rules": sorted(page["rules"], key=lambda rule: (rule["passed"] is True, rule["stage"] != "screen")),
        "proofs": proofs,
    }


def _stages(found: ProposalState, trail: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The way that a proposal took: each stage with its first entry, and where it ended."""
    kinds: dict[str, dict[str, Any]] = {}
    for line in trail:
        kinds.setdefault(line["kind"], line)
    names = [*STAGES, "promoted"] if "authorised" in kinds or found.outcome else list(STAGES[:-1])
    return [{"name": name, "entry": kinds[name]["index"] if name in kinds else None} for name in names]


def _rationale(document: Any) -> list[str]:
    """What the proposer says for itself, a line each: a stranger's words."""
    text = document.get("rationale") if isinstance(document, dict) else None
    return text.split("\n")[:200] if isinstance(text, str) and text else []


def _diff(path: str, text: str) -> dict[str, Any]:
    """A unified diff as lines, each with what it does."""
    kinds = {"+": "added", "-": "removed", "@": "place"}
    lines = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
    told = [
        {"kind": "file" if line.startswith(("+++ ", "--- ")) and at < 2 else kinds.get(line[:1], ""), "text": line}
        for at, line in enumerate(lines[:MOST_LINES])
    ]
    return {"path": path, "lines": told, "left_out": max(0, len(lines) - MOST_LINES)}


def _metrics(pages: Pages, found: ProposalState) -> list[dict[str, Any]]:
    """What was measured on development items: the candidate beside the baseline."""
    genesis = pages.state.genesis
    if found.developed is None or genesis is None:
        return []
    return [
        {"name": name, "candidate": value, "baseline": genesis.development.get(name)}
        for name, value in sorted(found.developed.development.items())
    ]


def _gate(gate: dict[str, Any], claims: dict[str, str]) -> dict[str, Any]:
    """A gate in words, and drawn."""
    low, high = gate["interval"]
    if gate["verdict"] == "pass":
        words = f"Shown after {gate['n']:,} held-out items: were it not so, evidence as strong as this would appear "
        words += f"with probability at most {_probability(-gate['threshold'])}, however often one looks."
    elif gate["verdict"] == "fail":
        words = (
            f"Given up after {gate['n']:,} held-out items: what was left of them could hardly have shown it any more."
        )
    else:
        words = f"Not shown within {gate['n']:,} held-out items."
    paired = gate["name"].rpartition("/")[2] in ("improve", "parent", "anchor")
    counts = ""
    if paired:
        counts = f"{gate['wins']:,} items better, {gate['losses']:,} worse, {gate['ties']:,} the same"
    return {
        **gate,
        "claim": claims.get(gate["name"], gate["name"]),
        "in_words": words,
        "counts": counts,
        "times": times(gate["log_e"]),
        "asked": times(gate["threshold"]),
        "process": process(gate) if gate["trajectory"] else "",
        "interval_svg": interval(gate["mean"], low, high, gate["theta"], "above"),
        "low": low,
        "high": high,
    }


def _probability(log_alpha: float) -> str:
    return f"{math.exp(log_alpha):.2g}"
