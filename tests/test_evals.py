"""Facts about `harness.evals`: what guards are written with, and what is refused."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SubjectError
from harness.evals import (
    Data,
    Generated,
    Items,
    Population,
    collect,
    evaluation,
    inquiry,
    item_key,
    load_guards,
    view,
)
from harness.evals.tagging import declared

GUARDS = """
import numpy as np
from harness.evals import Data, Items, evaluation, view

def load():
    return Data(
        train={"x": np.zeros((4, 1), np.float32)},
        development=Items([0.0, 1.0, 2.0], np.array([0, 1, 1])),
        vault=Items([3.0, 4.0], np.array([0, 1])),
        output=(2,),
    )

@view("plain")
def plain(raw, rng):
    return {"x": np.array(raw, np.float32)[:, None]}

@view("noisy")
def noisy(raw, rng):
    return {"x": (np.array(raw)[:, None] + rng.normal(size=(len(raw), 1))).astype(np.float32)}

@evaluation("accuracy", kind="capability", views=("plain",))
def accuracy(labels, answers):
    return (answers["plain"].argmax(1) == labels).astype(float)

@evaluation("ones", kind="alignment", views=("noisy", "plain"), applies=lambda labels: labels == 1)
def ones(labels, answers):
    return answers["noisy"].argmax(1) == labels
"""


@pytest.fixture
def guards(tmp_path):
    """A folder's guards.py, made of GUARDS with replacements; returns the loaded suite."""

    def make(*changes):
        text = GUARDS
        for old, new in changes:
            assert text.count(old) >= 1, old
            text = text.replace(old, new)
        path = tmp_path / "guards.py"
        path.write_text(text)
        return load_guards(path)

    return make


def simple(**changes):
    """Sound Data, with some fields replaced."""
    fields = {
        "train": {"x": np.zeros((4, 1), np.float32)},
        "development": Items(["a", "b"], np.array([0, 1])),
        "vault": Items(["c"], np.array([0])),
        "output": (2,),
    }
    return Data(**{**fields, **changes})


# --- items and data


@given(st.lists(st.text(max_size=5), max_size=30, unique=True))
def test_item_keys_tell_strings_apart(texts):
    """Different strings have different keys, equal strings the same."""
    assert len({item_key(text) for text in texts}) == len(texts)
    assert [item_key(text) for text in texts] == [item_key("".join(list(text))) for text in texts]


def test_item_keys_tell_types_shapes_and_dtypes_apart():
    """A string, bytes, a number and arrays of other shapes or dtypes are other items, even with the same bytes."""
    zeros = np.zeros(4, np.uint8)
    items = ["1", b"1", 1, [1], {"a": 1}, zeros, zeros.reshape(2, 2), zeros.view(np.int8), zeros.astype(np.uint16)[:2]]
    assert len({item_key(item) for item in items}) == len(items)


@pytest.mark.parametrize("item", [object(), {1, 2}, float("nan"), np.array([object()])])
def test_items_without_identity_are_refused(item):
    """What could be the same or not, nobody knows, is no raw item."""
    with pytest.raises(SubjectError):
        item_key(item)


@given(st.integers(1, 20), st.data())
def test_take_keeps_items_and_labels_together(count, data):
    """Whatever is taken, in whatever order, from a list as from an array, the label stays with its item."""
    chosen = data.draw(st.lists(st.integers(0, count - 1), max_size=30))
    for raw in (list(range(count)), np.arange(count)):
        part = Items(raw, np.arange(count) * 7).take(chosen)
        assert list(part.raw) == chosen
        assert part.labels.tolist() == [7 * place for place in chosen]


