"""One flat table of rows for a candidate, the inputs of all views of all items shuffled, and its answers put back.

A candidate cannot tell by its place which eval a row serves. `shuffle` is 64 hexadecimal digits throughout: it seeds
the views' own randomness and the order of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from harness.artifacts import TensorSpec, read_tensors
from harness.canonical import digest
from harness.errors import SubjectError
from harness.evals import Evaluation, Suite
from harness.evals.data import Chosen
from harness.evals.items import Array

MAX_TABLE = 1 << 32
"""Bytes of a table, or of the answers to one."""
TURNED = 0.02
"""The share of answers whose greatest number may be another one when asked alone: near ties, which rounding turns."""
LEANING, RESCORED = 0.05, 0.01
"""The share of an eval's items, beside one, whose score may then move by more than this share of its bounds."""


def stage(suite: Suite, chosen: Mapping[str, Chosen], shuffle: str, dest: str) -> int:
    """Write the unlabelled, shuffled inputs of all views of these items to `dest`; how many rows there are."""
    raw = {name: each.items.raw for name, each in chosen.items()}
    tables = list(suite.encode(raw, _seed(shuffle, "views")).values())
    if not tables:
        raise SubjectError("no view has an item to show", where="guards.py")
    flat = {key: np.concatenate([table[key] for table in tables]) for key in sorted(tables[0])}
    rows = len(next(iter(flat.values())))
    order = order_of_rows(shuffle, rows)
    write(dest, {key: table[order] for key, table in flat.items()})
    return rows


def by_view(
    suite: Suite, chosen: Mapping[str, Chosen], shuffle: str, path: str, output: tuple[int, ...]
) -> dict[str, Array]:
    """Read a candidate's answers, checked before they are read, and put them back in order: [n, *output] by view."""
    return _put_back(suite, chosen, shuffle, answers_in(path, sum(_counts(suite, chosen).values()), output))


def _counts(suite: Suite, chosen: Mapping[str, Chosen]) -> dict[str, int]:
    """How many rows of a table are of each view."""
    return {name: len(chosen[view.of].places) for name, view in suite.views.items()}


def _put_back(suite: Suite, chosen: Mapping[str, Chosen], shuffle: str, flat: Array) -> dict[str, Array]:
    """What belongs to the rows of a table [rows, …], in order and by view."""
    straight = np.empty_like(flat)
    straight[order_of_rows(shuffle, len(flat))] = flat
    told, first = {}, 0
    for view, count in _counts(suite, chosen).items():
        told[view] = straight[first : first + count]
        first += count
    return told


def pick(inputs: str, rows: list[int], dest: str) -> int:
    """Write some rows of staged inputs to `dest`, to be answered again on their own; how many there are."""
    write(dest, {key: table[rows] for key, table in load_file(inputs).items()})
    return len(rows)


def agree(
    answers: str, again: str, rows: list[int], total: int, output: tuple[int, ...], *, greatest: bool = True
) -> bool:
    """Whether answers [total, *output] and those given to some rows alone agree, up to rounding.

    A candidate may say all it has to say below what rounding lets through (1 + 1e-4, or beside one vast number). So
    with `greatest` the greatest number must be the same one, too; else it is for `scores_agree` to find that.
    """
    one, two = answers_in(answers, total, output)[rows], answers_in(again, len(rows), output)
    # Sums are ordered by batch size, and bfloat16 keeps 8 bits: rounding is let through, another answer is not.
    close = np.allclose(one, two, rtol=1e-2, atol=1e-3 * float(np.abs(one).max(initial=0.0)))
    turned = float((one.argmax(-1) != two.argmax(-1)).mean()) if greatest else 0.0
    return bool(close and turned <= TURNED)


def scores_agree(
    suite: Suite, chosen: Mapping[str, Chosen], shuffle: str, answers: Array, again: Array, rows: list[int]
) -> bool:
    """Whether some rows' answers given alone lead to the scores that those given together do, for every eval.

    `answers` [total, *output] are to a whole table, `again` to its `rows`. Evals that ask are not looked at.
    """
    other, marked = answers.copy(), np.zeros(len(answers), dtype=np.bool_)
    other[rows], marked[rows] = again, True
    one, two, asked = (_put_back(suite, chosen, shuffle, each) for each in (answers, other, marked))
    for each in suite.evaluations.values():
        if not isinstance(each, Evaluation) or not len(chosen[each.of].places):
            continue
        labels = chosen[each.of].items.labels
        places = np.flatnonzero(np.any([asked[view] for view in each.views], axis=0))
        before, after = (
            each.score(labels[places], {view: table[view][places] for view in each.views}).values
            for table in (one, two)
        )
        apart = np.abs(before - after) > RESCORED * (each.bounds[1] - each.bounds[0])
        if apart.sum() > 1 + LEANING * len(apart):
            return False
    return True


def answers_in(path: str, rows: int, output: tuple[int, ...]) -> Array:
    """Read the answers [rows, *output] in a file, checked before they are read. ArtifactError for others."""
    spec = TensorSpec(dtype="F32", shape=(rows, *output))
    return read_tensors(Path(path), expect={"answers": spec}, max_bytes=MAX_TABLE)["answers"]


def read(path: str) -> dict[str, Array]:
    """Read named tensors of whatever form, checked before they are read."""
    return dict(read_tensors(Path(path), None, max_bytes=MAX_TABLE))


def write(dest: str, tensors: Mapping[str, Array]) -> None:
    """Write named tensors."""
    save_file({key: np.ascontiguousarray(table) for key, table in tensors.items()}, dest)


def _seed(shuffle: str, label: str) -> int:
    """A seed for one purpose; the same shuffle and purpose give the same seed."""
    return int(digest(f"{shuffle}/{label}".encode()).removeprefix("sha256:")[:32], 16)


def order_of_rows(shuffle: str, rows: int) -> Array:
    """The places [rows] int64 from which the rows of a table are taken."""
    return np.random.Generator(np.random.PCG64(_seed(shuffle, "order of rows"))).permutation(rows)
