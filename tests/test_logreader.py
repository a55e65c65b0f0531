"""Facts about reading an audit log: nothing that was changed is believed, and a writer does not disturb."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.auditlog import AuditLog
from harness.errors import AuditError
from harness.keys import Signer
from harness.logreader import LogReader, check_log
from harness.merkle import leaf_hash, tree_hash
from harness.notes import TreeHead, sign_head

SIGNER = Signer.from_seed("example.org/run", bytes(32))
VERIFIER = SIGNER.verifier
ENTRIES = [b"entry number %d" % number for number in range(600)]


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


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """Write a log of 600 entries: full and partial tiles on two levels."""
    folder = tmp_path_factory.mktemp("big") / "log"
    with AuditLog.create(folder, SIGNER, "example.org/run") as log:
        log.append(ENTRIES)
    return folder


@given(st.integers(0, 600), st.integers(0, 600))
def test_any_range_is_the_slice(big, start, stop):
    """Reading [start, stop) gives the slice, and an impossible range is an AuditError at once."""
    reader = LogReader.open(big, VERIFIER)
    if start <= stop:
        assert list(reader.read(start, stop)) == ENTRIES[start:stop]
    else:
        with pytest.raises(AuditError):
            reader.read(start, stop)


def test_outside_the_log(big):
    """Entries and proofs beyond the head are AuditErrors."""
    reader = LogReader.open(big, VERIFIER)
    for call in (
        lambda: reader.read(-1), lambda: reader.read(0, 601), lambda: reader.inclusion_proof(600),
        lambda: reader.consistency_proof(601), lambda: reader.bundle(3), lambda: reader.prove(-1),
    ):  # fmt: skip
        with pytest.raises(AuditError):
            call()


@given(st.integers(0, 599))
def test_proofs_hold(big, index):
    """Any entry is proven by its file of proof."""
    LogReader.open(big, VERIFIER).prove(index).verify(ENTRIES[index], VERIFIER, origin="example.org/run")


def files_of(folder):
    """List all files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def overwrite(path, data):
    """Put other bytes into a read-only file."""
    path.chmod(0o644)
    path.write_bytes(data)


@settings(max_examples=50)
@given(st.data())
def test_every_changed_file_of_a_large_log_is_seen(big, tmp_path_factory, data):
    """A byte changed, bytes cut off or added, or the file gone: any file of a log of 600 is missed."""
    folder = tmp_path_factory.mktemp("copy") / "log"
    shutil.copytree(big, folder)
    path = data.draw(st.sampled_from(files_of(folder)))
    original = path.read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    changed = data.draw(
        st.sampled_from(
            [original[:at] + bytes([original[at] ^ 8]) + original[at + 1 :], original[:at], original + b"\0", None]
        )
    )
    path.unlink()
    if changed is not None:
        path.write_bytes(changed)
    with pytest.raises(AuditError):
        check_log(folder, VERIFIER)
    shutil.rmtree(folder)


def test_swapped_files_are_seen(big, tmp_path):
    """Full tiles or bundles that changed places are AuditErrors."""
    for kind in ("0", "entries"):
        folder = tmp_path / kind
        shutil.copytree(big, folder)
        first, second = folder / "tile" / kind / "000", folder / "tile" / kind / "001"
        first.rename(folder / "x")
        second.rename(first)
        (folder / "x").rename(second)
        with pytest.raises(AuditError):
            check_log(folder, VERIFIER)


def test_the_place_is_named(big, tmp_path):
    """The error for a changed entry names its index."""
    folder = tmp_path / "log"
    shutil.copytree(big, folder)
    path = folder / "tile/entries/001"
    overwrite(path, path.read_bytes().replace(b"entry number 300", b"entry number 3OO"))
    with pytest.raises(AuditError) as caught:
        check_log(folder, VERIFIER)
    assert caught.value.where == "entry 300"


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "huge"])
@pytest.mark.parametrize("name", ["checkpoint", "tile/0/000", "tile/entries/000"])
def test_only_regular_files_of_bounded_size_are_read(big, tmp_path, name, kind):
    """A link (even to the right bytes), a FIFO, a folder and a sparse terabyte are AuditErrors, without hanging."""
    folder = tmp_path / "log"
    shutil.copytree(big, folder)
    path = folder / name
    path.rename(tmp_path / "kept")
    if kind == "link":
        path.symlink_to(tmp_path / "kept")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(AuditError):
        check_log(folder, VERIFIER)


