"""Facts about promotion: once, over the incumbent that was tested, before it expires, and never while halted."""

from __future__ import annotations

import shutil
from datetime import timedelta

import pytest
import rigs
from rigs import generation, knobs

from harness import promotion
from harness.auditing import verify_run
from harness.desk import Halt
from harness.entries import Halted, Resumed
from harness.errors import AuditError, ConfigError, PromotionError
from harness.folder import RunFolder
from harness.kinds import kind_of
from harness.live import live_version
from harness.replay import replay_run

pytestmark = pytest.mark.usefixtures("quick_disk")
BETTER = knobs(steps=150)


@pytest.fixture(scope="module")
def back(rig, finished, tmp_path_factory):
    """Give a finished run that was rolled back to its baseline, so that there is something to promote again."""
    run = rigs.copy_run(finished, tmp_path_factory.mktemp("back") / "run")
    opened = rig.open(run)
    opened.supervisor.rollback(0, by="operator", reason="a test")
    opened.close()
    return run


class Bench:
    """One run open for work, and what its log says afterwards."""

    def __init__(self, rig, run):
        """Keep them."""
        self.rig, self.run, self.opened, self.on = rig, run, None, {}

    def open(self):
        """Open the run; `on` maps a kind of entry to what is done right after it."""
        self.opened = self.rig.open(self.run, listener=lambda _, entry: self.on.get(kind_of(entry), lambda: None)())
        return self.opened

    def close(self):
        """Close it."""
        if self.opened is not None:
            self.opened.close()
            self.opened = None

    def kinds(self, count):
        """Give the kinds of the last entries."""
        return [kind_of(entry) for entry in rigs.trail_of(self.run)[1]][-count:]

    def sound(self):
        """Require that the log, the blobs, the live model and every decision hold together."""
        verify_run(RunFolder(self.run), RunFolder(self.run).public_key)
        replay_run(RunFolder(self.run))


@pytest.fixture
def bench(rig, back, tmp_path):
    """Give a bench with a copy of the run that was rolled back."""
    bench = Bench(rig, rigs.copy_run(back, tmp_path / "run"))
    yield bench
    bench.close()


def test_a_promotion_takes_the_logged_steps(bench):
    """A promotion is decided, authorised, intended, made and watched, in this order, and is then live."""
    generation(bench.open(), 4, BETTER)
    bench.close()
    assert bench.kinds(5) == ["decided", "authorised", "intended", "promoted", "watched"]
    assert live_version(bench.run) == 3
    bench.sound()


@pytest.mark.parametrize("kind", ["authorised", "intended"])
def test_the_kill_switch_voids_what_was_authorised(bench, kind):
    """With the kill-switch file put down after the authorisation, or after the intent, nothing is swapped."""
    bench.on[kind] = (bench.run / "HALT").touch
    generation(bench.open(), 4, BETTER)
    assert (live_version(bench.run), bench.opened.supervisor.state.live) == (0, 0)
    bench.close()
    assert bench.kinds(1) == ["voided"]
    bench.sound()
    # What was staged for it would carry an authorisation with its proof, as if it had been used.
    assert sorted(path.name for path in (bench.run / "models").iterdir()) == ["0", "1", "2"]


def test_what_a_crash_left_staged_is_removed(bench):
    """Opening a run removes folders of versions that never came to be, and none of those that did."""
    for name in ("3", ".staging-3"):
        shutil.copytree(bench.run / "models" / "1", bench.run / "models" / name)
    bench.open()
    assert sorted(path.name for path in (bench.run / "models").iterdir()) == ["0", "1", "2"]
    bench.close()
    bench.sound()


def test_a_logged_halt_voids_what_was_authorised(bench):
    """A halt in the log after the authorisation ends it; what passed is not promoted after the halt is lifted."""
    opened = bench.open()
    bench.on["authorised"] = lambda: opened.rooms.journal.commit(Halted(by="operator", reason="a test"))
    generation(opened, 4, BETTER)
    opened.rooms.journal.commit(Resumed(by="operator"))
    opened.supervisor.settle(4)
    assert opened.supervisor.state.live == 0
    bench.close()
    assert bench.kinds(3) == ["halted", "voided", "resumed"]
    bench.sound()


def test_a_halt_before_the_authorisation_waits(bench):
    """Halted between decision and authorisation, the run rests; resumed, it promotes what was decided."""
    opened = bench.open()
    bench.on["decided"] = (bench.run / "HALT").touch
    with pytest.raises(Halt):
        generation(opened, 4, BETTER)
    assert opened.supervisor.state.live == 0
    (bench.run / "HALT").unlink()
    bench.on.clear()
    opened.supervisor.settle(4)
    assert opened.supervisor.state.live == 3
    bench.close()
    bench.sound()


def test_a_decision_from_before_a_rollback_is_void(bench):
    """Halted after the decision and rolled back, away and even back again, the decision is voided and work goes on."""
    opened = bench.open()
    bench.on["decided"] = (bench.run / "HALT").touch
    with pytest.raises(Halt):
        generation(opened, 4, BETTER)
    opened.supervisor.rollback(1, by="operator", reason="a test")
    opened.supervisor.rollback(0, by="operator", reason="a test")
    (bench.run / "HALT").unlink()
    bench.on.clear()
    opened.supervisor.settle(4)
    assert opened.supervisor.settled(4)
    assert [found.outcome for found in opened.supervisor.state.generation(4)] == ["voided"]
    generation(opened, 5, BETTER)
    assert opened.supervisor.state.live == 3
    bench.close()
    bench.sound()


