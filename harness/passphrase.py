"""Passphrases: from a file descriptor, a systemd credential, or a terminal; never from arguments or the environment.

Rules. What everybody on the machine may read (arguments), or every child inherits (the environment), holds no secret:
of the environment only `CREDENTIALS_DIRECTORY` is read, which names a folder. The first source that there is counts:
the descriptor that the caller names, then the credential `lockgate-passphrase`, then a prompt, where standard input is
a terminal. A passphrase is the bytes of one line as they come, is never shown, and cannot be pickled.

Not covered: wiping it from memory, which Python cannot promise; and telling `é` in its two spellings apart.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import IO, NoReturn, Self

from harness.errors import ConfigError, KeyFileError

__all__ = ["CREDENTIAL", "LEAST", "Passphrase", "PassphraseSource"]

CREDENTIAL = "lockgate-passphrase"
LEAST = 8
"""Bytes that a new passphrase has at least."""
_LIMIT = 1024
_REMEDY = "--passphrase-fd N, the systemd credential lockgate-passphrase, or a terminal to ask at"


class Passphrase:
    """A secret that opens key files. Only `reveal` shows it."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        """Hold one line without its end; raises KeyFileError for no bytes, too many, or more than a line."""
        if not 1 <= len(secret) <= _LIMIT or b"\n" in secret or b"\0" in secret:
            raise KeyFileError(f"a passphrase is one line of 1 to {_LIMIT} bytes")
        self._secret = secret

    def __repr__(self) -> str:
        """Show nothing."""
        return "Passphrase(…)"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied into another process that way."""
        raise TypeError("a passphrase is not pickled")

    def reveal(self) -> bytes:
        """The bytes themselves."""
        return self._secret

    @classmethod
    def read(cls, stream: IO[bytes]) -> Self:
        """Read the first line of a pipe and nothing beyond it; raises KeyFileError."""
        return cls(stream.readline(_LIMIT + 2).removesuffix(b"\n"))


class PassphraseSource:
    """Where a command gets its passphrase: looked for once, and only when a key needs it."""

    def __init__(self, descriptor: int | None = None, *, option: str = "--passphrase-fd") -> None:
        """`descriptor` is the one named on the command line by `option`, if one was."""
        self._descriptor = descriptor
        self.option = option
        self._found: Passphrase | None = None

    @property
    def named(self) -> bool:
        """Whether the command line names a descriptor."""
        return self._descriptor is not None

    def offered(self) -> Passphrase | None:
        """What was handed over without a question; None where nothing was. Raises ConfigError, KeyFileError."""
        if self._found is None:
            if self._descriptor is not None:
                self._found = self._from_descriptor(self._descriptor)
            elif folder := os.environ.get("CREDENTIALS_DIRECTORY"):
                self._found = _from_credential(Path(folder) / CREDENTIAL)
        return self._found

    def ask(self, what: str) -> Passphrase:
        """The passphrase of `what`, which is there already; KeyFileError where there is no way to get it."""
        found = self.offered()
        if found is None:
            if not _at_terminal():
                raise KeyFileError("encrypted, and there is no passphrase", where=what, remedy=f"give it by {_REMEDY}")
            found = self._found = _prompt(f"Passphrase of {what}: ")
        return found

    def choose(self, what: str) -> Passphrase | None:
        """A passphrase for `what`, to be made; at a terminal asked for twice. None where there is no source."""
        found = self.offered()
        if found is None and _at_terminal():
            found = _prompt(f"New passphrase for {what}: ")
            if _prompt("The same again: ").reveal() != found.reveal():
                raise KeyFileError("the two are not the same", remedy="nothing was written: try again")
            self._found = found
        if found is not None and len(found.reveal()) < LEAST:
            raise KeyFileError(f"a new passphrase has at least {LEAST} bytes", remedy="take several words")
        return found

    def _from_descriptor(self, descriptor: int) -> Passphrase:
        """One line, then the end; the descriptor is closed, so that nothing inherits it."""
        try:
            if os.isatty(descriptor):
                raise ConfigError("a terminal", where=self.option, remedy=f"leave {self.option} out to be asked")
            data = b""
            while len(data) <= _LIMIT + 1 and b"\n" not in data:
                piece = os.read(descriptor, _LIMIT + 2 - len(data))
                if not piece:
                    break
                data += piece
        except OSError as error:
            raise ConfigError(
                f"descriptor {descriptor} cannot be read: {error.strerror}",
                where=self.option,
                remedy=f"`lockgate … {self.option} 3 3<FILE`, or 0 with a pipe",
            ) from error
        finally:
            if descriptor > 2:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        return _one_line(data, self.option)


def _from_credential(path: Path) -> Passphrase | None:
    """The credential, if systemd has passed one (systemd.exec(5), LoadCredential=); its rights are systemd's trade."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyFileError(f"the credential cannot be opened: {error.strerror}", where=str(path)) from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise KeyFileError("the credential is not a regular file", where=str(path))
        return _one_line(os.read(file, _LIMIT + 2), str(path))
    except OSError as error:
        raise KeyFileError(f"the credential cannot be read: {error.strerror}", where=str(path)) from error
    finally:
        os.close(file)


def _one_line(data: bytes, where: str) -> Passphrase:
    try:
        return Passphrase(data.removesuffix(b"\n"))
    except KeyFileError as error:
        raise KeyFileError(error.message, where=where) from error


def _at_terminal() -> bool:
    with contextlib.suppress(ValueError, AttributeError):  # closed, or none at all
        return sys.stdin.isatty()
    return False


def _prompt(text: str) -> Passphrase:
    from getpass import getpass

    try:
        return Passphrase(getpass(text).encode())
    except EOFError as error:
        raise KeyFileError("no passphrase was given") from error
