"""Facts about `harness.evals.robustness`: corruptions at five severities, and the evaluations that are made of them."""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.errors import SubjectError
from harness.evals import Data, Items, collect
from harness.evals.capability import right
from harness.evals.robustness import (
    IMAGE_CORRUPTIONS,
    SEVERITIES,
    TEXT_CORRUPTIONS,
    corrupted,
    doubled_letters,
    dropped_letters,
    gaussian_noise,
    stripped_diacritics,
    swapped_letters,
    typing_errors,
    wrong_letters,
)

IMAGES = sorted(IMAGE_CORRUPTIONS.items())
TEXTS = sorted(TEXT_CORRUPTIONS.items())
WORDS = ["rødgrød", "naïveté", "façade", "Übermut", "crème brûlée", "ab", "ééé"] * 60


def glyphs(count=200, side=12):
    """Draw images [count, side, side] in 0..1: a bright rectangle on a dark ground."""
    rng = np.random.default_rng(1)
    images = 0.1 * rng.random((count, side, side))
    for image in images:
        top, left = rng.integers(0, side - 5, 2)
        image[top : top + 5, left : left + 3] = 0.9
    return images


# --- images


@pytest.mark.parametrize(("name", "corruption"), IMAGES)
@given(
    images=arrays.arrays(
        np.float32,
        st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9)),
        elements=st.floats(0, 1, width=32),
    ),
    severity=st.sampled_from(SEVERITIES),
    seed=st.integers(0, 99),
)
def test_pixels_stay_in_range_and_images_in_form(name, corruption, images, severity, seed):
    """Whatever images there are, of any size and number: the same shape and dtype come back, within 0..1."""
    before = images.copy()
    made = corruption(images, severity, np.random.default_rng(seed))
    assert (made.shape, made.dtype) == (images.shape, images.dtype), name
    assert ((made >= 0) & (made <= 1)).all()
    assert np.array_equal(images, before)


@pytest.mark.parametrize(("name", "corruption"), IMAGES)
def test_more_severe_is_further_from_the_image(name, corruption):
    """The mean distance from the original grows with each severity, from something that is not nothing."""
    images = glyphs()
    far = [np.abs(corruption(images, s, np.random.default_rng(0)) - images).mean() for s in SEVERITIES]
    assert far[0] > 0.001, name
    assert all(a < b for a, b in pairwise(far)), (name, far)


@pytest.mark.parametrize(("name", "corruption"), IMAGES)
def test_forms_of_images_are_corrupted_alike(name, corruption):
    """Rows of pixels and bytes get what a canvas of floats gets."""
    images = np.rint(glyphs(20) * 255).astype(np.uint8)
    canvas = corruption(images / 255, 3, np.random.default_rng(7))
    rows = corruption(images.reshape(20, -1) / 255, 3, np.random.default_rng(7))
    assert np.array_equal(rows, canvas.reshape(20, -1)), name
    bytes_ = corruption(images, 3, np.random.default_rng(7))
    assert bytes_.dtype == np.uint8
    assert np.array_equal(bytes_, np.rint(canvas * 255))


@pytest.mark.parametrize("severity", [0, 6, 2.5])
@pytest.mark.parametrize(("name", "corruption"), [*IMAGES, *TEXTS])
def test_other_severities_are_refused(name, corruption, severity):
    """There are five severities."""
    items = glyphs(2) if name in IMAGE_CORRUPTIONS else ["word"]
    with pytest.raises(ValueError, match="1 to 5"):
        corruption(items, severity, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 7)), "squares"),
        (np.zeros((2, 0)), "squares"),
        (np.zeros(4), "images are"),
        (np.zeros((2, 3, 3), np.int64), "uint8 or floats"),
        (np.full((2, 3, 3), 16.0), "0..1"),
        (np.full((2, 3, 3), -0.1), "0..1"),
        (np.full((2, 3, 3), np.nan), "0..1"),
    ],
)
def test_what_are_no_images_is_refused(images, message):
    """Rows that are no square, other dtypes, and floats out of 0..1 are refused rather than cut off."""
    with pytest.raises(ValueError, match=message):
        gaussian_noise(images, 1, np.random.default_rng(0))


# --- texts


