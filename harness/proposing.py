"""Asking proposers: each ask is answered in a sandbox of its own, and its answer is bounded before it is passed on.

A proposer is given the ask and nothing else: no run folder, no network, no clock of the vault (its process has
ended before a held-out item is touched). Its packages are a site of their own: the harness's code, optuna, LibCST and,
for an installed proposer, its distribution with what that requires; no data, and torch for `reinforcement` alone, whose
warm process starts when it is first asked.

The answer is a list of at most as many documents as were asked for, each within `MAX_PROPOSAL_BYTES`. Fewer are
fine, and nothing is made up to fill the rest. What a document says is left to `harness.proposal`.

Not covered: proposers that need a network endpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from harness.canonical import Json, canonical_bytes, parse_json
from harness.engines.local import LocalEngine
from harness.errors import CanonicalError, ProposerError, SandboxError
from harness.proposal import MAX_PROPOSAL_BYTES
from harness.proposers import Ask, find
from harness.sandbox import Isolation, Job, Limits, Outcome, Site

__all__ = ["LIMITS", "Proposing", "documents_of"]

LIMITS = Limits(wall_seconds=120, idle_seconds=120, cpu_seconds=120, memory_mb=1024, output_mb=64, processes=32)
"""What one ask may use."""

_PACKAGES = ("libcst", "numpy", "optuna", "pydantic", "rfc8785")
_WITH_TORCH = frozenset({"reinforcement"})
_PRELOAD = ("libcst.matchers", "optuna", "harness.proposers.__main__", "harness.proposers.rewrites")


class Proposing:
    """Asks proposers by name; a context manager. The built-in ones share a warm process; each ask is a fork of it."""

    def __init__(self, isolation: Isolation = "zygote", limits: Limits = LIMITS) -> None:
        """Prepare; the warm process starts with the first ask. Raises SandboxError when there is no such isolation."""
        self._limits = limits
        self._isolation: Isolation = isolation
        self._engines: dict[bool, LocalEngine] = {}

    def propose(self, name: str, ask: Ask) -> list[dict[str, Json]]:
        """Return the named proposer's documents: at most `ask.count`, each a JSON object within the size cap.

        Raises ProposerError, which names the proposer, for whatever goes wrong: an unknown name, a failure in it, a
        limit that it hit, an answer that is none; and SandboxError when no sandbox can be had.
        """
        where = f"proposer {name}"
        site = self._site(name)
        engine = self._engine(name in _WITH_TORCH)
        job = Job(
            entry="propose",
            module="harness.proposers.__main__",
            payload={"proposer": name, "ask": ask.json_value()},
            limits=self._limits,
            site=None if find(name).dist is None else site,
        )
        outcome = engine.submit(job).result()
        return documents_of(outcome, ask.count, where)

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
    if outcome.status == "unavailable":
        raise SandboxError(outcome.message, where=where, remedy="see what `lockgate doctor` says")
    if outcome.status != "ok":
        raise ProposerError(_printable(outcome.message or outcome.status), where=where)
    try:
        value = parse_json(outcome.output, max_bytes=count * (MAX_PROPOSAL_BYTES + 2) + 2)
        if not isinstance(value, list):
            raise ProposerError("answered something else than a list of documents", where=where)
        if len(value) > count:
            raise ProposerError(f"answered {len(value)} proposals where {count} were asked for", where=where)
        documents: list[dict[str, Json]] = []
        for document in value:
            if not isinstance(document, dict):
                raise ProposerError("answered a proposal that is no JSON object", where=where)
            size = len(canonical_bytes(document))
            if size > MAX_PROPOSAL_BYTES:
                raise ProposerError(f"answered a proposal of {size} bytes, above {MAX_PROPOSAL_BYTES}", where=where)
            documents.append(document)
    except CanonicalError as error:
        raise ProposerError(f"the answer is not JSON: {_printable(str(error))}", where=where) from error
    return documents


def _printable(text: str) -> str:
    """Escape what a proposer brought into a message that people see."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:2000])
