"""The schema of a policy's tests, and the document that a case makes.

A case starts from a base document, patches or removes parts, and says what must follow.

    apiVersion: lockgate/v1
    kind: PolicyTest
    bases:                       # optional: documents of this suite's own, by name
      large: {base: screen, patch: {change.lines_changed: 300}}
    cases:
      - {name: lost, patch: {gates.refusal.verdict: fail}, expect: deny, failed: [refusals-held]}
      - {name: gone, remove: [gates.refusal], expect: invalid}

The bases `screen` and `decide` are full documents that every sound policy admits. A path is
dotted (`change.knobs.0.name`) or, where a key holds a dot, a JSON pointer (RFC 6901).
It does not cover judging (`policy_test`).
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.base_document import base_document
from harness.errors import ConfigError
from harness.expression_advice import near
from harness.judgement import Outcome
from harness.policy_document import Stage
from harness.records import Record


class Base(Record):
    """A document of a suite's own: another base, changed."""

    base: str = Field(description="`screen`, `decide`, or another base of this suite.")
    patch: dict[str, Any] = Field(default_factory=dict, description="Values by their path in the document.")
    remove: list[str] = Field(default_factory=list, description="Paths of what is taken out.")


class Case(Record):
    """One document and what must follow from it."""

    name: Annotated[str, Field(min_length=1)] = Field(description="What the case shows, unique in the suite.")
    base: str | None = Field(default=None, description="The document that it starts from; that of the policies' stage.")
    patch: dict[str, Any] = Field(default_factory=dict, description="Values by their path in the document.")
    remove: list[str] = Field(default_factory=list, description="Paths of what is taken out.")
    expect: Outcome = Field(description="What must follow.")
    failed: list[str] = Field(default_factory=list, description="Ids of the rules that are false: exactly these.")


class Equivalent(Record):
    """A mutant that no document can tell from the policy, and why: it need not be killed."""

    rule: str = Field(description="The rule's id, or the variable's or param's name.")
    mutant: str = Field(description="The mutated text, as `policy test --mutate` reports it.")
    why: Annotated[str, Field(min_length=1)] = Field(description="Why no document can tell them apart.")


class Suite(Record):
    """A test file."""

    apiVersion: Literal["lockgate/v1"] = Field(description="The version of this format.")  # noqa: N815 - as in lockgate.yaml
    kind: Literal["PolicyTest"] = Field(description="What this document is.")
    params: dict[str, Any] = Field(default_factory=dict, description="Params that replace the policy's own.")
    bases: dict[str, Base] = Field(default_factory=dict, description="Documents of this suite's own, by name.")
    cases: list[Case] = Field(description="The cases.")
    equivalent: list[Equivalent] = Field(default_factory=list, description="Mutants that need not be killed.")


def document_of(case: Case, suite: Suite, stages: list[Stage]) -> tuple[Stage, dict[str, Any]]:
    """Return the stage and the document of a case; raises ConfigError."""
    if case.base is None and len(stages) > 1:
        raise ConfigError("the file's policies have several stages", remedy="say base: screen or base: decide")
    chain: list[Base | Case] = [case]
    name = case.base or stages[0]
    while name not in ("screen", "decide"):
        if name not in suite.bases:
            raise ConfigError(f"no base is called {name!r}", remedy="screen, decide, or one of the suite's own bases")
        base = suite.bases[name]
        if base in chain or len(chain) > len(suite.bases):
            raise ConfigError(f"the base {name!r} rests on itself", remedy="let it begin with screen or decide")
        chain.append(base)
        name = base.base
    stage: Stage = "screen" if name == "screen" else "decide"
    document = base_document(stage)
    for step in reversed(chain):
        for path, value in step.patch.items():
            _change(document, path, value, remove=False)
        for path in step.remove:
            _change(document, path, None, remove=True)
    return stage, document


def _change(document: dict[str, Any], path: str, value: Any, *, remove: bool) -> None:
    """Set or remove one part of a document; raises ConfigError where the path leads nowhere."""
    if path.startswith("/"):
        parts = [part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/")]
    else:
        parts = path.split(".")
    place: Any = document
    for part in parts[:-1]:
        place = _step(place, part, path)
    last = parts[-1]
    if isinstance(place, list):
        if not remove and last == str(len(place)):
            place.append(copy.deepcopy(value))
            return
        _step(place, last, path)
        if remove:
            del place[int(last)]
        else:
            place[int(last)] = copy.deepcopy(value)
    elif isinstance(place, dict):
        if remove:
            _step(place, last, path)
            del place[last]
        else:
            place[last] = copy.deepcopy(value)
    else:
        raise _nowhere(path, path.rpartition(".")[0])


def _step(place: Any, part: str, path: str) -> Any:
    if isinstance(place, dict) and part in place:
        return place[part]
    if isinstance(place, list) and part.isascii() and part.isdigit() and len(part) < 9 and int(part) < len(place):
        return place[int(part)]
    raise _nowhere(path, part, place)


def _nowhere(path: str, part: str, place: Any = None) -> ConfigError:
    known = list(place) if isinstance(place, dict) else []
    meant = near(part, known)
    if meant:
        remedy = f"did you mean {meant} for {part}?"
    elif isinstance(place, list):
        remedy = f"the list has {len(place)} items, counted from 0; the next one appends"
    else:
        remedy = f"there is {', '.join(known) or 'nothing below'}"
    return ConfigError(f"{path} leads nowhere in the document", remedy=remedy)
