"""The filter of system calls, assembled as classic BPF by hand: no library, no compiler.

It denies by name and allows the rest. What is denied has no use in training a network, and is either a
way out (sockets, namespaces, mounts, other processes' memory) or a large part of the kernel's attack
surface (io_uring, bpf, perf, keyrings). `clone3` answers ENOSYS, because its flags lie behind a pointer
that a filter cannot read; the C library then falls back to `clone`, whose flags it can. A call of
another architecture kills the process.

Source: seccomp(2), `struct seccomp_data`; the kernel's filter documentation. Not covered: bugs in the
calls that stay allowed.
"""

from __future__ import annotations

import struct

_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000  # the x32 ABI shares x86-64's architecture value and numbers its calls from here
_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_EPERM, _ENOSYS = 1, 38

# name: (x86-64, AArch64); None where the machine has no such call
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # the network
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242),
    # asynchronous calls that no filter sees
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440), "process_mrelease": (448, 448),
    # keyrings
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467), "statmount": (457, 457), "listmount": (458, 458),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    # memory that no process owns, and System V and POSIX queues
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184), "mq_getsetattr": (245, 185),
    # the kernel itself
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "syslog": (103, 116),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "personality": (135, 92),
    "vhangup": (153, 58), "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
    "uselib": (134, None), "sysfs": (139, None), "_sysctl": (156, None), "ustat": (136, None),
    "lookup_dcookie": (212, 18), "nfsservctl": (180, 42), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "sethostname": (170, 161), "setdomainname": (171, 162), "seccomp": (317, 277),
}  # fmt: skip
# A CUDA driver binds an abstract Unix socket when it starts, and gives up where it may not (error 304; measured with
# driver 580 on an H200). It needs no `connect` and no `accept`, and the namespace of such names is the sandbox's own.
_DRIVER = ("socket", "bind", "listen")
_EXEC: dict[str, tuple[int | None, int | None]] = {"execve": (59, 221), "execveat": (322, 281)}
_CLONE, _CLONE3, _IOCTL, _PRCTL, _SOCKETPAIR = (56, 220), (435, 435), (16, 29), (157, 167), (53, 199)
_TIOCSTI, _TIOCLINUX, _PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _AF_UNIX = 0x5412, 0x541C, 1, 22, 1

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NR, _MACHINE, _ARGUMENT0, _ARGUMENT1 = 0, 4, 16, 24  # offsets in seccomp_data; the low words of the arguments


def denied_names() -> list[str]:
    """Name the calls that are refused outright, whatever their arguments."""
    return sorted([*_DENIED, *_EXEC])


def number(name: str, machine: str) -> int | None:
    """Return a denied call's number on a machine, or None where it has none."""
    pair = {**_DENIED, **_EXEC}[name]
    return pair[0] if machine == "x86_64" else pair[1]


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def build(machine: str, *, may_prepare: bool = False, cuda: bool = False) -> bytes:
    """Assemble the filter for `x86_64` or `aarch64`, 8 bytes an instruction.

    `may_prepare` leaves execve, seccomp(2) and the death signal to a stage that has still to start Python and
    to install the stricter filter; what runs candidate code has none of them. `cuda` lets a driver have Unix sockets
    that nobody can connect to; no other family.
    """
    column = 0 if machine == "x86_64" else 1
    refuse = _op(_RETURN, _ERRNO | _EPERM)
    allow = _op(_RETURN, _ALLOW)
    program = [
        _op(_LOAD, _MACHINE),
        _op(_EQUAL, _ARCH[machine], 1, 0),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NR),
    ]
    if machine == "x86_64":
        program += [_op(_AT_LEAST, _X32, 0, 1), _op(_RETURN, _KILL)]
    table = {**_DENIED, **({} if may_prepare else _EXEC)}
    if may_prepare:
        del table["seccomp"]
    if cuda:
        table = {name: pair for name, pair in table.items() if name not in _DRIVER}
    for pair in table.values():
        value = pair[column]
        if value is not None:
            program += [_op(_EQUAL, value, 0, 1), refuse]
    program += [_op(_EQUAL, _CLONE3[column], 0, 1), _op(_RETURN, _ERRNO | _ENOSYS)]
    program += [_op(_EQUAL, _CLONE[column], 0, 4), _op(_LOAD, _ARGUMENT0), _op(_ANY_BIT, _NAMESPACES, 0, 1)]
    program += [refuse, allow]
    program += [_op(_EQUAL, _IOCTL[column], 0, 5), _op(_LOAD, _ARGUMENT1), _op(_EQUAL, _TIOCSTI, 1, 0)]
    program += [_op(_EQUAL, _TIOCLINUX, 0, 1), refuse, allow]
    if not may_prepare:  # PR_SET_PDEATHSIG would let a candidate outlive its warden
        program += [_op(_EQUAL, _PRCTL[column], 0, 5), _op(_LOAD, _ARGUMENT0), _op(_EQUAL, _PR_SET_SECCOMP, 1, 0)]
        program += [_op(_EQUAL, _PR_SET_PDEATHSIG, 0, 1), refuse, allow]
    for call in (_SOCKETPAIR, _DENIED["socket"]) if cuda else (_SOCKETPAIR,):
        program += [_op(_EQUAL, call[column] or 0, 0, 4), _op(_LOAD, _ARGUMENT0), _op(_EQUAL, _AF_UNIX, 1, 0)]
        program += [refuse, allow]
    program += [allow]
    return b"".join(program)