def test_sound_data_passes():
    """The data that the refusals below vary is itself accepted."""
    simple().check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {}}, "not an empty one"),
        ({"train": {"x": [1, 2]}}, "numpy array"),
        ({"train": {"x": np.array(["a"])}}, "dtype"),
        ({"train": {"x": np.array([np.nan])}}, "NaN"),
        ({"train": {"x": np.zeros(2), "y": np.zeros(3)}}, "different lengths"),
        ({"development": Items([], np.array([]))}, "empty"),
        ({"vault": Items([], np.array([]))}, "empty"),
        ({"vault": Items(["c"], np.array([0, 1]))}, "1 raw items but 2 labels"),
        ({"vault": Items(["c"], np.array([np.nan]))}, "NaN"),
        ({"vault": Items(["c"], [0])}, "numpy array"),
        ({"vault": Items(["c"], np.array([None]))}, "plain values"),
        ({"output": [2]}, "positive integers"),
        ({"output": (0,)}, "positive integers"),
    ],
)
def test_unsound_data_is_refused(changes, message):
    """Wrong types, lengths, dtypes and NaN each raise SubjectError that says so."""
    with pytest.raises(SubjectError, match=message):
        simple(**changes).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vault": Items(["c", "b"], np.array([0, 1]))}, "development items and in the vault"),
        ({"train_raw": ["x", "c"]}, "training items and in the vault"),
        ({"train_raw": ["x", "a"]}, "training items and in the development"),
    ],
)
def test_an_item_in_two_splits_is_refused(changes, message):
    """A held-out item that stands elsewhere, too, is found by its content."""
    with pytest.raises(SubjectError, match=message):
        simple(**changes).check()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (["c", "d", "c"], "1 of the vault items stand there before: item 2 is 0"),
        (["c", "c", "d", "c", "d", "c"], "4 of the vault items stand there before: item 1 is 0, 3 is 0, 4 is 2, …"),
        (np.array([[1, 2], [3, 4], [1, 2]], np.uint8), "1 of the vault items .* item 2 is 0"),
    ],
)
def test_a_held_out_item_that_stands_there_twice_is_refused(raw, message):
    """A copy is no independent item: how many there are, and the first places, are told."""
    with pytest.raises(SubjectError, match=message) as caught:
        simple(vault=Items(raw, np.zeros(len(raw)))).check()
    assert "drop duplicates" in caught.value.remedy


def test_items_to_train_and_develop_on_may_repeat():
    """No guarantee is about them: a word may be shown to a model as often as it occurs."""
    simple(development=Items(["a", "a"], np.array([0, 1])), train_raw=["x", "x"]).check()


def test_images_are_compared_by_content():
    """Raw items that are rows of an array are held apart in the same way."""
    images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    with pytest.raises(SubjectError, match="1 raw items"):
        simple(development=Items(images[:2], np.zeros(2)), vault=Items(images[1:], np.zeros(2))).check()


# --- collecting


def test_guards_are_collected_in_the_order_of_the_file(guards):
    """Views and evaluations are found under their names, in order, with what was declared of them."""
    suite = guards()
    assert list(suite.views) == ["plain", "noisy"]
    assert list(suite.evaluations) == ["accuracy", "ones"]
    assert suite.evaluations["ones"].kind == "alignment"
    assert suite.evaluations["ones"].where.startswith("guards.py:")
    suite.check(suite.load())


def test_two_subjects_share_nothing(tmp_path):
    """Loading one guards.py leaves no trace in another, and none among the imported modules."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "guards.py").write_text(GUARDS.replace('"plain"', f'"{name}"').replace("OWN", name))
    before = set(sys.modules)
    one, two = (load_guards(tmp_path / name / "guards.py") for name in ("one", "two"))
    assert (list(one.views), list(two.views)) == (["one", "noisy"], ["two", "noisy"])
    assert set(sys.modules) == before


def test_neighbours_of_two_subjects_do_not_mix(tmp_path):
    """Each guards.py gets the module that lies beside it, though both have the same name."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "neighbour.py").write_text(f"NAME = '{name}'")
        (tmp_path / name / "guards.py").write_text("from neighbour import NAME\n" + GUARDS.replace('"plain"', "NAME"))
    suites = [load_guards(tmp_path / name / "guards.py") for name in ("one", "two")]
    assert [next(iter(suite.views)) for suite in suites] == ["one", "two"]
    assert "neighbour" not in sys.modules
    assert not [entry for entry in sys.path if entry.startswith(str(tmp_path))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("def load():", "def lode():")], r"no load\(\)"),
        ([('@view("noisy")', '@view("plain")')], "guards.py:.*'plain' is used twice"),
        ([('evaluation("ones"', 'evaluation("accuracy"')], "'accuracy' is used twice"),
        ([('views=("plain",)', 'views=("clear",)')], "wants the views"),
        ([('views=("plain",)', 'views="plain"')], "tuple of strings"),
        ([('kind="alignment"', 'kind="virtue"')], "virtue"),
        ([('kind="capability", ', 'kind="capability", bounds=(1, 0), ')], "bounds"),
        ([('kind="capability", ', 'kind="capability", bounds=(0, float("inf")), ')], "bounds"),
        ([('evaluation("ones"', 'evaluation("all ones"')], "is no name"),
        ([("import numpy as np", "import numpy as")], "guards.py:2: syntax error"),
        ([("import numpy as np", "import nonesuch_package")], "guards.py:2: No module"),
        ([("import numpy as np", "import numpy as np\n1 / 0")], "guards.py:3: ZeroDivisionError"),
    ],
)
def test_mistakes_in_guards_name_their_place(guards, changes, message):
    """A mistake in guards.py is one SubjectError that says where and what."""
    with pytest.raises(SubjectError, match=message):
        guards(*changes)


