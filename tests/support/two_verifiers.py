"""The two verifiers in one process, side by side, and logs of any entries written at once: for facts about both.

Signatures are pure functions of key, message and signature: within one test session each is verified once.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.auditing import verify_run
from harness.errors import AuditError, KeyFileError, StateError
from harness.folder import RunFolder
from harness.keys import Signer, Verifier
from harness.merkle import leaf_hash, tree_hash
from harness.notes import TreeHead, sign_head

ROOT = Path(__file__).parent.parent.parent


def load(path: Path) -> Any:
    """Import a script by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    made = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = made
    spec.loader.exec_module(made)
    return made


verifier = load(ROOT / "audits" / "verify.py")


@contextlib.contextmanager
def remembered():
    """Let neither verifier check the same signature over the same bytes by the same key twice."""
    ours, theirs = Verifier.verify, verifier.verified
    kept: dict[bytes, AuditError | None] = {}

    def verify(self: Verifier, message: bytes, signature: bytes) -> None:
        name = hashlib.sha256(self.key + len(message).to_bytes(8, "big") + message + signature).digest()
        if name not in kept:
            try:
                kept[name] = ours(self, message, signature)
            except AuditError as error:
                kept[name] = error
        if kept[name] is not None:
            raise AuditError(kept[name].message)

    Verifier.verify, verifier.verified = verify, functools.lru_cache(1 << 16)(theirs)
    try:
        yield
    finally:
        Verifier.verify, verifier.verified = ours, theirs


@dataclass(frozen=True)
class Answer:
    """What a verifier says: exit code, verdict, first bad entry, clause, and everything that it says it verified."""

    code: int
    verdict: str
    entry: int | None = None
    clause: str | None = None
    told: str = field(default="", compare=False)
    content: tuple[Any, ...] = ()


CONTENT = ("size", "root", "origin", "live", "promotions", "fresh")


def by_script(run: Path, *arguments: str) -> Answer:
    """What audits/verify.py says; any exception but its own passes through, as a traceback would."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = verifier.main([str(run), *arguments, "--json"])
    report = json.loads(out.getvalue())
    content = tuple(report.get(name) for name in CONTENT)
    return Answer(code, report["verdict"], report.get("entry"), report.get("clause"), report["summary"], content)


def by_harness(
    run: Path, key: Path | None, *, log_only: bool = False, approvers: Path | None = None, **freshness: Any
) -> Answer:
    """What verify_run says; any exception but its own passes through."""
    try:
        report = verify_run(RunFolder(run), key, log_only=log_only, approvers=approvers, **freshness)
    except (AuditError, StateError) as error:
        place = (error.where or "").removeprefix("entry ")
        return Answer(5, "invalid", int(place) if place.isdecimal() else None, error.clause, str(error), (None,) * 6)
    except KeyFileError as error:
        return Answer(1, "error", told=str(error))
    code = 6 if report["verdict"] == "identity unproven" else 0
    return Answer(code, report["verdict"], told=report["summary"], content=tuple(report[name] for name in CONTENT))


def encode(value: Any) -> bytes:
    """JSON as it comes, in no special form."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def envelope(statement: bytes, signers: Sequence[Signer]) -> dict[str, Any]:
    """A DSSE envelope over these bytes, whatever they say."""
    kind = b"application/vnd.in-toto+json"
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(statement), statement)
    return {
        "payload": base64.b64encode(statement).decode(),
        "payloadType": kind.decode(),
        "signatures": [
            {"keyid": each.verifier.key_digest, "sig": base64.b64encode(_sign(each, message)).decode()}
            for each in signers
        ],
    }


@functools.lru_cache(1 << 16)
def _sign(signer: Signer, message: bytes) -> bytes:
    return signer.sign(message)


def write_entries(run: Path, raws: Sequence[bytes], signer: Signer, origin: str) -> None:
    """Write the log of at most 255 entries: head, one tile, one bundle; nothing of it is made durable."""
    leaves = [leaf_hash(raw) for raw in raws]
    for part, data in (
        ("0", b"".join(leaves)),
        ("entries", b"".join(len(raw).to_bytes(2, "big") + raw for raw in raws)),
    ):
        folder = run / "log" / "tile" / part / "000.p"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        (folder / str(len(raws))).write_bytes(data)
    (run / "log" / "checkpoint").write_bytes(sign_head(TreeHead(origin, len(raws), tree_hash(leaves)), signer))


def in_memory() -> str | None:
    """A folder in memory, where there is one: thousands of small files, none of which need last."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
