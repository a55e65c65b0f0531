"""People who answer holds: SSH keys of every kind that is read, and signatures made by hand as tokens make them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from harness import entries as e
from harness.approval import NAMESPACE, message
from harness.holds import Hold
from harness.quorum import Approver
from harness.sshsig import SK_ECDSA, SK_ED25519, SshKey

CURVES = {
    "ecdsa-sha2-nistp256": (ec.SECP256R1(), hashes.SHA256()),
    "ecdsa-sha2-nistp384": (ec.SECP384R1(), hashes.SHA384()),
    "ecdsa-sha2-nistp521": (ec.SECP521R1(), hashes.SHA512()),
    SK_ECDSA: (ec.SECP256R1(), hashes.SHA256()),
}


def string(data: bytes) -> bytes:
    """Write a string as RFC 4251 §5 has it."""
    return len(data).to_bytes(4, "big") + data


def mpint(value: int) -> bytes:
    """Write a positive integer as RFC 4251 §5 has it."""
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big"))


@dataclass
class Person:
    """Somebody with a key; `flags` and `application` are those of a hardware token."""

    name: str
    kind: str = "ssh-ed25519"
    role: str = "human"
    flags: int = 1
    application: bytes = b"ssh:"

    def __post_init__(self) -> None:
        """Make the key: the same one for the same name, where its kind can be made from a seed."""
        seed = hashlib.sha256(f"{self.name} {self.kind}".encode()).digest()
        self.private: Any
        if self.kind in ("ssh-ed25519", SK_ED25519):
            self.private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        elif self.kind in CURVES:
            self.private = ec.derive_private_key(int.from_bytes(seed, "big") >> 1, CURVES[self.kind][0])
        else:
            self.private = rsa.generate_private_key(65537, 2048)

    @property
    def key(self) -> SshKey:
        """The public key."""
        public = self.private.public_key()
        plain = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1]
        blob = base64.b64decode(plain)
        if self.kind.startswith("sk-"):
            blob = string(self.kind.encode()) + blob[4 + int.from_bytes(blob[:4], "big") :] + string(self.application)
        return SshKey.of(self.kind, blob)

    @property
    def approver(self) -> Approver:
        """As genesis lists them."""
        return Approver(name=self.name, role=self.role, key=self.key.line)

    def sign(self, data: bytes, namespace: str = NAMESPACE, algorithm: str = "sha512") -> bytes:
        """Make an SSH signature (PROTOCOL.sshsig)."""
        parts = [namespace.encode(), b"", algorithm.encode()]
        signed = b"SSHSIG" + b"".join(map(string, [*parts, hashlib.new(algorithm, data).digest()]))
        tail, name = b"", self.kind
        if self.kind.startswith("sk-"):
            tail = bytes([self.flags]) + (7).to_bytes(4, "big")
            signed = hashlib.sha256(self.application).digest() + tail + hashlib.sha256(signed).digest()
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            raw = self.private.sign(signed)
        elif isinstance(self.private, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self.private.sign(signed, ec.ECDSA(CURVES[self.kind][1])))
            raw = mpint(r) + mpint(s)
        else:
            raw, name = self.private.sign(signed, padding.PKCS1v15(), hashes.SHA512()), "rsa-sha2-512"
        inner = string(name.encode()) + string(raw) + tail
        return b"SSHSIG" + (1).to_bytes(4, "big") + b"".join(map(string, [self.key.blob, *parts, inner]))

    def answer(self, hold: Hold, verdict: str = "approve", reason: str = "", **changes: Any) -> e.Answered:
        """Answer a hold, as an entry."""
        signature = base64.b64encode(self.sign(message(hold.digest, verdict, reason))).decode()
        fields = {"number": hold.entry.number, "hold": hold.digest, "by": self.name, "key": self.key.line}
        kind = e.Approved if verdict == "approve" else e.Refused
        time = "2026-01-02T00:00:00Z"
        return kind(**{**fields, "reason": reason, "signature": signature, "time": time, **changes})


ANN, BEN, CAT = Person("ann@example.org", role="safety"), Person("ben@example.org", SK_ED25519), Person("cat")


def armoured(signature: bytes) -> str:
    """Armour a signature as ssh-keygen does."""
    text = base64.b64encode(signature).decode()
    lines = "\n".join(text[at : at + 70] for at in range(0, len(text), 70))
    return f"-----BEGIN SSH SIGNATURE-----\n{lines}\n-----END SSH SIGNATURE-----\n"
