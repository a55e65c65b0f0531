"""The frozen nouns that cross from one stage to the next.

Records are strict (no coercion), closed (no unknown field) and frozen. What comes
from outside as JSON goes through `Record.parse`, which bounds the bytes first.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""A SHA-256 digest, `sha256:` and 64 lower-case hexadecimal digits."""

Count = Annotated[int, Field(ge=0)]

Kind = Literal["hyperparameters", "architecture", "code", "weights"]
"""The kinds of proposal that this version builds."""

StartMethod = Literal["scratch", "inherit", "continue", "average", "low-rank", "reinforce"]
"""Where the training of a candidate begins: from drawn weights, or by one of the methods of `starting`."""

Stage = Literal["proposed", "screened", "built", "developed", "staked", "predicted", "measured", "decided"]
"""How far a proposal has come."""


class Record(BaseModel):
    """The base of all records: frozen, strict, closed."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Validate a JSON value (already parsed with bounds) into this record.

        Raises pydantic's ValidationError; callers turn it into their room's error.
        """
        import json

        return cls.model_validate_json(json.dumps(value))

    def json_value(self) -> dict[str, Any]:
        """The record as a JSON value, ready for `canonical_bytes`."""
        return self.model_dump(mode="json")


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Name the place and the message of the first problem of a validation error."""
    problem = error.errors(include_url=False, include_context=False)[0]
    return ".".join(str(part) for part in problem["loc"]) or "(top)", str(problem["msg"])


Reason = Literal[
    "passed",
    "malformed",
    "unknown-base",
    "invalid-recipe",
    "no-op",
    "undeclared",
    "duplicate",
    "policy",
    "build-failed",
    "build-timeout",
    "build-memory",
    "build-output",
    "non-finite",
    "predict-failed",
    "predict-output",
    "property",
    "development",
    "gate-objective",
    "gate-capability",
    "gate-alignment",
    "gate-robustness",
    "inconclusive",
    "hold-unanswered",
    "hold-refused",
    "vault-exhausted",
    "budget",
    "evaluator-failed",
    "judge-failed",
    "interrupted",
    "internal",
]
"""Why a proposal was decided as it was: the closed list that README explains."""

REASONS: dict[str, str] = {
    "passed": "every gate and every rule held (the one code that is no rejection)",
    "malformed": "the bytes are not a proposal",
    "unknown-base": "it starts from a candidate that this run does not know",
    "invalid-recipe": "the subject's Recipe does not accept the values",
    "no-op": "it changes nothing: same recipe and source, values that nothing reads, or same weights and same answers",
    "undeclared": "what was built differs from its base in more than the proposal says",
    "duplicate": "the same candidate was proposed before in this epoch",
    "policy": "a policy rule was not satisfied",
    "build-failed": "building or training raised an error in the sandbox",
    "build-timeout": "building or training made no progress, or ran past its deadline",
    "build-memory": "building or training used more memory than its budget",
    "build-output": "what training left behind is not a sound set of tensors",
    "non-finite": "the loss or the weights became NaN or infinite",
    "predict-failed": "predicting raised an error, or ran past its deadline",
    "predict-output": "the answers have the wrong shape or type, are not finite, or lean on other rows",
    "development": "on the development items the objective gains too little, or another eval loses too much",
    "property": "a property of its behaviour does not hold: a counterexample was found among cases of development",
    "gate-objective": "the objective is not better than the incumbent's on held-out items",
    "gate-capability": "another capability is not shown to hold",
    "gate-alignment": "an alignment eval is not shown to hold",
    "gate-robustness": "a robustness eval is not shown to hold",
    "inconclusive": "the held-out items allowed did not suffice to show it",
    "hold-unanswered": "a rule or a ceiling asks for people, and too few approved in time, or none can be asked",
    "hold-refused": "a rule or a ceiling asks for people, and one of them refused",
    "vault-exhausted": "too few unspent held-out items are left to test anything",
    "budget": "a hard budget of the run is spent",
    "evaluator-failed": "the evaluator could not score it",
    "judge-failed": "the policies could not be judged",
    "interrupted": "its test was cut off: by a rollback, or by another run on the same vault",
    "internal": "the harness met an error of its own while it was at it: a defect to report",
}
"""One line on each reason code, as README and the command line print it."""

PropertyVerdict = Literal["held", "refuted"]
"""What was found of a property. `held`: no counterexample in the cases tried, which is no proof that there is none."""

Verdict = Literal["promote", "reject"]


class Why(Record):
    """One reason of a decision: a code of the closed list, and a sentence a person can act on."""

    code: Reason
    text: str


class Candidate(Record):
    """A recipe, a source tree and weights, each by digest; `digest` binds the three."""

    digest: Digest
    recipe: dict[str, Any]
    source: Digest
    weights: Digest
    parameters: Count
    """Number of scalar weights, counted by the supervisor from the tensor header."""
    bytes: Count
    """Size of the weights file in bytes."""
    schema_digest: Digest
    """The JSON schema of the subject's Recipe, as a blob: the space that proposers search."""
    flops: Count | None = None
    """Floating-point operations per row, as counted in the worker: advisory, never gated on."""


class Timed(Record):
    """What was taken from outside while candidate and incumbent did the same predict job by turns.

    One wall time in seconds for each of the same pairs; the greatest resident memory of any run, in MiB.
    """

    seconds: list[float]
    incumbent_seconds: list[float]
    peak_mb: float
    incumbent_peak_mb: float


class Proposed(Record):
    """One slot of a generation as the log holds it."""

    number: Count
    generation: Count
    index: Count
    proposer: str
    scripted: bool
    label: str
    document: Digest
    """The proposal's raw bytes, as a blob."""


class GateVerdict(Record):
    """The public part of a gate's result: no score, no count."""

    name: str
    eval: str
    kind: str
    verdict: Literal["pass", "fail", "inconclusive"]


class Decision(Record):
    """What was decided of a proposal, and why. A rejection is a value, not an exception."""

    verdict: Verdict
    reasons: list[Why]
