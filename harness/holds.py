"""A hold: a proposal that waits for people, and what their answers come to. Pure: no clock, no I/O.

Answers count once for each person and once for each key, before the hold expires, never from whom the proposal came.
One refusal ends it. The hold lets its proposal go on only while what it was about still stands: the incumbent has not
moved, and neither guard nor policies have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from harness.approval import Said, answered_by
from harness.canonical import digest_json
from harness.decision import reject
from harness.entries import Approved, GuardProposed, Held, Refused
from harness.errors import AuditError, StateError
from harness.quorum import Approver
from harness.records import Decision, Digest


@dataclass(frozen=True)
class Hold:
    """One hold with the answers that it has so far."""

    digest: Digest
    """Of the body: what approvers sign."""
    stage: str
    """`screen` or `decide`; `guard` for a change of the guard, which waits as proposals do."""
    incumbent: Digest
    """Over which it stands: the live candidate, or the guard in force."""
    expires: str
    approvals: tuple[tuple[Digest, Approver], ...] = ()
    """The digest of each approval's body, and whose it is, in the order of the log."""
    refused: tuple[Approver, str] | None = None
    """Who refused, and why: then nothing more is answered."""
    entry: Held | GuardProposed | None = None
    """All that it says; None where a verification goes on from a saved state."""

    @classmethod
    def of(cls, entry: Held | GuardProposed) -> Hold:
        """Open a hold."""
        if isinstance(entry, GuardProposed):
            return cls(entry.digest, "guard", entry.base, entry.expires, entry=entry)
        return cls(digest_json(entry.json_value()), entry.stage, entry.incumbent, entry.expires, entry=entry)

    @property
    def said(self) -> Held:
        """The entry that holds a proposal; StateError where only its order is known, or where it is the guard's."""
        if not isinstance(self.entry, Held):
            raise StateError("of this hold only its place in the order is known, or it holds no proposal")
        return self.entry

    @property
    def guard(self) -> GuardProposed:
        """The entry that proposes another guard; StateError where it is none, or only its order is known."""
        if not isinstance(self.entry, GuardProposed):
            raise StateError("this is no change of the guard, or only its place in the order is known")
        return self.entry

    @property
    def facts(self) -> list[dict[str, str]]:
        """The approvals as rules read them."""
        return [{"by": approver.name, "role": approver.role} for _, approver in self.approvals]

    @property
    def approvers(self) -> list[str]:
        """The names of those who approved."""
        return [approver.name for _, approver in self.approvals]

    @property
    def answered(self) -> list[str]:
        """Name and key of each who has answered, in order."""
        who = [approver for _, approver in self.approvals] + ([self.refused[0]] if self.refused else [])
        return [word for approver in who for word in (approver.name, approver.key)]

    def with_answer(
        self, entry: Approved | Refused, approvers: Sequence[Approver], proposer: str
    ) -> tuple[Hold, Approver]:
        """The hold with one answer more, and whose it is; AuditError where that does not count."""
        if entry.hold != self.digest:
            raise AuditError("an answer to another hold")
        if self.refused is not None:
            raise AuditError(f"{self.refused[0].name} has refused it: nothing more is answered")
        said: Said = "approve" if isinstance(entry, Approved) else "refuse"
        approver = answered_by(entry.hold, said, entry.reason, entry.signature, approvers)
        if (approver.name, approver.key) != (entry.by, entry.key):
            raise AuditError("the signature is not that of whom the entry names")
        if approver.name == proposer:
            raise AuditError(f"{approver.name} answers their own proposal")
        if {approver.name, approver.key} & {*self.answered}:
            raise AuditError(f"{approver.name} has answered already")
        if expired(entry.time, self.expires):
            raise AuditError("the hold has expired")
        if isinstance(entry, Refused):
            return replace(self, refused=(approver, entry.reason)), approver
        return replace(self, approvals=(*self.approvals, (digest_json(entry.json_value()), approver))), approver

    def why_not(self, require: int, time: str, incumbent: Digest) -> str | None:
        """Why the proposal may not go on at `time`; None where people have let it."""
        if self.refused is not None:
            approver, reason = self.refused
            return f"{approver.name} refused" + (f": {reason}" if reason else "")
        if self.incumbent != incumbent:
            return f"the {'guard' if self.stage == 'guard' else 'incumbent'} has moved since it was held"
        if expired(time, self.expires):
            return f"{len(self.approvals)} of {require} approvals were there when it expired at {self.expires}"
        if len(self.approvals) < require:
            return f"{len(self.approvals)} of {require} approvals"
        return None

    def ended(self, require: int, time: str, incumbent: Digest) -> Decision | None:
        """The rejection that it has come to by `time`; None while it waits, or where people have let it go on."""
        why = self.why_not(require, time, incumbent)
        if why is None:
            return None
        if self.refused is not None:
            return reject("hold-refused", why)
        if self.incumbent != incumbent:
            return reject("interrupted", why)
        return reject("hold-unanswered", why) if expired(time, self.expires) else None


def expired(time: str, expires: str) -> bool:
    """Whether an instant is not before another; what cannot be compared has expired."""
    try:
        return datetime.fromisoformat(time) >= datetime.fromisoformat(expires)
    except (ValueError, TypeError):
        return True