def test_an_authorisation_expires(bench, monkeypatch):
    """An authorisation that is past its time when the swap comes is voided."""
    monkeypatch.setattr(promotion, "AUTHORISATION_LIFE", timedelta(0))
    generation(bench.open(), 4, BETTER)
    assert bench.opened.supervisor.state.live == 0
    bench.close()
    assert bench.kinds(1) == ["voided"]
    assert "expired" in rigs.trail_of(bench.run)[1][-1].reason


def test_a_failed_smoke_test_rolls_back(bench):
    """Where the live model does not give the answers that were measured, the version before it comes back."""
    opened = bench.open()
    real = opened.rooms.workshop.predict

    def predict(candidate, inputs, rows, *, folder=None, **named):
        if folder is not None:
            candidate = opened.supervisor.state.baseline
        return real(candidate, inputs, rows, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened.rooms.workshop, "predict", predict)
        generation(opened, 4, BETTER)
    assert (live_version(bench.run), opened.supervisor.state.live) == (0, 0)
    bench.close()
    assert bench.kinds(4) == ["promoted", "watched", "intended", "rolled-back"]
    bench.sound()


def test_a_rollback_is_bit_identical(bench):
    """Every version that was ever live comes back with the very bytes that it had."""

    def contents(version):
        folder = bench.run / "models" / str(version)
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = {version: contents(version) for version in (0, 1, 2)}
    assert before[1] != before[2] != before[0]
    opened = bench.open()
    for version in (2, 1, 0):
        opened.supervisor.rollback(version, by="operator", reason="a test")
        assert live_version(bench.run) == opened.supervisor.state.live == version
    bench.close()
    assert {version: contents(version) for version in (0, 1, 2)} == before
    bench.sound()


@pytest.mark.parametrize(("version", "why"), [(0, "live already"), (3, "never live"), (-1, "never live")])
def test_a_rollback_to_nowhere_is_refused(bench, version, why):
    """A rollback to what is live, or never was, is a PromotionError, and nothing is logged."""
    opened = bench.open()
    size = opened.supervisor.state.size
    with pytest.raises(PromotionError, match=why):
        opened.supervisor.rollback(version, by="operator", reason="a test")
    assert opened.supervisor.state.size == size


def test_a_rollback_to_a_touched_version_is_refused(bench):
    """A version whose weights were changed by hand does not come back."""
    weights = bench.run / "models" / "2" / "weights.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    opened = bench.open()
    with pytest.raises(PromotionError, match="not the candidate"):
        opened.supervisor.rollback(2, by="operator", reason="a test")
    assert live_version(bench.run) == 0


def test_a_model_changed_inside_a_cut_swap_does_not_stay(bench, monkeypatch):
    """Cut between the rename and its outcome, and changed since: it is swapped back and voided, and never runs."""

    def cut(_run):
        raise PromotionError("cut here")

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "sync", cut)
        with pytest.raises(PromotionError, match="cut here"):
            generation(bench.open(), 4, BETTER)
    bench.close()
    assert (bench.kinds(1), live_version(bench.run)) == (["intended"], 3)
    bench.sound()
    recipe = bench.run / "models" / "3" / "recipe.json"
    recipe.chmod(0o644)
    recipe.write_bytes(recipe.read_bytes().replace(b"150", b"151"))
    with pytest.raises(AuditError, match="not the candidate"):
        bench.sound()
    opened = bench.open()
    assert (live_version(bench.run), opened.supervisor.state.live) == (0, 0)
    bench.close()
    assert bench.kinds(2) == ["started", "voided"]
    bench.sound()


def test_a_link_moved_by_hand_is_seen(bench):
    """Where somebody points the live link elsewhere, neither supervisor nor auditor goes on."""
    (bench.run / "current").unlink()
    (bench.run / "current").symlink_to("models/1")
    with pytest.raises(PromotionError, match="version 1 is live, but the log says version 0"):
        bench.open()
    with pytest.raises(AuditError, match="version 1 is live, the log says 0"):
        bench.sound()


def test_a_live_model_changed_by_hand_is_seen(bench):
    """Where somebody changes the live model's files, neither supervisor nor auditor goes on."""
    recipe = bench.run / "models" / "0" / "recipe.json"
    recipe.chmod(0o644)
    recipe.write_bytes(recipe.read_bytes().replace(b"60", b"61"))
    with pytest.raises(PromotionError, match="not the candidate"):
        bench.open()
    with pytest.raises(AuditError, match="not the candidate"):
        bench.sound()


def test_a_missing_signing_key_is_not_made_anew(bench):
    """A run whose signing key is gone is refused: another key would begin another history."""
    RunFolder(bench.run).signing_key.unlink()
    with pytest.raises(ConfigError, match="signing key is gone"):
        bench.open()
