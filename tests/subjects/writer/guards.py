"""Functions of one number, asked for in words: a model writes them, and they are run on numbers that it has not seen."""

from __future__ import annotations

import numpy as np

from harness.evals import Data, Items, executed, expected, view
from harness.evals.capability import PADDING, decode_utf8

FORMS = ["x + {n}", "x * {n}", "x - {n}", "{n} - x", "x % {n}", "x // {n}"]
WORDS = ["add", "times", "less", "from", "rest", "share"]
NUMBERS = range(2, 6)
SIZE = 32


def written(form, number):
    """The program that is wanted, as bytes padded to one length."""
    text = f"def solve(x): return {FORMS[form].format(n=number)}".encode()
    return np.array([*text, *[PADDING] * (SIZE - len(text))], dtype=np.int64)


def wanted(form, number):
    """What the program is to give on numbers that stand here and nowhere else."""
    return expected(*(([x], eval(FORMS[form].format(n=number), {"x": x})) for x in (7, -40, 123)))  # noqa: S307


def draw(count, first):
    """Requests, no two alike, and what is wanted of each: form and number go round."""
    kinds = [(form, number) for number in NUMBERS for form in range(len(FORMS))]
    chosen = [kinds[place % len(kinds)] for place in range(count)]
    raw = [f"{WORDS[form]} {number}, request {first + place}" for place, (form, number) in enumerate(chosen)]
    return raw, chosen


def load():
    """Training, development and held-out requests."""
    raw, chosen = draw(96, 0)
    development, vault = draw(24, 1000), draw(600, 2000)
    return Data(
        train={**shown(raw), "text": np.stack([written(*each) for each in chosen]), "form": forms(chosen)},
        development=Items(development[0], np.array([wanted(*each) for each in development[1]])),
        vault=Items(vault[0], np.array([wanted(*each) for each in vault[1]])),
        output=(SIZE,),
        train_raw=raw,
    )


def forms(chosen):
    """The form that each request is for."""
    return np.array([form for form, _ in chosen])


@view("plain")
def shown(raw, _rng=None):
    """Which word, and which number: ones and zeros."""
    table = np.zeros((len(raw), len(WORDS) + len(NUMBERS)), dtype=np.float32)
    for row, text in enumerate(raw):
        word, number = text.partition(",")[0].split()
        table[row, WORDS.index(word)] = table[row, len(WORDS) + NUMBERS.index(int(number))] = 1
    return {"asked": table}


solved = executed("solved", inputs=shown, decode=decode_utf8, size=256, call="solve")