def test_guards_without_evaluations_are_refused():
    """A module in which nothing is guarded is no subject."""
    module = ModuleType("empty")
    module.load = simple
    with pytest.raises(SubjectError, match="at least one"):
        collect(module)


def test_a_missing_file_is_named(tmp_path):
    """The path is in the error."""
    with pytest.raises(SubjectError, match=r"nowhere.*no such file"):
        load_guards(tmp_path / "nowhere" / "guards.py")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("    return Data(", "    return dict("), "returned dict"),
        (("    return Data(", "    1 / 0\n    return Data("), r"load\(\) raised ZeroDivisionError"),
        (("Items([3.0, 4.0]", "Items([2.0, 4.0]"), "1 raw items stand both"),
    ],
)
def test_load_is_checked(guards, change, message):
    """What load() does wrong is told as load()'s."""
    with pytest.raises(SubjectError, match=message):
        guards(change).load()


# --- views


def test_a_views_randomness_hangs_on_seed_and_name_alone(guards):
    """The same seed gives the same inputs; another seed, or another view's name, gives others."""
    suite = guards()
    renamed = guards(('"noisy"', '"loud"'))
    raw = [0.0] * 20
    first = suite.views["noisy"].encode(raw, 5)["x"]
    assert np.array_equal(first, suite.views["noisy"].encode(raw, 5)["x"])
    assert not np.array_equal(first, suite.views["noisy"].encode(raw, 6)["x"])
    assert not np.array_equal(first, renamed.views["loud"].encode(raw, 5)["x"])


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("return {'x': np.array(raw, np.float32)[1:, None]}", "2 rows for 3 items"),
        ("return np.array(raw)", "dict of named arrays"),
        ("return {'x': np.full(len(raw), np.nan)}", "NaN"),
        ("return {'x': np.array([str(item) for item in raw])}", "dtype"),
        ("raise ValueError('no')", "raised ValueError: no"),
        ("return {'x': np.array(raw, np.float64)[:, None]}", "differ in form"),
        ("return {'x': np.array(raw, np.float32)}", "differ in form"),
        ("return {'y': np.array(raw, np.float32)[:, None]}", "differ in form"),
        ("return {'x': np.random.default_rng().random((len(raw), 1)).astype(np.float32)}", "two answers"),
    ],
)
def test_bad_views_are_refused(guards, new, message):
    """Rows that are missing, NaN, of another form than other views', or never the same twice are refused."""
    suite = guards(('return {"x": np.array(raw, np.float32)[:, None]}', new))
    with pytest.raises(SubjectError, match=message):
        suite.check(suite.load())


# --- scores


def test_a_view_changes_no_item(guards):
    """What a view writes into the raw items is shown by no later view."""
    return_ = 'return {"x": np.array(raw, np.float32)'
    suite = guards((return_, f"raw[:1] = raw[1:2]\n    {return_}"))
    for raw in (np.arange(3.0), [1.0, 2.0, 3.0]):
        before = np.array(raw)
        assert suite.views["plain"].encode(raw, 0)["x"][0] == before[1]
        assert np.array_equal(raw, before)


def test_an_eval_that_asks_changes_no_label():
    """What an eval that asks writes into its items and labels is no other eval's."""

    @inquiry("greedy", kind="capability")
    def greedy(_ask, raw, labels):
        raw[:], labels[:] = 0, 0
        return np.zeros(len(labels))

    items = Items(np.arange(1, 4), np.arange(1, 4))
    declared(greedy)[0].score(None, items)
    assert items.raw.tolist() == items.labels.tolist() == [1, 2, 3]


