"""Who must agree, and how many of them: the nouns of `witnesses` and `approvers` in `lockgate.yaml`.

This page knows the form of a witness's verifier key (signed-note §Verifier keys, type 0x04) and no cryptography, so
that whoever reads a configuration needs no key. That the 32 bytes are a sound point is checked by
`cosignature.WitnessVerifier`, before anything is asked, and an approver's key by `approval.load_approvers`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator

from harness.canonical import decode_base64
from harness.errors import CanonicalError
from harness.records import Record

__all__ = ["WITNESS_TYPE", "Approver", "Approvers", "Witness", "Witnesses", "witness_key"]

WITNESS_TYPE = 0x04
"""tlog-cosignature §Format: the algorithm byte of an Ed25519 cosignature."""

_VKEY = re.compile(r"(?P<name>[^+\s]{1,255})\+(?P<id>[0-9a-f]{8})\+(?P<key>[A-Za-z0-9+/]{43,44}={0,2})")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9a-f:.]{2,45}")


def witness_key(line: str) -> tuple[str, bytes]:
    """Name and 32 bytes of a verifier key line of type 0x04, without its newline; ValueError for anything else."""
    match = _VKEY.fullmatch(line)
    if match is None:
        raise ValueError("not a witness's verifier key of the form NAME+ID+KEY")
    try:
        material = decode_base64(match["key"])
    except CanonicalError as error:
        raise ValueError("the key part of the verifier key is not base64") from error
    if len(material) != 33 or material[0] != WITNESS_TYPE:
        raise ValueError("not a key of type 0x04 (a witness's)")
    try:
        named = match["name"].encode()
    except UnicodeEncodeError as error:
        raise ValueError("the name of the key is not Unicode") from error
    if hashlib.sha256(named + b"\n" + material).digest()[:4].hex() != match["id"]:
        raise ValueError("the key id does not belong to this name and key")
    return match["name"], material[1:]


class Witness(Record):
    """One witness: what it is called here, where it listens, and the key that it is believed under."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$")]
    url: Annotated[str, StringConstraints(max_length=500)]
    """The submission prefix (tlog-witness §HTTP Interface): `/add-checkpoint` is put after it."""
    key: str
    """Its verifier key line, from whoever runs it."""

    @model_validator(mode="after")
    def _sound(self) -> Witness:
        witness_key(self.key)
        if not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            raise ValueError("the url of a witness is plain ASCII without spaces")
        parts = urlsplit(self.url)  # a ValueError of its own where brackets do not match
        port = parts.port
        if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(parts.hostname or "") or port == 0:
            raise ValueError("the url of a witness is http://HOST[:PORT][/PREFIX], or https://")
        if "@" in parts.netloc or parts.query or parts.fragment or "?" in self.url or "#" in self.url:
            raise ValueError("the url of a witness has no user, no query and no fragment")
        return self


class Witnesses(Record):
    """A quorum: `require` of the witnesses in `of` must have cosigned a tree head."""

    require: Annotated[int, Field(ge=1)]
    of: Annotated[list[Witness], Field(min_length=1, max_length=32)]
    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Within which all of them are asked, seconds of the wall clock."""

    @model_validator(mode="after")
    def _fits(self) -> Witnesses:
        if self.require > len(self.of):
            raise ValueError(f"{self.require} witnesses are required and {len(self.of)} are named")
        if len({each.name for each in self.of}) != len(self.of):
            raise ValueError("two witnesses have one name")
        if len({witness_key(each.key)[1] for each in self.of}) != len(self.of):
            raise ValueError("two witnesses have one key: they are one witness")
        return self


class Approvers(Record):
    """The people who answer holds: where they are listed, how many must agree, and for how long a hold waits."""

    require: Annotated[int, Field(ge=1, le=256)]
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")] = "approvers"
    """In the subject's folder, in the format of OpenSSH's allowed_signers."""
    hours: Annotated[float, Field(ge=0.001, le=8784)] = 72.0
    """After which a hold that was not answered is a rejection."""


class Approver(Record):
    """One key that may answer holds: whose it is, and what policies call that person."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$")]
    role: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
    key: Annotated[str, StringConstraints(max_length=3000)]
    """`TYPE BASE64`, as allowed_signers has it."""
