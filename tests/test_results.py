"""Facts about `scripts/results.py` and the page that it wrote of the quick start: which kind of eval stopped whom."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import rigs

from harness.artifacts import BlobStore
from harness.evals import load_guards
from harness.keys import Signer

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "examples" / "quickstart"
SCRIPT = ROOT / "scripts" / "results.py"


def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("results_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(*arguments):
    """Run the script as people do."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def rows_of(page):
    """The cells of the page's table, row by row, its heading first."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in (lines[0], *lines[2:])]


def true_of_the_quick_start(page):
    """Require that the page has a row of each kind of eval, each about a candidate that such an eval has stopped."""
    module = script()
    heading, *rows = rows_of(page)
    assert tuple(heading) == module.COLUMNS
    assert tuple(row[0] for row in rows) == module.KINDS
    size = int(re.search(r"The log has (\d+) entries under the root `[0-9a-f]{64}`", page)[1])
    evaluations = load_guards(QUICKSTART / "guards.py").evaluations
    for kind, proposal, better, why, entries, commands in rows:
        number = proposal.partition(",")[0]
        mine, other = map(float, re.search(r"([\d.]+), the incumbent's ([\d.]+) ", better).groups())
        assert better.startswith("better: ") == (mine > other)
        decided, evidence = map(int, re.fullmatch(r"decided (\d+), (?:measured|developed) (\d+)", entries).groups())
        assert 0 < evidence < decided < size
        assert f"lockgate show runs/quickstart {number}`" in commands
        assert f"lockgate audit show runs/quickstart {decided}`" in commands
        code, _, told = why.partition(": ")
        if kind == "property":
            assert code == "property"
        elif kind == "efficiency":
            assert code == "policy"
        else:
            name = re.match(r"not shown: (\w+) is ", told)[1]
            assert evaluations[name].kind == kind
            assert code in {f"gate-{kind}", "gate-objective"}
    assert [row[2].startswith("better") for row in rows[1:]] == [True] * 4
    assert str(Path.home()) not in page
    assert "/tmp" not in page


def test_the_page_of_the_quick_start_names_each_kind_of_eval():
    """The committed page has the script's table: a candidate of each kind, of which guards.py says the same kind."""
    true_of_the_quick_start((QUICKSTART / "RESULTS.md").read_text(encoding="utf-8"))


def test_kinds_that_stopped_nobody_are_named_and_nothing_is_written(finished, tmp_path):
    """A run of the digits stops candidates by alignment alone: the script says which kinds are missing, and ends with 1."""
    done = written(finished, "--out", tmp_path / "page.md")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.search(r"no candidate was stopped by .*: capability, robustness, efficiency, property \(", done.stderr)
    assert not (tmp_path / "page.md").exists()


def test_a_run_that_is_not_there_is_no_page(tmp_path):
    """No run, no page, and one line that says so."""
    done = written(tmp_path, "--out", tmp_path / "page.md")
    assert done.returncode == 1
    assert "no run here" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "page.md").exists()


@pytest.mark.parametrize("kind", ["measured", "decided"])
def test_evidence_that_was_changed_is_no_page(copy, kind):
    """Another blob of evidence, or of a judgement, in place of the logged one: what is written of it would be a lie."""
    state, _ = rigs.trail_of(copy)
    name = {
        "measured": lambda: next(p.measured.evidence for p in state.proposals.values() if p.measured),
        "decided": lambda: next(p.judgement for p in state.proposals.values() if p.judgement),
    }[kind]()
    blob = BlobStore(copy / "blobs").path(name)
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes().replace(b"pass", b"fail"))
    done = written(copy)
    assert done.returncode == 1
    assert name.removeprefix("sha256:")[:12] in done.stderr
    assert done.stdout == ""


def test_another_key_is_no_page(finished, tmp_path):
    """With a reader's own key that is none of the log's, nothing is written."""
    key = tmp_path / "other.pub"
    key.write_text(Signer.from_seed("another", bytes(32)).verifier.vkey + "\n")
    done = written(finished, "--key", key)
    assert done.returncode == 1
    assert "the key given is none of this log's" in done.stderr
    assert done.stdout == ""


