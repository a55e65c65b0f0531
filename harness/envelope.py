"""Sealed entries: a DSSE envelope over an in-toto Statement v1 (audits/FORMAT.md §5).

    {"payload": base64(statement), "payloadType": "application/vnd.in-toto+json",
     "signatures": [{"keyid": "sha256:…", "sig": base64(64 bytes)}]}

    {"_type": "https://in-toto.io/Statement/v1", "predicateType": "urn:lockgate:entry:v1:KIND",
     "subject": [{"name": …, "digest": {"sha256": …}}], "predicate": {"time": …, …}}

Rules. A signature is over the pre-authentication encoding of the exact payload bytes; nothing is
canonicalised to verify. The payload is parsed only after its signature verified. There is one signature, by
the key in force; a rotation alone has two, by the key in force and by the one that follows it. An entry
fits a tile: 65,535 bytes; what is larger belongs in a blob that a subject or the body names by digest.

`keyid` is the digest of the key material. It is a hint for finding the verifier, never evidence: the
verifier is the caller's, and comes from outside.

Not covered: thresholds of several signers (each signs an envelope of their own; count `key_digest`s).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from harness import summary
from harness.canonical import Json, canonical_bytes, decode_base64, digest, parse_json
from harness.errors import AuditError, CanonicalError, KeyFileError
from harness.keys import Signer, Verifier

__all__ = ["MAX_ENTRY", "ROTATION", "Entry", "key_hint", "now", "pae", "seal", "unseal"]

MAX_ENTRY = 65_535
"""The most bytes that an entry may have: tlog-tiles puts a uint16 before it."""

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "urn:lockgate:entry:v1:"
_KIND = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|\+00:00)", re.ASCII
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)

# The members of each part, which has no others.
_ENVELOPE = {"payload", "payloadType", "signatures"}
_SIGNATURE = {"keyid", "sig"}
_STATEMENT = {"_type", "predicateType", "subject", "predicate"}
_SUBJECT = {"name", "digest"}
_DIGESTS = {"sha256"}

# An envelope as `seal` writes it, with one signature. No escape and no byte beyond ASCII fits it, so that these very
# bytes are what JSON says: it saves parsing each of them.
_USUAL = re.compile(
    rb'\{"payload":"([A-Za-z0-9+/=]*)","payloadType":"application/vnd\.in-toto\+json",'
    rb'"signatures":\[\{"keyid":"([0-9a-z:]*)","sig":"([A-Za-z0-9+/=]*)"\}\]\}'
)

ROTATION = "key-rotated"
"""The one kind with two signatures; its body names the verifier key that follows as `new` (FORMAT §5.4)."""

# A Statement must have a subject. An entry about nothing else is about its run, by the digest of the log's origin,
# which is the name that every key of the log bears.
_RUN = "run"


@dataclass(frozen=True)
class Entry:
    """What an envelope says: its kind, its body (with `time`), and the digests of what it is about."""

    kind: str
    body: dict[str, Any]
    subjects: dict[str, str]

    @property
    def time(self) -> str:
        """When it was sealed, by the signer's clock: ISO 8601, UTC."""
        return str(self.body["time"])


