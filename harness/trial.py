"""A candidate's trial on the vault: what stops it before, the stake, the answers, the test.

The stake is durable before the first item is scored; the digest of the answers is logged before
they are scored; the evaluator stops when it knows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from harness.canonical import canonical_bytes, digest_file
from harness.decision import reject
from harness.desk import Desk, Rooms
from harness.entries import Measured, Predicted
from harness.fresh_ledger import charge
from harness.inquiring import inquire
from harness.records import Candidate, Decision, Digest, GateVerdict, Timed
from harness.shortfall import falls_short
from harness.state import ProposalState
from harness.timing import take_times
from harness.workshop import Failure

RECHECKED = 256
"""Rows that are asked again: an answer that leans on its neighbours in one row of fifty is found with 0.99; one that
hides it in what rounding lets through, in one row of twenty."""
RECHECK_BATCH = 7


class Trial(Desk):
    """One candidate at a time, in order of number."""

    def __init__(self, rooms: Rooms) -> None:
        """Begin with no inputs staged."""
        super().__init__(rooms)
        self._staged: dict[tuple[int, int, int], int] = {}

    def before_stake(self, found: ProposalState) -> Decision | None:
        """What stops a developed candidate before it costs held-out items."""
        rooms, state = self._rooms, self.state
        if found.built is None or found.developed is None:
            return reject("interrupted", "it was not built")
        known = state.candidates()
        for name, other in (
            ("its base", found.screened.base if found.screened else ""),
            ("the incumbent", state.incumbent.digest),
        ):
            twin = known.get(other)
            if (
                twin
                and twin[0].weights == found.built.candidate.weights
                and self.state.development_answers(other) == found.developed.answers
            ):
                return reject("no-op", f"the same weights and the same answers as {name}: the change has no effect")
        if state.promotions >= rooms.config.budgets.promotions:
            return reject("budget", f"the run may promote {rooms.config.budgets.promotions} times")
        if self._out_of_time():
            return reject("budget", "the run's wall-clock budget is spent")
        config, theirs = rooms.config, known[state.incumbent.digest][1]
        short = falls_short(config.development, config.objective, found.developed.development, theirs)
        if short is not None:
            return reject("development", short)
        if rooms.vault.state.exhausted:
            return reject("vault-exhausted", f"{rooms.vault.state.remaining} unspent held-out items are left")
        return None

    def measure(self, number: int) -> Decision | None:
        """Candidate, incumbent and baseline answer the prefix that was staked; the evaluator runs the test."""
        rooms, state = self._rooms, self.state
        found = self._of(number)
        if found.staked is None or found.built is None:
            return reject("interrupted", "nothing was staked")
        held = rooms.vault.state.pending
        if held is None or held.key != self._key(number):
            return reject("interrupted", "another run has used the vault meanwhile; what was staked stays spent")
        offset, cap = found.staked.offset, found.staked.cap
        ids = rooms.vault.items(offset, cap)
        shuffle = rooms.vault.shuffle(offset, cap)
        inputs, rows = self._inputs(ids, shuffle, offset)
        paths: dict[str, str] = {}
        tables: dict[str, str | None] = {}
        roles = {"incumbent": state.incumbent, "baseline": state.baseline, "candidate": found.built.candidate}
        for role, candidate in roles.items():
            given = self._answers(candidate, inputs, rows, offset, cap, number)
            if isinstance(given, Failure):
                if role != "candidate":
                    return reject("evaluator-failed", f"the {role} did not answer: {given.text}")
                return reject(given.code, given.text)
            answers, asked = given
            paths[role] = str(rooms.blobs.path(answers))
            tables[role] = None if asked is None else str(rooms.blobs.path(asked))
        with tempfile.TemporaryDirectory(prefix="records-", dir=rooms.folder.work) as place:
            answer = self._ask(
                {
                    "op": "test",
                    "ids": ids,
                    "shuffle": shuffle,
                    **paths,
                    "asked": tables,
                    "gates": [gate.json_value() for gate in rooms.gates],
                    "alpha": found.staked.alpha,
                    "cap": min(cap, rooms.config.ledger.cap),
                    "batch": rooms.config.ledger.batch,
                    "place": place,
                }
            )
            records = [
                {
                    **{name: each[name] for name in ("eval", "role", "about")},
                    "record": rooms.blobs.put(Path(each["path"]).read_bytes()),
                }
                for each in answer.pop("records")
            ]
        if records:
            answer["records"] = records
        result = answer["result"]
        fresh = rooms.config.ledger.items == "fresh"
        by_name = {gate.name: gate for gate in rooms.gates}
        verdicts = [
            GateVerdict(
                name=g["name"], eval=by_name[g["name"]].eval, kind=by_name[g["name"]].kind, verdict=g["verdict"]
            )
            for g in result["gates"]
        ]
        passed = all(v.verdict == "pass" for v in verdicts)
        timed = self._timed(found) if passed else None
        if isinstance(timed, Failure):
            return reject(timed.code, timed.text)
        self._journal.commit(
            Measured(
                number=number,
                passed=passed,
                gates=verdicts,
                evidence=rooms.blobs.put(canonical_bytes(answer)),
                charged=charge(found.staked.alpha, [g["log_e"] for g in result["gates"]]) if fresh else None,
                timed=timed,
            )
        )
        return None

    def _timed(self, found: ProposalState) -> Timed | Failure | None:
        """What the candidate costs beside the incumbent; None where nobody asks."""
        rooms, rule = self._rooms, self._rooms.config.efficiency
        if rule is None or found.built is None or found.developed is None:
            return None
        incumbent = self.state.incumbent
        return take_times(
            rooms.workshop,
            (found.built.candidate, found.developed.answers),
            (incumbent, self.state.development_answers(incumbent.digest)),
            rooms.development,
            rule.latency_pairs,
        )

    def _inputs(self, ids: list[int], shuffle: str, offset: int) -> tuple[Path, int]:
        """The epoch's unlabelled inputs, written once by this supervisor; what an earlier one left is not trusted."""
        key = (self.state.epoch, offset, len(ids))
        path = self._rooms.folder.work / f"rows-{shuffle[:16]}.safetensors"
        if key not in self._staged:
            for old in self._rooms.folder.work.glob("rows-*.safetensors"):
                old.unlink()
            made = self._ask({"op": "inputs", "split": "vault", "ids": ids, "shuffle": shuffle, "dest": str(path)})
            self._staged = {key: made["rows"]}
        return path, self._staged[key]

    def _answer_apart(
        self, candidate: Candidate, inputs: Path, rows: int, answers: Path, **shown: Any
    ) -> Failure | None:
        """Ask a few secretly drawn rows again, in a job of their own: a row's answer may not lean on its neighbours.

        The tests count items as independent. A model that reads other rows of its batch (another view of the same
        item, or the whole prefix as a source of luck) would break that, so what it answers alone must agree, and with
        `shown`, the `ids` and `shuffle` of a table of all views, come to the same scores.
        """
        rooms = self._rooms
        few = min(RECHECKED, rows)
        name = digest_file(answers)
        chosen = rooms.vault.draw(name, rows, few)
        part = rooms.folder.work / f"few-{name[7:23]}.safetensors"
        self._ask({"op": "pick", "inputs": str(inputs), "rows": chosen, "dest": str(part)})
        try:
            again = rooms.workshop.predict(candidate, part, few, batch=RECHECK_BATCH)
        finally:
            part.unlink(missing_ok=True)
        if isinstance(again, Failure):
            return again
        request = {"op": "agree", "rows": chosen, "total": rows, **shown}
        paths = {"answers": str(answers), "again": str(rooms.blobs.path(again.answers))}
        if not self._ask({**request, **paths})["agree"]:
            return Failure("predict-output", "a row's answer depends on the other rows that it is asked with")
        return None

    def _answers(
        self, candidate: Candidate, inputs: Path, rows: int, offset: int, cap: int, number: int
    ) -> tuple[Digest, Digest | None] | Failure:
        """A candidate's answers to the epoch's prefix, and to evals that ask: once a prefix, then from the log."""
        rooms = self._rooms
        key = (candidate.digest, self.state.epoch, offset, cap)
        cached, table = self.state.answers.get(key), self.state.asked.get(key)
        if cached is not None and all(rooms.blobs.has(name) for name in (cached, table) if name):
            for name in filter(None, (cached, table)):
                rooms.blobs.check(name)
            return cached, table
        answered = rooms.workshop.predict(candidate, inputs, rows)
        if isinstance(answered, Failure):
            return answered
        ids, shuffle = rooms.vault.items(offset, cap), rooms.vault.shuffle(offset, cap)
        given = rooms.blobs.path(answered.answers)
        apart = self._answer_apart(candidate, inputs, rows, given, ids=ids, shuffle=shuffle)
        if apart is not None:
            return apart
        asked = inquire(
            self._ask,
            rooms.workshop,
            candidate,
            split="vault",
            ids=ids,
            shuffle=shuffle,
            check=lambda inputs, rows, answers: self._answer_apart(candidate, inputs, rows, answers),
        )
        if isinstance(asked, Failure):
            return asked
        if cached is None:
            self._journal.commit(
                Predicted(
                    candidate=candidate.digest,
                    epoch=self.state.epoch,
                    offset=offset,
                    cap=cap,
                    answers=answered.answers,
                    asked=asked,
                    number=number,
                )
            )
        elif (cached, table) != (answered.answers, asked):
            return Failure("evaluator-failed", "answers given again differ from those in the log")
        return answered.answers, asked
