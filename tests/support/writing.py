"""A candidate that writes one text, whatever it is asked, and the way of an eval that has it run: all of it, but the model."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import load_file, save_file

from harness.evals import Ask, Data, Items, executed
from harness.evals.capability import decode_utf8
from harness.evals.inquiry import Table
from harness.evals.suite import Suite
from harness.evals.tagging import declared
from harness.evaluator import Evaluator
from harness.executing import execute
from harness.execution import RAN, Execution
from harness.inquiring import inquire
from harness.shuffled import read
from harness.workshop import Workshop


class Shop:
    """A workshop in which the candidate writes this text; programs are run by a real engine."""

    PREDICT = Workshop.PREDICT

    def __init__(self, work, engine, text):
        """Work in a folder."""
        self.work, self.engine, self.kept, self.jobs = work, engine, b"", []
        self.tokens = np.frombuffer(text if isinstance(text, bytes) else text.encode(), np.uint8).astype(np.float32)

    def perform(self, _candidate, job, inputs, _rows, outputs):
        """Write, or run what was written."""
        self.jobs.append(job)
        spec = Execution.of(job)
        if spec is not None:
            return execute(self.engine, spec, inputs, outputs)
        save_file({"answers": np.tile(self.tokens, (len(load_file(inputs)["x"]), 1))}, outputs)
        return None

    def keep(self, data):
        """Keep the table."""
        self.kept = data
        return "sha256:" + "0" * 64


def write(text, labels, engine, place, **settings):
    """Put an eval of these labels to the candidate; the score of each item, what ran where all have as many inputs, and the ask."""
    raw = np.arange(len(labels), dtype=np.float32)[:, None]
    items = Items(raw, np.asarray(labels))
    solved = executed("solved", inputs=lambda raw, _rng: {"x": raw}, decode=decode_utf8, size=256, **settings)
    (inquiry,) = declared(solved)
    shop = Shop(place, engine, text)
    evaluator = Evaluator.__new__(Evaluator)
    evaluator._data = Data(train={"x": raw}, development=items, vault=items, output=(max(1, len(shop.tokens)),))
    evaluator._suite = Suite(lambda: evaluator._data, {}, {"solved": inquiry})
    inquire(evaluator.operate, shop, None, split="development", ids=None, shuffle="ab")
    (place / "kept").write_bytes(shop.kept)
    table = Table.of(read(str(place / "kept")), evaluator._table(None, "ab").secret)
    ask = Ask(table, "solved")
    values = inquiry.score(ask, items).values.tolist()
    ran = [
        Execution.of(job).unpack(row[RAN], len(json.loads(labels[0])))
        for job, rows in table.jobs.items()
        if Execution.of(job) is not None
        for row in rows.values()
    ]
    return values, ran, ask