def test_scores_are_of_the_items_to_which_an_evaluation_applies(guards):
    """`applies` masks items by label; values are those of the masked items, in order."""
    evaluated = guards().evaluations["ones"]
    answers = {name: np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32) for name in ("plain", "noisy")}
    scores = evaluated.score(np.array([0, 1, 1, 0]), answers)
    assert scores.applies.tolist() == [False, True, True, False]
    assert scores.values.tolist() == [1.0, 0.0]
    assert scores.values.dtype == np.float64


def test_an_evaluation_that_applies_to_nothing_gives_no_scores(guards):
    """No item, no score, and the measure is not called."""
    suite = guards(('return answers["noisy"].argmax(1) == labels', "raise RuntimeError"))
    none = suite.evaluations["ones"].score(np.array([0]), {n: np.zeros((1, 2), np.float32) for n in ("plain", "noisy")})
    assert none.values.shape == (0,)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_score_in_bounds_comes_back_and_no_other_does(score):
    """Scores are never clipped: within the bounds they come back exactly, outside they raise."""

    @evaluation("any", kind="capability", views=("plain",), bounds=(-1.0, 2.0))
    def measure(labels, _answers):
        return np.full(len(labels), score)

    module = ModuleType("guards")
    module.load, module.measure, module.plain = simple, measure, view("plain")(lambda raw, _: {"x": np.zeros(len(raw))})
    run = collect(module).evaluations["any"].score
    arguments = (np.zeros(3), {"plain": np.zeros((3, 1))})
    if -1.0 <= score <= 2.0:
        assert run(*arguments).values.tolist() == [score] * 3
    else:
        with pytest.raises(SubjectError, match="out of its bounds"):
            run(*arguments)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("return np.ones(len(labels) + 1)", "floats"),
        ("return 1.0", "floats"),
        ("return np.array(['a'] * len(labels))", "floats"),
        ("return np.ones((len(labels), 1))", "floats"),
        ("return np.ones(len(labels)) * 1j", "floats"),
        ("return answers['secret']", "raised KeyError"),
        ("x = answers['plain'][:, 0]; return (x > x.mean()).astype(float)", "differently in another batch"),
        ("return np.arange(len(labels)) % 2", "differently in another batch"),
    ],
)
def test_bad_measures_are_refused(guards, new, message):
    """Scores of another shape or type, errors, and scores that hang on the batch are refused, with the place."""
    suite = guards(
        ('return (answers["plain"].argmax(1) == labels).astype(float)', new),
        ("Items([0.0, 1.0, 2.0], np.array([0, 1, 1]))", "Items(list(range(40)), np.arange(40) % 2)"),
        ("[3.0, 4.0]", "[50.0, 51.0]"),
    )
    with pytest.raises(SubjectError, match=message) as caught:
        suite.check(suite.load())
    assert caught.value.where.startswith("guards.py:")


@pytest.mark.parametrize("new", ["labels", "(labels == 1)[:-1]", "labels[0] == 1", "nonsense"])
def test_applies_must_give_one_boolean_an_item(guards, new):
    """A mask that is no mask is refused rather than read as one."""
    suite = guards(("lambda labels: labels == 1", f"lambda labels: {new}"))
    with pytest.raises(SubjectError, match="applies"):
        suite.evaluations["ones"].mask(np.array([1, 0, 1]))


def test_answers_must_be_as_many_as_labels(guards):
    """Answers that are missing, too few or too many never reach the measure."""
    run = guards().evaluations["accuracy"].score
    with pytest.raises(SubjectError, match="lacks answers"):
        run(np.zeros(2), {})
    with pytest.raises(SubjectError, match="3 answers"):
        run(np.zeros(2), {"plain": np.zeros((3, 2))})


# ------------------------------------------------------------------------------------------------ generated items


def one(rng):
    """Draw a number, and whether it is odd."""
    number = int(rng.integers(0, 1000))
    return number, number % 2


def odd(numbers):
    """Label numbers."""
    return Items(numbers, np.array([number % 2 for number in numbers]))


