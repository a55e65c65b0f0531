"""Proposers: where changes come from. Everything in this folder runs in a sandbox of its own, or might.

A proposer is a function from an `Ask` to proposal documents. It is pure: all that it knows is the seed, the
generation and the history that the ask carries, so a run that is resumed proposes what it would have
proposed. It learns development metrics, the names of static rules that failed, and one bit from the
held-out items: whether a candidate was promoted.

Built in are `evolution`, `codegen`, `weights`, `reinforcement`, `random` and `scripted`; a package adds its own by an
entry point of the group `lockgate.proposers` that names such a function:

    [project.entry-points."lockgate.proposers"]
    mine = "my_package.search:propose"

Nothing here imports torch but the controller of `reinforcement`. What a proposer returns is untrusted:
`harness.proposing` runs it and bounds its answer, `harness.proposal` parses each document.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from harness.errors import LockgateError, ProposerError
from harness.records import Digest, Record, Stage

__all__ = ["GROUP", "Archived", "Ask", "Feedback", "Proposer", "find", "names", "propose"]

GROUP = "lockgate.proposers"
"""The entry-point group."""


class Archived(Record):
    """A known candidate that proposals may start from.

    `files` maps a path within the subject to its text: the files that proposals may change.
    `development` holds the mean of each eval on the development items, where it was measured.
    """

    digest: Digest
    recipe: dict[str, Any]
    files: dict[str, str]
    development: dict[str, float] = {}


class Feedback(Record):
    """What became of one earlier proposal: all that any proposer is ever told of it."""

    generation: int
    index: int
    proposer: str
    proposal: dict[str, Any]
    candidate: Digest | None = None
    stage: Stage
    development: dict[str, float] | None = None
    failed_rules: list[str] = []
    refuted: list[str] = []
    """The properties to which a counterexample was found, by name."""
    promoted: bool = False


class Ask(Record):
    """The whole input of a proposer: it has no other state.

    `count` proposals are wanted. `schema_` (in JSON: `schema`) is `Recipe.model_json_schema()` of the
    incumbent. `objective` names the metric that is to grow (empty: the mean of all). `mutable` holds the globs
    of the files that may be changed. `history` and `archive` are in the order in which things happened.
    """

    seed: int
    generation: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=1, le=256)]
    settings: dict[str, Any] = {}
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    objective: str = ""
    mutable: list[str] = ["model.py"]
    incumbent: Archived
    archive: list[Archived] = []
    history: list[Feedback] = []

    def json_value(self) -> dict[str, Any]:
        """Return the ask as a JSON value, under the names that it is parsed by."""
        return self.model_dump(mode="json", by_alias=True)


Proposer: TypeAlias = Callable[[Ask], list[dict[str, Any]]]
"""A pure function: the same ask, the same proposal documents. It may return fewer than were asked for."""

_BUILT_IN = {
    "codegen": "codegen",
    "evolution": "evolution",
    "random": "random_search",  # no module of ours hides one of the standard library's
    "reinforcement": "reinforcement",
    "scripted": "scripted",
    "weights": "weights",
}
"""Name → module of this package."""


def names() -> list[str]:
    """Return the names of all proposers that can be asked: the built-in ones and the installed ones."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def find(name: str) -> EntryPoint:
    """Return the entry point of the proposer of this name, without importing it; ProposerError when there is none.

    A built-in name cannot be taken by a package, and two packages cannot share a name.
    """
    if name in _BUILT_IN:
        return EntryPoint(name=name, group=GROUP, value=f"harness.proposers.{_BUILT_IN[name]}:propose")
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise ProposerError(f"no proposer is called {name!r}", remedy=f"there are: {', '.join(names())}")
    if len(found) > 1:
        raise ProposerError(f"{len(found)} packages install a proposer {name!r}", remedy="uninstall all but one")
    return found[0]


def propose(name: str, ask: Ask) -> list[dict[str, Any]]:
    """Ask the named proposer, in this process; ProposerError for whatever goes wrong in it.

    The harness itself never calls this: `harness.proposing` does it in a sandbox.
    """
    where = f"proposer {name}"
    point = find(name)
    try:
        proposer = point.load()
        documents = proposer(ask)
    except LockgateError:
        raise
    except Exception as error:
        raise ProposerError(f"{type(error).__name__}: {error}", where=where) from error
    if not isinstance(documents, list) or not all(isinstance(document, dict) for document in documents):
        raise ProposerError("answered something else than a list of documents", where=where)
    if len(documents) > ask.count:
        raise ProposerError(f"answered {len(documents)} proposals where {ask.count} were asked for", where=where)
    return documents
