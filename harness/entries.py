"""What the log may say: one record for the body of each kind of entry.

A body that is not one of these does not enter the log, and one read back that does
not validate is an AuditError. Every body carries the wall-clock `time` at which it
was written. Decisions read it from there alone: where a policy asks for time, budgets or history.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, PrivateAttr, StringConstraints

from harness.canonical import digest_json
from harness.config import Config
from harness.quorum import Approver
from harness.records import Candidate, Count, Decision, Digest, GateVerdict, PropertyVerdict, Proposed, Record, Timed


def _an_instant(text: str) -> str:
    """A time is one of the calendar; ValueError for the thirtieth of February."""
    datetime.fromisoformat(text)
    return text


_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|\+00:00)$"
Time = Annotated[str, StringConstraints(pattern=_TIME), AfterValidator(_an_instant)]
"""FORMAT §1.4, in ASCII digits: pydantic's class of digits has those of every script."""
LedgerRoot = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Entry(Record):
    """The base of all bodies."""

    time: str = ""

    def json_value(self) -> dict[str, Any]:
        """The body as it is written. A member that came later than the first logs is left out where it says nothing."""
        value = super().json_value()
        return {name: each for name, each in value.items() if each is not None or name not in LATER}


LATER = frozenset({"asked", "charged", "timed", "properties", "counterexamples", "read"})


class Guarding(Entry):
    """What guards a run from some entry on: the part that `genesis` lays down, and that a change of guard replaces."""

    origin: str
    config: Config
    guard: Digest
    policies: Digest
    policy_sources: Digest
    """The policies' texts and params, as a blob: what a replay judges by."""
    eval_kinds: dict[str, str]
    approvers: list[Approver]
    """Who may answer holds, as the subject's allowed_signers lists them; none where nobody can."""
    data: Digest
    """Every development and vault item with its label, blinded by the vault key."""
    vault_items: Count
    harness: str


class Genesis(Guarding):
    """The run's configuration, guard, baseline, and the commitment to the vault key. Authorises the baseline."""

    seed: Count
    baseline: Candidate
    development: dict[str, float]
    answers: Digest
    """The baseline's answers on the development items."""
    asked: Digest | None = None
    """What it answered to evals that ask, as a table; None where there are none."""
    properties: dict[str, Literal["held"]] | None = None
    """The properties to which it has shown no counterexample; None where there are none."""
    counterexamples: Digest | None = None
    """What was tried of them, as a blob."""
    training: Digest
    """The training tensors."""
    vault_commitment: Digest
    vault_minimum: Count
    """With fewer unspent items no test is begun."""
    vault_named: bool


class Started(Entry):
    """A supervisor began, or began again: which sandbox, which device, which process (by nonce)."""

    nonce: str
    isolation: str
    device: str
    ledger_size: Count
    """Entries of the vault's ledger at this moment, and its root: an older ledger is refused from here on."""
    ledger_root: LedgerRoot


class ProposedEntry(Entry, Proposed):
    """One slot of a generation is filled."""


class Screened(Entry):
    """What a proposal would really change, and what the static rules say of it."""

    number: Count
    base: Digest
    recipe: dict[str, Any]
    source: Digest
    change: Digest
    """The effective change with its diff, as a blob."""
    document: Digest
    """What the static rules were shown, as a blob."""
    judgement: Digest
    """Every rule's verdict with its values, as a blob."""
    outcome: Literal["pass", "deny", "hold", "invalid"]
    failed: list[str]
    """The ids of the static rules that failed; the proposer may see them."""


class Held(Entry):
    """A proposal waits for people. Approvers sign the digest of this body (FORMAT §5.9): all that they agree to."""

    origin: str
    number: Count
    stage: Literal["screen", "decide"]
    incumbent: Digest
    guard: Digest
    policies: Digest
    document: Digest
    """What the rules were shown, as a blob."""
    judgement: Digest
    candidate: Digest | None = None
    """None at the screen, where nothing is built yet."""
    rules: list[str]
    """The rules that ask for people, as policy/rule."""
    gates: list[str] | None = None
    """The ceilings that ask for people, as eval/kind, sorted; None, and not written, where there are none."""
    expires: Time

    def json_value(self) -> dict[str, Any]:
        """As the log has it: what no gate asks for reads as it did before any gate could ask."""
        value = super().json_value()
        if self.gates is None:
            del value["gates"]
        return value


class Answered(Entry):
    """What `approved` and `refused` say: who answered a hold, by an SSH signature over its digest and the verdict."""

    number: Count | None = None
    """The proposal that is held; None where it is a change of the guard."""
    hold: Digest
    by: str
    key: str
    """`TYPE BASE64`."""
    reason: str
    signature: str
    """Base64 of the SSH signature (PROTOCOL.sshsig)."""


class Approved(Answered):
    """A person lets a held proposal go on."""


class Refused(Answered):
    """A person refuses a held proposal: one is enough."""


