"""The launcher's end of a zygote: start it, hand it jobs from any thread, start it again when it died.

The control socket is the zygote's lifeline: when the launcher ends, however it ends, the socket closes, the
zygote returns, and its wardens and jobs die with it. A request is a datagram with three descriptors: where to
report, where the answer goes (a memory file), and the room as JSON in another memory file.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from harness.errors import SandboxError
from harness.isolation.room import Room, environment
from harness.isolation.site import Farm, Site
from harness.isolation.warden import Ended
from harness.isolation.zygote import READY

_START_SECONDS = 180.0
_GRACE_SECONDS = 90.0  # beyond the job's own deadline, for the walls and the end: then something is broken
_REPORT_BYTES = 1 << 20
_MAIN = "import sys; sys.path.append(sys.argv[3]); from harness.isolation.zygote import main; main()"


def interpreter() -> list[str]:
    """Return the command of a Python that sees the standard library only: no site, no user, no bytecode written."""
    return [sys.executable, "-s", "-S", "-P", "-B"]


class Zygote:
    """One warm process for one site. Safe to use from many threads; `close` ends it and every job of it."""

    def __init__(self, site: Site) -> None:
        """Lay out the site; the process starts with the first job, or with `start`."""
        self.farm = Farm(site)
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._running: set[socket.socket] = set()
        self._closed = False
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The process, or None where none runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process, if it does not run, and wait until it has imported everything; raise SandboxError."""
        with self._lock:
            self._ensure()

    def _ensure(self) -> socket.socket:
        if self._closed:
            raise SandboxError("this zygote is closed")
        if self._control is not None and self.pid is not None:
            return self._control
        self._stop()
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there, tempfile.TemporaryFile() as complaints:
            preload = json.dumps(list(self.farm.site.preload))
            command = [*interpreter(), "-c", _MAIN, str(there.fileno()), preload, str(self.farm.path)]
            self._process = subprocess.Popen(
                command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=complaints, close_fds=True, pass_fds=[there.fileno()], cwd="/", start_new_session=True,
            )  # fmt: skip
            there.close()
            here.settimeout(_START_SECONDS)
            try:
                said = here.recv(4096)
            except TimeoutError:
                said = b"it did not start in time"
            except OSError as error:
                said = str(error).encode()
            if said != READY:
                complaints.seek(0)
                why = said.decode("utf-8", "replace") or complaints.read()[-2000:].decode("utf-8", "replace").strip()
                here.close()
                self._stop()
                raise SandboxError(f"the warm worker did not start: {why}")
        here.settimeout(None)
        self._control = here
        self.starts += 1
        return here

    def run(self, room: Room, output_fd: int) -> Ended:
        """Run one job to its end, in the calling thread; raise SandboxError if no zygote can be had."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        spec = os.memfd_create("room", os.MFD_CLOEXEC)
        with here:
            try:
                os.write(spec, json.dumps(room.json_value()).encode())
                os.lseek(spec, 0, os.SEEK_SET)
                with self._lock:
                    self._send(there, output_fd, spec)
                    self._running.add(here)
            finally:
                there.close()
                os.close(spec)
            try:
                return self._wait(here, room.limits.wall_seconds + _GRACE_SECONDS)
            finally:
                with self._lock:
                    self._running.discard(here)

    def _send(self, there: socket.socket, output_fd: int, spec: int) -> None:
        for attempt in range(2):
            control = self._ensure()
            try:
                socket.send_fds(control, [b"job"], [there.fileno(), output_fd, spec])
            except OSError:
                if attempt:
                    raise SandboxError("the warm worker died twice") from None
                self._stop()
            else:
                return

    def _wait(self, here: socket.socket, seconds: float) -> Ended:
        deadline, data = time.monotonic() + seconds, b""
        while len(data) < _REPORT_BYTES:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([here], [], [], left)[0]:
                self.kill()  # a zygote whose warden is mute is not to be trusted with the next job
                return Ended(None, "the warden fell silent, and was ended")
            chunk = here.recv(1 << 16)
            if not chunk:
                break
            data += chunk
        try:
            return Ended.from_json(json.loads(data))
        except (ValueError, TypeError, KeyError):
            return Ended(None, "the worker's parent died")

    def kill(self) -> None:
        """End the process at once; its jobs are reported as crashed, and the next job starts another."""
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        self.kill()
        self._process = None

    def close(self) -> None:
        """Cancel what runs, end the process and remove the site's links. Safe to call twice."""
        with self._lock:
            self._closed = True
            for report in self._running:
                with contextlib.suppress(OSError):
                    report.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + 10
        while self._running and time.monotonic() < deadline:
            time.sleep(0.02)
        with self._lock:
            self._stop()
        self.farm.close()
