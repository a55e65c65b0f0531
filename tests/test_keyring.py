"""Facts about a run's keys: rotation, whatever cuts it; what a stolen old key is worth; who made them, where they lie."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

import paper_run
import pytest
import rigs
from paper_run import NEW, OLD

from harness import keyfile
from harness.auditing import Freshness, verify_run
from harness.auditlog import AuditLog
from harness.entries import Halted, Intended
from harness.errors import AuditError, ConfigError, KeyFileError, StateError
from harness.folder import RunFolder
from harness.keyfile import Cost, is_encrypted
from harness.keyring import change_passphrase, key_in_force, make_keys, standing
from harness.keys import Signer, VaultKey, VerifierChain
from harness.notes import TreeHead, sign_head
from harness.opening import _signer, _vault_key, open_journal
from harness.operating import change_keys_passphrase, halt, init_keys, keys_of, rotate_keys
from harness.passphrase import Passphrase, PassphraseSource

SECRET = Passphrase(b"correct horse")
SIZE = 27  # entries of the paper run
pytestmark = pytest.mark.usefixtures("quick_disk", "_cheap")

_spec = importlib.util.spec_from_file_location("verify", Path(__file__).parent.parent / "audits" / "verify.py")
independent = importlib.util.module_from_spec(_spec)
sys.modules["verify"] = independent
_spec.loader.exec_module(independent)


@pytest.fixture(scope="module")
def _cheap():
    """Take cheap parameters: what is written with the real ones is shown in test_keyfile.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyfile.encrypt, "__kwdefaults__", {"cost": Cost(8, 1, 1)})
        yield


def handed(secret: Passphrase | None = SECRET) -> PassphraseSource:
    """Hand a passphrase over through a descriptor; or nothing."""
    if secret is None:
        return PassphraseSource()
    read, write = os.pipe()
    os.write(write, secret.reveal() + b"\n")
    os.close(write)
    return PassphraseSource(read)


def lay(folder: Path, entries: int) -> Path:
    """Write the beginning of the paper run with its private keys, encrypted."""
    paper_run.write(folder, lambda paper: paper_run.story(paper)[:entries])
    private = RunFolder(folder).private
    private.mkdir(mode=0o700)
    OLD.save(private / "signing.key", SECRET)
    VaultKey.create(private / "vault.key", SECRET)
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Write the whole paper run; it is not changed."""
    return lay(tmp_path_factory.mktemp("begun") / "run", SIZE)


@pytest.fixture
def run(begun, tmp_path):
    """Give a copy of it."""
    return RunFolder(rigs.copy_run(begun, tmp_path / "run"))


def kinds(run: RunFolder) -> list[str]:
    """Verify the run by a key from outside; give the kinds of its entries after the paper's own."""
    from harness.trail import trail

    verify_run(run, run.public_key)
    return [row["kind"] for row in trail(run)][SIZE:]


def test_a_rotation(run, tmp_path, capsys):
    """After a rotation the new key alone is here, encrypted like the old one; both verifiers take either key for the run."""
    OLD.verifier.save(tmp_path / "old.pub")
    told = rotate_keys(run, "a test", handed())
    assert (told["entry"], told["old"], told["encrypted"]) == (SIZE, OLD.verifier.vkey, True)
    assert sorted(path.name for path in run.private.iterdir()) == ["signing.key", "vault.key"]
    signer = Signer.load(run.signing_key, SECRET)
    assert signer.verifier.vkey == told["new"] != told["old"]
    assert VerifierChain.load(run.public_key) == (OLD.verifier, signer.verifier)
    signer.verifier.save(tmp_path / "new.pub")
    for name in ("old.pub", "new.pub"):
        assert verify_run(run, tmp_path / name)["size"] == SIZE + 1
        assert independent.main([str(run.root), "--key", str(tmp_path / name), "--json"]) == 0
    assert halt(run, "a test", handed())["logged"] is True
    assert kinds(run) == ["key-rotated", "halted"]
    capsys.readouterr()


def test_many_rotations(run):
    """A run is rotated again and again, and every key is listed with the entry since which it is in force."""
    run.signing_key.unlink()
    OLD.save(run.signing_key)
    for _ in range(3):
        rotate_keys(run, "a test", handed(None))
    told = keys_of(run.root)
    assert [key["since"] for key in told["keys"]] == [0, SIZE + 1, SIZE + 2, SIZE + 3]
    assert [key["in_force"] for key in told["keys"]] == [False, False, False, True]
    assert [key["private"] for key in told["keys"]] == ["not here"] * 3 + ["here, not encrypted"]
    assert told["vault_key"]["private"] == "here, encrypted"
    assert kinds(run) == ["key-rotated"] * 3


