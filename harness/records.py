"""The frozen nouns that cross from one stage to the next.

Records are strict (no coercion), closed (no unknown field) and frozen. What comes
from outside as JSON goes through `Record.parse`, which bounds the bytes first.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""A SHA-256 digest, `sha256:` and 64 lower-case hexadecimal digits."""

Kind = Literal["hyperparameters", "architecture", "code"]
"""The kinds of proposal that this version builds."""

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
