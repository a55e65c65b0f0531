"""Asking the witnesses: a tree head is shown to all of them at once, and only what verifies is believed.

Rules. All of them together have one deadline, whatever they do: one that is slow, drips or is silent is cut off, and
once the quorum is there the others have little more time than it took. No redirect is followed and no proxy of the
environment is used. An answer is bounded, and only signature lines by the configured keys are taken from it, made
again in their one form. Times that cannot be now are refused. Witnesses are counted by key material.

A `Quorum` remembers how far each witness has seen the log, as a hint that saves a request; nothing hangs on it.

Not covered: what is done with the lines (they belong under the head), and a witness that forgets: it cosigns what
extends its older memory, which is told as a remark.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import queue
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from harness.cosignature import WitnessVerifier
from harness.errors import AuditError, LockgateError
from harness.notes import TreeHead, parse_note
from harness.plain import plain
from harness.quorum import Witness, Witnesses

__all__ = ["Gathered", "Headed", "Quorum"]

AHEAD = 300
"""Seconds by which a witness's clock may be ahead of ours."""
BEHIND = 3600
"""Seconds by which it may be behind."""

_REFUSED = "it answered 403"
"""tlog-witness §add-checkpoint: no signature by a key that it trusts for this log."""
_AWAY = "see that each runs and knows the log's key (keys/log.pub)"
_KEY_UNKNOWN = (
    "one that answers 403 does not know the key that signs now: after `lockgate keys rotate`, give it the longer "
    "keys/log.pub and start it again"
)

_MAX_ANSWER = 1 << 15
_MIN_GRACE = 0.2
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,17})\n")


class Headed(Protocol):
    """A log as it stands under one tree head: an `AuditLog` that nobody appends to meanwhile, or a `LogReader`."""

    @property
    def head(self) -> bytes:
        """The signed note."""

    @property
    def tree_head(self) -> TreeHead:
        """What it says."""

    def consistency_proof(self, old: int) -> list[bytes]:
        """The proof from an earlier size; raises AuditError."""


@dataclass(frozen=True)
class Gathered:
    """What the witnesses said of one tree head. Every line in it was verified under its witness's key."""

    head: bytes
    """The signed note that was shown to them."""
    lines: bytes = b""
    """Their signature lines, in the order of the configuration."""
    times: dict[str, int] = field(default_factory=dict)
    """By the witness's configured name: when it signed, seconds since 1970."""
    problems: dict[str, str] = field(default_factory=dict)
    """By name: why there is no line of this one. A witness is in `times` or here."""
    remarks: dict[str, str] = field(default_factory=dict)
    """By name: what an operator should know of a witness, whether or not it has cosigned."""

    @property
    def note(self) -> bytes:
        """The tree head with the cosignatures under it."""
        return self.head + self.lines


@dataclass(frozen=True)
class _Reply:
    """What one request came to: an HTTP status and body, or a problem."""

    name: str
    status: int = 0
    type: str = ""
    body: bytes = b""
    problem: str | None = None