class Cut(BaseException):
    """The power is gone."""


class Power:
    """Goes at the N-th call that changes the disk, before or after it is done; nothing works after it."""

    def __init__(self, patch, at, *, after):
        """Stand before `os` for as long as `patch` lasts."""
        self.count, self.at, self.after = 0, at, after
        for name in ("open", "write", "fchmod", "fsync", "rename", "link", "mkdir", "unlink", "rmdir"):
            patch.setattr(os, name, self.call(name, getattr(os, name)))

    def call(self, name, real):
        """Wrap one function."""

        def wrapped(*args, **kwargs):
            if name == "open" and not args[1] & os.O_CREAT:
                if self.count >= self.at:
                    raise Cut
                return real(*args, **kwargs)
            self.count += 1
            if self.count == self.at and self.after:
                real(*args, **kwargs)
            if self.count >= self.at:
                raise Cut
            return real(*args, **kwargs)

        return wrapped


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_rotation_cut_at_every_call(tmp_path, after):
    """Wherever a rotation is cut the run verifies as it lies, opens with the key that its log says, and rotates again."""
    found, at, size = [], 0, 2
    begun = lay(tmp_path / "begun", size)
    while True:
        at += 1
        run = RunFolder(rigs.copy_run(begun, tmp_path / str(at)))
        with pytest.MonkeyPatch.context() as patch:
            Power(patch, at, after=after)
            try:
                rotate_keys(run, "a test", handed())
            except Cut:
                done = False
            else:
                done = True
        run.unlock()
        told = keys_of(run.root)["keys"]
        rotated = len(told) == 2
        found.append((rotated, run.next_signing_key.exists(), len(VerifierChain.load(run.public_key))))
        assert verify_run(run, run.public_key, log_only=True)["size"] == size + rotated
        assert told[-1]["private"] == "here, encrypted"
        journal = open_journal(run.root, unlock=lambda: SECRET)
        assert journal.verifier.vkey == told[-1]["vkey"]
        assert (journal.verifier == OLD.verifier) != rotated
        journal.commit(Halted(by="operator", reason="a test"))
        journal.close()
        assert {path.name for path in run.private.iterdir() if ".tmp-" not in path.name} == {"signing.key", "vault.key"}
        assert len(VerifierChain.load(run.public_key)) == 1 + rotated
        rotate_keys(run, "again", handed())
        assert verify_run(run, run.public_key, log_only=True)["size"] == size + rotated + 2
        shutil.rmtree(run.root)
        if done:
            break
    states = list(dict.fromkeys(found))
    assert states == [(False, False, 1), (False, True, 1), (False, True, 2), (True, True, 2), (True, False, 2)]


def steal(run: RunFolder, tmp_path: Path, signer: Signer) -> RunFolder:
    """Let somebody who holds this key append to a copy of a run whose log another key has gone on with."""
    copy = RunFolder(rigs.copy_run(run.root, tmp_path / "stolen"))
    body = {"time": "2026-01-03T00:00:00Z", "by": "operator", "reason": "theft"}
    journal_signer = key_in_force(copy, SECRET)
    with AuditLog.open(copy.log, journal_signer) as log:
        log.sign_with(signer)
        log.append([paper_run.sealed(paper_run.Item("halted", body), signer)])
    return copy


def refused(run: RunFolder, key: Path, head: Path | None, capsys) -> set[tuple[object, object]]:
    """Have both verifiers refuse a run; give the entry and the clause that each names."""
    with pytest.raises((AuditError, StateError)) as error:
        verify_run(run, key, freshness=Freshness(head=head))
    where = re.fullmatch(r"entry (\d+)", error.value.where or "")
    found = {(int(where[1]) if where else None, error.value.clause)}
    capsys.readouterr()
    arguments = [str(run.root), "--key", str(key), "--json", *(["--head", str(head)] if head else [])]
    assert independent.main(arguments) == 5
    report = json.loads(capsys.readouterr().out)
    return found | {(report["entry"], report["clause"])}


