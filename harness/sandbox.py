"""Run hostile code behind every wall this machine offers, or refuse.

A `Job` names an entry, read-only files, a payload, limits. It ends in an `Outcome`, a value, whatever the
code did; a `SandboxError` means that no sandbox could be had. There are two ways to build the same walls:
`zygote`, a warm process that forks (milliseconds a job), and `bwrap`, the bubblewrap program (a fresh
interpreter). Neither is ever weakened to make a job run: what cannot be built is refused with a remedy.

The answer is read only when the job's pid namespace is empty, from a memory file that is sealed by then. Its
header and the bytes behind it are still claims of hostile code: check tensors with `artifacts.read_tensors`.

Not covered: bugs of the kernel and of GPU drivers, and side channels (use a virtual machine for those).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from harness.canonical import Json, canonical_bytes, parse_json
from harness.errors import CanonicalError, SandboxError
from harness.isolation import bwrap
from harness.isolation.client import Zygote
from harness.isolation.limits import Limits
from harness.isolation.room import JOB, Room, environment, here_mode
from harness.isolation.site import Farm, Python, Site, python_mounts
from harness.isolation.warden import Ended

__all__ = ["Isolation", "Job", "Limits", "Outcome", "Site", "Status", "cuda_devices", "run_cold", "run_in"]

Isolation = Literal["zygote", "bwrap"]
Status = Literal["ok", "error", "timeout", "idle", "memory", "crashed", "oversize", "unavailable", "refused"]

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_HEADER_BYTES = 1 << 20
_MESSAGE = 2000
_PAYLOAD_BYTES = 32 << 20
_FIRST_UID = 47001
_UIDS_OF_ONE_LAUNCHER = 32


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of one entry.

    entry: the worker's `build`, `predict`, `describe`, or what `module` makes of it. files: name below /job to a
    file or directory here, mounted read-only. payload: becomes /job/job.json. site: None means the engine's.
    module: what runs, by its `main()`. device: `cpu`, `cuda` or `cuda:N`.
    """

    entry: str
    files: Mapping[str, Path] = field(default_factory=dict)
    payload: Json = None
    limits: Limits = field(default_factory=Limits)
    site: Site | None = None
    module: str = "harness.worker"
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended.

    status: `ok` (the code returned and its header claims no error), `error` (it says why), `timeout`, `idle` (no
    sign of progress), `memory`, `oversize` (of answer or of printed text), `crashed` (no readable answer),
    `refused` (cancelled), `unavailable` (it never started). header: the answer's JSON header, {} if there is none.
    output: the bytes behind the header. message: why, at most 2,000 characters. text: the end of what was printed.
    progress: (step, loss) pairs, at most about 200. wall_seconds and peak_mb were measured from outside.
    """

    status: Status
    header: dict[str, Json] = field(default_factory=dict)
    output: bytes = b""
    message: str = ""
    wall_seconds: float = 0.0
    peak_mb: float = 0.0
    progress: tuple[tuple[int, float], ...] = ()
    text: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is an answer that claims no error."""
        return self.status == "ok"


def run_in(zygote: Zygote, job: Job) -> Outcome:
    """Run a job as a child of a warm worker, in the calling thread; raise SandboxError if there is none."""
    with _uid() as uid, _answer() as output, tempfile.TemporaryDirectory(prefix="lockgate-job-") as staging:
        room = _room(job, zygote.farm, python_mounts(executable=False), uid, Path(staging))
        return _settle(zygote.run(room, output), output, job.limits)


def run_cold(job: Job, isolation: Isolation | Literal["auto"] = "auto") -> Outcome:
    """Run a job in a fresh interpreter, in the calling thread: for rare jobs, and for other sites than the worker's.

    `auto` takes bubblewrap where there is one, else a zygote that lives for this job. Raises SandboxError when
    the walls cannot be built.
    """
    site = job.site or Site.minimal()
    if isolation == "auto":
        isolation = "bwrap" if bwrap.find() else "zygote"
    if isolation == "zygote":
        bare = Site(site.distributions, site.entries)
        zygote = Zygote(bare)
        try:
            return run_in(zygote, job)
        finally:
            zygote.close()
    farm = Farm(site)
    try:
        with _uid() as uid, _answer() as output, tempfile.TemporaryDirectory(prefix="lockgate-job-") as staging:
            python = python_mounts(executable=True)
            room = _room(job, farm, python, uid, Path(staging))
            return _settle(bwrap.run(room, python.executable, output), output, job.limits)
    finally:
        farm.close()


def cuda_devices() -> list[str]:
    """List the accelerators of this machine as `cuda:N`, without starting a driver."""
    found = sorted(int(path.name[6:]) for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit())
    return [f"cuda:{index}" for index in range(len(found))]


