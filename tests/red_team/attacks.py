"""What hostile candidate code might try. Each function returns evidence that it got through, or raises.

The same functions run outside of any sandbox, as positive controls, and inside. An attack that "failed" only because it
never ran would prove nothing, so every answer carries the token `ran` that its test made up.
"""

# Attackers share one signature, say by their names what they try, and use whatever works.
# ruff: noqa: ARG001, D103, PTH208, RUF059, S606, BLE001

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
Targets = dict[str, Any]


def _syscall(number: int, *arguments: Any) -> int:
    result = LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


# what lies on this machine


def key_by_path(targets: Targets) -> str:
    return Path(targets["key"]).read_text()


def key_by_dots(targets: Targets) -> str:
    return Path("/job/../../../../../.." + targets["key"] if Path("/job").exists() else targets["key"]).read_text()


def key_by_proc_root(targets: Targets) -> str:
    problems = []
    for pid in [targets["victim"], *(name for name in os.listdir("/proc") if name.isdigit())]:
        for way in ("root", "cwd"):
            try:
                return Path(f"/proc/{pid}/{way}" + targets["key"]).read_text()
            except OSError as error:
                problems.append(str(error))
    raise PermissionError(problems[0])


def key_by_leaked_descriptor(targets: Targets) -> str:
    for number in range(3, 512):
        try:
            text = os.pread(number, 4096, 0).decode("utf-8", "replace")
        except OSError:
            continue
        if targets["secret"] in text:
            return text
    raise PermissionError("no descriptor leads to it")


def environment_canary(targets: Targets) -> str:
    for pid in ("self", "1", str(os.getppid()), targets["victim"]):
        try:
            data = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if targets["secret"].encode() in data:
            return pid
    if targets["secret"] in json.dumps(dict(os.environ)):
        return "environ"
    raise PermissionError("no environment holds it")


def label_canary(targets: Targets) -> str:
    sys.path.append(targets["packages"])
    import wordfreq

    return str(wordfreq.__file__)


def label_by_walk(targets: Targets) -> str:
    """Look for anything of the evaluator's below all that can be listed."""
    for top in [*sys.path, "/usr", "/job", "/proc/self/cwd", *targets["extra_roots"]]:
        for folder, folders, files in os.walk(top or "."):
            for name in [*files, *folders]:
                if name in ("guards.py", "evaluator.py", "wordfreq", "sklearn", "keys.py"):
                    return f"{folder}/{name}"
    raise PermissionError("nothing of it is mounted")


def write_outside(targets: Targets) -> str:
    path = Path(targets["folder"], f"planted-{os.getpid()}")
    path.write_text("planted")
    return str(path)


def write_system(targets: Targets) -> str:
    problems = []
    for folder in ("/", "/dev", "/job", "/proc/sys/kernel", *targets["extra_roots"], *sys.path):
        try:
            path = Path(folder, f"lockgate-planted-{os.getpid()}")
            path.write_text("planted")
            path.unlink()
        except OSError as error:
            problems.append(str(error))
        else:
            return folder
    raise PermissionError(problems[0])


def remount(targets: Targets) -> str:
    if LIBC.mount(b"none", b"/", None, ctypes.c_ulong(0x20 | 0x1000), None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return "remounted"


# the network


def tcp(targets: Targets) -> str:
    with socket.create_connection(("127.0.0.1", targets["port"]), 3) as client:
        return client.recv(100).decode()


def udp(targets: Targets) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ("127.0.0.1", targets["port"]))
    return "sent"


def abstract_socket(targets: Targets) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + targets["abstract"])
    return "connected"


def path_socket(targets: Targets) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(targets["path_socket"])
    return "connected"


def vsock(targets: Targets) -> str:
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    return "opened"


def raw_packet(targets: Targets) -> str:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    return "opened"


def socketpair_inet(targets: Targets) -> str:
    socket.socketpair(socket.AF_UNIX)[0].close()
    return "opened"


# other processes


def signal_victim(targets: Targets) -> str:
    os.kill(int(targets["victim"]), signal.SIGTERM)
    return "sent"


def daemon(targets: Targets) -> str:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            LIBC.prctl(15, targets["name"].encode(), 0, 0, 0)  # PR_SET_NAME
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            for descriptor in range(3):  # nobody waits for it to stop printing
                os.close(descriptor)
            time.sleep(30)
        os._exit(0)
    os.wait()
    time.sleep(0.2)
    return "started"


def forks(targets: Targets) -> str:
    children = []
    try:
        for _ in range(targets["count"]):
            child = os.fork()
            if child == 0:
                time.sleep(20)
                os._exit(0)
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return str(len(children))


def read_memory(targets: Targets) -> str:
    """Read a child's memory, which it would as well do to anybody else's."""

    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    source, target = ctypes.create_string_buffer(b"secret", 8), ctypes.create_string_buffer(8)
    child = _child()
    try:
        remote, local = Vector(ctypes.addressof(source), 8), Vector(ctypes.addressof(target), 8)
        _syscall(
            310 if os.uname().machine == "x86_64" else 270, child, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0
        )
    finally:
        _end(child)
    return target.value.decode()