class Quorum:
    """The witnesses that a run has configured. One thread may use it at a time."""

    def __init__(self, witnesses: Witnesses, *, clock: Callable[[], float] = time.time) -> None:
        """Take the keys; raises KeyFileError for one that anybody can sign for. `clock`: seconds since 1970."""
        self.require_count = witnesses.require
        self.timeout = witnesses.timeout_seconds
        self._clock = clock
        self._of = {each.name: each for each in witnesses.of}
        self._keys = {each.name: WitnessVerifier.parse(each.key) for each in witnesses.of}
        self._sizes: dict[str, int] = {}
        self._calls: dict[str, _Call] = {}

    @property
    def verifiers(self) -> list[WitnessVerifier]:
        """The witnesses' keys, in the order of the configuration."""
        return list(self._keys.values())

    def gather(self, log: Headed) -> Gathered:
        """Show the log's tree head to all witnesses and take their cosignatures; no longer than the timeout.

        Whatever a witness does is told in the result. Raises AuditError where the log itself cannot be read.
        """
        started = time.monotonic()
        deadline = started + self.timeout
        round_ = _Round(log.head, log.tree_head)
        replies: queue.SimpleQueue[_Reply] = queue.SimpleQueue()
        asked: dict[str, int] = {}
        try:
            for name in self._of:
                known = self._sizes.get(name, 0)
                asked[name] = known if known <= round_.tree_head.size else 0
                self._ask(name, asked[name], log, round_, replies, deadline)
            while waiting := [name for name in self._of if name not in round_.settled]:
                try:
                    reply = replies.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    late = f"no answer within {time.monotonic() - started:.1f} seconds"
                    round_.problems.update(dict.fromkeys(waiting, late))
                    break
                retry = self._take(reply, asked[reply.name], round_)
                if retry is not None:
                    asked[reply.name] = retry
                    self._ask(reply.name, retry, log, round_, replies, deadline)
                if len(round_.lines) == self.require_count and reply.name in round_.lines:
                    grace = max(_MIN_GRACE, time.monotonic() - started)
                    deadline = min(deadline, time.monotonic() + grace)
        finally:
            for call in self._calls.values():
                call.cut()
        lines = "".join(round_.lines[name] for name in self._of if name in round_.lines)
        return Gathered(round_.head, lines.encode(), round_.times, round_.problems, round_.remarks)

    def require(self, gathered: Gathered) -> None:
        """Return when enough witnesses have cosigned; AuditError names each one that has not, and why."""
        keys = {self._keys[name].key_digest for name in gathered.times if name in self._keys}
        if len(keys) < self.require_count:
            missing = "; ".join(f"{name}: {problem}" for name, problem in sorted(gathered.problems.items()))
            refused = any(problem.startswith(_REFUSED) for problem in gathered.problems.values())
            raise AuditError(
                f"{len(keys)} of {self.require_count} required witnesses have cosigned the tree head ({missing})",
                clause="§10.3",
                remedy=f"{_KEY_UNKNOWN if refused else _AWAY}; nothing goes live without them",
            )

    def _ask(
        self, name: str, old: int, log: Headed, round_: _Round, replies: queue.SimpleQueue[_Reply], deadline: float
    ) -> None:
        """Send one request in a thread of its own, unless the last one to this witness has not let go yet."""
        last = self._calls.get(name)
        if last is not None and last.cut_off and last.thread.is_alive():
            round_.problems[name] = "the last request to it has not ended"
            return
        proof = "".join(f"{base64.b64encode(each).decode()}\n" for each in log.consistency_proof(old))
        body = f"old {old}\n{proof}\n".encode() + round_.head
        self._calls[name] = _Call(self._of[name], body, replies, deadline)

    def _take(self, reply: _Reply, old: int, round_: _Round) -> int | None:
        """Judge one reply; return the size to ask again from, where the witness named it."""
        name = reply.name
        if reply.problem is None and reply.status == 409:
            seen = _SIZE.fullmatch(reply.body)
            if seen is None or reply.type != "text/x.tlog.size":
                round_.problems[name] = "it answered 409 without a size"
                return None
            return self._conflict(name, int(seen[1]), old, round_)
        if reply.problem is not None or reply.status != 200:
            said = plain(reply.body.decode("utf-8", "replace").strip(), 200)
            round_.problems[name] = reply.problem or f"it answered {reply.status}: {said}"
            return None
        try:
            line, seconds = _verified(reply.body, self._keys[name], round_.tree_head)
        except AuditError as error:
            round_.problems[name] = f"its answer does not verify: {error}"
            return None
        now = self._clock()
        if not now - BEHIND <= seconds <= now + AHEAD:
            round_.problems[name] = f"it signed at {seconds}, which is {seconds - now:+.0f} seconds from now"
            return None
        round_.lines[name], round_.times[name] = line, seconds
        self._sizes[name] = round_.tree_head.size
        return None

    def _conflict(self, name: str, seen: int, old: int, round_: _Round) -> int | None:
        size = round_.tree_head.size
        if seen > size:
            round_.problems[name] = f"the witness has seen {seen} entries, this log has {size}: this log was put back"
        elif seen == old == size:
            round_.problems[name] = f"the witness has seen another history of {size} entries: this log was forked"
        elif seen == old or name in round_.retried:
            round_.problems[name] = f"it refuses with 409 and says that it has seen {seen} entries"
        else:
            if seen < self._sizes.get(name, 0):
                round_.remarks[name] = f"it had seen {self._sizes[name]} entries and now says {seen}: it was put back"
            round_.retried.add(name)
            return seen
        return None