@pytest.mark.parametrize("held", ["old", "new"])
def test_a_stolen_old_key_cannot_go_on(run, tmp_path, capsys, held):
    """What the old key signs after its rotation, entry and head, both verifiers refuse, whichever key the reader holds."""
    rotate_keys(run, "a test", handed())
    new = Signer.load(run.signing_key, SECRET)
    key = tmp_path / "held.pub"
    (OLD if held == "old" else new).verifier.save(key)
    verify_run(run, key)
    stolen = steal(run, tmp_path, OLD)
    assert refused(stolen, key, None, capsys) == {(SIZE + 1, "§5.3")}
    # nor when the thief leaves the newer key out of the run's own list
    stolen.public_key.unlink()
    OLD.verifier.save(stolen.public_key)
    entries = {entry for entry, _ in refused(stolen, key, None, capsys)}
    assert entries <= {SIZE + 1, None}


def test_a_head_by_the_old_key_is_refused(run, tmp_path, capsys):
    """A head over the rotation that the old key has signed is refused, for it is not the key in force."""
    rotate_keys(run, "a test", handed())
    head = TreeHead.parse((run.log / "checkpoint").read_text().split("\n\n")[0] + "\n")
    (run.log / "checkpoint").write_bytes(sign_head(head, OLD))
    OLD.verifier.save(tmp_path / "old.pub")
    assert {clause for _, clause in refused(run, tmp_path / "old.pub", None, capsys)} == {"§3.2"}
    with pytest.raises(AuditError):
        halt(run, "a test", handed())


def test_a_fork_before_the_rotation_is_seen(run, begun, tmp_path, capsys):
    """A thief who goes on from before the rotation is refused by who holds the newer key, or a head beyond it (§12.3)."""
    rotate_keys(run, "a test", handed())
    Signer.load(run.signing_key, SECRET).verifier.save(tmp_path / "new.pub")
    OLD.verifier.save(tmp_path / "old.pub")
    head = tmp_path / "head"
    shutil.copy(run.log / "checkpoint", head)
    fork = steal(RunFolder(begun), tmp_path, OLD)
    assert {clause for _, clause in refused(fork, tmp_path / "new.pub", None, capsys)} == {"§2.3"}
    both = tmp_path / "both.pub"
    VerifierChain.load(run.public_key).save(both)
    assert {clause for _, clause in refused(fork, both, head, capsys)} == {"§11.1"}
    assert verify_run(fork, tmp_path / "old.pub")["size"] == SIZE + 1


def test_the_old_key_does_not_open_the_run(run):
    """A private key that was put back after its rotation opens the run for nobody who would write."""
    backup = run.signing_key.read_bytes()
    rotate_keys(run, "a test", handed())
    run.signing_key.write_bytes(backup)
    with pytest.raises(AuditError):
        halt(run, "a test", handed())
    assert kinds(run) == ["key-rotated"]


def test_neither_key_signed_the_head(run):
    """With two private keys of which none has signed the head, nothing is thrown away, and one error names the folder."""
    run.signing_key.unlink()
    NEW.save(run.signing_key)
    paper_run.THIEF.save(run.next_signing_key)
    with pytest.raises(AuditError, match="neither") as error:
        key_in_force(run, SECRET)
    assert error.value.remedy
    assert run.next_signing_key.exists()


def test_no_rotation_while_a_supervisor_is_at_work(run):
    """While the lock is held a rotation, and a change of the passphrase, are one error with a remedy, before any question."""
    run.lock()
    try:
        for call in (
            lambda: rotate_keys(RunFolder(run.root), "a test", handed(None)),
            lambda: change_keys_passphrase(RunFolder(run.root), handed(None), lambda: None),
        ):
            with pytest.raises(ConfigError, match="another supervisor") as error:
                call()
            assert error.value.remedy
    finally:
        run.unlock()
    assert not run.next_signing_key.exists()


def test_no_rotation_inside_a_swap(run):
    """While a swap is open a rotation is one error that names the way out, and leaves nothing behind."""
    journal = open_journal(run.root, unlock=lambda: SECRET)
    baseline = journal.state.versions[0].digest
    journal.commit(Intended(action="rollback", version=0, candidate=baseline, by="operator", reason="a test"))
    journal.close()
    with pytest.raises(ConfigError, match="a swap is open") as error:
        rotate_keys(run, "a test", handed())
    assert "resume" in error.value.remedy
    assert sorted(path.name for path in run.private.iterdir()) == ["signing.key", "vault.key"]
    assert len(VerifierChain.load(run.public_key)) == 1


