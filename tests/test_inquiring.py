"""Facts about evals that ask: what a candidate is put depends on what it answered, and all of it can be derived again."""

from __future__ import annotations

import numpy as np
import pytest
import rigs
from hypothesis import given
from hypothesis import strategies as st
from rigs import code, generation, knobs
from trails import sha

from harness.auditing import verify_run
from harness.errors import ArtifactError, AuditError, EvaluatorError, SubjectError
from harness.evals import Ask, Data, Items, Population
from harness.evals.inquiry import PREDICT, Table, UnansweredError, write_wanted
from harness.folder import RunFolder
from harness.inquiring import MAX_ROUNDS, inquire
from harness.keys import VaultKey
from harness.replay import replay_run
from harness.rescoring import rescore
from harness.workshop import Workshop

pytestmark = pytest.mark.usefixtures("quick_disk")

# Two evals that ask, and a second population: pairs of digits, of which the model is to say which is the greater.
ASKING = '''

from harness.evals import Population, inquiry


@inquiry("stubborn", kind="robustness")
def stubborn(ask, raw, labels):
    """Right, and still right under the worst of three smudges, each tried where the ones before changed nothing."""
    held = right(labels, ask({"image": scaled(raw)}))
    for strength in (0.05, 0.1, 0.15):
        at = np.flatnonzero(held)
        dots = scaled(raw) + strength * ask.rng.normal(size=np.shape(raw))
        if len(at):
            held[at] = right(labels[at], ask({"image": np.clip(dots[at], 0, 1).astype(np.float32)}))
    return held


@inquiry("greater", kind="capability", of="pairs")
def greater(ask, raw, labels):
    """Of two digits the model says which is the greater, by what it takes each for."""
    left, right_ = (ask({"image": scaled(raw[:, side])}).argmax(1) for side in (0, 1))
    return ((left > right_) == labels).astype(float)


ordinary = load


def load():
    """The digits, and pairs of them."""
    made = ordinary()
    rng = np.random.default_rng(7)

    def pairs(count):
        (one, a), (two, b) = draw(count, rng), draw(count, rng)
        return Items(np.stack([one, two], axis=1), a > b)

    return Data(
        train=made.train, development=made.development, vault=made.vault, output=made.output, train_raw=made.train_raw,
        also={"pairs": Population(pairs(200), pairs(4000))},
    )
'''
GATES = """
  - {eval: smudges, kind: parent, margin: 0.08}
  - {eval: stubborn, kind: parent, margin: 0.1}
  - {eval: greater, kind: parent, margin: 0.12}
"""
PREDICTED = '    return model(inputs["image"])'
LEANING = """\
    answers = model(inputs["image"])
    return answers if len(answers) > 7 else -answers"""
HIDING = """\
    answers = model(inputs["image"])
    return 1 + 1e-4 * torch.tanh(answers if len(answers) > 7 else -answers)"""


@pytest.fixture(scope="module")
def asking(digits, tmp_path_factory):
    """The digits with evals that ask, and the rooms for them."""
    place = tmp_path_factory.mktemp("asking")
    subject = rigs.vary(digits, place / "subject", ("\n  - {eval: smudges, kind: parent, margin: 0.08}\n", GATES))
    guards = subject / "guards.py"
    guards.write_text(guards.read_text() + ASKING)
    rig = rigs.Rig(subject, place)
    try:
        yield subject, rig
    finally:
        rig.close()


@pytest.fixture(scope="module")
def run(asking, tmp_path_factory):
    """A run in which one proposal is promoted, one rejected by a gate, and two lean on their neighbours."""
    subject, rig = asking
    place = tmp_path_factory.mktemp("run") / "run"
    brittle = code(
        subject, (PREDICTED, "    return model(inputs['image']) + 9 * torch.sin(400 * inputs['image'][:, :10])")
    )
    opened = rig.open(place, subject, seed=0)
    try:
        leaning, hiding = (code(subject, (PREDICTED, leans)) for leans in (LEANING, HIDING))
        generation(
            opened,
            1,
            knobs(steps=150),
            {**leaning, "changes": {"steps": 200}},
            {**brittle, "changes": {"steps": 250}},
            {**hiding, "changes": {"steps": 220}},
        )
        return place, opened.supervisor.state
    finally:
        opened.close()


def test_a_candidate_is_promoted_by_evals_that_ask(run):
    """An eval that asks, and one of another population, are gates as any other: all that passed is promoted."""
    _, state = run
    found = state.proposals[1]
    assert found.outcome == "promoted"
    assert {gate.name for gate in found.measured.gates} >= {"stubborn/parent", "greater/parent"}
    assert {"stubborn", "greater"} <= set(found.developed.development)
    assert found.developed.asked is not None


