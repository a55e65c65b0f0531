"""Facts about sealed entries."""

from __future__ import annotations

import base64
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import envelope as dsse
from harness.canonical import digest
from harness.envelope import MAX_ENTRY, Entry, key_hint, now, pae, seal, unseal
from harness.errors import AuditError
from harness.keys import Signer

SIGNER = Signer.from_seed("example.org/run", bytes(32))
TIME = "2026-01-31T23:59:59.123456Z"
ABOUT = {"candidate": digest(b"c")}
TYPE = "application/vnd.in-toto+json"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
bodies = st.dictionaries(texts, st.none() | st.booleans() | st.integers(-99, 99) | texts | st.lists(texts, max_size=3))
subjects = st.dictionaries(texts.filter(lambda name: name and name != "run"), st.binary().map(digest), max_size=3)


def signed(statement, payload_type=TYPE):
    """Put any bytes into an envelope and sign them with the right key."""
    payload = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
    signature = {"keyid": "x", "sig": base64.b64encode(SIGNER.sign(pae(payload_type, payload))).decode()}
    envelope = {
        "payload": base64.b64encode(payload).decode(), "payloadType": payload_type, "signatures": [signature],
    }  # fmt: skip
    return json.dumps(envelope).encode()


def statement(**changes):
    """Make a well-formed Statement, with changes."""
    whole = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "urn:lockgate:entry:v1:built",
        "subject": [{"name": "candidate", "digest": {"sha256": "0" * 64}}],
        "predicate": {"time": TIME},
    }
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def test_pae_vector():
    """The pre-authentication encoding is that of the DSSE specification's example."""
    assert (
        pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(st.from_regex(r"[a-z]{1,8}(-[a-z0-9]{1,5}){0,2}", fullmatch=True), bodies, subjects)
def test_round_trip(kind, body, about):
    """What is sealed is unsealed: kind, body and subjects."""
    body = {**body, "time": TIME}
    assert unseal(seal(kind, body, about, SIGNER), SIGNER.verifier) == Entry(kind, body, about)


def test_another_implementation_verifies_the_envelope():
    """The library securesystemslib reads the envelope and verifies its signature under the same key."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    raw = seal("built", {"a": 1}, ABOUT, SIGNER)
    envelope = Envelope.from_dict(json.loads(raw))
    key = SSlibKey(SIGNER.verifier.key_digest, "ed25519", "ed25519", {"public": SIGNER.verifier.key.hex()})
    assert list(envelope.verify([key], 1)) == [SIGNER.verifier.key_digest]
    written = json.loads(envelope.payload)
    assert written["_type"] == "https://in-toto.io/Statement/v1"
    assert written["subject"] == [{"name": "candidate", "digest": {"sha256": ABOUT["candidate"][7:]}}]


def test_an_entry_about_nothing_is_about_its_run():
    """A Statement has a subject always; of an entry without one it is the log's origin, and comes back as none."""
    raw = seal("halted", {"time": TIME}, {}, SIGNER)
    written = json.loads(base64.b64decode(json.loads(raw)["payload"]))
    assert written["subject"] == [{"name": "run", "digest": {"sha256": digest(b"example.org/run")[7:]}}]
    assert unseal(raw, SIGNER.verifier).subjects == {}


def test_the_bytes_depend_on_the_arguments_alone():
    """With a time in the body, sealing again gives the same bytes; without, it gets the present."""
    assert seal("built", {"time": TIME}, ABOUT, SIGNER) == seal("built", {"time": TIME}, ABOUT, SIGNER)
    assert now()[:10] <= unseal(seal("built", {}, ABOUT, SIGNER), SIGNER.verifier).time[:10] <= now()[:10]


RAW = seal("built", {"time": TIME, "a": [1, 2]}, ABOUT, SIGNER)


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80])
def test_every_changed_byte_is_seen_or_is_a_hint(flip):
    """Each changed byte of an envelope is refused, but for those of `keyid`, which say nothing."""
    start = RAW.index(b'"keyid":"') + 9
    hint = range(start, start + 71)
    accepted = []
    for at in range(len(RAW)):
        try:
            assert unseal(RAW[:at] + bytes([RAW[at] ^ flip]) + RAW[at + 1 :], SIGNER.verifier) == unseal(
                RAW, SIGNER.verifier
            )
        except AuditError:
            continue
        accepted.append(at)
    assert set(accepted) <= set(hint)


@given(st.binary(max_size=200) | st.dictionaries(texts, texts).map(lambda x: json.dumps(x).encode()))
def test_only_audit_error_escapes(data):
    """Any bytes are an AuditError, as an envelope and as a signed payload."""
    for raw in (data, signed(data)):
        with pytest.raises(AuditError):
            unseal(raw, SIGNER.verifier)


