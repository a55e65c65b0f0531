"""One entry of a trail in full, and rows of entries, read at random: what `audit show` and `audit diff` print.

An entry is shown when it is in the tree that a key of the log signed, and bears the signature of a key of the log. That
it was legal where it stands, and signed by the key then in force, takes every entry before it: `auditing` reads them.
The keys are those beside the log, so whose trail this is remains unproven here too.

What an entry says may be a stranger's words. It is shown as text in which nothing acts (`plain`).
"""

from __future__ import annotations

import json
from typing import Any

from harness.artifacts import BlobStore
from harness.entries import Entry
from harness.envelope import key_hint, unseal
from harness.errors import ArtifactError, AuditError, ConfigError
from harness.folder import RunFolder
from harness.keys import Verifier, VerifierChain
from harness.kinds import blob_digests, kind_of, read_entry
from harness.logreader import LogReader
from harness.merkle import leaf_hash, verify_inclusion
from harness.plain import plain, plain_lines
from harness.trail import told

__all__ = ["entry_page", "entry_row", "page_text", "row_text"]


def entry_page(folder: RunFolder, index: int) -> dict[str, Any]:
    """Everything about one entry, its place in the tree checked; AuditError, and ConfigError where there is none."""
    chain = VerifierChain.load(folder.public_key)
    reader = LogReader.open(folder.log, chain)
    if not 0 <= index < reader.size:
        raise ConfigError(f"no entry {index}", where=str(folder.root), remedy=f"there are 0 to {reader.size - 1}")
    raw = next(iter(reader.read(index, index + 1)))
    leaf, proof = leaf_hash(raw), reader.inclusion_proof(index)
    verify_inclusion(leaf, index, reader.size, proof, reader.root)
    entry, subjects, signer = _read(raw, chain, index)
    return {
        **_row(index, entry),
        "subjects": subjects,
        "signer": {"name": signer.name, "key": signer.key_digest, "place": chain.index(signer)},
        "leaf": leaf.hex(),
        "proof": {"size": reader.size, "root": reader.root.hex(), "hashes": [each.hex() for each in proof]},
        "blobs": _blobs(entry, BlobStore(folder.blobs)),
        "bytes": len(raw),
    }


def entry_row(raw: bytes, chain: VerifierChain, index: int) -> dict[str, Any]:
    """One entry in words. One that cannot be read has a `problem` instead, so that the others are still told."""
    try:
        return _row(index, _read(raw, chain, index)[0])
    except AuditError as error:
        return {"index": index, "time": "", "kind": "?", "text": "", "body": None, "problem": plain(error.message)}


def row_text(row: dict[str, Any]) -> str:
    """A row as a line."""
    return f"{row['index']:>5}  {row['time'][:19]:<19}  {row['kind']:<12} {row.get('problem') or row['text']}"


def page_text(page: dict[str, Any]) -> str:
    """The page for a person, as lines in which nothing acts."""
    proof, signer = page["proof"], page["signer"]
    lines = [
        f"entry {page['index']} of {proof['size']}: {page['kind']}, at {page['time']}",
        f"  {page['text']}",
        f"signed by {plain(signer['name'])}, key {signer['key']} (no. {signer['place'] + 1} of the log)",
        f"leaf {page['leaf']}, in the tree under root {proof['root']}: {len(proof['hashes'])} hashes lead there",
        "about",
        *(f"  {plain(name)}  {digest}" for name, digest in page["subjects"].items()),
        "body",
        *(f"  {line}" for line in _pretty(page["body"])),
        "blobs" if page["blobs"] else "no blobs",
        *(f"  {blob['digest']}  {blob['state']:<8} {', '.join(blob['names'])}" for blob in page["blobs"]),
    ]
    return "\n".join(lines)


def _pretty(body: Any) -> list[str]:
    return plain_lines(json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False)).split("\n")


def _row(index: int, entry: Entry) -> dict[str, Any]:
    return {
        "index": index,
        "time": entry.time,
        "kind": kind_of(entry),
        "text": plain(told(entry), 4000),
        "body": entry.json_value(),
    }


def _read(raw: bytes, chain: VerifierChain, index: int) -> tuple[Entry, dict[str, str], Verifier]:
    """An entry, what it is about, and which key of the log signed it; AuditError names it."""
    try:
        signer = chain.find(key_hint(raw))
        sealed = None if signer is None else unseal(raw, signer)
    except AuditError as error:
        raise AuditError(error.message, where=f"entry {index}", clause=error.clause) from error
    if signer is None or sealed is None:
        raise AuditError("signed by no key of the log", where=f"entry {index}", clause="§5.3")
    return read_entry(sealed.kind, sealed.body, index), sealed.subjects, signer


def _blobs(entry: Entry, store: BlobStore) -> list[dict[str, Any]]:
    """Each blob that the entry names, by which of its members, and whether it is there, hashed again."""
    names: dict[str, list[str]] = {digest: [] for digest in sorted(blob_digests(entry))}
    body = entry.json_value()
    for above in ("", "candidate", "baseline"):
        members = body.get(above) if above else body
        for name, value in members.items() if isinstance(members, dict) else ():
            if isinstance(value, str) and value in names:
                names[value].append(f"{above}.{name}" if above else name)
    return [{"digest": digest, "names": by, **_state(digest, store)} for digest, by in names.items()]


def _state(digest: str, store: BlobStore) -> dict[str, Any]:
    try:
        if not store.has(digest):
            return {"state": "missing", "bytes": None}
        return {"state": "there", "bytes": store.check(digest)}
    except (ArtifactError, OSError):
        return {"state": "damaged", "bytes": None}
