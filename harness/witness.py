"""A witness: a process with a key of its own that cosigns a log's tree heads, each only if it extends the last one.

It speaks C2SP tlog-witness. `POST /add-checkpoint` takes

    old 20852014                          the size that the witness has seen
    PlRNCrwHpqhGrupue0L7gxbjbMiKA9te…     a consistency proof from there, at most 63 lines

    example.com/behind-the-sofa           an empty line, and the signed tree head
    …

and is answered by a cosignature line, or by the one thing that is wrong: 400 malformed, 404 an unknown log, 403 no
key of that log signed it, 409 not from the size that the witness has seen (which the answer names), 422 the proof is
wrong. `GET /<SHA-256 of the origin in hexadecimal>/checkpoint` gives the last head with the cosignature, so that
whoever reviews a log can ask the witness itself.

    witness.key witness.pub               its key
    logs/<SHA-256 of the origin>          the last head it cosigned: its whole memory of that log
    forks/…                               two heads of one size with two roots, both signed by the log
    lock                                  held by the one process that may sign

Rules. Compare, verify, sign and persist are one transaction: nothing is answered before it is durable, so no crash
lets two histories be signed. After an error of the disk nothing more is signed in the life of the process. A log
may have several keys, the oldest first: once a head by a later one was seen, the earlier ones sign nothing any more.

Not covered: TLS (a proxy's trade), and a folder that was put back: the witness then cosigns from there on, even
another history than it has seen. Whoever wants to be safe from that asks several witnesses.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.canonical import decode_base64
from harness.cosignature import WitnessVerifier, cosign, cosignatures
from harness.durable import TEMPORARY, make_directory, write_durably
from harness.errors import AuditError, CanonicalError, ConfigError, DiskError, KeyFileError
from harness.keyfile import is_encrypted
from harness.keys import Signer, VerifierChain
from harness.merkle import EMPTY_ROOT, HASH, verify_consistency
from harness.notes import TreeHead, open_note, parse_note
from harness.passphrase import Passphrase

__all__ = ["MAX_BODY", "Answer", "Request", "Witness", "make_witness"]

MAX_BODY = 72 << 10
"""Bytes of a request: 63 hashes and the longest note that is read."""

_MAX_NOTE = 1 << 16
_MAX_HASHES = 63  # tlog-witness §add-checkpoint
_FORKS = 100
_OLD = re.compile(r"old (0|[1-9][0-9]{0,17})", re.ASCII)


@dataclass(frozen=True)
class Request:
    """One add-checkpoint request, taken apart; nothing in it is verified."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes
    head: TreeHead

    def encode(self) -> bytes:
        """The bytes of the request."""
        hashes = "".join(f"{base64.b64encode(each).decode()}\n" for each in self.proof)
        return f"old {self.old}\n{hashes}\n".encode() + self.note

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a request by its exact grammar (tlog-witness §add-checkpoint); raises AuditError."""
        if len(body) > MAX_BODY:
            raise AuditError(f"a request of {len(body)} bytes, where at most {MAX_BODY} are read")
        before, gap, note = body.partition(b"\n\n")
        try:
            lines = before.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise AuditError("the lines before the tree head are not ASCII") from error
        match = _OLD.fullmatch(lines[0])
        if not gap or match is None:
            raise AuditError("a request is `old SIZE`, a proof, an empty line, and a signed tree head")
        if len(lines) > 1 + _MAX_HASHES:
            raise AuditError(f"a proof of more than {_MAX_HASHES} hashes")
        try:
            proof = tuple(decode_base64(line) for line in lines[1:])
        except CanonicalError as error:
            raise AuditError(f"a line of the proof is {error}") from error
        if any(len(each) != HASH for each in proof):
            raise AuditError(f"a hash has {HASH} bytes")
        return cls(int(match[1]), proof, note, TreeHead.parse(parse_note(note).text))


@dataclass(frozen=True)
class Answer:
    """What a request is answered: the HTTP status, the body, its type."""

    status: int
    body: bytes
    type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class _Seen:
    """The last head that was cosigned: the note with the cosignature, which of the log's keys signed it, and when."""

    note: bytes
    head: TreeHead
    key: int
    time: int


