"""Facts about evals that lockgate.yaml brings: they are the subject's own from then on, or one clear error."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from trails import CONFIG_TEXT

from harness.bringing import bring, distributions
from harness.config import parse_config
from harness.errors import ConfigError, EvaluatorError, LockgateError, SubjectError
from harness.evals import Codec, load_guards
from harness.evaluator import Evaluator

GUARDS = """
import numpy as np
from harness.evals import Codec, Data, Items, evaluation, view

def load():
    rows = np.arange(12.0).reshape(6, 2)
    return Data(train={"x": rows}, development=Items(rows[:3], np.arange(3)), vault=Items(rows[3:], np.arange(3)),
                output=(1,))

@view("plain")
def plain(raw, rng):
    return {"x": np.asarray(raw, dtype=np.float32)}

@evaluation("accuracy", kind="capability", views=("plain",))
def accuracy(labels, answers):
    return (answers["plain"][:, 0] > 0).astype(float)
"""
PACKAGE = """
import numpy as np
from harness.evals import Brought, Inquiry, Items, Population, View


def bring(wanted):
    if wanted.settings.get("raises"):
        raise KeyError("on purpose")
    if wanted.settings.get("nothing"):
        return Brought(())

    def measure(ask, raw, labels):
        return ask({"x": np.asarray(raw, dtype=np.float32)})[:, 0]

    rows = np.arange(100.0, 112.0).reshape(6, 2)
    population = wanted.settings.get("population", wanted.name)
    items = Population(Items(rows[:3], np.arange(3)), Items(rows[3:], np.arange(3)))
    bounds = (0.0, float(wanted.settings.get("most", 1)))
    made = Inquiry(wanted.settings.get("called", wanted.name), wanted.kind, bounds, None, measure, wanted.where, population)
    return Brought((made,) * wanted.settings.get("times", 1), populations={population: items})
"""


@pytest.fixture
def subject(tmp_path, monkeypatch):
    """A subject, and an installed package that brings evals as `gated`."""
    site = tmp_path / "site"
    info = site / "gated-1.2.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gated\nVersion: 1.2.3\n")
    (info / "entry_points.txt").write_text("[lockgate.evals]\ngated = gated_evals:bring\n")
    (info / "RECORD").write_text("gated_evals.py,,\n")
    (site / "gated_evals.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "gated_evals", raising=False)
    place = tmp_path / "subject"
    place.mkdir()
    (place / "guards.py").write_text(GUARDS)
    return place


def suite(subject, *evals: str):
    """The suite of the subject with these lines under `evals`."""
    lines = "".join(f"  - {{{each}}}\n" for each in evals)
    (subject / "lockgate.yaml").write_text(f"{CONFIG_TEXT}evals:\n{lines}" if evals else CONFIG_TEXT)
    return bring(subject, load_guards(subject / "guards.py"))


FIRST = len(CONFIG_TEXT.splitlines()) + 2


def test_what_a_package_brings_is_the_subjects(subject):
    """An eval of an installed package is described, with its population, beside those of guards.py."""
    suite(subject, "use: gated, name: more, kind: robustness")
    told = Evaluator(subject).describe()
    assert {each["name"]: each["kind"] for each in told["evals"]} == {"accuracy": "capability", "more": "robustness"}
    assert (told["development"], told["vault"]) == (6, 6)


def test_without_evals_nothing_is_brought(subject):
    """A configuration that brings nothing leaves the suite as guards.py has it."""
    assert set(suite(subject).evaluations) == {"accuracy"}


WRONG = {
    "an unknown use": ("use: none, name: more, kind: robustness", "no installed package brings evals as 'none'"),
    "a name that is taken": (
        "use: gated, name: accuracy, kind: robustness",
        "'accuracy' is used already, at guards.py",
    ),
    "an exception": ("use: gated, name: more, kind: robustness, raises: true", "KeyError.*on purpose"),
    "bounds that let all pass": ("use: gated, name: more, kind: robustness, most: 'nan'", "bounds .* not finite"),
    "one name twice": ("use: gated, name: more, kind: robustness, times: 2", "returned 'more' twice"),
    "no eval": ("use: gated, name: more, kind: robustness, nothing: true", "returned no evals"),
    "a wrong setting": ("use: inspect, name: more, kind: robustness, task: t@t, tsak: t", "tsak: Extra inputs"),
    "no setting": ("use: inspect, name: more, kind: robustness", "task: Field required"),
    "no codec": ("use: inspect, name: more, kind: robustness, task: t@t", "no Codec"),
    "a kind that there is not": ("use: gated, name: more, kind: other", "'capability'"),
    "no name": ("use: gated, kind: robustness", "name: Field required"),
    "a name that is none": ("use: gated, name: a-b, kind: robustness", "pattern"),
}


SAID = ("an exception", "no eval", "bounds that let all pass", "one name twice")
"""What a package does wrong, of which no remedy is known."""


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_brought_is_told_with_its_line(name, subject):
    """Whatever is wrong with a line under `evals`: one error, with file and line."""
    line, message = WRONG[name]
    with pytest.raises(LockgateError, match=message) as raised:
        suite(subject, "use: gated, name: first, kind: capability", line)
    assert f"lockgate.yaml:{FIRST + 1}" in raised.value.where
    assert raised.value.remedy or name in SAID


def test_two_populations_of_one_name_are_refused(subject):
    """Two evals that bring items under one name are refused when the data are loaded."""
    made = suite(
        subject,
        "use: gated, name: one, kind: capability, population: same",
        "use: gated, name: two, kind: capability, population: same",
    )
    with pytest.raises(SubjectError, match="'same' already"):
        made.load()


def test_a_task_in_a_file_that_is_not_guarded_is_refused(subject):
    """A task's file that the guard does not name is not imported, nor one that imports such a file, nor one elsewhere."""
    (subject / "guards.py").write_text(GUARDS + "\nchat = Codec(lambda c: {}, lambda a: [])\n")
    (subject / "tasks.py").write_text("import helper\n")
    (subject.parent / "out.py").write_text("")
    (subject / "helper.py").write_text("")
    line = "use: inspect, name: more, kind: capability, task: FILE@t"
    suite_of = load_guards(subject / "guards.py", ("guards.py",))
    for file, guarded in (
        ("tasks.py", ("guards.py",)),
        ("tasks.py", ("guards.py", "tasks.py")),
        ("../out.py", None),
        (str(subject.parent / "out.py"), None),
    ):
        (subject / "lockgate.yaml").write_text(f"{CONFIG_TEXT}evals: [{{{line.replace('FILE', file)}}}]\n")
        with pytest.raises(SubjectError, match="not guarded"):
            bring(subject, suite_of, guarded)


