"""Facts about guards compared: what lowers a bar is never called as strict, and nothing that differs is overlooked."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import people
import pytest
import rigs
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from trails import sha
from typer.testing import CliRunner

from harness.artifacts import BlobStore
from harness.canonical import digest_json, parse_json
from harness.cli import app
from harness.config import Config, PolicyRef, load_config, parse_config
from harness.folder import guard_files
from harness.gates import compile_gates
from harness.guard_change import APPROVAL, ELSEWHERE, LOSSES, ORDERED, SEARCH, Guard, compare_guards, points
from harness.guarding import guard_on_disk
from harness.policy import load_subject_policies
from harness.statistics import run_test
from harness.strictness import worst

TEXT = """\
apiVersion: lockgate/v1
kind: Subject
name: paper
mutable: [model.py]
objective: accuracy
gates:
  - {eval: accuracy, kind: improve}
  - {eval: parity, kind: parent, margin: 0.1}
  - {eval: parity, kind: floor, threshold: 0.5}
  - {eval: jumps, kind: ceiling, threshold: 0.5}
  - {eval: harm, kind: rare, rate: 0.1}
ledger: {delta: 0.04, cap: 500}
proposers: {scripted: 2}
development: {min_gain: 0.1, max_loss: {parity: 0.2}}
budgets: {promotions: 7, memory_mb: 2000}
efficiency: {latency_pairs: 8}
workers: {count: 2}
approvers: {require: 2, hours: 10}
"""
POLICIES = load_subject_policies(["baseline"], None)
PARTS = {
    "files": {"lockgate.yaml": sha("yaml"), "guards.py": sha("guards"), "approvers": sha("approvers")},
    "policies": POLICIES.digest,
    "harness": "0.1.0",
    "code": sha("code"),
    "packages": {"numpy": "2.0.0", "torch": "2.13.0"},
}
PEOPLE = tuple(person.approver for person in (people.ANN, people.BEN, people.CAT))


def guard(text: str = TEXT, **changes) -> Guard:
    """Make a guard of a configuration, and of parts that differ from `PARTS` so."""
    config = parse_config(text)
    listed = changes.pop("approvers", PEOPLE if config.approvers else ())
    parts = {**PARTS, **changes}
    if text != TEXT:
        parts = {**parts, "files": {**parts["files"], "lockgate.yaml": sha(text)}}
    return Guard.of(config, POLICIES, listed, parts)


def verdict(old: Guard, new: Guard) -> str:
    """Compare all but the policies."""
    return worst(point.verdict for point in points(old, new))


STRICTER = {
    "less error": ("delta: 0.04", "delta: 0.03"),
    "a smaller margin": ("margin: 0.1", "margin: 0.05"),
    "a higher floor": ("kind: floor, threshold: 0.5", "kind: floor, threshold: 0.6"),
    "a lower ceiling": ("kind: ceiling, threshold: 0.5", "kind: ceiling, threshold: 0.4"),
    "a smaller rate": ("rate: 0.1", "rate: 0.05"),
    "one ceiling more": ("gates:\n", "gates:\n  - {eval: parity, kind: ceiling, threshold: 0.9}\n"),
    "one gate more": ("gates:\n", "gates:\n  - {eval: accuracy, kind: anchor, margin: 0.1}\n"),
    "a higher bar before held-out items": ("min_gain: 0.1", "min_gain: 0.2"),
    "less that another eval may lose before them": ("{parity: 0.2}", "{parity: 0.1}"),
    "another eval that may lose no more than so much": ("{parity: 0.2}", "{parity: 0.2, jumps: 0.3}"),
    "fewer promotions": ("promotions: 7", "promotions: 6"),
    "less memory": ("memory_mb: 2000", "memory_mb: 1000"),
    "more who must agree": ("require: 2", "require: 3"),
    "less time to answer": ("hours: 10", "hours: 5"),
    "nobody who releases": ("approvers: {require: 2, hours: 10}\n", ""),
}


@pytest.mark.parametrize("name", STRICTER)
def test_a_bar_that_is_raised_is_as_strict_and_the_way_back_is_weaker(name):
    """One edit that raises a bar is at least as strict; undone, it is weaker."""
    before, after = STRICTER[name]
    assert before in TEXT
    old, new = guard(), guard(TEXT.replace(before, after))
    assert (verdict(old, new), verdict(new, old)) == ("at-least-as-strict", "weaker")
    assert len(list(points(old, new))) == 1 or name == "nobody who releases"


def test_the_first_bar_for_other_evals_on_development_items():
    """A configuration that stops nothing for other evals' sake is written without the field, and is less strict."""
    without = guard(TEXT.replace(", max_loss: {parity: 0.2}", ""))
    assert "max_loss" not in without.config.json_value()["development"]
    assert (verdict(without, guard()), verdict(guard(), without)) == ("at-least-as-strict", "weaker")
    (point,) = points(without, guard())
    assert (point.where, point.what) == ("lockgate.yaml: development.max_loss.parity", "null → 0.2")


