"""Evals that ask: what is put to a candidate depends on what it has answered before.

An attack looks for the rows that a candidate gets wrong, a property for a counterexample, a task of several turns
answers back. Such an eval is a function that is given `ask`; it runs in the evaluator, and the candidate answers in
the sandbox, in jobs between which nothing is kept.

A candidate's answer to a row hangs on that row alone (rows are asked again apart, to hold it to that). So what was
answered is a table, from rows to answers, and an eval that asks is run from its start again whenever rows were added:
asked for one that the table lacks, it is left, the missing rows of all such evals are put to the candidate together,
shuffled, and it runs anew. Nothing is kept but the table. Going on after a crash, and a reviewer's replay, are the
same code with a longer one; they must come to the same scores.

Rows are named by HMAC-SHA256 under the secret of the items asked, so that the table's digest, which is public, confirms
no guess of an item.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import EvaluatorError
from harness.evals.items import Array, Inputs, rows_of

PREDICT = '{"job":"predict"}'
"""The job that a plain `ask(inputs)` is for."""
ALONE = '{"batch":1,"job":"predict"}'
"""The same, each row in a batch of its own."""
ANSWERS = "answers"
Rows = dict[str, Array]


def refused(job: str) -> str:
    """The job under which a table keeps the rows that a worker refused to answer in another job."""
    return f'{{"refused":{job}}}'


class UnansweredError(BaseException):
    """An eval asked for rows that the table lacks. It passes through `except Exception`: no eval may swallow it."""


@dataclass
class Table:
    """What one candidate has answered: for each job, rows by name to tensors by name."""

    secret: bytes
    jobs: dict[str, dict[bytes, Rows]] = field(default_factory=dict)

    def names(self, job: str, inputs: Inputs) -> list[bytes]:
        """The name of each row, 32 bytes."""
        parts = [np.ascontiguousarray(inputs[name]) for name in sorted(inputs)]
        form = json.dumps([[name, inputs[name].dtype.str, inputs[name].shape[1:]] for name in sorted(inputs)])
        start = hmac.new(self.secret, f"{job}\n{form}\n".encode(), hashlib.sha256)
        named = []
        for row in range(len(parts[0])):
            each = start.copy()
            for part in parts:
                each.update(part[row].tobytes())
            named.append(each.digest())
        return named

    def add(self, job: str, inputs: Inputs, answered: Mapping[str, Array]) -> None:
        """Take what was answered to these rows. EvaluatorError where that is not a row for each."""
        rows = rows_of(inputs, "what was asked")
        if any(len(array) != rows for array in answered.values()):
            raise EvaluatorError(f"{rows} rows were asked, and other numbers answered")
        known = self.jobs.setdefault(job, {})
        for row, name in enumerate(self.names(job, inputs)):
            known.setdefault(name, {key: array[row] for key, array in answered.items()})

    def save(self, path: Path) -> int:
        """Write it, in one order whatever the order of asking; returns how many rows it holds."""
        from safetensors.numpy import save_file

        tensors = {"jobs": np.frombuffer(json.dumps(sorted(self.jobs)).encode(), dtype=np.uint8)}
        for index, job in enumerate(sorted(self.jobs)):
            rows = sorted(self.jobs[job].items())
            tensors[f"{index}.rows"] = np.frombuffer(b"".join(name for name, _ in rows), np.uint8).reshape(-1, 32)
            for key in rows[0][1]:
                tensors[f"{index}.is.{key}"] = np.stack([answer[key] for _, answer in rows])
        save_file(tensors, path)
        return sum(len(rows) for rows in self.jobs.values())

    @classmethod
    def of(cls, tensors: Mapping[str, Array], secret: bytes) -> Table:
        """The table that was saved as these tensors. Raises EvaluatorError for others."""
        table = cls(secret)
        try:
            jobs = json.loads(tensors["jobs"].tobytes())
            for index, job in enumerate(jobs):
                names = [row.tobytes() for row in tensors[f"{index}.rows"]]
                prefix = f"{index}.is."
                columns = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
                table.jobs[job] = {
                    name: {key: column[row] for key, column in columns.items()} for row, name in enumerate(names)
                }
        except (KeyError, ValueError, IndexError) as error:
            raise EvaluatorError(f"a table of answers is malformed: {type(error).__name__}: {error}") from error
        return table


class Ask:
    """What an eval that asks is given. `rng` is its own, the same whenever it is run on these items."""

    def __init__(self, table: Table, name: str) -> None:
        """Ask what `table` knows; what it does not is gathered in `missing`, by job."""
        self._table = table
        self._name = name
        self.missing: dict[str, dict[bytes, Rows]] = {}
        self.kept: tuple[bytes, dict[str, Any]] | None = None
        self.rng = np.random.default_rng(list(hmac.digest(table.secret, f"rng {name}".encode(), "sha256")))

    def __call__(self, inputs: Inputs) -> Array:
        """What the candidate answers to these rows, [rows, *output] float32.

        Inputs are as a view gives them. Raises SubjectError for what is not plain rows.
        """
        return self.job(PREDICT, inputs)[ANSWERS]

    def keep(self, record: bytes, about: dict[str, Any]) -> None:
        """Keep a record of how these scores came about, and a few words about it, beside the evidence of a test.

        It is no part of what a replay compares, so it may hold times and the like. `about` must be plain JSON.
        """
        self.kept = (record, about)

    @property
    def fingerprint(self) -> bytes:
        """A digest of all that was answered so far: with the same one, everything asked is answered the same."""
        whole = hashlib.sha256()
        for job, rows in sorted(self._table.jobs.items()):
            whole.update(f"{job}\n{len(rows)}\n".encode())
            for name, answer in sorted(rows.items()):
                whole.update(name)
                for key in sorted(answer):
                    whole.update(f"{key} {answer[key].dtype.str} {answer[key].shape}\n".encode())
                    whole.update(np.ascontiguousarray(answer[key]).tobytes())
        return whole.digest()

    def job(self, job: str, inputs: Inputs) -> Rows:
        """What a worker's job makes of these rows, by name of the tensor, each [rows, …]."""
        return self.jobs([job], inputs)[0]

    def jobs(self, jobs: Sequence[str], inputs: Inputs) -> list[Rows]:
        """What each of several jobs makes of the same rows; what is missing of all of them is asked at once."""
        rows_of(inputs, f"what '{self._name}' asks")
        tables, names = [], []
        for job in jobs:
            known, each = self._table.jobs.get(job, {}), self._table.names(job, inputs)
            tables.append(known)
            names.append(each)
            lacking = [row for row, name in enumerate(each) if name not in known]
            if lacking:
                wanted = self.missing.setdefault(job, {})
                for row in lacking:
                    wanted[each[row]] = {key: array[row] for key, array in inputs.items()}
        if self.missing:
            raise UnansweredError
        found = [[known[name] for name in each] for known, each in zip(tables, names, strict=True)]
        return [{key: np.stack([row[key] for row in rows]) for key in rows[0]} for rows in found]


def write_wanted(missing: Sequence[Mapping[str, Mapping[bytes, Rows]]], place: Path) -> list[dict[str, Any]]:
    """Write what several evals miss, one file of rows for each job; returns job, file and number of rows of each.

    The rows' order is that of their names, which are secret: no place tells which eval a row serves. Rows of other
    forms than a subject's views have go into jobs of their own.
    """
    from safetensors.numpy import save_file

    groups: dict[tuple[str, str], dict[bytes, Rows]] = {}
    for each in missing:
        for job, rows in each.items():
            for name, row in rows.items():
                form = json.dumps([[key, row[key].dtype.str, row[key].shape] for key in sorted(row)])
                groups.setdefault((job, form), {})[name] = row
    wanted = []
    for index, ((job, _), rows) in enumerate(sorted(groups.items())):
        ordered = [row for _, row in sorted(rows.items())]
        inputs = {key: np.stack([row[key] for row in ordered]) for key in ordered[0]}
        path = place / f"asked-{index}.safetensors"
        save_file({key: np.ascontiguousarray(array) for key, array in inputs.items()}, path)
        wanted.append({"job": job, "inputs": str(path), "rows": len(ordered)})
    return wanted
