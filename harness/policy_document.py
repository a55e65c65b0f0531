"""What a policy rule may read: one typed document per stage, and its canonical form.

The records below are the only declaration: fields, types, ranges and what each field means.
From them follow the canonicaliser, the types that rules are compiled against (both in
`shapes`), and the reference for authors, `policies/SCHEMA.md` (`policy_schema`).

Rules: a document that is not exactly of its stage's shape does not reach a rule. Unknown or
missing fields, other types (a bool is no integer), NaN, infinity, NUL, lone surrogates,
integers beyond ±(2^53 - 1), numbers out of a field's declared range, and anything past the
bounds raise CanonicalError with the place. An integer in a float field becomes a float.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field

from harness.code_facts import CodeFacts, FileChange
from harness.latency import MOST, UNKNOWN
from harness.records import Kind, Record, StartMethod
from harness.shapes import (
    MAX_INTEGER,
    MAX_ITEMS,
    MAX_TEXT,
    PACKAGE,
    ListOf,
    MapOf,
    Message,
    Room,
    Scalar,
    Shape,
    descriptor,
    shape_of,
)

Stage = Literal["screen", "decide"]
STAGES: tuple[Stage, ...] = get_args(Stage)
KINDS: tuple[Kind, ...] = get_args(Kind)

NEVER = 1e9
"""Seconds that stand for never, about 31 years: whoever asks that enough time has passed is answered rightly."""


class ProposalFacts(Record):
    """Who proposed what kind of change, on which base."""

    number: int = Field(ge=0, description="Number of the proposal in its run, from 1 on.")
    kind: Kind = Field(description="What it changes.")
    proposer: str = Field(description="Name of the proposer, as lockgate.yaml has it.")
    base: str = Field(description="Digest of the candidate that it starts from.")
    start: StartMethod = Field(
        description="Where training begins: at drawn weights (`scratch`), or how at those of known candidates."
    )
    rationale_length: int = Field(
        ge=0, description="Characters of the rationale; the text itself is for people, not for rules."
    )


class KnobChange(Record):
    """One value of the recipe that changes."""

    name: str = Field(description="Name of the knob, dotted where it is nested.")
    group: str = Field(description="The knob's group, such as `architecture` or `training`.")
    old: str = Field(description="The value in the base's recipe, as JSON.")
    new: str = Field(description="The value proposed, as JSON.")


class ChangeFacts(Record):
    """The effective change against the base."""

    knobs: list[KnobChange] = Field(description="Values of the recipe that change.")
    files: list[FileChange] = Field(description="Files of the subject that change.")
    lines_changed: int = Field(ge=0, description="Lines added plus lines removed, over all files.")


class IncumbentFacts(Record):
    """The live candidate."""

    digest: str = Field(description="Its digest.")
    version: int = Field(ge=0, description="Its version; 0 is the baseline.")
    parameters: int = Field(ge=1, description="Number of its scalar weights.")
    bytes: int = Field(ge=1, description="Size of its weights file in bytes.")


class CandidateFacts(Record):
    """The built candidate, as counted by the supervisor."""

    digest: str = Field(description="Its digest.")
    parameters: int = Field(ge=1, description="Number of its scalar weights.")
    bytes: int = Field(ge=1, description="Size of its weights file in bytes.")
    development: dict[str, float] = Field(description="Mean of each eval on the development items, by eval.")


class GateFacts(Record):
    """A gate's result on held-out items. Rules read `verdict`: the mean of a test that stopped early is loose."""

    verdict: Literal["pass", "fail", "inconclusive"] = Field(description="What the gate's test showed.")
    n: int = Field(ge=0, description="Held-out items scored before the test stopped.")
    mean: float = Field(description="Mean of what was tested over those items: loose, as the test stops early.")
    theta: float = Field(description="The bound that was tested.")


class BudgetFacts(Record):
    """What is left before this proposal is promoted."""

    promotions_left: int = Field(ge=0, description="Promotions that the run may still make.")
    proposals_left: int = Field(ge=0, description="Proposals that the run may still take, this one counted.")
    wall_seconds_left: float = Field(ge=0, description="Seconds left of the run's wall-clock budget.")


