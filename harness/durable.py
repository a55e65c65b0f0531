"""Writes that survive a power cut: every byte that a promise rests on goes to disk through here.

The order is: a temporary file beside the target, its bytes, fsync, one atomic rename, fsync of the
directory. After `write_durably` returns, the file is there with all its bytes; cut at any point, the
target is what it was before. An error of any of these calls, fsync above all, is passed on as OSError
and must not be retried by the caller: after a failed fsync the kernel may have dropped the dirty
pages, and a second fsync would report success for bytes that are lost.

`write_together` is for files that nothing names yet. It renames before it syncs: cut, a file may be there and
torn, which does no harm where whoever reads it begins at a name that is written after it.

Each file and each directory is synced by itself, as POSIX asks for it. One syncfs would wait for whatever other
processes have left to write; syncs from several threads at once were no faster on an idle disk, for they wait for one
journal; without the rename, readers of an older head would meet torn files.

Not covered: disks that acknowledge a flush and do not do it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["TEMPORARY", "make_directory", "sync_directory", "write_durably", "write_together"]

TEMPORARY = ".tmp-"
"""Names that begin so are leftovers of a cut write; they mean nothing and may be removed."""

_serial = itertools.count()  # threads of one process write to temporary names of their own
_made: set[Path] = set()  # directories known to be durable
_REMEMBERED = 10_000
_OPEN = 64  # files of one group that are open at a time


def write_durably(path: Path, data: bytes | Iterable[bytes], *, mode: int = 0o444, replace: bool = True) -> None:
    """Put `data` at `path` atomically and durably; `mode` is the file's mode whatever the umask.

    The directory must exist. What was there is replaced, or, without `replace`, kept: FileExistsError.
    Raises OSError, and what an iterator of pieces raises; the target is then either old or new, never torn.
    """
    temporary = _temporary(path)
    try:
        file = _begun(temporary, (data,) if isinstance(data, bytes) else data, mode)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        if replace:
            temporary.rename(path)
        else:
            path.hardlink_to(temporary)  # fails when the name is taken, which a rename would not
            temporary.unlink()
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def write_together(files: Sequence[tuple[Path, bytes]], *, mode: int = 0o444) -> None:
    """Put files at paths that nothing names yet, all durable on return, with few commits of the file system.

    The directories must exist. What was there is replaced. A reader meets each file whole or not at all; after a
    power cut before the return any of them may be missing or torn. Raises OSError; some may then be there.
    """
    for at in range(0, len(files), _OPEN):
        opened = list[int]()
        try:
            for path, data in files[at : at + _OPEN]:
                temporary = _temporary(path)
                try:
                    opened.append(_begun(temporary, (data,), mode))
                    temporary.rename(path)
                except BaseException:
                    with contextlib.suppress(OSError):
                        temporary.unlink()
                    raise
            for file in opened:  # the first one's commit carries the names of all
                os.fsync(file)
        finally:
            for file in opened:
                os.close(file)
    for folder in dict.fromkeys(path.parent for path, _ in files):
        sync_directory(folder)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{next(_serial)}-{path.name}")


def _begun(temporary: Path, pieces: Iterable[bytes], mode: int) -> int:
    """Write a new file and leave it open, not yet synced; raises OSError, and what `pieces` raises."""
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(file, view) :]
        os.fchmod(file, mode)
    except BaseException:
        os.close(file)
        raise
    return file


def make_directory(path: Path, *, mode: int = 0o755, below: Path | None = None) -> None:
    """Create a directory and its missing parents, each durable in its own parent; raises OSError.

    With `below`, an ancestor of `path`, directories that are already there are made durable too, once in
    the life of a process: one that died may have made them and not lived to sync their parents.
    """
    if path.is_dir() and (below is None or path == below or path in _made):
        return
    if path != below:
        make_directory(path.parent, mode=mode, below=below)
    path.mkdir(mode=mode, exist_ok=True)
    sync_directory(path.parent)
    if len(_made) >= _REMEMBERED:
        _made.clear()
    _made.add(path)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
