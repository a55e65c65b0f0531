"""Reading an audit log: nothing read is believed until it leads to the signed root.

A reader shows the log under one tree head. It needs no lock and no cooperation of the writer: a partial
tile that was replaced meanwhile is the front of a wider one. Memory is the right edge of the tree, one
bundle of at most 256 entries, and a few cached tiles, whatever the size of the log.

Not covered: freshness. A folder put back as a whole to an earlier signed state reads as valid; only a tree
head kept elsewhere, passed as `known`, shows the cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.artifacts import behind_link
from harness.envelope import MAX_ENTRY
from harness.errors import AuditError
from harness.keys import Verifier
from harness.merkle import HASH, WIDTH, TileTree, consistency_proof, inclusion_proof, tile_path
from harness.notes import LogProof, TreeHead, open_head

__all__ = ["HEAD", "Front", "LogReader", "check_log"]

HEAD = "checkpoint"
"""tlog-tiles' name of the file that holds the signed tree head."""

_HEAD_LIMIT = 1 << 16
_TILE_LIMIT = WIDTH * HASH
_BUNDLE_LIMIT = WIDTH * (2 + MAX_ENTRY)
_ATTEMPTS = 8
_WIDTH_NAME = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)


@dataclass(frozen=True)
class Front:
    """What was read of a bundle, every entry of it checked: their number, and their bytes as they lie on disk."""

    entries: int = 0
    data: bytes = b""