def drawn(make=one, capacity=1000, development=range(1000, 1010), **more):
    """Data of which held-out items are generated."""
    return Data(
        train={"x": np.zeros((4, 1), np.float32)},
        development=odd(list(development)),
        vault=Generated(capacity, make),
        output=(2,),
        **more,
    )


@given(st.lists(st.integers(0, 999), min_size=1, max_size=20, unique=True), st.integers(0, 19))
def test_a_generated_item_is_its_own_whatever_it_is_asked_with(ids, which):
    """An item is decided by its number and the secret: not by the batch, and by no other secret."""
    data, which = drawn(), which % len(ids)
    whole = data.choose("vault", ids, "secret")["items"].items
    alone = data.choose("vault", [ids[which]], "secret")["items"].items
    assert (whole.raw[which], whole.labels[which]) == (alone.raw[0], alone.labels[0])
    many = range(40)
    assert (
        data.choose("vault", many, "secret")["items"].items.raw
        != data.choose("vault", many, "other")["items"].items.raw
    )


def test_generated_items_are_made_by_number_and_under_a_secret():
    """All of them at once there are not; without a secret, or beyond the capacity, nothing is made."""
    data = drawn()
    for ids, secret in ((None, "secret"), ([1], ""), ([1000], "secret"), ([-1], "secret")):
        with pytest.raises(SubjectError):
            data.choose("vault", ids, secret)
    with pytest.raises(SubjectError, match="not there all at once"):
        data.split("vault")
    assert data.count("vault") == 1000


def test_an_item_that_is_known_is_drawn_anew():
    """No generated item stands among the development or training items, and those drawn are as likely as each other."""
    data = drawn(development=range(300), train_raw=list(range(300, 800)))
    found = data.choose("vault", range(400), "secret")["items"].items.raw
    assert {*found} <= {*range(800, 1000)}
    assert len({*found}) > 150  # of 200, drawn 400 times with replacement: 173 are to be expected
    with pytest.raises(SubjectError, match="in a row"):
        drawn(development=range(1000)).check()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (drawn(make=lambda _: next(COUNT)), "another item of the same seed"),
        (drawn(make=lambda rng: int(rng.integers(9))), "no pair"),
        (drawn(make=lambda rng: (int(rng.integers(9)), float("nan"))), "NaN"),
        (drawn(capacity=0), "capacity"),
        (drawn(capacity=True), "capacity"),
        (drawn(capacity=2**41), "capacity"),
        (drawn(make=None), "capacity"),
        (drawn(also={"other": Population(odd([1]), odd([2]))}), "some are not"),
        (drawn(capacity=1009, also={"other": Population(odd([1001]), Generated(1000, one))}), "rounds of 2009"),
        (drawn(train_raw=[1005]), "both among"),
    ],
)
def test_a_generator_that_is_not_sound_is_refused(data, why):
    """One that does not repeat itself, gives no labelled item, or mixes with what is at hand, is a SubjectError."""
    with pytest.raises(SubjectError, match=why):
        data.check()


COUNT = iter((number, number % 2) for number in range(10**6))


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 200), st.integers(1, 60))
def test_generated_populations_take_turns(mine, theirs, first, count):
    """Every stretch of items holds each population's share, to within a round, and each item is of one population."""
    data = drawn(capacity=100 * mine, also={"other": Population(odd([2001]), Generated(100 * theirs, one))})
    first = min(first, data.count("vault") - count)
    chosen = data.choose("vault", range(first, first + count), "secret")
    places = np.concatenate([each.places for each in chosen.values()])
    assert sorted(places.tolist()) == list(range(count))
    assert abs(len(chosen["items"].places) - count * mine / (mine + theirs)) <= mine + theirs


def test_generated_arrays_of_one_shape_come_as_one():
    """Items that are arrays of one shape and dtype are stacked; of others a list is made."""
    square = drawn(make=lambda rng: (rng.normal(size=(2, 2)), 1)).choose("vault", range(5), "secret")["items"].items
    ragged = drawn(make=lambda rng: (rng.normal(size=int(rng.integers(1, 9))), 1)).choose("vault", range(9), "secret")
    assert square.raw.shape == (5, 2, 2)
    assert isinstance(ragged["items"].items.raw, list)
