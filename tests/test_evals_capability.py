"""Facts about `harness.evals.capability`: bounded scores of right answers, likelihoods and generated texts."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.errors import SubjectError
from harness.evals import Data, Items, collect, view
from harness.evals.capability import (
    decode_utf8,
    exact_match,
    likelihood,
    nearness,
    plain_text,
    probability,
    right,
    scored,
    texts,
    top_k,
)

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
MATCH = exact_match(decode_utf8, 256)


@st.composite
def classified(draw):
    """Draw answers [n, classes] of any finite floats, and a label for each."""
    n, classes = draw(st.integers(1, 12)), draw(st.integers(2, 7))
    answers = draw(arrays.arrays(np.float32, (n, classes), elements=FINITE))
    return draw(arrays.arrays(np.int64, n, elements=st.integers(0, classes - 1))), answers


@st.composite
def sequences(draw):
    """Draw logits [n, tokens, vocabulary] of any finite floats, and padded labels with a token each."""
    n, tokens, size = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    labels = draw(arrays.arrays(np.int64, (n, tokens), elements=st.integers(-1, size - 1)))
    labels[:, 0] = np.maximum(labels[:, 0], 0)
    return labels, draw(arrays.arrays(np.float32, (n, tokens, size), elements=FINITE))


def generated(*said: str, width: int = 24):
    """Write texts as a model does: bytes as float32, padded with -1."""
    rows = np.full((len(said), width), -1, np.float32)
    for row, text in zip(rows, said, strict=True):
        data = text.encode()
        row[: len(data)] = list(data)
    return rows


def alone(score, labels, answers):
    """Score each item in a batch of its own."""
    return np.concatenate([score(labels[k : k + 1], answers[k : k + 1]) for k in range(len(labels))])


@given(classified())
def test_scores_of_classes_are_bounded_and_of_one_item_each(drawn):
    """Whatever finite answers there are, each score lies in [0, 1], and is bit for bit that of the item alone."""
    for score in (right, lambda y, a: top_k(y, a, 1), probability, nearness):
        values = score(*drawn)
        assert values.shape == (len(drawn[0]),)
        assert ((values >= 0) & (values <= 1)).all()
        assert values.tolist() == alone(score, *drawn).tolist()


@given(sequences())
def test_scores_of_sequences_are_bounded_and_of_one_item_each(drawn):
    """So are those of token logits, however large, and padding counts for nothing."""
    labels, answers = drawn
    other = np.where((labels < 0)[:, :, None], np.float32(7), answers)
    for score in (likelihood, nearness):
        values = score(labels, answers)
        assert ((values >= 0) & (values <= 1)).all()
        assert values.tolist() == alone(score, labels, answers).tolist()
        assert values.tolist() == score(labels, other).tolist()


@given(classified())
def test_the_first_of_one_is_the_right_one(drawn):
    """`top_k` with k = 1 is `right`, ties and all; with more it never falls."""
    assert top_k(*drawn, k=1).tolist() == right(*drawn).tolist()
    scores = [top_k(*drawn, k=k) for k in range(1, drawn[1].shape[1])]
    assert all((a <= b).all() for a, b in pairwise(scores))


def test_right_and_top_k_are_what_they_are_called():
    """By hand: the third class is greatest, the first second."""
    answers = np.array([[2.0, 1.0, 3.0]] * 3, np.float32)
    labels = np.array([2, 0, 1])
    assert right(labels, answers).tolist() == [1, 0, 0]
    assert top_k(labels, answers, 2).tolist() == [1, 1, 0]


def test_likelihoods_are_what_they_are_called():
    """By hand: probabilities 1/2 and 1/8 have the geometric mean 1/4, and L = log 4 nats."""
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.125, 0.375, 0.5], [1, 1, 1]]])).astype(np.float32)
    labels = np.array([[0, 0, -1]])
    assert likelihood(labels, logits)[0] == pytest.approx(0.25, rel=1e-6)
    assert nearness(labels, logits)[0] == pytest.approx(1 / (1 + math.log(4)), rel=1e-6)
    assert nearness(labels, logits, scale=math.log(4))[0] == pytest.approx(0.5, rel=1e-6)
    assert probability(np.array([1]), logits[:, 1])[0] == pytest.approx(0.375, rel=1e-6)


def test_nearness_sees_what_likelihood_does_not():
    """From 9 to 8 nats `nearness` gains a hundredth, `likelihood` two ten-thousandths, as its docstring says."""
    loss = np.array([9.0, 8.0])
    logits = np.stack([-loss, np.log1p(-np.exp(-loss))], axis=1)[:, None, :]
    labels = np.zeros((2, 1), np.int64)
    gains = [float(np.diff(score(labels, logits))[0]) for score in (nearness, likelihood)]
    assert gains == [pytest.approx(0.0111, abs=1e-4), pytest.approx(0.0002, abs=2e-5)]


@pytest.mark.parametrize(
    ("score", "labels", "shape", "message"),
    [
        (right, np.zeros((2, 2), int), (2, 3), "integers and answers"),
        (right, np.zeros(2), (2, 3), "integers and answers"),
        (right, np.array([0, 3]), (2, 3), "none of the 3 classes"),
        (right, np.array([0, -1]), (2, 3), "none of the 3 classes"),
        (right, np.zeros(2, int), (2, 3, 1), "integers and answers"),
        (top_k, np.zeros(2, int), (2, 5), "k must be"),
        (lambda y, a: top_k(y, a, 0), np.zeros(2, int), (2, 5), "k must be"),
        (likelihood, np.zeros((2, 4), int), (2, 3, 5), "integers and answers"),
        (likelihood, np.full((2, 3), -1), (2, 3, 5), "no token"),
        (likelihood, np.full((2, 3), 5), (2, 3, 5), "neither one of the 5 tokens"),
        (likelihood, np.full((2, 3), -2), (2, 3, 5), "neither one of the 5 tokens"),
        (lambda y, a: nearness(y, a, 0.0), np.zeros(2, int), (2, 3), "positive"),
        (MATCH, np.array([1, 2]), (2, 3), "strings"),
        (MATCH, np.array(["a", " "]), (2, 3), "empty text"),
        (MATCH, np.array(["a", "b"]), (2, 3, 1), "generated tokens"),
        (MATCH, np.array(["a", "b"]), (3, 3), "3 texts for 2 labels"),
        (exact_match(decode_utf8, 0), np.array(["a", "b"]), (2, 3), "1 to 2"),
        (exact_match(decode_utf8, (1 << 24) + 1), np.array(["a", "b"]), (2, 3), "1 to 2"),
    ],
)
def test_labels_that_are_none_raise(score, labels, shape, message):
    """What the author of the guards got wrong is a ValueError that says so: never a score."""
    with pytest.raises(ValueError, match=message):
        score(labels, np.zeros(shape, np.float32))


def test_a_text_matches_up_to_its_normal_form():
    """Case, width of letters and space do not count by default; another word does, and so does a word too many."""
    labels = np.array(["Lisbon", "New  York", "ﬁve", "Oslo"])
    assert MATCH(labels, generated(" lisbon ", "NEW YORK", "Five", "Oslo, Norway")).tolist() == [1, 1, 1, 0]
    strict = exact_match(decode_utf8, 256, normalise=str)
    assert strict(labels, generated("Lisbon", "New York", "five", "Oslo")).tolist() == [1, 0, 0, 1]
    assert plain_text(" A\n b ") == "a b"


@pytest.mark.parametrize(
    "row",
    [
        [79.5, 115, 108, 111],
        [300, 115, 108, 111],
        [256, -1, -1, -1],
        [-2, 79, 115, 108],
        [79, -1, 115, -1],
        [np.nan, 79, 115, 108],
        [np.inf, 79, 115, 108],
        [3e38, 79, 115, 108],
        [0xC3, -1, -1, -1],
        [-1, -1, -1, -1],
    ],
)
def test_what_is_no_text_scores_nothing(row):
    """Broken tokens, tokens out of the vocabulary, after the end, or of no text: 0, and no error or warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert MATCH(np.array(["Oslo"]), np.array([row], np.float32)).tolist() == [0.0]


