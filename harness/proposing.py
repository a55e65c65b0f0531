"""Asking proposers: each ask is answered in a sandbox of its own, and its answer is bounded before it is passed on.

A proposer is given the ask and nothing else: no run folder, no network, no clock of the vault (its process has
ended before a held-out item is touched). Its packages are a site of their own: the harness's code, optuna, LibCST and,
for an installed proposer, its distribution with what that requires; no data, and torch for `reinforcement` alone, whose
warm process starts when it is first asked.

The answer is a list of at most as many documents as were asked for, each within `MAX_PROPOSAL_BYTES`. Fewer are
fine, and nothing is made up to fill the rest. What a document says is left to `harness.proposal`.

A proposer that asks a language model is run twice, each time without a network: it says what it asks, the broker of
that name (`harness.endpoint`) has that answered here, and it is given the replies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, Self

from pydantic import ValidationError

from harness.canonical import Json, canonical_bytes, parse_json
from harness.chat import MAX_PROMPT, ChatRequest, Reply
from harness.engines.local import LocalEngine
from harness.errors import CanonicalError, ProposerError, SandboxError
from harness.plain import plain
from harness.proposal import MAX_PROPOSAL_BYTES
from harness.proposers import Ask, find
from harness.records import first_problem
from harness.sandbox import Isolation, Job, Limits, Outcome, Site

__all__ = ["LIMITS", "Answers", "Asker", "Proposing", "documents_of", "requests_of"]

LIMITS = Limits(wall_seconds=120, idle_seconds=120, cpu_seconds=120, memory_mb=1024, output_mb=64, processes=32)
"""What one ask may use."""

_MAX_REQUEST = 2 * MAX_PROMPT  # of JSON: quotation marks and line ends take two bytes

_PACKAGES = ("cmaes", "libcst", "numpy", "optuna", "pydantic", "rfc8785")
_WITH_TORCH = frozenset({"reinforcement"})
_PRELOAD = (
    "libcst.matchers",
    "optuna",
    "harness.proposers.__main__",
    "harness.proposers.crossover",
    "harness.proposers.llm",
    "harness.proposers.rewrites",
)


class Asker(Protocol):
    """Who has a language model answer: a `harness.endpoint.Broker`."""

    def ask(self, request: ChatRequest) -> Reply:
        """Return what came of one request, a failure among it."""


class Answers(list[dict[str, Json]]):
    """A proposer's documents; and, where it asked a model, why replies led to none (`skipped`, one line each)."""

    skipped: list[str]

    def __init__(self, documents: list[dict[str, Json]], skipped: list[str]) -> None:
        """Take both."""
        super().__init__(documents)
        self.skipped = skipped


class Proposing:
    """Asks proposers by name; a context manager. The built-in ones share a warm process; each ask is a fork of it."""

    def __init__(
        self, isolation: Isolation = "zygote", limits: Limits = LIMITS, models: Mapping[str, Asker] | None = None
    ) -> None:
        """Prepare; the warm process starts with the first ask. `models`: whom a proposer of that name may ask.

        Raises SandboxError when there is no such isolation.
        """
        self._limits = limits
        self._models = dict(models or {})
        self._isolation: Isolation = isolation
        self._engines: dict[bool, LocalEngine] = {}

    def propose(self, name: str, ask: Ask, told: Callable[[str], None] = lambda _: None) -> Answers:
        """Return the named proposer's documents: at most `ask.count`, each a JSON object within the size cap.

        `told` hears of every model that is asked. Raises ProposerError, which names the proposer, for whatever goes
        wrong: an unknown name, a failure in it, a limit that it hit, an answer that is none, a model that it has not;
        and SandboxError when no sandbox can be had. A model that fails raises nothing: there are fewer documents.
        """
        where = f"proposer {name}"
        outcome = self._run(name, ask, None)
        if "requests" not in outcome.header:
            return Answers(documents_of(outcome, ask.count, where), [])
        model = self._models.get(name)
        if model is None:
            raise ProposerError(
                "it asks a language model, and has none",
                where=where,
                remedy=f"name one in lockgate.yaml: proposer_settings.{name}.endpoint",
            )
        requests = requests_of(outcome, ask.count, where)
        replies = []
        for number, request in enumerate(requests, 1):
            told(f"{name}: request {number} of {len(requests)} to its model")
            replies.append(model.ask(request))
        outcome = self._run(name, ask, replies)
        return Answers(documents_of(outcome, ask.count, where), _skipped(outcome.header, ask.count))

    def _run(self, name: str, ask: Ask, replies: list[Reply] | None) -> Outcome:
        """Run a proposer once; `replies` are to what it asked before."""
        site = self._site(name)
        told: list[Json] | None = None if replies is None else [reply.json_value() for reply in replies]
        job = Job(
            entry="propose",
            module="harness.proposers.__main__",
            payload={"proposer": name, "ask": ask.json_value(), "replies": told},
            limits=self._limits,
            site=None if find(name).dist is None else site,
        )
        return self._engine(name in _WITH_TORCH).submit(job).result()

    def _engine(self, torch: bool) -> LocalEngine:
        if torch not in self._engines:
            site = self._site("reinforcement" if torch else "evolution")
            preload = ("torch", "torch._dynamo", "harness.proposers.controller") if torch else ()
            warm = Site(site.distributions, site.entries, (*preload, *_PRELOAD))
            self._engines[torch] = LocalEngine(count=1, isolation=self._isolation, site=warm)
        return self._engines[torch]

    @staticmethod
    def _site(name: str) -> Site:
        """Return what the proposer can import; raises ProposerError for an unknown name."""
        distribution = find(name).dist
        packages = (*_PACKAGES, distribution.name) if distribution is not None else _PACKAGES
        if name in _WITH_TORCH:
            packages = (*packages, "torch")
        return Site.of(packages, packages=[Path(__file__).resolve().parent])

    def close(self) -> None:
        """End the warm processes. Safe to call twice."""
        while self._engines:
            self._engines.popitem()[1].close()

    def __enter__(self) -> Self:
        """Return the asker."""
        return self

    def __exit__(self, *problem: object) -> None:
        """Close it."""
        self.close()