def test_files_that_proposals_may_change():
    """One file more that proposals may change is weaker, one less is as strict."""
    old, new = guard(), guard(TEXT.replace("[model.py]", "[model.py, loss.py]"))
    assert (verdict(old, new), verdict(new, old)) == ("weaker", "at-least-as-strict")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("cap: 500", "cap: 400"),
        ("cap: 500", "cap: 500, batch: 10"),
        ("name: paper", "name: other"),
        ("{scripted: 2}", "{evolution: 2}"),
        ("count: 2", "count: 2, threads: 2"),
        ("count: 2", "count: 2, isolation: bwrap"),
        ("margin: 0.1}", "margin: 0.1, cap: 100}"),
        ("workers:", "packages: [scipy]\nworkers:"),
        ("{scripted: 2}", "{scripted: 2}\nproposer_settings: {scripted: {a: null}}"),
        ("workers:", "vault: {dir: elsewhere}\nworkers:"),
    ],
)
def test_what_no_rule_compares_is_unknown(before, after):
    """A value without a stricter direction is unknown, either way."""
    assert before in TEXT
    old, new = guard(), guard(TEXT.replace(before, after))
    assert (verdict(old, new), verdict(new, old)) == ("unknown", "unknown")


def test_a_new_gate_with_a_cap_of_its_own_is_unknown():
    """A cap moves the batches at which the other gates are looked at, so a gate more with one is not shown as strict."""
    new = guard(TEXT.replace("gates:\n", "gates:\n  - {eval: harm, kind: floor, threshold: 0.1, cap: 12}\n"))
    assert verdict(guard(), new) == "unknown"


def test_a_smaller_margin_of_a_gate_with_a_cap_is_unknown():
    """It runs for longer, up to its cap, and so may move the batches at which another gate is looked at, which passes."""
    old = TEXT.replace("margin: 0.1}", "margin: 0.2, cap: 70}")
    assert verdict(guard(old), guard(old.replace("margin: 0.2", "margin: 0.12"))) == "unknown"
    assert verdict(guard(old), guard(old.replace("margin: 0.2", "margin: 0.3"))) == "weaker"
    rng, verdicts = np.random.default_rng(342), []
    x = {
        "accuracy/improve": rng.choice([-1.0, 0.0, 1.0], p=[0.15, 0.5, 0.35], size=300),
        "parity/parent": np.zeros(300),
    }
    for margin in (0.2, 0.12):
        text = old.replace("margin: 0.2", f"margin: {margin}")
        rules = [gate.json_value() for gate in parse_config(text).gates[:2]]
        gates = compile_gates(rules, {"accuracy": (0.0, 1.0), "parity": (0.0, 1.0)})
        verdicts.append(run_test(gates, lambda gate, a, b: x[gate][a:b], 0.02, 300, 50).passed)
    assert verdicts == [False, True]


def test_how_much_is_searched_lowers_no_bar():
    """More generations, more workers or slots by a bandit are as strict, and still told."""
    new = guard(TEXT.replace("count: 2", "count: 4") + "generations: 9\nallotment: bandit\n")
    assert {point.where for point in points(guard(), new)} == {f"lockgate.yaml: {path}" for path in SEARCH}
    assert verdict(guard(), new) == verdict(new, guard()) == "at-least-as-strict"


def test_the_worst_point_decides():
    """Ten raised bars do not pay for one that is lowered, and unknown is not as strict."""
    raised = TEXT.replace("delta: 0.04", "delta: 0.01").replace("promotions: 7", "promotions: 1")
    assert verdict(guard(), guard(raised.replace("margin: 0.1", "margin: 0.11"))) == "weaker"
    assert verdict(guard(), guard(raised.replace("cap: 500", "cap: 501"))) == "unknown"


def test_people_who_are_new_gone_or_another():
    """A new key may release what none could: weaker. One that is gone may have refused: unknown, as another role is."""
    without = guard(approvers=PEOPLE[:2])
    assert (verdict(without, guard()), verdict(guard(), without)) == ("weaker", "unknown")
    moved = guard(approvers=(*PEOPLE[:2], PEOPLE[2].model_copy(update={"role": "other"})))
    assert verdict(guard(), moved) == verdict(moved, guard()) == "unknown"


