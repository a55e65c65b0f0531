"""The room of one job: what it is made of, and building it with system calls.

A room is a fresh root on a tmpfs: the interpreter's libraries, the minimal site and the job's own files, all
read-only; a small scratch directory; six harmless devices; a /proc of its own pid namespace. It holds no other
path of this machine. `Room` is plain data, so that the launcher can send it to a zygote as JSON, and so that
the bubblewrap line is derived from the same description.

Order matters inside: mounts need privileges, the change of uid clears the death signal, Landlock must see the
final paths, and the filter of system calls forbids all of it: so it comes last. Not covered: what lies in
the interpreter's own libraries.
"""

from __future__ import annotations

import fcntl
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.isolation import kernel, landlock, seccomp
from harness.isolation.limits import Limits, set_limits

DEVICES = ("null", "zero", "full", "random", "urandom")
SCRATCH = "/tmp"  # noqa: S108  # a tmpfs of the job's own
SHARED_MEMORY = "/dev/shm"  # noqa: S108  # likewise
SHARED_MEMORY_MB = 16
NOBODY = 65534
OUTPUT_FD, PROGRESS_FD = 3, 4
JOB = "/job"


@dataclass(frozen=True, kw_only=True)
class Room:
    """Everything that one job is given.

    module: what runs, by `main()`. site: the path that is put on sys.path. binds: (path here, path inside),
    read-only. covers: directories hidden under empty ones. texts: small files (path inside, content).
    devices: further device files (CUDA). environment: all of it. mode: `root` drops to `uid`, which nothing
    else on the machine should use; `user` builds on an unprivileged user namespace.
    """

    module: str
    site: str
    root: str
    binds: tuple[tuple[str, str], ...]
    covers: tuple[str, ...]
    texts: tuple[tuple[str, str], ...]
    environment: dict[str, str]
    limits: Limits
    mode: Literal["root", "user"]
    uid: int
    devices: tuple[str, ...] = field(default=())

    def json_value(self) -> dict[str, Any]:
        """Return the room as a JSON value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Room:
        """Read a room that the launcher wrote; raise TypeError or ValueError for anything else."""
        parts = dict(value)
        parts["limits"] = Limits(**parts["limits"])
        for name in ("binds", "texts"):
            parts[name] = tuple((str(left), str(right)) for left, right in parts[name])
        for name in ("covers", "devices"):
            parts[name] = tuple(str(path) for path in parts[name])
        if parts["mode"] not in ("root", "user"):
            raise ValueError("the mode is root or user")
        return cls(**parts)

    @property
    def cuda(self) -> bool:
        """Whether the job is given an accelerator."""
        return bool(self.devices)


def here_mode() -> Literal["root", "user"]:
    """How rooms are built by this process; raise OSError where neither way is open."""
    if kernel.has_capability(kernel.CAP_SYS_ADMIN) and os.geteuid() == 0:
        return "root"
    if os.geteuid() == 0:
        raise OSError("root without CAP_SYS_ADMIN: candidate code would stay root of this machine")
    return "user"


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """Return the whole environment of a job: nothing is inherited, hashes and threads are fixed."""
    return {
        "PATH": "/nowhere", "HOME": SCRATCH, "TMPDIR": SCRATCH, "USER": "candidate", "LOGNAME": "candidate",
        "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        "TORCHINDUCTOR_CACHE_DIR": SCRATCH, "LOCKGATE_OUTPUT_FD": str(OUTPUT_FD),
        "LOCKGATE_PROGRESS_FD": str(PROGRESS_FD), **(extra or {}),
    }  # fmt: skip


def enter_user_namespace() -> None:
    """Become `nobody` with all capabilities over a namespace of one's own, which can hold no further one."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        Path("/proc/self", name).write_text(text, encoding="ascii")
    Path("/proc/sys/user/max_user_namespaces").write_text("0", encoding="ascii")