def test_what_was_asked_is_in_the_log_and_derived_again(run, asking):
    """The tables of answers are blobs that both the log and a reviewer's replay name, and the scores follow from them."""
    place, state = run
    folder = RunFolder(place)
    assert state.asked
    assert set(state.asked) == set(state.answers)
    assert verify_run(folder, folder.public_key)["verdict"].startswith(f"valid at size {state.size}")
    assert replay_run(folder)["decisions"] == 4
    counts = rescore(folder, asking[0], VaultKey.load(folder.vault_key))
    assert counts == {
        "measurements": sum(found.measured is not None for found in state.proposals.values()),
        "other_evals": 0,
    }


def test_a_changed_table_is_no_evidence(run, asking, tmp_path):
    """With one byte of the candidate's table changed, nothing is derived again from it: the reviewer is told."""
    place, state = run
    copy = rigs.copy_run(place, tmp_path / "copy")
    found = state.proposals[1]
    key = next(key for key in state.asked if key[0] == found.built.candidate.digest)
    blob = copy / "blobs" / "sha256" / state.asked[key][7:9] / state.asked[key][7:]
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArtifactError, match="not those of the name"):
        rescore(RunFolder(copy), asking[0], VaultKey.load(RunFolder(copy).vault_key))


def test_answers_that_lean_on_neighbours_are_found(run):
    """A candidate that answers a small batch otherwise is rejected unscored, though it be by less than rounding may."""
    _, state = run
    for number in (2, 4):
        assert state.proposals[number].measured is None
        (reason,) = state.proposals[number].decision.reasons
        assert (reason.code, "depends on the other rows" in reason.text) == ("predict-output", True)


class Answering:
    """A workshop whose candidate answers each row with its sum; it counts the rounds."""

    PREDICT = Workshop.PREDICT

    def __init__(self, work):
        """Work in a folder."""
        self.work, self.rounds, self.kept = work, 0, b""

    def perform(self, _candidate, _job, inputs, _rows, outputs):
        """Answer each row with its sum."""
        from safetensors.numpy import load_file, save_file

        self.rounds += 1
        save_file({"answers": load_file(inputs)["x"].sum(1, keepdims=True)}, outputs)

    def keep(self, data):
        """Keep a blob."""
        self.kept = data
        return sha("kept")


def evaluating(measure):
    """An evaluator with one eval that asks."""
    from harness.evals.scoring import Inquiry
    from harness.evals.suite import Suite
    from harness.evaluator import Evaluator

    items = Items(np.arange(12, dtype=np.float32).reshape(4, 3), np.arange(4))
    made = Evaluator.__new__(Evaluator)
    made._data = Data(train={"x": items.raw}, development=items, vault=items, output=(1,))
    asks = Inquiry("asks", "capability", (0.0, 1.0), None, measure, "guards.py:1", "items")
    made._suite = Suite(lambda: made._data, {}, {"asks": asks})
    return made


def put(measure, tmp_path):
    """Put an eval to the summing candidate; give the workshop."""
    shop, evaluator = Answering(tmp_path), evaluating(measure)
    given = inquire(evaluator.operate, shop, None, split="development", ids=None, shuffle="ab")
    return shop, given


def test_rows_that_are_known_are_not_asked_again(tmp_path):
    """Each round asks what the table lacks, so an eval of three dependent questions takes three jobs."""

    def measure(ask, raw, _labels):
        first = ask({"x": raw})
        second = ask({"x": raw + first})
        ask({"x": raw})
        return np.tanh(abs(ask({"x": raw + second}))).ravel()

    shop, given = put(measure, tmp_path)
    assert (shop.rounds, given) == (3, sha("kept"))


def test_an_eval_that_never_ends_is_an_error(tmp_path):
    """An eval that asks for something new for ever is an error, and no candidate is to blame for it."""

    def measure(ask, raw, _labels):
        for step in range(10 * MAX_ROUNDS):
            ask({"x": raw + step})
        return np.zeros(len(raw))

    with pytest.raises(EvaluatorError, match="not done after"):
        put(measure, tmp_path)


def test_no_eval_swallows_a_question(tmp_path):
    """An eval that catches every exception is left all the same where an answer is missing."""

    def measure(ask, raw, _labels):
        try:
            answer = ask({"x": raw})
        except Exception:  # noqa: BLE001 - what an eval might do
            return np.ones(len(raw))
        return np.zeros(len(raw)) * answer.ravel()

    shop, _ = put(measure, tmp_path)
    assert shop.rounds == 1


