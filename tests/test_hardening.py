"""Facts about defects that a hostile reader once found: each test is named by what could go wrong before."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import rigs
import trails
from rigs import code, generation, knobs
from safetensors.numpy import save_file
from trails import Trail, sha

from harness import artifacts, opening
from harness.auditlog import AuditLog
from harness.canonical import canonical_bytes
from harness.channel import Child
from harness.cli import app
from harness.config import load_config
from harness.desk import Halt
from harness.entries import Halted
from harness.errors import (
    ConfigError,
    DiskError,
    EvaluatorError,
    SandboxError,
    StateError,
    StoppingError,
    SubjectError,
)
from harness.evals.scoring import Evaluation
from harness.evaluator import Evaluator
from harness.folder import RunFolder, guard_files
from harness.journal import Journal
from harness.keys import Signer, VaultKey
from harness.kinds import kind_of
from harness.live import live_version
from harness.opening import open_run
from harness.proposers import Ask
from harness.proposing import Proposing
from harness.run import Watcher, guarded_loop
from harness.sandbox import Outcome
from harness.shuffled import order_of_rows
from harness.vault import Vault
from harness.views import MAX_HISTORY, ask_view

pytestmark = pytest.mark.usefixtures("quick_disk")
KEY_BYTES = bytes(range(32))
BETTER, WIDER = knobs(steps=150), knobs("architecture", hidden=96, steps=400)
PREDICT = '    return model(inputs["image"])'
ACTING = "\\x1b[2J\\x9b2J\\n   99  2026-01-01T00:00:00  promoted\\u202e"
RAW = ACTING.encode().decode("unicode_escape")


class Cut(BaseException):
    """The power goes."""


def cut(*_arguments, **_named):
    """Let the power go."""
    raise Cut


def with_key(run):
    """Give a run to be the vault key that is the same in every test run, so that its tests on the vault end alike."""
    private = run / "private"
    private.mkdir(parents=True, mode=0o700)
    path = private / "vault.key"
    path.write_bytes(KEY_BYTES)
    path.chmod(0o600)
    return run


@pytest.fixture(scope="module")
def begun(rig, digits, tmp_path_factory):
    """Promote twice in a run that lies within its own subject; give the run and its ledger from before any stake."""
    place = tmp_path_factory.mktemp("begun")
    subject = rigs.vary(digits, place / "subject")
    run = with_key(subject / "runs" / "first")
    opened = rig.open(run, subject, seed=0)
    try:
        shutil.copytree(run / "vault", place / "older")
        generation(opened, 1, BETTER)
        generation(opened, 2, WIDER)
        assert opened.supervisor.state.live == 2
    finally:
        opened.close()
    return run, place / "older"


@pytest.fixture
def again(begun, tmp_path):
    """Give a copy of that run."""
    return rigs.copy_run(begun[0], tmp_path / "run")


# 1: closing decides nothing


def test_a_frozen_journal_takes_nothing_more(tmp_path):
    """After `freeze`, a commit is a StoppingError, and neither log nor state changes."""
    signer = Signer.from_seed(trails.GENESIS.origin, bytes(32))
    journal = Journal(AuditLog.create(tmp_path / "log", signer, trails.GENESIS.origin), signer)
    journal.commit(trails.GENESIS)
    state = journal.state
    journal.freeze()
    with pytest.raises(StoppingError):
        journal.commit(Halted(by="operator", reason="a test"))
    assert journal.state == state
    assert journal._log.size == 1
    journal.close()


def close_in(opened, patch, where):
    """Close a run as soon as a build, a test on the vault or a smoke test is under way."""
    workshop, evaluator = opened.rooms.workshop, opened.rooms.evaluator
    submit, ask, closing = workshop._engine.submit, evaluator.ask, threading.Thread(target=opened.close)

    def submitted(job):
        future = submit(job)
        smoke = job.entry == "predict" and "models" in Path(job.files["source"]).parts
        if (where == "build" and job.entry == "build") or (where == "smoke test" and smoke):
            while not future.running() and not future.done():
                time.sleep(0.001)
            closing.start()  # beside the slot's thread, which goes on with whatever the job comes to
        return future

    def asked(request, **named):
        if where == "test" and request["op"] == "test" and closing.ident is None:
            closing.start()
            while not evaluator._closed:
                time.sleep(0.001)
        return ask(request, **named)

    patch.setattr(workshop._engine, "submit", submitted)
    patch.setattr(evaluator, "ask", asked)
    return closing


@pytest.fixture(scope="module")
def closed(rig, tmp_path_factory):
    """Close a run with rooms of its own in a build, opened again in a test, again in a smoke test; then let it end.

    Gives the run, the kinds of its entries after each closing, and what an undisturbed run under the same key decides.
    """
    place = tmp_path_factory.mktemp("closed")
    run, found = with_key(place / "run"), {}
    for where in ("build", "test", "smoke test"):
        opened = open_run(run, rig.subject, seed=0, workers=1)
        with pytest.MonkeyPatch.context() as patch:
            closing = close_in(opened, patch, where)
            with pytest.raises((StoppingError, SandboxError)):
                generation(opened, 1, BETTER)
            closing.join()
        found[where] = [kind_of(entry) for entry in rigs.trail_of(run)[1]]
    opened = rig.open(run)
    generation(opened, 1, BETTER)
    opened.close()
    whole = rig.open(with_key(place / "whole"), seed=0)
    generation(whole, 1, BETTER)
    whole.close()
    return run, found, rigs.essence(place / "whole")


@pytest.mark.parametrize(
    ("where", "last", "never"),
    [
        ("build", "screened", {"built", "decided"}),
        ("test", "predicted", {"measured", "decided"}),
        ("smoke test", "promoted", {"watched"}),
    ],
)
def test_closing_in_the_middle_decides_nothing(closed, where, last, never):
    """A run that is closed in a build, a test or a smoke test makes no entry of what the closing broke off."""
    kinds = closed[1][where]
    assert kinds[-1] == last
    assert not never & set(kinds)


def test_a_run_that_was_closed_decides_as_if_it_had_not_been(closed):
    """Opened again after each closing, the run ends with the decisions of an undisturbed one."""
    run, _, expected = closed
    assert rigs.essence(run) == expected
    assert live_version(run) == 1


# 2: the ledger


def test_a_ledger_that_is_gone_is_not_begun_anew(rig, again):
    """Where the log knows of the vault's ledger and it is gone, opening is a ConfigError that names it."""
    shutil.rmtree(again / "vault" / "ledger")
    with pytest.raises(ConfigError, match="ledger is gone") as error:
        rig.open(again)
    assert error.value.where == str(again / "vault" / "ledger")
    assert not (again / "vault" / "ledger").exists()


