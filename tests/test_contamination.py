"""Facts about held-out texts that were seen in training: what is found however it is dressed, and what is let be."""

from __future__ import annotations

import string
import unicodedata
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.errors import SubjectError
from harness.evals import Alike, Data, Items, NearDuplicates, Population, alike, contamination

RULE = NearDuplicates()
LETTERS = string.ascii_lowercase + " äöé"
PROSE = "the lock keeper opens one gate when the other one is shut, and writes down which ship has passed it and when"


def dice(seed):
    """Make letters that come at random, and the same again."""
    return Random(seed)  # noqa: S311 - no secrets


def text(rng, length):
    """Letters at random, with words of some length; no space at an end, and never two."""
    words = iter(lambda: "".join(rng.choices(LETTERS.replace(" ", ""), k=rng.randint(2, 9))), None)
    out = next(words)
    while len(out) < length:
        out += " " + next(words)
    return out[: length - 1] + "z"


def edited(rng, before, edits):
    """Replace, delete or insert so many letters anywhere."""
    letters = list(before)
    for _ in range(edits):
        place = rng.randrange(1, len(letters) - 1)
        how = rng.randrange(3)
        letters[place : place + (how != 2)] = [] if how == 1 else [rng.choice("qxjw")]
    return "".join(letters)


def jaccard(a, b, size=RULE.shingle):
    """Compare two texts by their shingles, in one line of its own."""
    a, b = (
        {each[i : i + size] for i in range(len(each) - size + 1)} for each in map(contamination.written_alike, (a, b))
    )
    return len(a & b) / len(a | b)


@given(seed=st.integers(0, 2**32), length=st.integers(60, 400), edits=st.integers(0, 12))
def test_a_text_with_edits_below_the_threshold_is_found(seed, length, edits):
    """A held-out text that is a training text with so few edits that their shingles agree is found among others."""
    rng = dice(seed)
    seen = [text(rng, length) for _ in range(5)]
    place = rng.randrange(5)
    held_out = [text(rng, length), edited(rng, seen[place], edits)]
    similarity = jaccard(seen[place], held_out[1])
    assume(similarity >= 0.85)  # there, one in three million is missed
    assert alike(seen, held_out) == [Alike(1, place, similarity)]


@given(seed=st.integers(0, 2**32), length=st.integers(60, 400), edits=st.integers(1, 60))
def test_a_text_that_is_less_alike_is_let_be(seed, length, edits):
    """Nothing below the threshold is refused, whatever its hashes say."""
    rng = dice(seed)
    before = text(rng, length)
    after = edited(rng, before, edits)
    assume(jaccard(before, after) < RULE.threshold)
    assert alike([before], [after]) == []


def test_hashes_alone_refuse_nothing(monkeypatch):
    """Where every pair has all its bands in common, as if hashes told nothing apart, only what is alike is refused."""
    monkeypatch.setattr(
        contamination, "_band_keys", lambda texts, rule: np.zeros((rule.bands[0], len(texts)), np.uint64)
    )
    rng = dice(5)
    seen, other = [text(rng, 100) for _ in range(30)], [text(rng, 100) for _ in range(30)]
    assert alike(seen, [*other, seen[7][:-1]]) == [Alike(30, 7, jaccard(seen[7], seen[7][:-1]))]


@given(seed=st.integers(0, 2**32))
def test_order_does_not_matter_and_the_same_is_found_again(seed):
    """Which held-out texts are found depends on neither part's order, nor on the time."""
    rng = dice(seed)
    seen = [text(rng, 120) for _ in range(12)]
    held_out = [edited(rng, each, rng.randrange(12)) for each in seen]
    once = {held_out[found.held_out] for found in alike(seen, held_out)}
    assert once == {held_out[found.held_out] for found in alike(seen, held_out)}
    rng.shuffle(seen)
    rng.shuffle(held_out)
    assert once == {held_out[found.held_out] for found in alike(seen, held_out)}


@pytest.mark.parametrize(
    "dressed",
    [
        "Größe 12",
        "  grösse\t\n12 ",
        unicodedata.normalize("NFD", "größe 12"),
        "gr\u00f6\u017f\u017fe \uff11\uff12",
    ],
)
def test_a_short_text_is_the_same_however_it_is_written(dressed):
    """Composed or not, in capitals, full width or with other white space: it is the same text."""
    assert alike(["another", "größe 12"], [dressed]) == [Alike(0, 1, 1.0)]