class GuardProposed(Guarding):
    """What is to guard the run from here on. Its digest is what people sign, where they must (FORMAT §5.9)."""

    base: Digest
    """The guard that it would replace: the one in force."""
    comparison: Digest
    """Each difference, and whether it lowers a bar, as a blob."""
    verdict: Literal["at-least-as-strict", "weaker", "unknown"]
    by: str
    reason: str
    expires: Time
    _read: dict[str, Any] | None = PrivateAttr(default=None)

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read it, and keep what was read for its digest."""
        made = super().parse(value)
        made._read = value  # noqa: SLF001 - its own
        return made

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy it; what was changed is not what was read."""
        made = super().model_copy(update=update, deep=deep)
        if update:
            made._read = None  # noqa: SLF001 - its own
        return made

    @property
    def digest(self) -> Digest:
        """What people sign: of the body as it stands in the log, where a configuration may leave out what it means."""
        return digest_json(self.json_value() if self._read is None else self._read)

    def __eq__(self, other: object) -> bool:
        """Whether it says the same: one that was read back is the one that was written."""
        return isinstance(other, GuardProposed) and (vars(self), self.digest) == (vars(other), other.digest)

    __hash__ = Guarding.__hash__


class GuardRejected(Entry):
    """A proposed change of the guard comes to nothing, and why."""

    hold: Digest
    reason: str


class GuardChanged(Entry):
    """The proposed guard is in force. Ends the epoch."""

    hold: Digest
    """The digest of the proposal's body."""
    guard: Digest
    policies: Digest
    approvals: list[Digest]
    development: dict[str, dict[str, float]]
    """Of each version, by candidate, as the evals in force now have it."""


class Built(Entry):
    """A sealed candidate: the digest of what the build job left behind."""

    number: Count
    candidate: Candidate
    steps: Count
    seconds: float
    peak_mb: float
    read: list[str] | None = None
    """The fields of the recipe that its code read, by the worker's word; None where that is not known."""


class Developed(Entry):
    """Development metrics, which the proposer may see, and the digest of the answers behind them."""

    number: Count
    development: dict[str, float]
    answers: Digest
    asked: Digest | None = None
    """What was answered to evals that ask, as a table; None where there are none."""
    properties: dict[str, PropertyVerdict] | None = None
    """What was found of each property that was judged: a refuted one ends it here. None where there are none."""
    counterexamples: Digest | None = None
    """What was tried of each, and the counterexample to what is refuted, as a blob."""
    flops: Count | None = None
    """Floating-point operations a row, as counted in the worker: its word, so nothing is gated on it."""

    @property
    def refuted(self) -> list[str]:
        """The properties that are refuted, by name."""
        return sorted(name for name, verdict in (self.properties or {}).items() if verdict == "refuted")


class Staked(Entry):
    """The part of the error budget that a test spends, written before its first item is scored."""

    number: Count
    epoch: Count
    test: Count
    alpha: float
    incumbent: Digest
    offset: Count
    cap: Count
    items: Digest
    """The items asked, in order, blinded by the vault key."""
    ledger_size: Count
    ledger_root: LedgerRoot


class Predicted(Entry):
    """The digest of a candidate's answers to the epoch's prefix of the vault."""

    candidate: Digest
    epoch: Count
    offset: Count
    cap: Count
    answers: Digest
    asked: Digest | None = None
    """What was answered to evals that ask, as a table; None where there are none."""
    number: Count | None = None
    """The proposal whose test asked for them."""


class Measured(Entry):
    """The verdict of each gate. Scores, counts and where it stopped lie in the evidence, which is confidential."""

    number: Count
    passed: bool
    gates: list[GateVerdict]
    evidence: Digest
    charged: float | None = None
    """What the test costs of the budget of error, where its items were fresh; None where they were not."""
    timed: Timed | None = None
    """What the candidate cost beside the incumbent, where that is asked for and all gates passed."""


class Decided(Entry):
    """The decision, its reasons, and the judgement of the rules where there was one."""

    number: Count
    decision: Decision
    judgement: Digest | None = None
    document: Digest | None = None
    """What the rules of the decide stage were shown, as a blob."""


class Authorised(Entry):
    """Permission to make one candidate live, once, over one incumbent, before an instant."""

    number: Count
    version: Count
    incumbent: Digest
    candidate: Digest
    weights: Digest
    guard: Digest
    policies: Digest
    evidence: Digest
    approvals: list[Digest]
    nonce: str
    expires: Time


class Intended(Entry):
    """The swap is about to be made: a promotion, or the return to an earlier version."""

    action: Literal["promote", "rollback"]
    version: Count
    candidate: Digest
    authorisation: Count | None = None
    by: str
    reason: str


class Promoted(Entry):
    """The swap was made: `version` is live."""

    number: Count
    version: Count
    candidate: Digest


class Watched(Entry):
    """The smoke test of the live model: whether it gave the answers that were measured."""

    version: Count
    candidate: Digest
    expected: Digest
    answers: Digest | None = None
    ok: bool


class Voided(Entry):
    """A decision to promote, authorised or intended or neither, that came to nothing, and why."""

    number: Count
    reason: str


class RolledBack(Entry):
    """An earlier version is live again. Ends the epoch."""

    version: Count
    candidate: Digest
    by: str
    reason: str


class Halted(Entry):
    """Nothing is promoted from here until `resumed`."""

    by: str
    reason: str


class Resumed(Entry):
    """A halt is lifted."""

    by: str


class KeyRotated(Entry):
    """Another key signs from here on; both keys sign this entry."""

    old: str
    """The verifier key that was in force, as a line."""
    new: str
    reason: str
