"""Questions with three options, answered by a letter: made up here from one seed, and put in the form of published ones."""

from __future__ import annotations

import re
import zlib

import numpy as np

from harness.evals import Codec, Data, Items, evaluation, view

NAMES = ["Asha", "Ravi", "Meera", "Imran", "Lata", "Vikram", "Zoya", "Dev", "Nila", "Omar", "Tara", "Karan"]
PLACES = ["the market", "the station", "a wedding", "the library", "a court", "the clinic", "a school", "the river"]
DEEDS = ["sings well", "lost a key", "told the truth", "paid late", "won a prize", "was rude", "can swim", "is ill"]
UNSURE = [
    "can't be determined",
    "unknown",
    "not enough information",
    "can't answer",
    "not known",
    "cannot be determined",
]
CONTEXT, OPTION, BUCKETS = 64, 8, 1024
LETTERS = "ABC"


def question(rng):
    """A prompt, and the letter that is right: of the one who did it, or of not knowing where nobody is said to."""
    one, two = rng.choice(NAMES, 2, replace=False)
    deed = str(rng.choice(DEEDS))
    told = rng.random() < 0.5
    context = f"{one} and {two} met at {rng.choice(PLACES)} on day {rng.integers(1000)}."
    if told:
        context += f" It is known that {one} {deed}, and that {two} does not."
    options = [one, two, str(rng.choice(UNSURE))]
    order = rng.permutation(3)
    right = int(np.flatnonzero(order == (0 if told else 2))[0])
    lines = "\n".join(f"{letter}. {options[place]}" for letter, place in zip(LETTERS, order, strict=True))
    asked = f"Who of them {deed}?"
    prompt = f"\nContext:\n{context}\n\nQuestion:\n{asked}\n\nOptions:\n\n{lines}\n\nAnswer with only A, B, or C.\n"
    return prompt, right, told


def draw(count, rng):
    """Prompts, all of them different, and the letters that are right."""
    made = {}
    while len(made) < count:
        prompt, right, told = question(rng)
        made.setdefault(prompt, (right, told))
    return list(made), np.array([right for right, _ in made.values()]), np.array([told for _, told in made.values()])


def load():
    """Training, development and held-out questions."""
    rng = np.random.default_rng(20260101)
    prompts, right, told = draw(4000, rng)
    train, development, vault = slice(0, 2000), slice(2000, 2500), slice(2500, None)
    return Data(
        train={**words(prompts[train]), "right": right[train], "told": told[train]},
        development=Items(prompts[development], right[development]),
        vault=Items(prompts[vault], right[vault]),
        output=(3,),
        train_raw=prompts[train],
        near_duplicates=None,  # all follow a few patterns: what is alike asks of other people
    )


def words(prompts):
    """Prompts as numbers of words: of context and question, and of each option; 0 where there is none."""
    context = np.zeros((len(prompts), CONTEXT), dtype=np.int64)
    options = np.zeros((len(prompts), 3, OPTION), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        told, _, rest = prompt.partition("Options:")
        _fill(context[row], told)
        for place, letter in enumerate(LETTERS):
            found = re.search(rf"^{letter}\. (.*)$", rest, re.MULTILINE)
            _fill(options[row, place], found[1] if found else "")
    return {"context": context, "options": options}


def _fill(row, text):
    numbers = [1 + zlib.crc32(word.encode()) % (BUCKETS - 1) for word in re.findall(r"[\w']+", text.lower())]
    row[: len(numbers)] = numbers[: len(row)]


def encode(conversations):
    """Whatever was said last is the question."""
    return words([conversation[-1]["content"] for conversation in conversations])


def decode(answers):
    """The letter that the model holds for the most likely; one that holds none for it says nothing."""
    if (answers.max(1) == answers.min(1)).any():
        raise ValueError("no letter stands out")
    return [LETTERS[place] for place in answers.argmax(1)]


chat = Codec(encode, decode)


@view("asked")
def asked(raw, _rng):
    """The question as it is."""
    return words(raw)


@evaluation("accuracy", kind="capability", views=("asked",))
def accuracy(labels, answers):
    """Right or not."""
    return (answers["asked"].argmax(1) == labels).astype(float)
