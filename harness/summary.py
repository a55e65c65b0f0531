"""Authorisations as SLSA Verification Summaries v1: what any reader of in-toto statements can match weights by.

See https://slsa.dev/spec/v1.1/verification_summary. All but `authorisation` follows from that member, and is checked
to (FORMAT §5.7).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import AuditError

TYPE = "https://slsa.dev/verification_summary/v1"
KIND = "authorised"


def predicate(origin: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of an authorisation in the log `origin`; `body` has `time`, `version`, `policies`, `evidence`."""
    return {
        "verifier": {"id": f"urn:lockgate:log:{origin}"},
        "timeVerified": body["time"],
        "resourceUri": f"urn:lockgate:model:{origin}:{body.get('version')}",
        "policy": {"uri": "urn:lockgate:policies", "digest": {"sha256": _hexadecimal(body, "policies")}},
        "inputAttestations": [
            {"uri": "urn:lockgate:evidence", "digest": {"sha256": _hexadecimal(body, "evidence")}},
        ],
        "verificationResult": "PASSED",
        "verifiedLevels": ["LOCKGATE_GATES_V1"],
        "authorisation": {name: value for name, value in body.items() if name != "time"},
    }


def body(origin: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The authorisation in a summary; AuditError where a member does not follow from it."""
    inner = summary.get("authorisation")
    if not isinstance(inner, dict) or "time" in inner or type(inner.get("version")) is not int:
        raise AuditError("a summary without an authorisation", clause="§5.7")
    whole = {"time": summary.get("timeVerified"), **inner}
    if predicate(origin, whole) != summary:
        raise AuditError("the summary does not follow from the authorisation in it", clause="§5.7")
    return whole


def _hexadecimal(body: Mapping[str, Any], name: str) -> str:
    return str(body.get(name)).removeprefix("sha256:")
