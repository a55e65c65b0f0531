"""How much a job may use: declared once, set as rlimits inside, and watched from outside.

RLIMIT_AS counts one process, and shared memory files count for none, so the warden adds up the whole tree.
Memory shared between forks (a warm worker's torch, copied on write) is counted once: the resident sizes are
added first, which is cheap, and only a sum beyond the limit is checked by proportional set size.
"""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_MIB = 1 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


_WARM, _LIBRARIES = 512, 4096
"""MiB: what a process that has imported torch maps at least, and what it may come to map by importing it."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one job may use; every limit is hard.

    wall_seconds: from the start of candidate code to its end. idle_seconds: without a sign of progress.
    cpu_seconds: of one process. memory_mb: resident memory of all processes together, MiB. output_mb: of the
    answer, and of any one file, MiB. processes: processes and threads. files: open descriptors of one process.
    text_kb: what may be printed, KiB. scratch_mb: of the temporary directory, MiB.
    """

    wall_seconds: float = 600.0
    idle_seconds: float = 120.0
    cpu_seconds: int = 3600
    memory_mb: int = 2048
    output_mb: int = 64
    processes: int = 64
    files: int = 256
    text_kb: int = 4096
    scratch_mb: int = 64

    def __post_init__(self) -> None:
        """Refuse what is not a positive number (ValueError): a limit of nothing is a mistake, not a limit."""
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
                raise ValueError(f"{name} must be a positive number below 1e9, not {value!r}")

    def json_value(self) -> dict[str, Any]:
        """Return the limits as a JSON value."""
        return asdict(self)


def set_limits(limits: Limits, *, address_space: bool = True) -> None:
    """Set the rlimits of this process and its descendants, hard and soft alike.

    `address_space` is off under CUDA, which reserves far more than it uses. The bound on one file leaves room
    for the answer's own framing.
    """
    values = {
        resource.RLIMIT_CORE: 1,  # as core(5): with 0 a core still goes to a program of this machine, with 1 not
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_FSIZE: (limits.output_mb + 1) * _MIB,
        resource.RLIMIT_NOFILE: limits.files,
        resource.RLIMIT_NPROC: limits.processes,
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_RTPRIO: 0,
    }
    if address_space:
        # What is mapped already (a warm worker's libraries), what may be used, and room for sparse arenas. A cold
        # process has its libraries yet to map: 3.2 GB for a CUDA build of torch. The watchdog bounds what is resident.
        mapped = _mapped()
        coming = 0 if mapped > _WARM * _MIB else _LIBRARIES
        values[resource.RLIMIT_AS] = mapped + (limits.memory_mb + 1024 + coming) * _MIB
    for name, value in values.items():
        hard = resource.getrlimit(name)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (bound, bound))


def _mapped() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE


def descendants(pid: int) -> list[int]:
    """List a process and everything below it, at about 50 microseconds a process.

    Orphans of a pid namespace become children of its first process, so nobody in it escapes the list.
    """
    found, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        found.append(current)
        with contextlib.suppress(OSError):  # it ended meanwhile
            for thread in os.listdir(f"/proc/{current}/task"):  # noqa: PTH208
                text = Path(f"/proc/{current}/task/{thread}/children").read_text(encoding="ascii")
                waiting += [int(child) for child in text.split()]
    return found


def memory_of(pids: list[int], limit: int) -> int:
    """Return the bytes that a list of processes use together, exactly only where it matters.

    At or below `limit` the answer is the sum of resident sizes, which counts shared pages more than once; above
    it, the proportional sizes are read. Where those may not be read the resident size stands.
    """
    resident = {pid: _resident(pid) for pid in pids}
    total = sum(resident.values())
    if total <= limit:
        return total
    return sum(min(size, _proportional(pid, size)) for pid, size in resident.items())


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):  # it ended meanwhile
        return 0


def _proportional(pid: int, otherwise: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except PermissionError:
        return otherwise
    except (OSError, IndexError, ValueError):  # it ended meanwhile
        return 0
    return 0
