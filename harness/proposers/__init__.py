"""Proposers: where changes come from. Everything in this folder runs in a sandbox of its own, or might.

A proposer is a function from an `Ask` to proposal documents. It is pure: all that it knows is the seed, the
generation and the history that the ask carries, so a run that is resumed proposes what it would have
proposed. It learns development metrics, the names of static rules that failed, and one bit from the
held-out items: whether a candidate was promoted.

A proposer that needs a language model is a `Dialogue`: two such functions, with a conversation in between that
others have (`harness.endpoint`), so that neither needs a network.

Built in are `evolution`, `architecture`, `codegen`, `llm`, `weights`, `reinforcement`, `random` and `scripted`; a
package adds its own by an entry point of the group `lockgate.proposers` that names such a function:

    [project.entry-points."lockgate.proposers"]
    mine = "my_package.search:propose"

Nothing here imports torch but the controller of `reinforcement`. What a proposer returns is untrusted:
`harness.proposing` runs it and bounds its answer, `harness.proposal` parses each document.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import Field, ValidationError

from harness.chat import ChatRequest, Reply
from harness.errors import LockgateError, ProposerError
from harness.records import Digest, Record, Stage, first_problem

__all__ = [
    "GROUP",
    "Archived",
    "Ask",
    "Dialogue",
    "Drafts",
    "Feedback",
    "Proposer",
    "conclude",
    "find",
    "names",
    "propose",
    "settings_of",
]

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
    of the files that may be changed. `history` and `archive` are in the order in which things happened. `round`
    counts how often this generation was asked for in vain, because no answer of a model led to a proposal.
    """

    seed: int
    generation: Annotated[int, Field(ge=0)]
    round: Annotated[int, Field(ge=0)] = 0
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


Declared = TypeVar("Declared", bound=Record)


def settings_of(ask: Ask, declared: type[Declared], who: str) -> Declared:
    """Return an ask's settings as the proposer called `who` declares them; ProposerError names what does not fit."""
    try:
        return declared.parse(ask.settings)
    except ValidationError as error:
        place, message = first_problem(error)
        raise ProposerError(message, where=f"{who}: {place}") from error


Proposer: TypeAlias = Callable[[Ask], list[dict[str, Any]]]
"""A pure function: the same ask, the same proposal documents. It may return fewer than were asked for."""


class Drafts(Record):
    """What replies led to: documents, and for each reply that led to none a short reason."""

    documents: list[dict[str, Any]] = []
    skipped: list[str] = []


@dataclass(frozen=True)
class Dialogue:
    """A proposer that asks a language model: what it asks, and what it makes of the replies. Both are pure.

    The replies are in the order of the requests, one for each; `harness.proposing` has the requests answered.
    """

    requests: Callable[[Ask], list[ChatRequest]]
    documents: Callable[[Ask, list[Reply]], Drafts]


_BUILT_IN = {
    "architecture": "architecture",
    "codegen": "codegen",
    "evolution": "evolution",
    "llm": "llm",
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


def propose(name: str, ask: Ask) -> list[dict[str, Any]] | list[ChatRequest]:
    """Ask the named proposer, in this process: its documents, or what a `Dialogue` wants a model to be asked.

    ProposerError for whatever goes wrong in it. The harness itself never calls this: `harness.proposing` does it in a
    sandbox.
    """
    where = f"proposer {name}"
    found = _loaded(name)
    if isinstance(found, Dialogue):
        requests = _called(lambda: found.requests(ask), where)
        if not isinstance(requests, list) or not all(isinstance(request, ChatRequest) for request in requests):
            raise ProposerError("asked something else than a list of requests", where=where)
        if len(requests) > ask.count:
            raise ProposerError(f"has {len(requests)} requests where {ask.count} proposals are wanted", where=where)
        return requests
    return _documents(_called(lambda: found(ask), where), ask, where)


def conclude(name: str, ask: Ask, replies: list[Reply]) -> Drafts:
    """Give a `Dialogue` the replies to what it asked, in this process; ProposerError as for `propose`."""
    where = f"proposer {name}"
    found = _loaded(name)
    if not isinstance(found, Dialogue):
        raise ProposerError("asks no model, and was given replies", where=where)
    drafts = _called(lambda: found.documents(ask, replies), where)
    if not isinstance(drafts, Drafts):
        raise ProposerError("answered something else than drafts", where=where)
    _documents(drafts.documents, ask, where)
    return drafts


def _loaded(name: str) -> Any:
    point = find(name)
    return _called(point.load, f"proposer {name}")


def _called(action: Callable[[], Any], where: str) -> Any:
    try:
        return action()
    except LockgateError:
        raise
    except Exception as error:
        raise ProposerError(f"{type(error).__name__}: {error}", where=where) from error


def _documents(documents: Any, ask: Ask, where: str) -> list[dict[str, Any]]:
    if not isinstance(documents, list) or not all(isinstance(document, dict) for document in documents):
        raise ProposerError("answered something else than a list of documents", where=where)
    if len(documents) > ask.count:
        raise ProposerError(f"answered {len(documents)} proposals where {ask.count} were asked for", where=where)
    return documents
