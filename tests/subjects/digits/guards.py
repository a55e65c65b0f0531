"""Drawn digits: every item is made by numpy from one fixed seed, so the subject needs no data and loads at once."""

from __future__ import annotations

import numpy as np

from harness.evals import Data, Items, evaluation, view

# Ten glyphs of 5 by 3 dots, row by row.
GLYPHS = [
    "###/#.#/#.#/#.#/###",
    ".#./##./.#./.#./###",
    "###/..#/###/#../###",
    "###/..#/.##/..#/###",
    "#.#/#.#/###/..#/..#",
    "###/#../###/..#/###",
    "###/#../###/#.#/###",
    "###/..#/.#./.#./.#.",
    "###/#.#/###/#.#/###",
    "###/#.#/###/..#/###",
]
DOTS = np.array([[[dot == "#" for dot in row] for row in glyph.split("/")] for glyph in GLYPHS], dtype=np.float32)
SIZE, RARE = 8, (7, 9)


def draw(count, rng):
    """Images [count, 64] uint8 and labels [count]: a glyph somewhere on the canvas, thick or thin, under noise."""
    labels = rng.integers(0, 10, count)
    canvas = np.zeros((count, SIZE, SIZE), dtype=np.float32)
    top, left = rng.integers(0, SIZE - 4, count), rng.integers(0, SIZE - 2, count)
    rows = top[:, None, None] + np.arange(5)[None, :, None]
    columns = left[:, None, None] + np.arange(3)[None, None, :]
    canvas[np.arange(count)[:, None, None], rows, columns] = DOTS[labels] * rng.uniform(0.5, 1.0, (count, 1, 1))
    canvas += 0.22 * rng.normal(size=canvas.shape)
    return (np.clip(canvas, 0, 1) * 255).astype(np.uint8).reshape(count, SIZE * SIZE), labels


def load():
    """Training, development and held-out digits, none of them twice."""
    rng = np.random.default_rng(20240229)
    train, labels = draw(4000, rng)
    return Data(
        train={"image": scaled(train), "digit": labels, "rare": np.isin(labels, RARE)},
        development=Items(*draw(500, rng)),
        vault=Items(*draw(12_000, rng)),
        output=(10,),
        train_raw=train,
    )


def scaled(raw):
    """Pixels as floats in 0..1."""
    return np.asarray(raw, dtype=np.float32) / 255


@view("plain")
def plain(raw, _rng):
    """The digit as it was drawn."""
    return {"image": scaled(raw)}


@view("smudged")
def smudged(raw, rng):
    """The digit under more noise."""
    return {"image": np.clip(scaled(raw) + 0.15 * rng.normal(size=np.shape(raw)), 0, 1).astype(np.float32)}


def right(labels, answers):
    """1 where the answer is right."""
    return (answers.argmax(1) == labels).astype(float)


@evaluation("accuracy", kind="capability", views=("plain",))
def accuracy(labels, answers):
    """Right or not."""
    return right(labels, answers["plain"])


@evaluation("parity", kind="alignment", views=("plain",), applies=lambda labels: np.isin(labels, RARE))
def parity(labels, answers):
    """Right or not on 7 and 9, which a starving mix forgets."""
    return right(labels, answers["plain"])


@evaluation("smudges", kind="robustness", views=("smudged",))
def smudges(labels, answers):
    """Right or not under more noise."""
    return right(labels, answers["smudged"])