@pytest.mark.parametrize("wrong", [np.full(4, np.nan), np.full(4, 1.5), np.zeros(3), np.zeros((4, 1)), None, ["a"] * 4])
def test_scores_that_are_none_are_refused(wrong, tmp_path):
    """Scores of an eval that asks are held to the same as any: one for each item, finite, within bounds."""
    with pytest.raises(SubjectError, match="asks"):
        put(lambda _ask, _raw, _labels: wrong, tmp_path)


def test_an_eval_that_raises_is_named(tmp_path):
    """An eval that raises is named with its place and its message."""

    def measure(_ask, _raw, _labels):
        raise KeyError("on purpose")

    with pytest.raises(SubjectError, match=r"asks.*KeyError.*on purpose"):
        put(measure, tmp_path)


def test_other_numbers_of_answers_are_refused():
    """Answers to other numbers of rows than were asked never enter the table."""
    table = Table(b"secret")
    with pytest.raises(EvaluatorError, match="3 rows were asked"):
        table.add(PREDICT, {"x": np.zeros((3, 2))}, {"answers": np.zeros((2, 1))})


@given(st.permutations(range(9)), st.integers(1, 8), st.binary(min_size=1, max_size=40))
def test_a_table_does_not_hang_on_the_order_of_asking(tmp_path_factory, order, cut, secret):
    """Whatever the order and the grouping of rows, the table is the same file, and it is read back as it was."""
    place = tmp_path_factory.mktemp("table")
    rows = np.arange(27, dtype=np.float32).reshape(9, 3)
    one, two = Table(secret), Table(secret)
    one.add(PREDICT, {"x": rows}, {"answers": rows * 2})
    for part in (order[:cut], order[cut:]):
        two.add(PREDICT, {"x": rows[list(part)]}, {"answers": rows[list(part)] * 2})
    assert one.save(place / "one") == two.save(place / "two") == 9
    assert (place / "one").read_bytes() == (place / "two").read_bytes()
    from harness.shuffled import read

    again = Table.of(read(str(place / "one")), secret)
    assert np.array_equal(Ask(again, "any")({"x": rows}), rows * 2)
    with pytest.raises(UnansweredError):
        Ask(Table.of(read(str(place / "one")), secret + b"!"), "any")({"x": rows})


def test_rows_of_all_evals_go_together_and_unmarked(tmp_path):
    """What several evals miss is one job, each row once, in an order that does not tell whose it is."""
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    table, asks = Table(b"s"), []
    for part in (slice(0, 12), slice(8, 20)):
        ask = Ask(table, f"eval{part.start}")
        with pytest.raises(UnansweredError):
            ask({"x": rows[part]})
        asks.append(ask.missing)
    (wanted,) = write_wanted(asks, tmp_path)
    from harness.shuffled import read

    written = read(wanted["inputs"])["x"]
    assert wanted["rows"] == 20
    assert sorted(written[:, 0]) == sorted(rows[:, 0])
    assert not np.array_equal(written, rows)


@pytest.mark.parametrize("bad", [b"", b"xx"])
def test_a_malformed_table_is_one_error(bad):
    """Tensors that are no table are refused as such."""
    with pytest.raises(EvaluatorError, match="malformed"):
        Table.of({"jobs": np.frombuffer(bad, np.uint8)}, b"s")


@given(st.lists(st.integers(0, 29), max_size=30, unique=True), st.integers(1, 19))
def test_items_of_all_populations_are_numbered_in_one_order(ids, first):
    """Whatever is chosen, each item is found in its own population, at its own place, with its own label."""
    every = Items(np.arange(30), np.arange(30) * 10)
    held = [every.take(range(first)), every.take(range(first, 30))]
    made = Data(train={}, development=every, vault=held[0], output=(1,), also={"more": Population(every, held[1])})
    chosen = made.choose("vault", ids)
    seen = {}
    for each in chosen.values():
        seen |= dict(
            zip(
                each.places.tolist(), zip(each.items.raw.tolist(), each.items.labels.tolist(), strict=True), strict=True
            )
        )
    assert [seen[place] for place in range(len(ids))] == [(number, number * 10) for number in ids]


def test_an_item_that_there_is_not_is_refused():
    """A number beyond the last item of the last population is refused."""
    every = Items(np.arange(3), np.arange(3))
    with pytest.raises(SubjectError, match="that there are not"):
        Data(train={}, development=every, vault=every, output=(1,)).choose("vault", [3])


def test_audit_error_is_the_reviewers(run):
    """A reviewer with another vault key is told so, before anything is scored."""
    place, _ = run
    with pytest.raises(AuditError, match="vault key"):
        rescore(RunFolder(place), place, VaultKey(b"x" * 32))
