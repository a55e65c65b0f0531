"""Sealed entries: a DSSE envelope over an in-toto Statement v1.

    {"payload": base64(statement), "payloadType": "application/vnd.in-toto+json",
     "signatures": [{"keyid": "sha256:…", "sig": base64(64 bytes)}]}

    {"_type": "https://in-toto.io/Statement/v1", "predicateType": "urn:lockgate:entry:v1:KIND",
     "subject": [{"name": …, "digest": {"sha256": …}}], "predicate": {"time": …, …}}

Rules. An envelope has exactly one signature, over the pre-authentication encoding of its exact payload
bytes; nothing is canonicalised to verify. The payload is parsed only after its signature verified. The
same form carries what the supervisor logs and what people sign. An entry fits a tile: 65,535 bytes;
what is larger belongs in a blob that a subject or the body names by digest.

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

from harness.canonical import Json, canonical_bytes, decode_base64, digest_json, parse_json
from harness.errors import AuditError, CanonicalError
from harness.keys import Signer, Verifier

__all__ = ["MAX_ENTRY", "Entry", "key_hint", "now", "pae", "seal", "unseal"]

MAX_ENTRY = 65_535
"""The most bytes that an entry may have: tlog-tiles puts a uint16 before it."""

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "urn:lockgate:entry:v1:"
_KIND = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|\+00:00)", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)

# A Statement must have a subject. An entry about nothing but itself (a halt, say) has its own body as the
# subject, under this name, which is reserved for that.
_SELF = "body"


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


def seal(kind: str, body: Mapping[str, Any], subjects: Mapping[str, str], signer: Signer) -> bytes:
    """Return the bytes of an entry: `body` (a JSON object) about `subjects` (name → digest), signed.

    `time` is added to the body unless it has one; with one, the result depends on the arguments alone.
    Raises AuditError when a part is malformed, or the entry has more than MAX_ENTRY bytes.
    """
    predicate = {**body} if "time" in body else {"time": now(), **body}
    _check_parts(kind, predicate, subjects)
    try:
        named = subjects or {_SELF: digest_json(predicate)}
        payload = canonical_bytes(
            {
                "_type": _STATEMENT_TYPE,
                "predicateType": _PREDICATE_TYPE + kind,
                "subject": [
                    {"name": name, "digest": {"sha256": named[name].removeprefix("sha256:")}} for name in sorted(named)
                ],
                "predicate": predicate,
            }
        )
    except CanonicalError as error:
        raise AuditError(f"the entry cannot be written: {error}", where=kind) from error
    raw = canonical_bytes(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {
                    "keyid": signer.verifier.key_digest,
                    "sig": base64.b64encode(signer.sign(pae(PAYLOAD_TYPE, payload))).decode(),
                }
            ],
        }
    )
    if len(raw) > MAX_ENTRY:
        raise AuditError(
            f"an entry of {len(raw)} bytes, where {MAX_ENTRY} fit", where=kind, remedy="put the bulk into a blob"
        )
    return raw


def unseal(raw: bytes, verifier: Verifier) -> Entry:
    """Verify an envelope by `verifier` and read it; raises AuditError for any byte out of place."""
    payload, _, signature = _open(raw)
    verifier.verify(pae(PAYLOAD_TYPE, payload), signature)
    try:
        statement = parse_json(payload, max_bytes=MAX_ENTRY)
    except CanonicalError as error:
        raise AuditError(f"the payload is not JSON: {error}") from error
    match statement:
        case {
            "_type": str(kind_of_statement),
            "predicateType": str(predicate_type),
            "subject": list(listed),
            "predicate": dict(body),
            **rest,
        } if not rest and kind_of_statement == _STATEMENT_TYPE and predicate_type.startswith(_PREDICATE_TYPE):
            kind = predicate_type.removeprefix(_PREDICATE_TYPE)
        case _:
            raise AuditError("not an in-toto Statement v1 of this project's kinds")
    subjects = _subjects(listed)
    if _SELF in subjects:
        try:
            own = digest_json(body)
        except CanonicalError as error:  # a number that no canonical text holds
            raise AuditError(f"the body has no digest: {error}") from error
        if subjects != {_SELF: own}:
            raise AuditError("the subject `body` is not the digest of the body")
        subjects = {}
    _check_parts(kind, body, subjects)
    return Entry(kind, body, subjects)


def key_hint(raw: bytes) -> str:
    """Return the digest of the key that the envelope claims was used: to find a verifier, never to trust one."""
    return _open(raw)[1]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that a DSSE signature covers (DSSE v1 §Pre-Authentication Encoding)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _open(raw: bytes) -> tuple[bytes, str, bytes]:
    """Take an envelope apart: payload, key id, signature; nothing is verified."""
    try:
        envelope = parse_json(raw, max_bytes=MAX_ENTRY)
    except CanonicalError as error:
        raise AuditError(f"not a DSSE envelope: {error}") from error
    match envelope:
        case {
            "payload": str(payload),
            "payloadType": str(payload_type),
            "signatures": [{"keyid": str(keyid), "sig": str(signature), **others}],
            **rest,
        } if not rest and not others and payload_type == PAYLOAD_TYPE:
            try:
                return decode_base64(payload), keyid, decode_base64(signature)
            except CanonicalError as error:
                raise AuditError(f"not a DSSE envelope: {error}") from error
        case _:
            raise AuditError(f"not a DSSE envelope with one signature over {PAYLOAD_TYPE}")


def _subjects(listed: list[Json]) -> dict[str, str]:
    subjects: dict[str, str] = {}
    for item in listed:
        match item:
            case {"name": str(name), "digest": {"sha256": str(hexadecimal), **others}, **rest} if (
                not rest and not others and name not in subjects and _HEX.fullmatch(hexadecimal)
            ):
                subjects[name] = f"sha256:{hexadecimal}"
            case _:
                raise AuditError("a subject that is not a name of its own with one SHA-256 digest")
    if not subjects:
        raise AuditError("a Statement without a subject")
    return subjects


def _check_parts(kind: str, body: Mapping[str, Any], subjects: Mapping[str, str]) -> None:
    if len(kind) > 64 or not _KIND.fullmatch(kind):
        raise AuditError(f"{kind[:80]!a} is no kind of entry")
    time = body.get("time")
    if not isinstance(time, str) or not _TIME.fullmatch(time):
        raise AuditError("`time` is not ISO 8601 in UTC, such as 2026-01-31T23:59:59Z", where=kind)
    try:
        datetime.fromisoformat(time)
    except ValueError as error:
        raise AuditError(f"`time` is no time: {time}", where=kind) from error
    for name, value in subjects.items():
        if not name or name == _SELF or not isinstance(value, str) or not _DIGEST.fullmatch(value):
            raise AuditError(f"the subject {name[:80]!a} needs a digest, and a name other than `{_SELF}`", where=kind)
