"""Facts about properties: a counterexample is searched for, shrunk, kept, and tried again on whatever comes later."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import rigs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rigs import code, generation, knobs
from safetensors.numpy import load_file, save_file

from harness.auditing import verify_run
from harness.canonical import canonical_bytes
from harness.errors import AuditError, EvaluatorError, StateError, SubjectError
from harness.evals import Data, Items
from harness.evals.cases import decode, encode, words
from harness.evals.counterexamples import REFUSED, Hunt, Missing, Stored
from harness.evals.inquiry import ANSWERS, PREDICT, Table, refused
from harness.evals.properties import batch_single, bounded, equivariance, finite, holds, invariance, monotone
from harness.evals.search import draw
from harness.evals.suite import Suite, collect
from harness.evals.tagging import declared
from harness.evaluator import Evaluator
from harness.folder import RunFolder
from harness.inquiring import inquire
from harness.keys import VaultKey
from harness.replay import replay_run
from harness.rescoring import rescore
from harness.views import ask_view, properties_of
from harness.workshop import Failure, Workshop

pytestmark = pytest.mark.usefixtures("quick_disk")

# Four properties of digits. Every honest candidate has them.
PROPERTIES = '''

from harness.evals.properties import batch_single, bounded, finite, invariance


def dotted(items):
    """A digit, and a value for its first pixel."""
    from hypothesis import strategies

    return strategies.tuples(strategies.integers(0, len(items) - 1), strategies.integers(0, 255))


def bright():
    """A brightness that no digit was drawn with, among others."""
    from hypothesis import strategies

    return strategies.floats(0, 4, width=32)


@invariance("corner", cases=dotted, within=20.0, tries=60)
def corner(case):
    """A dot in the corner hardly changes what is answered."""
    item, value = case
    whole = np.arange(64) * (item + 1) % 256
    dot = whole.copy()
    dot[0] = value
    return {"image": scaled(whole[None])}, {"image": scaled(dot[None])}


@bounded("sane", -2000, 2000, cases=bright, tries=30)
def sane(case):
    """No answer is out of all proportion."""
    return {"image": np.full((1, 64), case, np.float32)}


@finite("answers", cases=bright, tries=30)
def answers_anything(case):
    """There is an answer, however bright."""
    return {"image": np.full((2, 64), [[case], [case / 2]], np.float32)}


@batch_single("alone", cases=bright, tries=10)
def alone(case):
    """A row is answered alone as among others."""
    return {"image": np.full((2, 64), [[case], [0.5]], np.float32)}
'''
PREDICTED = '    return model(inputs["image"])'
PLANTED = '    return model(inputs["image"]) + 50 * (inputs["image"][:, :1] > {above})'
BLIND = '    return model(inputs["image"]) + 0 * torch.sqrt(2.5 - inputs["image"][:, :1])'


# -- whole runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subject(digits, tmp_path_factory):
    """The digits with properties."""
    made = rigs.vary(digits, tmp_path_factory.mktemp("properties") / "subject")
    guards = made / "guards.py"
    guards.write_text(guards.read_text() + PROPERTIES)
    return made


@pytest.fixture(scope="module")
def props(subject, tmp_path_factory):
    """The rooms for them."""
    rig = rigs.Rig(subject, tmp_path_factory.mktemp("rig"))
    yield rig
    rig.close()


@pytest.fixture(scope="module")
def run(subject, props, tmp_path_factory):
    """A run: one is promoted, one planted and found; the second generation plants it again, and cannot see all inputs."""
    place = tmp_path_factory.mktemp("run") / "run"
    opened = props.open(place, subject, seed=0)
    try:
        planted = code(subject, (PREDICTED, PLANTED.format(above=0.8)))
        generation(opened, 1, knobs(steps=150), planted)
        again = code(subject, (PREDICTED, PLANTED.format(above=0.7)))
        blind = code(subject, (PREDICTED, BLIND))
        generation(opened, 2, {**again, "changes": {"steps": 200}}, {**blind, "changes": {"steps": 250}})
        return place, opened.supervisor.state, ask_view(opened.supervisor.state, opened.rooms.blobs)
    finally:
        opened.close()


def found_of(run, number):
    """The evidence of a proposal."""
    from harness.artifacts import BlobStore

    return properties_of(run[1].proposals[number].developed, BlobStore(RunFolder(run[0]).blobs))["properties"]


def test_what_has_its_properties_goes_on(run):
    """A candidate to which no counterexample is found is promoted as any other, and the baseline has them, too."""
    _, state, _ = run
    assert state.proposals[1].outcome == "promoted"
    everything = dict.fromkeys(("alone", "answers", "corner", "sane"), "held")
    assert state.proposals[1].developed.properties == state.genesis.properties == everything
    assert found_of(run, 1)["corner"]["tried"] == 60


def test_a_refuted_property_is_a_rejection_before_anything_is_staked(run):
    """A candidate that a property refutes is rejected for it, with the case in words, and costs no held-out item."""
    _, state, _ = run
    found = state.proposals[2]
    (why,) = found.decision.reasons
    assert why.code == "property"
    assert "(0, 205)" in why.text  # the first value above .8 of 255, of the first digit: as simple as can be
    assert found.staked is None
    assert found.developed.properties["corner"] == "refuted"


def test_a_counterexample_is_tried_again_first(run):
    """A later candidate with the same defect meets the same case, and the record says whose it was."""
    again = found_of(run, 3)["corner"]
    assert again["counterexample"]["of"] == 2
    assert again["counterexample"]["case"] == found_of(run, 2)["corner"]["counterexample"]["case"]
    assert again["replayed"] == 1
    assert found_of(run, 2)["corner"]["replayed"] == 0
    assert "proposal 2" in run[1].proposals[3].decision.reasons[0].text


def test_the_row_without_an_answer_is_found(run):
    """A worker refuses a whole job for one row; the row that is to blame refutes, and is as simple as can be."""
    _, state, _ = run
    (why,) = state.proposals[4].decision.reasons
    assert why.code == "property"
    assert state.proposals[4].developed.properties == {"answers": "refuted"}
    assert decode(found_of(run, 4)["answers"]["counterexample"]["case"]) == 3.0


def test_the_trail_verifies_and_every_decision_is_derived_again(run, subject):
    """Both verifiers and the replay take a run with properties, and every search is made again to the same end."""
    folder = RunFolder(run[0])
    assert verify_run(folder, folder.public_key)["verdict"].startswith("valid at size")
    assert replay_run(folder)["decisions"] == 4
    counts = rescore(folder, subject, VaultKey.load(folder.vault_key))
    assert counts["properties"] == 4
    command = [sys.executable, "audits/verify.py", str(run[0]), "--key", str(folder.public_key)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_people_are_told_what_held_means(run):
    """Held is told as so many cases without a counterexample, and never as a proof."""
    show = [sys.executable, "-m", "harness.cli", "show", str(run[0])]
    told = subprocess.run([*show, "1"], check=True, capture_output=True, text=True).stdout
    assert "no counterexample in 60 cases" in " ".join(told.split())
    page = json.loads(subprocess.run([*show, "3", "--json"], check=True, capture_output=True, text=True).stdout)
    by_name = {each["name"]: each for each in page["properties"]}
    assert by_name["corner"]["found"].startswith("refuted by (0, 205): the answers differ by ")
    assert by_name["sane"]["found"] == f"no counterexample in {by_name['sane']['tried']} cases"
    assert by_name["corner"]["counterexample"]["answers"]


def test_proposers_are_told_the_names(run):
    """Of a refuted property a proposer is told the name, as of a static rule that failed."""
    assert [each["refuted"] for each in run[2]["history"]] == [[], ["corner"], ["corner"], ["answers"]]


def test_one_worker_finds_what_two_find(run, props, subject, tmp_path):
    """The evidence of properties is the same bytes, whatever the number of workers."""
    opened = props.open(tmp_path / "run", subject, seed=0, workers=1)
    try:
        planted = code(subject, (PREDICTED, PLANTED.format(above=0.8)))
        generation(opened, 1, knobs(steps=150), planted)
        state = opened.supervisor.state
    finally:
        opened.close()
    for number in (1, 2):
        one, two = (each.proposals[number].developed.counterexamples for each in (state, run[1]))
        assert one == two


def test_an_altered_counterexample_stops_the_run(subject, props, tmp_path):
    """Evidence of an earlier refutation that was changed on disk is an error of the log, told by its digest.

    It is not a case less: nothing later is measured without it.
    """
    opened = props.open(tmp_path / "run", subject, seed=0)
    try:
        generation(opened, 1, code(subject, (PREDICTED, PLANTED.format(above=0.8))))
        name = opened.supervisor.state.proposals[1].developed.counterexamples
        kept = opened.rooms.blobs.path(name)
        kept.chmod(0o644)
        kept.write_bytes(kept.read_bytes().replace(b'"verdict":"refuted"', b'"verdict":"held"'))
        with pytest.raises(AuditError, match="counterexamples of earlier proposals") as caught:
            generation(opened, 2, knobs(steps=150))
        assert caught.value.where == name
        assert opened.supervisor.state.proposals[2].decision is None
    finally:
        opened.close()


def test_a_baseline_that_breaks_its_own_property_is_one_error(digits, tmp_path):
    """A run does not begin where the subject as it stands has a counterexample; the error shows it and says what to do."""
    broken = rigs.vary(digits, tmp_path / "subject")
    guards = broken / "guards.py"
    guards.write_text(guards.read_text() + PROPERTIES.replace("-2000, 2000", "-2000, 0"))
    rig = rigs.Rig(broken, tmp_path)
    try:
        with pytest.raises(
            SubjectError, match=r"sane \(guards\.py:\d+\) does not hold of 0\.0: the answers go"
        ) as caught:
            rig.open(tmp_path / "run", broken, seed=0)
    finally:
        rig.close()
    assert "mend model.py" in caught.value.remedy


def test_evidence_that_says_otherwise_is_no_evidence(run):
    """Verdicts of the log that are not those of the evidence are an error, and so is evidence that is none."""
    from harness.artifacts import BlobStore

    blobs, developed = BlobStore(RunFolder(run[0]).blobs), run[1].proposals[2].developed
    for changes in ({"properties": {"corner": "held"}}, {"counterexamples": developed.answers}):
        with pytest.raises((StateError, EvaluatorError), match="evidence of properties"):
            properties_of(developed.model_copy(update=changes), blobs)


# -- the search -----------------------------------------------------------------------------------------------------

ITEMS = {"items": Items(np.arange(8, dtype=np.float32), np.arange(8))}


class Asked:
    """A candidate that answers in this process, and refuses where it has no answer; it counts the jobs."""

    def __init__(self, answer):
        """`answer` is a function of one row's x."""
        self.answer, self.table, self.jobs, self.rows = answer, Table(b"secret"), 0, 0

    def look(self, *functions, stored=(), guards="g", hunt=None):
        """Look for counterexamples until nothing is missing; the evidence by name."""
        hunt = hunt or Hunt([declared(each)[0] for each in functions], ITEMS, guards)
        while True:
            missing = Missing()
            found = hunt.examine(self.table, stored, missing)
            if not missing.rows:
                return found
            self.jobs += 1
            for each in missing.rows:
                for job, rows in each.items():
                    for row in rows.values():
                        self._put(job, float(row["x"]))

    def _put(self, job, x):
        self.rows += 1
        inputs = {"x": np.array([x], np.float32)}
        given = self.answer(x)
        if given is None:
            self.table.add(refused(job), inputs, {"refused": np.ones(1, np.uint8)})
        else:
            self.table.add(job, inputs, {ANSWERS: np.array([[given]], np.float32)})