@pytest.mark.parametrize(
    "changes",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"}, {"predicateType": "https://slsa.dev/provenance/v1"}, {"extra": 1},
        {"predicateType": "urn:lockgate:entry:v1:"}, {"predicateType": "urn:lockgate:entry:v1:Built"}, {"subject": []},
        {"predicateType": "urn:lockgate:entry:v1:a--b"}, {"predicate": []}, {"predicate": {}}, {"predicate": {"time": 1}},
        {"predicate": {"time": "2026-13-01T00:00:00Z"}}, {"predicate": {"time": "2026-01-01 00:00:00Z"}}, {"subject": None},
        {"predicate": {"time": "2026-01-01T00:00:00+01:00"}}, {"predicate": {"time": "\uff12026-01-01T00:00:00Z"}},
        {"subject": [{"name": "a", "digest": {"sha256": "0" * 63}}]}, {"subject": [{"name": "a", "digest": {}}]},
        {"subject": [{"name": "a", "digest": {"sha256": "A" * 64}}]}, {"subject": [{"name": "", "digest": {"sha256": "0" * 64}}]},
        {"subject": [{"name": "a", "digest": {"sha256": "0" * 64, "md5": "0"}}]}, {"subject": [1]}, {"subject": {}},
        {"subject": [{"name": "a", "digest": {"sha256": "0" * 64}}] * 2}, {"predicate": None},
        {"subject": [{"name": "run", "digest": {"sha256": "0" * 64}}]},
        {"predicateType": "urn:lockgate:entry:v1:authorised"}, {"predicateType": "urn:lockgate:entry:v1:key-rotated"},
    ],
)  # fmt: skip
def test_statements_of_another_shape(changes):
    """A rightly signed payload is refused when any part is missing, extra or malformed; the plain one is not."""
    assert unseal(signed(statement()), SIGNER.verifier).kind == "built"
    with pytest.raises(AuditError):
        unseal(signed(statement(**changes)), SIGNER.verifier)


def test_envelopes_of_another_shape():
    """Two signatures, none, another type, extra members, duplicates and loose base64 are refused."""
    plain = json.loads(RAW)
    one = plain["signatures"][0]
    shapes = [
        {**plain, "signatures": [one, one]}, {**plain, "signatures": []}, {**plain, "payloadType": "text/plain"},
        {**plain, "x": 1}, {**plain, "signatures": [{**one, "x": 1}]}, {**plain, "signatures": [{"sig": one["sig"]}]},
        {**plain, "payload": plain["payload"] + "\n"}, {**plain, "payload": None}, [plain],
    ]  # fmt: skip
    raws = [json.dumps(shape).encode() for shape in shapes]
    raws.append(RAW[:-1] + b',"payloadType":"' + TYPE.encode() + b'"}')
    raws.append(RAW + b" " * MAX_ENTRY)
    for raw in raws:
        with pytest.raises(AuditError):
            unseal(raw, SIGNER.verifier)


def opened(raw):
    """Take an envelope apart, or say that it is none."""
    try:
        return dsse._open(raw)
    except AuditError as error:
        return error.clause


@pytest.mark.parametrize("flip", [1, 2, 4, 8, 16, 32, 64, 128])
def test_an_envelope_as_it_is_written_is_read_as_json_reads_it(flip, monkeypatch):
    """With any byte changed, an envelope that was compared to its usual form is what the parser makes of it, or none."""
    raw = seal("built", {"time": "2026-01-01T00:00:00Z", "x": "y"}, {}, SIGNER)
    assert dsse._USUAL.fullmatch(raw)
    changed = [
        raw,
        b" " + raw,
        raw + b"\n",
        *(raw[:at] + bytes([raw[at] ^ flip]) + raw[at + 1 :] for at in range(len(raw))),
    ]
    usual = [opened(each) for each in changed]
    monkeypatch.setattr(dsse, "_USUAL", re.compile(rb"(?!)"))
    assert usual == [opened(each) for each in changed]
    assert {type(each) for each in usual} == {tuple, str}


def test_a_signature_over_another_type_does_not_count():
    """The payload type is signed too, so an envelope of another protocol is no entry."""
    raw = json.loads(signed(statement(), "text/plain"))
    with pytest.raises(AuditError):
        unseal(json.dumps({**raw, "payloadType": TYPE}).encode(), SIGNER.verifier)


def test_another_key_does_not_count():
    """An envelope that another key of the same name signed is refused; its hint tells which key claims it."""
    other = Signer.from_seed("example.org/run", b"\x01" * 32)
    raw = seal("built", {}, ABOUT, other)
    assert key_hint(raw) == other.verifier.key_digest
    with pytest.raises(AuditError, match="signature"):
        unseal(raw, SIGNER.verifier)


@pytest.mark.parametrize(
    ("kind", "body", "about"),
    [
        ("", {}, ABOUT), ("Built", {}, ABOUT), ("a" * 65, {}, ABOUT), ("a\n", {}, ABOUT), ("built", {"time": "now"}, ABOUT),
        ("built", {"x": float("nan")}, ABOUT), ("built", {"x": object()}, ABOUT), ("built", {}, {"a": "sha256:0"}),
        ("built", {}, {"": digest(b"")}), ("built", {}, {"run": digest(b"")}), ("built", {"x": "y" * MAX_ENTRY}, ABOUT),
        ("built", {}, {"a": digest(b"") + "\n"}),
    ],
)  # fmt: skip
def test_what_cannot_be_sealed(kind, body, about):
    """Malformed kinds, times, subjects and values, and entries that are too long, are AuditErrors."""
    with pytest.raises(AuditError):
        seal(kind, body, about, SIGNER)
