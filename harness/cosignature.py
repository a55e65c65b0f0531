"""Cosignatures: what a witness adds to a tree head that it has seen to extend the last one (C2SP tlog-cosignature).

    — NAME base64(key id || 8-byte big-endian seconds || 64-byte Ed25519 signature)        type 0x04

The signature is over `cosignature/v1`, `time SECONDS` and the text of the note, a line each: it does not bind the
witness's name. So witnesses are counted by their 32 bytes, and one key under two names is one witness.

Not covered: ML-DSA-44 cosignatures (type 0x06). Their lines are ignored, as those of any unknown key.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.errors import AuditError, KeyFileError
from harness.keys import Signer, Verifier
from harness.notes import parse_note
from harness.quorum import WITNESS_TYPE, witness_key

__all__ = ["WitnessVerifier", "cosign", "cosignatures"]

_MAX_TIME = 2**63 - 1  # tlog-cosignature §Format: a timestamp MUST NOT exceed it
_FILE_LIMIT = 1 << 16


@dataclass(frozen=True)
class WitnessVerifier:
    """A witness's public key. `verifier` checks name and key as any other Ed25519 key is checked."""

    verifier: Verifier

    @property
    def name(self) -> str:
        """The name before its signatures."""
        return self.verifier.name

    @property
    def key_digest(self) -> str:
        """The digest of the 32 bytes: what witnesses are counted by."""
        return self.verifier.key_digest

    @property
    def id(self) -> bytes:
        """The four bytes before its signatures (tlog-cosignature §Format): a hint."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._typed).digest()[:4]

    @property
    def vkey(self) -> str:
        """The verifier key as one line, without its newline."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(self._typed).decode()}"

    @property
    def _typed(self) -> bytes:
        return bytes([WITNESS_TYPE]) + self.verifier.key

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a verifier key line of type 0x04 (a final newline is allowed); raises KeyFileError."""
        try:
            name, key = witness_key(line.removesuffix("\n"))
        except ValueError as error:
            raise KeyFileError(str(error)) from error
        return cls(Verifier(name, key))

    @classmethod
    def load(cls, path: Path | str) -> list[Self]:
        """Read a file of witnesses' keys, one a line; raises KeyFileError."""
        try:
            with Path(path).open("rb") as file:
                data = file.read(_FILE_LIMIT + 1)
            text = data.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise KeyFileError(f"cannot be read: {error}", where=str(path)) from error
        if len(data) > _FILE_LIMIT:
            raise KeyFileError("too long for witnesses' keys", where=str(path))
        try:
            return [cls.parse(line) for line in text.removesuffix("\n").split("\n")]
        except KeyFileError as error:
            raise KeyFileError(error.message, where=str(path)) from error

    def verify(self, text: str, blob: bytes) -> int:
        """The seconds since 1970 at which this witness signed `text`; AuditError unless `blob` (72 bytes) is its."""
        if len(blob) != 72:
            raise AuditError(f"a cosignature of {len(blob)} bytes", clause="§10.1")
        seconds = int.from_bytes(blob[:8], "big")
        if seconds > _MAX_TIME:
            raise AuditError("a cosignature beyond the end of time", clause="§10.1")
        try:
            self.verifier.verify(_message(seconds, text), blob[8:])
        except AuditError as error:
            raise AuditError(f"the cosignature is not that of {self.name}", clause="§3.2") from error
        return seconds


def cosign(text: str, signer: Signer, seconds: int) -> str:
    """One signature line over a note's text, as the witness `signer` makes it at that time; raises AuditError.

    `seconds` are since 1970. The line ends with its newline.
    """
    if not 0 <= seconds <= _MAX_TIME:
        raise AuditError(f"no time to sign at: {seconds}")
    blob = WitnessVerifier(signer.verifier).id + seconds.to_bytes(8, "big") + signer.sign(_message(seconds, text))
    return f"— {signer.name} {base64.b64encode(blob).decode()}\n"


def cosignatures(note: bytes, witnesses: Iterable[WitnessVerifier]) -> dict[str, int]:
    """Key digest → the latest time at which that witness cosigned `note`.

    Raises AuditError for what is no note, and where a known witness's line does not verify.
    """
    parsed = parse_note(note)
    known = {(each.name, each.id): each for each in witnesses}
    times: dict[str, int] = {}
    for line in parsed.signatures:
        witness = known.get((line.name, line.id))
        if witness is not None:
            seconds = witness.verify(parsed.text, line.signature)
            times[witness.key_digest] = max(seconds, times.get(witness.key_digest, 0))
    return times


def _message(seconds: int, text: str) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode("utf-8", "surrogatepass")
