"""Facts about SSH signatures: what ssh-keygen makes is read, what it refuses is refused, and nothing in between."""

from __future__ import annotations

import base64
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from people import CURVES, Person, armoured, mpint, string

from harness.approval import NAMESPACE
from harness.errors import AuditError, KeyFileError
from harness.sshsig import KEY_TYPES, SK_ED25519, SshKey, dearmour, verify

MESSAGE = b'{"hold":"sha256:00","reason":"","verdict":"approve"}'
PEOPLE = {kind: Person(f"somebody with {kind}", kind) for kind in KEY_TYPES}
needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


def by_ssh_keygen(place, key: SshKey, signature: bytes, data: bytes = MESSAGE) -> bool:
    """Ask OpenSSH whether a signature stands."""
    (place / "signers").write_text(f"me {key.line}\n")
    (place / "signature").write_text(armoured(signature))
    command = ["ssh-keygen", "-Y", "verify", "-f", place / "signers", "-I", "me", "-n", NAMESPACE]
    command += ["-s", place / "signature"]
    return not subprocess.run(command, input=data, capture_output=True, check=False).returncode


@needs_ssh
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_what_ssh_keygen_signs_is_read(tmp_path, kind):
    """A signature by ssh-keygen, with a key that it made, verifies and tells its key."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", tmp_path / "key"], check=True)
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", NAMESPACE, "-f", tmp_path / "key"]
    made = subprocess.run(command, input=MESSAGE, capture_output=True, check=True).stdout.decode()
    assert verify(dearmour(made), MESSAGE, NAMESPACE).line == (tmp_path / "key.pub").read_text().rsplit(" ", 1)[0]


@needs_ssh
@pytest.mark.parametrize("kind", KEY_TYPES)
def test_our_own_signatures_are_those_of_openssh(tmp_path, kind):
    """What the tests sign by hand, hardware keys included, OpenSSH accepts as well, over this message alone."""
    signature = PEOPLE[kind].sign(MESSAGE)
    assert verify(signature, MESSAGE, NAMESPACE) == PEOPLE[kind].key
    assert by_ssh_keygen(tmp_path, PEOPLE[kind].key, signature)
    assert not by_ssh_keygen(tmp_path, PEOPLE[kind].key, signature, b"another")


@pytest.mark.parametrize("kind", KEY_TYPES)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_another_message_or_namespace_is_refused(kind, algorithm):
    """A signature stands for its message and its namespace, and for no other."""
    signature = PEOPLE[kind].sign(MESSAGE, algorithm=algorithm)
    assert verify(signature, MESSAGE, NAMESPACE) == PEOPLE[kind].key
    for data, namespace in ((MESSAGE + b" ", NAMESPACE), (MESSAGE, "git"), (MESSAGE, "")):
        with pytest.raises(AuditError):
            verify(signature, data, namespace)


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa", SK_ED25519])
def test_every_flipped_bit_is_refused(kind):
    """A signature of which one bit differs is an AuditError, whichever bit it is."""
    signature = PEOPLE[kind].sign(MESSAGE)
    for at in range(len(signature)):
        changed = bytearray(signature)
        changed[at] ^= 1 << at % 8
        with pytest.raises(AuditError):
            verify(bytes(changed), MESSAGE, NAMESPACE)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    """Whatever the bytes, there is a key or an AuditError."""
    for signature in (data, b"SSHSIG\0\0\0\1" + data):
        with pytest.raises(AuditError):
            verify(signature, MESSAGE, NAMESPACE)


def test_a_token_that_nobody_touched_is_refused():
    """A hardware key's signature without the flag of user presence is refused; with it, it counts."""
    for kind in ("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"):
        assert verify(Person("touched", kind).sign(MESSAGE), MESSAGE, NAMESPACE)
        with pytest.raises(AuditError, match="touched"):
            verify(Person("touched", kind, flags=0).sign(MESSAGE), MESSAGE, NAMESPACE)


def test_bytes_after_any_part_are_refused():
    """A signature with more behind it, outside or inside, is refused."""
    person = PEOPLE["ssh-ed25519"]
    signature = person.sign(MESSAGE)
    inner = signature[-(4 + 15 + 4 + 64) :]
    longer = signature[: -len(inner) - 4] + string(inner + b"x")
    for changed in (signature + b"x", longer, signature[:-1]):
        with pytest.raises(AuditError):
            verify(changed, MESSAGE, NAMESPACE)


def line(kind: str, *parts: bytes) -> str:
    """Write a public key line of these parts."""
    return f"{kind} {base64.b64encode(b''.join(map(string, [kind.encode(), *parts]))).decode()}"


SOUND = PEOPLE["ssh-ed25519"].key.line
BAD_KEYS = {
    "no key": ("ssh-ed25519", "form"),
    "a comment": (f"{SOUND} me", "form"),
    "dsa": (line("ssh-dss", b"x"), "not read"),
    "a certificate": (line("ssh-ed25519-cert-v01@openssh.com", b"x"), "not read"),
    "another type inside": (SOUND.replace("ssh-ed25519", "ssh-rsa"), "type"),
    "cut": (line("ssh-ed25519", bytes([9] * 31)), "sound"),
    "a point of small order": (line("ssh-ed25519", bytes([1, *[0] * 31])), "anybody"),
    "a token's point of small order": (line(SK_ED25519, bytes([1, *[0] * 31]), b"ssh:"), "anybody"),
    "more behind it": (line("ssh-ed25519", bytes([9] * 32), b"x"), "sound"),
    "a needless zero": (line("ssh-rsa", mpint(65537)[4:], b"\0" + mpint((1 << 2047) + 1)[4:]), "spelling"),
    "a short RSA key": (line("ssh-rsa", mpint(65537)[4:], mpint((1 << 1023) + 643)[4:]), "bits"),
    "not base64 in its one form": (
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlNJwfisnqTWdAAC/sKkYTQI1Vvo5/cbFd5BbnsSAJ=",
        "base64",
    ),
}


@pytest.mark.parametrize("defect", BAD_KEYS)
def test_a_key_that_is_none_is_refused(defect):
    """A line that is no sound key of a kind that is read is a KeyFileError that says why."""
    text, why = BAD_KEYS[defect]
    with pytest.raises(KeyFileError, match=why):
        SshKey.parse(text)


def test_every_kind_of_key_is_tried_here():
    """These tests sign with every kind of key that is read."""
    assert set(PEOPLE) == set(KEY_TYPES) >= set(CURVES)


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN SSH SIGNATURE-----\n!!!!\n-----END SSH SIGNATURE-----\n"])
def test_what_is_not_armoured_is_refused(text):
    """Text that is no armoured signature is an AuditError."""
    with pytest.raises(AuditError):
        dearmour(text)
