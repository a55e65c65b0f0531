"""Keys: Ed25519 signers and verifiers with signed-note names, and the vault key.

Rules. What is private is written and read by `keyfile` alone, encrypted or not. A verifier is its name and
32 bytes; who signed is counted by `Verifier.key_digest`, never by name, because one key under two names
is one signer. The form of a verifier key is C2SP signed-note's, type 0x01 (Ed25519):
`NAME+8 hex digits of the key id+base64(0x01 || 32 bytes)`.

Not covered: keys in hardware.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from harness.canonical import decode_base64, digest
from harness.durable import write_durably
from harness.errors import AuditError, CanonicalError, KeyFileError
from harness.keyfile import read_private, write_private
from harness.passphrase import Passphrase

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["Signer", "VaultKey", "Verifier", "VerifierChain", "is_key_name"]

_ED25519 = 0x01  # signed-note §Signatures: the algorithm byte of plain Ed25519
_PEM_LIMIT = 4096
_CHAIN = 64
_LINE_LIMIT = 512
_VKEY = re.compile(r"(?P<name>[^+]+)\+(?P<id>[0-9a-f]{8})\+(?P<key>[A-Za-z0-9+/]{43,}={0,2})", re.ASCII)

# RFC 8032 §5.1: a point is its y coordinate, little-endian, and a sign bit. Bytes with y >= p are a second
# spelling of a point, and points of order 1, 2, 4 or 8 verify signatures that nobody made: neither is a key.
_P = 2**255 - 19
_ORDER_8_Y = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826  # a root of d·y⁴ + 2·y² = 1
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y})


def is_key_name(name: str) -> bool:
    """Tell whether `name` may name a key: not empty, at most 255 bytes, no space, control character or plus."""
    return (
        bool(name)
        and "+" not in name
        and name.isprintable()
        and not any(c.isspace() for c in name)
        and len(name.encode("utf-8", "replace")) <= 255
    )


@dataclass(frozen=True)
class Verifier:
    """A public key with its name. `key` is the 32 bytes of RFC 8032."""

    name: str
    key: bytes

    def __post_init__(self) -> None:
        """Refuse a malformed name and bytes that are no sound key; raises KeyFileError."""
        if not is_key_name(self.name):
            raise KeyFileError(f"{self.name!a} cannot name a key")
        if len(self.key) != 32:
            raise KeyFileError(f"an Ed25519 key has 32 bytes, not {len(self.key)}")
        y = int.from_bytes(self.key, "little") & ((1 << 255) - 1)
        if y >= _P or y in _SMALL_ORDER_Y:
            raise KeyFileError("the key is a point that anybody can sign for, or not in its one spelling")

    @property
    def id(self) -> bytes:
        """The four bytes that stand before a signature (signed-note): a hint, never proof of identity."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._typed_key).digest()[:4]

    @property
    def vkey(self) -> str:
        """The verifier key as one line, without its newline."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(self._typed_key).decode()}"

    @property
    def key_digest(self) -> str:
        """The digest of the key material: what signers are counted and revoked by."""
        return digest(self.key)

    @property
    def _typed_key(self) -> bytes:
        return bytes([_ED25519]) + self.key

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a verifier key from one line (a final newline is allowed); raises KeyFileError."""
        match = _VKEY.fullmatch(line.removesuffix("\n"))
        if match is None:
            raise KeyFileError("not a verifier key of the form NAME+ID+KEY")
        try:
            material = decode_base64(match["key"])
        except CanonicalError as error:
            raise KeyFileError("the key part is not base64") from error
        if len(material) != 33 or material[0] != _ED25519:
            raise KeyFileError("not a key of type 0x01 (Ed25519)")
        verifier = cls(match["name"], material[1:])
        if verifier.id.hex() != match["id"]:
            raise KeyFileError("the key id does not belong to this name and key")
        return verifier

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a file that holds one verifier key line; raises KeyFileError."""
        try:
            with Path(path).open("rb") as file:
                text = file.read(_PEM_LIMIT + 1).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise KeyFileError(f"cannot be read: {error}", where=str(path)) from error
        if len(text) > _PEM_LIMIT:
            raise KeyFileError("too long for a verifier key", where=str(path))
        return cls.parse(text)

    def save(self, path: Path | str) -> None:
        """Write the verifier key line, readable by all; raises OSError."""
        write_durably(Path(path), self.vkey.encode() + b"\n", mode=0o444)

    def verify(self, message: bytes, signature: bytes) -> None:
        """Return when `signature` (64 bytes) is this key's over `message`; raises AuditError otherwise."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._public.verify(signature, message)
        except InvalidSignature as error:
            raise AuditError(f"the signature is not that of {self.name}") from error

    @cached_property
    def _public(self) -> Ed25519PublicKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return Ed25519PublicKey.from_public_bytes(self.key)