def test_a_short_text_with_another_letter_is_another_text():
    """Below the shortest length one letter decides: words that are neighbours are different items."""
    assert alike(["haus", "maus", PROSE[:49]], ["laus", PROSE[:48] + "#"]) == []


@pytest.mark.parametrize("place", [0, 4, 25, 45, 49])
def test_at_the_shortest_length_one_changed_letter_is_found(place):
    """The defaults fit: of 50 characters one may be changed anywhere, and the text is still found."""
    letters = "".join(chr(ord("a") + n * n % 26) + chr(ord("a") + n) for n in range(25))
    assert len({letters[i : i + 5] for i in range(46)}) == 46
    assert len(alike([letters], [letters[:place] + "#" + letters[place + 1 :]])) == 1
    assert alike([letters[:-1]], [letters[1:]]) == []


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_the_bands_miss_as_seldom_as_they_say(threshold):
    """At every threshold the bands fit into the hashes and miss at most one pair in ten thousand that is right at it."""
    rule = NearDuplicates(threshold=threshold)
    bands, length = rule.bands
    assert bands * length <= contamination.HASHES
    assert rule.missed == (1 - threshold**length) ** bands <= contamination.MISSED


def test_pairs_at_the_threshold_are_missed_no_more_often_than_stated():
    """Of 2,000 pairs with similarity .8 to .82 none or one is missed: .1 are expected, and two have probability .005."""
    rng = dice(11)
    seen, held_out = [], []
    while len(seen) < 2000:
        before = text(rng, 200)
        after = edited(rng, before, rng.randint(4, 6))
        if 0.8 <= jaccard(before, after) <= 0.82:
            seen.append(before)
            held_out.append(after)
    assert len(alike(seen, held_out)) >= 1999


def test_each_item_is_named_once_with_where_it_was_seen():
    """A held-out item that was seen many times is one; the first place where it was seen is named."""
    assert alike([PROSE, PROSE.upper(), "x"], [PROSE + "!", PROSE, "y"]) == [
        Alike(0, 0, jaccard(PROSE, PROSE + "!")),
        Alike(1, 0, 1.0),
    ]


# --- what is a text


@pytest.mark.parametrize(
    ("item", "same"),
    [
        ({"q": PROSE, "choices": ["a", "b"]}, {"choices": ["A", "B"], "q": PROSE}),
        ([PROSE, ["yes"]], (PROSE, "Yes")),
        (np.str_(PROSE), PROSE),
    ],
)
def test_lists_and_dicts_of_strings_are_texts(item, same):
    """What holds nothing but strings is compared by them, in order."""
    assert [found.held_out for found in alike([item], [same])] == [0]


@pytest.mark.parametrize(
    "items",
    [
        [{"q": PROSE, "n": 1}, {"q": PROSE, "n": 2}],
        [[1, 2], [1, 3]],
        [b"bytes", b"Bytes"],
        [{}, []],
        ["", "  "],
        np.arange(2),
        np.array([PROSE, PROSE], dtype=object)[:0],
    ],
)
def test_what_has_other_parts_has_no_text_unless_it_is_declared(items):
    """Numbers beside a text may be what is asked, so that only the exact comparison speaks of such items."""
    assert alike(items[:1], items[1:]) == []


def test_a_subject_says_what_its_items_text_is():
    """With `text`, what is asked is compared and nothing else; an item for which it gives None has none."""
    rule = NearDuplicates(text=lambda item: item["q"])
    assert len(alike([{"q": PROSE, "n": 1}], [{"q": PROSE.title(), "n": 2}], rule)) == 1
    assert alike([{"q": None}], [{"q": None}], rule) == []


@pytest.mark.parametrize(("reads", "message"), [(lambda item: item["z"], "raised KeyError"), (lambda _: 5, "gave int")])
def test_a_text_that_fails_is_refused(reads, message):
    """What the subject's own `text` does wrong is told as such: nothing is taken for having no text."""
    with pytest.raises(SubjectError, match=message):
        alike([{}], [{}], NearDuplicates(text=reads))