def test_an_older_ledger_gives_no_error_back(rig, begun, again):
    """A ledger put back from before the stakes is a ConfigError that names it, and stands as it was."""
    shutil.rmtree(again / "vault")
    shutil.copytree(begun[1], again / "vault")
    with pytest.raises(ConfigError, match="older than the run") as error:
        rig.open(again)
    assert error.value.where == str(again / "vault" / "ledger")


def open_vault(folder, **named):
    """Open a vault of made-up items."""
    return Vault(folder, VaultKey(KEY_BYTES), data=sha("data"), items=5000, delta=0.05, minimum=200, **named)


def test_a_ledger_is_begun_only_where_nobody_knows_one(tmp_path):
    """With no ledger there, a run whose log knows one is refused and leaves nothing; a run that knows none begins it."""
    vault = open_vault(tmp_path / "elsewhere", own="run")
    known = vault.head
    vault.close()
    with pytest.raises(ConfigError, match="ledger is gone"):
        open_vault(tmp_path / "vault", known=known, own="run")
    assert not (tmp_path / "vault").exists()
    vault = open_vault(tmp_path / "vault", own="run")
    assert vault.head[0] == 1
    vault.close()


def test_a_stranger_s_open_test_is_abandoned_whole(tmp_path):
    """A test that another run left open is closed with all its items used, and its stake stays spent; one's own stays."""
    vault = open_vault(tmp_path, own="one")
    stake = vault.stake("one/1", 1000)
    vault.close()
    vault = open_vault(tmp_path, own="one")
    assert vault.state.pending == stake
    vault.close()
    vault = open_vault(tmp_path, own="two")
    assert vault.state.pending is None
    assert (vault.state.high_water, vault.state.spent) == (1000, stake.alpha)
    vault.close()


