"""Facts about a run that requires witnesses: nothing goes live without its quorum, and nothing is lost for want of it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import rigs
from rigs import generation, knobs
from typer.testing import CliRunner
from witnesses import served

from harness import live, promotion
from harness.auditing import Freshness, verify_run
from harness.bundle import Trust, read_bundle
from harness.cli import app
from harness.cosignature import WitnessVerifier, cosignatures
from harness.cosigning import witness_standing
from harness.desk import Halt
from harness.entries import Resumed
from harness.errors import AuditError, ConfigError
from harness.folder import RunFolder
from harness.guarding import propose_guard
from harness.keys import Signer, VerifierChain
from harness.kinds import kind_of
from harness.live import live_version, set_aside
from harness.notes import LogProof
from harness.operating import rotate_keys
from harness.passphrase import PassphraseSource
from harness.repair import repair
from harness.replay import replay_run
from harness.witness import make_witness

pytestmark = pytest.mark.usefixtures("quick_disk")
ROOT = Path(__file__).parent.parent
BETTER, BETTER_YET = knobs(steps=150), knobs("architecture", hidden=96, steps=400)


def free_port():
    """Give a port that was free a moment ago: a witness must come back where the configuration says that it is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Scene:
    """A subject with three witnesses of which two are required, their folders, and runs over it."""

    def __init__(self, digits, place):
        """Make the witnesses' keys and the subject; nothing is running."""
        self.place = place
        self.ports = {name: free_port() for name in "abc"}
        self.keys = {name: make_witness(place / name, f"witness.example/{name}") for name in "abc"}
        of = "".join(
            f'    - {{name: {name}, url: "http://127.0.0.1:{port}", key: "{self.keys[name].vkey}"}}\n'
            for name, port in self.ports.items()
        )
        text = f"witnesses:\n  require: 2\n  timeout_seconds: 5\n  of:\n{of}"
        self.subject = rigs.vary(digits, place / "subject", ("workers: {count", f"{text}workers: {{count"))
        self.signer = Signer.generate("lockgate-digits-witnessed")
        self.run = place / "run"
        self.prepare(self.run)
        self.pub = place / "witnesses.pub"
        self.pub.write_text("".join(f"{key.vkey}\n" for key in self.keys.values()))

    def prepare(self, run):
        """Make a run's keys before its first start, so that the witnesses can have the public one."""
        rigs.lay_vault_key(run)
        self.signer.save(run / "private" / "signing.key")
        (run / "keys").mkdir()
        self.signer.verifier.save(run / "keys" / "log.pub")

    @contextlib.contextmanager
    def witnesses(self, names, chain=None):
        """Let these witnesses run, with the run's first key or a chain of keys."""
        chain = chain or VerifierChain.of([self.signer.verifier])
        with contextlib.ExitStack() as stack:
            for name in names:
                stack.enter_context(served(self.place / name, chains=[chain], port=self.ports[name]))
            yield


@pytest.fixture(scope="module")
def scene(rig, digits, tmp_path_factory):
    """Give a run that began and promoted one version while two of its three witnesses were there."""
    scene = Scene(digits, tmp_path_factory.mktemp("witnessed"))
    with scene.witnesses("ab"):
        opened = rig.open(scene.run, scene.subject, seed=0)
        try:
            generation(opened, 1, BETTER)
            assert opened.supervisor.state.live == 1
        finally:
            opened.close()
    return scene


@pytest.fixture
def copy(scene, tmp_path):
    """Give a copy of that run and of the witnesses' folders, which remember it."""
    run = rigs.copy_run(scene.run, tmp_path / "run")
    for name in "abc":
        shutil.copytree(scene.place / name, tmp_path / "kept" / name)
    yield run
    for name in "abc":
        shutil.rmtree(scene.place / name)
        shutil.copytree(tmp_path / "kept" / name, scene.place / name)


def kinds(run):
    """Give the kinds of all entries."""
    return [kind_of(entry) for entry in rigs.trail_of(run)[1]]


