"""What language models were asked and answered, in the run's folder: the record that is replayed, and the bill.

Each request has a number and up to two files. `0001.sent.json` is written before anything is sent: the whole request,
and what it may cost at most. `0001.json` is written when it is over: the reply or why there is none, and what it is
counted as. A process that is killed in between has spent what was reserved. So neither restarts nor crashes give a
budget back, and the same request is never paid for twice: what was answered is found again by its digest. Why replies
led to no proposal stands in `skipped-GENERATION-ROUND.json`.

A record that is missing in the middle, torn or not ours is an error, and nothing is asked while it lies there.

Not covered: an operator who takes the last records away.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from harness.canonical import canonical_bytes, parse_json
from harness.chat import MAX_PROMPT, MAX_TEXT, Endpoint, Reply
from harness.durable import TEMPORARY, make_directory, write_durably
from harness.errors import CanonicalError, ProposerError
from harness.records import Count, Digest, Record, first_problem

__all__ = ["Pending", "Replies"]

_NAME = re.compile(r"([0-9]{4,9})(\.sent)?\.json")
_MAX_RECORD = 8 * max(MAX_PROMPT, MAX_TEXT)  # a byte of a text takes at most six of JSON


class _Sent(Record):
    number: Count
    request: Digest
    asked: dict[str, Any]
    attempts: Count
    tokens: Count
    """What counts if nothing more is ever heard of it."""
    cost: Annotated[float, Field(ge=0)]


class _Over(Record):
    number: Count
    request: Digest
    attempts: Count
    tokens: Count
    cost: Annotated[float, Field(ge=0)]
    reply: Reply
    ended: str


class _Skipped(Record):
    generation: Count
    round: Count
    reasons: dict[str, Count]


class Replies:
    """The record of one proposer's requests in one run. One process writes it: the loop, while it holds the run."""

    def __init__(self, folder: Path, limits: Endpoint) -> None:
        """Read what is there; ProposerError for a record that cannot be believed. The first write makes the folder."""
        self._folder = folder
        self._limits = limits
        self._replies: dict[str, Reply] = {}
        self.requests = 0
        self.tokens = 0
        self.cost = 0.0
        self._skipped: dict[tuple[int, int], dict[str, int]] = {}
        sent, over = self._read()
        for number in range(1, len(sent) + 1):
            if number not in sent or (number in over and over[number].request != sent[number].request):
                raise self._broken(f"{number:04d}.sent.json", "it is missing, or belongs to another reply")
            self._count(over.get(number) or sent[number])
        self.requests = len(sent)

    def recorded(self, request: str, *, failures: bool = False) -> Reply | None:
        """Return the reply to a request that was asked before, by its digest; failures too where they are wanted."""
        found = self._replies.get(request)
        return found if found is None or found.text is not None or failures else None

    @property
    def skipped(self) -> Counter[str]:
        """Why replies led to no proposal, each reason with its number."""
        return sum((Counter(reasons) for reasons in self._skipped.values()), Counter[str]())

    def skip(self, generation: int, round_: int, reasons: dict[str, int]) -> None:
        """Record why replies to one ask led to none; ProposerError where the disk refuses."""
        self._skipped[generation, round_] = reasons
        self.write(_Skipped(generation=generation, round=round_, reasons=reasons))

    def begin(self, request: str, asked: dict[str, Any]) -> Pending:
        """Begin a request; nothing is written or counted before its first attempt."""
        return Pending(self, self.requests + 1, request, asked)

    def lacking(self, tokens: int, cost: float) -> str:
        """Say why so much more may not be spent; nothing where it may."""
        limits = self._limits
        if self.tokens + tokens > limits.budget_tokens:
            return f"{self.tokens} of {limits.budget_tokens} tokens are spent, and this request may take {tokens}"
        if limits.budget_cost is not None and self.cost + cost > limits.budget_cost:
            return f"{self.cost:.4f} of {limits.budget_cost:g} are spent, and this request may cost {cost:.4f}"
        return ""

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost at the prices of the configuration."""
        return self._limits.cost(tokens_in, tokens_out)

    def write(self, record: _Sent | _Over | _Skipped) -> None:
        """Put a record on disk; its sent half is replaced with every attempt. ProposerError where the disk refuses."""
        if isinstance(record, _Skipped):
            name = f"skipped-{record.generation:04d}-{record.round}.json"
        else:
            name = f"{record.number:04d}.{'sent.' if isinstance(record, _Sent) else ''}json"
        try:
            make_directory(self._folder, mode=0o700)
            write_durably(self._folder / name, canonical_bytes(record.json_value()) + b"\n", mode=0o600)
        except OSError as error:
            raise ProposerError(
                f"the record of a request cannot be written: {error.strerror}",
                where=str(self._folder / name),
                remedy="nothing is asked of a model that is not recorded: make room",
            ) from error
        if isinstance(record, _Sent):
            self.requests = max(self.requests, record.number)

    def over(self, record: _Over) -> None:
        """Take a request in that is over."""
        self.write(record)
        self._count(record)

    def _count(self, record: _Sent | _Over) -> None:
        self.tokens += record.tokens
        self.cost += record.cost
        if isinstance(record, _Over):
            self._replies[record.request] = record.reply  # the last one is what was used

    def _read(self) -> tuple[dict[int, _Sent], dict[int, _Over]]:
        sent, over = dict[int, _Sent](), dict[int, _Over]()
        for path in sorted(self._folder.glob("*.json")):
            if path.name.startswith(TEMPORARY):
                continue
            match = _NAME.fullmatch(path.name)
            try:
                value = parse_json(path.read_bytes(), max_bytes=_MAX_RECORD)
                if match is None:
                    told = _Skipped.parse(value)
                    self._skipped[told.generation, told.round] = told.reasons
                    continue
                record = _Sent.parse(value) if match[2] else _Over.parse(value)
            except (OSError, CanonicalError) as error:
                raise self._broken(path.name, str(error)) from error
            except ValidationError as error:
                raise self._broken(path.name, ": ".join(first_problem(error))) from error
            if record.number != int(match[1]):
                raise self._broken(path.name, "it has the number of another record")
            if isinstance(record, _Sent):
                sent[record.number] = record
            else:
                over[record.number] = record
        if lost := over.keys() - sent.keys():
            raise self._broken(f"{min(lost):04d}.sent.json", "it is missing")
        return sent, over

    def _broken(self, name: str, why: str) -> ProposerError:
        return ProposerError(
            f"what was spent on the model cannot be told: {why}",
            where=str(self._folder / name),
            remedy="put the record back from a copy: the budget rests on it",
        )


class Pending:
    """One request on its way: what its attempts may have cost so far."""

    def __init__(self, replies: Replies, number: int, request: str, asked: dict[str, Any]) -> None:
        """Name it; see `Replies.begin`."""
        self._replies, self._number, self._request, self._asked = replies, number, request, asked
        self._attempts = 0
        self._tokens, self._cost = 0, 0.0

    def reserve(self, tokens_in: int, tokens_out: int) -> str:
        """Write down, before an attempt, the most that it may take; say why not where that is not left."""
        tokens = self._tokens + tokens_in + tokens_out
        cost = self._cost + self._replies.price(tokens_in, tokens_out)
        if lacking := self._replies.lacking(tokens, cost):
            return lacking
        self._attempts += 1
        self._replies.write(
            _Sent(
                number=self._number,
                request=self._request,
                asked=self._asked,
                attempts=self._attempts,
                tokens=tokens,
                cost=cost,
            )
        )
        return ""

    def spend(self, tokens_in: int, tokens_out: int) -> None:
        """Count what the last attempt took."""
        self._tokens += tokens_in + tokens_out
        self._cost += self._replies.price(tokens_in, tokens_out)

    def end(self, reply: Reply) -> None:
        """Record what came of it, if anything was sent."""
        if self._attempts:
            self._replies.over(
                _Over(
                    number=self._number,
                    request=self._request,
                    attempts=self._attempts,
                    tokens=self._tokens,
                    cost=self._cost,
                    reply=reply,
                    ended=datetime.now(UTC).isoformat(timespec="seconds"),
                )
            )
