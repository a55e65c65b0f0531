"""From a job to its room: files made readable, uids lent, devices named.

Everything here runs in the launcher, on trusted paths. As root a job's uid is nobody else's: files that it could
not read are copied, and no two jobs of a launcher share one, so that processes of one never count for another.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path, PurePosixPath

from harness.errors import SandboxError
from harness.isolation.limits import Limits
from harness.isolation.room import JOB, Room, environment, here_mode
from harness.isolation.site import Farm, Python

_PAYLOAD_BYTES = 32 << 20
_DRIVER = (
    "libcuda.so.1",
    "libnvidia-ml.so.1",
    "libnvidia-ptxjitcompiler.so.1",
    "libnvidia-nvvm.so",
    "libnvidia-gpucomp.so",
)
"""The libraries that come with a CUDA driver, and not with torch."""
_FIRST_UID = 47001
_UIDS_OF_ONE_LAUNCHER = 32


def cuda_devices() -> list[str]:
    """List the accelerators of this machine as `cuda:N`, without starting a driver."""
    found = sorted(int(path.name[6:]) for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit())
    return [f"cuda:{index}" for index in range(len(found))]


@contextlib.contextmanager
def furnish(
    farm: Farm,
    python: Python,
    *,
    module: str,
    entry: str,
    files: Mapping[str, Path],
    payload: bytes,
    limits: Limits,
    device: str,
) -> Iterator[tuple[Room, int]]:
    """Lend a room for one job, and the descriptor of the memory file for its answer.

    files: name below /job to a path here; payload: the bytes of /job/job.json. Raises SandboxError for what cannot
    be mounted, and where no room can be built.
    """
    try:
        mode = here_mode()
    except OSError as error:
        raise SandboxError(
            f"no sandbox can be built here: {error}", remedy="run as an ordinary user, or grant CAP_SYS_ADMIN"
        ) from error
    if len(payload) > _PAYLOAD_BYTES:
        raise SandboxError(f"a payload of {len(payload)} bytes, where at most {_PAYLOAD_BYTES} are passed")
    visible = "" if device == "cpu" else device.partition(":")[2] or "0"
    devices = _device_files(device)
    variables = {"LOCKGATE_ENTRY": entry, "CUDA_VISIBLE_DEVICES": visible}
    binds = (*python.binds, *farm.binds)
    driver = driver_libraries(_known_libraries(), [target for _, target in binds]) if devices else []
    if driver:  # the loader's own list is not in the room
        variables["LD_LIBRARY_PATH"] = ":".join(sorted({str(Path(path).parent) for path in driver}))
    with _uid() as uid, _answer() as output, tempfile.TemporaryDirectory(prefix="lockgate-job-") as staging:
        staged = [(_staged(name, Path(path), mode, Path(staging)), f"{JOB}/{name}") for name, path in files.items()]
        yield (
            Room(
                module=module,
                site=str(farm.path),
                root=str(farm.root),
                binds=(*binds, *((path, path) for path in driver), *staged),
                covers=python.covers,
                texts=((f"{JOB}/job.json", payload.decode()),),
                environment=environment(variables),
                limits=limits,
                mode=mode,
                uid=uid,
                devices=devices,
            ),
            output,
        )


def _device_files(device: str) -> tuple[str, ...]:
    """Name the device files that CUDA opens for one accelerator; none for the CPU."""
    if device == "cpu":
        return ()
    index = device.partition(":")[2] or "0"
    if device.partition(":")[0] != "cuda" or not index.isdigit() or not Path(f"/dev/nvidia{index}").exists():
        raise SandboxError(f"no device {device!r} on this machine", remedy="set workers.device to cpu or auto")
    shared = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
    return (f"/dev/nvidia{index}", *(path for path in shared if Path(path).exists()))


def driver_libraries(listing: str, mounted: Iterable[str]) -> list[str]:
    """List the files of a CUDA driver that are in none of the `mounted` folders, from what `ldconfig -p` says.

    Distributions put them among the other libraries, which a room has; containers and appliances often elsewhere.
    """
    folders = [folder.rstrip("/") + "/" for folder in mounted]
    found: dict[str, str] = {}
    for line in listing.splitlines():
        name, _, path = line.strip().partition(" ")
        path = path.rpartition("=> ")[2]
        if name.startswith(_DRIVER) and path.startswith("/"):
            found.setdefault(name, path)  # the first is what the loader takes
    return sorted(path for path in found.values() if not any(path.startswith(folder) for folder in folders))


@cache
def _known_libraries() -> str:
    """What the dynamic loader knows; nothing where there is no ldconfig."""
    for program in ("/sbin/ldconfig", "/usr/sbin/ldconfig"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run([program, "-p"], capture_output=True, text=True, check=True, timeout=20, env={})
            return done.stdout
    return ""


def _staged(name: str, path: Path, mode: str, staging: Path) -> str:
    """Return what to mount for one file of a job: the file or directory itself, or a copy that its uid may read.

    Raises SandboxError for a name that is not plain, and for what is neither a regular file nor a directory.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or str(pure) != name or name == "job.json":
        raise SandboxError(f"a job's file cannot be called {name!r}")
    real = Path(os.path.realpath(path))
    try:
        kind = real.stat().st_mode
    except OSError as error:
        raise SandboxError(f"a job's file is missing: {path}") from error
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise SandboxError(f"a job's file is neither a file nor a directory: {path}")
    if mode == "root" and not _readable_by_others(real):
        return str(_readable_copy(real, staging / str(len(list(staging.iterdir())))))
    return str(real)


def _readable_by_others(path: Path) -> bool:
    for each in [path, *(path.rglob("*") if path.is_dir() else ())]:
        needed = 0o005 if each.is_dir() else 0o004
        if not each.is_symlink() and each.stat().st_mode & needed != needed:
            return False
    return True


def _readable_copy(path: Path, target: Path) -> Path:
    """Copy a file or a tree, links as links, with modes that let the sandbox's uid read."""
    if path.is_dir():
        shutil.copytree(path, target, symlinks=True)
    else:
        shutil.copyfile(path, target)
    for each in [target, *(target.rglob("*") if target.is_dir() else ())]:
        if not each.is_symlink():
            each.chmod(0o755 if each.is_dir() else 0o444)
    return target


@contextlib.contextmanager
def _answer() -> Iterator[int]:
    """Lend a memory file for an answer."""
    descriptor = os.memfd_create("answer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


_uids_lock = threading.Lock()
_uids_taken: set[int] = set()


@contextlib.contextmanager
def _uid() -> Iterator[int]:
    """Lend a uid that no other job of this launcher has, so that one job's processes never count for another."""
    base = _FIRST_UID + os.getpid() % 512 * _UIDS_OF_ONE_LAUNCHER
    with _uids_lock:
        free = [uid for uid in range(base, base + _UIDS_OF_ONE_LAUNCHER) if uid not in _uids_taken]
        if not free:
            raise SandboxError(f"more than {_UIDS_OF_ONE_LAUNCHER} jobs at once")
        uid = free[0]
        _uids_taken.add(uid)
    try:
        yield uid
    finally:
        with _uids_lock:
            _uids_taken.discard(uid)
