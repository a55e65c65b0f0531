"""What is done with rows besides having them answered: a spec that travels as the name of the job that it asks for."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Self

from pydantic import ValidationError

from harness.errors import SubjectError
from harness.records import Record, first_problem


class JobSpec(Record):
    """The settings of one kind of job, called KIND; errors tell of it as WHAT."""

    KIND: ClassVar[str]
    WHAT: ClassVar[str]

    @property
    def job(self) -> str:
        """The job by which an eval has it done: `ask.job(spec.job, inputs)`."""
        return json.dumps({"job": self.KIND, **self.json_value()}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def of(cls, job: str) -> Self | None:
        """What a job asks for; None where it is one of another kind. SubjectError where it is malformed."""
        try:
            value: Any = json.loads(job)
        except ValueError:
            return None
        if not isinstance(value, dict) or value.pop("job", None) != cls.KIND:
            return None
        try:
            return cls.parse(value)
        except ValidationError as error:
            place, message = first_problem(error)
            raise SubjectError(f"{cls.WHAT}'s {place}: {message}", where="guards.py") from error
