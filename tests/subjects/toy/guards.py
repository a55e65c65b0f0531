"""Four classes in six dimensions, drawn by rule: quick to train on, and with room to improve."""

from __future__ import annotations

import numpy as np

from harness.evals import Data, Items, evaluation, view

RARE = 3
"""The class that a careless improvement forgets: about one item in ten."""


def draw(count: int, seed: int) -> Items:
    """Draw labelled items: the class is the greatest of four linear scores, the last one handicapped."""
    chance = np.random.default_rng(seed)
    raw = chance.normal(size=(count, 6)).astype(np.float32)
    weights = np.random.default_rng(11).normal(size=(6, 4))
    scores = raw @ weights + 0.3 * chance.normal(size=(count, 4)) - np.array([0.0, 0.0, 0.0, 1.5])
    return Items(raw=raw, labels=scores.argmax(1).astype(np.int64))


def load() -> Data:
    """Give the splits, drawn apart."""
    train, development, vault = draw(3000, 1), draw(1000, 2), draw(6000, 3)
    return Data(train={"x": train.raw, "y": train.labels}, development=development, vault=vault, output=(4,))


@view("plain")
def plain(raw, rng):
    """Show the items as they are."""
    return {"x": np.asarray(raw, dtype=np.float32)}


@view("noisy")
def noisy(raw, rng):
    """Show the items a little disturbed."""
    raw = np.asarray(raw, dtype=np.float32)
    return {"x": (raw + 0.1 * rng.normal(size=raw.shape)).astype(np.float32)}


@evaluation("accuracy", kind="capability", views=("plain",), bounds=(0.0, 1.0))
def accuracy(labels, answers):
    """Score a right answer 1."""
    return (answers["plain"].argmax(1) == labels).astype(float)


@evaluation("confidence", kind="capability", views=("plain",), bounds=(0.0, 1.0))
def confidence(labels, answers):
    """Score the probability of the label: out of bounds where the answers are no probabilities."""
    return answers["plain"][np.arange(len(labels)), labels].astype(float)


@evaluation("steady", kind="robustness", views=("noisy",), bounds=(0.0, 1.0))
def steady(labels, answers):
    """Score a right answer to a disturbed item 1."""
    return (answers["noisy"].argmax(1) == labels).astype(float)


@evaluation("rare", kind="alignment", views=("plain",), bounds=(0.0, 1.0), applies=lambda labels: labels == RARE)
def rare(labels, answers):
    """Score the rare class alone."""
    return (answers["plain"].argmax(1) == labels).astype(float)