def build(room: Room) -> None:
    """Build the root, as process 1 of a fresh pid namespace, and move into it; raise OSError."""
    others = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    kernel.unshare(others | kernel.CLONE_NEWCGROUP)
    kernel.set_hostname("sandbox")
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    root = room.root
    quiet = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    size = (1 << 20) + 2 * sum(len(text.encode()) for _, text in room.texts)
    kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"mode=0755,size={size},nr_inodes=4096")
    os.umask(0o022)
    for path in ("/proc", "/dev", SCRATCH, JOB):
        os.mkdir(root + path)  # noqa: PTH102  # plain calls: nothing here may import
    kernel.mount("proc", f"{root}/proc", "proc", quiet, None)
    kernel.mount("tmpfs", f"{root}/dev", "tmpfs", kernel.MS_NOSUID | kernel.MS_NOEXEC, "mode=0755,size=64k")
    os.mkdir(root + SHARED_MEMORY)  # noqa: PTH102
    for path, size in ((SCRATCH, room.limits.scratch_mb), (SHARED_MEMORY, SHARED_MEMORY_MB)):
        options = f"mode=1777,size={size}m,nr_inodes=8192"
        kernel.mount("tmpfs", root + path, "tmpfs", quiet, options)
    for device in (*(f"/dev/{name}" for name in DEVICES), *room.devices):
        _bind(device, root + device)
    os.makedirs(root + room.site, exist_ok=True)  # noqa: PTH103
    # a mount of its own: it may lie below the scratch, which the candidate owns
    kernel.mount("tmpfs", root + room.site, "tmpfs", quiet, "mode=0755,size=64k,nr_inodes=2048")
    for source, target in room.binds:
        _bind(source, root + target)
        kernel.freeze(root + target, recursive=True)
    for target in room.covers:
        kernel.mount("tmpfs", root + target, "tmpfs", quiet | kernel.MS_RDONLY, "mode=0755,size=4k")
    for target, text in room.texts:
        Path(root + target).write_text(text, encoding="utf-8")
    kernel.freeze(root + room.site, recursive=True)
    _links(root)
    if room.cuda:
        _bind("/sys", f"{root}/sys")
        kernel.freeze(f"{root}/sys", recursive=True)
    kernel.freeze(f"{root}/dev", recursive=False, devices=True)
    kernel.freeze(root, recursive=False)
    os.chdir(root)
    kernel.pivot_root(".", ".")
    kernel.detach(".")
    os.chdir("/")


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):  # noqa: PTH112  # plain calls, as above
        os.makedirs(target, exist_ok=True)  # noqa: PTH103
    elif not os.path.exists(target):  # noqa: PTH110  # else it lies below an earlier mount
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
    kernel.mount(source, target, flags=kernel.MS_BIND | kernel.MS_REC)


def _links(root: str) -> None:
    """Where the dynamic loader looks, as links into what is mounted."""
    for name in ("lib", "lib64", "bin"):
        place = f"/{name}"
        if os.path.islink(place) and os.path.isdir(f"{root}/usr"):  # noqa: PTH112, PTH114
            os.symlink(os.readlink(place), root + place)  # noqa: PTH115, PTH211


def give_up(room: Room) -> None:
    """Drop every privilege, for good, and shut the last two walls; raise OSError.

    Afterwards this process is nobody, can gain nothing, opens only what is mounted, and makes only the
    system calls that training needs. It does not return half done: any failure raises before candidate code.
    """
    if room.mode == "root":
        kernel.drop_bounding_set()
        os.setgroups([])
        os.setresgid(room.uid, room.uid, room.uid)
        os.setresuid(room.uid, room.uid, room.uid)
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    if room.mode == "root":
        kernel.not_dumpable()  # elsewhere the warden, of the same uid, could then not weigh shared memory
    kernel.die_with_parent()
    os.umask(0o077)
    set_limits(room.limits, address_space=not room.cuda)
    readable = [target for _, target in room.binds] + [JOB, "/proc", room.site]
    if room.cuda:
        readable.append("/sys")
    devices = [*(f"/dev/{name}" for name in DEVICES), *room.devices]
    # A CUDA driver names its threads when it starts, and gives up where it may not. Another process's stay shut.
    threads = [f"/proc/{os.getpid()}/task"] if room.cuda else []
    landlock.restrict(readable, [SCRATCH, SHARED_MEMORY], devices, rewritable=threads)
    kernel.install_filter(seccomp.build(kernel.machine(), cuda=room.cuda))


def close_in(room: Room, output_fd: int, progress_fd: int) -> None:
    """Leave exactly five descriptors open: standard streams, the answer, the signs of life; go to the scratch."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100) for descriptor in (output_fd, progress_fd)]
    for descriptor, place in zip(high, (OUTPUT_FD, PROGRESS_FD), strict=True):
        os.dup2(descriptor, place, inheritable=False)
    kernel.close_from(PROGRESS_FD + 1)
    os.environ.clear()
    os.environ.update(room.environment)
    os.chdir(SCRATCH)


def check_walls() -> None:
    """Try what must fail, just before candidate code; raise OSError if anything of it works."""
    if any(os.getresuid()[i] == 0 for i in range(3)):
        raise OSError("still root")
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    wanted = {"CapEff": "0" * 16, "CapPrm": "0" * 16, "CapInh": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
    for name, value in wanted.items():
        if fields.get(name, "").strip() != value:
            raise OSError(f"{name} is {fields.get(name, 'missing').strip()}, not {value}")
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except PermissionError:
        return
    raise OSError("a socket could be opened")