@given(arrays.arrays(np.float32, (4, 6), elements=st.floats(width=32)))
def test_no_row_of_answers_crashes_the_scorer(rows):
    """Whatever floats a candidate writes, NaN and infinities too, each row is a text or None."""
    assert all(text is None or isinstance(text, str) for text in texts(rows, decode_utf8, 256))


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=10))
def test_texts_come_back(text):
    """What a model writes as bytes is read as it was written."""
    assert texts(generated(text, width=48), decode_utf8, 256) == [text]


def test_the_largest_vocabulary_is_exact():
    """The last id below 2**24 is read as itself, not as its neighbour."""
    assert texts(np.array([[2**24 - 1]], np.float32), lambda ids: str(ids[0]), 1 << 24) == [str(2**24 - 1)]


def test_a_broken_decoder_is_no_wrong_answer():
    """A decoder's own defect raises: only what it says of ids, by ValueError or LookupError, is the candidate's."""
    with pytest.raises(TypeError):
        texts(generated("a"), lambda ids: ids + 1, 256)
    assert texts(generated("a"), lambda ids: {0: "x"}[ids[0]], 256) == [None]


def guards(*decorators):
    """Collect a guards module with one view below these decorators."""
    module = ModuleType("guards")
    items = Items(list(range(20)), np.arange(20) % 3)
    module.load = lambda: Data({"x": np.zeros((1, 1))}, items, Items(list(range(20, 40)), np.arange(20) % 3), (3,))

    def plain(raw, _rng):
        return {"x": np.asarray(raw)[:, None]}

    for decorator in decorators:
        plain = decorator(plain)
    module.plain = plain
    return collect(module)


def test_a_view_is_scored_by_a_decorator_above_it():
    """`@scored` makes the evaluation of its one view: `right` by default, or another score, kind and items."""
    suite = guards(
        view("plain"),
        scored("accuracy", slices={"zero": lambda labels: labels == 0}),
        scored("second", score=lambda y, a: top_k(y, a, 2), kind="alignment", applies=lambda labels: labels > 0),
    )
    data = suite.load()
    suite.check(data)
    assert list(suite.evaluations) == ["accuracy", "accuracy[zero]", "second"]
    labels = data.development.labels
    answers = {"plain": np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)}
    assert (
        suite.evaluations["accuracy"].score(labels, answers).values.tolist() == right(labels, answers["plain"]).tolist()
    )
    second = suite.evaluations["second"]
    assert (second.kind, second.views) == ("alignment", ("plain",))
    wanted = top_k(labels, answers["plain"], 2)[labels > 0]
    assert second.score(labels, answers).values.tolist() == wanted.tolist()
    assert second.where.startswith("test_evals_capability.py:")


@pytest.mark.parametrize("decorators", [[scored("a")], [view("one"), view("two"), scored("a")]])
def test_what_stands_over_no_view_is_refused(decorators):
    """Below `@scored` stands one view: none, or two of which either could be meant, is told at the function."""
    with pytest.raises(SubjectError, match=r"stands over [02] views") as caught:
        guards(*decorators)
    assert caught.value.where.startswith("test_evals_capability.py:")