class _Round:
    """What is known so far of one gathering."""

    def __init__(self, head: bytes, tree_head: TreeHead) -> None:
        self.head = head
        self.tree_head = tree_head
        self.lines: dict[str, str] = {}
        self.times: dict[str, int] = {}
        self.problems: dict[str, str] = {}
        self.remarks: dict[str, str] = {}
        self.retried: set[str] = set()

    @property
    def settled(self) -> set[str]:
        """The witnesses of which nothing more is expected."""
        return self.lines.keys() | self.problems.keys()


class _Call:
    """One request in a thread; `cut` ends it from outside, however the other side delays."""

    def __init__(self, witness: Witness, body: bytes, replies: queue.SimpleQueue[_Reply], deadline: float) -> None:
        self._witness = witness
        self._body = body
        self._replies = replies
        self._deadline = deadline
        self._mutex = threading.Lock()
        self._handle: socket.socket | None = None
        self.cut_off = False
        self.thread = threading.Thread(target=self._run, name=f"witness {witness.name}", daemon=True)
        self.thread.start()

    def cut(self) -> None:
        """Shut the connection down; what the thread does then is of no consequence."""
        with self._mutex:
            self.cut_off = True
            if self._handle is not None:
                with contextlib.suppress(OSError):
                    self._handle.shutdown(socket.SHUT_RDWR)
                self._handle.close()
                self._handle = None

    def _run(self) -> None:
        name = self._witness.name
        try:
            reply = self._post()
        except TimeoutError:
            reply = _Reply(name, problem="no answer in time")
        except (OSError, http.client.HTTPException, LockgateError, ValueError) as error:
            reply = _Reply(name, problem=plain(f"it cannot be asked: {error or type(error).__name__}", 200))
        except Exception as error:  # noqa: BLE001 - a thread that dies unheard would cost the whole deadline
            reply = _Reply(name, problem=plain(f"it cannot be asked: {error!r}", 200))
        self._release()
        self._replies.put(reply)

    def _release(self) -> None:
        with self._mutex:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def _post(self) -> _Reply:
        parts = urlsplit(self._witness.url)
        host, secure = parts.hostname or "", parts.scheme == "https"
        plain_socket = socket.create_connection((host, parts.port or (443 if secure else 80)), self._left())
        with contextlib.closing(http.client.HTTPConnection(parts.netloc)) as connection:
            connection.sock = plain_socket
            with self._mutex:
                if self.cut_off:
                    raise TimeoutError
                self._handle = plain_socket.dup()  # it shuts down the connection, whatever TLS makes of the other
            if secure:
                import ssl

                connection.sock = ssl.create_default_context().wrap_socket(plain_socket, server_hostname=host)
            headers = {"Content-Type": "text/plain; charset=utf-8", "Connection": "close"}
            connection.request("POST", f"{parts.path.rstrip('/')}/add-checkpoint", self._body, headers)
            answer = connection.getresponse()
            body = answer.read(_MAX_ANSWER + 1)
            if len(body) > _MAX_ANSWER:
                return _Reply(self._witness.name, problem=f"it answered more than {_MAX_ANSWER} bytes")
            if answer.length:
                return _Reply(self._witness.name, problem="its answer was cut off")
            return _Reply(self._witness.name, answer.status, answer.getheader("Content-Type", ""), body)

    def _left(self) -> float:
        return max(0.01, self._deadline - time.monotonic())


def _verified(body: bytes, witness: WitnessVerifier, head: TreeHead) -> tuple[str, int]:
    """The witness's newest line in an answer, and its time; AuditError where there is none, or one does not verify."""
    note = parse_note(head.text.encode() + b"\n" + body)
    if note.text != head.text:
        raise AuditError("it is more than signature lines")
    found: list[tuple[int, str]] = []
    for each in note.signatures:
        if (each.name, each.id) == (witness.name, witness.id):  # tlog-witness: others MUST be ignored
            line = f"— {each.name} {base64.b64encode(each.id + each.signature).decode()}\n"
            found.append((witness.verify(note.text, each.signature), line))
    if not found:
        raise AuditError("no cosignature by the key that is configured")
    seconds, line = max(found)
    return line, seconds
