"""The judge: a process of its own that evaluates rules, warm, capped in memory, and killed when it is late.

An expression can build a string of gigabytes in seconds and holds the interpreter's lock while
it does, so it is evaluated where it can be stopped. The process is started clean: an empty
environment, no files but one socket, and limits that it sets on itself before it loads anything.

Rules: `Judge.decide` raises nothing for any document or any death; late, dead, oversize or
nonsensical answers are `invalid`. The answer is not believed as it comes: that exactly the
applicable rules were judged is checked, and the outcome is derived again from their verdicts.
The process dies by its own alarm if the supervisor is gone.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from harness.canonical import parse_json
from harness.errors import CanonicalError, LockgateError, PolicyError
from harness.judgement import Judgement, conclude, invalid
from harness.policy_document import KINDS, STAGES, canonicalise

if TYPE_CHECKING:
    from harness.policy import PolicySet
    from harness.policy_compiler import CompiledPolicy

MAX_FRAME = 8 * 1024 * 1024
MAX_DEPTH = 256  # an explanation is nested twice as deep as its expression
STUDY_SECONDS = 60.0
"""For what people wait for, such as the mutants of one policy: plenty for thousands, and a runaway still ends."""
_KEPT_SETS = 4
_START = "import sys; sys.path.insert(0, sys.argv[1]); from harness.judge import serve; serve(int(sys.argv[2]))"


class _LostError(Exception):
    """The judge is dead, late or talks nonsense; the message says which."""


class Judge:
    """A client of the judge's process, which it starts when first asked and replaces when it dies. Thread-safe."""

    def __init__(self, *, seconds: float = 5.0, memory_mb: int = 256, start_seconds: float = 60.0) -> None:
        """`seconds` is the deadline of one decision, `memory_mb` the cap on the process's address space (RLIMIT_AS)."""
        self._seconds = seconds
        self._memory = memory_mb * 1024 * 1024
        self._start_seconds = start_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        """Return itself; the process starts with the first decision."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

    @property
    def pid(self) -> int | None:
        """The process's id, or None while there is none."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        """End the process and reap it."""
        with self._lock:
            self._kill()

    def decide(self, policies: PolicySet, stage: Any, kind: Any, document: Any) -> Judgement:
        """Judge a document by the rules of a set that apply to the kind of proposal at the stage.

        Total: whatever cannot be judged has the outcome `invalid`, with the reason.
        """
        if stage not in STAGES or kind not in KINDS:
            return invalid("an unknown stage or kind of proposal")
        try:
            canonical = canonicalise(stage, document)
        except CanonicalError as error:
            return invalid(f"malformed document: {error}")
        applicable = policies.applicable(stage, kind)
        if not applicable:
            return conclude([])
        request = {"digest": policies.digest, "stage": stage, "kind": kind, "document": canonical}
        with self._lock:
            try:
                answer = self._ask(request, policies)
            except _LostError as error:
                self._kill()
                return invalid(f"the judge {error}")
        if not answer.verdicts:
            return invalid(answer.reason)
        expected = [(p.name, rule.id, rule.otherwise) for p in applicable for rule in p.document.rules]
        if [(v.policy, v.rule, v.otherwise) for v in answer.verdicts] != expected:
            return invalid("the judge answered about other rules than were asked")
        return conclude(answer.verdicts)

    def study(self, policies: PolicySet, question: str, **given: Any) -> Any:
        """Ask what no decision rests on: to `explain` a document, to `cover` or to `mutate` by a suite's cases.

        Returns JSON. PolicyError where the process does not answer within STUDY_SECONDS, or cannot.
        """
        request = {"digest": policies.digest, "question": question, **given}
        with self._lock:
            try:
                answer = self._exchange(request, policies, STUDY_SECONDS)
            except _LostError as error:
                self._kill()
                raise PolicyError(f"the judge {error}", remedy="look for a rule that grows without bound") from error
        if not isinstance(answer, dict) or "answer" not in answer:
            raise PolicyError(str(answer.get("reason", answer)) if isinstance(answer, dict) else "no answer")
        return answer["answer"]

    def _ask(self, request: dict[str, Any], policies: PolicySet) -> Judgement:
        try:
            # parsed strictly already, into the few types that this record is made of
            return Judgement.model_validate(self._exchange(request, policies, self._seconds))
        except ValidationError as error:
            raise _LostError("answered with something that is no judgement") from error

    def _exchange(self, request: dict[str, Any], policies: PolicySet, seconds: float) -> Any:
        if self._process is None or self._process.poll() is not None:
            self._kill()
            self._start()
        deadline = time.monotonic() + seconds
        answer = self._send_and_receive(request, deadline, seconds)
        if answer == {"unknown": policies.digest}:  # new to it, or forgotten for others meanwhile
            answer = self._send_and_receive({**request, "sources": policies.json_value()}, deadline, seconds)
        return answer

    def _send_and_receive(self, request: dict[str, Any], deadline: float, seconds: float) -> Any:
        connection = self._socket
        if connection is None:
            raise _LostError("is not there")
        try:
            _send(connection, json.dumps(request, allow_nan=False).encode(), deadline)
            return parse_json(_receive(connection, deadline), max_bytes=MAX_FRAME, max_depth=MAX_DEPTH)
        except TimeoutError as error:
            raise _LostError(f"did not answer within {seconds:g} s") from error
        except OSError as error:
            raise _LostError("died") from error
        except CanonicalError as error:
            raise _LostError("answered with something that is no judgement") from error

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parent.parent)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, root, str(self._memory)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,  # an interrupt at the terminal is for the supervisor
            )
            self._socket = ours
            _receive(ours, time.monotonic() + self._start_seconds)
        except TimeoutError as error:
            ours.close()
            raise _LostError(f"did not start within {self._start_seconds:g} s") from error
        except OSError as error:
            ours.close()
            raise _LostError("did not start") from error
        finally:
            theirs.close()

    def _kill(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


# --- framing: four bytes of length, big-endian, then JSON ------------------------------------------


def _send(connection: socket.socket, data: bytes, deadline: float) -> None:
    """Send one frame; raises TimeoutError or another OSError."""
    connection.settimeout(max(deadline - time.monotonic(), 0.001))
    connection.sendall(len(data).to_bytes(4, "big") + data)


def _receive(connection: socket.socket, deadline: float | None) -> bytes:
    """Receive one frame; raises TimeoutError or another OSError, also for the end of the stream."""
    length = int.from_bytes(_exactly(connection, 4, deadline), "big")
    if length > MAX_FRAME:
        raise ConnectionError("a frame beyond the limit")
    return _exactly(connection, length, deadline)


def _exactly(connection: socket.socket, count: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < count:
        connection.settimeout(None if deadline is None else max(deadline - time.monotonic(), 0.001))
        piece = connection.recv(min(count - len(data), 1 << 16))
        if not piece:
            raise ConnectionError("the end of the stream")
        data += piece
    return bytes(data)


# --- inside the process ----------------------------------------------------------------------------


def serve(memory: int) -> None:
    """Answer requests on file descriptor 0 until its other end is closed."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel's own answer, which needs no interpreter
    import cel_expr_python.cel  # noqa: F401 - loaded before the first question, as it costs time

    connection = socket.socket(fileno=0)
    sets: dict[str, list[CompiledPolicy]] = {}
    _send(connection, b"ready", time.monotonic() + 60)
    while True:
        try:
            request = json.loads(_receive(connection, None))
        except OSError:
            return
        signal.alarm(120)  # later than any client waits: only for an orphan
        answer = _answer(request, sets)
        signal.alarm(0)
        _send(connection, answer, time.monotonic() + 60)


def _answer(request: dict[str, Any], sets: dict[str, list[CompiledPolicy]]) -> bytes:
    answer = _reply(request, sets)
    told = answer.model_dump_json() if isinstance(answer, Judgement) else json.dumps(answer, allow_nan=False)
    return told.encode()


def _reply(request: dict[str, Any], sets: dict[str, list[CompiledPolicy]]) -> Judgement | dict[str, Any]:
    from harness.judgement import judge_canonical
    from harness.policy import policy_set_of
    from harness.policy_compiler import compile_policy
    from harness.policy_file import PolicySource

    try:
        digest = request["digest"]
        if digest not in sets and "sources" not in request:
            return {"unknown": digest}
        if digest not in sets:
            policies = policy_set_of([PolicySource.parse(source) for source in request["sources"]])
            if policies.digest != digest:
                return invalid("the policies are not those that their digest names")
            while len(sets) >= _KEPT_SETS:
                sets.pop(next(iter(sets)))
            sets[digest] = [compile_policy(policy) for policy in policies.policies]
        if "question" in request:
            from harness.studies import study

            return {"answer": study(sets[digest], request)}
        # `Judge.decide` sends canonical documents only, and JSON brings them here as they were
        return judge_canonical(sets[digest], request["stage"], request["kind"], request["document"])
    except (LockgateError, KeyError, ValidationError) as error:
        return invalid(f"the policies cannot be judged: {error}")
    except MemoryError:
        return invalid("judging took more memory than it may")
