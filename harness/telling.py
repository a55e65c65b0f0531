"""What is told of one proposal, derived in one place: `lockgate show` prints it, the review pages draw it.

A `Notebook` keeps of a log what pages need, while it is followed: a line for each entry that is about a proposal, the
events of the run as a whole, and the keys that signed. `proposal_page` joins it with the folded state and the blobs.
A blob that is missing or is not what it should be is told as such: it hides nothing else.

With `confidential=False` everything that held-out items say is left out: the evidence, and of the rules that saw it
(the decide stage) all but their verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from harness.approval import fingerprint
from harness.artifacts import BlobStore
from harness.canonical import parse_json
from harness.costs import cost_rows
from harness.entries import (
    Approved,
    Authorised,
    Entry,
    GuardChanged,
    GuardProposed,
    GuardRejected,
    Halted,
    Intended,
    KeyRotated,
    Promoted,
    Refused,
    Resumed,
    RolledBack,
    Started,
    Voided,
    Watched,
)
from harness.errors import ConfigError, LockgateError
from harness.journal import Step
from harness.kinds import kind_of
from harness.merkle import leaf_hash
from harness.plain import plain
from harness.plain_gates import asking, claims
from harness.proposal import unified_diff
from harness.quorum import Approver
from harness.records import Candidate, Digest, Record
from harness.state import ProposalState, RunState
from harness.trail import told
from harness.views import evidence_view, properties_of, property_words, proposal_view

MAX_BLOB = 16 << 20
MAX_FILE = 1 << 20
"""Bytes of a source file that a diff reads."""


class Line(Record):
    """One entry in words: where it stands, who signed it, and the hash of its leaf."""

    index: int
    kind: str
    time: str
    text: str
    signer: str
    """The digest of the key that signed it."""
    leaf: str


@dataclass
class Notebook:
    """What is kept of a log while it is followed. Small: the words of entries, not their bytes."""

    lines: dict[int, list[Line]] = field(default_factory=dict)
    """By the number of the proposal that they are about."""
    events: list[tuple[Line, Entry]] = field(default_factory=list)
    """Of the run as a whole: starts, halts, rollbacks, other keys, changes of the guard."""
    authorisations: dict[int, Authorised] = field(default_factory=dict)
    """By number of the proposal."""
    answers: dict[str, list[Approved | Refused]] = field(default_factory=dict)
    """By the digest of the hold that they answer."""
    watches: dict[int, Watched] = field(default_factory=dict)
    """By version: the first smoke test after its promotion."""
    voids: dict[int, Voided] = field(default_factory=dict)
    undone: dict[int, Line] = field(default_factory=dict)
    """By version: the rollback that ended its first time as the live one."""
    signers: dict[str, int] = field(default_factory=dict)
    """Keys by digest, with the first entry that each signed."""
    size: int = 0
    _numbers: dict[int, int] = field(default_factory=dict)
    """Version → the proposal that it came from."""
    _live: int = 0

    def take(self, step: Step[RunState]) -> None:
        """Note one entry, verified and legal."""
        entry = step.entry
        line = Line(
            index=step.index,
            kind=kind_of(entry),
            time=entry.time,
            text=plain(told(entry), 4000),
            signer=step.signer.key_digest,
            leaf=leaf_hash(step.raw).hex(),
        )
        self.size = step.index + 1
        self.signers.setdefault(line.signer, step.index)
        number = self._about(entry)
        if number is not None:
            self.lines.setdefault(number, []).append(line)
        match entry:
            case Authorised():
                self.authorisations[entry.number] = entry
                self._numbers[entry.version] = entry.number
            case Approved() | Refused():
                self.answers.setdefault(entry.hold, []).append(entry)
                if number is None:
                    self.events.append((line, entry))
            case Watched():
                self.watches.setdefault(entry.version, entry)
            case Voided():
                self.voids[entry.number] = entry
            case RolledBack():
                self.undone.setdefault(self._live, line)
                self.events.append((line, entry))
            case Started() | Halted() | Resumed() | KeyRotated() | GuardProposed() | GuardRejected() | GuardChanged():
                self.events.append((line, entry))
        self._live = step.state.live

    def _about(self, entry: Entry) -> int | None:
        number: int | None = getattr(entry, "number", None)
        match entry:
            case Intended(action="promote") | Watched() | Promoted():
                return self._numbers.get(entry.version)
            case RolledBack():
                return self._numbers.get(self._live)
        return number


def proposal_page(
    blobs: BlobStore,
    state: RunState,
    notebook: Notebook,
    number: int,
    *,
    known: dict[str, tuple[Candidate, dict[str, float]]] | None = None,
    confidential: bool = True,
) -> dict[str, Any]:
    """Everything that the log and its blobs say of one proposal. ConfigError where there is none of that number.

    `known` is `state.candidates()`, where the caller has it already.
    """
    found = state.proposals.get(number)
    if found is None:
        raise ConfigError(f"no proposal {number}", remedy=f"there are 1 to {len(state.proposals)}")
    known = state.candidates() if known is None else known
    page = proposal_view(found)
    page["problems"] = problems = list[str]()
    page["document"] = _document(blobs, found.proposed.document, problems)
    page["change"], page["start"], page["files"], page["diff"], page["base"] = None, None, [], "", None
    if found.screened is not None:
        page["base"] = found.screened.base
        page["change"] = _member(blobs, found.screened.change, "change", dict, problems)
        page["start"] = _start((page["change"] or {}).get("start"))
        page["files"] = _diffs(known, found.screened.base, found.screened.source, blobs, problems)
        page["diff"] = "".join(text for _, text in page["files"])
    page["rules"] = []
    decided = found.judgement
    if decided is None and found.hold is not None and found.hold.stage == "decide":
        decided = found.hold.said.judgement
    for stage, name in (("screen", found.screened and found.screened.judgement), ("decide", decided)):
        for verdict in (_member(blobs, name, "verdicts", list, problems) or []) if name else []:
            if isinstance(verdict, dict):
                page["rules"].append(_rule(stage, verdict, confidential=confidential or stage == "screen"))
    page["properties"] = _properties(blobs, found, problems)
    page["evidence_by_gate"] = []
    if confidential:
        try:
            page["evidence_by_gate"] = evidence_view(found, blobs)
        except LockgateError as error:
            problems.append(f"the evidence cannot be shown: {error}")
    else:
        page["evidence"] = None
    page["costs"] = cost_rows(state, found)
    page["claims"] = claims(found.guard.config)
    page["stake"] = found.staked.json_value() if found.staked else None
    page["version"] = found.version
    page["authorisation"] = None
    if number in notebook.authorisations:
        page["authorisation"] = notebook.authorisations[number].json_value()
    page["people"] = _people(notebook, found)
    page["after"] = _after(notebook, number, found.version)
    page["trail"] = [line.json_value() for line in notebook.lines.get(number, [])]
    return page


def _properties(blobs: BlobStore, found: ProposalState, problems: list[str]) -> list[dict[str, Any]]:
    """What was found of each property, in words and in full. It is of development: nothing of it is confidential."""
    if found.developed is None or found.developed.counterexamples is None:
        return []
    try:
        judged = properties_of(found.developed, blobs)["properties"]
    except LockgateError as error:
        problems.append(f"what was found of the properties cannot be shown: {error}")
        return []
    return [{"name": name, "found": property_words(each), **each} for name, each in sorted(judged.items())]


def _people(notebook: Notebook, found: ProposalState) -> list[dict[str, Any]]:
    """What people were asked about a proposal, and what they said: each hold with its answers."""
    rule = found.guard.config.approvers
    asked = []
    for hold in (*found.released, *([found.hold] if found.hold else [])):
        ended = "let go on" if hold in found.released else "rejected" if found.decision else "waiting"
        said = hold.said
        asked.append(
            {
                "stage": hold.stage,
                "hold": hold.digest,
                "rules": said.rules,
                "gates": asking(found.guard.config, said.gates or []),
                "expires": hold.expires,
                "require": rule.require if rule else 0,
                "outcome": ended,
                "answers": answers_to(hold.digest, notebook, found.guard.approvers),
            }
        )
    return asked


def answers_to(hold: Digest, notebook: Notebook, approvers: Iterable[Approver]) -> list[dict[str, Any]]:
    """What people have said to a hold, each with the role of those who were listed then."""
    roles = {(each.name, each.key): each.role for each in approvers}
    return [
        {
            "by": each.by,
            "role": roles.get((each.by, each.key), ""),
            "key": f"{each.key.split(' ')[0]} {fingerprint(each.key)}",
            "verdict": kind_of(each),
            "reason": each.reason,
            "time": each.time,
        }
        for each in notebook.answers.get(hold, [])
    ]


def _after(notebook: Notebook, number: int, version: int | None) -> dict[str, Any]:
    """What became of it: the smoke test of its version, its end by a rollback, or why it came to nothing."""
    watched = None if version is None else notebook.watches.get(version)
    undone = None if version is None else notebook.undone.get(version)
    voided = notebook.voids.get(number)
    return {
        "watched": None if watched is None else watched.ok,
        "rolled_back": None if undone is None else undone.json_value(),
        "voided": None if voided is None else voided.reason,
    }


def _rule(stage: str, verdict: dict[str, Any], *, confidential: bool) -> dict[str, Any]:
    shown = {"stage": stage, **verdict}
    if not confidential:  # what a rule of this stage read and said may be a score
        shown |= {"values": {}, "audit": {}, "message": "", "error": None}
    return shown


def _document(blobs: BlobStore, name: str, problems: list[str]) -> Any:
    """A proposal may be any bytes; what is not JSON is shown as it is."""
    try:
        data = blobs.get(name, max_bytes=MAX_BLOB)
    except LockgateError as error:
        problems.append(f"the proposal's own bytes cannot be shown: {error}")
        return ""
    try:
        return parse_json(data, max_bytes=MAX_BLOB)
    except LockgateError:
        return data.decode("utf-8", "backslashreplace")[:4000]


def _member(blobs: BlobStore, name: str, member: str, kind: type, problems: list[str]) -> Any:
    """One member of a blob that is an object; None, and a problem, where it is not there."""
    try:
        value = parse_json(blobs.get(name, max_bytes=MAX_BLOB), max_bytes=MAX_BLOB)
    except LockgateError as error:
        problems.append(f"the {member} cannot be shown: {error}")
        return None
    found = value.get(member) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        problems.append(f"the blob {name} holds no {member}")
        return None
    return found


def _start(start: Any) -> str | None:
    """Where training begins, in one line: the method, of which candidates, and its numbers; None from scratch."""
    if not isinstance(start, dict):
        return None
    sources = start.get("sources")
    names = ", ".join(str(each)[:19] for each in sources) if isinstance(sources, list) else ""
    rest = ", ".join(f"{name} {each}" for name, each in start.items() if name not in ("method", "sources"))
    return f"{start.get('method')} from {names}{f' ({rest})' if rest else ''}"


def _diffs(
    known: dict[str, tuple[Candidate, dict[str, float]]],
    base: str,
    source: str,
    blobs: BlobStore,
    problems: list[str],
) -> list[tuple[str, str]]:
    """The unified diff of each file that differs from the base's, with its path."""
    if base not in known or known[base][0].source == source:
        return []
    try:
        old: Any = parse_json(blobs.get(known[base][0].source, max_bytes=MAX_BLOB))
        new: Any = parse_json(blobs.get(source, max_bytes=MAX_BLOB))
        parts = []
        for path in sorted({*old, *new}):
            if old.get(path) != new.get(path):
                texts = [
                    blobs.get(tree[path], max_bytes=MAX_FILE).decode("utf-8", "replace") if path in tree else ""
                    for tree in (old, new)
                ]
                parts.append((path, unified_diff(path, *texts)))
    except (LockgateError, TypeError) as error:
        problems.append(f"the source cannot be compared with its base's: {error}")
        return []
    return parts
