"""The audit log: an append-only Merkle tree on disk, in the layout of C2SP tlog-tiles.

    checkpoint                   the signed tree head: the only file that ever changes
    tile/<L>/<N>[.p/<W>]         256 (or W) hashes of level 8·L, 0444
    tile/entries/<N>[.p/<W>]     the entries below tile 0/<N>, each after its big-endian uint16 length, 0444

One append, and what a crash after each step leaves:

    write bundles and tiles      the old head, which names none of the new files: torn or whole, they are
                                 overwritten later
    read them again, check       the same
    sign, replace `checkpoint`   the new head, with every byte that it covers already durable

So a group is in the log as a whole or not at all, and recovery is the normal path: `open` reads the head,
checks the right edge against it, and goes on from there. Before a head is signed, every file it newly
covers is read back: new entries and all tiles are hashed, entries that were hashed before are compared with
the bytes of then. A flipped bit that was signed could never be repaired. Any error on the way, of fsync above
all, ends the writer: what reached the disk is then known only by opening the log again.

One process writes at a time (flock on the folder); what its threads append meanwhile is one group under the next
head. Readers need no lock. Nothing read is believed until it leads to the signed root; memory is the right edge of
the tree, a few cached tiles, and the last bundle twice: as it is to be written, and as it was read back.

Not covered: a folder put back as a whole to an earlier signed state. That is seen only with a tree head
kept elsewhere: pass it as `known`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.durable import make_directory, sync_directory, write_durably, write_together
from harness.envelope import MAX_ENTRY
from harness.errors import AuditError
from harness.frontier import Frontier, partials
from harness.group_commit import Call, GroupCommit
from harness.keys import Signer, is_key_name
from harness.logreader import HEAD, Front, LogReader, check_log
from harness.merkle import EMPTY_ROOT, WIDTH, tile_path
from harness.notes import LogProof, TreeHead, open_head, sign_head, with_lines

__all__ = ["AuditLog", "LogReader", "check_log"]


class AuditLog:
    """A log open for writing, by any thread of one process, and only while nothing has failed."""

    def __init__(self, folder: Path, signer: Signer, lock: contextlib.ExitStack, reader: LogReader) -> None:
        """Take over a folder that `lock` holds and whose head `reader` verified; use `create` or `open`."""
        self._folder = folder
        self._signer = signer
        self._lock = lock
        self._reader = reader
        self._mutex = threading.Lock()
        self._commits = GroupCommit(self._mutex, self._write)
        self._failure: str | None = None
        self._superseded: list[Path] = []
        self._place = _identity(folder)
        index, width = divmod(reader.size, WIDTH)
        self._frontier = Frontier.of(reader.size, reader.edge, reader.bundle(index) if width else [])
        self._front = reader.extend(index, Front()) if width else Front()

    @classmethod
    def create(cls, folder: Path | str, signer: Signer, origin: str) -> Self:
        """Begin an empty log named `origin` in `folder`; raises AuditError where one is, or the remains of one."""
        folder = Path(folder)
        if not is_key_name(origin):
            raise AuditError(f"{origin[:80]!a} cannot name a log: no space, no plus, not empty")
        try:
            make_directory(folder)
            sync_directory(folder.parent)
            with contextlib.ExitStack() as lock:
                lock.enter_context(_locked(folder))
                if (folder / HEAD).exists() or (folder / "tile").exists():
                    raise AuditError("a log is already there, or what is left of one", where=str(folder))
                head = TreeHead(origin, 0, EMPTY_ROOT)
                note = sign_head(head, signer)
                write_durably(folder / HEAD, note, mode=0o644)
                reader = LogReader(folder, note, head)
                return cls(folder, signer, lock.pop_all(), reader)
        except OSError as error:
            raise AuditError(f"the log cannot be created: {error}", where=str(folder)) from error

    @classmethod
    def open(cls, folder: Path | str, signer: Signer, *, known: TreeHead | None = None) -> Self:
        """Go on with the log in `folder` where its tree head stands; what a cut append left is forgotten.

        Raises AuditError when the head is not `signer`'s, the right edge does not lead to it, the log does not
        extend `known` (a head seen before and kept elsewhere), or another process writes it.
        """
        folder = Path(folder)
        try:
            with contextlib.ExitStack() as lock:
                lock.enter_context(_locked(folder))
                reader = LogReader.open(folder, signer.verifier, known=known)
                _forget_leftovers(folder, reader.size)
                return cls(folder, signer, lock.pop_all(), reader)
        except OSError as error:
            raise AuditError(f"the log cannot be opened: {error}", where=str(folder)) from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Release the lock; reading goes on, appending does not."""
        self._failure = self._failure or "the log was closed"
        self._lock.close()

    @property
    def size(self) -> int:
        """The number of entries that are durable and under the signed head."""
        return self._reader.size

    @property
    def origin(self) -> str:
        """The log's name."""
        return self._reader.origin

    @property
    def head(self) -> bytes:
        """The signed note of the newest tree head."""
        return self._reader.head

    @property
    def tree_head(self) -> TreeHead:
        """The newest tree head."""
        return self._reader.tree_head

    @property
    def reader(self) -> LogReader:
        """The log as of the newest head; it does not move with later appends."""
        return self._reader

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Iterate over entries [start, stop), read from disk and checked; see `LogReader.read`."""
        return self._reader.read(start, stop)

    def inclusion_proof(self, index: int) -> list[bytes]:
        """See `LogReader.inclusion_proof`."""
        return self._reader.inclusion_proof(index)

    def consistency_proof(self, old: int) -> list[bytes]:
        """See `LogReader.consistency_proof`."""
        return self._reader.consistency_proof(old)

    def prove(self, index: int) -> LogProof:
        """See `LogReader.prove`."""
        return self._reader.prove(index)

    def sign_with(self, signer: Signer) -> None:
        """Sign the heads from here on with another key of the same log (FORMAT §5.4); raises AuditError."""
        with self._mutex:
            if signer.name != self._signer.name:
                raise AuditError(f"{signer.name!a} is not the name of this log's keys")
            self._signer = signer

    def cosign(self, head: bytes, lines: bytes) -> bool:
        """Put witnesses' signature lines under the newest tree head; False where that is not `head` any more.

        The lines were verified by whoever asked for them. Raises AuditError for lines that are none, and for any
        failure of the disk, after which the object refuses to append.
        """
        with self._mutex:
            if self._failure is not None or head != self.head:
                return False
            note = with_lines(head, lines)
            try:
                write_durably(self._folder / HEAD, note, mode=0o644)
            except OSError as error:
                self._failure = str(error)
                raise AuditError(f"the tree head could not be written: {error}", where=str(self._folder)) from error
            self._reader = LogReader(self._folder, note, self._reader.tree_head)
            return True

    def append(self, entries: Sequence[bytes]) -> int:
        """Append a group of entries (each at most 65,535 bytes), which stay together; return the index of the first.

        On return all of them are durable and under a freshly signed head: with the groups of other threads that
        waited meanwhile, which then succeed or fail as one. Raises AuditError: for an empty
        group or an entry that is too long, leaving the log as it was; for any failure of the disk, after
        which the object refuses to append and the log, opened again, has either all of the group or none.
        """
        if not entries:
            raise AuditError("an empty group")
        for entry in entries:
            if not isinstance(entry, bytes) or len(entry) > MAX_ENTRY:
                raise AuditError(f"an entry is at most {MAX_ENTRY} bytes")
        return self._commits.commit(tuple(entries))

    def _write(self, calls: Sequence[Call[tuple[bytes, ...]]]) -> None:
        if self._failure is not None:
            raise AuditError(
                f"no longer open for appending: {self._failure}",
                where=str(self._folder),
                remedy="open the log again",
            )
        first = self.size
        try:
            self._append([entry for call in calls for entry in call.item])
        except OSError as error:
            self._failure = str(error)
            raise AuditError(f"the log could not be written: {error}", where=str(self._folder)) from error
        except BaseException as error:
            self._failure = str(error) or type(error).__name__
            raise
        for call in calls:
            call.first = first
            first += len(call.item)

    def _check_place(self) -> None:
        """Return while the folder is the one that is locked, under the head that we wrote; raises AuditError, OSError.

        A folder that was put back or exchanged beneath a writer is nobody's to go on with: the lock is on the old one.
        """
        file = os.open(self._folder / HEAD, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.read(file, len(self.head) + 1)
        finally:
            os.close(file)
        if _identity(self._folder) != self._place or found != self.head:
            raise AuditError(
                "the log was exchanged while it was open: its lock is lost",
                where=str(self._folder),
                remedy="find out who put another folder or tree head there, then open the log again",
            )

    def _append(self, entries: Sequence[bytes]) -> None:
        self._check_place()
        old = self.size
        frontier, added = self._frontier.with_entries(entries)
        files = [(self._folder / name, data) for name, data in added]
        for folder in dict.fromkeys(path.parent for path, _ in files):
            make_directory(folder, below=self._folder)
        write_together(files, mode=0o444)
        reader, front = self._read_back(TreeHead(self.origin, frontier.size, frontier.root))
        write_durably(self._folder / HEAD, reader.head, mode=0o644)
        self._reader, self._frontier, self._front = reader, frontier, front
        self._drop_superseded(old)

    def _read_back(self, head: TreeHead) -> tuple[LogReader, Front]:
        """Read from disk all that `head` newly covers, as an outsider would, and sign it only then.

        Neither the root nor the front comes from the bytes that are written: each grows from what was read and checked,
        so that a bit which flips in memory, between two appends, is seen here like one on the way to the disk.
        """
        unsigned, front = LogReader(self._folder, b"", head, exact=True), self._front
        for index in range(self.size // WIDTH, -(-head.size // WIDTH)):
            front = unsigned.extend(index, front)
            if front.entries == WIDTH:
                front = Front()
        note = sign_head(head, self._signer)
        open_head(note, self._signer.verifier)  # a fault while signing would give the key away with the signature
        return unsigned.under(note), front

    def _drop_superseded(self, old: int) -> None:
        """Remove partial files that wider ones replaced, one head late: readers of the last head still use them."""
        for path in self._superseded:
            with contextlib.suppress(OSError):  # a leftover does no harm
                path.unlink()
                path.parent.rmdir()  # refuses while another width is there
        replaced = set(partials(old)) - set(partials(self.size))
        self._superseded = [self._folder / name for name in sorted(replaced)]


def _identity(folder: Path) -> tuple[int, int]:
    """Which folder lies at a path now."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _forget_leftovers(folder: Path, size: int) -> None:
    """Remove partial files of an append that was cut, lest they be taken for a wider form of a later tile.

    Full tiles beyond the head stay, for no reader looks at them, until an append puts others in their place.
    """
    keep = {folder / name for name in partials(size)}
    levels = -(-size.bit_length() // 8) + 1
    for level in [None, *range(levels)]:
        index = max((size >> (8 if level is None else 8 * level + 8)) - 1, 0)
        while True:
            widths = (folder / tile_path(level, index, 1)).parent
            if not widths.is_dir() and not (folder / tile_path(level, index)).exists():
                break
            with contextlib.suppress(OSError):
                for path in widths.iterdir():
                    if path not in keep:
                        path.unlink()
            index += 1


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder against other writers; raises OSError, AuditError."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AuditError("another writer has this log open", where=str(folder)) from error
        yield
    finally:
        os.close(lock)
