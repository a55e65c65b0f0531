"""Facts about cosignatures, and about the configuration that names witnesses."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.cosignature import WitnessVerifier, cosign, cosignatures
from harness.errors import AuditError, KeyFileError
from harness.keys import _SMALL_ORDER_Y, Signer, Verifier
from harness.merkle import EMPTY_ROOT
from harness.notes import TreeHead, open_note, sign_head, with_lines
from harness.quorum import Witness, Witnesses, witness_key

LOG = Signer.from_seed("example.org/run", bytes(32))
ONE = Signer.from_seed("witness.example/one", b"\x01" * 32)
TWO = Signer.from_seed("witness.example/two", b"\x02" * 32)
ALIAS = Signer.from_seed("witness.example/alias", b"\x01" * 32)
W1, W2 = WitnessVerifier(ONE.verifier), WitnessVerifier(TWO.verifier)
HEAD = sign_head(TreeHead("example.org/run", 0, EMPTY_ROOT), LOG)
TEXT = TreeHead("example.org/run", 0, EMPTY_ROOT).text

# The checkpoint and cosignature that C2SP prints as the example of tlog-cosignature.
C2SP_TEXT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
C2SP_LINE = (
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+"
    "mbIUBkBIfZ+qnA=="
)


def note(*lines: str) -> bytes:
    """Put lines under the head."""
    return HEAD + "".join(lines).encode()


def vkey(name: str, material: bytes) -> str:
    """Make a verifier key line of any material, with the id that belongs to it."""
    import hashlib

    key_id = hashlib.sha256(name.encode() + b"\n" + material).digest()[:4].hex()
    return f"{name}+{key_id}+{base64.b64encode(material).decode()}"


def test_the_layout_is_that_of_the_published_example():
    """The specification's own example line holds a key id, the time 1679315147, and 64 bytes."""
    blob = base64.b64decode(C2SP_LINE.rsplit(" ", 1)[1])
    assert (len(blob), int.from_bytes(blob[4:12], "big")) == (76, 1679315147)
    ours = base64.b64decode(cosign(C2SP_TEXT, ONE, 1679315147).rstrip("\n").rsplit(" ", 1)[1])
    assert (len(ours), ours[4:12]) == (76, blob[4:12])


def test_the_signed_message_is_that_of_the_specification():
    """What is signed is the header line, the time line, and the note's text."""
    blob = base64.b64decode(cosign(C2SP_TEXT, ONE, 1679315147).rstrip("\n").rsplit(" ", 1)[1])
    ONE.verifier.verify(f"cosignature/v1\ntime 1679315147\n{C2SP_TEXT}".encode(), blob[12:])


@given(st.integers(0, 2**63 - 1))
def test_a_cosignature_is_read_back_with_its_time(seconds):
    """Every time that may be signed is read back, under the key that signed it."""
    assert cosignatures(note(cosign(TEXT, ONE, seconds)), [W1, W2]) == {W1.key_digest: seconds}


@given(st.integers(0, 71), st.integers(1, 255))
def test_a_changed_byte_is_refused(at, flip):
    """No byte of time or signature can change."""
    blob = base64.b64decode(cosign(TEXT, ONE, 10**9).rstrip("\n").rsplit(" ", 1)[1])[4:]
    assert W1.verify(TEXT, blob) == 10**9
    with pytest.raises(AuditError):
        W1.verify(TEXT, blob[:at] + bytes([blob[at] ^ flip]) + blob[at + 1 :])


def test_another_head_is_refused():
    """A cosignature on one head is none on another."""
    line = cosign(TreeHead("example.org/run", 1, EMPTY_ROOT).text, ONE, 10**9)
    with pytest.raises(AuditError, match="not that of"):
        cosignatures(note(line), [W1])


@pytest.mark.parametrize("length", [0, 64, 71, 73])
def test_the_length_is_exact(length):
    """Fewer or more bytes than 72 are no cosignature."""
    with pytest.raises(AuditError, match="bytes"):
        W1.verify(TEXT, bytes(length))


@pytest.mark.parametrize("seconds", [-1, 2**63, 2**64])
def test_times_that_nobody_signs(seconds):
    """A time is not negative and fits in 63 bits."""
    with pytest.raises(AuditError, match="time"):
        cosign(TEXT, ONE, seconds)


