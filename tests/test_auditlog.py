"""Facts about the writer of the audit log: what an append leaves, and what a failing disk does to it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import auditlog
from harness.auditlog import AuditLog, LogReader, check_log
from harness.cosignature import cosign
from harness.errors import AuditError
from harness.keys import Signer
from harness.merkle import leaf_hash, tree_hash, verify_consistency
from harness.notes import TreeHead, open_head

SIGNER = Signer.from_seed("example.org/run", bytes(32))
VERIFIER = SIGNER.verifier


@pytest.fixture
def tmp_path():
    """Give a folder in memory where there is one: thousands of small files, none of which need last."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True, scope="module")
def quick_disk():
    """Skip fsync here: what hangs on it is shown, call by call, in tests/crash/test_power_cut.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        yield


def root_of(entries):
    """Compute the root from the entries alone."""
    return tree_hash([leaf_hash(entry) for entry in entries])


def check_against(folder, entries):
    """Require that the log on disk holds exactly these entries, as a fresh reader and a full check see it."""
    assert check_log(folder, VERIFIER) == TreeHead("example.org/run", len(entries), root_of(entries))
    assert list(LogReader.open(folder, VERIFIER).read()) == entries


def test_an_empty_log(tmp_path):
    """A new log has a signed head of size 0, the empty root, and nothing to read."""
    log = AuditLog.create(tmp_path / "log", SIGNER, "example.org/run")
    assert (log.size, log.origin, list(log.read())) == (0, "example.org/run", [])
    check_against(tmp_path / "log", [])
    assert AuditLog.create(tmp_path / "other", SIGNER, "another/origin").origin == "another/origin"


GROUPS = st.lists(
    st.tuples(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.integers(0, 300), st.booleans()),
    min_size=1,
    max_size=5,
)


@settings(max_examples=30)
@given(GROUPS)
def test_the_log_is_the_list_of_what_was_appended(groups):
    """Whatever the groups and however often it is opened again, the log is their concatenation, and proofs hold."""
    with tempfile.TemporaryDirectory() as folder:
        _append_and_check(Path(folder) / "log", groups)


def _append_and_check(folder, groups):
    log, entries, heads = AuditLog.create(folder, SIGNER, "example.org/run"), [], []
    for group, more, reopen in groups:
        whole = group + [b"%d" % number for number in range(more)]
        assert log.append(whole) == len(entries)
        entries += whole
        heads.append(log.tree_head)
        assert (
            open_head(log.head, VERIFIER)
            == log.tree_head
            == TreeHead("example.org/run", len(entries), root_of(entries))
        )
        if reopen:
            log.close()
            log = AuditLog.open(folder, SIGNER, known=heads[-1])
    assert list(log.read()) == entries
    check_against(folder, entries)
    for at in {0, len(entries) // 2, len(entries) - 1}:
        assert log.prove(at).verify(entries[at], VERIFIER) == log.tree_head
        assert list(log.read(at, at + 1)) == [entries[at]]
    for head in heads:
        verify_consistency(head.size, log.size, log.consistency_proof(head.size), head.root, log.tree_head.root)
        log.reader.check_extends(head)
    log.close()


def test_the_largest_and_the_smallest_entry(tmp_path):
    """Entries of 0 and of 65,535 bytes are kept; one byte more, text, or an empty group is refused and harms nothing."""
    with AuditLog.create(tmp_path / "log", SIGNER, "example.org/run") as log:
        log.append([b"", b"x" * 65_535])
        for wrong in ([b"x" * 65_536], [b"ok", b"x" * 65_536], ["text"], [bytearray(1)], []):
            with pytest.raises(AuditError):
                log.append(wrong)
        log.append([b"after"])
    check_against(tmp_path / "log", [b"", b"x" * 65_535, b"after"])


def test_the_same_entry_again_and_again(tmp_path):
    """A tile whose hashes are those of the one before it is written all the same."""
    with AuditLog.create(tmp_path / "log", SIGNER, "example.org/run") as log:
        log.append([b"x"] * 200)
        log.append([b"x"] * 256)
    check_against(tmp_path / "log", [b"x"] * 456)


def test_files_lie_where_tlog_tiles_puts_them(tmp_path):
    """A log of 600 has the specification's files, tiles read-only, and no partial tile that a newer one replaced."""
    folder = tmp_path / "log"
    with AuditLog.create(folder, SIGNER, "example.org/run") as log:
        log.append([b"x"] * 255)
        log.append([b"x"] * 344)
        log.append([b"x"])
        log.append([b"x"])
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    partial = [f"tile/{kind}/002.p/{width}" for kind in ("0", "entries") for width in (88, 89)]
    full = [f"tile/{kind}/{index}" for kind in ("0", "entries") for index in ("000", "001")]
    assert names == sorted(["checkpoint", "tile/1/000.p/2", *full, *partial])
    assert {(folder / name).stat().st_mode & 0o777 for name in names if name != "checkpoint"} == {0o444}