def row(x):
    """Model inputs of one row."""
    return {"x": np.array([x], np.float32)}


def showing():
    """A function of its own that shows a case as one row."""

    def show(case):
        return row(case)

    return show


def below(name="below", most=999, **more):
    """A property: no answer is above 0; cases are whole numbers."""

    @holds(name, cases=lambda: st.integers(0, most), **more)
    def check(ask, case):
        return bool(ask(row(case))[0, 0] <= 0)

    return check


def test_a_healthy_candidate_costs_one_job():
    """All cases of all properties are put to a candidate at once."""
    asked = Asked(lambda _x: 0.0)
    found = asked.look(below(), below("other", most=99, tries=40))
    assert asked.jobs == 1
    assert found["below"]["verdict"] == found["other"]["verdict"] == "held"
    assert found["other"]["tried"] == 40


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_a_defect_is_missed_as_seldom_as_it_is_said(share):
    """A threshold beyond which a share x of the cases fail is missed by n cases with probability at most (1-x)^(n/2).

    Half of them are counted, for Hypothesis spends draws on simple cases and on variations of earlier ones.
    """
    tries, searches, most = 40, 60, 1000
    threshold = most * (1 - share)
    missed = 0
    for number in range(searches):
        prop = declared(below(f"p{number}", most=most - 1, tries=tries))[0]
        missed += max(draw(prop.cases(), prop.seed, tries)) < threshold
    expected = searches * (1 - share) ** (tries / 2)
    assert missed <= expected + 4 * np.sqrt(expected) + 1