def test_files_packages_and_the_harness_are_unknown():
    """Another guards.py, package or harness, and one that is gone, are unknown, and named."""
    files = PARTS["files"]
    for changes, where in (
        ({"files": {**files, "guards.py": sha("other")}}, "guards.py"),
        ({"files": {**files, "lib/tools.py": sha("new")}}, "lib/tools.py"),
        ({"packages": {"numpy": "2.0.1", "torch": "2.13.0"}}, "package numpy"),
        ({"packages": {"numpy": "2.0.0"}}, "package torch"),
        ({"code": sha("other")}, "the harness"),
        ({"harness": "0.2.0"}, "harness"),
    ):
        found = list(points(guard(), guard(**changes)))
        assert [(point.where, point.verdict) for point in found] == [(where, "unknown")]


def test_the_layout_of_what_is_read_lowers_no_bar():
    """A comment in lockgate.yaml or in the list of approvers, which were read, is told as one, and is as strict."""
    assert verdict(guard(), guard(TEXT + "# a comment\n")) == "at-least-as-strict"
    (point,) = points(guard(), guard(files={**PARTS["files"], "approvers": sha("a comment")}))
    assert (point.verdict, point.what.partition(",")[0]) == ("at-least-as-strict", "another layout")


def test_a_list_of_approvers_that_becomes_code_is_not_overlooked():
    """A file that was read as a list under one guard, and is an ordinary file under the other, is unknown."""
    moved = TEXT.replace("hours: 10", "hours: 10, file: people")
    files = {**PARTS["files"], "people": sha("approvers"), "approvers": sha("other")}
    unknown = [point.where for point in points(guard(), guard(moved, files=files)) if point.verdict == "unknown"]
    assert unknown == ["approvers"]
    code = TEXT.replace("hours: 10", "hours: 10, file: people.py")
    old, new = ({**PARTS["files"], "people.py": sha(each)} for each in ("one", "two"))
    assert verdict(guard(code, files=old), guard(code, files=new)) == "unknown"


def test_a_run_that_kept_only_a_digest_is_unknown():
    """Where the parts of the guard were not kept, another digest is unknown, and the same digest is the same."""
    kept = replace(guard(), parts=None)
    assert verdict(kept, guard(code=sha("other"))) == "unknown"
    assert list(points(kept, guard())) == []


def _leaves(value, path=()):
    """Each value of a configuration, by path; a list is one value."""
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from _leaves(each, (*path, name))
    else:
        yield path, value


def _with(config: Config, path: tuple[str, ...], value) -> Config | None:
    """Change one value; None where that is no configuration."""
    document = config.json_value()
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    try:
        return Config.parse(document)
    except ValidationError:
        return None


VALUES = (
    *(1, 3, 12, 900, 0.01, 0.3, 0.9, "bwrap", "cpu", "fresh", "other", ["lib.py"], ["lockdown"]),
    {"other": 1},
    {"scripted": {}},
    [{"use": "inspect", "name": "sums", "kind": "capability", "task": "tasks.py@sums"}],
)
PATHS = {
    path: others
    for path, value in _leaves(parse_config(TEXT).json_value())
    if path not in {("policies",), ("approvers", "file")}  # compared by the rules and the people that they lead to
    and (others := [each for other in VALUES if other != value and (each := _with(parse_config(TEXT), path, other))])
}


def test_every_value_of_a_configuration_is_tried():
    """All values but the few that have one form only are varied by the test below."""
    tried = {".".join(path) for path in PATHS}
    assert {".".join(path) for path, _ in _leaves(parse_config(TEXT).json_value())} - tried == {
        *("apiVersion", "kind", "objective", "gates", "witnesses"),
        *("policies", "approvers.file"),
    }


@given(st.sampled_from(sorted(PATHS)).flatmap(lambda path: st.tuples(st.just(path), st.sampled_from(PATHS[path]))))
def test_no_value_of_a_configuration_is_overlooked(varied):
    """Whatever value of a configuration differs makes a point; it is unknown where no rule is declared for it."""
    path, config = ".".join(varied[0]), varied[1]
    found = list(points(guard(), replace(guard(), config=config)))
    assert found
    declared = {*ORDERED, *SEARCH, *(f"approvers.{field}" for field in APPROVAL)}
    if path not in declared and not path.startswith((*ELSEWHERE, LOSSES)):
        assert worst(point.verdict for point in found) == "unknown"


