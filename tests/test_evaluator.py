"""Facts about the evaluator: labels stay in it, bad answers are refused, and it may die at any time."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import rigs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from harness.channel import Child
from harness.errors import ArtifactError, EvaluatorError, SubjectError
from harness.evals import Items
from harness.evaluator import Evaluator

SHUFFLE = "ab" * 32
GATES = [
    {"eval": "accuracy", "kind": "improve", "theta": 0.0, "bounds": [0.0, 1.0], "cap": None},
    {"eval": "parity", "kind": "parent", "theta": -0.15, "bounds": [0.0, 1.0], "cap": None},
]


@pytest.fixture(scope="module")
def evaluator(digits):
    """Give an evaluator of the digits, in this process."""
    return Evaluator(digits)


@pytest.fixture(scope="module")
def inputs(evaluator, tmp_path_factory):
    """Write the inputs of a prefix of the vault; give their place and the ids."""
    ids = list(range(50, 450))
    path = tmp_path_factory.mktemp("inputs") / "inputs.safetensors"
    made = evaluator.inputs("vault", ids, SHUFFLE, str(path))
    return path, ids, made


def answers(evaluator, ids, place, change=lambda table: table, right=1.0):
    """Write answers to a prefix, in the order of its inputs: right on a share of the items."""
    labels = evaluator._data.vault.take(ids).labels
    views = len(evaluator._suite.views)
    chance = np.random.default_rng(5)
    guess = np.where(chance.random(len(labels)) < right, labels, (labels + 1) % 10)
    straight = np.concatenate([np.eye(10, dtype=np.float32)[guess]] * views)
    from harness.shuffled import order_of_rows

    order = order_of_rows(SHUFFLE, len(straight))
    save_file({"answers": np.ascontiguousarray(change(straight[order]))}, place)
    return str(place)


def test_the_inputs_are_all_views_and_nothing_else(inputs):
    """The inputs hold one row for each item and view, of the model's inputs alone, and no name of a view."""
    path, ids, made = inputs
    tables = load_file(path)
    assert set(tables) == {"image"}
    assert made["rows"] == len(tables["image"]) == 2 * len(ids)
    assert b"plain" not in path.read_bytes()
    assert b"smudged" not in path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_labels_do_not_move_a_byte_of_the_inputs(evaluator, inputs, tmp_path_factory, seed):
    """With any other labels, the inputs of the vault and of development are the same, byte for byte."""
    path, ids, _ = inputs
    data = evaluator._data
    other = {
        name: Items(raw=items.raw, labels=np.random.default_rng(seed).permutation(items.labels))
        for name, items in (("vault", data.vault), ("development", data.development))
    }
    place = tmp_path_factory.mktemp("again") / "inputs.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "_data", type(data)(**{**vars(data), **other}))
        evaluator.inputs("vault", ids, SHUFFLE, str(place))
    assert place.read_bytes() == path.read_bytes()


def test_rows_of_one_item_do_not_lie_together(evaluator, inputs):
    """The rows are shuffled: neither view comes first."""
    path, ids, _ = inputs
    plain = np.asarray(evaluator._data.vault.take(ids).raw, dtype=np.float32) / 255
    known = {row.tobytes() for row in plain}
    which = [row.tobytes() in known for row in load_file(path)["image"]]
    assert sum(which) == len(ids)
    assert 0.3 < sum(which[: len(ids)]) / len(ids) < 0.7


def test_another_shuffle_is_another_order(evaluator, inputs, tmp_path):
    """Another shuffle gives other bytes, and the same one the same."""
    path, ids, _ = inputs
    place = tmp_path / "inputs.safetensors"
    evaluator.inputs("vault", ids, "cd" * 32, str(place))
    assert place.read_bytes() != path.read_bytes()


def ask_test(evaluator, ids, candidate, incumbent, baseline, **changes):
    """Ask for the test of a prefix."""
    request = {"op": "test", "ids": ids, "shuffle": SHUFFLE, "candidate": candidate, "incumbent": incumbent,
               "baseline": baseline, "gates": GATES, "alpha": 0.01, "cap": 400, "batch": 50}  # fmt: skip
    return evaluator.operate({**request, **changes})


def test_a_better_candidate_passes_and_its_equal_does_not(evaluator, tmp_path):
    """Right on all items against half of them passes every gate; against its own answers it does not."""
    ids = list(range(400))
    good, poor = answers(evaluator, ids, tmp_path / "good"), answers(evaluator, ids, tmp_path / "poor", right=0.5)
    verdicts = [
        [g["verdict"] for g in ask_test(evaluator, ids, good, other, poor)["result"]["gates"]] for other in (poor, good)
    ]
    assert verdicts[0] == ["pass", "pass"]
    assert verdicts[1][0] != "pass"