@pytest.mark.parametrize("threshold", [1, 7, 333, 500, 900])
def test_a_shrunk_case_still_fails_and_is_the_simplest(threshold):
    """What is kept fails; with budget enough it is the least case that does, and the one drawn is kept beside it."""
    asked = Asked(lambda x: float(x >= threshold))
    found = asked.look(below(shrinks=200))["below"]["counterexample"]
    assert found["case"] == threshold
    assert found["drawn"] >= threshold
    assert decode(found["answers"][0][ANSWERS])[0, 0] == 1.0


@pytest.mark.parametrize("budget", [1, 2, 3, 5])
def test_the_budget_of_shrinking_is_kept(budget):
    """No more cases are put to a candidate than the budget says, and what is kept then fails, too."""
    asked = Asked(lambda x: float(x >= 321))
    prop = below(shrinks=budget)
    found = asked.look(prop)["below"]
    assert found["counterexample"]["shrinks"] <= budget
    assert asked.rows <= found["tried"] + budget
    assert 321 <= found["counterexample"]["case"] <= found["counterexample"]["drawn"]


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_the_search_is_the_same_whenever_it_is_run(share):
    """Begun anew over the whole table, by another hunt, the search comes to the same evidence and asks for nothing."""
    asked = Asked(lambda x: float(x >= 1000 * (1 - share)))
    found = asked.look(below(shrinks=20), below("wide", most=10**6, shrinks=9))
    jobs = asked.jobs
    assert asked.look(below(shrinks=20), below("wide", most=10**6, shrinks=9)) == found
    assert asked.jobs == jobs


