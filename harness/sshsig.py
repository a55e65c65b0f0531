"""SSH signatures of messages (OpenSSH's PROTOCOL.sshsig), verified: what people sign approvals with.

Reviewers have SSH keys, in files, agents and hardware tokens, and `ssh-keygen -Y sign` makes these signatures from all
of them. A signature carries its key and a namespace, so one that was made for another purpose does not count here.

Read are Ed25519, ECDSA (nistp256, 384, 521) and RSA (2048 bits or more, with SHA-2) keys, and hardware keys of the
first two kinds (PROTOCOL.u2f), of which the token must say that somebody touched it. Certificates are not.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from harness.canonical import decode_base64
from harness.errors import AuditError, CanonicalError, KeyFileError
from harness.keys import Verifier

__all__ = ["SshKey", "dearmour", "verify"]

ED25519, SK_ED25519, SK_ECDSA = "ssh-ed25519", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"
_CURVES: dict[str, HashAlgorithm] = {
    "ecdsa-sha2-nistp256": SHA256(),
    "ecdsa-sha2-nistp384": SHA384(),
    "ecdsa-sha2-nistp521": SHA512(),
}
_RSA: dict[str, HashAlgorithm] = {"rsa-sha2-256": SHA256(), "rsa-sha2-512": SHA512()}
KEY_TYPES = (ED25519, *_CURVES, "ssh-rsa", SK_ED25519, SK_ECDSA)
_LINE = re.compile(r"(\S{1,64}) ([A-Za-z0-9+/]{16,2000}={0,2})", re.ASCII)
_ARMOUR = re.compile(
    r"\s*-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=\n]{1,8000}?)\n?-----END SSH SIGNATURE-----\s*", re.ASCII
)
MAX_SIGNATURE = 4096
"""Bytes: an RSA key of 8,192 bits and its signature fit."""


@dataclass(frozen=True)
class SshKey:
    """A public key: its type and its bytes as SSH writes them (RFC 4253 §6.6, RFC 5656, RFC 8709)."""

    type: str
    blob: bytes

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read `TYPE BASE64`, without a comment; KeyFileError for a key that is not sound, or of another kind."""
        match = _LINE.fullmatch(line)
        if match is None:
            raise KeyFileError("not a public key of the form TYPE BASE64")
        try:
            return cls.of(match[1], decode_base64(match[2]))
        except CanonicalError as error:
            raise KeyFileError("the public key is not base64 in its one form") from error

    @classmethod
    @functools.lru_cache(1024)  # a list of approvers is read again at every hold, and each line of it twice
    def of(cls, type_: str, blob: bytes) -> Self:
        """Check a key: one spelling, sound, of a kind that is read here; KeyFileError."""
        if type_ not in KEY_TYPES:
            raise KeyFileError(f"keys of type {type_[:64]!a} are not read", remedy=f"use one of {', '.join(KEY_TYPES)}")
        key = cls(type_, blob)
        parts = _strings(blob)
        if parts is None or parts[0] != type_.encode():
            raise KeyFileError("the public key is cut, or names another type")
        public = key._public()
        if type_ in (ED25519, SK_ED25519):
            Verifier("key", parts[1])  # one spelling, and no point that anybody can sign for
        elif isinstance(public, rsa.RSAPublicKey) and not 2048 <= public.key_size <= 8192:
            raise KeyFileError(f"an RSA key of {public.key_size} bits", remedy="2048 to 8192 bits are read")
        spelled = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        if spelled != key.line and not type_.startswith("sk-"):
            raise KeyFileError("the public key is not in its one spelling")  # or one key could pass for two
        return key

    @property
    def line(self) -> str:
        """`TYPE BASE64`, as allowed_signers and authorized_keys have it."""
        return f"{self.type} {base64.b64encode(self.blob).decode()}"

    @property
    def secret(self) -> bytes:
        """What tells by which private key it signs: the point, or the modulus; two types may share it."""
        parts = _strings(self.blob) or [b""]
        return parts[1 if self.type in (ED25519, SK_ED25519) else 2]

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    def _public(self) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
        try:
            public = load_ssh_public_key(self.line.encode())
        except (ValueError, UnsupportedAlgorithm, NotImplementedError) as error:  # the last: a compressed point
            raise KeyFileError(f"not a sound public key: {error}"[:200]) from error
        if not isinstance(public, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise KeyFileError("a key of a kind that is not read")
        return public

    def check(self, signature: bytes, signed: bytes) -> None:
        """Return when the inner signature stands over a message wrapped already; else AuditError, InvalidSignature."""
        algorithm, rest = _string(signature)
        raw, rest = _string(rest)
        public, name = self._public(), algorithm.decode("ascii", "replace")
        if self.type in (SK_ED25519, SK_ECDSA):
            # PROTOCOL.u2f: the token signs the application's hash, its flags and its counter with the message's hash.
            application = (_strings(self.blob) or [])[-1]
            if len(rest) != 5 or not rest[0] & 1:
                raise AuditError("the hardware key does not say that somebody touched it")
            signed = hashlib.sha256(application).digest() + rest + hashlib.sha256(signed).digest()
        elif rest:
            raise AuditError("bytes after the signature")
        if isinstance(public, rsa.RSAPublicKey):
            if name not in _RSA:
                raise AuditError(f"an RSA signature by {name[:40]!a}")
            return public.verify(raw, signed, padding.PKCS1v15(), _RSA[name])
        if name != self.type:
            raise AuditError("a signature of another kind than its key")
        if isinstance(public, ed25519.Ed25519PublicKey):
            return public.verify(raw, signed)
        parts = _strings(raw)
        if parts is None or len(parts) != 2:
            raise AuditError("not an ECDSA signature")
        r, s = (int.from_bytes(part, "big", signed=True) for part in parts)
        if min(r, s) < 1:
            raise AuditError("not an ECDSA signature")
        return public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(_CURVES.get(self.type, SHA256())))


