"""Facts about passphrases: where they come from, in which order, and that they are never shown."""

from __future__ import annotations

import io
import json
import os
import pickle
import pty
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ConfigError, KeyFileError
from harness.passphrase import CREDENTIAL, Passphrase, PassphraseSource


def piped(data: bytes) -> int:
    """Give a descriptor from which these bytes come."""
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    return read


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch):
    """Begin without credentials."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def credential(tmp_path, monkeypatch):
    """Pass a credential as systemd does; give its file."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    path = tmp_path / CREDENTIAL
    path.write_bytes(b"of the credential\n")
    return path


@given(st.binary(max_size=1100))
def test_one_line_is_a_passphrase(data):
    """A passphrase is 1 to 1024 bytes without newline or NUL, and anything else a KeyFileError."""
    if 1 <= len(data) <= 1024 and not set(data) & {0, 10}:
        assert Passphrase(data).reveal() == data
        assert Passphrase.read(io.BytesIO(data + b"\nmore")).reveal() == data
    else:
        with pytest.raises(KeyFileError, match="one line"):
            Passphrase(data)


def test_it_is_not_shown():
    """Neither `repr`, nor formatting, nor pickling shows a passphrase."""
    secret = Passphrase(b"correct horse")
    assert "horse" not in f"{secret} {secret!r}"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)


def test_a_descriptor_comes_first(credential):
    """The descriptor that is named counts before the credential; it is read once, and closed."""
    descriptor = piped(b"of the pipe\n")
    source = PassphraseSource(descriptor)
    assert source.offered().reveal() == source.ask("a key").reveal() == b"of the pipe"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert PassphraseSource().ask("a key").reveal() == credential.read_bytes().rstrip()


@pytest.mark.parametrize("data", [b"", b"\n", b"two\nlines", b"x" * 1025, b"a\0b"])
def test_what_is_no_passphrase(data, credential):
    """No bytes, two lines, too many bytes and a NUL are a KeyFileError, from a descriptor and from a credential."""
    with pytest.raises(KeyFileError, match="one line") as error:
        PassphraseSource(piped(data)).offered()
    assert error.value.where == "--passphrase-fd"
    credential.write_bytes(data)
    with pytest.raises(KeyFileError, match="one line") as error:
        PassphraseSource().offered()
    assert error.value.where == str(credential)


def test_a_line_is_enough():
    """A pipe whose writer stays is read to the end of its line."""
    read, write = os.pipe()
    os.write(write, b"a line\n")
    assert PassphraseSource(read).offered().reveal() == b"a line"
    os.close(write)


def test_a_descriptor_that_cannot_be_read_is_a_config_error(tmp_path):
    """A descriptor that is not open, a terminal and a folder are one ConfigError with a remedy."""
    with pytest.raises(ConfigError, match="cannot be read") as error:
        PassphraseSource(12345).offered()
    assert error.value.remedy
    with pytest.raises(ConfigError, match="cannot be read"):
        PassphraseSource(os.open(tmp_path, os.O_RDONLY)).offered()
    main, terminal = pty.openpty()
    with pytest.raises(ConfigError, match="a terminal") as error:
        PassphraseSource(terminal).offered()
    assert error.value.remedy
    os.close(main)


def test_a_credential_is_a_regular_file(credential):
    """A link, a folder and a FIFO in the credential's place are KeyFileErrors; where there is none, nothing is offered."""
    credential.unlink()
    assert PassphraseSource().offered() is None
    (credential.parent / "other").write_bytes(b"x")
    for make in (lambda: credential.symlink_to("other"), credential.mkdir, lambda: os.mkfifo(credential)):
        make()
        with pytest.raises(KeyFileError, match="credential"):
            PassphraseSource().offered()
        credential.rmdir() if credential.is_dir() else credential.unlink()


def test_the_environment_holds_no_passphrase(monkeypatch):
    """No variable is taken for a passphrase: with none of the sources, asking is one error with the remedy."""
    for name in ("LOCKGATE_PASSPHRASE", "PASSPHRASE", CREDENTIAL):
        monkeypatch.setenv(name, "from the environment")
    monkeypatch.setattr("sys.stdin", io.StringIO("from standard input\n"))
    assert PassphraseSource().choose("keys") is None
    with pytest.raises(KeyFileError, match="no passphrase") as error:
        PassphraseSource().ask("private/signing.key")
    assert error.value.where == "private/signing.key"
    assert "--passphrase-fd" in error.value.remedy


def test_a_new_one_is_not_too_short():
    """A new passphrase has at least 8 bytes; one that opens what is there may be shorter."""
    with pytest.raises(KeyFileError, match="at least 8"):
        PassphraseSource(piped(b"seven77")).choose("keys")
    assert PassphraseSource(piped(b"eight888")).choose("keys").reveal() == b"eight888"
    assert PassphraseSource(piped(b"short")).ask("keys").reveal() == b"short"


PROGRAM = """\
import json, sys
from harness.errors import KeyFileError
from harness.passphrase import PassphraseSource
source = PassphraseSource()
try:
    print(json.dumps(getattr(source, sys.argv[1])("the keys").reveal().decode()))
except KeyFileError as error:
    print(json.dumps({"error": error.message}))
"""


def typed(method: str, *lines: str) -> tuple[object, str]:
    """Type lines at a terminal, each after the prompt for it; give what came of it, and what the terminal showed."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, method], stdin=terminal, stdout=subprocess.PIPE, stderr=terminal,
        start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    for line in lines:
        while not shown.endswith(b": "):
            shown += os.read(main, 1024)
        os.write(main, line.encode())
        shown += b"\n"
    out, _ = process.communicate(timeout=30)
    os.close(main)
    return json.loads(out), shown.decode()


def test_a_terminal_is_asked():
    """At a terminal the passphrase is asked for, a new one twice, and what is typed is not shown."""
    told, shown = typed("ask", "typed secret\n")
    assert told == "typed secret"
    assert "Passphrase of the keys" in shown
    assert "typed" not in shown
    assert typed("choose", "typed secret\n", "typed secret\n")[0] == "typed secret"
    assert typed("choose", "typed secret\n", "another secret\n")[0] == {"error": "the two are not the same"}
    assert typed("ask", "\x04")[0] == {"error": "no passphrase was given"}