def nan(table):
    """Put one NaN into the answers."""
    table = table.copy()
    table[3, 3] = np.nan
    return table


BAD = {
    "NaN": nan,
    "infinity": lambda table: np.where(table > 0, np.inf, table).astype(np.float32),
    "too few rows": lambda table: table[:-1],
    "too many rows": lambda table: np.concatenate([table, table[:1]]),
    "too few columns": lambda table: table[:, :9],
    "no columns": lambda table: table[:, 0],
    "another type": lambda table: table.astype(np.float64),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_answers_are_refused(evaluator, tmp_path, case):
    """Answers that are not finite, or not of the shape and type asked for, are refused before a score is made."""
    ids = list(range(400))
    good = answers(evaluator, ids, tmp_path / "good")
    bad = answers(evaluator, ids, tmp_path / "bad", BAD[case])
    for candidate, incumbent in ((bad, good), (good, bad)):
        with pytest.raises(ArtifactError):
            ask_test(evaluator, ids, candidate, incumbent, good)


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"no tensors", (2**40).to_bytes(8, "little") + b"{}"])
def test_bytes_that_are_no_tensors_are_refused(evaluator, tmp_path, content):
    """A file that is no tensor file is an ArtifactError."""
    (tmp_path / "bad").write_bytes(content)
    good = answers(evaluator, list(range(400)), tmp_path / "good")
    with pytest.raises(ArtifactError):
        ask_test(evaluator, list(range(400)), str(tmp_path / "bad"), good, good)


def test_an_unknown_operation_is_refused(evaluator):
    """What is no operation is an EvaluatorError, whatever attribute it names."""
    for name in ("labels", "_items", "__init__", "operate", ""):
        with pytest.raises(EvaluatorError, match="unknown operation"):
            evaluator.operate({"op": name})


def test_the_data_s_digest_is_of_items_and_labels(evaluator):
    """One changed label gives another digest of the data, and so does one changed item."""
    data, first = evaluator._data, evaluator.describe()["data"]
    labels = data.vault.labels.copy()
    labels[7] = (labels[7] + 1) % 10
    raw = np.array(data.vault.raw)
    raw[7, 7] ^= 1
    for vault in (Items(raw=data.vault.raw, labels=labels), Items(raw=raw, labels=data.vault.labels)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluator, "_data", type(data)(**{**vars(data), "vault": vault}))
            assert evaluator.describe()["data"] != first
    assert evaluator.describe()["data"] == first


