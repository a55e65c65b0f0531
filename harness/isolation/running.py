"""Inside the sandbox: run one program on its inputs, each in a process of its own, and answer what it gave.

This side is not trusted: a program may bring it down, or write the answer in its place, and gains nothing by it,
because what it should give is not here. Its care is for honest programs: that no process meets one of an earlier
input, and that a program which ends badly on one input has its outputs for the others. Files in the scratch stay.

A program ends with its last line, as far as this process waits: threads and `atexit` do not delay its end.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import select
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any, Never

from harness.isolation import inside, kernel

_TICK_MS = 10
_CHUNK = 1 << 16
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RESULT_FD = 3


def main() -> None:
    """Run `program` on each of `inputs`; the answer's header says how each `ended` and the `sizes` of the outputs."""
    job = inside.job()
    ended, outputs, left = [], [], int(job["bytes"])
    for given in job["inputs"]:
        how, output = ("unrun", b"") if "time" in ended else _one(job, given, left)
        left -= len(output)
        ended.append(how)
        outputs.append(output)
    inside.answer({"ended": ended, "sizes": [len(each) for each in outputs]}, b"".join(outputs))


def _one(job: dict[str, Any], given: str, most: int) -> tuple[str, bytes]:
    """Run the program on one input; how it ended, and its output, of at most so many bytes."""
    source, sink = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        _child(job, given, source[0], sink[1])
    os.close(source[0])
    os.close(sink[1])
    text = given.encode() if job["call"] is None else b""
    try:
        output, stopped = _talk(child, source[1], sink[0], text, most, float(job["clock"]))
    finally:
        os.close(sink[0])
        _end_all()
    status, used = _reaped[child]
    _reaped.clear()
    if stopped:
        return stopped, b""
    if status == 0:
        return "ok", output
    late = used > int(job["seconds"]) - 0.1 and os.WIFSIGNALED(status)
    return "time" if late else "failed", b""


_reaped: dict[int, tuple[int, float]] = {}
"""Processes that ended: their status, and the CPU seconds that they used."""


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                return
            _reaped[pid] = status, usage.ru_utime + usage.ru_stime


def _end_all() -> None:
    """End every other process of this namespace."""
    while True:
        _reap()
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            _reap()
            return
        time.sleep(0.0005)


def _talk(child: int, source: int, sink: int, text: bytes, most: int, clock: float) -> tuple[bytes, str]:
    """Give a child its input and take its output until it has ended; what it gave, and why it was stopped."""
    deadline, output, open_ends = time.monotonic() + clock, bytearray(), {source, sink}
    for end in (source, sink):
        os.set_blocking(end, False)

    def read() -> None:
        with contextlib.suppress(BlockingIOError):
            while len(output) <= most:
                data = os.read(sink, _CHUNK)
                if not data:
                    open_ends.discard(sink)
                    return
                output.extend(data)

    try:
        while child not in _reaped:
            poll = select.poll()
            if sink in open_ends:
                poll.register(sink, select.POLLIN)
            if source in open_ends:
                poll.register(source, select.POLLOUT)
            for end, event in poll.poll(_TICK_MS):
                if end == sink:
                    read()
                elif event & select.POLLERR or not text:
                    open_ends.discard(source)
                    os.close(source)
                else:
                    with contextlib.suppress(BlockingIOError, BrokenPipeError):
                        text = text[os.write(source, text[:_CHUNK]) :]
            if len(output) > most:
                return b"", "output"
            if time.monotonic() > deadline:
                return b"", "time"
            _reap()
        read()  # what it has left in the pipe
    finally:
        if source in open_ends:
            os.close(source)
    return (b"", "output") if len(output) > most else (bytes(output), "")


def _child(job: dict[str, Any], given: str, source: int, sink: int) -> Never:
    """Become the program, on one input; never returns."""
    status = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        call = job["call"]
        os.dup2(null if call else source, 0)
        os.dup2(sink, _RESULT_FD if call else 1)
        for descriptor in (1, 2) if call else (2,):
            os.dup2(null, descriptor)
        kernel.close_from(_RESULT_FD + 1 if call else _RESULT_FD)
        _limit(int(job["seconds"]), int(job["memory_mb"]))
        sys.stdin, sys.stdout, sys.stderr = _stream(0, "r"), _stream(1, "w"), _stream(2, "w")
        sys.argv = ["program.py"]
        status = _run(job["program"], call, given)
    except SystemExit as error:
        status = error.code & 0xFF if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001  # whatever a program raises, it failed
        status = 1
    try:
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001  # an output that does not arrive is none
        status = status or 1
    os._exit(status)


def _run(program: str, call: str | None, given: str) -> int:
    """Run a program's text as `__main__`, and call what is to be called."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    exec(compile(program, "program.py", "exec"), module.__dict__)  # noqa: S102  # ok: this is what the sandbox is for
    if call is not None:
        result = json.dumps(module.__dict__[call](*json.loads(given)), allow_nan=False, separators=(",", ":"))
        with os.fdopen(_RESULT_FD, "wb") as stream:
            stream.write(result.encode())
    return 0


def _stream(descriptor: int, mode: str) -> io.TextIOWrapper:
    opened = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - it lives as long as the process
    if not isinstance(opened, io.TextIOWrapper):
        raise TypeError("no text stream")
    return opened


def _limit(seconds: int, memory_mb: int) -> None:
    """Bound the CPU time and the address space of one process; never above what the walls allow."""
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE
    wanted = {resource.RLIMIT_CPU: (seconds, seconds + 1), resource.RLIMIT_AS: (mapped + (memory_mb << 20),) * 2}
    for name, (soft, hard) in wanted.items():
        most = resource.getrlimit(name)[1]
        within = (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))
        resource.setrlimit(name, within)
