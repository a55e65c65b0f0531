"""Landlock: what a process may still open, connect to and signal, decided by the process itself.

A second wall behind the mount namespace: even a path that was mounted by mistake stays shut unless it is
named here. From ABI 4 TCP is denied as well, from ABI 6 abstract Unix sockets and signals beyond the sandbox.
Nothing may be executed. Source: the kernel's userspace-api/landlock documentation.

It holds for the calling thread and its descendants: call it while there is one thread.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from harness.isolation import kernel

_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL_DEV = 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_MAKE = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 12  # remove dir and file, make dir, file, FIFO, link
_REFER = 1 << 13
_FILE_RIGHTS = _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _READ_FILE | _READ_DIR
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}  # by ABI; 5 adds IOCTL_DEV
_PATH_BENEATH = 1
_VERSION = 1


def abi() -> int:
    """Return the kernel's Landlock ABI, 0 where there is none."""
    try:
        return kernel.syscall("landlock_create_ruleset", 0, 0, _VERSION)
    except OSError:
        return 0


def restrict(
    readable: Iterable[str],
    writable: Iterable[str],
    devices: Iterable[str] = (),
    *,
    rewritable: Iterable[str] = (),
) -> int:
    """Allow reading below `readable`, reading and writing below `writable`, using `devices`; nothing else.

    Below `rewritable` files that are there may be written, and none made.

    Paths that do not exist are left out (they then stay forbidden). Needs no_new_privs. Returns the ABI;
    raises OSError where the kernel has no Landlock.
    """
    version = abi()
    if version < 1:
        raise OSError("this kernel has no Landlock")
    handled = _HANDLED.get(version, (1 << 16) - 1)
    attributes = struct.pack("=QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    buffer = ctypes.create_string_buffer(attributes, 24)
    ruleset = kernel.syscall("landlock_create_ruleset", buffer, size, 0)
    try:
        for path in readable:
            _add(ruleset, path, _READ & handled)
        for path in writable:
            _add(ruleset, path, (_READ | _WRITE_FILE | _TRUNCATE | _MAKE | _REFER) & handled)
        for path in rewritable:
            _add(ruleset, path, (_READ | _WRITE_FILE | _TRUNCATE) & handled)
        for path in devices:
            _add(ruleset, path, _FILE_RIGHTS & handled)
        kernel.syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _add(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not Path(path).is_dir():
            rights &= _FILE_RIGHTS
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
        kernel.syscall("landlock_add_rule", ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