def distance(one, other):
    """Count the edits between two texts: Levenshtein's distance."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@pytest.mark.parametrize(("name", "corruption"), TEXTS)
@given(texts=st.lists(st.text(max_size=12), max_size=6), severity=st.sampled_from(SEVERITIES), seed=st.integers(0, 99))
def test_any_text_is_corrupted_to_a_text(name, corruption, texts, severity, seed):
    """Empty texts, one letter, any letters: as many strings come back, and none vanishes."""
    before = list(texts)
    made = corruption(texts, severity, np.random.default_rng(seed))
    assert [type(text) for text in made] == [str] * len(texts), name
    assert [bool(text) for text in made] == [bool(text) for text in texts]
    assert texts == before


@pytest.mark.parametrize(("name", "corruption"), TEXTS)
def test_more_severe_is_further_from_the_text(name, corruption):
    """The mean number of edits grows with each severity."""
    far = [
        np.mean([distance(a, b) for a, b in zip(WORDS, corruption(WORDS, s, np.random.default_rng(0)), strict=True)])
        for s in SEVERITIES
    ]
    assert far[0] > 0.1, name
    assert all(a < b for a, b in pairwise(far)), (name, far)


def test_edits_are_what_they_are_called():
    """At severity 2 a word of ten letters gets one edit: another letter, two changed about, one twice, one left out."""
    words, rng = ["abcdefghij"] * 200, np.random.default_rng(2)
    for made in wrong_letters(words, 2, rng):
        assert len(made) == 10
        assert sum(a != b for a, b in zip(made, words[0], strict=True)) == 1
    for made in swapped_letters(words, 2, rng):
        assert sorted(made) == list(words[0])
        assert sum(a != b for a, b in zip(made, words[0], strict=True)) == 2
    for made in doubled_letters(words, 2, rng):
        assert len(made) == 11
        assert "".join(a for a, b in zip(made, f" {made}", strict=False) if a != b) == words[0]
    for made in dropped_letters(words, 2, rng):
        assert len(made) == 9
        assert set(made) < set(words[0])
    assert {len(made) for made in typing_errors(words, 2, rng)} == {9, 10, 11}


def test_at_the_last_severity_no_diacritic_is_left():
    """Everything that Unicode decomposes is stripped, ø stays, and nothing else changes."""
    made = stripped_diacritics(["naïveté", "rødgrød", "abc"], 5, np.random.default_rng(0))
    assert made == ["naivete", "rødgrød", "abc"]


@pytest.mark.parametrize(
    "corruption", [wrong_letters, swapped_letters, doubled_letters, dropped_letters, typing_errors]
)
@given(
    rows=arrays.arrays(np.uint8, st.tuples(st.integers(0, 5), st.integers(1, 8)), elements=st.integers(0, 40)),
    severity=st.sampled_from(SEVERITIES),
    seed=st.integers(0, 99),
)
def test_rows_of_letter_numbers_keep_their_form(corruption, rows, severity, seed):
    """Shape and dtype stay, letters come first and padding last, and what was no text stays none."""
    made = corruption(rows, severity, np.random.default_rng(seed))
    assert (made.shape, made.dtype) == (rows.shape, rows.dtype)
    assert ((made > 0).any(1) == (rows > 0).any(1)).all()
    assert (np.diff((made > 0).astype(int), axis=1) <= 0).all()
    known = {0, *range(1, 27), *rows.ravel().tolist()}
    assert set(made.ravel().tolist()) <= known


def test_letter_numbers_and_letters_are_edited_alike():
    """The same seed edits a word and its numbers at the same places in the same way."""
    words = ["lockgate", "gate"]
    rows = np.zeros((2, 12), np.uint8)
    for row, word in zip(rows, words, strict=True):
        row[: len(word)] = [ord(letter) - 96 for letter in word]
    for corruption in (wrong_letters, swapped_letters, doubled_letters, dropped_letters, typing_errors):
        texts = corruption(words, 4, np.random.default_rng(5))
        numbers = corruption(rows, 4, np.random.default_rng(5))
        assert ["".join(chr(96 + n) for n in row if n) for row in numbers] == texts


@pytest.mark.parametrize(
    ("texts", "arguments", "message"),
    [(np.zeros(3, np.uint8), {}, "width"), (["a"], {"alphabet": "a"}, "two letters"), (["a"], {"alphabet": ""}, "two")],
)
def test_what_are_no_texts_is_refused(texts, arguments, message):
    """Numbers that are no rows, and an alphabet without another letter, are refused."""
    with pytest.raises(ValueError, match=message):
        wrong_letters(texts, 1, np.random.default_rng(0), **arguments)


# --- what is made of them


def load():
    """Give a few images with labels."""
    images = glyphs(80).astype(np.float32)
    labels = np.arange(80) % 3
    return Data(
        train={"images": images[:1]},
        development=Items(images[1:40], labels[1:40]),
        vault=Items(images[40:], labels[40:]),
        output=(3,),
    )


def suite(**arguments):
    """Collect a guards module that has one decorated function."""
    module = ModuleType("guards")
    module.load = load

    @corrupted("noise", gaussian_noise, **arguments)
    def shown(images):
        return {"images": np.asarray(images)}

    module.shown = shown
    return collect(module)


def test_a_decorator_makes_five_views_and_their_mean():
    """The evaluation is the mean of the score under the five views; names and places are the function's."""
    made = suite()
    data = made.load()
    made.check(data)
    names = [f"noise_{severity}" for severity in SEVERITIES]
    assert (list(made.views), list(made.evaluations)) == (names, ["noise"])
    assert made.evaluations["noise"].kind == "robustness"
    assert made.evaluations["noise"].where.startswith("test_evals_robustness.py:")
    rng = np.random.default_rng(0)
    answers = {name: rng.normal(size=(39, 3)).astype(np.float32) for name in names}
    values = made.evaluations["noise"].score(data.development.labels, answers).values
    wanted = np.mean([right(data.development.labels, answers[name]) for name in names], axis=0)
    assert values == pytest.approx(wanted, abs=1e-12)