def test_cases_are_the_same_in_another_process(tmp_path):
    """Neither what is loaded, nor the order of hashes, nor a profile, nor a folder of Hypothesis changes what is drawn."""
    script = tmp_path / "drawing.py"
    script.write_text(
        textwrap.dedent("""\
        import sys
        if len(sys.argv) > 1:
            sys.path.insert(0, sys.argv[1])
            import constants
        from hypothesis import strategies as st
        from harness.evals.search import draw
        from harness.evals.cases import encode
        kinds = st.tuples(st.integers(), st.floats(width=32), st.text("abc0"), st.lists(st.booleans()))
        print([encode(case) for case in draw(kinds, 7, 60)])
        """)
    )
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "constants.py").write_text("A, B, C = 987654321, 3.1416926, 'bacabac'\n")
    seen = set()
    for arguments, changes in (([], {}), ([str(tmp_path / "local")], {"CI": "1", "PYTHONHASHSEED": "7"})):
        command = [sys.executable, str(script), *arguments]
        environment = {"PATH": "/usr/bin:/bin", **changes}
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
        seen.add(done.stdout)
    assert len(seen) == 1
    assert not (tmp_path / ".hypothesis").exists()


def test_hypothesis_is_imported_where_cases_are_drawn_and_not_before():
    """Declaring a property imports no Hypothesis."""
    program = (
        "import sys, harness.evals.properties, harness.evals.counterexamples; sys.exit('hypothesis' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_row_that_is_refused_refutes_what_is_finite_alone():
    """Where a row has no answer, the other answers of its job are not there: only properties of refusals are judged."""

    @finite("answered", cases=lambda: st.integers(0, 99))
    def answered(case):
        return row(case)

    asked = Asked(lambda x: None if x >= 60 else 0.0)
    found = asked.look(answered, below())
    assert set(found) == {"answered"}
    assert found["answered"]["counterexample"]["case"] == 60
    assert found["answered"]["counterexample"]["wrong"] == REFUSED


class Company:
    """A workshop in which a job fails that has certain rows in it, by their x; it keeps count."""

    PREDICT = Workshop.PREDICT

    def __init__(self, work, fails):
        """`fails` is a function of the set of x of a job."""
        self.work, self.fails, self.jobs = work, fails, 0

    def perform(self, _candidate, _job, inputs, _rows, outputs):
        """Answer 0 to each row, or fail."""
        self.jobs += 1
        given = load_file(inputs)["x"]
        if self.fails(set(given.tolist())):
            return Failure("predict-output", f"a job of {len(given)}")
        save_file({ANSWERS: np.zeros((len(given), 1), np.float32)}, outputs)
        return None

    def keep(self, data):
        """Keep nothing."""
        return data


def put(tmp_path, fails, *functions):
    """Put properties to a candidate whose jobs fail so; what comes of it, and the workshop."""
    evaluator = Evaluator.__new__(Evaluator)
    evaluator._data = Data(train={"x": np.zeros(1)}, development=ITEMS["items"], vault=ITEMS["items"], output=(1,))
    evaluator._suite = Suite(lambda: None, {}, {}, {tag.name: tag for each in functions for tag in declared(each)})
    evaluator._guards, evaluator._kept = "g", None
    shop = Company(tmp_path, fails)
    given = inquire(evaluator.operate, shop, None, split="development", ids=None, shuffle="ab", stored=[])
    return given, shop


def of_all(name="answered"):
    """A property: there is an answer to each of a hundred numbers."""
    return finite(name, cases=lambda: st.integers(0, 99), tries=90)(showing())


def test_a_job_that_fails_in_company_alone_is_a_failure_as_ever(tmp_path):
    """Where no row is to blame on its own, nothing is refuted: the candidate is rejected for the job that failed first."""
    given, shop = put(tmp_path, lambda asked: len(asked) > 1, of_all(), below())
    assert isinstance(given, Failure)
    assert given.text != "a job of 1"
    assert shop.jobs < 14  # two that fail, and a halving


def test_without_such_a_property_a_failed_job_is_a_failure_at_once(tmp_path):
    """Where no property is about answers that there are not, nobody looks for a row."""
    given, shop = put(tmp_path, lambda asked: 0.0 in asked, below())
    assert isinstance(given, Failure)
    assert shop.jobs == 1


def test_one_row_in_many_is_found_by_halving(tmp_path):
    """The row to blame is found in as many jobs as it takes to halve, and refutes."""
    given, shop = put(tmp_path, lambda asked: 0.0 in asked, of_all())
    assert not isinstance(given, Failure)
    assert shop.jobs < 14


# -- counterexamples of before --------------------------------------------------------------------------------------


def test_what_was_found_before_is_judged_first():
    """A stored case that fails refutes, whatever would be drawn; one that holds is counted, and the search goes on."""
    stored = [Stored(3, "below", 77, "g"), Stored(4, "other", 5, "g")]
    found = Asked(lambda x: float(x >= 50)).look(below(), stored=stored)["below"]
    assert found["counterexample"]["of"] == 3
    assert found["counterexample"]["case"] == 77
    found = Asked(lambda x: float(x >= 500)).look(below(), stored=stored)["below"]
    assert found["replayed"] == 1
    assert found["counterexample"]["of"] is None
    assert found["counterexample"]["case"] == 500


def test_a_case_of_another_guard_that_cannot_be_read_is_set_aside():
    """What a property of before has found, and the present one cannot read, is counted and left; under one guard it is an error."""
    old = Stored(3, "below", "seventy", "another")
    found = Asked(lambda _x: 0.0).look(below(), stored=[old])["below"]
    assert (found["set_aside"], found["replayed"], found["verdict"]) == (1, 0, "held")
    with pytest.raises(SubjectError, match=r"property 'below' raised ValueError"):
        Asked(lambda _x: 0.0).look(below(), stored=[Stored(3, "below", "seventy", "g")])


def test_nobody_answers_themselves_out_of_an_old_case():
    """A check that raises on what was answered to a case of another guard is an error: that case is not set aside."""

    @holds("picky", cases=lambda: st.just(1), tries=1, shrinks=1)
    def picky(ask, case):
        return 1 / float(ask(row(case))[0, 0]) > 0

    with pytest.raises(SubjectError, match="property 'picky' raised ZeroDivisionError"):
        Asked(lambda x: float(x == 1)).look(picky, stored=[Stored(3, "picky", 7, "another")])


# -- what goes wrong in guards.py -----------------------------------------------------------------------------------


def guards_with(tmp_path, body, head="cases=lambda: st.integers(0, 9)"):
    """The check of a `guards.py` with one property of this body, and the line on which the body begins."""
    path = tmp_path / "guards.py"
    text = (
        "import numpy as np\nfrom hypothesis import strategies as st\nfrom harness.evals.properties import holds\n\n\n"
    )
    text += f'@holds("odd", {head})\ndef check(ask, case):\n{textwrap.indent(body, "    ")}\n'
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("guards_for_a_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.check


@pytest.mark.parametrize(
    ("body", "line", "message"),
    [
        ("raise KeyError('on purpose')", 8, "raised KeyError: 'on purpose'"),
        ("assert case < 5\nreturn True", 8, "raised AssertionError"),
        ("return None", 6, "it says None of a case"),
        ("return ''", 6, "it says '' of a case"),
        ("return 1", 6, "it says 1 of a case"),
        ("return np.array([True])", 6, "it says array"),
        ("while True:\n    pass", 8, "did not end within"),
        ("try:\n    while True:\n        pass\nexcept Exception:\n    return True", 9, "did not end within"),
        (
            "for step in range(99):\n    ask({'x': np.full(1, case, np.float32)})\nreturn True",
            9,
            "more than 32 questions",
        ),
        ("return ask({'x': [case]}) is None", 8, "must be a numpy array"),
        ("return ask({'x': np.full(1, np.nan)}) is None", 8, "NaN"),
        ("return ask.job('x', {'x': np.ones(1)}, 3)", 8, "raised TypeError"),
    ],
)
def test_a_check_that_is_none_is_one_error_with_its_line(body, line, message, tmp_path, monkeypatch):
    """A check that raises, says nothing, or never ends is an error of guards.py, at its line, and no counterexample."""
    monkeypatch.setattr("harness.evals.questions.SECONDS", 1.0)
    check = guards_with(tmp_path, body)
    with pytest.raises(SubjectError, match="property 'odd'") as caught:
        Asked(lambda _x: 0.0).look(check)
    assert message in caught.value.message
    assert caught.value.where in (f"guards.py:{line}", f"guards.py:{line + 1}")


def test_of_nothing_no_property_holds():
    """One that never asks, and one that reads nothing of the answers, are errors: anything would have them."""

    @holds("silent", cases=lambda: st.integers(0, 9))
    def silent(_ask, _case):
        return True

    with pytest.raises(SubjectError, match="it asked nothing about any case"):
        Asked(lambda x: x).look(silent)
    less = {"cases": lambda: st.integers(0, 9), "read": lambda answers: answers[:, 1:]}
    for made in (bounded("b", 0, 1, **less)(showing()), monotone("m", **less)(lambda case: (row(case), row(case)))):
        with pytest.raises(SubjectError, match=r"read\(\) takes nothing"):
            Asked(lambda x: x).look(made)


def test_words_that_nothing_can_carry_refute_all_the_same():
    """A check may quote what a candidate answered: letters that are none do not keep a counterexample out of the log."""

    @holds("quoting", cases=lambda: st.integers(0, 9))
    def quoting(ask, case):
        return f"it says \udcff to {ask(row(case)).shape}"

    found = Asked(lambda x: x).look(quoting)["quoting"]
    assert found["verdict"] == "refuted"
    assert canonical_bytes(found)
    assert "\\udcff" in found["counterexample"]["wrong"]


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ("lambda: st.nothing()", "raised"),
        ("lambda: st.integers(0, 9).map(lambda each: each // 0)", "raised ZeroDivisionError"),
        ("lambda: 7", "raised InvalidArgument"),
        ("lambda: st.builds(object)", "cannot be kept"),
        ("lambda: st.just(chr(0xd800))", "cannot be kept"),
        ("lambda: st.just(np.zeros(70_000))", "are kept"),
    ],
)
def test_cases_that_are_none_are_one_error(cases, message, tmp_path):
    """A strategy that gives nothing, raises, or gives what cannot be kept is an error of guards.py."""
    check = guards_with(tmp_path, "return True", head=f"cases={cases}")
    with pytest.raises(SubjectError, match="property 'odd'") as caught:
        Asked(lambda _x: 0.0).look(check)
    assert message in caught.value.message
    assert caught.value.where.startswith("guards.py:")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("cases=7", "cases is no function"),
        ("cases=lambda a, b: st.none()", "cases is no function"),
        ("cases=lambda: st.none(), tries=0", "tries is 0"),
        ("cases=lambda: st.none(), tries=True", "tries is True"),
        ("cases=lambda: st.none(), shrinks=10**6", "shrinks is 1000000"),
    ],
)
def test_a_property_that_cannot_be_searched_is_refused_where_it_stands(head, message, tmp_path):
    """A budget or cases that are none are refused when guards.py is loaded."""
    with pytest.raises(SubjectError, match=message):
        guards_with(tmp_path, "return True", head=head)


