"""Facts about harness.evals.programs: what counts as right, and that nothing a program does is a right answer but one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rigs
import writing
from hypothesis import given
from hypothesis import strategies as st
from rigs import code, generation, knobs

from harness.auditing import verify_run
from harness.engines.local import LocalEngine
from harness.errors import SubjectError
from harness.evals import executed, expected, load_guards
from harness.evals.programs import _is, _read, equal, printed
from harness.execution import Execution
from harness.folder import RunFolder
from harness.keys import VaultKey
from harness.replay import replay_run
from harness.rescoring import rescore
from harness.sandbox import Site

pytestmark = [pytest.mark.usefixtures("quick_disk"), pytest.mark.timeout(180)]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
CALLED, SCRIPT = Execution(call="solve"), Execution()


@pytest.fixture(scope="module")
def engine():
    """Where programs run; no candidate does."""
    with LocalEngine(count=2, site=Site(Site.bare().distributions, Site.bare().entries, ("json",))) as local:
        yield local


@given(JSON, JSON)
def test_only_the_value_that_is_due_is_equal(due, given_):
    """A value is equal to itself through JSON, and to another only where Python finds them so, within rounding."""
    assert equal(due, json.loads(json.dumps(due)))
    if equal(due, given_) and not _numeric(due, given_):
        assert due == given_


def _numeric(*values):
    return any(isinstance(each, (int, float, list, dict)) and "." in json.dumps(each) + "e" for each in values)


@pytest.mark.parametrize(
    ("due", "given_", "same"),
    [
        (1, True, False),
        (True, 1, False),
        (0, False, False),
        (1, 1.0, True),
        (0.1 + 0.2, 0.3, True),
        (0.5, 0.5001, False),
        (0.5, 10**400, False),
        (10**30, 10**30 + 1, False),
        (1, "1", False),
        (None, False, False),
        ([1, 2], [1, 2, 3], False),
        ([1, 2], "12", False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": [0.5]}, {"a": [0.5]}, True),
        ("", [], False),
    ],
)
def test_kinds_of_values_are_told_apart(due, given_, same):
    """Truth is no number, a text no list; integers are exact, and other numbers within rounding."""
    assert equal(due, given_) is same


@pytest.mark.parametrize(
    ("due", "given_", "same"),
    [
        ("a\nb", "a  \nb\n\n", True),
        ("a b", "a  b", False),
        (" a", "a", False),
        ("a\n\nb", "a\nb", False),
        ("A", "a", False),
    ],
)
def test_space_at_ends_alone_is_let_be(due, given_, same):
    """Of what is printed only space at the ends of lines and at the end is let be."""
    assert printed(due, given_) is same


@given(st.binary(max_size=60), JSON)
def test_any_output_is_right_or_wrong(output, due):
    """Whatever bytes come out of a sandbox are compared, and raise nothing."""
    assert _is(output, due, CALLED, equal) in (True, False)
    assert _is(output, str(due), SCRIPT, printed) in (True, False)


@pytest.mark.parametrize("output", [b"[" * 4000, b"NaN", b"Infinity", b"\xff\xfe1\x00", b"9" * 5000, b"", b"1 1"])
def test_an_output_that_is_no_value_is_wrong(output):
    """Deep, endless, infinite, wrongly encoded or double JSON is wrong, whatever is due."""
    assert not _is(output, 1, CALLED, lambda _due, _given: True)


@pytest.mark.parametrize(
    ("label", "spec"),
    [
        ("", CALLED),
        ("[]", CALLED),
        ("{}", CALLED),
        ('["ab"]', SCRIPT),
        ("[[1]]", CALLED),
        ("[" * 5000, CALLED),
        (expected((5, 1)), CALLED),
        (expected(([5], None)), CALLED),
        (expected((5, "1")), SCRIPT),
        (expected(("5", 1)), SCRIPT),
        (expected(("5", " \n")), SCRIPT),
        (expected(*[([1], 1)] * 65), CALLED),
    ],
)
def test_a_label_that_asks_nothing_is_refused(label, spec):
    """A label that is no list of pairs, has no or too many inputs, or is met by giving nothing, is the guard's mistake."""
    with pytest.raises(SubjectError):
        _read(label, spec)


def test_labels_are_looked_at_when_data_are_loaded(digits, tmp_path):
    """A held-out label that asks nothing is told when the data are loaded, before anything is staked on it."""
    broken = rigs.vary(
        digits.parent / "writer",
        tmp_path / "subject",
        (
            "np.array([wanted(*each) for each in vault[1]])",
            'np.array([*map(lambda e: wanted(*e), vault[1][1:]), "[]"])',
        ),
        name="guards.py",
    )
    suite = load_guards(broken / "guards.py")
    with pytest.raises(SubjectError, match=r"met by a program that gives nothing|1 to 64 inputs"):
        suite.check(suite.load())


@pytest.mark.parametrize("settings", [{"seconds": 0}, {"call": "a b"}, {"memory_mb": 1}, {"output_kb": 1 << 20}])
def test_limits_that_are_none_are_refused(settings):
    """A limit of nothing and a call that is no name are refused where the eval is declared."""
    with pytest.raises(SubjectError, match=r"executed\('solved'\)") as told:
        executed("solved", inputs=lambda raw, _: raw, decode=str, size=256, **settings)
    assert told.value.where.startswith("test_evals_programs.py:")


ADD = expected(([1, 2], 3), ([5, -5], 0))