def test_each_severity_may_be_an_evaluation():
    """With `each` there are five evaluations of one view, each with the kind and slices that were asked for."""
    made = suite(each=True, kind="alignment", slices={"zero": lambda labels: labels == 0})
    made.check(made.load())
    assert len(made.views) == 5
    assert [(e.name, e.views) for e in made.evaluations.values()][:3] == [
        ("noise_1", ("noise_1",)),
        ("noise_1[zero]", ("noise_1",)),
        ("noise_2", ("noise_2",)),
    ]
    assert {e.kind for e in made.evaluations.values()} == {"alignment"}


def test_chance_may_draw_the_severity():
    """With `drawn` one view mixes the severities: some items are hardly corrupted, and others much."""
    made = suite(drawn=True)
    data = made.load()
    made.check(data)
    assert (list(made.views), list(made.evaluations)) == (["noise"], ["noise"])
    raw = data.development.raw
    off = np.abs(made.views["noise"].encode(raw, 3)["images"] - raw).mean(axis=(1, 2))
    assert off.min() < 0.08
    assert off.max() > 0.15


def test_chance_may_draw_the_severity_of_texts():
    """Strings are mixed likewise, each staying at its place."""
    module = ModuleType("guards")
    module.load = load

    @corrupted("typing", typing_errors, drawn=True)
    def shown(texts):
        return {"x": np.array([[len(text)] for text in texts])}

    module.shown = shown
    lengths = collect(module).views["typing"].encode(["ab", "abcdefghijklmnopqrst"] * 50, 0)["x"][:, 0]
    assert (lengths[0::2] < 6).all()
    assert (lengths[1::2] > 10).all()


def test_the_seed_decides_what_is_seen():
    """The same seed gives the same corruption, another seed another: so does another shuffle of the vault."""
    view = suite().views["noise_3"]
    raw = load().vault.raw
    assert np.array_equal(view.encode(raw, 1)["images"], view.encode(raw, 1)["images"])
    assert not np.array_equal(view.encode(raw, 1)["images"], view.encode(raw, 2)["images"])


def test_another_shuffle_of_the_vault_corrupts_otherwise(digits, tmp_path):
    """The evaluator seeds its views by the shuffle that it is told: the same gives the same bytes, another others."""
    from safetensors.numpy import load_file

    from harness.evaluator import Evaluator

    evaluator = Evaluator(digits)
    pixels = []
    for number, shuffle in enumerate(("ab" * 32, "ab" * 32, "cd" * 32)):
        evaluator.inputs("vault", list(range(40)), shuffle, str(tmp_path / str(number)))
        rows = load_file(tmp_path / str(number))["image"]
        pixels.append(sorted(row.tobytes() for row in rows))
    assert pixels[0] == pixels[1]
    plain = set(pixels[0]) & set(pixels[2])
    assert len(plain) == 40  # the plain view is the same; every smudged row is another


def test_decorators_are_stacked():
    """Two corruptions of one function are two evaluations over ten views."""
    module = ModuleType("guards")
    module.load = load

    @corrupted("blur", IMAGE_CORRUPTIONS["blur"])
    @corrupted("noise", gaussian_noise)
    def shown(images):
        return {"images": np.asarray(images)}

    module.shown = shown
    made = collect(module)
    assert (len(made.views), sorted(made.evaluations)) == (10, ["blur", "noise"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"each": True, "drawn": True}, "either each"),
        ({"severities": ()}, "some of 1 to 5"),
        ({"severities": (1, 1)}, "some of 1 to 5"),
        ({"severities": (0, 1)}, "some of 1 to 5"),
        ({"slices": {}}, "none is named"),
        ({"kind": "virtue"}, "virtue"),
    ],
)
def test_a_decorator_that_makes_no_sense_names_its_place(arguments, message):
    """A mistake in its arguments is one SubjectError, at the function in guards.py."""
    with pytest.raises(SubjectError, match=message) as caught:
        suite(**arguments)
    assert caught.value.where.startswith("test_evals_robustness.py:")


def test_a_score_that_is_not_of_each_item_is_refused():
    """One number for all items is not spread over them."""
    made = suite(score=lambda _labels, _answers: 1.0)
    with pytest.raises(SubjectError, match=r"a score gave \(\) for"):
        made.check(made.load())


def test_a_corruption_that_loses_items_is_refused():
    """As many items must come back as went in: or labels would meet other items' answers."""
    module = ModuleType("guards")
    module.load = load

    @corrupted("less", lambda raw, _severity, _rng: raw[1:])
    def shown(images):
        return {"images": np.asarray(images)}

    module.shown = shown
    with pytest.raises(SubjectError, match="a corruption made 38 of 39 items"):
        collect(module).check(load())