def ptrace(targets: Targets) -> str:
    child = _child()
    try:
        if LIBC.ptrace(ctypes.c_long(0x4206), child, None, None) != 0:  # PTRACE_SEIZE
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        _end(child)
    return "seized"


def pidfd(targets: Targets) -> str:
    child = _child()
    try:
        os.close(os.pidfd_open(child))
    finally:
        _end(child)
    return "opened"


def _child() -> int:
    child = os.fork()
    if child == 0:
        time.sleep(20)
        os._exit(0)
    return child


def _end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def outlive_warden(targets: Targets) -> str:
    if LIBC.prctl(1, 0, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return "done"


# resources


def one_process_memory(targets: Targets) -> str:
    return str(len(bytearray(b"x") * (targets["mb"] << 20)) >> 20)


def many_process_memory(targets: Targets) -> str:
    children = []
    for _ in range(targets["count"]):
        child = os.fork()
        if child == 0:
            hoard = bytearray(b"x") * (targets["mb"] << 20)
            time.sleep(targets["seconds"])
            os._exit(len(hoard) == 0)
        children.append(child)
    return str(sum(os.waitpid(child, 0)[1] == 0 for child in children))


def memfd(targets: Targets) -> str:
    os.close(os.memfd_create("hidden"))
    return "created"


def shared_segment(targets: Targets) -> str:
    identifier = LIBC.shmget(0, 4096, 0o1600)
    if identifier < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    LIBC.shmctl(identifier, 0, None)
    return "created"


def flood(targets: Targets) -> str:
    chunk = b"x" * (1 << 16)
    for _ in range(targets["mb"] << 4):
        os.write(1, chunk)
    return "written"


def ignore_sigterm(targets: Targets) -> str:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(targets["seconds"])
    return "slept"


def fill_scratch(targets: Targets) -> str:
    path = Path(targets["scratch"], f"fill-{os.getpid()}")
    try:
        with path.open("wb") as stream:
            for _ in range(targets["mb"]):
                stream.write(b"x" * (1 << 20))
    finally:
        path.unlink(missing_ok=True)
    return "filled"


def sparse(targets: Targets) -> str:
    path = Path(targets["scratch"], f"sparse-{os.getpid()}")
    try:
        with path.open("wb") as stream:
            stream.truncate(1 << 40)
    finally:
        path.unlink(missing_ok=True)
    return "made"


def raise_limits(targets: Targets) -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if targets["inside"]:
        resource.setrlimit(resource.RLIMIT_CORE, (hard + 1, hard + 1))
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    return "raised"


def leave_leftovers(targets: Targets) -> str:
    found = [name for folder in ("/tmp", "/dev/shm") for name in os.listdir(folder) if targets["secret"] in name]
    for folder in ("/tmp", "/dev/shm"):
        Path(folder, targets["secret"]).write_text("left")
    if not found:
        raise PermissionError("nothing was left by another job")
    return found[0]


# the kernel


def become_root(targets: Targets) -> str:
    os.setresuid(0, 0, 0)
    return str(os.getuid())


def user_namespace(targets: Targets) -> str:
    child = os.fork()
    if child == 0:
        os._exit(0 if LIBC.unshare(0x10000000) == 0 else ctypes.get_errno() or 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))
    return "made"


def clone3(targets: Targets) -> str:
    arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, signal.SIGCHLD)
    child = LIBC.syscall(ctypes.c_long(435), ctypes.byref(arguments), ctypes.c_long(88))
    if child == 0:
        os._exit(0)
    if child < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    os.waitpid(child, 0)
    return "made"


def execute(targets: Targets) -> str:
    child = os.fork()
    if child == 0:
        try:
            os.execve(targets["program"], [targets["program"], "-c", "pass"], {})
        except OSError as error:
            os._exit(error.errno or 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))
    return "executed"


def system_call(targets: Targets) -> str:
    """Make a call with useless arguments: anything but EPERM means that the kernel looked at them."""
    try:
        _syscall(targets["number"], *([-1] * 6))
    except OSError as error:
        if error.errno == 1:
            raise
        return error.strerror
    return "done"


def terminal_injection(targets: Targets) -> str:
    master, slave = os.openpty()
    os.setsid()
    fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
    fcntl.ioctl(slave, 0x5412, b"x")  # TIOCSTI
    return "typed"


# the next job


def poison(targets: Targets) -> str:
    """Patch what the next job will use, and find whether an earlier one did."""
    patched = bool(getattr(json, "poisoned", False))
    json.poisoned = True
    Path.read_text = None
    if not patched:
        raise PermissionError("nobody was here before")
    return "patched"


def honest(targets: Targets) -> str:
    return "ran"


def run(job: dict[str, Any]) -> dict[str, Any]:
    attack: Callable[[Targets], str] = globals()[job["attack"]]
    try:
        return {"ran": job["token"], "got": attack(job["targets"])}
    except (Exception, MemoryError) as error:
        return {"ran": job["token"], "blocked": f"{type(error).__name__}: {error}"[:300]}


def main() -> None:
    from harness.isolation import inside

    inside.answer(run(inside.job()))


if __name__ == "__main__":
    sys.stderr.write(json.dumps(run(json.load(sys.stdin))))