def verify(signature: bytes, message: bytes, namespace: str) -> SshKey:
    """The key that signed `message` for `namespace`; AuditError for any other signature.

    `signature` is what stands between the armour's lines, decoded (PROTOCOL.sshsig §3). Whose key it is, is for the
    caller to know: it is taken from the signature.
    """
    try:
        if len(signature) > MAX_SIGNATURE or signature[:10] != b"SSHSIG\x00\x00\x00\x01":
            raise AuditError("not an SSH signature of version 1")
        parts = _strings(signature[10:])
        if parts is None or len(parts) != 5:
            raise AuditError("an SSH signature that is cut")
        blob, made_for, reserved, algorithm, inner = parts
        if made_for != namespace.encode():
            raise AuditError(f"a signature for the namespace {made_for[:64]!a}, not {namespace}")
        if algorithm not in (b"sha256", b"sha512"):
            raise AuditError(f"a message hashed by {algorithm[:16]!a}")
        key = SshKey.of(_string(blob)[0].decode("ascii", "replace"), blob)
        hashed = hashlib.new(algorithm.decode(), message).digest()
        fields = (made_for, reserved, algorithm, hashed)
        key.check(inner, b"SSHSIG" + b"".join(len(each).to_bytes(4, "big") + each for each in fields))
    except (InvalidSignature, ValueError) as error:
        raise AuditError("the SSH signature does not verify") from error
    except KeyFileError as error:
        raise AuditError(f"the key of an SSH signature: {error}") from error
    return key


def dearmour(text: str) -> bytes:
    """The bytes of an armoured signature, as `ssh-keygen -Y sign` writes it; AuditError."""
    match = _ARMOUR.fullmatch(text.replace("\r\n", "\n"))
    try:
        if match is not None:
            return decode_base64(match[1].replace("\n", ""))
    except CanonicalError as error:
        raise AuditError("an SSH signature that is not base64") from error
    raise AuditError("not an armoured SSH signature", remedy="`ssh-keygen -Y sign` writes one")


def _string(data: bytes) -> tuple[bytes, bytes]:
    """One length-prefixed string (RFC 4251 §5), and what follows it; AuditError."""
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 + length:
        raise AuditError("an SSH signature that is cut")
    return data[4 : 4 + length], data[4 + length :]


def _strings(data: bytes) -> list[bytes] | None:
    """The strings that `data` is, all of it; None where it is not a sequence of them."""
    found = list[bytes]()
    while data:
        length = int.from_bytes(data[:4], "big")
        if len(data) < 4 + length or len(found) > 8:
            return None
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found or None