class LogReader:
    """A log as one signed tree head describes it; later appends do not change what it shows."""

    def __init__(self, folder: Path, note: bytes, head: TreeHead, *, exact: bool = False) -> None:
        """Read the right edge under a head that was verified; use `open`. Raises AuditError."""
        self._folder = folder
        self._exact = exact
        self.head = note
        """The signed note of the tree head, as bytes."""
        self.tree_head = head
        self._tree = TileTree(head.size, head.root, self._fetch)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        verifiers: Verifier | Iterable[Verifier],
        *,
        origin: str | None = None,
        known: TreeHead | None = None,
    ) -> Self:
        """Verify the tree head and the right edge of the log in `folder`; raises AuditError.

        Where a log has had several keys, that the head is by the one in force is for whoever reads the entries to
        check (`journal.follow` does). `origin` is the log that is expected, `known` a head seen before, which the log
        must extend.
        """
        folder = Path(folder)
        known_keys = [verifiers] if isinstance(verifiers, Verifier) else list(verifiers)
        note = b""
        for _ in range(_ATTEMPTS):
            before, note = note, _read(folder / HEAD, _HEAD_LIMIT, "§3.1")
            try:
                reader = cls(folder, note, open_head(note, known_keys, origin=origin))
            except AuditError:
                if note == before:
                    raise
                continue  # a writer may have moved on by two heads while the edge was read: look again
            if known is not None:
                reader.check_extends(known)
            return reader
        raise AuditError("the log changes faster than it can be read", where=str(folder))

    def under(self, note: bytes) -> Self:
        """Take the note of the same tree head, signed by now; from here on wider files will do, too."""
        self.head, self._exact = note, False
        return self

    @property
    def edge(self) -> list[bytes]:
        """The partial tiles by level, b"" where a level ends with a full one."""
        return self._tree.edge

    @property
    def size(self) -> int:
        """The number of entries."""
        return self.tree_head.size

    @property
    def origin(self) -> str:
        """The log's name, the first line of its head."""
        return self.tree_head.origin

    @property
    def root(self) -> bytes:
        """The RFC 6962 root, 32 bytes."""
        return self.tree_head.root

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Iterate over entries [start, stop) in order, each checked against the root; raises AuditError.

        One bundle (at most 256 entries) is in memory at a time.
        """
        stop = self.size if stop is None else stop
        if not 0 <= start <= stop <= self.size:
            raise AuditError(f"no entries {start} to {stop} in a log of {self.size}")
        return self._entries(start, stop)

    def root_at(self, size: int) -> bytes:
        """Return the root that the log had at an earlier size; raises AuditError."""
        return self._tree.root_at(size)

    def inclusion_proof(self, index: int) -> list[bytes]:
        """Return the hashes that lead from entry `index` to the root, from the leaf up; raises AuditError."""
        return inclusion_proof(index, self.size, self._tree.node)

    def consistency_proof(self, old: int) -> list[bytes]:
        """Return the hashes that show the log of `old` entries to be a prefix of this one; raises AuditError."""
        return consistency_proof(old, self.size, self._tree.node)

    def prove(self, index: int) -> LogProof:
        """Return a proof of entry `index` that can be checked offline; raises AuditError."""
        return LogProof(index, tuple(self.inclusion_proof(index)), self.head)

    def check_extends(self, known: TreeHead) -> None:
        """Return when this log is the one of `known`, at that size or longer; raises AuditError otherwise."""
        if known.origin != self.origin:
            raise AuditError(f"this is the log {self.origin!a}, not {known.origin!a}")
        if known.size > self.size:
            raise AuditError(f"the log was cut: {self.size} entries, where {known.size} were signed before")
        if self._tree.root_at(known.size) != known.root:
            raise AuditError(f"history was rewritten: the first {known.size} entries are not those signed before")

    def _entries(self, start: int, stop: int) -> Iterator[bytes]:
        for index in range(start // WIDTH, -(-stop // WIDTH)):
            first = index * WIDTH
            yield from self.bundle(index)[max(start - first, 0) : stop - first]

    def bundle(self, index: int) -> list[bytes]:
        """Return the entries below tile 0/`index`, each checked against it; raises AuditError."""
        tile = self._tree.tile(0, index)
        return self._split(index, tile, self._fetch(None, index, len(tile) // HASH), Front())

    def extend(self, index: int, front: Front) -> Front:
        """Check a bundle of which `front` was checked before; return all of it, as the next front. Raises AuditError.

        Equal bytes need no second hash: as strong as `bundle`, and less work where few entries are new.
        """
        tile = self._tree.tile(0, index)
        data = self._fetch(None, index, len(tile) // HASH)
        if not data.startswith(front.data):
            where = tile_path(None, index, len(tile) // HASH)
            raise AuditError("the bundle does not begin with the entries that were there before", where=where)
        self._split(index, tile, data, front)
        return Front(len(tile) // HASH, data)

    @staticmethod
    def _split(index: int, tile: bytes, data: bytes, front: Front) -> list[bytes]:
        """Return the entries after `front`, each checked against its leaf; raises AuditError."""
        entries, leaves, at, whole = list[bytes](), list[bytes](), len(front.data), len(data)
        width = len(tile) // HASH
        sha256 = hashlib.sha256  # `leaf_hash` spelt out: every entry that is read goes through here
        for _ in range(front.entries, width):
            start, at = at + 2, at + 2 + int.from_bytes(data[at : at + 2], "big")
            entry = data[start:at]
            entries.append(entry)
            leaves.append(sha256(b"\x00" + entry).digest())
        if at > whole or b"".join(leaves) != tile[front.entries * HASH :]:
            numbered = enumerate(leaves, front.entries)
            wrong = (n for n, leaf in numbered if leaf != tile[n * HASH : n * HASH + HASH])
            number = next(wrong, width - 1)  # the last one is cut where all that is there of it hashes well
            raise AuditError(
                "the entry is not the one that the tree head covers", where=f"entry {index * WIDTH + number}"
            )
        if at != whole:
            raise AuditError("bytes after the last entry", where=tile_path(None, index, width))
        return entries

    def _fetch(self, level: int | None, index: int, width: int) -> bytes:
        """Read a tile or a bundle, or the front of a wider one that has taken its place (tlog-tiles §Partial Tiles)."""
        limit = _BUNDLE_LIMIT if level is None else _TILE_LIMIT
        name = tile_path(level, index, width)
        if behind_link(self._folder / name, self._folder):
            raise AuditError("a folder above it is a link", where=name, clause="§4.3")
        if width == WIDTH or self._exact:
            return _read(self._folder / name, limit)
        for _ in range(_ATTEMPTS):
            for wider in [width, *_wider(self._folder / name, width), WIDTH]:
                path = self._folder / tile_path(level, index, wider)
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    try:
                        data = _read_file(path, limit)
                    except (FileNotFoundError, NotADirectoryError):
                        raise
                    except OSError as error:
                        message = f"the file cannot be read: {error.strerror}"
                        raise AuditError(message, where=str(path), clause="§4.3") from error
                    if wider == width:
                        return data
                    return _front(data, width) if level is None else data[: width * HASH]
        raise AuditError("the file is missing", where=name)


def check_log(
    folder: Path | str,
    verifiers: Verifier | Iterable[Verifier],
    *,
    origin: str | None = None,
    known: TreeHead | None = None,
) -> TreeHead:
    """Read a whole log: head, every tile, every entry; return the head, or raise AuditError naming the place.

    Says nothing of what the entries mean; `envelope.unseal` and the state's fold do.
    """
    opened = LogReader.open(folder, verifiers, origin=origin, known=known)
    for _ in opened.read():
        pass
    return opened.tree_head


def _front(data: bytes, width: int) -> bytes:
    """Return the first `width` entries of a bundle; a torn one is returned as it is and fails its check."""
    at = 0
    for _ in range(width):
        at += 2 + int.from_bytes(data[at : at + 2], "big")
    return data[:at]


def _wider(path: Path, width: int) -> list[int]:
    """List the widths of partial tiles beside `path` that are wider than `width`, the narrowest first."""
    try:
        names = [file.name for file in path.parent.iterdir()]
    except OSError:
        return []
    return sorted(int(name) for name in names if _WIDTH_NAME.fullmatch(name) and width < int(name) < WIDTH)


def _read(path: Path, limit: int, clause: str = "§4.2") -> bytes:
    """Read a file of the log; raises AuditError."""
    try:
        return _read_file(path, limit)
    except AuditError as error:
        raise AuditError(error.message, where=error.where, clause=clause) from error
    except OSError as error:
        raise AuditError(f"the file cannot be read: {error.strerror}", where=str(path), clause=clause) from error


def _read_file(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes, following no link; raises OSError, AuditError."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise AuditError(f"not a regular file of at most {limit} bytes", where=str(path))
        data = os.read(file, status.st_size)  # a larger number would be allocated whole
        while len(data) < status.st_size and (more := os.read(file, status.st_size - len(data))):
            data += more
    finally:
        os.close(file)
    return data