def test_a_rollback_s_epoch_is_not_ended_twice_over_a_stake(tmp_path):
    """Asked to end an epoch a second time by the same key, the ledger does not, though a stake was made in between."""
    vault = open_vault(tmp_path, own="run")
    vault.end_epoch("run/rollback/7")
    vault.stake("run/1", 1000)
    state = vault.state
    vault.end_epoch("run/rollback/7")
    assert (vault.state, state.epoch) == (state, 2)
    vault.close()
    vault = open_vault(tmp_path, own="run")
    vault.end_epoch("run/rollback/7")
    assert vault.state == state
    vault.end_epoch("run/rollback/9")
    assert (vault.state.epoch, vault.state.pending) == (3, None)
    vault.close()


# 3: the evaluator


def kill(child):
    """Kill a child, and wait until it is dead without taking note of it."""
    pid = child.pid
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_an_evaluator_started_again_with_other_guards_scores_nothing(rig, digits, tmp_path):
    """With the evaluator killed and guards.py edited, no candidate is scored; with it restored, the next one is."""
    subject = rigs.vary(digits, tmp_path / "subject", ("1 where the", "One where the"), name="guards.py")
    opened = rig.open(tmp_path / "run", subject, seed=0)
    guards = subject / "guards.py"
    honest = guards.read_text()
    try:
        assert "(answers.argmax(1) == labels).astype(float)" in honest
        guards.write_text(honest.replace("(answers.argmax(1) == labels)", "(labels == labels)"))
        kill(opened.rooms.evaluator)
        generation(opened, 1, BETTER)
        found = opened.supervisor.state.proposals[1]
        assert (found.developed, found.decision.reasons[0].code) == (None, "evaluator-failed")
        guards.write_text(honest)
        generation(opened, 2, knobs(steps=151))
        assert opened.supervisor.state.proposals[2].developed is not None
    finally:
        opened.close()


def test_an_evaluator_with_other_data_is_not_used(digits, tmp_path):
    """An evaluator that is started again and describes itself otherwise is an EvaluatorError, every time."""
    subject = rigs.vary(digits, tmp_path / "subject")
    child = Child(["-m", "harness.evaluator", str(subject)], name="evaluator", stderr=tmp_path / "stderr")
    try:
        request = {"op": "describe"}
        child.expect(request, child.ask(request, seconds=60), seconds=60)
        guards = subject / "guards.py"
        guards.write_text(guards.read_text().replace("default_rng(20240229)", "default_rng(1)"))
        kill(child)
        for _ in range(2):
            with pytest.raises(EvaluatorError, match="not the one that the run began with"):
                child.ask(request, seconds=60)
    finally:
        child.close()


def test_a_changed_guard_file_is_named(digits, tmp_path, monkeypatch):
    """The evaluator refuses files other than those it was told of, and says which; a missing one, too."""
    monkeypatch.setattr(sys, "pycache_prefix", sys.pycache_prefix)
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    subject = rigs.vary(digits, tmp_path / "subject")
    (subject / "helper.py").write_text("N = 1\n")
    files = guard_files(subject, load_config(subject))
    assert set(files) == {"lockgate.yaml", "guards.py", "helper.py"}
    (subject / "helper.py").write_text("N = 2\n")
    with pytest.raises(SubjectError, match="has changed") as error:
        Evaluator(subject, files)
    assert error.value.where == str(subject / "helper.py")
    (subject / "helper.py").unlink()
    with pytest.raises(SubjectError, match="cannot be read") as error:
        Evaluator(subject, files)
    assert error.value.where == str(subject / "helper.py")


PROGRAM = """\
import sys
from pathlib import Path
from harness.evals import load_guards
from harness.evals import load_guards
from harness.evaluator import Evaluator
subject, what = Path(sys.argv[1]), sys.argv[2]
if what == "as Python would":
    sys.pycache_prefix = sys.argv[3] or None
    load_guards(subject / "guards.py")
else:
    Evaluator(subject)
"""