def test_a_forked_or_replaced_log_is_seen(big, tmp_path):
    """A whole log that is valid under the key, but another history, does not extend a head kept elsewhere."""
    with AuditLog.create(tmp_path / "log", SIGNER, "example.org/run") as log:
        log.append([*ENTRIES[:-1], b"another end", b"more"])
    known = LogReader.open(big, VERIFIER).tree_head
    check_log(tmp_path / "log", VERIFIER)
    with pytest.raises(AuditError, match="rewritten"):
        check_log(tmp_path / "log", VERIFIER, known=known)
    with pytest.raises(AuditError, match="not"):
        check_log(tmp_path / "log", VERIFIER, origin="example.org/other")
    other = TreeHead("example.org/other", 0, known.root)
    with pytest.raises(AuditError, match="not"):
        check_log(tmp_path / "log", VERIFIER, known=other)
    with pytest.raises(AuditError):
        check_log(tmp_path / "log", Signer.from_seed("example.org/run", b"\x01" * 32).verifier)


def test_a_signed_head_over_other_tiles_is_seen(big, tmp_path):
    """A head that the right key signed, but that the tiles do not lead to, is an AuditError."""
    folder = tmp_path / "log"
    shutil.copytree(big, folder)
    for size, root in [
        (600, leaf_hash(b"")),
        (599, tree_hash([leaf_hash(e) for e in ENTRIES])),
        (10**17, leaf_hash(b"")),
    ]:
        overwrite(folder / "checkpoint", sign_head(TreeHead("example.org/run", size, root), SIGNER))
        with pytest.raises(AuditError):
            check_log(folder, VERIFIER)


def test_an_old_reader_reads_on_while_the_log_grows(tmp_path):
    """A reader of an old head still reads and proves all of it after its partial tiles were replaced and removed."""
    with AuditLog.create(tmp_path / "log", SIGNER, "example.org/run") as log:
        log.append(ENTRIES[:10])
        reader = LogReader.open(tmp_path / "log", VERIFIER)
        for end in (11, 13, 17, 255, 256, 300, 301, 302):
            log.append(ENTRIES[log.size : end])
            assert list(reader.read()) == ENTRIES[:10]
            assert reader.prove(3).verify(ENTRIES[3], VERIFIER).size == 10
    assert not (tmp_path / "log/tile/0/000.p").exists()


def test_reading_takes_the_memory_of_a_bundle(tmp_path):
    """Reading and checking 16 MB of entries takes the memory of a bundle of 4 MB, as file, entries, and those not yet let go; a writer holds its last one twice."""
    entry = bytes(16_000)
    with AuditLog.create(tmp_path / "log", SIGNER, "example.org/run") as log:
        for _ in range(4):
            log.append([entry] * 250)
    tracemalloc.start()
    check_log(tmp_path / "log", VERIFIER)
    assert tracemalloc.get_traced_memory()[1] < 9_000_000
    with AuditLog.open(tmp_path / "log", SIGNER) as log:
        assert sum(1 for _ in log.read()) == 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16_500_000


def test_opening_while_the_log_grows(tmp_path):
    """However fast a writer appends, every opening shows a whole prefix."""
    stop = threading.Event()
    seen = []

    def read():
        while not stop.is_set():
            seen.append(list(LogReader.open(tmp_path / "log", VERIFIER).read()))

    with AuditLog.create(tmp_path / "log", SIGNER, "example.org/run") as log:
        thread = threading.Thread(target=read)
        thread.start()
        try:
            for at in range(0, 300, 3):
                log.append(ENTRIES[at : at + 3])
        finally:
            stop.set()
            thread.join()
    assert len(seen) > 5
    assert all(got == ENTRIES[: len(got)] and len(got) % 3 == 0 for got in seen)
