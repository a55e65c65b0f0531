"""System calls that Python does not wrap, through ctypes.

Each wrapper raises OSError with the call's name, so that a refusal says which wall could not be built.
Numbers are those of the kernel's `unistd` tables for x86-64 and AArch64; other machines are refused.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from functools import cache

MS_REC, MS_PRIVATE, MS_BIND = 0x4000, 0x40000, 0x1000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x8000000, 0x10000000, 0x20000000, 0x40000000
CAP_SYS_ADMIN = 21

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 0x1, 0x2, 0x4
_AT_RECURSIVE = 0x8000
_CAPABILITY_VERSION_3 = 0x20080522
_NUMBERS = {  # the same on both machines from 424 on
    "x86_64": {"pivot_root": 155, "seccomp": 317, "close_range": 436, "mount_setattr": 442},
    "aarch64": {"pivot_root": 41, "seccomp": 277, "close_range": 436, "mount_setattr": 442},
}
_LANDLOCK = {"landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446}


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def machine() -> str:
    """Name the machine as the tables of this package do; raise OSError for one that they do not know."""
    name = platform.machine()
    if name not in _NUMBERS:
        raise OSError(f"no table of system calls for the machine {name!r}")
    return name


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def syscall(name: str, *arguments: object) -> int:
    """Call by name; integers are passed as 64 bits, everything else as ctypes would."""
    number = _LANDLOCK.get(name) or _NUMBERS[machine()][name]
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return _checked(name, int(_libc().syscall(ctypes.c_long(number), *wide)))


def unshare(flags: int) -> None:
    """Enter fresh namespaces, as CLONE_NEW* flags name them; that of pids takes the next child only."""
    _checked("unshare", _libc().unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """Attach a file system to a directory, or a file to a file."""
    result = _libc().mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    _checked(f"mount {kind or source} on {target}", result)


def detach(target: str) -> None:
    """Unmount lazily, with everything below."""
    _checked(f"umount {target}", _libc().umount2(target.encode(), MNT_DETACH))


def pivot_root(new: str, old: str) -> None:
    """Make one directory the root of this mount namespace, and put the old root on another."""
    syscall("pivot_root", new.encode(), old.encode())


def freeze(target: str, *, recursive: bool, devices: bool = False) -> None:
    """Make a mount (and all below it) read-only, without set-uid programs, and without device files."""
    flags = _ATTR_RDONLY | _ATTR_NOSUID | (0 if devices else _ATTR_NODEV)
    attributes = ctypes.create_string_buffer(struct.pack("=QQQQ", flags, 0, 0, 0), 32)
    syscall("mount_setattr", -100, target.encode(), _AT_RECURSIVE if recursive else 0, attributes, 32)


def set_hostname(name: str) -> None:
    """Name this UTS namespace."""
    _checked("sethostname", _libc().sethostname(name.encode(), ctypes.c_size_t(len(name))))


def close_from(lowest: int) -> None:
    """Close every descriptor from `lowest` on."""
    syscall("close_range", lowest, 0xFFFFFFFF, 0)


def _prctl(name: str, *arguments: int) -> int:
    wide = [ctypes.c_ulong(argument) for argument in arguments]
    wide += [ctypes.c_ulong(0)] * (5 - len(wide))
    return _checked(f"prctl {name}", int(_libc().prctl(ctypes.c_int(wide[0].value), *wide[1:])))


def die_with_parent() -> None:
    """Be killed when the thread that started this process ends. Changes of uid undo it: call it after them."""
    _prctl("PDEATHSIG", _PR_SET_PDEATHSIG, 9)


def no_new_privileges() -> None:
    """Give up gaining privileges by exec, which seccomp and Landlock require."""
    _prctl("NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def not_dumpable() -> None:
    """Refuse core dumps and ptrace by processes of the same uid."""
    _prctl("DUMPABLE", _PR_SET_DUMPABLE, 0)


def drop_bounding_set() -> None:
    """Empty the capability bounding set (needs CAP_SETPCAP) and the ambient set."""
    _prctl("AMBIENT", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(64):
        try:
            _prctl("CAPBSET_DROP", _PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == 22 and capability > 37:  # EINVAL: beyond this kernel's last capability
                return
            raise


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets of this thread."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    nothing = ctypes.create_string_buffer(24)
    _checked("capset", _libc().capset(header, nothing))


def has_capability(number: int) -> bool:
    """Whether this process holds a capability in its effective set."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:  # noqa: PTH123  # a kernel file
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False


def install_filter(program: bytes) -> None:
    """Install a seccomp filter (8 bytes an instruction) on all threads of this process."""
    code = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    fprog = Program(len(program) // 8, ctypes.cast(code, ctypes.c_void_p))
    set_mode_filter, all_threads = 1, 1
    result = syscall("seccomp", set_mode_filter, all_threads, ctypes.byref(fprog))
    if result > 0:  # seccomp(2): the id of a thread that could not follow
        raise OSError(f"seccomp: thread {result} could not be filtered")
