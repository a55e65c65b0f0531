"""Signed notes (C2SP signed-note), tree heads (tlog-checkpoint) and proofs that carry one (tlog-proof).

    example.org/run                                    the log's origin
    42                                                 its size
    qINS1GRFHWmVsqCmMEiYxMyCnCWF3P5CKEmBfUMA8E0=       its RFC 6962 root

    — example.org/run Az3grlgtzPICa5OS8npVmf1Myq/…     key name, base64(key id || Ed25519 signature)

Rules. Bytes are read by exact grammar: decimal without sign or leading zero, base64 in its one form,
one trailing newline, no control characters. A tree head has exactly three lines. A line by an unknown
key (a witness's, or a newer algorithm's) is ignored; a line by a known key that does not verify
makes the note invalid. Key ids are hints: what counts is the signature under the caller's verifier.

Not covered: cosignatures (type 0x04) are carried along and ignored.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from harness.canonical import decode_base64
from harness.errors import AuditError, CanonicalError
from harness.keys import Signer, Verifier, is_key_name
from harness.merkle import HASH, leaf_hash, verify_inclusion

__all__ = [
    "LogProof",
    "Note",
    "NoteSignature",
    "TreeHead",
    "open_head",
    "open_note",
    "parse_note",
    "sign_head",
    "sign_note",
    "with_lines",
]

_LIMIT = 1 << 16  # a tree head with a few hundred signatures
_SIGNATURES = 100
_LINE = re.compile(r"— (?P<name>[^ ]+) (?P<blob>[A-Za-z0-9+/]+={0,2})", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)  # below 2^60: a size fits every reader's int64
_PROOF_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True)
class NoteSignature:
    """One signature line: who it says made it, the four-byte key id, and the signature's bytes."""

    name: str
    id: bytes
    signature: bytes


@dataclass(frozen=True)
class Note:
    """A note taken apart. `text` ends with a newline and is what the signatures cover; nothing is verified."""

    text: str
    signatures: tuple[NoteSignature, ...]


def sign_note(text: str, *signers: Signer) -> bytes:
    """Return `text` with one signature line by each signer; raises AuditError for text that no note may have."""
    message = text.encode("utf-8", "surrogatepass")
    lines = [
        f"— {signer.name} {base64.b64encode(signer.verifier.id + signer.sign(message)).decode()}\n"
        for signer in signers
    ]
    note = f"{text}\n{''.join(lines)}".encode("utf-8", "surrogatepass")
    if parse_note(note).text != text:
        raise AuditError("the text of a note ends with a newline")
    return note


def parse_note(data: bytes) -> Note:
    """Take a note apart by the grammar of signed-note; raises AuditError. Verifies nothing."""
    if len(data) > _LIMIT:
        raise AuditError(f"a note of {len(data)} bytes, where at most {_LIMIT} are read", clause="§3.1")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AuditError("a note that is not UTF-8", clause="§3.1") from error
    if _CONTROL.search(whole):
        raise AuditError("a control character in a note", clause="§3.1")
    text, gap, block = whole.rpartition("\n\n")
    if not gap or not block.endswith("\n"):
        raise AuditError("a note is text, an empty line, and signature lines, each with its newline", clause="§3.1")
    lines = block[:-1].split("\n")
    if len(lines) > _SIGNATURES:
        raise AuditError(f"{len(lines)} signatures, where at most {_SIGNATURES} are read", clause="§3.1")
    return Note(text + "\n", tuple(_signature(line) for line in lines))


def open_note(data: bytes, verifiers: Iterable[Verifier]) -> tuple[str, list[Verifier]]:
    """Return a note's text and those of `verifiers` whose signature stands on it; raises AuditError unless one does."""
    note = parse_note(data)
    known = {(verifier.name, verifier.id): verifier for verifier in verifiers}
    signers: list[Verifier] = []
    for line in note.signatures:
        verifier = known.get((line.name, line.id))
        if verifier is None:
            continue
        try:
            verifier.verify(note.text.encode(), line.signature)
        except AuditError as error:
            raise AuditError(error.message, clause="§3.2") from error
        if verifier not in signers:
            signers.append(verifier)
    if not signers:
        raise AuditError("no signature by a known key", clause="§3.2")
    return note.text, signers


