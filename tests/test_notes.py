"""Facts about signed notes, tree heads and the proofs that carry them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import AuditError
from harness.keys import Signer, Verifier
from harness.merkle import inclusion_proof, leaf_hash, tree_hash
from harness.notes import LogProof, TreeHead, open_head, open_note, parse_note, sign_head, sign_note

SIGNER = Signer.from_seed("example.org/run", bytes(32))
WITNESS = Signer.from_seed("witness.example", b"\x01" * 32)
ROOT = leaf_hash(b"")
HEAD = TreeHead("example.org/run", 42, ROOT)

# The example of golang.org/x/mod/sumdb/note, signed by that implementation.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

note_texts = st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=10), min_size=1, max_size=4).map(
    lambda lines: "\n".join(lines) + "\n"
)


def test_a_note_of_another_implementation():
    """A note signed by the Go implementation opens under its key."""
    data = f"{GO_TEXT}\n{GO_LINE}".encode()
    assert open_note(data, [Verifier.parse(GO_KEY)]) == (GO_TEXT, [Verifier.parse(GO_KEY)])


@given(note_texts)
def test_note_round_trip(text):
    """What is signed is read back, by each of its signers."""
    data = sign_note(text, SIGNER, WITNESS)
    assert open_note(data, [WITNESS.verifier]) == (text, [WITNESS.verifier])
    assert open_note(data, [WITNESS.verifier, SIGNER.verifier]) == (text, [SIGNER.verifier, WITNESS.verifier])


@given(st.binary(max_size=200) | st.text(alphabet="— a\n+/=0Az3", max_size=60).map(str.encode))
def test_only_audit_error_escapes_the_parser(data):
    """Any bytes are a note or an AuditError."""
    try:
        note = parse_note(data)
    except AuditError:
        return
    assert note.signatures
    assert note.text.endswith("\n")


@pytest.mark.parametrize("text", ["", "no newline", "a\x00b\n", "tab\t\n", "\ud800\n"])
def test_text_that_no_note_may_have(text):
    """Text without its final newline, with control characters or with lone surrogates is not signed."""
    with pytest.raises(AuditError):
        sign_note(text, SIGNER)


def test_text_that_looks_signed_is_text():
    """Only the lines after the last empty line are signatures: a signed note can be signed as text."""
    inner = sign_note("x\n", WITNESS).decode()
    text, signers = open_note(sign_note(inner, SIGNER), [SIGNER.verifier, WITNESS.verifier])
    assert (text, signers) == (inner, [SIGNER.verifier])


def test_a_note_needs_a_signer():
    """Nobody's note is not a note."""
    with pytest.raises(AuditError):
        sign_note("x\n")


def test_unknown_signatures_are_ignored_and_known_bad_ones_are_not():
    """A line by another key, or of another type, changes nothing; a bad line by a known key ends it."""
    good = sign_note("x\n", SIGNER)
    stranger = base64.b64encode(b"\x01\x02\x03\x04" + b"s" * 2420).decode()
    assert open_note(good + f"— ml-dsa.example {stranger}\n".encode(), [SIGNER.verifier])[0] == "x\n"
    bad = base64.b64encode(WITNESS.verifier.id + bytes(64)).decode()
    with pytest.raises(AuditError, match="signature"):
        open_note(good + f"— witness.example {bad}\n".encode(), [SIGNER.verifier, WITNESS.verifier])


def test_no_known_signature_is_an_error():
    """A note that only strangers signed does not open, nor does one with nobody trusted."""
    data = sign_note("x\n", SIGNER)
    for verifiers in ([], [WITNESS.verifier], [Signer.from_seed("example.org/run", b"\x02" * 32).verifier]):
        with pytest.raises(AuditError, match="known"):
            open_note(data, verifiers)


@given(st.data())
def test_every_changed_byte_of_a_head_is_seen(data):
    """No byte of a signed tree head can be changed, dropped or doubled unnoticed."""
    note = sign_head(HEAD, SIGNER)
    at = data.draw(st.integers(0, len(note) - 1))
    flip = data.draw(st.integers(1, 255))
    for changed in (
        note[:at] + bytes([note[at] ^ flip]) + note[at + 1 :], note[:at] + note[at + 1 :], note[: at + 1] + note[at:],
    ):  # fmt: skip
        if changed != note:
            try:
                head = open_head(changed, SIGNER.verifier)
            except AuditError:
                continue
            raise AssertionError((changed, head))