def documents_of(outcome: Outcome, count: int, where: str) -> list[dict[str, Json]]:
    """Return the documents of an outcome of hostile code; ProposerError, at `where`, for anything but an answer.

    Raises SandboxError where the job never started.
    """
    documents: list[dict[str, Json]] = []
    for document in _listed(outcome, count, MAX_PROPOSAL_BYTES, where):
        size = len(canonical_bytes(document))
        if size > MAX_PROPOSAL_BYTES:
            raise ProposerError(f"answered a proposal of {size} bytes, above {MAX_PROPOSAL_BYTES}", where=where)
        documents.append(document)
    return documents


def requests_of(outcome: Outcome, count: int, where: str) -> list[ChatRequest]:
    """Return what a proposer asks of its model: at most `count` requests, bounded; raises as `documents_of`."""
    requests: list[ChatRequest] = []
    for value in _listed(outcome, count, _MAX_REQUEST, where):
        try:
            request = ChatRequest.parse(value)
        except ValidationError as error:
            place, message = first_problem(error)
            raise ProposerError(
                f"asks a model in no known way: {_printable(f'{place}: {message}')}", where=where
            ) from error
        if request.bytes > MAX_PROMPT:
            raise ProposerError(f"asks a model with {request.bytes} bytes, above {MAX_PROMPT}", where=where)
        requests.append(request)
    return requests


def _listed(outcome: Outcome, count: int, size: int, where: str) -> list[dict[str, Json]]:
    if outcome.status == "unavailable":
        raise SandboxError(outcome.message, where=where, remedy="see what `lockgate doctor` says")
    if outcome.status != "ok":
        raise ProposerError(_printable(outcome.message or outcome.status), where=where)
    try:
        value = parse_json(outcome.output, max_bytes=count * (size + 2) + 2)
        canonical_bytes(value)
    except CanonicalError as error:
        raise ProposerError(f"the answer is not JSON: {_printable(str(error))}", where=where) from error
    if not isinstance(value, list):
        raise ProposerError("answered something else than a list of documents", where=where)
    if len(value) > count:
        raise ProposerError(f"answered {len(value)} proposals where {count} were asked for", where=where)
    documents: list[dict[str, Json]] = []
    for document in value:
        if not isinstance(document, dict):
            raise ProposerError("answered a proposal that is no JSON object", where=where)
        documents.append(document)
    return documents


def _skipped(header: Mapping[str, Json], count: int) -> list[str]:
    """The reasons of an answer's header, as lines; whatever else stands there says nothing."""
    skipped = header.get("skipped")
    return [plain(str(why), 200) for why in skipped[:count]] if isinstance(skipped, list) else []


def _printable(text: str) -> str:
    """Escape what a proposer brought into a message that people see."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:2000])