def now() -> str:
    """Return the present as entries write it: ISO 8601, UTC, microseconds, `Z`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seal(kind: str, body: Mapping[str, Any], subjects: Mapping[str, str], *signers: Signer) -> bytes:
    """Return the bytes of an entry: `body` (a JSON object) about `subjects` (name → digest), signed.

    `time` is added to the body unless it has one; with one, the result depends on the arguments alone. There is
    one signer, and for a rotation the new one after it.
    Raises AuditError when a part is malformed, or the entry has more than MAX_ENTRY bytes.
    """
    if len(signers) != (2 if kind == ROTATION else 1):
        raise AuditError(f"{len(signers)} signers", where=kind, clause="§5.3")
    origin = signers[0].name
    timed = {**body} if "time" in body else {"time": now(), **body}
    _check_parts(kind, timed, subjects)
    named = subjects or {_RUN: digest(origin.encode())}
    try:
        payload = canonical_bytes(
            {
                "_type": _STATEMENT_TYPE,
                "predicateType": summary.TYPE if kind == summary.KIND else _PREDICATE_TYPE + kind,
                "subject": [
                    {"name": name, "digest": {"sha256": named[name].removeprefix("sha256:")}} for name in sorted(named)
                ],
                "predicate": summary.predicate(origin, timed) if kind == summary.KIND else timed,
            }
        )
    except CanonicalError as error:
        raise AuditError(f"the entry cannot be written: {error}", where=kind) from error
    message = pae(PAYLOAD_TYPE, payload)
    raw = canonical_bytes(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {"keyid": signer.verifier.key_digest, "sig": base64.b64encode(signer.sign(message)).decode()}
                for signer in signers
            ],
        }
    )
    if len(raw) > MAX_ENTRY:
        raise AuditError(
            f"an entry of {len(raw)} bytes, where {MAX_ENTRY} fit",
            where=kind,
            remedy="put the bulk into a blob",
            clause="§5.1",
        )
    return raw


def unseal(raw: bytes, verifier: Verifier) -> Entry:
    """Verify an envelope by `verifier`, the key in force, and read it; raises AuditError for any byte out of place."""
    payload, signatures = _open(raw)
    message = pae(PAYLOAD_TYPE, payload)
    try:
        verifier.verify(message, signatures[0][1])
    except AuditError as error:
        raise AuditError(error.message, clause="§5.3") from error
    try:
        statement = parse_json(payload, max_bytes=MAX_ENTRY)
    except CanonicalError as error:
        raise AuditError(f"the payload is not JSON: {error}", clause="§1.2") from error
    if not isinstance(statement, dict) or statement.keys() != _STATEMENT or statement["_type"] != _STATEMENT_TYPE:
        raise AuditError("not an in-toto Statement v1", clause="§5.5")
    predicate_type, listed, body = statement["predicateType"], statement["subject"], statement["predicate"]
    if not (isinstance(predicate_type, str) and isinstance(listed, list) and isinstance(body, dict)):
        raise AuditError("not an in-toto Statement v1", clause="§5.5")
    if predicate_type == summary.TYPE:
        kind, body = summary.KIND, summary.body(verifier.name, body)
    elif predicate_type.startswith(_PREDICATE_TYPE) and predicate_type != _PREDICATE_TYPE + summary.KIND:
        kind = predicate_type.removeprefix(_PREDICATE_TYPE)
    else:
        raise AuditError("a predicate that is not of this project's kinds", clause="§5.6")
    subjects = _subjects(listed)
    if _RUN in subjects:
        if subjects != {_RUN: digest(verifier.name.encode())}:
            raise AuditError("the subject `run` is not the log's origin", clause="§5.8")
        subjects = {}
    _check_parts(kind, body, subjects)
    _check_successor(kind, body, message, signatures)
    return Entry(kind, body, subjects)


def _check_successor(kind: str, body: Mapping[str, Any], message: bytes, signatures: list[tuple[str, bytes]]) -> None:
    """A rotation is signed by the key that it names, too; nothing else has a second signature."""
    if len(signatures) != (2 if kind == ROTATION else 1):
        raise AuditError(f"{len(signatures)} signatures", clause="§5.3")
    if kind == ROTATION:
        if not isinstance(body.get("new"), str):
            raise AuditError("a rotation that names no new key", clause="§6")
        try:
            Verifier.parse(str(body.get("new"))).verify(message, signatures[1][1])
        except (KeyFileError, AuditError) as error:
            raise AuditError(f"the new key has not signed its rotation: {error}", clause="§5.4") from error


def key_hint(raw: bytes) -> str:
    """Return the digest of the key that the envelope claims was used: to find a verifier, never to trust one."""
    return _open(raw)[1][0][0]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that a DSSE signature covers (DSSE v1 §Pre-Authentication Encoding)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _open(raw: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Take an envelope apart: payload, and (key id, signature) of each signer; nothing is verified."""
    try:
        if len(raw) <= MAX_ENTRY and (usual := _USUAL.fullmatch(raw)):
            payload, keyid, signature = (part.decode("ascii") for part in usual.groups())
            return decode_base64(payload), [(keyid, decode_base64(signature))]
        envelope = parse_json(raw, max_bytes=MAX_ENTRY)
        if isinstance(envelope, dict) and envelope.keys() == _ENVELOPE and envelope["payloadType"] == PAYLOAD_TYPE:
            inner, signatures = envelope["payload"], envelope["signatures"]
            if isinstance(inner, str) and isinstance(signatures, list) and 1 <= len(signatures) <= 2:
                return decode_base64(inner), [_signature(each) for each in signatures]
    except CanonicalError as error:
        raise AuditError(f"not a DSSE envelope: {error}", clause="§5.1") from error
    raise AuditError(f"not a DSSE envelope over {PAYLOAD_TYPE}", clause="§5.1")


def _signature(value: Json) -> tuple[str, bytes]:
    if isinstance(value, dict) and value.keys() == _SIGNATURE:
        keyid, signature = value["keyid"], value["sig"]
        if isinstance(keyid, str) and isinstance(signature, str):
            return keyid, decode_base64(signature)
    raise AuditError("a signature is `keyid` and `sig`", clause="§5.1")


def _subjects(listed: list[Json]) -> dict[str, str]:
    subjects = dict(map(_subject, listed))
    if len(subjects) != len(listed):
        raise AuditError("two subjects of one name", clause="§5.8")
    if not subjects:
        raise AuditError("a Statement without a subject", clause="§5.8")
    return subjects


def _subject(value: Json) -> tuple[str, str]:
    if isinstance(value, dict) and value.keys() == _SUBJECT:
        name, digests = value["name"], value["digest"]
        if isinstance(name, str) and isinstance(digests, dict) and digests.keys() == _DIGESTS:
            hexadecimal = digests["sha256"]
            if isinstance(hexadecimal, str) and _HEX.fullmatch(hexadecimal):
                return name, f"sha256:{hexadecimal}"
    raise AuditError("a subject that is not a name with one SHA-256 digest", clause="§5.8")


def _check_parts(kind: str, body: Mapping[str, Any], subjects: Mapping[str, str]) -> None:
    if len(kind) > 64 or not _KIND.fullmatch(kind):
        raise AuditError(f"{kind[:80]!a} is no kind of entry", clause="§6")
    time = body.get("time")
    if not isinstance(time, str) or not _TIME.fullmatch(time):
        raise AuditError("`time` is not ISO 8601 in UTC, such as 2026-01-31T23:59:59Z", where=kind, clause="§6")
    try:
        datetime.fromisoformat(time)
    except ValueError as error:
        raise AuditError(f"`time` is no time: {time}", where=kind, clause="§6") from error
    for name, value in subjects.items():
        if not name or name == _RUN or not isinstance(value, str) or not _DIGEST.fullmatch(value):
            raise AuditError(
                f"the subject {name[:80]!a} needs a digest, and a name other than `{_RUN}`", where=kind, clause="§5.8"
            )