@pytest.mark.parametrize("said", [0.1, float("nan"), 1, "no", None, np.array([True])])
def test_a_comparison_says_true_or_false(said):
    """A share, NaN, a word and an array are no verdict on an output: nothing is scored."""
    with pytest.raises(SubjectError, match="true or false is wanted"):
        _is(b"5", 5, CALLED, lambda _due, _given: said)
    assert _is(b"5", 5, CALLED, np.isclose)


def test_what_is_right_on_every_input_scores_one(engine, tmp_path):
    """All inputs right scores 1, some 0 unless shares count; the same program and inputs of two items run once."""
    right = "def solve(a, b): return a + b"
    half = "def solve(a, b): return 3"
    assert writing.write(right, [ADD, ADD], engine, tmp_path, call="solve")[0] == [1, 1]
    assert writing.write(half, [ADD], engine, tmp_path, call="solve")[0] == [0]
    values, _, ask = writing.write(half, [ADD, ADD], engine, tmp_path, call="solve", partial=True)
    assert values == [0.5, 0.5]
    assert sum(map(len, ask._table.jobs.values())) == 2 + 1
    assert writing.write("print(int(input()) + 1)", [expected(("1", "2"))], engine, tmp_path)[0] == [1]


def test_why_a_program_scored_nothing_is_kept(engine, tmp_path):
    """How programs ended is kept beside the evidence: of each input, and counted."""
    program = "def solve(a, b): return 3 if a == 1 else 1 / 0"
    _, _, ask = writing.write(program, [ADD], engine, tmp_path, call="solve")
    record, about = ask.kept
    assert json.loads(record) == {"items": [{"ended": ["ok", "failed"], "right": [True, False]}]}
    assert about == {"ended": {"failed": 1, "ok": 1}}


@pytest.mark.parametrize("text", [b"\xff\xfe", b"def solve(x): return '\xed\xa0\x80'"])
def test_what_is_no_text_is_not_run(text, engine, tmp_path):
    """Bytes that are no text score 0, and nothing is run for them."""
    values, ran, ask = writing.write(text, [ADD], engine, tmp_path, call="solve")
    assert (values, ran) == ([0], [])
    assert ask.kept[1] == {"ended": {"no program": 1}}


# A whole run, with a model that writes.

WRITES = '    best = model(inputs["asked"]).reshape(-1, SIZE, BYTES).argmax(-1)'


def cheat(subject, text):
    """A code proposal whose model writes this, whatever it is asked."""
    given_ = f"torch.tensor([list({text.encode()!r}.ljust(SIZE))]).repeat(len(inputs['asked']), 1)"
    return {**code(subject, (WRITES, f"    best = {given_}")), "changes": {"forms": 6}}


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """A run in which three cheats come first, and then a model that has learnt to write more."""
    subject, place = digits.parent / "writer", tmp_path_factory.mktemp("writer")
    rig = rigs.Rig(subject, place)
    cheats = [cheat(subject, text) for text in ("import os; os._exit(0)", "print('passed')", "while 1: 0")]
    try:
        opened = rig.open(place / "run", subject, seed=0)
        try:
            generation(opened, 1, *cheats, knobs(forms=6))
            return place / "run", subject, opened.supervisor.state
        finally:
            opened.close()
    finally:
        rig.close()


def test_a_model_that_writes_better_programs_is_promoted(run):
    """Programs that give what is due pass the gate, on development and on held-out items."""
    _, _, state = run
    found = state.proposals[4]
    assert found.outcome == "promoted"
    assert found.developed.development == {"solved": 1.0}
    assert [gate.verdict for gate in found.measured.gates] == ["pass"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_model_that_writes_no_answers_is_not(number, run):
    """Programs that end early, print that they passed, or never end score 0, and are not promoted."""
    found = run[2].proposals[number]
    assert found.developed.development == {"solved": 0.0}
    assert found.decision.reasons[0].code == "development"


def test_a_reviewer_compares_again_and_runs_nothing(run, monkeypatch):
    """The trail verifies, and every score follows again from the logged answers, without a sandbox."""
    place, subject, state = run
    folder = RunFolder(place)
    monkeypatch.setattr(LocalEngine, "submit", None)
    assert verify_run(folder, folder.public_key)["verdict"].startswith(f"valid at size {state.size}")
    assert replay_run(folder)["decisions"] == 4
    assert rescore(folder, subject, VaultKey.load(folder.vault_key)) == {"measurements": 1, "other_evals": 0}


def test_the_rows_that_are_asked_hold_nothing_that_is_due(run):
    """The tables of answers name programs by secret digests, and hold outputs alone."""
    place, _, state = run
    blobs = RunFolder(place).blobs
    for name in state.asked.values():
        data = (blobs / "sha256" / name[7:9] / name[7:]).read_bytes()
        assert b"execute" in data
        assert b"def solve" not in data


def test_slices_of_programs_are_evals_of_their_own():
    """An eval of programs has slices as any other: here by the number of inputs."""
    made = executed(
        "solved",
        inputs=lambda raw, _: raw,
        decode=str,
        size=256,
        call="solve",
        slices={"many": lambda labels: np.array([len(json.loads(each)) > 1 for each in labels])},
    )
    (inquiry,) = made.__lockgate_guard__
    labels = np.array([ADD, expected(([1], 1))])
    assert [each.name for each in inquiry.sliced()] == ["solved", "solved[many]"]
    assert [each.mask(labels).tolist() for each in inquiry.sliced()] == [[True, True], [True, False]]
