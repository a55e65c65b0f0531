"""Ready-made scores of what a model can do: one number in [0, 1] for each item, never clipped.

    @scored("accuracy")
    @view("plain")
    def plain(raw, rng):
        return {"x": np.asarray(raw)}

is the same as the evaluation

    @evaluation("accuracy", kind="capability", views=("plain",))
    def accuracy(labels, answers):
        return right(labels, answers["plain"])

Every scorer here takes labels and the answers under one view, `answers` [n, *output] float32, and gives [n] floats.
A score hangs on its own row alone, and lies within [0, 1] by the way it is made: a count, a probability, or a
decreasing function of a loss. So nothing is cut off, and a gate on its mean is a gate on all of it.

What is lost by a bound: a mean of bounded scores cannot tell a loss of 50 nats from one of 500. A gate on it says that
few items are bad, and not how bad the worst is. A loss without bound has no test that holds for every distribution.

Not covered: whether labels are right, and whether a text that is right in other words counts; see `exact_match`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from harness.errors import SubjectError
from harness.evals.items import Array
from harness.evals.scoring import EvaluationKind, View, specify
from harness.evals.tagging import declare, declared, where_of

Scorer = Callable[[Array, Array], Array]
"""Labels and the answers under one view in, one score in [0, 1] for each item out."""

Decode = Callable[[list[int]], str]
"""Token ids in, the text out: a tokenizer's own. It may raise ValueError or LookupError for ids that are no text."""

_F = TypeVar("_F", bound=Callable[..., Any])

PADDING = -1
"""Follows the tokens of a text that is shorter than the answer's row; the same in labels."""


def scored(
    name: str,
    *,
    score: Scorer | None = None,
    kind: EvaluationKind = "capability",
    applies: Callable[[Array], Array] | None = None,
    slices: Mapping[str, Callable[[Array], Array]] | None = None,
) -> Callable[[_F], _F]:
    """Tag the function of a `@view`, above it, with the evaluation `score(labels, answers)` of that view; else `right`.

    For scores in [0, 1]; `applies` and `slices` are those of `evaluation`. SubjectError unless it is one view.
    """
    own = right if score is None else score

    def tag(make: _F) -> _F:
        where = where_of(make)
        views = [each.name for each in declared(make) if isinstance(each, View)]
        if len(views) != 1:
            raise SubjectError(
                f"evaluation {name!r} stands over {len(views)} views",
                where=where,
                remedy="put @scored above the one @view that it scores, or write an @evaluation",
            )
        (shown,) = views
        return declare(
            make,
            specify(name, lambda y, a: own(y, a[shown]), where, kind, (shown,), applies=applies, slices=slices),
        )

    return tag


def right(labels: Array, answers: Array) -> Array:
    """1.0 where the greatest of `answers` [n, classes] is at the label, `labels` [n] integers; else 0.0.

    Of equal answers the first counts. ValueError where a label is no class: it could never be answered.
    """
    return np.asarray(_rows(labels, answers).argmax(1) == labels).astype(float)


def top_k(labels: Array, answers: Array, k: int = 5) -> Array:
    """1.0 where the label is among the `k` greatest of `answers` [n, classes]; of equal ones the first come first.

    ValueError unless 1 <= k < classes: whatever is answered would be right.
    """
    answers = _rows(labels, answers)
    if not 1 <= k < answers.shape[1]:
        raise ValueError(f"k must be at least 1 and below the {answers.shape[1]} classes, not {k}")
    own = answers[np.arange(len(labels)), labels][:, None]
    before = (answers > own) | ((answers == own) & (np.arange(answers.shape[1]) < np.reshape(labels, (-1, 1))))
    return np.asarray(before.sum(1) < k).astype(float)


def probability(labels: Array, answers: Array) -> Array:
    """The probability of the label under the softmax of `answers` [n, classes], in [0, 1].

    One term of a sum of terms that are not negative, over that sum. It rewards confidence only where it is right; as a
    mean it is no proper score, for whoever always says the likeliest label with certainty does best. Gate `nearness`
    instead, where the probabilities themselves matter.
    """
    return np.exp(_log_likelihood(np.reshape(labels, (-1, 1)), _rows(labels, answers)[:, None, :]))


def likelihood(labels: Array, answers: Array) -> Array:
    """The geometric mean of the probabilities of a text's tokens, exp(mean log p): one over the perplexity, in [0, 1].

    `labels` [n, tokens] integers, padded with -1; `answers` [n, tokens, vocabulary] are logits of each token. Whole
    distributions are asked for, because a number that a candidate calls its log-probability could be any number.
    What was shown of the text is the view's doing: a model that sees a token can give it probability 1.
    """
    return np.exp(_log_likelihood(labels, answers))


def nearness(labels: Array, answers: Array, scale: float = 1.0) -> Array:
    """1 / (1 + L / scale), with L the mean negative log-likelihood of a text's tokens in nats: in (0, 1], falling in L.

    Labels and answers are as for `likelihood`, or `labels` [n] and `answers` [n, classes]. It halves at L = `scale`,
    and falls slowly beyond, where `likelihood` is flat: from 9 to 8 nats it gains .011 at scale 1, likelihood .0002.
    """
    if not scale > 0.0:
        raise ValueError(f"a scale is positive, not {scale}")
    if np.ndim(labels) == 1:
        labels, answers = np.reshape(labels, (-1, 1)), _rows(labels, answers)[:, None, :]
    return 1.0 / (1.0 - _log_likelihood(labels, answers) / scale)


