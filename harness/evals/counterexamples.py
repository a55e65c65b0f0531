"""Look for counterexamples to the properties of a subject among what one candidate has answered, and ask for more.

`Hunt.examine` is run from its start whenever answers came in (`inquiry.py`): what is missing is asked for, and where
nothing is, the evidence is whole. It hangs on the properties, the development items and the table of answers alone.

For each property the counterexamples of earlier candidates are judged first, then the cases drawn. The first that fails
refutes it; one that was drawn is shrunk. Where a worker refused a row, the failed job holds up all other answers: then
only what such a row refutes is judged, by the cases that are answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.canonical import Json, canonical_bytes
from harness.errors import SubjectError
from harness.evals import search
from harness.evals.cases import decode, encode, words
from harness.evals.inquiry import Rows, Table, UnansweredError
from harness.evals.items import Items
from harness.evals.properties import Property
from harness.evals.questions import Questions, RefusedError, own_errors

MAX_SEEN = 1 << 20
"""Bytes of answers that are kept with a counterexample."""
REFUSED = "a worker refuses to answer it: the answer is not finite, or raises an error"
_PLAIN = "the check says so"


@dataclass(frozen=True)
class Stored:
    """A counterexample to a property that an earlier candidate had."""

    number: int
    """The proposal."""
    name: str
    case: Json
    guards: str
    """The digest of the `guards.py` under which it was found."""


@dataclass
class Missing:
    """What was asked and is not known: of each check its missing rows, by job."""

    rows: list[dict[str, dict[bytes, Rows]]] = field(default_factory=list)


@dataclass(frozen=True)
class _Judged:
    """One case: what is wrong, empty where nothing is, and what was answered."""

    wrong: str
    seen: list[Rows]


class Hunt:
    """The properties of one subject and the cases that are drawn for them, which are the same for every candidate."""

    def __init__(self, properties: Sequence[Property], items: Mapping[str, Items], guards: str) -> None:
        """`items`: the development items of each population; `guards`: the digest of `guards.py`."""
        self._properties = properties
        self._items = items
        self._guards = guards
        self._drawn: dict[str, list[Json]] = {}

    def of_refusals(self) -> Hunt:
        """The same, of those properties alone that a refused row refutes."""
        hunt = Hunt([each for each in self._properties if each.refusal], self._items, self._guards)
        hunt._drawn = self._drawn
        return hunt

    def examine(self, table: Table, stored: Sequence[Stored], missing: Missing) -> dict[str, dict[str, Any]]:
        """The evidence for and against each property, by name; those whose answers are missing are not in it.

        SubjectError, with its line, where a check or a strategy raises, says nothing, or does not end.
        """
        refusals = any(job.startswith('{"refused":') for job in table.jobs)
        found = {}
        for each in self._properties:
            if refusals and not each.refusal:
                continue
            with own_errors(each.function, f"property '{each.name}'"):
                judged = self._examine(each, table, stored, missing, refusals=refusals)
            if judged is not None:
                found[each.name] = judged
        return found

    def _examine(
        self, prop: Property, table: Table, stored: Sequence[Stored], missing: Missing, *, refusals: bool
    ) -> dict[str, Any] | None:
        own = [each for each in stored if each.name == prop.name]
        drawn = self._cases(prop)
        lacking = Missing()
        verdicts: list[tuple[Stored | None, Json, _Judged]] = []
        replayed = aside = tried = 0
        for old, case in (*((each, each.case) for each in own), *((None, case) for case in drawn)):
            ask = Questions(table, prop.name)
            try:
                judged = self._judge(prop, ask, case, lacking)
            except Exception:
                # After an answer it is an error, as ever: nobody answers themselves out of an old case.
                if old is None or old.guards == self._guards or ask.seen:
                    raise
                aside += 1  # the property was another one when this was found, and can no longer read it
                continue
            if judged is not None:
                verdicts.append((old, case, judged))
                replayed, tried = replayed + (old is not None), tried + (old is None)
        first = next(((old, case, judged) for old, case, judged in verdicts if judged.wrong), None)
        if lacking.rows and (first is None or not refusals):
            missing.rows += lacking.rows
            return None
        evidence: dict[str, Any] = {
            "verdict": "held" if first is None else "refuted",
            "where": prop.where,
            "seed": str(prop.seed),
            "tried": tried,
            "replayed": replayed,
            "set_aside": aside,
        }
        if first is None:
            if not any(judged.seen for _, _, judged in verdicts):
                raise SubjectError("it asked nothing about any case", remedy="ask the candidate, or widen its cases")
            return evidence
        old, case, judged = first
        steps = 0
        if old is None:
            shrunk = self._shrunk(prop, table, missing)
            if shrunk is None:
                return None
            case, judged, steps = shrunk
        return evidence | {
            "counterexample": {
                "case": case,
                "words": words(decode(case)),
                "wrong": judged.wrong,
                "answers": _kept(judged.seen),
                "drawn": first[1],
                "shrinks": steps,
                "of": None if old is None else old.number,
            }
        }

    def _cases(self, prop: Property) -> list[Json]:
        """The cases of a property, each once, in the order in which they are drawn."""
        if prop.name not in self._drawn:
            drawn = [encode(case) for case in search.draw(self._strategy(prop), prop.seed, prop.tries)]
            once = {canonical_bytes(case): case for case in drawn}
            if not once:
                raise SubjectError("its cases are none: the strategy gives nothing")
            self._drawn[prop.name] = list(once.values())
        return self._drawn[prop.name]

    def _strategy(self, prop: Property) -> search.Cases:
        import inspect

        takes = inspect.signature(prop.cases).parameters
        return prop.cases(self._items[prop.of]) if takes else prop.cases()

    @staticmethod
    def _judge(prop: Property, ask: Questions, case: Json, missing: Missing) -> _Judged | None:
        """Judge one case; None where an answer is missing, which is then noted."""
        try:
            said = prop.check(ask, decode(case))
        except UnansweredError:
            missing.rows.append(ask.missing)
            return None
        except RefusedError:
            return _Judged(REFUSED, ask.seen)
        if isinstance(said, (bool, np.bool_)):
            return _Judged("" if said else _PLAIN, ask.seen)
        if isinstance(said, str) and said:
            # it may quote what a candidate answered, in letters that no evidence can carry
            return _Judged(said[:400].encode("utf-8", "backslashreplace").decode(), ask.seen)
        raise SubjectError(f"it says {said!r:.80} of a case; true, false or words are wanted")

    def _shrunk(self, prop: Property, table: Table, missing: Missing) -> tuple[Json, _Judged, int] | None:
        """The simplest failing case that the budget leads to, and how many it took; None where an answer is missing."""
        first: bytes | None = None
        tried: dict[bytes, None] = {}

        def fails(case: Any) -> bool:
            nonlocal first
            value = encode(case)
            name, lacking = canonical_bytes(value), Missing()
            judged = self._judge(prop, Questions(table, prop.name), value, lacking)
            if judged is None and first is not None:
                missing.rows += lacking.rows
                raise UnansweredError
            if first not in (None, name):
                tried[name] = None
            failed = judged is not None and bool(judged.wrong)
            first = name if failed and first is None else first
            return failed

        def more() -> bool:
            return len(tried) < prop.shrinks

        try:
            case = encode(search.shrink(self._strategy(prop), prop.seed, prop.tries, fails, more))
        except UnansweredError:
            return None
        judged = self._judge(prop, Questions(table, prop.name), case, Missing())
        if judged is None or not judged.wrong:
            raise SubjectError(
                "a case was refuted, and not when it was looked at again",
                remedy="let the strategy and the check hang on nothing but the seed, the case and the answers",
            )
        return case, judged, len(tried)


def _kept(seen: Sequence[Rows]) -> Json:
    """What was answered, as it is kept: each answer by name. Too much of it is left out, and said to be."""
    size = sum(array.nbytes for rows in seen for array in rows.values())
    if size > MAX_SEEN:
        return f"{size} bytes, left out"
    return [{name: encode(array, 2 * MAX_SEEN) for name, array in rows.items()} for rows in seen]
