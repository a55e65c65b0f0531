"""Private bytes at rest: a file that its owner alone may read, encrypted under a passphrase or not.

    lockgate encrypted key v1
    of lockgate-quickstart-968a26eb+ea84a2c4+AfkAHe9b…     what is inside: for people, and for `keys list`
    argon2id m=65536 t=3 p=4 <salt>                        RFC 9106: KiB, passes, lanes; 16 bytes, base64
    chacha20-poly1305 <nonce>                              RFC 8439: 12 bytes, base64

    <ciphertext and tag, base64>

Rules. The file is regular, its owner's and closed to everybody else, or it is not read. The header, up to and with the
empty line, is the associated data, so no byte of it can be changed. Parameters are bounded before they are used: a
hostile file costs no more than a gigabyte and 16 passes. A plain file is its bytes: one way in reads both.

Not covered: what a filesystem or a disk keeps of a file that was replaced; and keys in hardware.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple, Self

from harness.canonical import decode_base64
from harness.durable import write_durably
from harness.errors import CanonicalError, KeyFileError
from harness.passphrase import Passphrase

__all__ = ["RECOMMENDED", "Cost", "decrypt", "encrypt", "inside", "is_encrypted", "read_private", "write_private"]

_MAGIC = b"lockgate encrypted key v"
_LIMIT = 16384
_FORM = re.compile(
    rb"(?P<header>lockgate encrypted key v1\nof (?P<of>[^\n]{1,512})\n"
    rb"argon2id m=(?P<m>[1-9][0-9]{0,7}) t=(?P<t>[1-9][0-9]{0,2}) p=(?P<p>[1-9][0-9]{0,2}) "
    rb"(?P<salt>[A-Za-z0-9+/]{22}==)\n"
    rb"chacha20-poly1305 (?P<nonce>[A-Za-z0-9+/]{16})\n\n)(?P<box>[A-Za-z0-9+/]+={0,2})\n"
)


class Cost(NamedTuple):
    """Parameters of Argon2id."""

    memory: int
    """KiB."""
    passes: int
    lanes: int

    @classmethod
    def checked(cls, memory: int, passes: int, lanes: int) -> Self:
        """Hold them within bounds; raises KeyFileError."""
        if not (8 * lanes <= memory <= 1 << 20 and 1 <= passes <= 16 and 1 <= lanes <= 16):
            raise KeyFileError(f"Argon2id with m={memory} t={passes} p={lanes}: out of bounds")
        return cls(memory, passes, lanes)


RECOMMENDED = Cost(1 << 16, 3, 4)
"""RFC 9106 §4, the second recommended option: the first one, with 2 GiB, is too much for the machines of some."""


def encrypt(data: bytes, passphrase: Passphrase, of: str, *, cost: Cost = RECOMMENDED) -> bytes:
    """The file that holds `data`; `of` is one public line that says what it is of."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    salt, nonce = os.urandom(16), os.urandom(12)
    header = (
        f"{_MAGIC.decode()}1\nof {of}\nargon2id m={cost.memory} t={cost.passes} p={cost.lanes} {_base64(salt)}\n"
        f"chacha20-poly1305 {_base64(nonce)}\n\n"
    ).encode()
    box = ChaCha20Poly1305(_key(passphrase, salt, cost)).encrypt(nonce, data, header)
    return header + _base64(box).encode() + b"\n"


def decrypt(file: bytes, passphrase: Passphrase) -> bytes:
    """What `encrypt` was given; raises KeyFileError, and tells a wrong passphrase from a changed file by nothing."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    match = _FORM.fullmatch(file)
    if match is None:
        raise KeyFileError("not an encrypted key of a form that this version reads")
    cost = Cost.checked(int(match["m"]), int(match["t"]), int(match["p"]))
    try:
        salt, nonce, box = (decode_base64(match[name].decode()) for name in ("salt", "nonce", "box"))
        return ChaCha20Poly1305(_key(passphrase, salt, cost)).decrypt(nonce, box, match["header"])
    except CanonicalError as error:
        raise KeyFileError("not base64 in its one form") from error
    except InvalidTag as error:
        raise KeyFileError("not the passphrase of this key, or the file was changed") from error


def read_private(path: Path, limit: int, passphrase: Passphrase | None = None) -> bytes:
    """The private bytes in a file, decrypted where it is encrypted; at most `limit` of them. Raises KeyFileError."""
    data = _read(path)
    if data.startswith(_MAGIC):
        if passphrase is None:
            raise KeyFileError("encrypted, and no passphrase was given", where=str(path))
        try:
            data = decrypt(data, passphrase)
        except KeyFileError as error:
            raise KeyFileError(error.message, where=str(path)) from error
    if len(data) > limit:
        raise KeyFileError(f"{len(data)} bytes, where a key has at most {limit}", where=str(path))
    return data


def write_private(
    path: Path, data: bytes, passphrase: Passphrase | None = None, *, of: str, replace: bool = False
) -> None:
    """Write private bytes (mode 0600), encrypted where there is a passphrase; raises KeyFileError.

    Without `replace`, a key that is there is kept.
    """
    file = data if passphrase is None else encrypt(data, passphrase, of)
    try:
        write_durably(path, file, mode=0o600, replace=replace)
    except FileExistsError as error:
        raise KeyFileError("a key is already there", where=str(path), remedy="move it away first") from error
    except OSError as error:
        raise KeyFileError(f"cannot be written: {error.strerror}", where=str(path)) from error


def is_encrypted(path: Path) -> bool:
    """Tell whether a private file is encrypted; raises KeyFileError where it cannot be read."""
    return _read(path).startswith(_MAGIC)


def inside(path: Path) -> str | None:
    """What the header of an encrypted file says is inside: believed only once it is opened. None where it is plain."""
    match = _FORM.fullmatch(_read(path))
    return None if match is None else match["of"].decode("utf-8", "replace")


def _read(path: Path) -> bytes:
    """Read a regular file that only its owner, who is us, may read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KeyFileError(f"cannot be opened: {error.strerror}", where=str(path)) from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError("not a regular file", where=str(path))
        if status.st_mode & 0o077:
            raise KeyFileError("the key is open to others", where=str(path), remedy=f"chmod 600 {path}")
        if status.st_uid != os.geteuid():
            raise KeyFileError(
                "the key belongs to somebody else", where=str(path), remedy="chown it, or run as its owner"
            )
        if status.st_size > _LIMIT:
            raise KeyFileError(f"{status.st_size} bytes, where a key file has at most {_LIMIT}", where=str(path))
        return os.read(file, _LIMIT)
    except OSError as error:
        raise KeyFileError(f"cannot be read: {error.strerror}", where=str(path)) from error
    finally:
        os.close(file)


def _key(passphrase: Passphrase, salt: bytes, cost: Cost) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    try:
        kdf = Argon2id(salt=salt, length=32, iterations=cost.passes, lanes=cost.lanes, memory_cost=cost.memory)
        return kdf.derive(passphrase.reveal())
    except (UnsupportedAlgorithm, MemoryError) as error:
        raise KeyFileError(f"Argon2id cannot be computed here: {error}", remedy="OpenSSL 3.2 or newer") from error


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