def test_a_halt_needs_no_passphrase(run):
    """Without a passphrase, or with a wrong one, a halt takes effect, and says why the log does not have it."""
    for source in (handed(None), handed(Passphrase(b"wrong")), PassphraseSource(12345)):
        told = halt(run, "a test", source)
        assert (told["halted"], told["logged"]) == (True, False)
        assert "passphrase" in told["why"]
        assert run.halt.read_text() == "a test"
        run.halt.unlink()
    assert kinds(run) == []


@pytest.mark.parametrize("new", [Passphrase(b"battery staple"), None], ids=["another", "none"])
def test_another_passphrase(run, new):
    """Both key files are written again under the new passphrase or none; they hold the same keys, and the old one fails."""
    commitment = VaultKey.load(run.vault_key, SECRET).commitment()
    told = change_keys_passphrase(run, handed(), lambda: new)
    assert told == {"changed": [str(run.signing_key), str(run.vault_key)], "encrypted": new is not None}
    assert Signer.load(run.signing_key, new).verifier == OLD.verifier
    assert VaultKey.load(run.vault_key, new).commitment() == commitment
    assert {is_encrypted(path) for path in (run.signing_key, run.vault_key)} == {new is not None}
    if new is not None:
        with pytest.raises(KeyFileError, match="not the passphrase"):
            Signer.load(run.signing_key, SECRET)


def test_a_change_that_was_cut_is_done_again(run):
    """Where a change of the passphrase ended between the two files, the same command again ends it."""
    new = Passphrase(b"battery staple")
    OLD.save(run.signing_key, new, replace=True)
    assert len(change_passphrase(run, SECRET, new)) == 2
    assert VaultKey.load(run.vault_key, new)
    with pytest.raises(KeyFileError, match="not the passphrase"):
        change_passphrase(run, SECRET, Passphrase(b"yet another"))


def test_who_made_the_keys(tmp_path):
    """Keys that a run makes for itself are told from keys that were made before, and what that means is said in words."""
    own, configured, plain_ = (RunFolder(tmp_path / name) for name in ("own", "configured", "plain"))
    own.create()
    make_keys(own, "x", SECRET, own=True)
    assert (standing(own)["own"], standing(own)["encrypted"]) == (True, True)
    assert "keeps a copy of keys/log.pub elsewhere" in standing(own)["meaning"]
    init_keys(configured.root, "x", lambda: SECRET)
    assert standing(configured) == {"own": False, "encrypted": True, "meaning": ""}
    init_keys(plain_.root, "x", lambda: None)
    assert "not encrypted" in standing(plain_)["meaning"]
    # a first start that was cut before its key was written does not make configured keys its own
    Signer.generate("x").verifier.save(configured.own_key)
    assert standing(configured)["own"] is False
    told = keys_of(configured.root)
    assert [(key["since"], key["private"]) for key in told["keys"]] == [(None, "here, encrypted")]
    with pytest.raises(KeyFileError, match="already"):
        init_keys(configured.root, "x", lambda: pytest.fail("asked for nothing"))


def test_a_run_without_keys_makes_its_own(tmp_path):
    """At a first start without keys the run makes its own and says so, encrypted where a passphrase is handed over."""
    for name, secret in (("encrypted", SECRET), ("plain", None)):
        run, said = RunFolder(tmp_path / name), []
        run.create()
        signer = _signer(run, "x", secret, said.append)
        _vault_key(run.vault_key, secret, begun=False)
        assert said == ["no keys are configured: this run makes its own"]
        assert {is_encrypted(path) for path in (run.signing_key, run.vault_key)} == {secret is not None}
        assert standing(run)["own"] is True
        assert _signer(run, "x", secret, said.append).verifier == signer.verifier
        assert len(said) == 1


def test_public_keys_that_are_gone_are_not_made_up(run):
    """A run whose keys/log.pub is gone is not opened under a list that lacks its older keys: one error with the remedy."""
    rotate_keys(run, "a test", handed())
    run.public_key.unlink()
    with pytest.raises(ConfigError, match="public keys are gone") as error:
        _signer(run, "x", SECRET, lambda _: None)
    assert error.value.remedy
    assert not run.public_key.exists()


def test_a_rotation_may_begin_to_encrypt(run):
    """Where the old key lies plain, the new one is encrypted if a passphrase is handed over, and said to be."""
    OLD.save(run.signing_key, replace=True)
    assert rotate_keys(run, "a test", handed())["encrypted"] is True
    assert is_encrypted(run.signing_key)
    assert Signer.load(run.signing_key, SECRET)
