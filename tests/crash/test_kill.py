"""P1 and P8: a supervisor, an evaluator or a worker that is killed at any point loses nothing and repeats nothing.

What kill -9 leaves behind is what lies on the disk at that instant, so most points are tried by copying the
run's folder there and going on from the copy; a few by a real process that kills itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import rigs

from harness import live, promotion, vault
from harness.auditing import verify_run
from harness.folder import RunFolder
from harness.kinds import kind_of
from harness.live import live_version
from harness.replay import replay_run

pytestmark = pytest.mark.usefixtures("quick_disk")
LAST = 2
DEEP = bool(os.environ.get("LOCKGATE_DEEP")) or os.environ.get("LOCKGATE_HYPOTHESIS") == "deep"
SAMPLE = 6


class Recorder:
    """Takes a picture of the run's folder at every boundary."""

    def __init__(self, run, place):
        """Begin with none."""
        self.run, self.place, self.points = run, place, []
        place.mkdir()

    def picture(self, name):
        """Copy the folder as it lies; what a killed process would leave."""
        target = self.place / f"{len(self.points):03}-{name}"
        rigs.copy_run(self.run, target)
        self.points.append(target)

    def after(self, patch, owner, name, label):
        """Take a picture after each call of a function."""
        real = getattr(owner, name)

        def wrapped(*arguments, **named):
            result = real(*arguments, **named)
            self.picture(label)
            return result

        patch.setattr(owner, name, wrapped)


@pytest.fixture(scope="module")
def recorded(rig, tmp_path_factory):
    """Run two generations undisturbed with a picture at every boundary; give the run, the pictures and the essence."""
    place = tmp_path_factory.mktemp("recorded")
    recorder = Recorder(place / "run", place / "pictures")
    with pytest.MonkeyPatch.context() as patch:
        recorder.after(patch, vault.Vault, "_write", "vault")
        recorder.after(patch, promotion, "swap", "swapped")
        recorder.after(patch, promotion, "stage", "staged")
        opened = rig.open(place / "run", seed=0, workers=1, listener=lambda _, entry: recorder.picture(kind_of(entry)))
        try:
            rigs.drive(opened, LAST)
        finally:
            opened.close()
    return place / "run", recorder.points, rigs.essence(place / "run")


def go_on(rig, run, key=None):
    """Open a run where it stands, and bring it to its end."""
    opened = rig.open(run, seed=0, vault_key=key)
    try:
        rigs.drive(opened, LAST)
    finally:
        opened.close()


def lives(run):
    """Require that what is live is a whole version that the log authorises, before anybody has mended anything."""
    folder = RunFolder(run)
    if not folder.exists or not (state := rigs.trail_of(run)[0]).size:
        assert live_version(run) is None
        return
    version = live_version(run)
    if version is None:
        assert not state.proposals
        return
    known = dict(state.versions)
    if state.intent is not None and state.intent.action == "promote":
        permit = state.authorised[state.intent.authorisation]
        known[permit.version] = state.proposals[permit.number].built.candidate
    assert version == state.live or (state.intent is not None and version == state.intent.version)
    live.check_version(run, version, known[version])


def counted(rig, patch):
    """Count what the evaluator tests and develops, and what the workers build."""
    counts = Counter()
    ask, submit = rig.evaluator.ask, rig.engine.submit

    def asked(request, **named):
        counts[request["op"]] += 1
        return ask(request, **named)

    def submitted(job):
        counts[job.entry] += 1
        return submit(job)

    patch.setattr(rig.evaluator, "ask", asked)
    patch.setattr(rig.engine, "submit", submitted)
    return counts


def kinds(run):
    """Count the entries of each kind."""
    if not RunFolder(run).exists:
        return Counter()
    return Counter(kind_of(entry) for entry in rigs.trail_of(run)[1])


def sampled(points):
    """Choose points evenly, and every point of the rare kinds that lie inside a promotion."""
    if DEEP:
        return points
    rare = ("staged", "swapped", "vault", "intended", "promoted")
    inside, seen = [], set()
    for point in points:
        name = point.name.partition("-")[2]
        if name in rare and name not in seen and "promoted" not in seen:
            inside.append(point)
            seen.add(name)
    step = max(1, len(points) // SAMPLE)
    return sorted({*points[::step], *inside})


def test_there_is_a_picture_of_every_boundary(recorded):
    """Every entry of the undisturbed run, every write of the vault's ledger, each staging and each swap has its picture."""
    run, points, _ = recorded
    names = Counter(point.name.partition("-")[2] for point in points)
    assert {name: count for name, count in names.items() if name not in ("vault", "swapped", "staged")} == kinds(run)
    assert names["swapped"] == 2
    assert names["staged"] == 2
    assert names["vault"] >= 4


def test_killed_anywhere_the_live_model_is_authorised(recorded):
    """At every boundary, before any recovery, the live model is a whole version that the log authorises."""
    _, points, _ = recorded
    for point in points:
        lives(point)


def test_killed_anywhere_the_run_ends_as_if_it_had_not_been(rig, recorded, tmp_path):
    """Killed at a boundary and opened again, the run makes the same decisions, and repeats nothing that was finished."""
    run, points, expected = recorded
    whole = kinds(run)
    for point in sampled(points):
        again = rigs.copy_run(point, tmp_path / point.name)
        before = kinds(again)
        with pytest.MonkeyPatch.context() as patch:
            counts = counted(rig, patch)
            go_on(rig, again)
        assert rigs.essence(again) == expected, point.name
        verify_run(RunFolder(again), RunFolder(again).public_key)
        assert replay_run(RunFolder(again))["decisions"] == whole["decided"], point.name
        failed_builds = 1 + 1  # one with a NaN loss, one that raises: built again, until their rejection is logged
        missing = whole["built"] - before["built"] + (not before["genesis"])
        assert missing <= counts["build"] <= missing + failed_builds, point.name
        assert counts["test"] == whole["measured"] - before["measured"], point.name
        assert counts["develop"] == whole["developed"] - before["developed"] + (not before["genesis"]), point.name


def test_killed_twice_in_the_same_swap(rig, recorded, tmp_path):
    """Killed between swap and outcome, opened, and killed again before anything else, the run still ends the same."""
    _, points, expected = recorded
    point = next(p for p in points if p.name.endswith("intended"))
    again = rigs.copy_run(point, tmp_path / "run")

    class Cut(BaseException):
        """The second kill."""

    def cut(*_):
        raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "swap", cut)
        with pytest.raises(Cut):
            rig.open(again, seed=0)
    lives(again)
    go_on(rig, again)
    assert rigs.essence(again) == expected