@pytest.mark.parametrize("change", [("sums, kind", "more, kind"), ("limit: 9", "limit: 8"), ("py@sums", "py@more")])
def test_another_setting_of_a_brought_eval_is_unknown(change):
    """Whatever differs in an eval that lockgate.yaml brings, its own settings among it, is told, and not known."""
    text = TEXT + "evals: [{use: inspect, name: sums, kind: alignment, task: tasks.py@sums, limit: 9}]\n"
    found = list(points(guard(text), guard(text.replace(*change))))
    assert [(point.where, point.verdict) for point in found] == [("lockgate.yaml: evals", "unknown")]
    assert verdict(guard(text), guard(TEXT)) == "unknown"


@given(st.lists(st.sampled_from(sorted(ORDERED)), unique=True, min_size=1), st.sampled_from(sorted(ORDERED)))
def test_raised_bars_do_not_pay_for_a_lowered_one(raised, lowered):
    """Raised bars, however many, are as strict, and weaker undone; one lowered beside them makes the whole weaker."""

    def moved(config, name, *, raises):
        path = tuple(name.split("."))
        value = dict(_leaves(config.json_value()))[path]
        up = (ORDERED[name] == "higher") == raises
        other = value * 2 if up else value / 2
        return _with(config, path, other if isinstance(value, float) else int(other))

    changed = parse_config(TEXT)
    for name in raised:
        changed = moved(changed, name, raises=True)
    new = replace(guard(), config=changed)
    assert (verdict(guard(), new), verdict(new, guard())) == ("at-least-as-strict", "weaker")
    if lowered not in raised:
        assert verdict(guard(), replace(new, config=moved(changed, lowered, raises=False))) == "weaker"


def test_the_policies_are_compared_by_their_rules():
    """A param that loosens a rule makes the guard weaker, with the rule; one that tightens it is proved as strict."""
    tight = load_subject_policies([PolicyRef(pack="baseline", params={"max_lines": 9})], None)
    new = replace(guard(), policies=tight)
    found = compare_guards(guard(), new)
    assert (found.verdict, found.points) == ("at-least-as-strict", [])
    back = compare_guards(new, guard())
    assert back.verdict == "weaker"
    assert [line.policy for line in back.policies.rules if line.verdict == "weaker"] == ["baseline-screen"]


def test_a_run_keeps_what_its_guard_digest_is_of(copy):
    """The guard digest of genesis names a blob: each file and package by which the run is guarded."""
    state, _ = rigs.trail_of(copy)
    parts = parse_json(BlobStore(copy / "blobs").get(state.genesis.guard))
    assert digest_json(parts) == state.genesis.guard
    assert {"guards.py", "lockgate.yaml"} <= parts["files"].keys()
    assert "torch" in parts["packages"]


def test_the_command_compares_a_run_with_its_subject(copy, digits, tmp_path):
    """`lockgate guard compare`: 0 for the same and for as strict, 3 for weaker and for unknown, and each difference told."""
    run = CliRunner()
    same = run.invoke(app, ["guard", "compare", str(copy), str(digits)])
    assert (same.exit_code, same.output.splitlines()[0]) == (0, "the same")
    for number, (name, old, new, code, told) in enumerate(
        (
            ("lockgate.yaml", "margin: 0.08", "margin: 0.05", 0, "ok      lockgate.yaml: gate"),
            ("lockgate.yaml", "margin: 0.08", "margin: 0.8", 3, "WEAKER  lockgate.yaml: gate"),
            ("lockgate.yaml", "[baseline]", "[baseline, lockdown]", 0, "added: lockdown"),
            ("guards.py", "Right or not on 7 and 9", "Right or not on 7 or 9", 3, "unknown guards.py: is another"),
        )
    ):
        subject = rigs.vary(digits, tmp_path / str(number), (old, new), name=name)
        shown = run.invoke(app, ["guard", "compare", str(copy), str(subject)])
        assert shown.exit_code == code, shown.output
        assert told in shown.output
    as_json = run.invoke(app, ["guard", "compare", str(copy), str(subject), "--json"])
    told = json.loads(as_json.output)
    assert told["verdict"] == "unknown"
    assert told["guard"] == guard_on_disk(subject).digest
    assert f"on the disk: guard {told['guard']}" in shown.output


def test_a_lock_file_beside_the_configuration_is_guarded(digits, tmp_path):
    """A lock file of the subject is among the files of its guard."""
    subject = rigs.vary(digits, tmp_path / "subject")
    (subject / "uv.lock").write_text("version = 1\n")
    assert "uv.lock" in guard_files(subject, load_config(subject))