def test_a_function_is_one_property():
    """A second decorator on one function would hide the first: it is refused."""
    with pytest.raises(SubjectError, match="another's already"):
        bounded("more", 0, 1, cases=st.none)(below())


def test_names_are_used_once(digits, tmp_path):
    """A property has a name of its own among the evals, and its population is one that there is."""
    made = rigs.vary(digits, tmp_path / "subject")
    guards = made / "guards.py"
    whole = guards.read_text() + PROPERTIES
    from harness.evals import load_guards

    guards.write_text(whole.replace('@bounded("sane"', '@bounded("accuracy"'))
    with pytest.raises(SubjectError, match=r"the name 'accuracy' is used twice, first at guards\.py"):
        load_guards(guards)
    guards.write_text(
        whole.replace('@bounded("sane", ', '@bounded("sane", of="others", low=-1, high=1, cases=bright)#')
    )
    guards.write_text(guards.read_text().replace("#-2000, 2000, cases=bright, tries=30)", ""))
    with pytest.raises(SubjectError, match=r"'sane' is of 'others'"):
        load_guards(guards).load()


def test_collect_finds_properties():
    """Properties are found beside views and evaluations."""
    from harness.evals import evaluation, view

    module = type(sys)("guards")
    module.load = lambda: Data(train={}, development=ITEMS["items"], vault=ITEMS["items"], output=(1,))
    module.a, module.b = (
        view("plain")(lambda _raw, _rng: {}),
        evaluation("e", kind="capability", views=("plain",))(id_of),
    )
    module.c = below()
    assert list(collect(module).properties) == ["below"]