def test_a_test_that_a_rollback_cut_off_is_interrupted(rig, recorded, tmp_path):
    """Killed inside a test and rolled back before it went on, that test is over: rejected as interrupted."""
    _, points, _ = recorded
    point = [p for p in points if p.name.endswith("staked")][-1]
    again = rigs.copy_run(point, tmp_path / "run")
    opened = rig.open(again, seed=0)
    try:
        state = opened.supervisor.state
        number = state.open_stake
        opened.supervisor.rollback(0, by="operator", reason="a test")
        rigs.drive(opened, LAST)
        found = opened.supervisor.state.proposals[number]
        assert found.decision.reasons[0].code == "interrupted"
        assert opened.rooms.vault.state.pending is None
    finally:
        opened.close()
    replay_run(RunFolder(again))


PROGRAM = """\
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {support!r})
import rigs
from harness.kinds import kind_of
from harness.opening import open_run

def listener(_, entry):
    if kind_of(entry) == {kind!r}:
        os.kill(os.getpid(), signal.SIGKILL)
opened = open_run(Path({run!r}), Path({subject!r}), seed=0, vault_key=Path({key!r}), listener=listener)
print(opened.rooms.evaluator.pid, opened.rooms.workshop._engine._zygote.pid, flush=True)
rigs.drive(opened, {last})
"""


@pytest.mark.parametrize(
    "kind", ["staked", "intended", "built", "predicted", "measured", "decided", "promoted"] if DEEP else ["predicted"]
)
def test_a_supervisor_that_is_killed_leaves_nobody_behind(rig, recorded, tmp_path, kind):
    """A real supervisor killed by -9: its evaluator and its workers end by themselves, and the run ends the same."""
    first, _, expected = recorded
    run, key = tmp_path / "run", first / "private" / "vault.key"
    program = PROGRAM.format(
        support=str(Path(rigs.__file__).parent),
        kind=kind,
        run=str(run),
        subject=str(rig.subject),
        key=str(key),
        last=LAST,
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]
    lives(run)
    go_on(rig, run, key=key)
    assert rigs.essence(run) == expected


def test_an_evaluator_that_is_killed_changes_nothing(rig, recorded, tmp_path):
    """With the evaluator killed after every entry of a whole generation, the decisions are the same."""
    run, _, expected = recorded
    killed = []

    def listener(_, entry):
        pid = rig.evaluator.pid
        if pid is not None and kind_of(entry) in ("built", "developed", "staked", "predicted"):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    key = run / "private" / "vault.key"
    opened = rig.open(tmp_path / "run", seed=0, vault_key=key, listener=listener)
    try:
        rigs.drive(opened, 1)
    finally:
        opened.close()
    facts = rigs.essence(tmp_path / "run")
    assert [fact for fact in facts if fact[0] != "genesis"] == [
        fact for fact in expected if fact in facts and fact[0] != "genesis"
    ]
    assert Counter(fact[0] for fact in facts)["measured"] == 1
    assert len(killed) >= 3


@pytest.mark.parametrize("entry", ["build", "predict"])
def test_a_worker_that_is_killed_is_a_logged_rejection(rig, tmp_path, entry):
    """With every worker of one kind killed at work, the candidate is rejected with a reason, and the incumbent stands."""
    opened = rig.open(tmp_path / "run", seed=0)
    submit, zygote = rig.engine.submit, rig.engine._zygote

    def submitted(job):
        before = set(zygote._running)
        future = submit(job)
        if job.entry == entry:
            # Once it is with the warm process it is not sent again; a time after which to kill would be a bet on the load.
            while not zygote._running - before and not future.done():
                time.sleep(0.001)
            zygote.kill()
        return future

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rig.engine, "submit", submitted)
            rigs.generation(opened, 1, rigs.knobs(steps=400))
        state = opened.supervisor.state
        assert state.proposals[1].decision.reasons[0].code == f"{entry}-failed"
        assert live_version(tmp_path / "run") == state.live == 0
        rigs.generation(opened, 2, rigs.knobs(steps=150))
        assert opened.supervisor.state.live == 1
    finally:
        opened.close()
    verify_run(RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run").public_key)
    replay_run(RunFolder(tmp_path / "run"))