def _room(job: Job, farm: Farm, python: Python, uid: int, staging: Path) -> Room:
    try:
        mode = here_mode()
    except OSError as error:
        raise SandboxError(
            f"no sandbox can be built here: {error}", remedy="run as an ordinary user, or grant CAP_SYS_ADMIN"
        ) from error
    binds = [*python.binds, *farm.binds]
    for name, path in job.files.items():
        binds.append((_staged(name, Path(path), mode, staging), f"{JOB}/{name}"))
    payload = canonical_bytes(job.payload)
    if len(payload) > _PAYLOAD_BYTES:
        raise SandboxError(f"a payload of {len(payload)} bytes, where at most {_PAYLOAD_BYTES} are passed")
    more = {"LOCKGATE_ENTRY": job.entry, "CUDA_VISIBLE_DEVICES": job.device.partition(":")[2] if job.device != "cpu" else ""}
    if job.device == "cuda":
        more["CUDA_VISIBLE_DEVICES"] = "0"
    return Room(
        module=job.module,
        site=str(farm.path),
        root=str(farm.root),
        binds=tuple(binds),
        covers=python.covers,
        texts=((f"{JOB}/job.json", payload.decode()),),
        environment=environment(more),
        limits=job.limits,
        mode=mode,
        uid=uid,
        devices=_device_files(job.device),
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


class _Make(Protocol):
    def __call__(
        self, status: Status, message: str, header: dict[str, Json] | None = None, output: bytes = b""
    ) -> Outcome: ...


_ENDINGS: dict[str, tuple[Status, str]] = {
    "timeout": ("timeout", "it ran longer than its {wall_seconds:g} seconds"),
    "idle": ("idle", "it showed no progress for {idle_seconds:g} seconds"),
    "memory": ("memory", "its processes used more than {memory_mb} MiB together"),
    "oversize": ("oversize", "it printed more than {text_kb} KiB"),
    "processes": ("crashed", "it ran more than {processes} processes"),
    "cancelled": ("refused", "it was cancelled"),
}


def _settle(ended: Ended, descriptor: int, limits: Limits) -> Outcome:
    """Turn what a backend knows, and the answer, into an outcome; reads only when the sandbox is empty."""
    report = ended.report
    if report is None:
        crashed = ended.problem.startswith("the worker's parent died") or "fell silent" in ended.problem
        return Outcome(status="crashed" if crashed else "unavailable", message=ended.problem[:_MESSAGE])

    def outcome(status: Status, message: str, header: dict[str, Json] | None = None, output: bytes = b"") -> Outcome:
        return Outcome(
            status=status, header=header or {}, output=output, message=message[:_MESSAGE], text=report.text,
            wall_seconds=report.wall_seconds, peak_mb=report.peak_mb, progress=report.progress,
        )  # fmt: skip

    if not report.empty:
        return outcome("crashed", ended.problem)
    if report.ending != "ended":
        status, message = _ENDINGS[report.ending]
        return outcome(status, message.format(**limits.json_value()))
    if ended.status != 0:
        if ended.cpu_seconds >= limits.cpu_seconds:
            return outcome("timeout", f"it used more than its {limits.cpu_seconds} CPU seconds")
        last = report.text.strip().rpartition("\n")[2]
        code = os.waitstatus_to_exitcode(ended.status)
        how = f"killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return outcome("crashed", f"{how}: {last}" if last else how)
    try:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except PermissionError:  # sealed already, as it should be
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            return outcome("crashed", "the answer could not be sealed")
    except OSError as error:
        return outcome("crashed", f"the answer could not be sealed: {error}")
    size = os.fstat(descriptor).st_size
    if size > limits.output_mb << 20:
        return outcome("oversize", f"an answer of {size} bytes, where {limits.output_mb} MiB are allowed")
    return _open(_read_all(descriptor, size), outcome)


def _read_all(descriptor: int, size: int) -> bytes:
    parts, offset = [], 0
    while offset < size:
        part = os.pread(descriptor, min(size - offset, 1 << 24), offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _open(data: bytes, outcome: _Make) -> Outcome:
    """Take a container apart: 8 bytes big-endian length, a JSON object, the rest."""
    length = int.from_bytes(data[:8], "big")
    if len(data) < 8 or length > min(len(data) - 8, _HEADER_BYTES):
        return outcome("crashed", "there is no readable answer" if data else "it ended without an answer")
    try:
        header = parse_json(data[8 : 8 + length], max_bytes=_HEADER_BYTES)
    except CanonicalError as error:
        return outcome("crashed", f"the answer's header is not JSON: {error}")
    if not isinstance(header, dict):
        return outcome("crashed", "the answer's header is not an object")
    problem = header.get("error")
    if problem is None:
        return outcome("ok", "", header, data[8 + length :])
    parts = problem if isinstance(problem, dict) else {}
    where, kind, text = (str(parts.get(name) or "")[:_MESSAGE] for name in ("where", "type", "message"))
    message = ": ".join(part for part in (where, kind, text) if part) or "an error without a message"
    return outcome("memory" if kind == "OutOfMemory" else "error", message, header)
