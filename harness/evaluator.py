"""The evaluator: the one process that holds held-out labels. It sees answers as plain tensors.

Started by the supervisor as `python -m harness.evaluator SUBJECT`; answers one JSON line
for each (see `channel.py`). It imports the subject's trusted `guards.py` and numpy, never
torch, and runs no candidate code. It holds no key: the supervisor tells it which items,
in which order, under which shuffle.

What the predict job is given is one flat table of rows: the inputs of all views of all
items, shuffled, so that a candidate cannot tell by its place which eval a row serves.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness import shuffled
from harness.bringing import bring
from harness.canonical import canonical_bytes, digest, digest_file, parse_json
from harness.channel import serve
from harness.errors import EvaluatorError, LockgateError, SubjectError
from harness.evals import Inquiry, Scores, load_guards
from harness.evals.inquiry import Ask, Table, UnansweredError, refused, write_wanted
from harness.fingerprint import describe, fingerprint, item_digests
from harness.refusing import answered
from harness.statistics import GateSpec, run_test

if TYPE_CHECKING:
    from harness.evals.counterexamples import Hunt, Stored
    from harness.evals.data import Chosen, Split

SECONDS = 540.0
"""What one request may take: less than whoever asks waits, so that the line can be told that never ends."""
MAX_EVIDENCE = 64 << 20
"""Bytes of what is kept of properties."""


class Evaluator:
    """The subject's data and evals, loaded once, and the operations that the supervisor asks for."""

    def __init__(self, subject: Path, expected: dict[str, str] | None = None) -> None:
        """Load `guards.py` and its data. SubjectError where they are not sound.

        `expected` maps files of the subject to their digests: what the log's guard digest covers. An evaluator
        that is started again in the middle of a run loads exactly that, or nothing.
        """
        # A stale or planted .pyc would run in place of the text that was hashed: below a device there can be none.
        sys.pycache_prefix, sys.dont_write_bytecode = os.devnull, True
        self._path = subject / "guards.py"
        _check_files(subject, expected or {})
        self._suite = bring(subject, load_guards(self._path, expected), expected)
        _check_files(subject, expected or {})  # and nothing was changed between the hash and the import
        self._data = self._suite.load()
        self._suite.check(self._data)
        self._made: dict[tuple[tuple[int, ...], str], dict[str, Chosen]] = {}
        self._guards = digest_file(self._path)
        self._kept: Hunt | None = None

    def operate(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request, by its `op`."""
        operations: dict[str, Callable[..., dict[str, Any]]] = {
            "describe": self.describe,
            "fingerprint": self.fingerprint,
            "added": self.added,
            "digests": self.digests,
            "training": self.training,
            "inputs": self.inputs,
            "inquire": self.inquire,
            "develop": self.develop,
            "test": self.test,
            "pick": self.pick,
            "agree": self.agree,
        }
        arguments = dict(request)
        operation = operations.get(str(arguments.pop("op", "")))
        if operation is None:
            raise EvaluatorError(f"unknown operation {request.get('op')!r}")
        return operation(**arguments)

    def describe(self) -> dict[str, Any]:
        """What there is: sizes, evals with their kinds and bounds, the shape of an answer, the data's digest."""
        return describe(self._suite, self._data)

    def fingerprint(self, vault: int) -> dict[str, Any]:
        """A digest over the data, of held-out items the first `vault` ones."""
        return {"digest": fingerprint(self._data, vault)}

    def added(self, before: int) -> dict[str, Any]:
        """Check the held-out items that stand after the first `before` ones: none of them was held out before."""
        self._data.check_added(before)
        return {"added": self._data.count("vault") - before}

    def digests(self, ids: list[int]) -> dict[str, Any]:
        """Name some held-out items by the digests of their contents, labels left out."""
        return {"digests": item_digests(self._data, ids)}

    def _chosen(self, split: Split, ids: list[int] | None, shuffle: str) -> dict[str, Chosen]:
        """The items asked for; the last ones made are kept, for a test comes back to them several times.

        Generated ones are made under the test's own shuffle, a secret that the vault key and the place of its items
        decide: so a test that was cut makes them again, and nobody could have made them before.
        """
        if split != "vault" or not self._data.generated:
            return self._data.choose(split, ids)
        asked = (tuple(ids or ()), shuffle)
        if asked not in self._made:
            secret = digest(f"{shuffle}/items".encode())
            self._made = {asked: self._data.choose(split, ids, secret)}
        return self._made[asked]

    def training(self, dest: str) -> dict[str, Any]:
        """Write the training tensors, labels and all, to `dest` for build jobs."""
        shuffled.write(dest, self._data.train)
        return {"digest": digest(Path(dest).read_bytes())}

    def inputs(self, split: Split, ids: list[int] | None, shuffle: str, dest: str) -> dict[str, Any]:
        """Write the unlabelled, shuffled inputs of all views of these items to `dest`."""
        chosen = self._chosen(split, ids, shuffle)
        rows = shuffled.stage(self._suite, chosen, shuffle, dest)
        return {"rows": rows, "items": sum(len(each.places) for each in chosen.values())}

    def pick(self, inputs: str, rows: list[int], dest: str) -> dict[str, Any]:
        """Write some rows of staged inputs to `dest`, to be answered again on their own."""
        return {"rows": shuffled.pick(inputs, rows, dest)}

    def agree(
        self,
        answers: str,
        again: str,
        rows: list[int],
        total: int,
        ids: list[int] | None = None,
        shuffle: str | None = None,
    ) -> dict[str, Any]:
        """Say whether answers [total, *output] and those given to some rows alone agree, up to rounding.

        `ids`, `shuffle`: of which held-out items the rows are, where they are the table of all views: then the scores
        of what was asked again must agree, too.
        """
        output = self._data.output
        same = shuffled.agree(answers, again, rows, total, output, greatest=shuffle is None)
        if same and shuffle is not None:
            chosen = self._chosen("vault", ids, shuffle)
            one, two = shuffled.answers_in(answers, total, output), shuffled.answers_in(again, len(rows), output)
            same = shuffled.scores_agree(self._suite, chosen, shuffle, one, two, rows)
        return {"agree": same}

    def inquire(
        self,
        split: Split,
        ids: list[int] | None,
        shuffle: str,
        asked: str | None,
        answered: list[dict[str, str]],
        done: list[str],
        place: str,
        only: Literal["all", "evals", "finite"] = "all",
        stored: list[dict[str, Any]] | None = None,
        refused_rows: list[dict[str, str]] | None = None,
    ) -> dict[str, Any]:
        """Run the evals that ask, as far as what was answered goes; write what they miss, and the table so far.

        `asked`: the table of the last time; `answered`: what was answered since, by job, inputs and outputs. `done`:
        evals that need no more, by name. Nothing is wanted any more where all are.

        On development items properties ask, too: all but where `only` leaves them out, or all but those that a refused
        row refutes. `stored` are the counterexamples of earlier candidates, `refused_rows` rows that a worker refuses
        to answer, by job and inputs. `finite` is whether there are such properties, `refuted` those that are by now.
        """
        from harness.evals.counterexamples import Missing

        table = self._table(asked, shuffle)
        for each in answered:
            inputs, outputs = (shuffled.read(each[name]) for name in ("inputs", "outputs"))
            table.add(each["job"], inputs, outputs)
        chosen = self._chosen(split, ids, shuffle)
        for each in refused_rows or []:
            inputs = shuffled.read(each["inputs"])
            table.add(refused(each["job"]), inputs, {"refused": np.ones(len(next(iter(inputs.values()))), np.uint8)})
        missing = []
        finished = set(done)
        for inquiry in self._suite.inquiries:
            if inquiry.name in finished or only == "finite":
                continue
            ask = Ask(table, inquiry.name)
            try:
                inquiry.score(ask, chosen[inquiry.of].items)
            except UnansweredError:
                missing.append(ask.missing)
            else:
                finished.add(inquiry.name)
        refuted: list[str] = []
        properties = split == "development" and only != "evals"
        if properties and self._suite.properties:
            lacking = Missing()
            found = self._hunt(finite=only == "finite").examine(table, _stored(stored), lacking)
            refuted = [name for name, each in found.items() if each["verdict"] == "refuted"]
            missing += lacking.rows
        dest = Path(place) / "asked.safetensors"
        return {
            "asked": str(dest) if table.jobs and table.save(dest) else None,
            "done": sorted(finished),
            "wanted": write_wanted(missing, Path(place)),
            "finite": properties and any(each.refusal for each in self._suite.properties.values()),
            "refuted": refuted,
        }

    def _hunt(self, *, finite: bool = False) -> Hunt:
        """The search for counterexamples; its cases are drawn once."""
        from harness.evals.counterexamples import Hunt

        if self._kept is None:
            development = self._data.split("development")
            self._kept = Hunt(list(self._suite.properties.values()), development, self._guards)
        return self._kept.of_refusals() if finite else self._kept

    def _table(self, asked: str | None, shuffle: str) -> Table:

        secret = digest(f"{shuffle}/asked".encode()).encode()
        return Table(secret) if asked is None else Table.of(shuffled.read(asked), secret)

    def _score(
        self,
        name: str,
        chosen: dict[str, Chosen],
        answers: dict[str, np.ndarray],
        table: Table | None,
        keep: Callable[[bytes, dict[str, Any]], None] | None = None,
    ) -> Scores:
        """Score the items chosen: `applies` is over all of them, values in their order. `keep` gets what was kept."""
        evaluation = self._suite.evaluations[name]
        population = chosen[evaluation.of]
        if not len(population.places):
            scores = Scores(np.zeros(0, dtype=np.bool_), np.zeros(0))
        elif not isinstance(evaluation, Inquiry):
            scores = evaluation.score(population.items.labels, answers)
        else:
            ask = Ask(table or self._table(None, ""), name)
            try:
                scores = evaluation.score(ask, population.items)
            except UnansweredError:
                raise EvaluatorError(f"eval '{name}' asks for what was not answered", where=evaluation.where) from None
            if keep is not None and ask.kept is not None:
                keep(*ask.kept)
        applies = np.zeros(sum(len(each.places) for each in chosen.values()), dtype=np.bool_)
        applies[population.places[scores.applies]] = True
        return Scores(applies, scores.values)

    def _answers(self, path: str, chosen: dict[str, Chosen], shuffle: str) -> dict[str, np.ndarray]:
        return shuffled.by_view(self._suite, chosen, shuffle, path, self._data.output)

    def develop(
        self,
        answers: str,
        shuffle: str,
        asked: str | None = None,
        stored: list[dict[str, Any]] | None = None,
        dest: str | None = None,
    ) -> dict[str, Any]:
        """Score every eval on all development items: the mean of each, which a proposer may see.

        With `dest` properties are judged, too, by what was answered to them: the verdict on each, and the evidence,
        which is written there as JSON. `stored` are the counterexamples of earlier candidates, as for `inquire`.
        """
        chosen = self._data.choose("development")
        by_view, table = self._answers(answers, chosen, shuffle), self._table(asked, shuffle)
        means = {}
        for name in self._suite.evaluations:
            scores = self._score(name, chosen, by_view, table).values
            if not len(scores):
                raise SubjectError(f"eval '{name}' applies to no development item", where=str(self._path))
            means[name] = float(scores.mean())
        if dest is None or not self._suite.properties:
            return {"development": means, "properties": None}
        from harness.evals.counterexamples import Missing
        from harness.evals.search import version

        lacking = Missing()
        found = self._hunt().examine(table, _stored(stored), lacking)
        if lacking.rows or not found:
            raise EvaluatorError("properties ask for what was not answered", where=str(self._path))
        evidence = {"guards": self._guards, "hypothesis": version(), "properties": found}
        Path(dest).write_bytes(canonical_bytes(evidence))
        return {"development": means, "properties": {name: each["verdict"] for name, each in found.items()}}

    def test(
        self,
        ids: list[int],
        shuffle: str,
        candidate: str,
        incumbent: str,
        baseline: str,
        gates: list[dict[str, Any]],
        alpha: float,
        cap: int,
        batch: int,
        asked: dict[str, str | None] | None = None,
        place: str | None = None,
    ) -> dict[str, Any]:
        """Run the sequential test of all gates on this prefix of the vault; stop as soon as it is decided.

        `asked`: for each of candidate, incumbent and baseline, what it answered to the evals that ask. `place`: a
        folder for the records that evals keep of their scores; `records` says what they are of, and where.
        """
        specs = [GateSpec.parse(gate) for gate in gates]
        chosen = self._chosen("vault", ids, shuffle)
        answers: dict[str, dict[str, np.ndarray]] = {}
        tables: dict[str, Table] = {}
        for role, path in (("candidate", candidate), ("incumbent", incumbent), ("baseline", baseline)):
            answers[role] = self._answers(path, chosen, shuffle)
            tables[role] = self._table((asked or {}).get(role), shuffle)

        # Everything is scored at once, and the test then reads as much as it needs: so the time that a test takes,
        # which a proposer might measure from outside, tells next to nothing of where it stopped.
        values, applies, before = {}, {}, {}
        known: dict[tuple[str, str], Scores] = {}
        records: list[dict[str, Any]] = []

        def score(name: str, role: str) -> Scores:
            def keep(record: bytes, about: dict[str, Any]) -> None:
                if place is not None:
                    path = Path(place) / f"record-{len(records)}"
                    path.write_bytes(record)
                    records.append({"eval": name, "role": role, "about": about, "path": str(path)})

            if (name, role) not in known:
                known[name, role] = self._score(name, chosen, answers[role], tables[role], keep)
            return known[name, role]

        for spec in specs:
            own = score(spec.eval, "candidate")
            other = None if spec.paired is None else score(spec.eval, spec.paired).values
            values[spec.name] = spec.observe(own.values, other)
            applies[spec.name] = own.applies
            before[spec.name] = np.concatenate([[0], np.cumsum(own.applies)])

        def draw(gate: str, start: int, stop: int) -> np.ndarray:
            return values[gate][before[gate][start] : before[gate][stop]]

        # How many items an eval applies to is known before any is scored: it only tells what is hopeless. Where
        # evidence is worth a refund, though, a test must not stop by what it knows of items that are still to come.
        applicable = {spec.name: int(applies[spec.name][: spec.cap or cap].sum()) for spec in specs}
        if self._data.generated:
            applicable = {}
        result = run_test(specs, draw, alpha, cap, batch, applicable=applicable, available=len(ids))
        return {"result": result.json_value(), "salt": secrets.token_hex(16), "records": records}


def _check_files(subject: Path, expected: dict[str, str]) -> None:
    for name, wanted in expected.items():
        try:
            found = digest_file(subject / name)
        except OSError as error:
            raise SubjectError(f"cannot be read: {error.strerror}", where=str(subject / name)) from error
        if found != wanted:
            raise SubjectError(
                "has changed while the run is at work: nothing is scored by it",
                where=str(subject / name),
                remedy="restore it, then resume; or begin a new run with --out",
            )


def _stored(given: list[dict[str, Any]] | None) -> list[Stored]:
    """The counterexamples in the evidence of earlier proposals, each case once; EvaluatorError where it is none."""
    from harness.evals.counterexamples import Stored

    found: dict[bytes, Stored] = {}
    for each in given or []:
        path = str(each["evidence"])
        try:
            evidence: Any = parse_json(Path(path).read_bytes(), max_bytes=MAX_EVIDENCE)
            for name, judged in sorted(evidence["properties"].items()):
                if judged["verdict"] == "refuted":
                    case = judged["counterexample"]["case"]
                    own = Stored(int(each["number"]), name, case, evidence["guards"])
                    found.setdefault(canonical_bytes([name, case]), own)
        except (OSError, KeyError, TypeError, LockgateError) as error:
            raise EvaluatorError(f"evidence of properties is malformed: {error}", where=path) from error
    return list(found.values())


def main() -> None:
    """Serve requests until the supervisor goes away."""
    made: list[Evaluator] = []

    subject = Path(sys.argv[1])

    def operate(request: dict[str, Any]) -> dict[str, Any]:
        if not made:
            made.append(Evaluator(subject, json.loads(sys.argv[2]) if len(sys.argv) > 2 else None))
        answer = made[0].operate(request)
        canonical_bytes({"ok": answer})  # what cannot be written is an error, too
        return answer

    serve(lambda request: answered(lambda: operate(request), subject, SECONDS))


if __name__ == "__main__":
    main()
