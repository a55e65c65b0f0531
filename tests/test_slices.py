"""Facts about slices of an eval: each is an eval of its own, and a gate on all of them is one on the worst."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rigs
from rigs import generation, knobs
from safetensors.numpy import save_file
from typer.testing import CliRunner

from harness.auditing import verify_run
from harness.cli import app
from harness.config import parse_config
from harness.errors import ConfigError, StatisticsError, SubjectError
from harness.evals import load_guards
from harness.evaluator import Evaluator
from harness.folder import RunFolder
from harness.gates import compile_gates
from harness.guarding import guard_on_disk, propose_guard
from harness.keys import VaultKey
from harness.operating import power_of
from harness.passphrase import PassphraseSource
from harness.replay import replay_run
from harness.rescoring import rescore
from harness.review.site import write_pages
from harness.shuffled import order_of_rows

pytestmark = pytest.mark.usefixtures("quick_disk")
ROOT = Path(__file__).parent.parent
SHUFFLE = "ab" * 32
EVAL = '@evaluation("smudges", kind="robustness", views=("smudged",))'
SLICED = (
    EVAL,
    EVAL.replace("))", '), slices={"low": lambda labels: labels < 5, "high": lambda labels: labels >= 5})', 1),
)
GATE = "{eval: smudges, kind: parent, margin: 0.08}"
GATES = (GATE, f"{GATE}\n  - {{eval: 'smudges[*]', kind: parent, margin: 0.15}}")


def sliced(digits, place, *changes):
    """Copy the digits with slices of one eval and a gate on all of them; changes are made in lockgate.yaml."""
    subject = rigs.vary(digits, place, SLICED, name="guards.py")
    text = (subject / "lockgate.yaml").read_text()
    for old, new in (GATES, *changes):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (subject / "lockgate.yaml").write_text(text)
    return subject


@pytest.fixture
def subject(digits, tmp_path):
    """Give the digits with two slices of one eval, both gated."""
    return sliced(digits, tmp_path / "subject")


def test_a_slice_is_the_same_eval_on_some_of_its_items(subject):
    """`name[slice]` has the scores of `name`, on the items of the slice to which `name` applies."""
    suite = load_guards(subject / "guards.py")
    assert list(suite.evaluations) == ["accuracy", "parity", "smudges", "smudges[low]", "smudges[high]"]
    labels, rng = np.arange(20) % 10, np.random.default_rng(0)
    answers = {"smudged": rng.normal(size=(20, 10)).astype(np.float32)}
    whole, low, high = (suite.evaluations[f"smudges{part}"].score(labels, answers) for part in ("", "[low]", "[high]"))
    assert low.applies.tolist() == (labels < 5).tolist()
    assert high.applies.tolist() == (labels >= 5).tolist()
    assert whole.values[labels < 5].tolist() == low.values.tolist()
    assert whole.values[labels >= 5].tolist() == high.values.tolist()


def test_a_slice_lies_within_what_its_eval_applies_to(digits, tmp_path):
    """A slice of an eval with `applies` marks the items that both mark."""
    changed = (
        "applies=lambda labels: np.isin(labels, RARE)",
        "applies=lambda labels: np.isin(labels, RARE), slices={'small': lambda labels: labels < 8}",
    )
    suite = load_guards(rigs.vary(digits, tmp_path / "subject", changed, name="guards.py") / "guards.py")
    assert suite.evaluations["parity[small]"].mask(np.arange(10)).nonzero()[0].tolist() == [7]


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ("{}", "has slices, and none is named"),
        ("{'a b': lambda labels: labels < 5}", "'a b' is no name"),
        ("{'*': lambda labels: labels < 5}", "'\\*' is no name"),
        ("{'low': 5}", "no functions of the labels"),
        ("{'low': lambda labels: labels}", "slice.. gave int64"),
        ("{'low': lambda labels: labels[0] < 5}", "slice.. gave bool \\(\\)"),
        ("{'low': lambda labels: 1 / 0}", "slice.. raised ZeroDivisionError"),
        ("{'none': lambda labels: labels > 9}", r"'smudges\[none\]' applies to no development item"),
        ("{'late': lambda labels: (labels < 5) & (len(labels) == 500)}", "applies to no held-out item"),
    ],
)
def test_a_slice_that_is_none_is_refused(digits, tmp_path, slices, message):
    """No slice, a name that no gate could write, a mask that is none, and a slice without items: each has its error."""
    changed = (EVAL, EVAL.replace("))", f"), slices={slices})", 1))
    with pytest.raises(SubjectError, match=message) as caught:
        Evaluator(rigs.vary(digits, tmp_path / "subject", changed, name="guards.py"))
    assert caught.value.where.startswith("guards.py:")


def test_a_gate_on_all_slices_is_one_on_each(subject):
    """What a run is guarded by, and what its power is, has one gate for each slice, with the margin of them all."""
    gates = [(gate.eval, gate.margin) for gate in guard_on_disk(subject).config.gates if "smudges" in gate.eval]
    assert gates == [("smudges", 0.08), ("smudges[low]", 0.15), ("smudges[high]", 0.15)]
    rows = {row.gate: row for row in power_of(subject).table.rows}
    assert rows["smudges[low]/parent"].cap < rows["smudges/parent"].cap
    assert rows["smudges[low]/parent"].discordance == rows["smudges/parent"].discordance == 0.2


def test_the_power_of_each_slice_is_printed_under_its_name(subject):
    """A name in brackets is not taken for a colour on its way to the terminal."""
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["gates", "power", str(subject)])
    assert "smudges[low]/parent" in shown.output


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("{eval: 'accuracy[*]', kind: parent, margin: 0.1}", "the eval 'accuracy' has no slices"),
        ("{eval: 'clarity[*]', kind: parent, margin: 0.1}", "no eval is called 'clarity'"),
        ("{eval: 'smudges[low]', kind: parent, margin: 0.1}", r"two gates are called smudges\[low\]/parent"),
    ],
)
def test_a_gate_on_slices_that_are_not_there_is_refused(digits, tmp_path, gate, message):
    """An eval without slices, one that is none, and a gate asked for twice are told before anything runs."""
    subject = sliced(digits, tmp_path / "subject", ("ledger:", f"  - {gate}\nledger:"))
    for load in (power_of, guard_on_disk):
        with pytest.raises(ConfigError, match=message):
            load(subject)


@pytest.mark.parametrize("name", ["smudges[]", "smudges[*", "smudges[a][b]", "[low]", "smudges[**]", "smudges [low]"])
def test_a_name_that_is_none_does_not_parse(digits, name):
    """A gate names an eval, one slice of it, or all of them, and nothing else."""
    text = (digits / "lockgate.yaml").read_text().replace("eval: smudges", f"eval: '{name}'")
    with pytest.raises(ConfigError, match="pattern"):
        parse_config(text)


def test_only_the_objective_improves(digits):
    """A gate of kind improve on all slices is refused: one eval is what the search is for."""
    text = (
        (digits / "lockgate.yaml")
        .read_text()
        .replace("{eval: accuracy, kind: improve}", "{eval: 'accuracy[*]', kind: improve}")
    )
    with pytest.raises(ConfigError, match="no gate of kind improve for the objective"):
        parse_config(text)


def test_a_name_for_all_slices_is_never_tested_as_such():
    """Where nobody has put the slices in its place, a gate on all of them is refused and not passed over."""
    with pytest.raises(StatisticsError, match="no eval is called"):
        compile_gates([{"eval": "a[*]", "kind": "parent", "margin": 0.1}], {"a": (0, 1), "a[low]": (0, 1)})


def test_an_alignment_eval_needs_a_gate_on_each_slice(digits, tmp_path):
    """What must not regress in a group must be tested there: the remedy is the gate on all of them."""
    applies = "applies=lambda labels: np.isin(labels, RARE)"
    changed = (applies, f"{applies}, slices={{'seven': lambda labels: labels == 7}}")
    subject = rigs.vary(digits, tmp_path / "subject", changed, name="guards.py")
    with pytest.raises(ConfigError, match=r"'parity\[seven\]' has no gate") as caught:
        power_of(subject)
    assert "{eval: 'parity[*]', kind: parent" in caught.value.remedy


def test_the_worst_group_decides(subject, tmp_path):
    """A candidate that is better on the whole and worse on one slice passes the whole eval and fails that slice."""
    evaluator, ids = Evaluator(subject), list(range(2000))
    labels = evaluator._data.vault.take(ids).labels
    chance = np.random.default_rng(3).random(len(ids))

    def answered(name, low, high):
        guess = np.where(chance < np.where(labels < 5, low, high), labels, (labels + 1) % 10)
        rows = np.concatenate([np.eye(10, dtype=np.float32)[guess]] * len(evaluator._suite.views))
        order = order_of_rows(SHUFFLE, len(rows))
        save_file({"answers": np.ascontiguousarray(rows[order])}, tmp_path / name)
        return str(tmp_path / name)

    before, after = answered("before", 0.5, 0.8), answered("after", 0.95, 0.5)
    gates = [
        {"eval": name, "kind": "parent", "theta": -0.1, "bounds": [0.0, 1.0], "cap": None}
        for name in ("smudges", "smudges[low]", "smudges[high]")
    ]
    told = {"op": "test", "ids": ids, "shuffle": SHUFFLE, "alpha": 0.01, "cap": 2000, "batch": 50}
    answers = {"candidate": after, "incumbent": before, "baseline": before}

    def verdicts(gates):
        return [g["verdict"] for g in evaluator.operate({**told, **answers, "gates": gates})["result"]["gates"]]

    assert verdicts(gates[:2]) == ["pass", "pass"]
    assert verdicts(gates)[2] == "fail"


def test_a_run_over_slices_verifies_replays_and_is_scored_again(rig, subject, tmp_path):
    """The log has one gate for each slice, and every reader of it comes to the same."""
    out = tmp_path / "run"
    run = rig.open(out, subject)
    try:
        generation(run, 1, knobs(steps=150))
        measured = run.supervisor.state.proposals[1].measured
        assert {gate.name for gate in measured.gates} >= {
            "smudges/parent",
            "smudges[low]/parent",
            "smudges[high]/parent",
        }
        assert set(run.supervisor.state.genesis.development) >= {"smudges[low]", "smudges[high]"}
    finally:
        run.close()
    rig.open(out, subject).close()  # what stands on the disk is what the log names
    folder = RunFolder(out)
    assert verify_run(folder, folder.public_key)["verdict"].startswith("valid")
    apart = [sys.executable, ROOT / "audits" / "verify.py", out, "--key", folder.public_key]
    assert subprocess.run(apart, capture_output=True, check=False).returncode == 0
    assert replay_run(folder)["decisions"] == 1
    key = VaultKey.load(folder.vault_key)
    assert rescore(folder, subject, key) == {"measurements": 1, "other_evals": 0}
    same = CliRunner().invoke(app, ["guard", "compare", str(out), str(subject)])
    assert (same.exit_code, same.output.splitlines()[0]) == (0, "the same")
    fewer = rigs.vary(subject, tmp_path / "fewer", (', "high": lambda labels: labels >= 5', ""), name="guards.py")
    weaker = CliRunner().invoke(app, ["guard", "compare", str(out), str(fewer)])
    assert weaker.exit_code == 3
    assert "WEAKER  lockgate.yaml: gate smudges[high] (parent): is gone" in weaker.output
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["show", str(out), "1"])
    assert "smudges[low]/parent" in shown.output
    write_pages(folder, tmp_path / "pages", key=folder.public_key)
    assert "smudges[low]" in "".join(page.read_text() for page in (tmp_path / "pages").rglob("*.html"))


def test_a_tighter_gate_on_all_slices_is_in_force_at_the_next_start(rig, subject, tmp_path):
    """Its proposal compares slice with slice: nobody is asked, and each slice is tested at the new margin."""
    out = tmp_path / "run"
    run = rig.open(out, subject)
    generation(run, 1, knobs(steps=150))
    run.close()
    tighter = rigs.vary(subject, tmp_path / "tighter", ("margin: 0.15}\nledger", "margin: 0.14}\nledger"))
    told = propose_guard(
        RunFolder(out), tighter, PassphraseSource(None), by="operator", reason="", vault_key=None, seconds=20.0
    )
    assert (told["verdict"], told["rejected"]) == ("at-least-as-strict", None)
    assert [point["where"] for point in told["comparison"]["points"]] == [
        "lockgate.yaml: gate smudges[high] (parent)",
        "lockgate.yaml: gate smudges[low] (parent)",
    ]
    run = rig.open(out, tighter)
    try:
        margins = {gate.eval: gate.margin for gate in run.supervisor.state.guard.config.gates if "[" in gate.eval}
        assert margins == {"smudges[low]": 0.14, "smudges[high]": 0.14}
        assert {gate.name: gate.theta for gate in run.rooms.gates}["smudges[low]/parent"] == -0.14
    finally:
        run.close()
    assert replay_run(RunFolder(out))["guards"] == 1