class HistoryFacts(Record):
    """What has happened to the live model so far. Times are between entries of the log, never of a live clock."""

    promotions: int = Field(ge=0, description="Promotions so far, those that were rolled back counted.")
    promotions_last_hour: int = Field(ge=0, description="Promotions of the hour before `now`.")
    seconds_since_promotion: float = Field(
        ge=0, le=NEVER, description="Seconds from the last promotion to `now`; 1e9 where there was none."
    )
    rollbacks: int = Field(ge=0, description="Rollbacks so far, of operators and of failed smoke tests.")
    seconds_since_rollback: float = Field(
        ge=0, le=NEVER, description="Seconds from the last rollback to `now`; 1e9 where there was none."
    )
    rejected_in_a_row: int = Field(
        ge=0,
        description="Rejected proposals in a row, by number, up to the end of the generation before this proposal's.",
    )


class ApprovalFacts(Record):
    """One verified signature of a person."""

    by: str = Field(description="Who signed.")
    role: str = Field(description="The signer's role.")


class LatencyFacts(Record):
    """How long the candidate takes for the incumbent's work, taken by turns; unknown where `lockgate.yaml` asks not."""

    pairs: int = Field(ge=0, le=MOST, description="Pairs of runs that were timed; 0 where none was.")
    ratio: float = Field(
        ge=0, le=UNKNOWN, description="Median of the candidate's time over the incumbent's; 1e9 where none was taken."
    )
    lower: float = Field(
        ge=0, le=UNKNOWN, description="Lower bound of that median at 95 %; 0 where too few pairs were taken for one."
    )
    upper: float = Field(
        ge=0, le=UNKNOWN, description="Upper bound of that median at 95 %; 1e9 where too few pairs were taken for one."
    )


class MemoryFacts(Record):
    """Greatest resident memory in MiB, taken from outside."""

    build_mb: float = Field(ge=0, le=UNKNOWN, description="Of the job that trained the candidate.")
    predict_mb: float = Field(
        ge=0, le=UNKNOWN, description="Of the candidate's answering, of the runs that were timed; 1e9 where none was."
    )
    incumbent_predict_mb: float = Field(
        ge=0, le=UNKNOWN, description="Of the incumbent's answering, of the same rows; 0 where none was timed."
    )


class ScreenDocument(Record):
    """What is known before anything is built."""

    proposal: ProposalFacts = Field(description="The proposal itself.")
    change: ChangeFacts = Field(description="Its effective change.")
    code: CodeFacts = Field(description="Facts of the source code as it would be, found by parsing.")
    incumbent: IncumbentFacts = Field(description="The live candidate.")
    budgets: BudgetFacts = Field(description="What is left of the run's budgets.")
    history: HistoryFacts = Field(description="What has happened so far.")
    approvals: list[ApprovalFacts] = Field(description="Verified signatures of people on this proposal.")
    now: float = Field(
        ge=0, description="Time of the decision in seconds since 1970: that of the log's last entry before it."
    )


class DecideDocument(ScreenDocument):
    """What is known after measurement."""

    candidate: CandidateFacts = Field(description="The built candidate.")
    gates: dict[str, GateFacts] = Field(description="Results on held-out items, by gate.")
    latency: LatencyFacts = Field(description="Its time beside the incumbent's.")
    memory: MemoryFacts = Field(description="Its memory.")


DOCUMENTS: dict[Stage, type[Record]] = {"screen": ScreenDocument, "decide": DecideDocument}

SHAPES: dict[Stage, Message] = {}
for _stage, _record in DOCUMENTS.items():
    _shape = shape_of(_record)
    if isinstance(_shape, Message):
        SHAPES[_stage] = _shape


def canonicalise(stage: Stage, document: Any) -> dict[str, Any]:
    """Return a deep copy of `document` that is exactly of its stage's shape, made of plain JSON values only.

    Raises CanonicalError, with the place as `where`, and nothing else.
    """
    return Room().take(SHAPES[stage], document, "document")  # type: ignore[no-any-return]


__all__ = [
    "DOCUMENTS",
    "KINDS",
    "MAX_INTEGER",
    "MAX_ITEMS",
    "MAX_TEXT",
    "NEVER",
    "PACKAGE",
    "SHAPES",
    "STAGES",
    "ListOf",
    "MapOf",
    "Message",
    "Scalar",
    "Shape",
    "Stage",
    "canonicalise",
    "descriptor",
    "shape_of",
]