@pytest.mark.parametrize(
    "fields",
    [
        {"threshold": 0.49},
        {"threshold": 1.01},
        {"threshold": float("nan")},
        {"shingle": 0},
        {"shingle": 60},
        {"shingle": 2.0},
        {"shortest": True},
    ],
)
def test_rules_that_say_nothing_are_refused(fields):
    """A threshold that is none, or shingles that no text has, are an error and not a rule that finds nothing."""
    with pytest.raises(SubjectError, match="NearDuplicates"):
        NearDuplicates(**fields)


def test_texts_of_one_template_are_refused_rather_than_skipped(monkeypatch):
    """Where more pairs must be compared than there is time for, the data are refused, with the remedy."""
    monkeypatch.setattr(contamination, "MOST_COMPARED", 100)
    rng = dice(3)
    texts = [f"{PROSE} {text(rng, 40)}" for _ in range(40)]
    assert all(jaccard(texts[0], each) < RULE.threshold for each in texts[1:])
    with pytest.raises(SubjectError, match="more than 100 pairs") as caught:
        alike(texts[:20], texts[20:])
    assert "text=" in caught.value.remedy


# --- in a subject's data


def data(train, development, vault, **changes):
    """Make data of texts."""
    made = {
        "train": {"x": np.zeros(3)},
        "development": Items(development, np.zeros(len(development))),
        "vault": Items(vault, np.zeros(len(vault))),
        "output": (2,),
        "train_raw": train,
    }
    return Data(**{**made, **changes})


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ((["a", PROSE], ["b"], ["c", PROSE + "!"]), "1 of 2 vault items.* training 1 and vault 1"),
        ((["a"], ["b", PROSE], ["c", PROSE + "!"]), "1 of 2 vault items.* development 1 and vault 1"),
        ((["a", PROSE], [PROSE + "!"], ["c"]), "1 of 1 development items.* training 1 and development 0"),
        ((["a", "b"], ["c"], ["A", "B"]), "2 of 2 vault items.* training 0 and vault 0 .*training 1 and vault 1"),
    ],
)
def test_data_with_a_text_in_two_parts_are_refused(parts, told):
    """Between training, development and vault, each pair: how many, the first places, and the remedy are told."""
    with pytest.raises(SubjectError, match=told) as caught:
        data(*parts).check()
    assert "harness.evals.alike" in caught.value.remedy


def test_with_none_only_content_is_compared():
    """A subject for which such texts are different questions says so, and has the exact comparison left."""
    data([PROSE], ["b"], [PROSE + "!"], near_duplicates=None).check()
    with pytest.raises(SubjectError, match="1 raw items"):
        data([PROSE], ["b"], [PROSE], near_duplicates=None).check()


def test_many_pairs_are_told_by_the_first_few():
    """An error names the count and three pairs, however many there are."""
    words = [f"word{n}" for n in range(50)]
    with pytest.raises(SubjectError, match="50 of 50") as caught:
        data(words, ["b"], [word.upper() for word in words]).check()
    assert caught.value.message.count(" and vault ") == contamination.TOLD


@pytest.mark.parametrize("again", [PROSE + "!", PROSE.upper()])
def test_an_added_text_that_was_held_out_before_is_refused(again):
    """Items that are added later may not nearly repeat the texts of those that were there."""
    made = data(["a"], ["b"], ["c", PROSE, "d", again])
    made.check()
    with pytest.raises(SubjectError, match="vault 1 and added 1"):
        made.check_added(2)
    made.check_added(4)


@pytest.mark.parametrize(
    "unseen", ["\u200b", "\u00ad", "\ufeff", "\u2060", "\u202e", "\x00", "\ufe0f", "\u034f", "\u3164", "\U000e0041"]
)
def test_what_nobody_sees_hides_no_text(unseen):
    """Characters that leave no mark, put between any two letters, make no other text of a short or a long one."""
    for before in ("lock keeper", PROSE):
        assert alike([before], [unseen.join(before)]) == [Alike(0, 0, 1.0)]


def test_a_text_that_is_tried_in_one_population_is_not_held_out_in_another():
    """A held-out text is refused where it stands, written otherwise, among another population's development items."""
    labels = np.zeros(1, np.int64)
    other = Population(Items(["lift"], labels), Items([PROSE.upper()], labels))
    data = Data({"x": np.zeros((1, 1))}, Items([PROSE], labels), Items(["gate"], labels), (2,), also={"other": other})
    with pytest.raises(SubjectError, match=r"also\['other'\]\.vault"):
        data.check()