def make_witness(folder: Path, name: str, choose: Callable[[], Passphrase | None] = lambda: None) -> WitnessVerifier:
    """Make a witness's folder and key, and return the public half; raises KeyFileError where a key is there already.

    `choose` gives the passphrase to encrypt it under, once it is known that it is to be made.
    """
    try:
        signer, key = Signer.generate(name), folder / "witness.key"
        if key.exists():
            raise KeyFileError("a key is already there", where=str(key), remedy="move it away first")
        passphrase = choose()
        make_directory(folder, mode=0o700)
        signer.save(key, passphrase)
        verifier = WitnessVerifier(signer.verifier)
        write_durably(folder / "witness.pub", f"{verifier.vkey}\n".encode(), mode=0o444)
    except OSError as error:
        raise DiskError(f"the witness's folder cannot be written: {error.strerror}", where=str(folder)) from error
    return verifier


class Witness:
    """The part that decides and remembers; it may be asked by several threads."""

    def __init__(
        self, folder: Path, signer: Signer, chains: Sequence[VerifierChain], clock: Callable[[], float]
    ) -> None:
        """Serve the logs of these keys from a folder that is locked; use `open`."""
        self._folder = folder
        self._signer = signer
        self._clock = clock
        self._mutex = threading.Lock()
        self._lock: int | None = None
        self._seen: dict[str, _Seen] = {}
        self._closed = False
        self.disk_error: str | None = None
        """Why nothing is signed any more, where the disk has failed."""
        self._chains = {chain.first.name: chain for chain in chains}
        if not chains:
            raise ConfigError("a witness without logs", remedy="name each log's keys with --log")
        if len(self._chains) != len(chains):
            raise ConfigError("two --log files are of one log", remedy="put its keys into one file, the oldest first")

    @classmethod
    def open(
        cls,
        folder: Path | str,
        chains: Sequence[VerifierChain],
        *,
        clock: Callable[[], float] = time.time,
        unlock: Callable[[str], Passphrase | None] = lambda _: None,
    ) -> Self:
        """Take up the witness in `folder` for the logs of these keys, the oldest of each log first.

        `clock` gives seconds since 1970, `unlock` the passphrase of its key, where that is encrypted. Raises
        KeyFileError (no key here), ConfigError (another process serves it), AuditError (what it remembers is not what
        it wrote, or is signed by a key that is no longer listed), DiskError.
        """
        folder = Path(folder)
        key = folder / "witness.key"
        signer = Signer.load(key, unlock(str(key)) if is_encrypted(key) else None)
        witness = cls(folder, signer, chains, clock)
        try:
            witness._take_lock()
            for name in ("logs", "forks"):
                make_directory(folder / name, mode=0o700, below=folder)
                for path in (folder / name).glob(f"{TEMPORARY}*"):
                    path.unlink()
            for origin in witness._chains:
                witness._remember(origin)
        except OSError as error:
            witness.close()
            raise DiskError(f"cannot be opened: {error}", where=str(folder)) from error
        except BaseException:
            witness.close()
            raise
        return witness

    def close(self) -> None:
        """Sign nothing more, once what is under way is durable; let go of the folder."""
        with self._mutex:
            self._closed = True
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    @property
    def verifier(self) -> WitnessVerifier:
        """The public half of its key."""
        return WitnessVerifier(self._signer.verifier)

    @property
    def origins(self) -> list[str]:
        """The logs it knows."""
        return sorted(self._chains)

    def size(self, origin: str) -> int:
        """The size of the last head it has cosigned of this log, 0 before the first."""
        seen = self._seen.get(origin)
        return 0 if seen is None else seen.head.size

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer an add-checkpoint request (tlog-witness §add-checkpoint); raises nothing but for defects."""
        try:
            request = Request.parse(body)
        except AuditError as error:
            return _refusal(400, str(error))
        origin = request.head.origin
        chain = self._chains.get(origin)
        if chain is None:
            return _refusal(404, "this witness does not know the log")
        try:
            signers = open_note(request.note, chain)[1]
        except AuditError as error:
            return _refusal(403, str(error))
        if request.old > request.head.size:
            return _refusal(400, "the old size is beyond the size of the tree head")
        with self._mutex:
            if self._closed or self.disk_error is not None:
                return _refusal(503, "this witness signs nothing any more")
            return self._extend(request, max(chain.index(each) for each in signers))

    def checkpoint(self, origin_hash: str) -> Answer:
        """Answer with the last cosigned head of the log whose origin has this SHA-256, in lower-case hexadecimal."""
        for origin, seen in self._seen.items():
            if _hash(origin) == origin_hash:
                return Answer(200, seen.note)
        return _refusal(404, "no tree head of such a log was cosigned here")

    def _extend(self, request: Request, key: int) -> Answer:
        """Compare, verify, sign, persist: one transaction, for the caller holds the mutex."""
        head = request.head
        seen = self._seen.get(head.origin)
        if seen is not None and key < seen.key:
            return _refusal(403, "signed by a key that a later one has replaced")
        size, root = (0, EMPTY_ROOT) if seen is None else (seen.head.size, seen.head.root)
        if seen is not None and head.size == size and head.root != root:
            self._keep_fork(seen, request)
        # 409 comes before 422, and for another root at the same size, too.
        if request.old != size or (seen is not None and head.size == size and head.root != root):
            return Answer(409, f"{size}\n".encode(), "text/x.tlog.size")
        try:
            verify_consistency(size, head.size, request.proof, root, head.root)
        except AuditError as error:
            return _refusal(422, str(error))
        # "As of the time, the largest head seen": so the times of one log never go back, whatever the clock does.
        at = max(int(self._clock()), 0 if seen is None else seen.time)
        line = cosign(head.text, self._signer, at).encode()
        note = _signed_by_log(request.note, self._chains[head.origin]) + line
        try:
            write_durably(self._path(head.origin), note, mode=0o644)
        except OSError as error:
            self.disk_error = f"the disk refused: {error}"
            return _refusal(500, "the disk refused; this witness signs nothing any more")
        self._seen[head.origin] = _Seen(note, head, key, at)
        return Answer(200, line)

    def _remember(self, origin: str) -> None:
        """Read the last head again and check that it is what this witness wrote; raises AuditError, OSError."""
        path = self._path(origin)
        try:
            with path.open("rb") as file:
                note = file.read(_MAX_NOTE + 1)
        except FileNotFoundError:
            return
        try:
            self._seen[origin] = self._read_seen(note, origin)
        except AuditError as error:
            raise AuditError(
                error.message,
                where=str(path),
                remedy="list every key that the log has had, the oldest first, in the file named by --log",
            ) from error

    def _read_seen(self, note: bytes, origin: str) -> _Seen:
        head = TreeHead.parse(parse_note(note).text)
        times = cosignatures(note, [self.verifier])
        if head.origin != origin or not times:
            raise AuditError("the remembered head is not one that this witness has cosigned")
        chain = self._chains[origin]
        key = max(chain.index(each) for each in open_note(note, chain)[1])
        return _Seen(note, head, key, times[self.verifier.key_digest])

    def _keep_fork(self, seen: _Seen, request: Request) -> None:
        """Keep two signed heads of one size and two roots: that the log forked, for anyone to check."""
        note = _signed_by_log(request.note, self._chains[request.head.origin])
        name = f"{_hash(request.head.origin)}-{request.head.size}-{request.head.root.hex()[:16]}"
        with contextlib.suppress(OSError):  # it is a favour, and the refusal stands without it
            path = self._folder / "forks" / name
            if not path.exists() and sum(1 for _ in path.parent.iterdir()) < _FORKS:
                write_durably(path, seen.note + b"\n" + note)

    def _path(self, origin: str) -> Path:
        return self._folder / "logs" / _hash(origin)

    def _take_lock(self) -> None:
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ConfigError("another process is this witness already", where=str(self._folder)) from error
        self._lock = lock


def _signed_by_log(note: bytes, chain: VerifierChain) -> bytes:
    """The note with one line of each key of the log that signed it: strangers' lines are not carried on."""
    parsed = parse_note(note)
    known = {(each.name, each.id) for each in chain}
    lines = {
        each.id: f"— {each.name} {base64.b64encode(each.id + each.signature).decode()}\n"
        for each in parsed.signatures
        if (each.name, each.id) in known
    }
    return f"{parsed.text}\n{''.join(lines.values())}".encode()


def _hash(origin: str) -> str:
    return hashlib.sha256(origin.encode()).hexdigest()


def _refusal(status: int, message: str) -> Answer:
    return Answer(status, f"{message}\n".encode("utf-8", "replace"))