def test_a_time_beyond_63_bits_is_refused_when_read():
    """A properly signed time of 2^63 is no time."""
    signature = ONE.sign(f"cosignature/v1\ntime {2**63}\n{TEXT}".encode())
    with pytest.raises(AuditError, match="time"):
        W1.verify(TEXT, (2**63).to_bytes(8, "big") + signature)


def test_unknown_witnesses_are_ignored():
    """A line of a witness that nobody named counts for nothing and harms nothing."""
    assert cosignatures(note(cosign(TEXT, TWO, 5)), [W1]) == {}


def test_one_key_under_two_names_is_one_witness():
    """Two lines by one key count once, with the later time."""
    for first, second in [(5, 9), (9, 5)]:
        both = note(cosign(TEXT, ONE, first), cosign(TEXT, ALIAS, second))
        assert cosignatures(both, [W1, WitnessVerifier(ALIAS.verifier)]) == {W1.key_digest: 9}


def test_a_plain_signature_is_no_cosignature():
    """A witness's signature of type 0x01 over the head has another key id, and is not counted."""
    line = f"— {ONE.name} {base64.b64encode(ONE.verifier.id + ONE.sign(TEXT.encode())).decode()}\n"
    assert open_note(note(line), [ONE.verifier])[1] == [ONE.verifier]
    assert cosignatures(note(line), [W1]) == {}
    assert W1.id != ONE.verifier.id


def test_the_log_still_opens_under_its_key():
    """Cosignatures do not disturb who reads the head by the log's key."""
    assert open_note(note(cosign(TEXT, ONE, 5)), [LOG.verifier])[0] == TEXT


@given(st.binary(max_size=200))
def test_only_audit_error_escapes(data):
    """Any bytes below a head are lines or an AuditError."""
    try:
        assert cosignatures(HEAD + data, [W1, W2]) == {}
    except AuditError:
        return


@given(st.binary(min_size=32, max_size=32))
def test_a_verifier_key_is_read_back(seed):
    """Every witness's key is read from its line, with and without the newline."""
    witness = WitnessVerifier(Signer.from_seed("w", seed).verifier)
    assert WitnessVerifier.parse(witness.vkey) == WitnessVerifier.parse(witness.vkey + "\n") == witness
    assert witness.key_digest == Verifier("other", witness.verifier.key).key_digest


@given(st.integers(0, len(W1.vkey) - 1), st.characters(min_codepoint=32, max_codepoint=126))
def test_a_changed_verifier_key_is_refused(at, char):
    """No single character of a verifier key can be changed unnoticed."""
    changed = W1.vkey[:at] + char + W1.vkey[at + 1 :]
    if changed != W1.vkey:
        with pytest.raises(KeyFileError):
            WitnessVerifier.parse(changed)


@given(st.text(max_size=100))
def test_only_key_file_error_escapes_the_parser(line):
    """Any text is a verifier key or a KeyFileError."""
    with pytest.raises(KeyFileError):
        WitnessVerifier.parse(line)


BAD_KEYS = {
    "type 0x01": ONE.verifier.vkey,
    "31 bytes": vkey("w", b"\x04" + bytes(range(31))),
    "a space in the name": vkey("w w", b"\x04" + ONE.verifier.key),
    "a lone surrogate": "\ud800" + W1.vkey,
    "two newlines": W1.vkey + "\n\n",
    "loose base64": W1.vkey + "=",
    **{f"small order {i}": vkey("w", b"\x04" + y.to_bytes(32, "little")) for i, y in enumerate(sorted(_SMALL_ORDER_Y))},
}


