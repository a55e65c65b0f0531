"""Facts about the journal: log and state in step, whole groups only, and the state shown only once it is durable."""

from __future__ import annotations

import threading

import pytest
import trails
from trails import Trail

from harness import auditlog
from harness.auditlog import AuditLog
from harness.entries import Halted, Resumed
from harness.envelope import seal, unseal
from harness.errors import AuditError, StateError
from harness.journal import Journal, read_run
from harness.keys import Signer
from harness.kinds import kind_of, subjects_of

SIGNER, STRANGER = (
    Signer.from_seed(trails.GENESIS.origin, bytes(32)),
    Signer.from_seed(trails.GENESIS.origin, bytes([1] * 32)),
)
pytestmark = pytest.mark.usefixtures("quick_disk")


def open_journal(folder, **arguments):
    """Open the journal of the tests, or begin it."""
    exists = (folder / "checkpoint").exists()
    log = AuditLog.open(folder, SIGNER) if exists else AuditLog.create(folder, SIGNER, trails.GENESIS.origin)
    return Journal(log, SIGNER, **arguments)


def sealed(entry, signer):
    """Seal an entry as the journal would."""
    body = entry.model_copy(update={"time": "2026-01-01T00:00:00+00:00"}).json_value()
    return seal(kind_of(entry), body, subjects_of(entry), signer)


@pytest.fixture
def journal(tmp_path):
    """Give a journal with genesis in it."""
    journal = open_journal(tmp_path / "log")
    journal.commit(trails.GENESIS)
    yield journal
    journal.close()


def test_what_is_committed_comes_back(tmp_path):
    """A journal opened again folds to the same state, and an outsider reads the same entries."""
    journal, given = open_journal(tmp_path / "log"), []
    for entry in trails.samples():
        given.append(trails.answered_again(entry, journal.state))
        journal.commit(given[-1])
    state = journal.state
    journal.close()
    again = open_journal(tmp_path / "log")
    assert again.state == state
    again.close()
    read, entries = read_run(tmp_path / "log", SIGNER.verifier)
    assert read == state
    assert [entry.model_copy(update={"time": ""}) for entry in entries] == [
        entry.model_copy(update={"time": ""}) for entry in given
    ]


def test_an_illegal_entry_never_reaches_the_disk(journal):
    """An entry that may not stand there raises StateError, and neither log nor state changes."""
    state, size = journal.state, journal._log.size
    with pytest.raises(StateError):
        journal.commit(trails.screened(1))
    assert (journal.state, journal._log.size) == (state, size)


def test_a_group_is_all_or_nothing(journal):
    """Where the last entry of a group is illegal, none of the group is in the log."""
    state, size = journal.state, journal._log.size
    with pytest.raises(StateError):
        journal.commit(trails.proposed(1), trails.proposed(2), trails.proposed(2))
    assert (journal.state, journal._log.size) == (state, size)
    assert journal.commit(trails.proposed(1), trails.proposed(2)) == size
    assert journal.state.size == size + 2


def test_a_disk_that_fails_changes_no_state(tmp_path, monkeypatch):
    """Where the append fails the state stays, nobody is told, and the log opens again as it was."""
    told = []
    journal = open_journal(tmp_path / "log", listener=lambda index, _: told.append(index))
    journal.commit(trails.GENESIS)
    state = journal.state

    def full(*_arguments, **_named):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(auditlog, "write_durably", full)
        with pytest.raises(AuditError, match="No space left"):
            journal.commit(trails.proposed(1))
    assert journal.state == state
    assert told == [0]
    with pytest.raises(AuditError, match="no longer open"):
        journal.commit(trails.proposed(1))
    journal.close()
    again = open_journal(tmp_path / "log")
    assert again.state == state
    again.commit(trails.proposed(1))
    again.close()


def test_the_listener_hears_what_is_durable(tmp_path):
    """The listener is told of each entry with its index, when it is in the log and in the state."""
    heard = []
    journal = open_journal(tmp_path / "log", listener=lambda i, e: heard.append((i, kind_of(e), journal._log.size > i)))
    journal.commit(trails.GENESIS)
    journal.commit(trails.proposed(1), trails.proposed(2))
    journal.close()
    assert heard == [(0, "genesis", True), (1, "proposed", True), (2, "proposed", True)]


def test_every_entry_is_stamped(journal):
    """Each entry carries the time of its commit, whatever time it came with."""
    index = journal.commit(Halted(by="operator", reason="a test", time="1970-01-01T00:00:00+00:00"))
    assert unseal(journal.raw(index), SIGNER.verifier).body["time"] > "2020"
    assert journal.state.last_time == unseal(journal.raw(index), SIGNER.verifier).body["time"]


def test_threads_that_commit_at_once_lose_nothing(journal):
    """Entries committed from many threads are all there, in one legal order."""

    def halt_and_resume():
        for _ in range(5):
            with journal.lock:
                journal.commit(Halted(by="operator", reason="a test"))
                journal.commit(Resumed(by="operator"))

    threads = [threading.Thread(target=halt_and_resume) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.state.size == 1 + 6 * 5 * 2


def test_a_stranger_s_signature_is_refused(tmp_path):
    """A log that another key signed is an AuditError, for the supervisor and for a reader."""
    open_journal(tmp_path / "log").close()
    with pytest.raises(AuditError):
        AuditLog.open(tmp_path / "log", STRANGER)
    with pytest.raises(AuditError):
        read_run(tmp_path / "log", STRANGER.verifier)


def test_an_entry_signed_by_a_stranger_is_refused(tmp_path):
    """An entry that stands in a good log under another key's seal is an AuditError."""
    with AuditLog.create(tmp_path / "log", SIGNER, trails.GENESIS.origin) as log:
        log.append([sealed(trails.GENESIS, STRANGER)])
    with pytest.raises(AuditError):
        read_run(tmp_path / "log", SIGNER.verifier)
    with pytest.raises(AuditError):
        open_journal(tmp_path / "log")


def test_an_illegal_order_under_a_good_signature_is_refused(tmp_path):
    """A log whose owner signed an illegal order is a StateError that names the entry, for everybody who reads it."""
    with AuditLog.create(tmp_path / "log", SIGNER, trails.GENESIS.origin) as log:
        for entry in (trails.GENESIS, trails.proposed(1), trails.built(1)):
            log.append([sealed(entry, SIGNER)])
    with pytest.raises(StateError) as error:
        read_run(tmp_path / "log", SIGNER.verifier)
    assert error.value.where == "entry 2"


def test_closing_gives_everything_back(tmp_path):
    """A closed journal releases the log, and calls what it was given to call."""
    released = []
    journal = open_journal(tmp_path / "log", release=lambda: released.append(1))
    journal.close()
    assert released == [1]
    open_journal(tmp_path / "log").close()


def test_each_entry_names_what_it_is_about(journal):
    """The subject of an entry's statement is the digest of the candidate, document or guard that it is about."""
    trail = Trail().begin().develop(1)
    for entry in trail.entries[2:]:
        journal.commit(entry)
    subjects = [unseal(journal.raw(index), SIGNER.verifier).subjects for index in range(4)]
    assert subjects[0] == {"baseline": trails.candidate("baseline").digest}
    assert subjects[1] == {"document": trails.sha("document 1")}
    assert subjects[3] == {"candidate": trails.candidate(1).digest}