def test_one_writer_at_a_time(tmp_path):
    """A second writer, in this process or another, is refused until the first closes."""
    folder = tmp_path / "log"
    log = AuditLog.create(folder, SIGNER, "example.org/run")
    with pytest.raises(AuditError, match="another writer"):
        AuditLog.open(folder, SIGNER)
    code = (
        "import sys; from harness.auditlog import AuditLog; from harness.keys import Signer\n"
        "AuditLog.open(sys.argv[1], Signer.from_seed('example.org/run', bytes(32)))"
    )
    other = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert "another writer" in other.stderr
    log.close()
    with pytest.raises(AuditError, match="closed"):
        log.append([b"x"])
    AuditLog.open(folder, SIGNER).close()


def test_a_failed_opening_releases_the_lock(tmp_path):
    """After an open that failed, the log can be opened."""
    folder = tmp_path / "log"
    AuditLog.create(folder, SIGNER, "example.org/run").close()
    for _ in range(2):
        with pytest.raises(AuditError):
            AuditLog.open(folder, Signer.from_seed("example.org/run", b"\x01" * 32))
        with pytest.raises(AuditError, match="already"):
            AuditLog.create(folder, SIGNER, "example.org/run")
    AuditLog.open(folder, SIGNER).close()


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb"])
def test_origins_are_names(tmp_path, name):
    """An origin has no space, newline or plus, and is not empty."""
    with pytest.raises(AuditError, match="name"):
        AuditLog.create(tmp_path / "log", SIGNER, name)


def test_a_missing_log_is_not_made_up(tmp_path):
    """Opening what is not there is an error; so is creating over tiles whose head is gone."""
    with pytest.raises(AuditError):
        AuditLog.open(tmp_path / "log", SIGNER)
    with AuditLog.create(tmp_path / "log", SIGNER, "example.org/run") as log:
        log.append([b"x"])
    (tmp_path / "log" / "checkpoint").unlink()
    with pytest.raises(AuditError):
        AuditLog.open(tmp_path / "log", SIGNER)
    with pytest.raises(AuditError, match="what is left"):
        AuditLog.create(tmp_path / "log", SIGNER, "example.org/run")


def test_a_log_put_back_is_seen_with_a_known_head(tmp_path):
    """An older signed head opens by itself, but not against a head that was kept elsewhere."""
    folder = tmp_path / "log"
    with AuditLog.create(folder, SIGNER, "example.org/run") as log:
        log.append([b"a"])
        older = log.head
        log.append([b"b"])
        known = log.tree_head
    (folder / "checkpoint").write_bytes(older)
    with pytest.raises(AuditError, match="cut"):
        AuditLog.open(folder, SIGNER, known=known)
    assert len(list((folder / "tile/0/000.p").iterdir())) == 2, "a refused log is left as it is"
    AuditLog.open(folder, SIGNER).close()


