"""Facts about group commit, in the log and in the journal: who waits together is committed together."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import trails

from harness import auditlog
from harness.auditlog import AuditLog, check_log
from harness.entries import Halted, Resumed, Started
from harness.errors import AuditError, StateError, StoppingError
from harness.group_commit import GroupCommit
from harness.journal import Journal
from harness.keys import Signer

SIGNER = Signer.from_seed(trails.GENESIS.origin, bytes(32))
pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def log(tmp_path):
    """Give an empty log."""
    with AuditLog.create(tmp_path / "log", SIGNER, SIGNER.name) as log:
        yield log


@pytest.fixture
def journal(log):
    """Give a journal with genesis in it."""
    journal = Journal(log, SIGNER)
    journal.commit(trails.GENESIS)
    yield journal
    journal.close()


def heads_of(log, monkeypatch):
    """Count the heads that this log signs from here on."""
    sizes, real = [], log._append

    def counted(entries):
        real(entries)
        sizes.append(log.size)

    monkeypatch.setattr(log, "_append", counted)
    return sizes


class Waiting:
    """Calls from threads of their own, each queued in its turn behind a lock that the test holds."""

    def __init__(self, commits, lock):
        """Hold the lock until the block ends."""
        self.commits, self.lock, self.pool, self.futures = commits, lock, ThreadPoolExecutor(16), []

    def __enter__(self):
        """Let nobody through."""
        self.lock.acquire()
        return self

    def call(self, function, *arguments):
        """Call in a thread, and return when it waits."""
        self.futures.append(self.pool.submit(function, *arguments))
        until = time.monotonic() + 10
        while len(self.commits._waiting) < len(self.futures):
            assert time.monotonic() < until
            time.sleep(0.001)

    def __exit__(self, *error):
        """Let them through, and wait until all have their answer."""
        self.lock.release()
        self.pool.shutdown()


def test_who_waits_is_committed_under_one_head(log, monkeypatch):
    """Eight callers who wait for a ninth share one head; each gets the index of its own entries, which stay together."""
    sizes = heads_of(log, monkeypatch)
    with Waiting(log._commits, log._mutex) as waiting:
        for number in range(8):
            waiting.call(log.append, [b"%d" % number, b"%d again" % number])
    assert sizes == [16]
    entries = list(log.read())
    for number, future in enumerate(waiting.futures):
        at = future.result()
        assert entries[at : at + 2] == [b"%d" % number, b"%d again" % number]
    assert sorted(future.result() for future in waiting.futures) == list(range(0, 16, 2))
    others = [entry for entry in entries if entry.isdigit()][1:]
    assert others == sorted(others), "but for the one that writes, the order is that of the queue"


def test_threads_that_append_at_once_need_fewer_heads_and_lose_nothing(log, monkeypatch):
    """What sixteen threads append is all there, each thread's in its order, under fewer heads than there were calls."""
    sizes, real = heads_of(log, monkeypatch), auditlog.write_durably

    def slow(*arguments, **named):
        time.sleep(0.01)  # a disk, slow enough for threads to meet on a busy machine
        real(*arguments, **named)

    monkeypatch.setattr(auditlog, "write_durably", slow)

    def append(thread):
        return [log.append([b"%02d %02d" % (thread, number)]) for number in range(20)]

    with ThreadPoolExecutor(16) as pool:
        indices = list(pool.map(append, range(16)))
    entries = list(log.read())
    assert len(entries) == 16 * 20
    for thread, mine in enumerate(indices):
        assert [entries[at] for at in mine] == [b"%02d %02d" % (thread, number) for number in range(20)]
        assert mine == sorted(mine)
    assert len(sizes) < 16 * 20 / 4
    assert check_log(log._folder, SIGNER.verifier).size == 16 * 20


def test_a_lone_caller_waits_for_nobody(log, monkeypatch):
    """Calls one after another have a head each."""
    sizes = heads_of(log, monkeypatch)
    for number in range(5):
        assert log.append([b"x"]) == number
    assert sizes == [1, 2, 3, 4, 5]


def test_a_disk_that_fails_fails_every_caller_of_the_group(log, monkeypatch):
    """Where the group cannot be written each of its callers hears so, and the log opened again holds none of it."""
    log.append([b"before"])

    def full(*_arguments, **_named):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(auditlog, "write_durably", full)
        with Waiting(log._commits, log._mutex) as waiting:
            for number in range(4):
                waiting.call(log.append, [b"%d" % number])
    for future in waiting.futures:
        with pytest.raises(AuditError, match="No space left"):
            future.result()
    with pytest.raises(AuditError, match="no longer open"):
        log.append([b"after"])
    log.close()
    with AuditLog.open(log._folder, SIGNER) as again:
        assert list(again.read()) == [b"before"]


def test_an_entry_that_is_refused_harms_nobody_else(log):
    """A caller whose entry is too long hears so; those who wait beside it are committed."""
    with Waiting(log._commits, log._mutex) as waiting:
        waiting.call(log.append, [b"good"])
        with pytest.raises(AuditError, match="at most"):
            log.append([b"x" * 65_536])
    assert waiting.futures[0].result() == 0


