"""A child process that answers JSON lines: how the supervisor talks to the evaluator.

One request, one answer, in order; every line is bounded; every answer has a deadline, and the name of its request,
which begins with a nonce of that one process. A child that dies, is late, answers twice, unasked or another request,
or anything else, is killed, and the caller told.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from harness.canonical import canonical_bytes, parse_json
from harness.errors import CanonicalError, EvaluatorError

MAX_LINE = 8 << 20
"""Bytes of one line: the ids of a prefix and the curves of a test fit many times."""


class Child:
    """A warm child process; `ask` is safe to call from several threads."""

    def __init__(self, arguments: Sequence[str], *, name: str, stderr: Path) -> None:
        """`arguments` follow the interpreter; what the child prints to stderr goes to the file `stderr`."""
        self._arguments = [sys.executable, "-P", *arguments]
        self._name = name
        self._stderr = stderr
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = bytearray()
        self._closed = False
        self._nonce, self._asked = "", 0
        self._greeting: tuple[dict[str, Any], dict[str, Any], float] | None = None

    @property
    def pid(self) -> int | None:
        """The running child's process id."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def expect(self, request: dict[str, Any], answer: dict[str, Any], *, seconds: float) -> None:
        """Ask every later child this first, and use none that answers otherwise: it would be another one."""
        self._greeting = (request, answer, seconds)

    def ask(self, request: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        """Send one request, return its answer. EvaluatorError where there is none in time."""
        with self._lock:
            process, fresh = self._running()
            try:
                if fresh and self._greeting is not None:
                    self._greet(process, *self._greeting)
                return self._exchange(process, request, seconds)
            except (OSError, ValueError, CanonicalError, EvaluatorError) as error:
                self._kill()
                if isinstance(error, EvaluatorError):
                    raise
                raise EvaluatorError(f"the {self._name} failed: {error}", remedy=f"see {self._stderr}") from error

    def _greet(
        self, process: subprocess.Popen[bytes], greeting: dict[str, Any], wanted: dict[str, Any], seconds: float
    ) -> None:
        if self._exchange(process, greeting, seconds) != wanted:
            raise EvaluatorError(
                f"the {self._name} that was started again is not the one that the run began with",
                remedy="restore the subject's guards and data, then resume",
            )

    def close(self) -> None:
        """End the child, for good."""
        self._closed = True
        process = self._process
        if process is not None:
            # Before the lock, which a question that is under way holds until its answer comes.
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        with self._lock:
            self._kill()

    def _running(self) -> tuple[subprocess.Popen[bytes], bool]:
        if self._closed:
            raise EvaluatorError(f"the {self._name} is closed")
        fresh = False
        if self._process is None or self._process.poll() is not None:
            self._kill()
            self._buffer.clear()
            self._nonce, self._asked = secrets.token_hex(16), 0
            fresh = True
            keep = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
            environment = {key: os.environ[key] for key in keep if key in os.environ}
            environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
            with self._stderr.open("ab") as log:
                self._process = subprocess.Popen(
                    self._arguments,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                    bufsize=0,
                )
            if self._process.stdin is not None:
                os.set_blocking(self._process.stdin.fileno(), False)
        return self._process, fresh

    def _exchange(self, process: subprocess.Popen[bytes], request: dict[str, Any], seconds: float) -> dict[str, Any]:
        if process.stdin is None or process.stdout is None:
            raise EvaluatorError(f"the {self._name} has no pipes")
        if self._buffer or select.select([process.stdout], [], [], 0)[0]:
            raise EvaluatorError(f"the {self._name} died, or spoke unasked", remedy=f"see {self._stderr}")
        self._asked += 1
        name = f"{self._nonce}-{self._asked}"
        deadline = time.monotonic() + seconds
        # A pipe holds 64 KiB: beyond that it takes a child that reads.
        left_over = memoryview(canonical_bytes({"id": name, "request": request}) + b"\n")
        while left_over:
            if (left := deadline - time.monotonic()) <= 0:
                raise EvaluatorError(f"the {self._name} did not read its request within {seconds:g} s")
            if select.select([], [process.stdin], [], min(left, 1.0))[1]:
                left_over = left_over[os.write(process.stdin.fileno(), left_over[: 1 << 16]) :]
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise EvaluatorError(f"the {self._name} did not answer within {seconds:g} s")
            ready, _, _ = select.select([process.stdout], [], [], min(left, 1.0))
            if not ready:
                continue
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                raise EvaluatorError(f"the {self._name} died (status {process.wait()})", remedy=f"see {self._stderr}")
            self._buffer += data
            if len(self._buffer) > MAX_LINE:
                raise EvaluatorError(f"the {self._name} answered more than {MAX_LINE} bytes")
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer.clear()
        if rest:
            raise EvaluatorError(f"the {self._name} answered twice")
        said = parse_json(line, max_bytes=MAX_LINE)
        answer = said.get("answer") if isinstance(said, dict) else None
        if not isinstance(said, dict) or not isinstance(answer, dict):
            raise EvaluatorError(f"the {self._name} answered no object")
        if said.get("id") != name:
            raise EvaluatorError(f"the {self._name} answered another request than the one that it was asked")
        return answer

    def _kill(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process = None


def serve(handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """In the child: answer each request until the parent goes away. `handle` answers errors of its own, too.

    A line that is no request is handled as an empty one, and the answer bears no name: a parent takes it for none.
    """
    requests, answers = _pipes()
    while line := requests.readline(MAX_LINE):
        name, request = None, {}
        with contextlib.suppress(CanonicalError):
            asked: Any = parse_json(line, max_bytes=MAX_LINE)
            if isinstance(asked, dict) and isinstance(asked.get("request"), dict):
                name, request = asked.get("id"), asked["request"]
        answers.write(canonical_bytes({"id": name, "answer": handle(request)}) + b"\n")
        answers.flush()


def _pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The pipes to the parent, with `print` sent to stderr.

    When the parent dies the requests end, and so does the child: no signal, which would be tied to the
    parent's thread (PR_SET_PDEATHSIG), and no process left behind.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    return requests, answers