@pytest.mark.parametrize("prefix", ["", ".no-bytecode"])
def test_planted_bytecode_is_not_executed(digits, tmp_path, monkeypatch, prefix):
    """A guards.pyc that would run unchecked in place of guards.py is run by Python's own rule, and not by the evaluator."""
    subject = rigs.vary(digits, tmp_path / "subject")
    marker = tmp_path / "executed"
    evil = tmp_path / "evil.py"
    evil.write_text((subject / "guards.py").read_text() + f"\nopen({str(marker)!r}, 'w').close()\n")
    folder = str(subject / prefix) if prefix else None
    monkeypatch.setattr(sys, "pycache_prefix", folder)
    planted = importlib.util.cache_from_source(str(subject / "guards.py"))
    monkeypatch.undo()
    py_compile.compile(
        str(evil), cfile=planted, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    for what, executed in (("as Python would", True), ("as the evaluator does", False)):
        marker.unlink(missing_ok=True)
        command = [sys.executable, "-c", PROGRAM, str(subject), what, folder or ""]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert marker.exists() == executed, what


# 4, 6, 8: what a proposal may bring


NEIGHBOURS = """\
    image = inputs["image"]
    first = image.as_strided(image.shape, image.stride(), 0)
    return model(image) + 0.2 * model(first)"""


def hostile(digits):
    """Give proposals that could once wedge a run, forge its trail or lean on their batch, each with its reason."""
    field = "    hidden: int"
    train = "    image, digit = data"
    nested = b"[" * 28 + b"]" * 28
    improved = {"changes": {"steps": 150}}
    return [
        (code(digits, (field, f'    note: str = "x" * 60_000\n{field}')), "build-output"),
        (code(digits, (field, f"    deep: list = {'[' * 12}{']' * 12}\n{field}")), "build-output"),
        (code(digits, (field, f"    deep: list = {'[' * 30}{']' * 30}\n{field}")), "build-failed"),
        (code(digits, (field, f'    odd: float = Field(1, ge=0.5, json_schema_extra={{"multipleOf": 5e-324}})\n{field}')), "build-output"),
        (b'{"kind":"code","base":"incumbent","files":' + nested + b"}", "malformed"),
        (code(digits, (train, f'    raise RuntimeError("{ACTING}")\n{train}')), "build-failed"),
        (code(digits, (train, f"    # {RAW.splitlines()[0]}\n    recipe = Recipe(steps=10)\n{train}")), "development"),
        (code(digits, (train, f"    # \u202e\n    recipe = Recipe(steps=11)\n{train}")), "policy"),
        (json.dumps({"kind": "code", RAW: 1}).encode(), "malformed"),
        (RAW.encode(), "malformed"),
        ({**code(digits, (PREDICT, f"{PREDICT} - {PREDICT.split('return ')[1]}.mean(0)")), **improved}, "predict-output"),
        ({**code(digits, (PREDICT, NEIGHBOURS)), **improved}, "predict-output"),
        (BETTER, "passed"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def beset(rig, digits, tmp_path_factory):
    """Settle one generation of hostile proposals and one honest one; give the run, its state, and what was expected."""
    place = tmp_path_factory.mktemp("beset")
    run, cases = with_key(place / "run"), hostile(digits)
    opened = rig.open(run, seed=0)
    try:
        generation(opened, 1, *(document for document, _ in cases))
        return run, opened.supervisor.state, cases
    finally:
        opened.close()


def test_what_no_entry_could_carry_is_a_rejection(beset):
    """A recipe too long or too deep, a schema that cannot be read, a document nested 29 deep: each is rejected alone."""
    _, state, cases = beset
    reasons = [state.proposals[number].decision.reasons[0] for number in range(1, len(cases) + 1)]
    assert [why.code for why in reasons] == [code for _, code in cases]
    assert "recipe is larger" in reasons[0].text
    assert all("nested too deeply" in why.text for why in reasons[1:3])
    assert "schema" in reasons[3].text
    assert state.live == 1


def test_a_model_that_leans_on_its_batch_is_found(beset):
    """A model that subtracts its batch's mean, or reads other rows through a stride, is told why it is rejected."""
    _, state, cases = beset
    told = [
        state.proposals[number].decision.reasons[0].text
        for number, (_, code) in enumerate(cases, 1)
        if code == "predict-output"
    ]
    assert len(told) == 2
    assert all("depends on the other rows" in text for text in told)


def test_a_document_nested_deep_does_not_wedge_the_next_ask(beset):
    """After it, the next ask is one that proposers can read, and small; what was malformed comes back as nothing."""
    run, state, cases = beset
    view = ask_view(state, artifacts.BlobStore(run / "blobs"))
    assert len(canonical_bytes(view)) < 100_000
    Ask.parse({**view, "count": 1})
    malformed = [n for n, (_, code) in enumerate(cases) if code == "malformed"]
    assert view["history"][malformed[0]]["proposal"] == {}


class Documents:
    """Blobs that hold one long code proposal, and nothing else."""

    def get(self, name):
        """Give it under the names of documents."""
        if name not in self.names:
            return b"{}"
        return json.dumps({"kind": "code", "base": "incumbent", "files": {"model.py": "x" * 120_000}}).encode()

    names = frozenset(sha(f"document {number}") for number in range(1, 61))


def test_the_history_s_texts_are_bounded():
    """Of sixty long proposals the newest keep their texts, as far as the bound allows; the older ones only those go."""
    trail = Trail().begin()
    for number in range(1, 61):
        trail.add(trails.proposed(number), trails.decided(number, "reject"))
    history = ask_view(trail.state, Documents())["history"]
    kept = ["files" in told["proposal"] for told in history]
    fits = MAX_HISTORY // 120_000
    assert kept == [False] * (60 - fits) + [True] * fits
    assert all(told["proposal"]["kind"] == "code" for told in history)


@pytest.mark.parametrize("json_too", [False, True])
def test_a_candidate_s_words_do_nothing_to_a_terminal(beset, capfd, monkeypatch, json_too):
    """Nothing that acts comes out of `audit log`, `status` or `show`, whatever a candidate put in its words."""
    run, state, cases = beset
    monkeypatch.setenv("COLUMNS", "200")
    commands = [["audit", "log", str(run)], ["status", str(run)]]
    commands += [["show", str(run), str(number)] for number in range(1, len(cases) + 1)]
    shown = {}
    for command in commands:
        app([*command, *(["--json"] if json_too else [])], standalone_mode=False)
        shown[" ".join(command[:-1] if command[0] == "show" else command[:1]) + command[-1][-2:]] = (
            capfd.readouterr().out
        )
    for command, text in shown.items():
        acting = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in "\n\t"}
        assert not acting, (command, acting)
        assert not [line for line in text.splitlines() if line.startswith("   99")], command
    log = next(iter(shown.values()))
    assert "x1b[2J" in log or "u001b" in log
    assert len(log.splitlines()) == state.size


# 5: what is filled is not asked for again


def test_a_filled_generation_is_settled_without_asking(rig, again, monkeypatch):
    """A generation that a crash left filled and unsettled is settled as it stands: no proposer is asked for it."""
    opened = rig.open(again)
    opened.supervisor.submit(3, [rigs.slot(knobs(steps=10)), rigs.slot(b"{")])
    opened.close()
    asked, notes = [], []
    monkeypatch.setattr(Proposing, "propose", lambda _, name, __: asked.append(name) or [])
    told = guarded_loop(rig.subject, again, Watcher(notes.append, lambda _: None), generations=3)
    assert (told["proposals"], told["undecided"], asked) == (4, 0, [])
    assert not [note for note in notes if note.startswith("asking")]


# what guards.py imports is what the guard names


def behind_a_link(subject: Path, elsewhere: Path) -> None:
    """Lay a package over helper.py that `guard_files` does not walk into."""
    elsewhere.mkdir()
    (elsewhere / "__init__.py").write_text("N = 2\n")
    (subject / "helper").symlink_to(elsewhere)


def in_a_folder_like_a_runs(subject: Path, _elsewhere: Path) -> None:
    """Lay a package over helper.py in what looks like the folder of a run, which grows and is not guarded."""
    (subject / "helper" / "log").mkdir(parents=True)
    (subject / "helper" / "log" / "checkpoint").touch()
    (subject / "helper" / "__init__.py").write_text("N = 2\n")


def in_a_subject_like_a_run(subject: Path, _elsewhere: Path) -> None:
    """Make the subject itself look like a run, so that nothing but guards.py is guarded."""
    (subject / "log").mkdir()
    (subject / "log" / "checkpoint").touch()


@pytest.mark.parametrize("lay", [behind_a_link, in_a_folder_like_a_runs, in_a_subject_like_a_run])
def test_code_that_the_guard_does_not_name_is_not_imported_by_guards(digits, tmp_path, monkeypatch, lay):
    """A module that guards.py imports and that no digest covers ends the evaluator; one that is guarded does not."""
    monkeypatch.setattr(sys, "pycache_prefix", sys.pycache_prefix)
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    subject = rigs.vary(digits, tmp_path / "subject", ("import numpy", "import helper\nimport numpy"), name="guards.py")
    (subject / "helper.py").write_text("N = 1\n")
    Evaluator(subject, guard_files(subject, load_config(subject)))
    lay(subject, tmp_path / "elsewhere")
    Evaluator(subject)  # the control: it is found, and runs, where nobody asks
    with pytest.raises(SubjectError, match="not guarded") as error:
        Evaluator(subject, guard_files(subject, load_config(subject)))
    assert error.value.where.startswith("helper")


def test_an_environment_within_the_subject_is_no_neighbour(digits, tmp_path, monkeypatch):
    """What is installed below the subject, in a place where every program looks, may be imported as anywhere else."""
    monkeypatch.setattr(sys, "pycache_prefix", sys.pycache_prefix)
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    change = ("import numpy", "import installed_here\nimport numpy")
    subject = rigs.vary(digits, tmp_path / "subject", change, name="guards.py")
    site = subject / ".venv" / "site-packages"
    site.mkdir(parents=True)
    (site / "installed_here.py").touch()
    monkeypatch.syspath_prepend(site)
    Evaluator(subject, guard_files(subject, load_config(subject)))


# 7: a run within its subject


def test_a_run_within_its_subject_is_no_guard(rig, begun, digits):
    """What lies in a run's folder below the subject is not among the files that guard it, and the run opens again."""
    run, _ = begun
    subject = run.parent.parent
    assert list(run.rglob("*.py"))
    assert guard_files(subject, load_config(subject)) == guard_files(digits, load_config(digits))
    rig.open(run, subject).close()


# 9: nobody's fault


def full(*_arguments, **_named):
    """Be a full disk."""
    raise OSError(28, "No space left on device")


def no_sandbox(_job):
    """Be a machine that gives no sandbox any more."""
    future = Future()
    future.set_result(Outcome(status="unavailable", message="no user namespaces"))
    return future


@pytest.mark.parametrize("what", ["disk", "sandbox"])
def test_a_full_disk_or_a_missing_sandbox_is_no_candidate_s_fault(rig, again, what):
    """Either passes through `settle` and leaves the proposal undecided; when it has gone away, `settle` finishes."""
    opened = rig.open(again)
    try:
        opened.supervisor.submit(3, [rigs.slot(knobs(steps=10))])
        with pytest.MonkeyPatch.context() as patch:
            if what == "disk":
                patch.setattr(artifacts, "write_durably", full)
            else:
                patch.setattr(rig.engine, "submit", no_sandbox)
            with pytest.raises(DiskError if what == "disk" else SandboxError) as error:
                opened.supervisor.settle(3)
        assert error.value.remedy
        assert opened.supervisor.state.proposals[3].decision is None
        opened.supervisor.settle(3)
        assert opened.supervisor.state.proposals[3].decision.reasons[0].code == "development"
    finally:
        opened.close()


# 10: the fold


@pytest.mark.parametrize("case", ["another margin's kind", "one gate too few", "one gate twice"])
def test_other_gates_than_configured_are_illegal(case):
    """A measurement by other gates than those of genesis is a StateError, though each of them passed."""
    trail = Trail().begin().develop(1)
    trail.add(trails.staked(1, trail.state))
    first, second = trails.gates("pass", "pass")
    gates = {
        "another margin's kind": [first, second.model_copy(update={"kind": "floor"})],
        "one gate too few": [first],
        "one gate twice": [first, first],
    }[case]
    with pytest.raises(StateError, match="other gates"):
        trail.add(trails.measured(1, gates=gates))
    trail.add(trails.measured(1))


def test_the_version_that_was_replaced_is_remembered():
    """A candidate promoted a second time, over another incumbent, replaces that one and not the one of its first time."""
    trail = Trail().begin().develop(1).measure(1).promote(1)
    trail.develop(2, 2).measure(2).promote(2).roll_back(0)
    trail.add(trails.proposed(3, 3), trails.screened(3), trails.built(3, name=2), trails.developed(3))
    trail.measure(3).promote(3)
    assert trail.state.versions[3] == trail.state.versions[2]
    assert trail.state.replaced == {1: 0, 2: 1, 3: 0}


def test_a_second_promotion_that_fails_its_smoke_test_goes_back_to_what_it_replaced(rig, again):
    """A candidate that once replaced version 1 and now version 0 goes back to version 0."""
    opened = rig.open(again)
    workshop = opened.rooms.workshop
    real = workshop.predict

    def predict(candidate, inputs, rows, *, folder=None, **named):
        shown = candidate if folder is None else opened.supervisor.state.baseline
        return real(shown, inputs, rows, **named)

    try:
        opened.supervisor.rollback(0, by="operator", reason="a test")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workshop, "predict", predict)
            generation(opened, 3, WIDER)
        state = opened.supervisor.state
        assert state.versions[3] == state.versions[2]
        assert (state.replaced, state.live, live_version(again)) == ({1: 0, 2: 1, 3: 0}, 0, 0)
    finally:
        opened.close()


# 11, 12: beginnings and halts


def test_the_seed_outlives_a_supervisor_that_dies_before_genesis(rig, tmp_path):
    """Cut before its log was made, and again before genesis, a run goes on with the seed that it was first given."""
    for name, arguments in (("load_subject_policies", {"seed": 7}), ("make_genesis", {})):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(opening, name, cut)
            with pytest.raises(Cut):
                rig.open(tmp_path / "run", **arguments)
    opened = rig.open(tmp_path / "run")
    try:
        assert opened.supervisor.state.genesis.seed == 7
    finally:
        opened.close()


def test_a_missing_vault_key_is_not_made_anew(rig, again):
    """A begun run whose vault key is gone is refused, and no other key is made in its place."""
    key = RunFolder(again).vault_key
    key.unlink()
    with pytest.raises(ConfigError, match="vault key is not there") as error:
        rig.open(again)
    assert error.value.where == str(key)
    assert not key.exists()


def test_a_dangling_halt_halts(rig, again):
    """A kill-switch that is a link to nowhere is a kill-switch: nothing is decided until it is taken away."""
    opened = rig.open(again)
    try:
        opened.supervisor.submit(3, [rigs.slot(b"{")])
        (again / "HALT").symlink_to("nowhere")
        with pytest.raises(Halt):
            opened.supervisor.settle(3)
        assert opened.supervisor.state.proposals[3].decision is None
        (again / "HALT").unlink()
        opened.supervisor.settle(3)
        assert opened.supervisor.settled(3)
    finally:
        opened.close()


# 13: time tells nothing of where a test stopped


def test_a_test_scores_the_whole_prefix_once_wherever_it_stops(digits, tmp_path, monkeypatch):
    """Tests that stop at different items score the same evals on the same number of items, each once."""
    monkeypatch.setattr(sys, "pycache_prefix", sys.pycache_prefix)
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    evaluator, shuffle, ids = Evaluator(digits), "ab" * 32, list(range(400))
    labels = evaluator._data.vault.take(ids).labels
    order = order_of_rows(shuffle, 2 * len(ids))

    def answers(name, share):
        guess = np.where(np.random.default_rng(5).random(len(ids)) < share, labels, (labels + 1) % 10)
        table = np.concatenate([np.eye(10, dtype=np.float32)[guess]] * 2)[order]
        save_file({"answers": np.ascontiguousarray(table)}, tmp_path / name)
        return str(tmp_path / name)

    good, poor = answers("good", 1.0), answers("poor", 0.5)
    gate = {"kind": "improve", "eval": "accuracy", "theta": 0.0, "bounds": [0.0, 1.0], "cap": None}
    scored, stopped, score = {}, {}, Evaluation.score
    for name, candidate, incumbent in (("passes", good, poor), ("is its equal", good, good), ("fails", poor, good)):
        calls = scored.setdefault(name, [])

        def counted(self, labels, answers, calls=calls):
            calls.append((self.name, len(labels), {view: len(table) for view, table in answers.items()}))
            return score(self, labels, answers)

        monkeypatch.setattr(Evaluation, "score", counted)
        request = {"ids": ids, "shuffle": shuffle, "candidate": candidate, "incumbent": incumbent, "baseline": poor}
        result = evaluator.test(**request, gates=[gate], alpha=0.01, cap=400, batch=50)["result"]
        stopped[name] = result["items"]
    assert len(set(stopped.values())) > 1
    expected = [("accuracy", 400, {"plain": 400, "smudged": 400})] * 2
    assert scored == dict.fromkeys(scored, expected)


# a hostile reader of the trail


def test_no_key_in_the_clear_outlives_a_cut_write(tmp_path):
    """What a cut write left among the private files, which may be a key, is gone once the run is locked again."""
    folder = RunFolder(tmp_path / "run")
    folder.create()
    leftover = folder.private / ".tmp-1-0-signing.key"
    leftover.write_text("a key in the clear")
    kept = folder.private / "signing.key"
    kept.write_text("the key")
    folder.lock()
    folder.unlock()
    assert (leftover.exists(), kept.exists()) == (False, True)