def test_slots_that_finish_together_are_one_group(journal, monkeypatch):
    """What threads commit to the journal while it writes becomes one group, folded in order; all see the state."""
    journal.commit(*(trails.proposed(number, index=number - 1) for number in range(1, 7)))
    sizes = heads_of(journal.log, monkeypatch)
    with Waiting(journal._commits, journal.lock) as waiting:
        for number in range(1, 7):
            waiting.call(journal.commit, trails.screened(number))
    assert len(sizes) == 1
    assert sorted(future.result() for future in waiting.futures) == list(range(7, 13))
    assert all(found.screened is not None for found in journal.state.proposals.values())


def test_an_illegal_entry_costs_its_own_caller_alone(journal):
    """Among those who wait, the one whose entry may not stand there gets StateError; the others are committed."""
    journal.commit(trails.proposed(1), trails.proposed(2, index=1))
    with Waiting(journal._commits, journal.lock) as waiting:
        waiting.call(journal.commit, trails.screened(1))
        waiting.call(journal.commit, trails.screened(9))
        waiting.call(journal.commit, trails.proposed(3, index=2), trails.proposed(3, index=2))
        waiting.call(journal.commit, trails.screened(2))
    good, unknown, half, other = waiting.futures
    assert sorted([good.result(), other.result()]) == [3, 4]
    for refused in (unknown, half):
        with pytest.raises(StateError):
            refused.result()
    assert journal.state.size == journal.log.size == 5
    assert set(journal.state.proposals) == {1, 2}


def test_nothing_comes_between_what_is_seen_under_the_lock_and_its_entry(journal):
    """Whoever holds the lock commits before those who waited already, and nothing moved since they looked."""
    journal.commit(trails.proposed(1))
    with Waiting(journal._commits, journal.lock) as waiting:
        waiting.call(journal.commit, trails.screened(1))
        seen = journal.state.size
        assert journal.commit(Halted(by="operator", reason="a test")) == seen
        assert journal.commit(Resumed(by="operator")) == seen + 2, "the second one finds the others done"
    assert waiting.futures[0].result() == seen + 1


def test_who_waits_when_the_journal_is_frozen_is_told(journal):
    """Callers who wait while the journal is frozen get StoppingError, and nothing of theirs is committed."""
    size = journal.state.size
    with Waiting(journal._commits, journal.lock) as waiting:
        waiting.call(journal.commit, trails.proposed(1))
        journal.freeze()
    with pytest.raises(StoppingError):
        waiting.futures[0].result()
    assert journal.log.size == size


def test_a_rotation_shares_its_group_with_nobody(journal, monkeypatch):
    """What waits while the key is rotated is committed after it, under the new key."""
    sizes = heads_of(journal.log, monkeypatch)
    successor = Signer.from_seed(SIGNER.name, bytes([7] * 32))
    with Waiting(journal._commits, journal.lock) as waiting:
        waiting.call(journal.commit, Started(**trails.started("n").model_dump()))
        index = journal.rotate(successor, "a test")
    assert sizes == [index + 1, index + 2]
    assert waiting.futures[0].result() == index + 1
    assert journal.verifier == successor.verifier


def test_who_is_interrupted_while_waiting_is_not_committed_later():
    """A caller that leaves before its turn takes its item along."""
    written = []

    class Interrupting:
        """A lock whose first taker is interrupted."""

        taken = 0

        def acquire(self, **_how):
            self.taken += 1
            if self.taken == 1:
                raise KeyboardInterrupt
            return True

        def release(self):
            pass

    def write(calls):
        for call in calls:
            written.append(call.item)
            call.first = 0

    commits = GroupCommit(Interrupting(), write)
    with pytest.raises(KeyboardInterrupt):
        commits.commit("left")
    commits.commit("stayed")
    assert written == ["stayed"]


def test_when_the_first_is_interrupted_the_next_takes_its_place():
    """The one who waits for the lock leaves, interrupted: the one behind it is committed all the same."""

    class Interrupting:
        """A lock that is taken until its first waiter is interrupted."""

        def __init__(self):
            self.interrupt, self.inner = threading.Event(), threading.Lock()

        def acquire(self, *, blocking=True):
            if not blocking:
                return False
            if not self.interrupt.is_set():
                self.interrupt.wait()
                raise KeyboardInterrupt
            return self.inner.acquire()

        def release(self):
            self.inner.release()

    def write(calls):
        for call in calls:
            call.first = call.item

    lock = Interrupting()
    commits = GroupCommit(lock, write)
    with ThreadPoolExecutor(2) as pool:
        futures = []
        for number in (1, 2):
            futures.append(pool.submit(commits.commit, number))
            while len(commits._waiting) < number:
                time.sleep(0.001)
        lock.interrupt.set()
        assert isinstance(futures[0].exception(timeout=10), KeyboardInterrupt)
        assert futures[1].result(timeout=10) == 2


def test_a_write_that_settles_nothing_is_an_error():
    """A writer that forgets a call does not pass for one that wrote it."""
    with pytest.raises(AuditError, match="unsettled"):
        GroupCommit(threading.Lock(), lambda _calls: None).commit("x")


def test_the_writer_s_own_error_is_its_own(log, monkeypatch):
    """The caller that writes hears the error itself; those it carried are told that their group failed, and why."""
    monkeypatch.setattr(os, "fsync", lambda _file: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with Waiting(log._commits, log._mutex) as waiting:
        for number in range(3):
            waiting.call(log.append, [b"%d" % number])
    told = sorted(str(future.exception()).partition("for its group")[0] for future in waiting.futures)
    assert [text.startswith("not committed") for text in told] == [False, True, True]
    assert all("Input/output error" in str(future.exception()) for future in waiting.futures)