class Fault:
    """A disk whose N-th call fails, before or after it is done; a dead one does nothing more."""

    CALLS = ("open", "write", "fchmod", "fsync", "rename", "mkdir", "unlink", "rmdir")

    def __init__(self, patch, at, *, after, dead):
        """Stand before `os` for as long as `patch` lasts."""
        self.count, self.at, self.after, self.dead = 0, at, after, dead
        for name in self.CALLS:
            patch.setattr(os, name, self.call(name, getattr(os, name)))

    def call(self, name, real):
        """Wrap one function."""

        def wrapped(*args, **kwargs):
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)  # reading is not what fails here
            self.count += 1
            if self.count == self.at or (self.dead and self.count > self.at):
                if self.after and self.count == self.at:
                    result = real(*args, **kwargs)
                    if name == "open":
                        os.close(result)
                raise KeyboardInterrupt if self.dead else OSError(5, "EIO")
            return real(*args, **kwargs)

        return wrapped


STARTS = {"first": [], "next": [b"a", b"b"], "fills a tile": [b"%d" % number for number in range(254)]}


@pytest.mark.parametrize("dead", [False, True], ids=["error", "killed"])
@pytest.mark.parametrize("after", [False, True], ids=["failed", "failed but done"])
@pytest.mark.parametrize("start", STARTS)
def test_an_append_cut_at_every_call(tmp_path, start, after, dead):
    """Whichever call fails, the writer stops, and the log opened again has all of the group or none, and goes on."""
    group, outcomes, at = [b"x", b"y", b"z"], [], 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        log = AuditLog.create(folder, SIGNER, "example.org/run")
        if STARTS[start]:
            log.append(STARTS[start])
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, at, after=after, dead=dead)
            try:
                log.append(group)
            except (AuditError, KeyboardInterrupt):
                failed = True
            else:
                failed = False
        if fault.count < at:
            break
        if failed:  # removing a superseded file may fail without harm
            with pytest.raises(AuditError, match="no longer open"):
                log.append([b"more"])
        log.close()
        again = AuditLog.open(folder, SIGNER)
        held = list(again.read())
        assert held in (STARTS[start], STARTS[start] + group)
        assert failed or len(held) == len(STARTS[start]) + 3
        outcomes.append(len(held))
        again.append([b"other", b"than", b"before", b"longer"])
        again.append([b"one"])
        again.close()
        check_against(folder, [*held, b"other", b"than", b"before", b"longer", b"one"])
    assert len(set(outcomes)) == 2, "some cut falls before the new head and some after"
    assert len(outcomes) > 15


def test_a_create_cut_at_every_call(tmp_path):
    """Whichever call of a creation fails, creating or opening it again works."""
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at) / "log"
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, at, after=at % 2 == 0, dead=False)
            with contextlib.suppress(AuditError):
                AuditLog.create(folder, SIGNER, "example.org/run").close()
        if fault.count < at:
            break
        opener = AuditLog.open if (folder / "checkpoint").exists() else AuditLog.create
        arguments = () if opener == AuditLog.open else ("example.org/run",)
        with opener(folder, SIGNER, *arguments) as log:
            log.append([b"x"])
        check_against(folder, [b"x"])
    assert at > 6


def test_a_flipped_bit_on_the_way_to_the_disk_is_not_signed(tmp_path, monkeypatch):
    """Each file whose bytes change between memory and disk stops the append before its head is signed."""
    from harness import auditlog

    real = auditlog.write_together
    for number, target in enumerate(["entries", "/0/"] * 2):
        folder = tmp_path / str(number)
        with AuditLog.create(folder, SIGNER, "example.org/run") as log:
            log.append([b"old"] * 254)

            def flip(files, *, mode, target=target, late=number > 1):
                changed = []
                for path, data in files:
                    at = len(data) - 2 if late else 2
                    flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
                    changed.append((path, flipped if target in str(path) else data))
                real(changed, mode=mode)

            monkeypatch.setattr(auditlog, "write_together", flip)
            with pytest.raises(AuditError):
                log.append([b"new"])
            monkeypatch.setattr(auditlog, "write_together", real)
            with pytest.raises(AuditError, match="no longer"):
                log.append([b"new"])
        check_against(folder, [b"old"] * 254)