def test_the_evaluator_never_imports_torch(digits):
    """Importing the evaluator and loading the subject's guards brings in no torch."""
    program = (
        "import sys; from pathlib import Path; from harness.evaluator import Evaluator;"
        f"Evaluator(Path({str(digits)!r})).describe(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_killed_evaluator_is_started_again(rig, tmp_path):
    """Killed between two requests, or while one waits, the child answers the next as if nothing had been."""
    child = Child(["-m", "harness.evaluator", str(rig.subject)], name="evaluator", stderr=tmp_path / "stderr")
    try:
        first = child.ask({"op": "describe"}, seconds=60)
        killed = child.pid
        os.kill(killed, signal.SIGKILL)
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
        assert child.ask({"op": "describe"}, seconds=60) == first
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(EvaluatorError, match="did not answer within"):
            child.ask({"op": "describe"}, seconds=0.5)
        assert child.pid is None
        assert child.ask({"op": "describe"}, seconds=60) == first
    finally:
        child.close()


def test_what_is_no_request_gets_an_error_and_the_next_is_answered(digits):
    """Lines that are no JSON, no request, or not an operation's arguments are answered by an error, one each."""
    wrong = [b'{"op":"inputs"}', b'{"op":"describe","more":1}', b'{"a":1}', b"[]"]
    lines = [
        b"{",
        b"[]",
        b"\xff",
        b'{"a":1,"a":2}',
        b'{"op":"describe"}',
        *(b'{"id":"1","request":%s}' % w for w in wrong),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "harness.evaluator", str(digits)],
        input=b"\n".join([*lines, b'{"id":"2","request":{"op":"describe"}}', b""]),
        capture_output=True,
        check=True,
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    told = [set(reply["answer"]) & {"ok", "error"} for reply in replies]
    assert told == [{"error"}] * len(lines) + [{"ok"}]
    assert [reply["id"] for reply in replies] == [None] * 5 + ["1"] * 3 + [None, "2"]


def test_a_score_out_of_its_bounds_is_refused(digits, tmp_path):
    """An eval that scores outside its bounds is a SubjectError: nothing is clipped."""
    old = '    return right(labels, answers["smudged"])'
    new = old + ' * np.where(answers["smudged"].max(1) > 90, 1.5, 1.0)'
    subject = rigs.vary(digits, tmp_path / "subject", (old, new), name="guards.py")
    evaluator = Evaluator(subject)
    count = len(evaluator._data.development)
    from harness.shuffled import order_of_rows

    order = order_of_rows(SHUFFLE, 2 * count)
    table = np.eye(10, dtype=np.float32)[np.concatenate([evaluator._data.development.labels] * 2)][order]
    save_file({"answers": np.ascontiguousarray(table)}, tmp_path / "answers")
    assert evaluator.develop(str(tmp_path / "answers"), SHUFFLE)["development"]["smudges"] == 1.0
    save_file({"answers": np.ascontiguousarray(table * 100)}, tmp_path / "answers")
    with pytest.raises(SubjectError, match="out of its bounds"):
        evaluator.develop(str(tmp_path / "answers"), SHUFFLE)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("np.where(odd, 1.5, scores)", r"'smudges' gave the score 1.5, out of its bounds \[0.0, 1.0\]"),
        ("np.where(odd, -0.5, scores)", "'smudges' gave the score -0.5, out of its bounds"),
        ("np.where(odd, np.nan, scores)", "'smudges' gave the score nan, out of its bounds"),
        ("np.where(odd, np.inf, scores)", "'smudges' gave the score inf, out of its bounds"),
        ("scores[~odd]", r"'smudges' gave float64 \(\d+,\); floats \(400,\) are wanted"),
        ("np.append(scores, 1.0) if odd.any() else scores", r"gave float64 \(401,\); floats \(400,\) are wanted"),
        ("np.where(odd, None, scores) if odd.any() else scores", r"'smudges' gave object"),
        ("1 / 0 if odd.any() else scores", "'smudges' raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_scorer_that_breaks_on_held_out_items_ends_their_test(digits, tmp_path, broken, message):
    """Too much, too little, NaN, infinite, missing, too many, no numbers, an exception: one error, at its place.

    Each breaks only where an answer is loud, as none was when the guards were loaded and tried.
    """
    old = '    return right(labels, answers["smudged"])'
    new = f'    scores, odd = right(labels, answers["smudged"]), answers["smudged"].max(1) > 90\n    return {broken}'
    evaluator = Evaluator(rigs.vary(digits, tmp_path / "subject", (old, new), name="guards.py"))
    ids = list(range(400))
    good = answers(evaluator, ids, tmp_path / "good")
    chance = np.random.default_rng(0).random((2 * len(ids), 1)) < 0.1
    loud = answers(evaluator, ids, tmp_path / "loud", change=lambda table: np.where(chance, table * 100, table))
    gates = [{**GATES[1], "eval": "smudges"}]
    assert ask_test(evaluator, ids, good, good, good, gates=gates)["result"]["gates"][0]["verdict"] == "pass"
    for roles in ((loud, good, good), (good, loud, good)):
        with pytest.raises(SubjectError, match=message) as caught:
            ask_test(evaluator, ids, *roles, gates=gates)
        assert caught.value.where.startswith("guards.py:")


def test_an_item_asked_for_twice_is_refused(evaluator, tmp_path):
    """A test over a prefix in which one item stands twice would count it as two: nothing is scored."""
    ids = list(range(400))
    good = answers(evaluator, ids, tmp_path / "good")
    with pytest.raises(EvaluatorError, match="2 of the vault items are asked for twice"):
        ask_test(evaluator, [*ids[:398], 0, 0], good, good, good)


def agree(evaluator, place, one, two, ids=None):
    """Whether answers to a table agree with others to 256 of its rows; `ids` are those of the table's items."""
    rows = np.random.default_rng(1).permutation(len(one))[:256].tolist()
    for name, table in (("one", one), ("two", two[rows])):
        save_file({"answers": np.ascontiguousarray(table, dtype=np.float32)}, place / name)
    shown = {} if ids is None else {"ids": ids, "shuffle": SHUFFLE}
    request = {"op": "agree", "answers": str(place / "one"), "again": str(place / "two"), "rows": rows}
    return evaluator.operate({**request, "total": len(one), **shown})["agree"]


VAST = np.where(np.arange(10) == 9, -1e30, 0.0)


@pytest.mark.parametrize(
    "say",
    [lambda said: 1 + 1e-4 * said, lambda said: 1e6 + said, lambda said: said + VAST],
    ids=["near", "far", "vast"],
)
def test_another_answer_is_found_below_what_rounding_lets_through(evaluator, tmp_path, say):
    """Answers crowded together, far from zero or beside one vast number differ where their greatest is another one."""
    chance = np.random.default_rng(2)
    said = np.eye(10)[chance.integers(0, 9, 800)]
    turned = np.where(chance.random((800, 1)) < 0.1, np.roll(said, 1, axis=1)[:, ::-1], said)
    rounded = say(said).astype(np.float32) * (1 + 1e-6 * chance.normal(size=(800, 1)))
    assert agree(evaluator, tmp_path, say(said), rounded)
    assert not agree(evaluator, tmp_path, say(said), say(turned))


def test_answers_that_agree_and_score_otherwise_do_not_agree(digits, tmp_path):
    """An eval that reads a threshold shows what no greatest number does: 0.5 and a little, 0.5 less a little."""
    old = '    return right(labels, answers["smudged"])'
    new = '    return (answers["smudged"][:, 0] > 0.5).astype(float)'
    thresholded = Evaluator(rigs.vary(digits, tmp_path / "subject", (old, new), name="guards.py"))
    said = np.eye(10)[np.full(800, 3)] + np.eye(10)[0] * (0.5 + 1e-4)
    other = said - np.eye(10)[0] * 2e-4
    ids = list(range(400))
    assert agree(thresholded, tmp_path, said, other)
    assert agree(thresholded, tmp_path, said, said, ids)
    assert not agree(thresholded, tmp_path, said, other, ids)


def test_evidence_is_salted(evaluator, tmp_path):
    """The same test asked twice gives the same result under another salt, so its digest can be published."""
    ids = list(range(400))
    good, poor = answers(evaluator, ids, tmp_path / "good"), answers(evaluator, ids, tmp_path / "poor", right=0.5)
    one, other = (ask_test(evaluator, ids, good, poor, poor) for _ in range(2))
    assert one["result"] == other["result"]
    assert one["salt"] != other["salt"]
    assert len({hashlib.sha256(json.dumps(each).encode()).digest() for each in (one, other)}) == 2


@pytest.fixture(scope="module")
def drawing(digits, tmp_path_factory):
    """Give an evaluator of digits that are drawn for each test, of two populations, 2,000 and then 3,000 of them."""
    made = []
    for capacity in (2000, 3000):
        place = rigs.vary(digits, tmp_path_factory.mktemp("drawing") / "digits")
        with (place / "guards.py").open("a") as guards:
            guards.write(
                "import dataclasses\nfrom harness.evals import Generated\nordinary = load\n"
                "def one(rng):\n    raw, labels = draw(1, rng)\n    return raw[0], labels[0]\n"
                f"def load():\n    return dataclasses.replace(ordinary(), vault=Generated({capacity}, one))\n"
            )
        made.append(Evaluator(place))
    return made


def test_more_generated_items_are_the_same_data_and_more(drawing):
    """With a larger capacity the digest of the first items is the one that there was, and that of all is another."""
    few, many = drawing
    assert few.describe()["generated"]
    assert many.fingerprint(2000) == few.fingerprint(2000)
    assert many.fingerprint(3000) != few.fingerprint(2000)


def test_a_test_of_fresh_items_is_not_told_what_is_to_come(drawing, evaluator, inputs, tmp_path, monkeypatch):
    """To how many items an eval will apply is told where items are shared, and never where evidence is refunded."""
    import harness.evaluator

    told, real = [], harness.evaluator.run_test
    monkeypatch.setattr(
        harness.evaluator, "run_test", lambda *given, **more: told.append(more["applicable"]) or real(*given, **more)
    )
    few, _ = drawing
    ids = list(range(400))
    for each, asked, labels in (
        (few, ids, few._chosen("vault", ids, SHUFFLE)["items"].items.labels),
        (evaluator, inputs[1], evaluator._data.vault.take(inputs[1]).labels),
    ):
        rows = np.eye(10, dtype=np.float32)[np.concatenate([labels] * 2)]
        save_file({"answers": rows}, tmp_path / "answers")
        ask_test(each, asked, *[str(tmp_path / "answers")] * 3)
    assert told[0] == {}
    assert told[1]["parity/parent"] > 0


def test_generated_items_come_again_under_their_secret(drawing, tmp_path):
    """Asked again after others, or by another process, a test's items are the same; another test's are others."""
    few, many = drawing
    first = few.inputs("vault", list(range(50)), SHUFFLE, str(tmp_path / "a"))
    few.inputs("vault", list(range(50, 100)), "cd" * 32, str(tmp_path / "b"))
    assert few.inputs("vault", list(range(50)), SHUFFLE, str(tmp_path / "c")) == first
    many.inputs("vault", list(range(50)), SHUFFLE, str(tmp_path / "d"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes()
    many.inputs("vault", list(range(50)), "cd" * 32, str(tmp_path / "e"))
    plain = [np.sort(load_file(tmp_path / name)["image"].ravel()) for name in "abe"]
    assert not np.array_equal(plain[0], plain[1])
    assert not np.array_equal(plain[0], plain[2])