def test_every_version_carries_its_quorum(scene):
    """The baseline's and the promoted version's proof each bear the cosignatures of two witnesses."""
    for version in ("0", "1"):
        proof = LogProof.parse((scene.run / "models" / version / "authorisation.proof").read_bytes())
        assert len(cosignatures(proof.head, scene.keys.values())) == 2


def test_a_reader_finds_the_head_cosigned(scene):
    """After a generation both verifiers call the log valid and fresh by its witnesses, two of three."""
    key = scene.run / "keys" / "log.pub"
    freshness = Freshness(witnesses=WitnessVerifier.load(scene.pub), quorum=2)
    assert verify_run(RunFolder(scene.run), key, freshness=freshness)["verdict"] == "valid and fresh"
    command = [sys.executable, ROOT / "audits" / "verify.py", scene.run, "--key", key, "--witness", scene.pub]
    done = subprocess.run([*command, "--quorum", "2"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(":")[0]) == (0, "valid and fresh")
    done = subprocess.run([*command, "--quorum", "3"], capture_output=True, text=True, check=False)
    assert done.returncode == 7


def test_the_status_says_who_signed(scene):
    """`lockgate status` names the witnesses that cosigned, and why the other did not."""
    state, _ = rigs.trail_of(scene.run)
    told = witness_standing(RunFolder(scene.run), state)
    assert (sorted(told["cosigned"]), told["quorum"], told["size"]) == (["a", "b"], True, state.size)
    assert "refused" in told["problems"]["c"]
    done = CliRunner().invoke(app, ["status", str(scene.run)])
    assert "Witnesses: 2 of 3 have cosigned" in done.stdout.replace("\n", " ")
    assert "c: it cannot be asked" in done.stdout.replace("\n", " ")


def stopped(rig, scene, run, *, after=None):
    """Run a generation whose candidate deserves promotion while only one witness is there, or until `after`."""
    servers = contextlib.ExitStack()
    servers.enter_context(scene.witnesses("ab" if after else "a"))

    def listen(_index, entry):
        if after is not None and kind_of(entry) == after:
            servers.close()

    opened = rig.open(run, scene.subject, listener=listen)
    try:
        with servers, pytest.raises(Halt):
            generation(opened, 2, BETTER_YET)
        return opened.supervisor.state
    finally:
        opened.close()


def resumed(rig, scene, run, names="bc"):
    """Lift the halt while these witnesses are there, and settle the generation."""
    with scene.witnesses(names):
        opened = rig.open(run, scene.subject)
        try:
            opened.rooms.journal.commit(Resumed(by="operator"))
            opened.supervisor.settle(2)
            return opened.supervisor.state
        finally:
            opened.close()


@pytest.mark.parametrize("after", [None, "authorised"])
def test_without_its_quorum_nothing_goes_live_and_nothing_is_lost(rig, scene, copy, after):
    """The run halts, says who is missing, and goes on from there when they are back: nothing is tested again."""
    state = stopped(rig, scene, copy, after=after)
    assert state.live == live_version(copy) == 1
    assert state.halt.by == "supervisor"
    assert "of 2 required witnesses have cosigned" in state.halt.reason
    assert "b: it cannot be asked" in state.halt.reason
    assert kinds(copy).count("authorised") == (1 if after is None else 2)
    again = resumed(rig, scene, copy)
    assert again.live == live_version(copy) == 2
    assert {kind: kinds(copy).count(kind) for kind in ("measured", "decided", "authorised", "voided")} == {
        "measured": 2, "decided": 2, "authorised": 2, "voided": 0,
    }  # fmt: skip
    verify_run(RunFolder(copy), RunFolder(copy).public_key)
    assert replay_run(RunFolder(copy))["decisions"] == 2


def test_the_status_of_a_halted_run_says_why(rig, scene, copy):
    """A run that halted for want of its quorum says so in words, with what to do, and exits with 0 as any status."""
    stopped(rig, scene, copy)
    told = CliRunner().invoke(app, ["status", str(copy)]).stdout.replace("\n", " ")
    assert "halted by the supervisor: 1 of 2 required witnesses" in told
    assert "lockgate resume" in told


def told_of(run):
    """Give what `lockgate status` says, in one line."""
    return CliRunner().invoke(app, ["status", str(run)]).stdout.replace("\n", " ")


def test_the_deadline_of_an_authorisation_is_told(rig, scene, copy):
    """Halted with an authorisation in hand, the run says until when it is good: in the log, in words and as JSON."""
    state = stopped(rig, scene, copy, after="authorised")
    (authorised,) = state.authorised.values()
    assert state.halt.reason.startswith(f"proposal 2 is authorised until {authorised.expires}: resumed after that, it")
    assert f"was authorised as version 2 until {authorised.expires} (60 minutes left)" in told_of(copy)
    told = json.loads(CliRunner().invoke(app, ["status", str(copy), "--json"]).stdout)["authorised"]
    assert told == [{"proposal": 2, "version": 2, "expires": authorised.expires}]


def test_without_an_authorisation_there_is_no_deadline(rig, scene, copy):
    """Halted before it was authorised, a proposal waits for as long as it takes, and no time is named."""
    state = stopped(rig, scene, copy)
    assert "authorised until" not in state.halt.reason + told_of(copy)
    assert json.loads(CliRunner().invoke(app, ["status", str(copy), "--json"]).stdout)["authorised"] == []


def test_an_authorisation_that_expired_meanwhile_is_voided_without_witnesses(rig, scene, copy, monkeypatch):
    """Past its deadline the proposal is voided with the reason, witnesses or none, and the run goes on."""
    monkeypatch.setattr(promotion, "AUTHORISATION_LIFE", timedelta(0))
    state = stopped(rig, scene, copy, after="authorised")
    (authorised,) = state.authorised.values()
    assert f"until {authorised.expires}, which is past" in told_of(copy)
    again = resumed(rig, scene, copy, names="")
    assert (again.halt, again.live, again.proposals[2].outcome) == (None, 1, "voided")
    reason = next(entry.reason for entry in rigs.trail_of(copy)[1] if kind_of(entry) == "voided")
    assert reason == f"the authorisation has expired: it was good until {authorised.expires}"
    assert "authorised as version" not in told_of(copy)


def test_witnesses_that_do_not_know_a_new_key_are_told_of_it(rig, scene, copy):
    """After a rotation, witnesses with the old log.pub answer 403, and the error says what to give them; then all is well."""
    rotate_keys(RunFolder(copy), "a test", PassphraseSource(None))
    with scene.witnesses("ab"):
        opened = rig.open(copy, scene.subject)
        try:
            with pytest.raises(Halt):
                generation(opened, 2, BETTER_YET)
            reason = opened.supervisor.state.halt.reason
        finally:
            opened.close()
    assert "a: it answered 403" in reason
    assert "after `lockgate keys rotate`, give it the longer keys/log.pub" in reason
    with scene.witnesses("ab", chain=VerifierChain.load(copy / "keys" / "log.pub")):
        opened = rig.open(copy, scene.subject)
        try:
            opened.rooms.journal.commit(Resumed(by="operator"))
            opened.supervisor.settle(2)
        finally:
            opened.close()
    assert live_version(copy) == 2


def test_an_absent_witness_is_not_told_to_be_of_an_old_key(rig, scene, copy):
    """The remedy for a rotation is named where a witness answered 403, and nowhere else."""
    assert "keys rotate" not in stopped(rig, scene, copy).halt.reason


def halted(run, *options):
    """Halt a run that nobody is at work on, by the command; give what it says."""
    done = CliRunner().invoke(app, ["halt", str(run), "--reason", "a look", *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_halt_beside_the_loop_is_cosigned(scene, copy):
    """Halted while no supervisor is at work, the log's new head bears its witnesses' cosignatures."""
    with scene.witnesses("ab"):
        told = json.loads(halted(copy, "--json"))
    assert told == {"halted": True, "logged": True, "uncosigned": None}
    assert kinds(copy)[-1] == "halted"
    freshness = Freshness(witnesses=WitnessVerifier.load(scene.pub), quorum=2)
    report = verify_run(RunFolder(copy), RunFolder(copy).public_key, freshness=freshness)
    assert report["verdict"] == "valid and fresh"


@pytest.mark.parametrize("names", ["", "a"])
def test_a_halt_does_not_wait_for_witnesses(scene, copy, names):
    """Without its witnesses the halt is logged all the same, and says that they have not cosigned it."""
    with scene.witnesses(names):
        told = halted(copy)
    assert "its witnesses have not cosigned that yet" in told
    assert f"{len(names)} of 2 required" in told
    assert kinds(copy)[-1] == "halted"
    assert rigs.trail_of(copy)[0].halt.reason == "a look"


def test_a_witness_that_lies_does_not_count(rig, scene, copy):
    """A witness that answers under another key than the configured one is as good as none."""
    shutil.rmtree(scene.place / "b")
    make_witness(scene.place / "b", "witness.example/b")
    with scene.witnesses("ab"):
        opened = rig.open(copy, scene.subject)
        try:
            with pytest.raises(Halt):
                generation(opened, 2, BETTER_YET)
        finally:
            opened.close()
        assert opened.supervisor.state.live == 1
        assert "no cosignature by the key that is configured" in opened.supervisor.state.halt.reason


def test_a_run_put_back_is_refused(rig, scene, copy, tmp_path):
    """A run put back to an earlier state, key, ledger and all, is known to its witnesses: nothing is promoted."""
    backup = rigs.copy_run(copy, tmp_path / "backup")
    with scene.witnesses("ab"):
        opened = rig.open(copy, scene.subject)
        generation(opened, 2, knobs(steps=10))
        opened.close()
        again = rig.open(backup, scene.subject)
        try:
            with pytest.raises(Halt):
                generation(again, 2, BETTER_YET)
        finally:
            again.close()
    assert live_version(backup) == 1
    assert "history was rewritten" in again.supervisor.state.halt.reason


def test_one_forgetful_witness_does_not_hide_it(rig, scene, copy, tmp_path):
    """A run and one of two witnesses put back together are still refused by the other one."""
    backup = rigs.copy_run(copy, tmp_path / "backup")
    with scene.witnesses("ab"):
        opened = rig.open(copy, scene.subject)
        generation(opened, 2, knobs(steps=10))
        opened.close()
    shutil.rmtree(scene.place / "a")
    shutil.copytree(tmp_path / "kept" / "a", scene.place / "a")
    with scene.witnesses("ab"):
        again = rig.open(backup, scene.subject)
        try:
            with pytest.raises(Halt):
                generation(again, 2, BETTER_YET)
        finally:
            again.close()
    assert "1 of 2 required" in again.supervisor.state.halt.reason


def test_a_rollback_needs_no_witness(rig, scene, copy):
    """An operator's rollback works while no witness does: the way back to what was allowed stays open."""
    opened = rig.open(copy, scene.subject)
    try:
        opened.supervisor.rollback(0, by="operator", reason="a test")
    finally:
        opened.close()
    assert live_version(copy) == 0


def test_a_repaired_version_keeps_the_proof_that_its_witnesses_signed(copy):
    """Where the proof still holds, a damaged version comes back with it, and no witness is needed."""
    proof = copy / "models" / "1" / "authorisation.proof"
    before = proof.read_bytes()
    (copy / "models" / "1" / "weights.safetensors").unlink()
    repair(RunFolder(copy), lambda _: None)
    assert proof.read_bytes() == before
    verify_run(RunFolder(copy), RunFolder(copy).public_key)


def test_a_repair_that_was_cut_needs_no_witness_either(copy, monkeypatch):
    """Cut between moving the damage away and putting the version back, the proof that was kept is used again."""
    proof = copy / "models" / "1" / "authorisation.proof"
    before = proof.read_bytes()
    (copy / "models" / "1" / "weights.safetensors").unlink()

    def cut(run, path):
        set_aside(run, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(live, "set_aside", cut)
        with pytest.raises(KeyboardInterrupt):
            repair(RunFolder(copy), lambda _: None)
    assert not proof.exists()
    repair(RunFolder(copy), lambda _: None)
    assert proof.read_bytes() == before


def test_a_lost_proof_comes_back_under_the_quorum_of_today(rig, scene, copy):
    """With the proof gone, a version comes back when enough witnesses cosign a later head; until then it does not."""
    opened = rig.open(copy, scene.subject)  # a later head than the one of the proof, and nobody has cosigned it
    opened.close()
    shutil.rmtree(copy / "models" / "1")
    with scene.witnesses("a"), pytest.raises(AuditError, match=r"1 of 2 required.*b: it cannot be asked"):
        repair(RunFolder(copy), lambda _: None)
    assert not (copy / "models" / "1").exists()
    with scene.witnesses("bc"):
        repair(RunFolder(copy), lambda _: None)
    proof = LogProof.parse((copy / "models" / "1" / "authorisation.proof").read_bytes())
    assert len(cosignatures(proof.head, scene.keys.values())) == 2
    key = copy / "keys" / "log.pub"
    verify_run(RunFolder(copy), key)
    command = [sys.executable, ROOT / "audits" / "verify.py", copy, "--key", key]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    trust = Trust.load(key, witnesses=[scene.pub], quorum=2)
    assert read_bundle(copy / "models" / "1", trust).version == 1


@pytest.mark.usefixtures("copy")
def test_a_run_begins_under_its_quorum_or_not_at_all(rig, scene, tmp_path):
    """Without its quorum the baseline does not go live; the start is repeated later, with the same genesis."""
    fresh = tmp_path / "fresh"
    other = Signer.generate("lockgate-digits-fresh")
    rigs.lay_vault_key(fresh)
    other.save(fresh / "private" / "signing.key")
    (fresh / "keys").mkdir()
    other.verifier.save(fresh / "keys" / "log.pub")
    with scene.witnesses("ab"), pytest.raises(AuditError, match="0 of 2 required"):
        rig.open(fresh, scene.subject, seed=0)  # these witnesses do not know its key
    assert live_version(fresh) is None
    assert kinds(fresh) == ["genesis", "started"]
    scene.signer, old = other, scene.signer
    try:
        with scene.witnesses("bc"):
            rig.open(fresh, scene.subject).close()
    finally:
        scene.signer = old
    assert live_version(fresh) == 0
    assert kinds(fresh) == ["genesis", "started", "started"]


def test_a_guard_changes_without_witnesses_and_nothing_goes_live_without_them(rig, scene, copy, tmp_path):
    """A change of the guard waits for no witness, cannot drop them, and what is promoted under it has its quorum."""
    stricter = rigs.vary(scene.subject, tmp_path / "stricter", ("margin: 0.08", "margin: 0.07"))
    text = (scene.subject / "lockgate.yaml").read_text()
    alone = rigs.vary(scene.subject, tmp_path / "alone")
    (alone / "lockgate.yaml").write_text(re.sub(r"witnesses:\n(  .*\n)+", "", text))
    arguments = {"by": "operator", "reason": "", "vault_key": None, "seconds": 20.0}
    with pytest.raises(ConfigError, match="witnesses is the run's for good"):
        propose_guard(RunFolder(copy), alone, PassphraseSource(None), **arguments)
    assert propose_guard(RunFolder(copy), stricter, PassphraseSource(None), **arguments)["require"] == 0
    opened = rig.open(copy, stricter)
    try:
        assert opened.supervisor.state.change is None
        with pytest.raises(Halt):
            generation(opened, 2, BETTER_YET)
        assert opened.supervisor.state.live == 1
        with scene.witnesses("ab"):
            opened.rooms.journal.commit(Resumed(by="operator"))
            opened.supervisor.settle(2)
        assert opened.supervisor.state.live == 2
    finally:
        opened.close()
    folder = RunFolder(copy)
    assert verify_run(folder, folder.public_key)["verdict"].startswith("valid")
    assert replay_run(folder)["guards"] == 1