@pytest.mark.parametrize("line", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_keys_that_are_refused(line):
    """A witness's key is of type 0x04, 32 bytes, in its one form, and no point that anybody can sign for."""
    with pytest.raises(KeyFileError):
        WitnessVerifier.parse(line)


def test_a_file_of_keys(tmp_path):
    """A file holds one key a line; a bad line, a long file or none is a KeyFileError that names the file."""
    path = tmp_path / "witnesses"
    path.write_text(f"{W1.vkey}\n{W2.vkey}\n")
    assert WitnessVerifier.load(path) == [W1, W2]
    for bad in ["", f"{W1.vkey}\n\n", f"{W1.vkey}\n" * 2000]:
        path.write_text(bad)
        with pytest.raises(KeyFileError, match="witnesses: "):
            WitnessVerifier.load(path)
    with pytest.raises(KeyFileError, match="cannot be read"):
        WitnessVerifier.load(tmp_path / "none")


def witness(name: str = "one", url: str = "http://127.0.0.1:1", key: str = W1.vkey) -> dict[str, str]:
    """One witness as a configuration names it."""
    return {"name": name, "url": url, "key": key}


def test_a_configuration_of_two():
    """Two witnesses with keys and names of their own, one of which is required, are a quorum."""
    told = {"require": 1, "of": [witness(), witness("two", "https://w.example/prefix", W2.vkey)]}
    assert [each.name for each in Witnesses.parse(told).of] == ["one", "two"]
    assert witness_key(W1.vkey) == (ONE.name, ONE.verifier.key)


BAD_QUORUMS = {
    "none required": {"require": 0, "of": [witness()]},
    "more than there are": {"require": 2, "of": [witness()]},
    "nobody named": {"require": 1, "of": []},
    "true is no number": {"require": True, "of": [witness()]},
    "one key twice": {"require": 1, "of": [witness(), witness("two", key=WitnessVerifier(ALIAS.verifier).vkey)]},
    "one name twice": {"require": 1, "of": [witness(), witness(key=W2.vkey)]},
    "no time": {"require": 1, "of": [witness()], "timeout_seconds": 0},
    "no number": {"require": 1, "of": [witness()], "timeout_seconds": float("inf")},
    "a log's key": {"require": 1, "of": [witness(key=ONE.verifier.vkey)]},
    "an unknown field": {"require": 1, "of": [witness() | {"trusted": "yes"}]},
}


@pytest.mark.parametrize("told", BAD_QUORUMS.values(), ids=BAD_QUORUMS.keys())
def test_quorums_that_are_refused(told):
    """A quorum is 1 to n of n witnesses, told apart by name and by key."""
    with pytest.raises(ValidationError):
        Witnesses.parse(told)


BAD_URLS = [
    "file:///etc/passwd",
    "ftp://host",
    "http://",
    "http:host",
    "http://user@host",
    "http://host?x",
    "http://host/?",
    "http://host#x",
    "http://ho st",
    "http://host\n",
    "http://host:99999",
    "http://host:0",
    "http://[::1",
    "http://hóst",
    "HOST",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_urls_that_are_refused(url):
    """A witness is reached at a plain http or https URL."""
    with pytest.raises(ValidationError):
        Witness.parse(witness(url=url))


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "https://w.example", "http://[::1]:80/a/b", "http://h/"])
def test_urls_that_are_taken(url):
    """Host, port and prefix may be given."""
    assert Witness.parse(witness(url=url)).url == url


@given(st.lists(st.tuples(st.sampled_from([ONE, TWO, ALIAS]), st.integers(0, 2**40)), min_size=1, max_size=6))
def test_a_newer_line_takes_the_place_of_an_older_one(signed):
    """However often witnesses sign one head, it bears one line of each name and key: the last; the log's stays first."""
    note = HEAD
    for signer, seconds in signed:
        note = with_lines(note, cosign(TEXT, signer, seconds).encode())
    last = {signer.name: seconds for signer, seconds in signed}
    assert note.startswith(HEAD)
    assert open_note(note, [LOG.verifier])[0] == TEXT
    assert note.count(b"\n\xe2\x80\x94 ") == 1 + len(last)
    for signer, _ in signed:
        assert cosignatures(note, [WitnessVerifier(signer.verifier)]) == {signer.verifier.key_digest: last[signer.name]}


@pytest.mark.parametrize("lines", [b"", b"no line\n", b"text\n\n", b"\n" + cosign(TEXT, ONE, 1).encode()])
def test_what_is_no_signature_line_is_not_put_under_a_head(lines):
    """Nothing but signature lines can be added to a note: its text stays what was signed."""
    with pytest.raises(AuditError):
        with_lines(HEAD, lines)


def test_no_more_lines_than_are_read():
    """Lines that would make a note longer than readers read are refused, so that the head stays readable."""
    note = HEAD
    for number in range(99):
        note = with_lines(note, cosign(TEXT, Signer.from_seed(f"w{number}", bytes([number]) * 32), 1).encode())
    with pytest.raises(AuditError, match="signatures"):
        with_lines(note, cosign(TEXT, ONE, 1).encode())
    assert open_note(note, [LOG.verifier])[0] == TEXT