def id_of(labels, _answers):
    """Nothing in particular."""
    return labels


# -- the ready-made ones --------------------------------------------------------------------------------------------


def pairs(name, cases=lambda: st.integers(0, 9)):
    """Of each ready-made property: its function, a candidate that has it, and one that has not."""
    return {
        "invariance": (
            invariance(name, cases=cases)(lambda case: (row(case), row(-case))), lambda x: x * x, lambda x: x),
        "read": (
            invariance(name, cases=cases, read=lambda a: a > 3)(lambda case: (row(case), row(case + 0.5))),
            lambda x: float(x >= 0), lambda x: x),
        "equivariance": (
            equivariance(name, cases=cases)(lambda case: (row(case), row(-case), lambda answers: -answers)),
            lambda x: x**3, lambda x: x**3 + 1),
        "monotone": (
            monotone(name, cases=cases)(lambda case: (row(case), row(case + 1))), lambda x: x // 3, lambda x: -(x // 3)),
        "falling": (
            monotone(name, cases=cases, direction="falls", slack=0.1)(lambda case: (row(case), row(case + 1))),
            lambda x: 0.05 * x, lambda x: x),
        "bounded": (bounded(name, 0, 1, cases=cases)(showing()), lambda x: x / 9, lambda x: x / 8),
        "finite": (finite(name, cases=cases)(showing()), lambda x: x, lambda x: None if x > 7 else x),
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(pairs("p")))
def test_a_ready_made_property_holds_of_what_has_it_and_of_nothing_else(kind):
    """Each kind is held where it should be, and refuted where it should not, with words that say how."""
    function, has, lacks = pairs("p")[kind]
    assert Asked(has).look(function)["p"]["verdict"] == "held"
    found = Asked(lacks).look(function)["p"]
    assert found["verdict"] == "refuted"
    assert len(found["counterexample"]["wrong"]) > 5


def test_a_row_that_is_answered_otherwise_alone_is_found():
    """Batch and single are two jobs; where they disagree, the property is refuted."""
    check = batch_single("alone", cases=lambda: st.integers(0, 9))(showing())
    for alone, verdict in ((0.0, "held"), (1.0, "refuted")):
        asked = Asked(lambda x: x)
        put = asked._put

        def answering(job, x, put=put, asked=asked, alone=alone):
            asked.answer = lambda x: x if job == PREDICT else x + alone * (x > 4)
            put(job, x)

        asked._put = answering
        assert asked.look(check)["alone"]["verdict"] == verdict


@pytest.mark.parametrize("shown", [lambda _case: row(1), lambda _case: (row(1), row(2), 3), lambda _case: (row(1), {})])
def test_what_is_no_pair_is_refused(shown):
    """A function of a ready-made property that gives other than it should is an error with its place."""
    with pytest.raises(SubjectError, match=r"property 'p'"):
        Asked(lambda x: x).look(equivariance("p", cases=lambda: st.integers(0, 9))(shown))


def test_a_direction_is_up_or_down():
    """Another direction is refused."""
    with pytest.raises(SubjectError, match="'rises' or 'falls'"):
        monotone("p", cases=st.none, direction="sideways")


# -- cases as JSON --------------------------------------------------------------------------------------------------

plain = arrays.scalar_dtypes().filter(lambda each: each.kind in "biuf" and each.itemsize <= 8)
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | plain.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_side=3)))
    | plain.flatmap(arrays.from_dtype)
)  # fmt: skip
keys = st.text() | st.integers() | st.booleans() | st.binary()
cases = st.recursive(
    leaves,
    lambda one: (
        st.lists(one, max_size=3) | st.lists(one, max_size=3).map(tuple) | st.dictionaries(keys, one, max_size=3)
    ),
)


def same(one, two):
    """Whether two cases are the same in type and in every bit, NaN and the sign of zero too."""
    if type(one) is not type(two):
        return False
    if isinstance(one, (np.ndarray, np.generic)):
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return same(list(one), list(two)) and all(same(one[key], two[key]) for key in one)
    return repr(one) == repr(two)


@given(cases)
def test_a_case_comes_back_as_it_was(case):
    """Whatever is kept comes back from JSON with its types, dtypes, shapes and bits, and has words of bounded length."""
    kept = encode(case)
    assert same(decode(json.loads(json.dumps(kept))), case)
    assert encode(decode(kept)) == kept
    assert len(words(case)) <= 240


@pytest.mark.parametrize(
    "bad", [{}, {"what": 1}, {"array": {}}, {"int": "x"}, {"float": None}, {"dict": [1]}, {"a": 1, "b": 2}]
)
def test_other_json_is_no_case(bad):
    """JSON that `encode` does not write is refused as such."""
    with pytest.raises(SubjectError, match="malformed"):
        decode(bad)
