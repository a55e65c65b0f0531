"""Facts about signers, verifiers and the vault key."""

from __future__ import annotations

import base64
import stat

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import AuditError, KeyFileError
from harness.keys import _SMALL_ORDER_Y, Signer, VaultKey, Verifier, is_key_name

SIGNER = Signer.from_seed("example.org/run", bytes(32))
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"  # golang.org/x/mod/sumdb/note's example


def test_rfc_8032_vector():
    """A seed gives the public key and the signature of RFC 8032 §7.1, test 2."""
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    signer = Signer.from_seed("x", seed)
    assert signer.verifier.key.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert signer.sign(b"\x72").hex() == signature


def test_a_verifier_key_of_another_implementation():
    """The verifier key in the Go note package's documentation is read, and printed the same."""
    verifier = Verifier.parse(PETER)
    assert (verifier.name, verifier.id.hex(), verifier.vkey) == ("PeterNeumann", "c74f20a3", PETER)


@given(st.binary(min_size=32, max_size=32), st.text(min_size=1, max_size=30).filter(is_key_name))
def test_verifier_key_round_trip(seed, name):
    """Every verifier is read back from its line, with and without the newline."""
    verifier = Signer.from_seed(name, seed).verifier
    assert Verifier.parse(verifier.vkey) == verifier == Verifier.parse(verifier.vkey + "\n")


@given(st.integers(0, len(PETER) - 1), st.characters(min_codepoint=32, max_codepoint=126))
def test_a_changed_verifier_key_is_refused(at, char):
    """No single character of a verifier key can be changed unnoticed."""
    changed = PETER[:at] + char + PETER[at + 1 :]
    if changed != PETER:
        with pytest.raises(KeyFileError):
            Verifier.parse(changed)


@given(st.text(max_size=80))
def test_only_key_file_error_escapes_the_parser(line):
    """Any text is a verifier or a KeyFileError."""
    with pytest.raises(KeyFileError):
        Verifier.parse(line)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "a\x00", "\u2028", "a\tb", "x" * 256])
def test_malformed_names(name):
    """A name is not empty and has no space, plus, or control character."""
    assert not is_key_name(name)
    with pytest.raises(KeyFileError, match="name"):
        Verifier(name, SIGNER.verifier.key)


def _times_eight_is_neutral(y):
    """Multiply the point of Curve25519 with this y by 8, in plain affine arithmetic (RFC 8032 §5.1)."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p
    square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
    x = pow(square, (p + 3) // 8, p)
    if (x * x - square) % p:
        x = x * pow(2, (p - 1) // 4, p) % p
    if (x * x - square) % p:
        return False
    for _ in range(3):
        t = d * x * x * y * y % p
        x, y = 2 * x * y * pow(1 + t, -1, p) % p, (y * y + x * x) * pow(1 - t, -1, p) % p
    return (x, y) == (0, 1)


def test_points_of_small_order_are_no_keys():
    """Each refused y really is of a point whose order divides 8, and no key has it, with either sign."""
    assert len(_SMALL_ORDER_Y) == 5
    assert not _times_eight_is_neutral(int.from_bytes(SIGNER.verifier.key, "little") & (2**255 - 1))
    for y in _SMALL_ORDER_Y:
        assert _times_eight_is_neutral(y)
        for sign in (0, 1 << 255):
            with pytest.raises(KeyFileError, match="anybody"):
                Verifier("x", (y | sign).to_bytes(32, "little"))


def test_a_second_spelling_of_a_point_is_no_key():
    """A y that is not reduced modulo p is refused, so one key has one digest."""
    with pytest.raises(KeyFileError, match="one spelling"):
        Verifier("x", (2**255 - 19 + 3).to_bytes(32, "little"))


def test_a_signature_holds_for_its_message_and_key_only():
    """Another message, another key, and a signature with any byte changed or missing are AuditErrors."""
    signature = SIGNER.sign(b"m")
    SIGNER.verifier.verify(b"m", signature)
    other = Signer.from_seed("example.org/run", b"\x01" * 32).verifier
    wrong = [(SIGNER.verifier, b"n", signature), (other, b"m", signature), (SIGNER.verifier, b"m", signature[:63])]
    wrong += [
        (SIGNER.verifier, b"m", signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]) for at in range(64)
    ]
    for verifier, message, value in wrong:
        with pytest.raises(AuditError):
            verifier.verify(message, value)


def test_one_key_under_two_names_has_one_digest():
    """Signers are counted by key material: a second name adds none."""
    again = Signer.from_seed("another", bytes(32)).verifier
    assert again != SIGNER.verifier
    assert again.id != SIGNER.verifier.id
    assert again.key_digest == SIGNER.verifier.key_digest


def test_signer_file_round_trip(tmp_path):
    """A saved signer is read back with its name and key, and its file is its owner's only."""
    SIGNER.save(tmp_path / "k")
    loaded = Signer.load(tmp_path / "k")
    assert loaded.verifier == SIGNER.verifier
    assert loaded.sign(b"m") == SIGNER.sign(b"m")
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600


