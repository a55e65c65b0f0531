"""A warm worker: a process that has imported torch, and forks one child for each job.

The zygote is trusted and holds nothing: a clean environment, a standard library, the minimal site, one socket
to its launcher. It never runs candidate code itself. For each job it forks a *warden*, which stays outside of
the sandbox, and the warden forks the job's first process into fresh namespaces:

    launcher ─ zygote ─ warden ─┊─ first process of the sandbox ─ …
                                ┊  (root, mounts, uid, capabilities, rlimits, Landlock, seccomp, then the entry)

Whoever dies takes everything to its right along. A fork of a process with threads can hang, so the zygote
refuses to fork when it has more than one (torch after a two-thread operation), and CUDA does not survive a fork,
so it refuses when CUDA is initialised: the child initialises it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, Never

from harness.isolation import inside, kernel, warden
from harness.isolation.room import Room, build, check_walls, close_in, enter_user_namespace, give_up

READY = b"ready"
_SETUP_SECONDS = 30.0
_BUILT = b"built"


def main() -> None:
    """Serve the socket whose number is argv[1], after importing the modules named in argv[2] (JSON), to its end."""
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        for name in json.loads(sys.argv[2]):
            importlib.import_module(name)
        _check_forkable()
    except Exception as error:  # noqa: BLE001  # the launcher is told why, whatever it is
        control.send(f"{type(error).__name__}: {error}"[:2000].encode())
        return
    gc.collect()
    gc.freeze()  # children that collect garbage then leave these pages shared
    control.send(READY)
    serve(control)


def serve(control: socket.socket) -> None:
    """Fork a warden for each request until the launcher closes its end."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        if poll.poll(500):
            data, descriptors, _, _ = socket.recv_fds(control, 16, 3)
            if not data:
                return  # the wardens see their parent die, and die
            _accept(control, descriptors)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _accept(control: socket.socket, descriptors: list[int]) -> None:
    parent = os.getpid()
    try:
        _check_forkable()
        if os.fork() == 0:
            control.close()
            _warden(parent, *descriptors)
    except Exception as error:  # noqa: BLE001  # one bad request must not end the zygote
        ended = warden.Ended(None, f"the zygote refused: {type(error).__name__}: {error}")
        if descriptors:
            _tell(descriptors[0], ended)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _check_forkable() -> None:
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    if threads != 1:
        raise RuntimeError(f"{threads} threads where a fork needs one")
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError("CUDA is initialised, and does not survive a fork")


def _tell(descriptor: int, ended: warden.Ended) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as report:
        report.sendall(json.dumps(ended.json_value()).encode())


def _warden(parent: int, report_fd: int, output_fd: int, spec_fd: int) -> Never:
    """Run one job to its end and report it; this process is a fork of the zygote and ends here."""
    try:
        kernel.die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        with os.fdopen(spec_fd, "rb", closefd=False) as stream:
            room = Room.from_json(json.loads(stream.read()))
        _tell(report_fd, run(room, output_fd, report_fd))
    except BaseException as error:  # noqa: BLE001  # the launcher is told, whatever it is
        _tell(report_fd, warden.Ended(None, f"the warden failed: {type(error).__name__}: {error}"))
    finally:
        os._exit(0)


def run(room: Room, output_fd: int, cancel_fd: int) -> warden.Ended:
    """Fork the first process of a sandbox, wait for its walls, let it go, and watch it to its end."""
    parent = os.getpid()
    if room.mode == "user":
        enter_user_namespace()
        kernel.die_with_parent()  # a change of credentials has undone it
    text, progress, built, go = os.pipe(), os.pipe(), os.pipe(), os.pipe()
    kernel.unshare(kernel.CLONE_NEWPID)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        for descriptor in (text[0], progress[0], built[0], go[1], cancel_fd):
            os.close(descriptor)  # above all go[1]: the end of the warden must be seen
        _first_process(room, text=text[1], progress=progress[1], output=output_fd, built=built[1], go=go[0])
    pidfd = os.pidfd_open(pid)
    for descriptor in (text[1], progress[1], built[1], go[0], output_fd):
        os.close(descriptor)
    problem = _wait_built(built[0])
    if problem:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        return warden.Ended(None, problem)
    if os.getpid() != parent:  # pragma: no cover - a fork returned twice
        os._exit(1)
    os.write(go[1], b"!")
    os.close(go[1])

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    report = warden.watch(
        pid=pid, pidfd=pidfd, text_fd=text[0], progress_fd=progress[0], cancel_fd=cancel_fd,
        limits=room.limits, kill=kill,
    )  # fmt: skip
    if not report.empty:
        return warden.Ended(report, "the sandbox did not empty")
    _, status, usage = os.wait4(pid, 0)
    return warden.Ended(report, "", status, usage.ru_utime + usage.ru_stime)


def _wait_built(descriptor: int) -> str:
    """Wait for the walls; return what went wrong, or nothing."""
    deadline, said = time.monotonic() + _SETUP_SECONDS, b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while said != _BUILT:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return "the walls took too long to build"
        data = os.read(descriptor, 4096)
        if not data:
            return said.decode("utf-8", "replace") or "the first process died before its walls stood"
        said += data
    os.close(descriptor)
    return ""


def _first_process(room: Room, *, text: int, progress: int, output: int, built: int, go: int) -> Never:
    """Build the walls from within, then run the entry; any failure ends here, before candidate code."""
    try:
        os.dup2(text, 1)
        os.dup2(text, 2)
        os.setsid()
        build(room)
        give_up(room)
        check_walls()
        os.write(built, _BUILT)
        # The warden answers only while it lives, and from here its death is ours: give_up asked for that
        if os.read(go, 1) != b"!":
            os._exit(1)
        close_in(room, output, progress)
    except BaseException as error:  # noqa: BLE001  # a wall that does not stand is reported, never passed
        with contextlib.suppress(OSError):
            os.write(built, f"{type(error).__name__}: {error}"[:2000].encode())
        os._exit(1)
    inside.run(room.module)
    os._exit(1)


if __name__ == "__main__":
    main()
