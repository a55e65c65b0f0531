"""Reading a small file where a stranger may have put anything: a link, a pipe, a folder, a file without end."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; OSError, ValueError for what is no such file.

    No link is followed in the last place, and a pipe does not block.
    """
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise ValueError("not a small regular file")
        with os.fdopen(file, "rb", closefd=False) as stream:
            return stream.read(status.st_size)
    finally:
        os.close(file)