def texts(answers: Array, decode: Decode, size: int) -> list[str | None]:
    """The texts of generated tokens, `answers` [n, tokens] float32 of ids below `size`, padded with -1.

    Ids are exact in float32 up to 2**24. None for a row that is no text: a number that is no integer or no token of
    the vocabulary, a token after the padding began, or ids for which `decode` raises ValueError or LookupError. A
    candidate may write such rows: they are never an error, and score 0. ValueError for answers of another shape.
    """
    rows = np.asarray(answers)
    if rows.ndim != 2:
        raise ValueError(f"generated tokens are [n, tokens], not {rows.shape}")
    if not 0 < size <= 1 << 24:
        raise ValueError(f"a vocabulary has 1 to 2**24 tokens, not {size}: others are not exact in float32")
    whole = (rows == np.floor(rows)) & (rows >= PADDING) & (rows < size)
    ended = np.logical_or.accumulate(rows == PADDING, axis=1)
    sound = (whole & (ended == (rows == PADDING))).all(axis=1)
    return [_text(row, decode) if good else None for row, good in zip(rows, sound.tolist(), strict=True)]


def _text(row: Array, decode: Decode) -> str | None:
    try:
        return decode([int(token) for token in row[row != PADDING]])
    except (ValueError, LookupError):
        return None


def decode_utf8(tokens: list[int]) -> str:
    """The text of bytes, where a token is a byte (`size` 256); ValueError for what is not UTF-8."""
    return bytes(tokens).decode("utf-8")


def plain_text(text: str) -> str:
    """A text without what seldom changes an answer: case, the form of letters (NFKC), space at the ends and doubled."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def exact_match(decode: Decode, size: int, normalise: Callable[[str], str] = plain_text) -> Scorer:
    """Make a scorer: 1.0 where the generated text is the label, both normalised; else 0.0, and where it is no text.

    `labels` [n] are strings, `answers` as `texts` reads them. ValueError for a label that normalises to nothing, since
    silence would answer it. A right answer in other words scores 0: what it measures is the form, too.
    """

    def score(labels: Array, answers: Array) -> Array:
        wanted = [normalise(str(label)) for label in _strings(labels)]
        if not all(wanted):
            raise ValueError("a label normalises to the empty text, which silence would match")
        said = texts(answers, decode, size)
        if len(said) != len(wanted):
            raise ValueError(f"{len(said)} texts for {len(wanted)} labels")
        return np.array([t is not None and normalise(t) == w for t, w in zip(said, wanted, strict=True)], dtype=float)

    return score


def _strings(labels: Array) -> Sequence[str]:
    if np.ndim(labels) != 1 or np.asarray(labels).dtype.kind != "U":
        raise ValueError(f"labels are [n] strings, not {np.asarray(labels).dtype} {np.shape(labels)}")
    return labels.tolist()  # type: ignore[no-any-return]


def _rows(labels: Array, answers: Array) -> Array:
    """The answers [n, classes], where the labels are [n] of those classes; ValueError."""
    if np.ndim(answers) != 2 or np.shape(labels) != (len(answers),) or np.asarray(labels).dtype.kind not in "iu":
        raise ValueError(
            f"labels [n] integers and answers [n, classes] are wanted, not {np.asarray(labels).dtype} "
            f"{np.shape(labels)} and {np.shape(answers)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < answers.shape[1]:
        raise ValueError(f"a label is none of the {answers.shape[1]} classes: {int(labels.min())}…{int(labels.max())}")
    return answers


def _log_likelihood(labels: Array, answers: Array) -> Array:
    """The mean log-probability of each row's tokens, [n] float64, never above 0."""
    if np.ndim(answers) != 3 or np.shape(labels) != answers.shape[:2] or np.asarray(labels).dtype.kind not in "iu":
        raise ValueError(
            f"labels [n, tokens] integers and answers [n, tokens, vocabulary] are wanted, not "
            f"{np.asarray(labels).dtype} {np.shape(labels)} and {np.shape(answers)}"
        )
    said = labels != PADDING
    if ((labels < PADDING) | (labels >= answers.shape[2])).any():
        raise ValueError(f"a label is neither one of the {answers.shape[2]} tokens nor the padding {PADDING}")
    if not said.any(axis=1).all():
        raise ValueError("a label has no token: nothing would be measured")
    logits = np.asarray(answers, dtype=np.float64)
    logits = logits - logits.max(axis=2, keepdims=True)
    own = np.take_along_axis(logits, np.where(said, labels, 0)[:, :, None].astype(np.int64), axis=2)[:, :, 0]
    each = own - np.log(np.exp(logits).sum(axis=2))  # the greatest term is exp(0), so this is never above 0
    mean: Array = np.where(said, each, 0.0).sum(axis=1) / said.sum(axis=1)
    return mean
