"""Facts about private files: both forms are read by one way in, and no byte of an encrypted one can be changed."""

from __future__ import annotations

import stat
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import KeyFileError
from harness.keyfile import (
    RECOMMENDED,
    Cost,
    decrypt,
    encrypt,
    inside,
    is_encrypted,
    read_private,
    write_private,
)
from harness.keys import Signer, VaultKey
from harness.passphrase import Passphrase

SECRET, OTHER = Passphrase(b"correct horse"), Passphrase(b"battery staple")
CHEAP = Cost(8, 1, 1)
FILE = encrypt(b"private bytes", SECRET, "a label", cost=CHEAP)


@given(st.binary(max_size=5000), st.binary(min_size=1, max_size=40).filter(lambda b: not set(b) & {0, 10}))
def test_round_trip(data, secret):
    """What was encrypted comes back under the same passphrase, and under no other."""
    file = encrypt(data, Passphrase(secret), "x", cost=CHEAP)
    assert decrypt(file, Passphrase(secret)) == data
    with pytest.raises(KeyFileError, match="not the passphrase"):
        decrypt(file, Passphrase(secret + b"x"))


def test_every_changed_byte_is_seen():
    """No bit of an encrypted file can be changed, no byte taken away or added, unseen: header, salt, nonce, box, end."""
    for at in range(len(FILE)):
        for bit in range(8):
            changed = FILE[:at] + bytes([FILE[at] ^ 1 << bit]) + FILE[at + 1 :]
            with pytest.raises(KeyFileError):
                decrypt(changed, SECRET)
        with pytest.raises(KeyFileError):
            decrypt(FILE[:at] + FILE[at + 1 :], SECRET)
        with pytest.raises(KeyFileError):
            decrypt(FILE[:at] + b"\n" + FILE[at:], SECRET)


def test_nothing_of_it_is_plain():
    """The file holds the label, and nothing of the bytes or the passphrase; the same twice gives two files."""
    assert b"a label" in FILE
    assert b"private" not in FILE
    assert SECRET.reveal() not in FILE
    again = encrypt(b"private bytes", SECRET, "a label", cost=CHEAP)
    assert [a == b for a, b in zip(again.splitlines(), FILE.splitlines(), strict=True)] == [
        True, True, False, False, True, False,
    ]  # fmt: skip


def test_another_implementation_opens_it():
    """The key is Argon2id's by the header's parameters, the box ChaCha20-Poly1305's over the header: as it is said."""
    import base64

    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    header, _, box = FILE.partition(b"\n\n")
    _, _, kdf, cipher = header.decode().split("\n")
    name, m, t, p, salt = kdf.split()
    assert (name, m, t, p) == ("argon2id", "m=8", "t=1", "p=1")
    salt, nonce = (base64.b64decode(part) for part in (salt, cipher.split()[1]))
    key = Argon2id(salt=salt, length=32, iterations=1, lanes=1, memory_cost=8).derive(b"correct horse")
    assert ChaCha20Poly1305(key).decrypt(nonce, base64.b64decode(box), header + b"\n\n") == b"private bytes"


HOSTILE = """\
m=1048577 t=1 p=1
m=99999999 t=1 p=1
m=100000000000 t=1 p=1
m=1048576 t=17 p=1
m=1048576 t=999 p=1
m=1048576 t=1 p=17
m=7 t=1 p=1
m=31 t=1 p=4
m=0 t=1 p=1
m=8 t=0 p=1
m=8 t=1 p=0
m=+8 t=1 p=1
m=\u0668 t=1 p=1
m=08 t=1 p=1
m=8  t=1 p=1
t=1 m=8 p=1
"""


@pytest.mark.parametrize("parameters", HOSTILE.splitlines())
def test_a_hostile_file_costs_nothing(parameters):
    """Parameters out of bounds, or in another spelling, are refused before any memory is taken."""
    hostile = FILE.replace(b"m=8 t=1 p=1", parameters.encode())
    assert hostile != FILE
    begin = time.monotonic()
    with pytest.raises(KeyFileError, match=r"out of bounds|form"):
        decrypt(hostile, SECRET)
    assert time.monotonic() - begin < 0.2


@given(st.binary(max_size=300))
def test_only_key_file_error_escapes(data):
    """Any bytes after the first words are a KeyFileError."""
    with pytest.raises(KeyFileError):
        decrypt(b"lockgate encrypted key v1\n" + data, SECRET)


def test_what_is_written_is_rfc_9106_s_second_choice(tmp_path):
    """Files are written with 64 MiB, three passes and four lanes, mode 0600, and read back by one way in."""
    assert RECOMMENDED == (65536, 3, 4)
    write_private(tmp_path / "k", b"bytes", SECRET, of="label")
    write_private(tmp_path / "p", b"bytes", of="label")
    assert b"\nargon2id m=65536 t=3 p=4 " in (tmp_path / "k").read_bytes()
    assert read_private(tmp_path / "k", 5, SECRET) == read_private(tmp_path / "p", 5, SECRET) == b"bytes"
    assert [(is_encrypted(tmp_path / name), inside(tmp_path / name)) for name in "kp"] == [
        (True, "label"),
        (False, None),
    ]
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "kp"} == {0o600}
    with pytest.raises(KeyFileError, match="5 bytes, where a key has at most 4"):
        read_private(tmp_path / "k", 4, SECRET)
    with pytest.raises(KeyFileError, match="no passphrase") as error:
        read_private(tmp_path / "k", 5)
    assert error.value.where == str(tmp_path / "k")
    with pytest.raises(KeyFileError, match="already there"):
        write_private(tmp_path / "k", b"other", SECRET, of="label")
    (tmp_path / "k").chmod(0o644)
    with pytest.raises(KeyFileError, match="open to others"):
        read_private(tmp_path / "k", 5, SECRET)


def test_a_file_of_a_later_form_is_said_to_be_one(tmp_path):
    """An encrypted file of another version is neither a plain key nor a wrong passphrase."""
    (tmp_path / "k").write_bytes(FILE.replace(b"v1", b"v2", 1))
    (tmp_path / "k").chmod(0o600)
    assert is_encrypted(tmp_path / "k")
    with pytest.raises(KeyFileError, match="form that this version reads"):
        read_private(tmp_path / "k", 100, SECRET)


def test_keys_at_rest(tmp_path):
    """A signing key and a vault key come back from encrypted files, and are refused without the passphrase."""
    signer = Signer.from_seed("ä/run", bytes(32))
    signer.save(tmp_path / "s", SECRET)
    vault = VaultKey.create(tmp_path / "v", SECRET)
    assert Signer.load(tmp_path / "s", SECRET).sign(b"m") == signer.sign(b"m")
    assert VaultKey.load(tmp_path / "v", SECRET).commitment() == vault.commitment()
    assert (inside(tmp_path / "s"), inside(tmp_path / "v")) == (signer.verifier.vkey, vault.commitment())
    for load, name in ((Signer.load, "s"), (VaultKey.load, "v")):
        for wrong in (None, OTHER):
            with pytest.raises(KeyFileError):
                load(tmp_path / name, wrong)
    with pytest.raises(KeyFileError, match="a signing key: a line"):
        Signer.load(tmp_path / "v", SECRET)