def test_a_key_is_never_overwritten(tmp_path):
    """Saving where a key is leaves it there; so does creating a vault key."""
    SIGNER.save(tmp_path / "k")
    before = (tmp_path / "k").read_bytes()
    with pytest.raises(KeyFileError, match="already"):
        Signer.generate("x").save(tmp_path / "k")
    with pytest.raises(KeyFileError, match="already"):
        VaultKey.create(tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_open_to_others_is_not_read(tmp_path, mode):
    """A signing key or vault key that anybody else may read is refused, with the remedy."""
    SIGNER.save(tmp_path / "k")
    VaultKey.create(tmp_path / "v")
    for name, load in (("k", Signer.load), ("v", VaultKey.load)):
        (tmp_path / name).chmod(mode)
        with pytest.raises(KeyFileError, match="chmod 600"):
            load(tmp_path / name)


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "missing"])
def test_a_key_is_a_regular_file(tmp_path, kind):
    """A link, a folder, a FIFO and a missing file are KeyFileErrors, without hanging."""
    import os

    SIGNER.save(tmp_path / "k")
    path = tmp_path / "x"
    if kind == "link":
        path.symlink_to("k")
    elif kind == "folder":
        path.mkdir(mode=0o700)
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    with pytest.raises(KeyFileError):
        Signer.load(path)
    with pytest.raises(KeyFileError):
        VaultKey.load(path)


@given(st.binary(max_size=200))
def test_only_key_file_error_escapes_loading(tmp_path_factory, data):
    """A signing key file with any bytes in it is a KeyFileError."""
    path = tmp_path_factory.mktemp("keys") / "k"
    path.write_bytes(b"Name: x\n-----BEGIN PRIVATE KEY-----\n" + data)
    path.chmod(0o600)
    with pytest.raises(KeyFileError):
        Signer.load(path)


def test_another_kind_of_key_is_refused(tmp_path):
    """A PKCS #8 key that is not Ed25519 is a KeyFileError."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    pem = X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "k").write_bytes(b"Name: x\n" + pem)
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(KeyFileError, match="Ed25519"):
        Signer.load(tmp_path / "k")


def test_verifier_file_round_trip(tmp_path):
    """A saved verifier is read back, and a long or binary file is a KeyFileError."""
    SIGNER.verifier.save(tmp_path / "v")
    assert Verifier.load(tmp_path / "v") == SIGNER.verifier
    for data in (b"\xff", b"x" * 5000, b""):
        (tmp_path / "w").write_bytes(data)
        with pytest.raises(KeyFileError):
            Verifier.load(tmp_path / "w")


def test_secrets_are_not_shown():
    """Neither a signer nor a vault key shows its secret when printed."""
    seed = bytes(range(32))
    for shown in (repr(Signer.from_seed("x", seed)), repr(VaultKey(seed))):
        assert seed.hex() not in shown
        assert base64.b64encode(seed).decode() not in shown


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=40))
def test_derive_is_hkdf(secret, label):
    """`derive` is HKDF-SHA256 with an empty salt, as another implementation computes it."""
    assert VaultKey(secret).derive(label) == HKDF(hashes.SHA256(), 32, None, label).derive(secret)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 300), st.binary(max_size=10))
def test_order_is_a_permutation_of_its_own(secret, n, label):
    """`order` is a permutation, the same each time."""
    key = VaultKey(secret)
    assert sorted(key.order(n, label)) == list(range(n))
    assert key.order(n, label) == VaultKey(secret).order(n, label)


def test_order_is_uniform():
    """Over labels, each of 4 items comes first equally often (chi-square with 3 degrees of freedom below 16.3)."""
    key, counts = VaultKey(bytes(32)), [0, 0, 0, 0]
    for label in range(4000):
        counts[key.order(4, str(label).encode())[0]] += 1
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 16.3


def test_vault_key_round_trip_and_commitment(tmp_path):
    """A created vault key is read back; its commitment is a digest that differs from another key's."""
    key = VaultKey.create(tmp_path / "v")
    assert VaultKey.load(tmp_path / "v").commitment() == key.commitment()
    assert key.commitment() != VaultKey.create(tmp_path / "w").commitment()
    assert stat.S_IMODE((tmp_path / "v").stat().st_mode) == 0o600
    (tmp_path / "w").chmod(0o600)
    (tmp_path / "w").write_bytes(bytes(31))
    with pytest.raises(KeyFileError, match="32 bytes"):
        VaultKey.load(tmp_path / "w")