def with_lines(note: bytes, lines: bytes) -> bytes:
    """A note with these signature lines under it, each in the place of an earlier one by the same key; AuditError.

    Nothing is verified: whoever asked for the lines has done it.
    """
    parsed = parse_note(note)
    added = parse_note(parsed.text.encode() + b"\n" + lines)
    if added.text != parsed.text:
        raise AuditError("more than signature lines")
    kept = {(each.name, each.id): each.signature for each in (*parsed.signatures, *added.signatures)}
    block = "".join(f"— {name} {base64.b64encode(id_ + blob).decode()}\n" for (name, id_), blob in kept.items())
    whole = f"{parsed.text}\n{block}".encode()
    parse_note(whole)  # the limits on a note hold for the two together, too
    return whole


@dataclass(frozen=True)
class TreeHead:
    """What a log says of itself: origin, number of entries, root (32 bytes)."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the three lines; raises AuditError. Extension lines are refused."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise AuditError("a tree head has exactly three lines", clause="§3.1")
        if not is_key_name(lines[0]):
            raise AuditError("a tree head's first line is the log's origin", clause="§3.1")
        root = _base64(lines[2])
        if len(root) != HASH:
            raise AuditError(f"a root of {len(root)} bytes", clause="§3.1")
        return cls(lines[0], _number(lines[1]), root)


def sign_head(head: TreeHead, signer: Signer) -> bytes:
    """Return the signed note of a tree head."""
    return sign_note(head.text, signer)


def open_head(data: bytes, verifiers: Verifier | Iterable[Verifier], *, origin: str | None = None) -> TreeHead:
    """Verify a signed tree head (and that it is the log `origin`'s, where given); raises AuditError.

    Of several keys one must have signed it: which of a log's keys may have is for the caller to say (FORMAT §3.2).
    """
    head = TreeHead.parse(open_note(data, [verifiers] if isinstance(verifiers, Verifier) else verifiers)[0])
    if origin is not None and head.origin != origin:
        raise AuditError(f"the tree head is that of {head.origin!a}, not of {origin!a}")
    return head


@dataclass(frozen=True)
class LogProof:
    """That an entry is in a log, checkable offline: its index, the inclusion proof, the signed tree head."""

    index: int
    hashes: tuple[bytes, ...]
    head: bytes

    def encode(self) -> bytes:
        """Return the proof as a tlog-proof file, without `extra`."""
        lines = [_PROOF_HEADER, f"index {self.index}", *(base64.b64encode(node).decode() for node in self.hashes)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.head

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a tlog-proof file without `extra`; raises AuditError. Verifies nothing."""
        if len(data) > 2 * _LIMIT:
            raise AuditError(f"a proof of {len(data)} bytes")
        before, gap, head = data.partition(b"\n\n")
        try:
            lines = before.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise AuditError("a proof that is not ASCII") from error
        if not gap or len(lines) < 2 or lines[0] != _PROOF_HEADER or not lines[1].startswith("index "):
            raise AuditError("not a tlog-proof file")
        if len(lines) > 2 + 63:  # tlog-proof: a tree of 2^63 leaves is 63 high
            raise AuditError("a proof of more than 63 hashes")
        return cls(_number(lines[1].removeprefix("index ")), tuple(_base64(line) for line in lines[2:]), head)

    def verify(self, entry: bytes, verifiers: Verifier | Iterable[Verifier], *, origin: str | None = None) -> TreeHead:
        """Return the tree head when `entry` is in the log it describes; raises AuditError otherwise."""
        head = open_head(self.head, verifiers, origin=origin)
        verify_inclusion(leaf_hash(entry), self.index, head.size, self.hashes, head.root)
        return head


def _signature(line: str) -> NoteSignature:
    match = _LINE.fullmatch(line)
    if match is None or not is_key_name(match["name"]):
        raise AuditError("a signature line is `— NAME BASE64`", clause="§3.1")
    blob = _base64(match["blob"])
    if len(blob) < 5:
        raise AuditError("a signature line without a signature", clause="§3.1")
    return NoteSignature(match["name"], blob[:4], blob[4:])


def _base64(text: str) -> bytes:
    try:
        return decode_base64(text)
    except CanonicalError as error:
        raise AuditError(str(error), clause="§3.1") from error


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise AuditError(f"{text[:40]!a} is no decimal number", clause="§3.1")
    return int(text)
