"""Holds at work: a proposal is put on hold, answers are taken in, and a second decision follows.

People leave signed answers in the run's `approvals/` (see `approving`), whether a supervisor is at work or not; it
takes them in, an entry each, whenever it goes on. What does not count is put aside, with the reason beside it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from harness.approval import Answer, answered_by
from harness.canonical import digest, parse_json
from harness.decision import answerable, ceilings
from harness.desk import Desk
from harness.durable import write_durably
from harness.entries import Approved, Decided, Held, Refused, Screened
from harness.errors import AuditError, StateError
from harness.folder import RunFolder
from harness.journal import Journal
from harness.judgement import Judgement
from harness.records import Decision, Digest
from harness.regular import read_regular
from harness.rules import answered_document

MAX_ANSWER = 1 << 15
MAX_NAME = 200
"""Bytes: what stands beside it has a longer name, and file systems end at 255."""
ASIDE = ".rejected"
"""What an answer that does not count is renamed by; the reason lies beside it, with `.why` at its end."""


@dataclass(frozen=True)
class Answered:
    """What was shown to the rules once a quorum had approved, and what they say of it."""

    document: dict[str, Any]
    judgement: Judgement


class Holding(Desk):
    """The people's side of the supervisor."""

    def hold(self, number: int, stage: Literal["screen", "decide"], judgement: Judgement, *kept: Digest) -> None:
        """Let a proposal wait for people, whom rules ask for, or ceilings that it is not shown to be below.

        `kept` are the document that was judged and the judgement, as blobs.
        """
        rooms, state, found = self._rooms, self.state, self._of(number)
        rule, guard = rooms.config.approvers, state.guarding
        if rule is None:
            raise StateError("nobody can answer a hold: the run has no approvers")
        document, judged = kept
        asking = ceilings(found.measured.gates) if stage == "decide" and found.measured else ()
        expires = datetime.now(UTC) + timedelta(hours=rule.hours)
        self._journal.commit(
            Held(
                origin=guard.origin,
                number=number,
                stage=stage,
                incumbent=state.incumbent.digest,
                guard=guard.guard,
                policies=guard.policies,
                document=document,
                judgement=judged,
                candidate=found.built.candidate.digest if stage == "decide" and found.built else None,
                rules=judgement.failed,
                gates=list(asking) or None,
                expires=expires.isoformat(timespec="milliseconds"),
            )
        )

    @property
    def possible(self) -> bool:
        """Whether there is anybody to ask."""
        return self._rooms.config.approvers is not None

    @property
    def _require(self) -> int:
        rule = self._rooms.config.approvers
        return rule.require if rule else 1

    def _against(self, number: int) -> Decision | None:
        """The rejection that a hold has come to by now, if it has."""
        hold, now = self._of(number).hold, datetime.now(UTC).isoformat(timespec="milliseconds")
        return None if hold is None else hold.ended(self._require, now, self.state.incumbent.digest)

    def answer(self, number: int) -> Answered | Decision | None:
        """What people's answers come to: what was judged with them in it, a rejection, or None while it waits."""
        rooms, state, found = self._rooms, self.state, self._of(number)
        hold = found.hold
        if hold is None:
            return None
        against = self._against(number)
        if against is not None or len(hold.approvals) < self._require:
            return against
        shown = judged_document(rooms.blobs.get(hold.said.document))
        document = answered_document(shown, state, rooms.config, found, hold.facts)
        judgement = rooms.judge.decide(rooms.policies, hold.stage, document["proposal"]["kind"], document)
        # A rule that speaks of approvals may ask for more of them, or for other people: then it goes on waiting.
        return None if judgement.outcome == "hold" and not answerable(judgement) else Answered(document, judgement)

    def go_on(self, number: int, entry: Screened | Decided) -> bool:
        """Commit what lets a proposal go on, or the rejection that came due while it was judged; StateError."""
        try:
            self._journal.commit(entry)
        except StateError:
            against = self._against(number)
            if against is None:
                raise
            self._reject(number, against)
            return False
        return True

    def take_in(self) -> None:
        """Enter every answer that lies in `approvals/`; one that does not count is put aside, with the reason.

        Whoever may write there cannot stop the run: what cannot be moved stays, and counts as little the next time.
        """
        take_in(self._rooms.folder, self._journal)


def take_in(folder: RunFolder, journal: Journal) -> None:
    """The same, without a supervisor."""
    try:
        inbox = folder.approvals
        paths = list(inbox.glob("*.json")) if inbox.is_dir() and not inbox.is_symlink() else []
    except OSError:
        return
    for path in sorted(paths, key=_arrival):
        try:
            _enter(Answer.read(_bytes(path)), journal)
        except (AuditError, StateError) as error:
            _put_aside(path, str(error))
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _enter(answer: Answer, journal: Journal) -> None:
    state = journal.state
    held: dict[Digest, int | None] = {hold.digest: n for n in state.held if (hold := state.proposals[n].hold)}
    if state.change is not None:
        held[state.change.hold.digest] = None
    if answer.hold not in held:
        raise AuditError("no open hold of this run has this digest: it may have been decided, or begun anew")
    parts = (answer.hold, answer.verdict, answer.reason, answer.signature)
    approver = answered_by(*parts, state.guarding.approvers)
    kind = Approved if answer.verdict == "approve" else Refused
    journal.commit(
        kind(
            number=held[answer.hold],
            hold=answer.hold,
            by=approver.name,
            key=approver.key,
            reason=answer.reason,
            signature=answer.signature,
        )
    )


def _arrival(path: Path) -> tuple[int, str]:
    """When an answer was left, and its name."""
    try:
        return path.lstat().st_mtime_ns, path.name
    except OSError:  # taken away meanwhile: reading it will say so
        return 0, path.name


def judged_document(data: bytes) -> dict[str, Any]:
    """A document that was judged, from its blob, without the salt; StateError."""
    value = parse_json(data, max_bytes=16 << 20)
    if not isinstance(value, dict):
        raise StateError("a document that was judged is no object")
    return {name: each for name, each in value.items() if name != "salt"}


def _put_aside(path: Path, why: str) -> None:
    """Rename what does not count, and say why beside it, as far as the folder lets us."""
    aside = path.with_suffix(ASIDE)
    if len(os.fsencode(aside.name)) > MAX_NAME:
        aside = path.with_name(digest(os.fsencode(path.name))[7:23] + ASIDE)
    with contextlib.suppress(OSError):
        path.rename(aside)
        write_durably(aside.with_suffix(f"{ASIDE}.why"), f"{why}\n".encode(errors="backslashreplace"), mode=0o644)


def _bytes(path: Path) -> bytes:
    """An answer as it lies there; AuditError."""
    try:
        return read_regular(path, MAX_ANSWER)
    except OSError as error:
        raise AuditError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise AuditError(str(error), where=str(path)) from error
