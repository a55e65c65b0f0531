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
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypedDict

from harness.canonical import Json, canonical_bytes, parse_json
from harness.errors import CanonicalError, SandboxError
from harness.isolation import bwrap, canaries, landlock
from harness.isolation.client import Zygote, interpreter
from harness.isolation.limits import Limits
from harness.isolation.site import Farm, Site, python_mounts
from harness.isolation.staging import cuda_devices, furnish
from harness.isolation.warden import Ended
from harness.records import Record

__all__ = [
    "Isolation",
    "Job",
    "Limits",
    "Outcome",
    "Probe",
    "Site",
    "Status",
    "cuda_devices",
    "probe",
    "run_cold",
    "run_in",
]

Isolation = Literal["zygote", "bwrap"]
Status = Literal["ok", "error", "timeout", "idle", "memory", "crashed", "oversize", "unavailable", "refused"]

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_HEADER_BYTES = 1 << 20
_MESSAGE = 2000


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
    with furnish(zygote.farm, python_mounts(executable=False), **_parts(job)) as (room, output):
        return _settle(zygote.run(room, output), output, job.limits)


def run_cold(job: Job, isolation: Isolation | Literal["auto"] = "auto", *, cancel_fd: int | None = None) -> Outcome:
    """Run a job in a fresh interpreter, in the calling thread: for rare jobs, and for other sites than the worker's.

    `auto` takes bubblewrap where there is one, else a zygote that lives for this job. A readable `cancel_fd` ends a
    job under bubblewrap. Raises SandboxError when the walls cannot be built.
    """
    site = job.site or Site.minimal()
    if isolation == "auto":
        isolation = "bwrap" if bwrap.find() else "zygote"
    if isolation == "zygote":
        zygote = Zygote(Site(site.distributions, site.entries))
        try:
            return run_in(zygote, job)
        finally:
            zygote.close()
    farm = Farm(site)
    try:
        python = python_mounts(executable=True)
        with furnish(farm, python, **_parts(job)) as (room, output):
            return _settle(bwrap.run(room, python.executable, output, cancel_fd), output, job.limits)
    finally:
        farm.close()


def _parts(job: Job) -> _Parts:
    return {
        "module": job.module,
        "entry": job.entry,
        "files": job.files,
        "payload": canonical_bytes(job.payload),
        "limits": job.limits,
        "device": job.device,
    }


class Probe(Record):
    """What one way of building walls does on this machine.

    holds: every attempt worked outside and failed inside. attempts: by name, why each failed inside. problems: what
    does not hold, in words. landlock: the kernel's ABI.
    """

    isolation: Isolation
    holds: bool
    attempts: dict[str, str]
    problems: tuple[str, ...]
    landlock: int

    def require(self) -> None:
        """Raise SandboxError, with a remedy, unless the walls hold."""
        if not self.holds:
            raise SandboxError(
                f"the sandbox {self.isolation} does not hold: {'; '.join(self.problems)}", remedy=_REMEDY
            )


_REMEDY = (
    "use Linux 5.13 or later with Landlock, and allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0) or run with CAP_SYS_ADMIN"
)


def probe(isolation: Isolation = "zygote") -> Probe:
    """Try to break out of a sandbox, after showing that each attempt works outside of one; about a second.

    Never raises for a sandbox that does not hold or cannot be had: the probe says so, and `require` raises.
    """
    problems: list[str] = []
    inside: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="lockgate-probe-") as folder, _targets(Path(folder)) as targets:
        outside = _attempt_outside(targets)
        problems += [
            f"the control of {name!r} failed outside ({outside.get(name, 'it did not run')})"
            for name in canaries.NAMES
            if outside.get(name) != "open"
        ]
        job = Job(
            entry="probe", module="harness.isolation.canaries", payload=dict(targets), site=Site.of(()),
            limits=Limits(wall_seconds=20, idle_seconds=20, memory_mb=256, output_mb=1),
        )  # fmt: skip
        try:
            outcome = run_cold(job, isolation)
        except (SandboxError, OSError) as error:
            outcome = Outcome(status="unavailable", message=str(error))
        found = outcome.header.get("attempts")
        if outcome.ok and isinstance(found, dict):
            inside = {name: str(found.get(name, "it did not run")) for name in canaries.NAMES}
            problems += [f"{name!r} works inside" for name, how in inside.items() if how == "open"]
            problems += [f"{name!r} did not run inside" for name, how in inside.items() if how == "it did not run"]
        else:
            problems.append(f"the probe did not run inside: {outcome.status}: {outcome.message}")
    return Probe(
        isolation=isolation, holds=not problems, attempts=inside, problems=tuple(problems), landlock=landlock.abi()
    )


@contextlib.contextmanager
def _targets(folder: Path) -> Iterator[dict[str, str]]:
    """Lend a key, a folder, a TCP port, an abstract socket and a process to shoot at."""
    folder.chmod(0o777)
    key = folder / "key"
    key.write_bytes(b"a key that is none")
    key.chmod(0o644)
    name = f"lockgate-probe-{os.getpid()}-{folder.name}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        victim = subprocess.Popen(
            [*interpreter(), "-c", "input()"], env={"TOKEN": name}, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            yield {
                "key": str(key), "folder": str(folder), "port": str(tcp.getsockname()[1]), "abstract": name,
                "pid": str(victim.pid), "token": name,
            }  # fmt: skip
        finally:
            victim.kill()
            victim.communicate()


def _attempt_outside(targets: dict[str, str]) -> dict[str, str]:
    code = "import sys; sys.path.append(sys.argv[2]); from harness.isolation.canaries import outside; outside()"
    package = str(Path(__file__).resolve().parent.parent)
    try:
        done = subprocess.run(
            [*interpreter(), "-c", code, json.dumps(targets), package], env={}, cwd="/", capture_output=True,
            timeout=30, check=True,
        )  # fmt: skip
        value = parse_json(done.stdout)
    except (OSError, subprocess.SubprocessError, CanonicalError) as error:
        return dict.fromkeys(canaries.NAMES, f"{type(error).__name__}: {error}")
    return {name: str(how) for name, how in value.items()} if isinstance(value, dict) else {}


class _Parts(TypedDict):
    module: str
    entry: str
    files: Mapping[str, Path]
    payload: bytes
    limits: Limits
    device: str


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
        if ended.cpu_seconds > limits.cpu_seconds - 0.1:  # the kernel's own count runs a little ahead of rusage
            return outcome("timeout", f"it used more than its {limits.cpu_seconds} CPU seconds")
        size = os.fstat(descriptor).st_size
        if size > limits.output_mb << 20:  # the kernel let it write no further
            return outcome("oversize", f"an answer of {size} bytes or more, where {limits.output_mb} MiB are allowed")
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