@given(st.text("abc./-é", min_size=1, max_size=20), st.integers(0, 10**18 - 1), st.binary(min_size=32, max_size=32))
def test_head_round_trip(origin, size, root):
    """A signed head is read back."""
    head = TreeHead(origin, size, root)
    assert TreeHead.parse(head.text) == head
    assert open_head(sign_head(head, SIGNER), SIGNER.verifier, origin=origin) == head


B64 = base64.b64encode(ROOT).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"o\n+1\n{B64}\n", f"o\n01\n{B64}\n", f"o\n1_0\n{B64}\n", f"o\n-1\n{B64}\n", f"o\n٣\n{B64}\n", f"o\n 1\n{B64}\n",
        f"o\n{'9' * 19}\n{B64}\n", f"o\n\n{B64}\n", f"\n1\n{B64}\n", f"o o\n1\n{B64}\n", f"o\n1\n{B64}", f"o\n1\n{B64[:-1]}\n",
        f"o\n1\n{B64}\nextension\n", f"o\n1\n{base64.b64encode(ROOT[:31]).decode()}\n", "o\n1\n", "", f"o\r\n1\r\n{B64}\r\n",
    ],
)  # fmt: skip
def test_heads_by_exact_grammar(text):
    """Signs, leading zeros, other digits, extension lines and short roots are refused."""
    with pytest.raises(AuditError):
        TreeHead.parse(text)


def test_a_head_of_another_log_is_refused():
    """A head under the right key but with another origin is not the log that was asked for."""
    with pytest.raises(AuditError, match="not of"):
        open_head(sign_head(HEAD, SIGNER), SIGNER.verifier, origin="example.org/other")


def test_too_many_signatures_or_bytes():
    """A note with more than a hundred signatures, or 64 KiB, is not read."""
    line = b"\xe2\x80\x94 x AAAAAAA=\n"
    assert len(parse_note(b"x\n\n" + line * 100).signatures) == 100
    for data in (b"x\n\n" + line * 101, b"x" * (1 << 16) + b"\n\n" + line):
        with pytest.raises(AuditError, match="at most"):
            parse_note(data)


ENTRIES = [b"entry %d" % number for number in range(42)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]


def proof_of(index):
    """Prove one of the 42 entries."""
    head = sign_head(TreeHead("example.org/run", 42, tree_hash(LEAVES)), SIGNER)
    hashes = inclusion_proof(index, 42, lambda level, at: tree_hash(LEAVES[at << level : (at + 1) << level]))
    return LogProof(index, tuple(hashes), head)


@given(st.integers(0, 41), st.integers(0, 41))
def test_proof_file_round_trip_and_meaning(index, other):
    """A proof file is read back, and shows its own entry to be logged and no other."""
    proof = LogProof.parse(proof_of(index).encode())
    assert proof == proof_of(index)
    assert proof.verify(ENTRIES[index], SIGNER.verifier, origin="example.org/run").size == 42
    if other != index:
        with pytest.raises(AuditError):
            proof.verify(ENTRIES[other], SIGNER.verifier)
    with pytest.raises(AuditError):
        proof.verify(ENTRIES[index], WITNESS.verifier)


@given(st.data())
def test_every_changed_byte_of_a_proof_is_seen(data):
    """No byte of a proof file can be changed unnoticed."""
    raw = proof_of(17).encode()
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
    with pytest.raises(AuditError):
        LogProof.parse(changed).verify(ENTRIES[17], SIGNER.verifier)


@pytest.mark.parametrize(
    "data",
    [b"", b"c2sp.org/tlog-proof@v1\n\n", b"c2sp.org/tlog-proof@v1\nindex 01\n\nx", b"c2sp.org/tlog-proof@v1\nindex 1\nA\n\nx",
     b"c2sp.org/tlog-proof@v1\nindex 1\n" + b"AA==\n" * 64 + b"\nx", b"x" * 200_000, b"\xff\n\n"],
)  # fmt: skip
def test_malformed_proof_files(data):
    """Whatever is not a tlog-proof file is an AuditError."""
    with pytest.raises(AuditError):
        LogProof.parse(data).verify(b"", SIGNER.verifier)