class VerifierChain(tuple[Verifier, ...]):
    """The keys of one log, the oldest first: what `keys/log.pub` holds (FORMAT §2.2). Never empty."""

    __slots__ = ()

    @classmethod
    def of(cls, verifiers: Iterable[Verifier]) -> Self:
        """Check and hold them: one name, no key twice, 1 to 64 of them; raises KeyFileError."""
        chain = cls(verifiers)
        if not 1 <= len(chain) <= _CHAIN:
            raise KeyFileError(f"{len(chain)} keys, where a log has 1 to {_CHAIN}")
        if len({each.name for each in chain}) != 1:
            raise KeyFileError("the keys of a log bear one name, its origin")
        if len({each.key for each in chain}) != len(chain):
            raise KeyFileError("a key stands twice")
        return chain

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one verifier key line for each key, with or without the last newline; raises KeyFileError."""
        return cls.of(Verifier.parse(line) for line in text.removesuffix("\n").split("\n")[: _CHAIN + 1])

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a file of verifier key lines; raises KeyFileError."""
        try:
            with Path(path).open("rb") as file:
                data = file.read(_CHAIN * _LINE_LIMIT + 1)
        except OSError as error:
            raise KeyFileError(f"cannot be read: {error.strerror}", where=str(path)) from error
        if len(data) > _CHAIN * _LINE_LIMIT:
            raise KeyFileError("too long for a log's keys", where=str(path))
        try:
            return cls.parse(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise KeyFileError("not UTF-8", where=str(path)) from error
        except KeyFileError as error:
            raise KeyFileError(error.message, where=str(path), remedy=error.remedy) from error

    def save(self, path: Path | str) -> None:
        """Write the lines, readable by all; raises OSError."""
        write_durably(Path(path), "".join(f"{each.vkey}\n" for each in self).encode(), mode=0o444)

    def extend(self, verifier: Verifier) -> Self:
        """The chain with one more key at its end; raises KeyFileError."""
        return self.of([*self, verifier])

    @property
    def first(self) -> Verifier:
        """The oldest key."""
        return self[0]

    @property
    def last(self) -> Verifier:
        """The newest key."""
        return self[-1]

    def find(self, key_digest: str) -> Verifier | None:
        """The key with this digest, or None."""
        return next((each for each in self if each.key_digest == key_digest), None)


class Signer:
    """An Ed25519 private key with its name. It never shows its secret in `repr`."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        """Hold `key` under `name`; raises KeyFileError for a malformed name."""
        from cryptography.hazmat.primitives import serialization

        self._key = key
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.verifier = Verifier(name, raw)

    def __repr__(self) -> str:
        """Name the public half only."""
        return f"Signer({self.verifier.vkey})"

    @property
    def name(self) -> str:
        """The name that stands before its signatures."""
        return self.verifier.name

    @classmethod
    def generate(cls, name: str) -> Self:
        """Make a fresh key from the system's randomness."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, name: str, seed: bytes) -> Self:
        """Make the key of a 32-byte seed (RFC 8032 §5.1.5): for tests and published vectors."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if len(seed) != 32:
            raise KeyFileError(f"a seed has 32 bytes, not {len(seed)}")
        return cls(name, Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path | str, passphrase: Passphrase | None = None) -> Self:
        """Read what `save` wrote; raises KeyFileError, also when the file is open to others."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        data = read_private(Path(path), _PEM_LIMIT, passphrase)
        first, _, pem = data.partition(b"\n")
        if not first.startswith(b"Name: ") or not pem.startswith(b"-----BEGIN PRIVATE KEY-----\n"):
            raise KeyFileError("not a signing key: a line `Name: …`, then PKCS #8 in PEM", where=str(path))
        try:
            name = first.removeprefix(b"Name: ").decode("utf-8")
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise KeyFileError("not a readable PKCS #8 key", where=str(path)) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError("not an Ed25519 key", where=str(path))
        return cls(name, key)

    def save(self, path: Path | str, passphrase: Passphrase | None = None, *, replace: bool = False) -> None:
        """Write the key as PKCS #8 PEM (mode 0600) after a `Name:` line, encrypted if there is a passphrase.

        RFC 7468 §2 lets text stand before the encapsulation boundary, so other tools read a plain file as it is.
        Raises KeyFileError if a file is there, unless it may `replace` it.
        """
        from cryptography.hazmat.primitives import serialization

        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        data = b"Name: " + self.name.encode() + b"\n" + pem
        write_private(Path(path), data, passphrase, of=self.verifier.vkey, replace=replace)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`."""
        return self._key.sign(message)


class VaultKey:
    """32 secret bytes that decide which held-out items are asked, in which order, and blind their ids."""

    def __init__(self, secret: bytes) -> None:
        """Hold the secret; raises KeyFileError unless it has 32 bytes."""
        if len(secret) != 32:
            raise KeyFileError(f"a vault key has 32 bytes, not {len(secret)}")
        self._secret = secret

    def __repr__(self) -> str:
        """Name the commitment only."""
        return f"VaultKey({self.commitment()})"

    @classmethod
    def load(cls, path: Path | str, passphrase: Passphrase | None = None) -> Self:
        """Read 32 bytes from a file that is its owner's only; raises KeyFileError."""
        return cls(read_private(Path(path), 32, passphrase))

    @classmethod
    def create(cls, path: Path | str, passphrase: Passphrase | None = None) -> Self:
        """Draw a key and write it (mode 0600); raises KeyFileError when a file is there."""
        key = cls(os.urandom(32))
        key.save(path, passphrase)
        return key

    def save(self, path: Path | str, passphrase: Passphrase | None = None, *, replace: bool = False) -> None:
        """Write the 32 bytes, encrypted under a passphrase if given; raises KeyFileError, as `Signer.save` does."""
        write_private(Path(path), self._secret, passphrase, of=self.commitment(), replace=replace)

    def commitment(self) -> str:
        """Return a digest that binds the key and tells nothing of it: 256 random bits are their own salt."""
        return digest(b"lockgate vault key commitment v1\n" + self._secret)

    def derive(self, label: bytes) -> bytes:
        """Return 32 bytes for `label` by HKDF-SHA256 (RFC 5869, empty salt, info = `label`)."""
        extracted = hmac.digest(bytes(32), self._secret, "sha256")  # §2.2
        return hmac.digest(extracted, label + b"\x01", "sha256")  # §2.3, one block

    def order(self, n: int, label: bytes) -> list[int]:
        """Return the secret permutation of `range(n)` that belongs to `label`.

        Each index is ranked by its own 128 bits of SHAKE256 keyed by `derive`: who lacks the key cannot
        tell it from a uniform permutation, and it depends on `n` only by how many indices are ranked.
        """
        stream = hashlib.shake_256(self.derive(b"order\n" + label)).digest(16 * n)
        return sorted(range(n), key=lambda index: stream[16 * index : 16 * index + 16])