def page_of(**parts):
    """What `proposal_page` says of a candidate that nothing stopped, with other parts."""
    return {"reasons": [], "gates": [], "evidence_by_gate": [], "rules": [], **parts}


def rule_that(stage="decide", passed=False, **values):
    """A rule's verdict with what it read."""
    said = {"policy": "p", "rule": "r", "message": "too much"}
    return {"stage": stage, "passed": passed, "values": {k.replace("__", "."): v for k, v in values.items()}, **said}


def test_only_a_rule_that_read_a_cost_is_efficiency():
    """Of the rules that fail, those of the decide stage that read weights, time or memory count, and no others."""
    stops = script().stops
    why = [{"code": "policy", "text": "p/r: too much"}]
    for cost in ("candidate__parameters", "candidate__bytes", "latency__upper", "memory__predict_mb"):
        assert set(stops(page_of(reasons=why, rules=[rule_that(**{cost: 9})]), {})) == {"efficiency"}
        assert stops(page_of(reasons=why, rules=[rule_that(passed=True, **{cost: 9})]), {}) == {}
        assert stops(page_of(reasons=why, rules=[rule_that(passed=None, **{cost: 9})]), {}) == {}
        assert stops(page_of(reasons=why, rules=[rule_that(stage="screen", **{cost: 9})]), {}) == {}
        # A gate has stopped it, and the rules were not asked: a rule's verdict is not why.
        gated = [{"code": "gate-alignment", "text": ""}]
        assert stops(page_of(reasons=gated, rules=[rule_that(**{cost: 9})]), {}) == {}
    assert stops(page_of(reasons=why, rules=[rule_that(budgets__promotions_left=0)]), {}) == {}


def test_a_gate_counts_for_the_kind_of_its_eval():
    """A failed gate stops by the kind of its eval, the objective's by capability; one that is inconclusive by none."""
    stops = script().stops
    kinds = {"accuracy": "capability", "parity": "alignment", "typing": "robustness"}
    for name, gate, code in (
        ("accuracy", "improve", "gate-objective"),
        ("accuracy", "parent", "gate-capability"),
        ("parity", "anchor", "gate-alignment"),
        ("typing", "parent", "gate-robustness"),
    ):
        label = f"{name}/{gate}"
        evidence = [{"name": label, "line": "not shown"}]
        for verdict, wanted in (("fail", {kinds[name]}), ("inconclusive", set()), ("pass", set())):
            gates = [{"name": label, "eval": name, "kind": gate, "verdict": verdict}]
            page = page_of(reasons=[{"code": code, "text": ""}], gates=gates, evidence_by_gate=evidence)
            assert set(stops(page, kinds)) == wanted
            other = page_of(reasons=[{"code": "policy", "text": ""}], gates=gates, evidence_by_gate=evidence)
            assert stops(other, kinds) == {}


def test_words_of_a_candidate_do_not_mark_up_the_page():
    """A label with a cell's end, a link, a tag and a newline stays one cell of words."""
    cell = script()._cell("a | b\n[x](y) <b> `c`")
    assert "\n" not in cell
    assert re.search(r"(?<!\\)[|<`\[\]]", cell) is None


@pytest.mark.skipif(os.environ.get("LOCKGATE_HYPOTHESIS") != "deep", reason="only in `make deep`: a run of two minutes")
@pytest.mark.timeout(900)
def test_a_run_of_the_quick_start_stops_a_candidate_by_each_kind(tmp_path):
    """The quick start from beginning to end: its page names each kind of eval, and holds what its JSON says."""
    run = tmp_path / "quickstart"
    command = [sys.executable, "-m", "harness.cli", "run", str(QUICKSTART), "--out", str(run), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = written(run, "--out", tmp_path / "page.md")
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "page.md").read_text()
    true_of_the_quick_start(text)
    told = json.loads(written(run, "--json").stdout)
    assert [row[1].partition(",")[0] for row in rows_of(text)[1:]] == [
        str(each["proposal"]) for each in told["kinds"].values()
    ]
