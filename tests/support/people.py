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


PRIMES = (
    (
        "fd853a13083350fbd7c29a2068edfd1aa659a6f8fd85bcb24a6f2abd8ecbe28a256570f5163e537288145494aa4cc015dfe6"
        "8321c8bc293019427a9991ce7ab4af84d5d66cdc2fae3d05e44d7c1fe8d99435654e8012f714d3cb2fd4d2bc04e7ac805a6c"
        "75d2e74fc47cb8a0663216333354ed76999801afdc85736efa62b571"
    ),
    (
        "ca26aa8ee0389a30927f9b4e9fce50fff423709039290a3d346f6889bcb954f0c8d3513be7dd9fcadb9b6932dc429500319c"
        "2edaa0e2cc77b769ef40b01a33a5f8c4660d6b050646ab900c34e8f8139cee02741c954b90fddad34933f8327ecfb79c2266"
        "b6ad1475ab9fd48baa4f31051db85a29ce1ca97393743bd868a77e6d"
    ),
)
"""Of the one RSA key of these tests, which is nobody's."""


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
        """Make the key, the same one every time."""
        seed = hashlib.sha256(f"{self.name} {self.kind}".encode()).digest()
        self.private: Any
        if self.kind in ("ssh-ed25519", SK_ED25519):
            self.private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        elif self.kind in CURVES:
            self.private = ec.derive_private_key(int.from_bytes(seed, "big") >> 1, CURVES[self.kind][0])
        else:
            p, q = (int(prime, 16) for prime in PRIMES)
            d = pow(65537, -1, (p - 1) * (q - 1))
            public = rsa.RSAPublicNumbers(65537, p * q)
            parts = (p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q))
            self.private = rsa.RSAPrivateNumbers(*parts, public).private_key()

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
            r, s = decode_dss_signature(
                self.private.sign(signed, ec.ECDSA(CURVES[self.kind][1], deterministic_signing=True))
            )
            raw = mpint(r) + mpint(s)
        else:
            raw, name = self.private.sign(signed, padding.PKCS1v15(), hashes.SHA512()), "rsa-sha2-512"
        inner = string(name.encode()) + string(raw) + tail
        return b"SSHSIG" + (1).to_bytes(4, "big") + b"".join(map(string, [self.key.blob, *parts, inner]))

    def answer(self, hold: Hold, verdict: str = "approve", reason: str = "", **changes: Any) -> e.Answered:
        """Answer a hold, as an entry."""
        signature = base64.b64encode(self.sign(message(hold.digest, verdict, reason))).decode()
        fields = {
            "number": getattr(hold.entry, "number", None),
            "hold": hold.digest,
            "by": self.name,
            "key": self.key.line,
        }
        kind = e.Approved if verdict == "approve" else e.Refused
        time = "2026-01-02T00:00:00Z"
        return kind(**{**fields, "reason": reason, "signature": signature, "time": time, **changes})

    @property
    def line(self) -> str:
        """As allowed_signers lists them."""
        return f'{self.name},role:{self.role} namespaces="{NAMESPACE}" {self.key.line}\n'


ANN, BEN, CAT = Person("ann@example.org", role="safety"), Person("ben@example.org", SK_ED25519), Person("cat")
PEOPLE = (ANN, BEN, CAT)

OTHERS = tuple(Person(f"with-{kind.split('@')[0]}", kind) for kind in ("ssh-rsa", *CURVES))
"""One with each of the other kinds of keys."""


def armoured(signature: bytes) -> str:
    """Armour a signature as ssh-keygen does."""
    text = base64.b64encode(signature).decode()
    lines = "\n".join(text[at : at + 70] for at in range(0, len(text), 70))
    return f"-----BEGIN SSH SIGNATURE-----\n{lines}\n-----END SSH SIGNATURE-----\n"