@pytest.mark.parametrize("part", ["bundle", "edge", "peaks", "front"])
@pytest.mark.parametrize("more", [1, 60])
def test_a_bit_that_flips_in_memory_is_not_signed(tmp_path, part, more):
    """Between two appends one bit of what the writer remembers flips: the next append is refused, the log stays whole."""

    def flipped(data):
        return data[:2] + bytes([data[2] ^ 1]) + data[3:]

    with AuditLog.create(tmp_path / "log", SIGNER, "example.org/run") as log:
        log.append([b"old"] * 100)
        log.append([b"old"] * 100)
        held = log._frontier
        changed = {"bundle": flipped(held.bundle), "edge": (flipped(held.edge[0]),)}
        changed["peaks"] = (flipped(held.peaks[0]), *held.peaks[1:])
        if part == "front":
            log._front = dataclasses.replace(log._front, data=flipped(log._front.data))
        else:
            log._frontier = dataclasses.replace(held, **{part: changed[part]})
        with pytest.raises(AuditError):
            log.append([b"new"] * more)
        with pytest.raises(AuditError, match="no longer"):
            log.append([b"new"])
    check_against(tmp_path / "log", [b"old"] * 200)


def test_cosignatures_stand_under_the_head_they_are_for(tmp_path):
    """Lines go under the head that was shown, durably; once the log has moved on they go nowhere, and all stays sound."""
    witness = Signer.from_seed("witness.example/w", b"\x05" * 32)
    folder = tmp_path / "log"
    with AuditLog.create(folder, SIGNER, SIGNER.name) as log:
        log.append([b"one"])
        shown = log.head
        line = cosign(log.tree_head.text, witness, 1).encode()
        assert log.cosign(shown, line)
        assert log.head == (folder / "checkpoint").read_bytes() == shown + line
        assert log.prove(0).head == shown + line
        log.append([b"two"])
        bare = log.head
        assert not log.cosign(shown, line)
        assert log.head == (folder / "checkpoint").read_bytes() == bare
        assert list(log.read()) == [b"one", b"two"]
    assert not log.cosign(bare, line)
    assert check_log(folder, SIGNER.verifier).size == 2


def test_a_head_that_cannot_be_cosigned_ends_the_writer(tmp_path, monkeypatch):
    """A disk that refuses the cosigned head ends the log as any failed write does; opened again, it is whole."""
    witness = Signer.from_seed("witness.example/w", b"\x05" * 32)
    folder = tmp_path / "log"
    with AuditLog.create(folder, SIGNER, SIGNER.name) as log:
        log.append([b"one"])
        line = cosign(log.tree_head.text, witness, 1).encode()

        def refuse(*_arguments, **_named):
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(auditlog, "write_durably", refuse)
            with pytest.raises(AuditError, match="Input/output error"):
                log.cosign(log.head, line)
        with pytest.raises(AuditError, match="no longer open"):
            log.append([b"two"])
    with AuditLog.open(folder, SIGNER) as log:
        log.append([b"two"])
        assert list(log.read()) == [b"one", b"two"]


@pytest.mark.parametrize("how", ["exchanged", "head put back"])
def test_a_log_exchanged_beneath_its_writer_is_not_gone_on_with(tmp_path, how):
    """When a backup took the folder's or the head's place, nothing is appended, and what lies there stays whole."""
    folder = tmp_path / "log"
    with AuditLog.create(folder, SIGNER, SIGNER.name) as log:
        log.append([b"one"])
        shutil.copytree(folder, tmp_path / "backup")
        log.append([b"two"])
        if how == "exchanged":
            folder.rename(tmp_path / "ours")
            shutil.copytree(tmp_path / "backup", folder)
        else:
            (folder / "checkpoint").write_bytes((tmp_path / "backup" / "checkpoint").read_bytes())
        with pytest.raises(AuditError, match="its lock is lost"):
            log.append([b"three"])
        with pytest.raises(AuditError, match="no longer open"):
            log.append([b"three"])
    assert check_log(folder, VERIFIER).size == 1
    with AuditLog.open(folder, SIGNER) as again:
        again.append([b"other"])
    assert check_log(folder, VERIFIER).size == 2