def test_packages_that_bring_evals_are_named(subject):
    """The distributions of the entry point, of Inspect, and of the package that holds a task are named; one missing is not."""
    assert subject
    lines = (
        "use: gated, name: a, kind: capability",
        "use: inspect, name: b, kind: capability, task: india_evals.bias.task@bharatbbq",
        "use: inspect, name: c, kind: capability, task: tasks.py@adds",
    )
    text = f"{CONFIG_TEXT}evals: [{', '.join(f'{{{line}}}' for line in lines)}]\n"
    assert distributions(parse_config(text)) == ["gated", "inspect-ai", "inspect-india-evals"]
    with pytest.raises(ConfigError, match="no installed package holds 'nowhere'"):
        distributions(parse_config(text.replace("india_evals.bias", "nowhere")))


@pytest.mark.parametrize("answer", [[], ["a", "b"], "a", [1], None])
def test_a_codec_that_gives_no_text_is_an_error(answer):
    """What `decode` gives must be one text for one answer."""
    with pytest.raises(EvaluatorError):
        Codec(lambda _: {}, lambda _: answer).text(np.zeros((1, 1)))


@pytest.mark.parametrize("rows", [{}, {"x": np.zeros((2, 1))}, {"x": np.array([[np.nan]])}, None])
def test_a_codec_that_gives_no_row_is_an_error(rows):
    """What `encode` gives must be one plain row for one conversation."""
    with pytest.raises(SubjectError):
        Codec(lambda _: rows, lambda _: [""]).row([{"role": "user", "content": "a"}])


def test_two_codecs_are_refused(subject):
    """A subject has one way of text."""
    (subject / "guards.py").write_text(GUARDS + "\na = Codec(load, load)\nb = Codec(load, plain)\n")
    with pytest.raises(SubjectError, match="several Codecs"):
        load_guards(subject / "guards.py")
