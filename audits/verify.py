#!/usr/bin/env python3
"""Verify the trail of a Lockgate run: what audits/FORMAT.md says, from that page alone.

    python verify.py RUN --key FILE [--head FILE] [--witness FILE --quorum K] [--max-age SECONDS]
                         [--since FILE] [--save FILE] [--log-only] [--json]

It needs Python 3.11 and the package `cryptography`; it shares no code with what writes runs. FILE of --key is your
own copy of a key of the log, kept outside the run: without it the best answer is `identity unproven`.

Exit codes (§11): 0 valid · 1 your own files cannot be read · 2 usage · 5 invalid · 6 identity unproven ·
7 valid, but not shown to be as fresh as you asked.

What it reads is hostile until a signature or a hash says otherwise: sizes are bounded before anything is read, no
link is followed, and whatever does not fit ends as one `Invalid`, which names the entry and the clause. The log is
streamed, at most 256 entries at a time; of proposals that came to their end nothing is kept.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import hashlib
import json
import math
import os
import re
import stat
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Never

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ENTRY, NOTE, BLOB = 65_535, 1 << 16, 16 << 20  # the most bytes of an entry, a note, and a blob that is parsed
WEIGHTS = 1 << 40
DAY, AHEAD = 86_400, 300  # §11.2, §11.3


class Invalid(Exception):  # noqa: N818 - it is a verdict
    """A MUST that is broken: the clause, what is wrong, and the entry, where it is one."""

    def __init__(self, clause: str, problem: str, entry: int | None = None) -> None:
        super().__init__(problem)
        self.clause, self.problem, self.entry = clause, problem, entry


class Unreadable(Exception):  # noqa: N818 - the reader's own files, not the run's
    """One of the reader's own files cannot be used."""


# -- §1 text, numbers, JSON -----------------------------------------------------------------------------------------

NUMBER = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
TIME = re.compile(r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|\+00:00)", re.ASCII)
STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def sha256(data: bytes) -> str:
    """The digest of bytes, as §1.3 writes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def number(text: str, clause: str) -> int:
    """A decimal number without sign or leading zero (§1.1)."""
    if not NUMBER.fullmatch(text):
        raise Invalid(clause, f"{text[:40]!a} is no decimal number")
    return int(text)


def unbase64(text: str, clause: str) -> bytes:
    """Base64 in its one form (§1.1)."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Invalid(clause, f"not base64: {text[:40]!a}") from None
    if base64.b64encode(data).decode() != text:
        raise Invalid(clause, "base64 that is not in its one form")
    return data


def strict_json(data: bytes, limit: int, clause: str) -> Any:
    """Read I-JSON (§1.2): bounded in bytes, then in depth, before the parser recurses."""
    if len(data) > limit:
        raise Invalid(clause, f"{len(data)} bytes of JSON, where at most {limit} are read")
    try:
        text = data.decode()
        if text.count("{") + text.count("[") > 32:
            check_depth(text)
        value = DECODER.decode(text)
        if "\\u" in text:  # only an escape can smuggle in a lone surrogate
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:
        raise Invalid(clause, "not UTF-8, or a lone surrogate") from None
    except (ValueError, RecursionError) as error:
        raise Invalid(clause, f"not I-JSON: {error}"[:200]) from None
    return value


def check_depth(text: str) -> None:
    """At most 32 deep; brackets in strings do not count."""
    depth = 0
    for character in STRING.sub("", text):
        depth += (character in "[{") - (character in "]}")
        if depth > 32:
            raise ValueError("nested too deeply")


def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without duplicate names."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def integer(text: str) -> int:
    """An integer that a double holds exactly."""
    if len(text) > 17 or not text.isascii() or abs(int(text)) > 2**53 - 1:
        raise ValueError("an integer beyond 2^53 - 1")
    return int(text)


def real(text: str) -> float:
    """A number that a double can hold."""
    if not text.isascii() or not math.isfinite(value := float(text)):
        raise ValueError("a number beyond the range of a double")
    return value


def constant(text: str) -> Never:
    """NaN and infinities are no JSON."""
    raise ValueError(f"{text} is no JSON number")


DECODER = json.JSONDecoder(parse_int=integer, parse_float=real, parse_constant=constant, object_pairs_hook=members)


def canonical(value: Any) -> str:
    """The form of RFC 8785."""
    if type(value) is dict:
        names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{canonical(name)}:{canonical(value[name])}" for name in names) + "}"
    if type(value) is list:
        return "[" + ",".join(map(canonical, value)) + "]"
    return shortest(value) if type(value) is float else json.dumps(value, ensure_ascii=False)


def shortest(value: float) -> str:
    """A number as ECMA-262 §6.1.6.1.20 prints it: the shortest digits that read back as it."""
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    text, point = "".join(map(str, digits)), len(digits) + int(exponent)
    if not value:
        return "0"
    if len(text) <= point <= 21:
        text = text.ljust(point, "0")
    elif 0 < point <= 21:
        text = f"{text[:point]}.{text[point:]}"
    elif -6 < point <= 0:
        text = "0." + "0" * -point + text
    else:
        text = f"{text[0]}{'.' if len(text) > 1 else ''}{text[1:]}e{point - 1:+}"
    return "-" * sign + text


def encoded(value: Any) -> bytes:
    """The bytes of that form."""
    return canonical(value).encode("utf-8", "surrogatepass")


def digested(value: Any) -> str:
    """The digest of those bytes (§1.3)."""
    return sha256(encoded(value))


def moment(text: Any) -> datetime | None:
    """A time (§1.4), or None where it is none."""
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(text) if type(text) is str and TIME.fullmatch(text) else None
    return None


def read(path: Path, limit: int, clause: str) -> bytes:
    """A regular file of at most `limit` bytes; links are not followed, and a pipe does not block."""
    try:
        return read_file(path, limit, clause)
    except (OSError, ValueError) as error:
        raise Invalid(clause, f"{path}: {getattr(error, 'strerror', None) or error}") from None


def read_file(path: Path, limit: int, clause: str) -> bytes:
    """The same; a missing file is an OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise Invalid(clause, f"{path}: not a regular file of at most {limit} bytes")
        return file.read(status.st_size)


def digest_of(path: Path, clause: str) -> str:
    """The digest of a file, however large, read in pieces."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Invalid(clause, f"{path}: not a regular file")
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except (OSError, ValueError) as error:
        raise Invalid(clause, f"{path}: {getattr(error, 'strerror', None) or error}") from None


# -- §2 keys --------------------------------------------------------------------------------------------------------

LOG_KEY, WITNESS_KEY = 0x01, 0x04
VKEY = re.compile(r"([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]{43,}={0,2})", re.ASCII)
P = 2**255 - 19
ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL = {0, 1, P - 1, ORDER_8, P - ORDER_8}  # y of the points of order 1, 2, 4, 8 (RFC 8032 §5.1)
PUBLIC: dict[bytes, Ed25519PublicKey] = {}


def is_name(name: str) -> bool:
    """What signed-note lets a key be called."""
    plain = name.isprintable() and not any(character.isspace() for character in name)
    return bool(name) and "+" not in name and plain and len(name.encode()) <= 255


def parse_key(line: str, kind: int, clause: str = "§2.1") -> tuple[str, bytes]:
    """A verifier key line: (name, 32 bytes)."""
    match = VKEY.fullmatch(line)
    material = unbase64(match[3], clause) if match else b""
    if match is None or not is_name(match[1]) or len(material) != 33 or material[0] != kind:
        raise Invalid(clause, f"not a verifier key of type 0x{kind:02x}: {line[:80]!a}")
    if key_id(match[1], material[1:], kind).hex() != match[2]:
        raise Invalid(clause, f"the key id does not belong to this key: {line[:80]!a}")
    y = int.from_bytes(material[1:], "little") & ((1 << 255) - 1)
    if y >= P or y in SMALL:
        raise Invalid(clause, "a key that anybody can sign for, or not in its one spelling")
    return match[1], material[1:]


def key_line(name: str, key: bytes) -> str:
    """The verifier key line of a key of the log."""
    return f"{name}+{key_id(name, key, LOG_KEY).hex()}+{base64.b64encode(bytes([LOG_KEY]) + key).decode()}"


def key_id(name: str, key: bytes, kind: int) -> bytes:
    """The four bytes before a signature in a note."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + key).digest()[:4]


def parse_keys(text: str, kind: int = LOG_KEY) -> list[tuple[str, bytes]]:
    """Verifier key lines, one for each key; those of a log bear one name, and none stands twice (§2.2)."""
    keys = [parse_key(line, kind) for line in text.removesuffix("\n").split("\n")[:65]]
    if kind == LOG_KEY and (len({name for name, _ in keys}) != 1 or len({key for _, key in keys}) != len(keys)):
        raise Invalid("§2.2", "the keys of a log bear one name, and none stands twice")
    if len(keys) > 64:
        raise Invalid("§2.2", "more than 64 keys")
    return keys


def verified(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature stands."""
    public = PUBLIC.get(key) or PUBLIC.setdefault(key, Ed25519PublicKey.from_public_bytes(key))
    try:
        public.verify(signature, message)
    except InvalidSignature:
        return False
    return True


# -- §3 tree head ---------------------------------------------------------------------------------------------------

SIGNATURE = re.compile(r"— ([^ ]+) ([A-Za-z0-9+/]+={0,2})", re.ASCII)


def parse_note(data: bytes, clause: str) -> tuple[str, list[tuple[str, bytes]]]:
    """A signed note taken apart: its text, and (name, id and signature) of each line."""
    try:
        whole = data.decode() if len(data) <= NOTE else ""
    except UnicodeDecodeError:
        whole = ""
    text, gap, block = whole.rpartition("\n\n")
    if not gap or not block.endswith("\n") or any(ord(c) < 0x20 and c != "\n" for c in whole):
        raise Invalid(clause, "not a signed note")
    lines = block[:-1].split("\n")
    found = []
    for line in lines[:101]:
        match = SIGNATURE.fullmatch(line)
        blob = unbase64(match[2], clause) if match else b""
        if match is None or not is_name(match[1]) or len(blob) < 5:
            raise Invalid(clause, f"not a signature line: {line[:80]!a}")
        found.append((match[1], blob))
    if len(lines) > 100:
        raise Invalid(clause, "more than 100 signature lines")
    return text + "\n", found


def parse_head(text: str, clause: str) -> tuple[str, int, bytes]:
    """Three lines (§3.1): origin, size, root."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not is_name(lines[0]):
        raise Invalid(clause, "a tree head has exactly three lines: origin, size, root")
    root = unbase64(lines[2], clause)
    if len(root) != 32:
        raise Invalid(clause, f"a root of {len(root)} bytes")
    return lines[0], number(lines[1], clause), root


def open_head(note: bytes, keys: list[tuple[str, bytes]], clause: str) -> tuple[tuple[str, int, bytes], set[bytes]]:
    """A tree head, and which of `keys` signed it; a line by one of them must verify (§3.2)."""
    text, lines = parse_note(note, clause)
    head, signers = parse_head(text, clause), set[bytes]()
    clause = "§3.2" if clause == "§3.1" else clause
    known = {(name, key_id(name, key, LOG_KEY)): key for name, key in keys}
    for name, blob in lines:
        key = known.get((name, blob[:4]))
        if key is not None:
            if not verified(key, text.encode(), blob[4:]):
                raise Invalid(clause, f"the signature on the tree head is not that of {name}")
            signers.add(key)
    if not signers:
        raise Invalid(clause, "no signature by a known key on the tree head")
    return head, signers


def cosigned(note: bytes, witnesses: list[tuple[str, bytes]]) -> dict[bytes, int]:
    """Which witnesses have cosigned a note, and when (§10.1); counted by their 32 bytes."""
    text, lines = parse_note(note, "§3.1")
    known = {(name, key_id(name, key, WITNESS_KEY)): key for name, key in witnesses}
    times: dict[bytes, int] = {}
    for name, blob in lines:
        key = known.get((name, blob[:4]))
        if key is not None:
            seconds = int.from_bytes(blob[4:12], "big")
            need(len(blob) == 76 and seconds < 1 << 63, "§10.1", "a cosignature is 8 bytes of time and 64 more")
            if not verified(key, f"cosignature/v1\ntime {seconds}\n{text}".encode(), blob[12:]):
                raise Invalid("§3.2", f"the cosignature of {name} does not verify")
            times[key] = max(seconds, times.get(key, 0))
    return times


# -- §4 tiles -------------------------------------------------------------------------------------------------------


def node(left: bytes, right: bytes) -> bytes:
    """RFC 6962 §2.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def leaf(entry: bytes) -> bytes:
    """RFC 6962 §2.1."""
    return hashlib.sha256(b"\x00" + entry).digest()


def complete(hashes: bytes) -> bytes:
    """The root over 1, 2, 4, … hashes."""
    row = [hashes[at : at + 32] for at in range(0, len(hashes), 32)]
    while len(row) > 1:
        row = [node(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


class Tiles:
    """The tree under one head: no tile is handed out that does not lead to its root."""

    def __init__(self, folder: Path, size: int, root: bytes) -> None:
        self.folder, self.size, self.cache = folder, size, dict[tuple[int, int], bytes]()
        self.edge: list[bytes] = []
        while count := size >> 8 * len(self.edge):
            width = count % 256
            self.edge.append(self._fetch(len(self.edge), count // 256, width) if width else b"")
        peaks: list[bytes] = []
        for tile in self.edge:  # complete subtrees, from the right
            stop = len(tile)
            for height in range(8):
                if len(tile) // 32 >> height & 1:
                    peaks.append(complete(tile[stop - (32 << height) : stop]))
                    stop -= 32 << height
        whole = peaks[0] if peaks else hashlib.sha256(b"").digest()
        for peak in peaks[1:]:
            whole = node(peak, whole)
        if whole != root:
            raise Invalid("§4.2", "the tiles do not lead to the root of the tree head")

    def tile(self, level: int, index: int) -> bytes:
        """The hashes of one tile."""
        if index == self.size >> 8 * level + 8:
            return self.edge[level]
        if (level, index) not in self.cache:
            tile = self._fetch(level, index, 256)
            at = index % 256 * 32
            if complete(tile) != self.tile(level + 1, index // 256)[at : at + 32]:
                raise Invalid("§4.2", f"tile {level}/{index} is not the one under the tree head")
            if len(self.cache) > 64:
                self.cache.clear()
            self.cache[level, index] = tile
        return self.cache[level, index]

    def span(self, start: int, stop: int) -> bytes:
        """The hash of the subtree over entries [start, stop), of which the first part is complete."""
        if stop - start & stop - start - 1:
            middle = start + (1 << (stop - start - 1).bit_length() - 1)
            return node(self.span(start, middle), self.span(middle, stop))
        height = (stop - start).bit_length() - 1
        level, inner = divmod(height, 8)
        first = start >> 8 * level
        return complete(self.tile(level, first // 256)[first % 256 * 32 :][: 32 << inner])

    def extends(self, size: int, root: bytes) -> bool:
        """Whether this log, at an earlier size, had that root."""
        if size > self.size:
            return False
        return root == (self.span(0, size) if size else hashlib.sha256(b"").digest())

    def entries(self, index: int) -> list[bytes]:
        """The entries below tile 0/`index`, each under its hash."""
        tile = self.tile(0, index)
        width = len(tile) // 32
        data, at, found = self._file(None, index, width), 0, []
        for place in range(width):
            stop = at + 2 + int.from_bytes(data[at : at + 2], "big")
            entry, at = data[at + 2 : stop], stop
            if stop > len(data) or leaf(entry) != tile[place * 32 : place * 32 + 32]:
                raise Invalid("§4.2", "not the entry under the tree head", index * 256 + place)
            found.append(entry)
        if at != len(data):
            raise Invalid("§4.2", f"bytes after the last entry of bundle {index}")
        return found

    def _fetch(self, level: int, index: int, width: int) -> bytes:
        tile = self._file(level, index, width)
        if len(tile) != width * 32:
            raise Invalid("§4.2", f"tile {level}/{index} has {len(tile)} bytes, not {width * 32}")
        return tile

    def _file(self, level: int | None, index: int, width: int) -> bytes:
        """A tile or bundle, or the front of the narrowest wider one."""
        groups = [f"{index % 1000:03}"]
        while index >= 1000:
            index //= 1000
            groups.insert(0, f"x{index % 1000:03}")
        full = self.folder / "tile" / ("entries" if level is None else str(level)) / "/".join(groups)
        limit = 256 * (2 + ENTRY if level is None else 32)
        if width == 256:
            return read(full, limit, "§4.2")
        partial = full.with_name(full.name + ".p")
        if os.path.lexists(partial / str(width)):
            return read(partial / str(width), limit, "§4.3")
        with contextlib.suppress(OSError):
            names = [name for name in os.listdir(partial) if re.fullmatch(r"[1-9][0-9]{0,2}", name, re.ASCII)]
            for wider in sorted(int(name) for name in names if width < int(name) < 256):
                return self._front(read(partial / str(wider), limit, "§4.2"), level, width)
        return self._front(read(full, limit, "§4.2"), level, width)

    @staticmethod
    def _front(data: bytes, level: int | None, width: int) -> bytes:
        at = 0 if level is None else width * 32
        for _ in range(width if level is None else 0):
            at += 2 + int.from_bytes(data[at : at + 2], "big")
        return data[:at]


# -- §5 entries -----------------------------------------------------------------------------------------------------

PAYLOAD = "application/vnd.in-toto+json"
PREFIX, SUMMARY = "urn:lockgate:entry:v1:", "https://slsa.dev/verification_summary/v1"


def open_entry(raw: bytes, name: str, key: bytes, *, signed: bool = True) -> tuple[str, dict[str, Any]]:
    """Kind and body of an entry; the signature by `key` is verified before the payload is parsed."""
    envelope = strict_json(raw, ENTRY, "§5.1")
    if not isinstance(envelope, dict) or set(envelope) != {"payload", "payloadType", "signatures"}:
        raise Invalid("§5.1", "not a DSSE envelope")
    signatures = envelope["signatures"]
    well = isinstance(signatures, list) and 1 <= len(signatures) <= 2 and isinstance(envelope["payload"], str)
    if not well or envelope["payloadType"] != PAYLOAD:
        raise Invalid("§5.1", f"not a DSSE envelope over {PAYLOAD}")
    for each in signatures:
        texts = isinstance(each, dict) and set(each) == {"keyid", "sig"} and all(type(x) is str for x in each.values())
        if not texts:
            raise Invalid("§5.1", "a signature is `keyid` and `sig`")
    payload = unbase64(envelope["payload"], "§5.1")
    made = [unbase64(each["sig"], "§5.1") for each in signatures]
    message = b"DSSEv1 %d %b %d %b" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)
    if signed and not verified(key, message, made[0]):
        raise Invalid("§5.3", f"the signature is not that of {name}, the key in force")
    statement = strict_json(payload, ENTRY, "§1.2")
    if not isinstance(statement, dict) or set(statement) != {"_type", "predicateType", "subject", "predicate"}:
        raise Invalid("§5.5", "not an in-toto statement")
    kind, predicate = statement["predicateType"], statement["predicate"]
    typed = isinstance(kind, str) and isinstance(predicate, dict) and isinstance(statement["subject"], list)
    if statement["_type"] != "https://in-toto.io/Statement/v1" or not typed:
        raise Invalid("§5.5", "not an in-toto statement")
    if kind == SUMMARY:
        kind, body = "authorised", from_summary(name, predicate)
    elif kind.startswith(PREFIX) and kind != PREFIX + "authorised":
        kind, body = kind.removeprefix(PREFIX), predicate
    else:
        raise Invalid("§5.6", "a predicate that is none of these kinds")
    check_body(kind, body)
    if statement["subject"] != subjects(kind, body, name):
        raise Invalid("§5.8", "the subjects are not those of the body")
    if len(made) != (2 if kind == "key-rotated" else 1):
        raise Invalid("§5.3", f"{len(made)} signatures")
    if kind == "key-rotated" and signed:
        _, new = parse_key(body["new"], LOG_KEY, "§5.4")
        if not verified(new, message, made[1]):
            raise Invalid("§5.4", "the new key has not signed its rotation")
    return kind, body


def from_summary(origin: str, predicate: dict[str, Any]) -> dict[str, Any]:
    """The authorisation in a verification summary, from which all of the rest must follow (§5.7)."""
    inner = predicate.get("authorisation")
    if not isinstance(inner, dict) or "time" in inner or type(inner.get("version")) is not int:
        raise Invalid("§5.7", "a summary without an authorisation")
    policies, evidence = (str(inner.get(name)).removeprefix("sha256:") for name in ("policies", "evidence"))
    follows = {
        "verifier": {"id": f"urn:lockgate:log:{origin}"},
        "timeVerified": predicate.get("timeVerified"),
        "resourceUri": f"urn:lockgate:model:{origin}:{inner['version']}",
        "policy": {"uri": "urn:lockgate:policies", "digest": {"sha256": policies}},
        "inputAttestations": [{"uri": "urn:lockgate:evidence", "digest": {"sha256": evidence}}],
        "verificationResult": "PASSED",
        "verifiedLevels": ["LOCKGATE_GATES_V1"],
        "authorisation": inner,
    }
    if predicate != follows:
        raise Invalid("§5.7", "the summary does not follow from the authorisation in it")
    return {"time": predicate["timeVerified"], **inner}


def subjects(kind: str, body: dict[str, Any], origin: str) -> list[dict[str, Any]]:
    """What an entry is about (§5.8)."""
    about = {"run": sha256(origin.encode())}
    for name in ("candidate", "baseline", "document", "evidence", "answers"):
        if body.get(name) is not None:
            about = {name: body[name]["digest"] if isinstance(body[name], dict) else body[name]}
            break
    if kind == "authorised":
        about["weights.safetensors"] = body["weights"]
    return [{"name": name, "digest": {"sha256": value[7:]}} for name, value in about.items()]


# -- §6 bodies ------------------------------------------------------------------------------------------------------

BODIES = {
    "genesis": "origin s, seed i, config o, guard d, policies d, policy_sources d, eval_kinds {s}, baseline C, "
    "development {n}, answers d, data d, training d, vault_commitment d, vault_items i, vault_minimum i, "
    "vault_named b, harness s",
    "started": "nonce s, isolation s, device s, ledger_size i, ledger_root h",
    "proposed": "number i, generation i, index i, proposer s, scripted b, label s, document d",
    "screened": "number i, base d, recipe o, source d, change d, document d, judgement d, "
    "outcome pass|deny|hold|invalid, failed [s]",
    "built": "number i, candidate C, steps i, seconds n, peak_mb n",
    "developed": "number i, development {n}, answers d, ?flops i",
    "staked": "number i, epoch i, test i, alpha n, incumbent d, offset i, cap i, items d, ledger_size i, ledger_root h",
    "predicted": "candidate d, epoch i, offset i, cap i, answers d, ?number i",
    "measured": "number i, passed b, gates [G], evidence d",
    "decided": "number i, decision D, ?judgement d, ?document d",
    "authorised": "number i, version i, incumbent d, candidate d, weights d, guard d, policies d, evidence d, "
    "approvals [d], nonce s, expires t",
    "intended": "action promote|rollback, version i, candidate d, ?authorisation i, by s, reason s",
    "promoted": "number i, version i, candidate d",
    "watched": "version i, candidate d, expected d, ?answers d, ok b",
    "voided": "number i, reason s",
    "rolled-back": "version i, candidate d, by s, reason s",
    "halted": "by s, reason s",
    "resumed": "by s",
    "key-rotated": "old s, new s, reason s",
}
RECORDS = {
    "C": "digest d, recipe o, source d, weights d, parameters i, bytes i, schema_digest d, ?flops i",
    "G": "name s, eval s, kind s, verdict pass|fail|inconclusive",
    "D": "verdict promote|reject|hold, reasons [R]",
    "R": "code r, text s",
}
CODES = set(
    "passed malformed unknown-base invalid-recipe no-op duplicate policy build-failed build-timeout build-memory "  # noqa: SIM905
    "build-output non-finite predict-failed predict-output development gate-objective gate-capability gate-alignment "
    "gate-robustness inconclusive hold-unanswered vault-exhausted budget evaluator-failed judge-failed interrupted "
    "internal".split()
)


def check_of(kind: str) -> Callable[[Any], bool]:
    """The check of one type of §6."""
    simple: dict[str, Callable[[Any], bool]] = {
        "i": lambda x: type(x) is int and x >= 0,
        "n": lambda x: type(x) in (int, float),
        "s": lambda x: type(x) is str,
        "b": lambda x: type(x) is bool,
        "o": lambda x: type(x) is dict,
        "d": lambda x: type(x) is str and DIGEST.fullmatch(x) is not None,
        "h": lambda x: type(x) is str and HEX.fullmatch(x) is not None,
        "t": lambda x: moment(x) is not None,
        "r": lambda x: type(x) is str and x in CODES,
    }
    if kind in simple:
        return simple[kind]
    if kind in RECORDS:
        table = table_of(RECORDS[kind])
        return lambda x: type(x) is dict and wrong_member(table, x) is None
    if kind[0] in "[{":
        inner, container = check_of(kind[1:-1]), list if kind[0] == "[" else dict
        return lambda x: type(x) is container and all(map(inner, x.values() if type(x) is dict else x))
    words = set(kind.split("|"))
    return lambda x: type(x) is str and x in words


def table_of(text: str) -> dict[str, tuple[bool, Callable[[Any], bool]]]:
    """Member → (optional?, check), from one row of §6."""
    rows = [row.strip().split(" ") for row in text.split(",")]
    return {name.removeprefix("?"): (name[0] == "?", check_of(kind)) for name, kind in rows}


TABLES = {kind: table_of(text + ", time t") for kind, text in BODIES.items()}


def wrong_member(table: dict[str, tuple[bool, Callable[[Any], bool]]], body: dict[str, Any]) -> str | None:
    """The first member that is missing, unknown or of another type; None where all fit."""
    for name, (optional, check) in table.items():
        value = body.get(name)
        if not (check(value) if value is not None else optional):
            return name
    return next((name for name in body if name not in table), None)


def check_body(kind: str, body: dict[str, Any]) -> None:
    """Exactly the members of its kind, each of its type (§6)."""
    if kind not in TABLES:
        raise Invalid("§6", f"unknown kind of entry {kind[:60]!a}")
    wrong = wrong_member(TABLES[kind], body)
    if wrong is not None:
        raise Invalid("§6", f"{kind}: the member {wrong[:60]!a} is missing, unknown or of another type")


# -- §7 order -------------------------------------------------------------------------------------------------------

State = dict[str, Any]  # JSON, so that --save can write it


def beginning(keys: list[tuple[str, bytes]]) -> State:
    """The state before entry 0."""
    return {
        "size": 0, "keys": [key_line(*keys[0])], "genesis": None, "ledger": None, "count": 0, "open": {},
        "versions": [], "live": 0, "epoch": 1, "answered": {}, "stake": None, "tests": 0, "alphas": 0.0,
        "permits": {}, "nonces": [], "intent": None, "unwatched": False, "halted": False, "time": "",
    }  # fmt: skip


def fold(s: State, kind: str, body: dict[str, Any], raw: bytes) -> None:
    """Let one entry change the state, or refuse it where it stands."""
    index, intent = s["size"], s["intent"]
    if (kind == "genesis") != (index == 0):
        raise Invalid("§7.1", "genesis is entry 0, and no other")
    if intent and kind not in ("promoted", "rolled-back", "voided", "started", "halted"):
        raise Invalid("§7.2", "an intent is open: its outcome comes first")
    FOLDS[kind](s, body, raw)
    for name in [name for name, p in s["open"].items() if p["ended"]]:
        del s["open"][name]  # of what has come to its end, nothing is asked any more
    s["size"], s["time"] = index + 1, body["time"]


def need(holds: object, clause: str, problem: str) -> None:
    """Refuse where it does not hold."""
    if not holds:
        raise Invalid(clause, problem)


def proposal(s: State, body: dict[str, Any], clause: str) -> dict[str, Any]:
    """What is known of a proposal that has not come to its end."""
    found: dict[str, Any] | None = s["open"].get(str(body["number"]))
    if found is None:
        known = "has come to its end" if 1 <= body["number"] <= s["count"] else "is unknown"
        raise Invalid(clause, f"proposal {body['number']} {known}")
    return found


def undecided(s: State, body: dict[str, Any], clause: str) -> dict[str, Any]:
    """The same, of one whose decision is not final."""
    found = proposal(s, body, clause)
    need(found["verdict"] in (None, "hold"), clause, f"proposal {body['number']} is decided already")
    return found


def live(s: State) -> str:
    """The digest of the live candidate."""
    return str(s["versions"][s["live"]]["candidate"]["digest"])


def genesis(s: State, body: dict[str, Any], raw: bytes) -> None:
    config = body["config"]
    try:
        promotions, delta = config["budgets"]["promotions"], config["ledger"]["delta"]
        gates = sorted([gate["eval"], gate["kind"]] for gate in [*config["gates"]])
        rule = config.get("witnesses") or {"require": 0, "of": []}
        witnesses = [rule["require"], *(each["key"] for each in rule["of"])]
        sound = type(promotions) is int and promotions > 0 and type(delta) is float and 0 < delta < 0.5
        sound = sound and len({tuple(gate) for gate in gates}) == len(gates) > 0
        sound = sound and all(
            type(text) is str for text in [*witnesses[1:], *(part for gate in gates for part in gate)]
        )
        sound = sound and type(witnesses[0]) is int and 0 <= witnesses[0] < max(len(witnesses), 1)
    except (KeyError, TypeError, AttributeError):
        sound = False
    need(sound, "§6", "genesis: a configuration without its gates, its budgets, or a quorum that can be")
    need(body["origin"] == parse_key(s["keys"][0], LOG_KEY)[0], "§7.1", "the origin is not the log's")
    s["genesis"] = {"promotions": promotions, "delta": delta, "gates": gates, "vault_named": body["vault_named"]}
    s["genesis"] |= {name: body[name] for name in ("origin", "guard", "policies")} | {"witnesses": witnesses}
    s["versions"] = [{"candidate": body["baseline"], "index": 0, "raw": sha256(raw)}]


def ledger(s: State, body: dict[str, Any]) -> None:
    """Spent error comes back from no backup (§7.3)."""
    size, root = s["ledger"] or [-1, ""]
    grown = body["ledger_size"] > size or (body["ledger_size"] == size and body["ledger_root"] == root)
    need(grown, "§7.3", "the vault's ledger has shrunk or changed")
    s["ledger"] = [body["ledger_size"], body["ledger_root"]]


def started(s: State, body: dict[str, Any], _: bytes) -> None:
    ledger(s, body)


def proposed(s: State, body: dict[str, Any], _: bytes) -> None:
    need(body["number"] == s["count"] + 1, "§7.4", f"expected number {s['count'] + 1}")
    s["count"] += 1
    fresh = dict.fromkeys(("screened", "built", "developed", "staked", "measured", "verdict", "permit"))
    s["open"][str(body["number"])] = {**fresh, "ended": False}


def screened(s: State, body: dict[str, Any], _: bytes) -> None:
    found = undecided(s, body, "§7.5")
    need(found["screened"] is None, "§7.5", "screened already")
    found["screened"] = body["outcome"]


def built(s: State, body: dict[str, Any], _: bytes) -> None:
    found = undecided(s, body, "§7.5")
    need(found["built"] is None and found["screened"] == "pass", "§7.5", "built already, or not through the screen")
    found["built"] = body["candidate"]


def developed(s: State, body: dict[str, Any], _: bytes) -> None:
    found = undecided(s, body, "§7.5")
    need(not found["developed"] and found["built"], "§7.5", "developed already, or not built")
    found["developed"] = True


def staked(s: State, body: dict[str, Any], _: bytes) -> None:
    found = undecided(s, body, "§7.6")
    need(found["developed"] and not found["staked"], "§7.6", "staked already, or not developed")
    need(s["stake"] is None, "§7.6", "another stake is open")
    need((body["epoch"], body["incumbent"]) == (s["epoch"], live(s)), "§7.6", "of another epoch or incumbent")
    ledger(s, body)
    delta, alpha = s["genesis"]["delta"], body["alpha"]
    need(alpha > 0 and s["alphas"] + alpha <= delta, "§7.6", "more is staked than the budget of error allows")
    if not s["genesis"]["vault_named"]:
        need(body["test"] == s["tests"] + 1, "§7.6", f"expected test {s['tests'] + 1}")
        rule = delta * body["test"] ** -1.2 * body["epoch"] ** -1.2 / 5.5916**2
        need(math.isclose(alpha, rule, rel_tol=1e-12), "§7.6", f"the rule gives alpha {rule!r}")
    found["staked"] = {"epoch": body["epoch"], "incumbent": body["incumbent"]}
    s["stake"], s["tests"], s["alphas"] = body["number"], s["tests"] + 1, s["alphas"] + alpha


def predicted(s: State, body: dict[str, Any], _: bytes) -> None:
    key = f"{body['candidate']} {body['offset']} {body['cap']}"
    need(body["epoch"] == s["epoch"], "§7.7", "answers to another epoch's items")
    need(key not in s["answered"], "§7.7", "these items were answered already")
    s["answered"][key] = True


def measured(s: State, body: dict[str, Any], _: bytes) -> None:
    found = undecided(s, body, "§7.8")
    need(s["stake"] == body["number"], "§7.8", "not the open stake's")
    gates = body["gates"]
    follows = body["passed"] == all(gate["verdict"] == "pass" for gate in gates)
    need(gates and follows, "§7.8", "`passed` does not follow from the gates")
    same = sorted([gate["eval"], gate["kind"]] for gate in gates) == s["genesis"]["gates"]
    need(same, "§7.8", "other gates than those of the configuration")
    found["measured"], s["stake"] = {"passed": body["passed"], "evidence": body["evidence"]}, None


def decided(s: State, body: dict[str, Any], _: bytes) -> None:
    found = undecided(s, body, "§7.9")
    verdict, reasons = body["decision"]["verdict"], body["decision"]["reasons"]
    if verdict == "promote":
        need(found["measured"] and found["measured"]["passed"], "§7.9", "promoted without a passed measurement")
    else:
        need(reasons, "§7.9", "not promoted, without a reason")
    if s["stake"] == body["number"]:
        s["stake"] = None
    found["verdict"], found["ended"] = verdict, verdict == "reject"


def authorised(s: State, body: dict[str, Any], raw: bytes) -> None:
    c, found = "§7.10", proposal(s, body, "§7.10")
    need(found["verdict"] == "promote" and found["permit"] is None, c, "not decided so, or authorised already")
    need(found["staked"]["epoch"] == s["epoch"], c, "the epoch of its test has ended")
    need(not s["halted"], c, "the run is halted")
    need(body["candidate"] == found["built"]["digest"], c, "another candidate than the one decided on")
    need(body["weights"] == found["built"]["weights"], c, "other weights than those decided on")
    need(body["evidence"] == found["measured"]["evidence"], c, "other evidence than the one decided on")
    need((body["guard"], body["policies"]) == (s["genesis"]["guard"], s["genesis"]["policies"]), c, "another guard")
    need(body["incumbent"] == live(s) == found["staked"]["incumbent"], c, "the incumbent has moved")
    need(body["version"] == len(s["versions"]), c, f"expected version {len(s['versions'])}")
    need(len(s["versions"]) - 1 < s["genesis"]["promotions"], c, "the budget of promotions is spent")
    need(not body["approvals"], c, "approvals, of which the log has none")
    need(body["nonce"] not in s["nonces"], c, "its nonce was used before")
    found["permit"] = s["size"]
    s["nonces"].append(body["nonce"])
    names = ("number", "version", "candidate", "incumbent", "expires")
    s["permits"][str(s["size"])] = {**{name: body[name] for name in names}, "raw": sha256(raw)}


def intended(s: State, body: dict[str, Any], _: bytes) -> None:
    if body["action"] == "promote":
        permit = s["permits"].get(str(body.get("authorisation")))
        need(permit, "§7.11", "no unused authorisation stands behind it")
        need(not s["halted"], "§7.11", "the run is halted")
        same = (permit["version"], permit["candidate"]) == (body["version"], body["candidate"])
        need(same, "§7.11", "another version than the one authorised")
        need(permit["incumbent"] == live(s), "§7.11", "the incumbent has moved")
        epoch = s["open"][str(permit["number"])]["staked"]["epoch"]
        need(epoch == s["epoch"], "§7.11", "the epoch of its test has ended")
        before = datetime.fromisoformat(body["time"]) < datetime.fromisoformat(permit["expires"])
        need(before, "§7.11", "the authorisation has expired")
    else:
        known = body["version"] < len(s["versions"]) and body["version"] != s["live"]
        need(known, "§7.11", "no earlier version, or live already")
        same = s["versions"][body["version"]]["candidate"]["digest"] == body["candidate"]
        need(same, "§7.11", "another candidate than that version's")
        need(body.get("authorisation") is None, "§7.11", "a rollback uses no authorisation")
    s["intent"] = {name: body.get(name) for name in ("action", "version", "candidate", "authorisation")}


def outcome(s: State, body: dict[str, Any], action: str) -> State:
    """The open intent, which this is the outcome of."""
    intent: State | None = s["intent"]
    if intent is None or intent["action"] != action:
        raise Invalid("§7.12", f"no intent to {action} is open")
    same = (intent["version"], intent["candidate"]) == (body["version"], body["candidate"])
    need(same, "§7.12", "another version than the one intended")
    s["intent"], s["epoch"], s["tests"], s["answered"] = None, s["epoch"] + 1, 0, {}
    return intent


def promoted(s: State, body: dict[str, Any], _: bytes) -> None:
    index = outcome(s, body, "promote")["authorisation"]
    permit = s["permits"].pop(str(index))
    need(permit["number"] == body["number"], "§7.12", "another proposal than the one authorised")
    found = s["open"][str(body["number"])]
    found["ended"] = True
    s["versions"].append({"candidate": found["built"], "index": index, "raw": permit["raw"]})
    s["live"], s["unwatched"] = body["version"], True


def rolled_back(s: State, body: dict[str, Any], _: bytes) -> None:
    outcome(s, body, "rollback")
    s["live"], s["stake"], s["unwatched"] = body["version"], None, False


def watched(s: State, body: dict[str, Any], _: bytes) -> None:
    same = (body["version"], body["candidate"]) == (s["live"], live(s))
    need(s["unwatched"] and same, "§7.13", "no promotion waits for its smoke test")
    need(body["ok"] == (body.get("answers") == body["expected"]), "§7.13", "`ok` does not follow from the answers")
    s["unwatched"] = False


def voided(s: State, body: dict[str, Any], _: bytes) -> None:
    found = proposal(s, body, "§7.14")
    need(found["verdict"] == "promote", "§7.14", "not decided to be promoted")
    if s["intent"]:
        own = found["permit"] is not None and s["intent"]["authorisation"] == found["permit"]
        need(own, "§7.14", "another intent is open")
    s["permits"].pop(str(found["permit"]), None)
    s["intent"], found["ended"] = None, True


def halted(s: State, _body: dict[str, Any], _: bytes) -> None:
    s["halted"] = True


def resumed(s: State, _body: dict[str, Any], _: bytes) -> None:
    need(s["halted"], "§7.15", "the run is not halted")
    s["halted"] = False


def key_rotated(s: State, body: dict[str, Any], _: bytes) -> None:
    need(body["old"] == s["keys"][-1], "§7.16", "`old` is not the key in force")
    name, new = parse_key(body["new"], LOG_KEY, "§7.16")
    before = [parse_key(line, LOG_KEY) for line in s["keys"]]
    need(name == before[0][0] and new not in [key for _, key in before], "§7.16", "another name, or in force before")
    s["keys"].append(body["new"])


FOLDS: dict[str, Callable[[State, dict[str, Any], bytes], None]] = {
    kind: globals()[kind.replace("-", "_")] for kind in BODIES
}


# -- §8 blobs, §9 models --------------------------------------------------------------------------------------------


def check_blobs(run: Path, body: dict[str, Any], seen: dict[str, None]) -> None:
    """Every blob that an entry names is there, byte for byte, and every file of its source tree."""
    names = [body.get(name) for name in ("document", "change", "judgement", "answers", "evidence", "policy_sources")]
    record = next((body[name] for name in ("candidate", "baseline") if isinstance(body.get(name), dict)), None)
    if record is not None:
        names += [record[name] for name in ("weights", "schema_digest")]
        data = read(blob_path(run, record["source"]), BLOB, "§8.1")
        need(sha256(data) == record["source"], "§8.1", f"the blob {record['source']} has other bytes")
        manifest = strict_json(data, BLOB, "§8.2")
        well = isinstance(manifest, dict) and all(map(check_of("d"), manifest.values()))
        need(well, "§8.2", "a source tree is an object, path to digest")
        names += manifest.values()
    for name in names:
        if isinstance(name, str) and name not in seen:
            need(digest_of(blob_path(run, name), "§8.1") == name, "§8.1", f"the blob {name} has other bytes")
            seen[name] = None
            if len(seen) > 4096:
                del seen[next(iter(seen))]


def blob_path(run: Path, name: str) -> Path:
    """Where a blob lies (§8.1)."""
    return run / "blobs" / "sha256" / name[7:9] / name[7:]


def check_models(run: Path, s: State, tiles: Tiles) -> None:
    """Every version's folder is what was authorised, and the link names the live one (§9)."""
    try:
        link = os.readlink(run / "current")
    except OSError as error:
        raise Invalid("§9.4", f"current: {error.strerror}") from None
    allowed = {s["live"], s["intent"]["version"] if s["intent"] else s["live"]}
    named = link in {f"models/{version}" for version in allowed}
    need(named, "§9.4", f"{link[:80]!a} is live, not version {s['live']}")
    keys = [parse_key(line, LOG_KEY) for line in s["keys"]]
    versions = list(enumerate(s["versions"]))
    if link != f"models/{s['live']}" and s["intent"]["action"] == "promote":  # cut after the rename (§9.4)
        index = s["intent"]["authorisation"]
        permit = s["permits"][str(index)]
        made = s["open"][str(permit["number"])]["built"]
        versions.append((permit["version"], {"candidate": made, "index": index, "raw": permit["raw"]}))
    need_folders([run / "models"], "§9.1")
    for version, known in versions:
        folder, record = run / "models" / str(version), known["candidate"]
        need_folders([folder, folder / "source"], "§9.1")
        files = {"recipe.json", "candidate.json", "authorisation.json", "authorisation.proof", "weights.safetensors"}
        try:
            names = set(os.listdir(folder))
        except OSError as error:
            raise Invalid("§9.1", f"models/{version}: {error.strerror}") from None
        need(names == files | {"source"}, "§9.1", f"models/{version} has other files than a version has")
        recipe = read(folder / "recipe.json", BLOB, "§9.2")
        strict_json(recipe, BLOB, "§9.2")
        tree = {path: digest_of(folder / "source" / path, "§9.2") for path in files_below(folder / "source")}
        source, weights = digested(tree), digest_of(folder / "weights.safetensors", "§9.2")
        parts = {"recipe": record["recipe"], "source": source, "weights": weights}
        same = recipe == encoded(record["recipe"]) and digested(parts) == record["digest"]
        same = same and (source, weights) == (record["source"], record["weights"])
        need(same, "§9.2", f"models/{version} is not the candidate that was authorised")
        # `flops` may be left out or null in the log; the file says it (§9.2).
        told = read(folder / "candidate.json", BLOB, "§9.2")
        need(told == encoded({"flops": None} | record), "§9.2", f"models/{version}: candidate.json is another")
        entry = read(folder / "authorisation.json", ENTRY, "§9.3")
        need(sha256(entry) == known["raw"], "§9.3", f"models/{version}: not the entry that authorised it")
        note = check_proof(read(folder / "authorisation.proof", 2 * NOTE, "§9.3"), entry, known["index"], keys, tiles)
        required, *lines = s["genesis"]["witnesses"]
        if required:
            signed = len(cosigned(note, [parse_key(line, WITNESS_KEY, "§10.3") for line in lines]))
            need(signed >= required, "§10.3", f"{signed} of {required} witnesses have cosigned what allowed {version}")


def need_folders(places: list[Path], clause: str) -> None:
    """What is called a folder here is one, and no link to another."""
    for place in places:
        need(place.is_dir() and not place.is_symlink(), clause, f"{place.name} is no folder, or a link to one")


def files_below(root: Path) -> list[str]:
    """The files below a folder, by path; anything but files and folders is refused."""
    found: list[str] = []
    stack = [""]
    while stack:
        inner = stack.pop()
        try:
            with os.scandir(root / inner) as listing:
                for each in listing:
                    path = f"{inner}/{each.name}" if inner else each.name
                    need(each.is_dir(follow_symlinks=False) or each.is_file(follow_symlinks=False), "§9.1", path[:80])
                    (stack if each.is_dir(follow_symlinks=False) else found).append(path)
        except OSError as error:
            raise Invalid("§9.1", f"source/{inner}: {error.strerror}") from None
    return found


def check_proof(data: bytes, entry: bytes, index: int, keys: list[tuple[str, bytes]], tiles: Tiles) -> bytes:
    """A tlog-proof of an entry, under a head that this log extends (§9.3); returns the head's note."""
    before, gap, note = data.partition(b"\n\n")
    try:
        lines = before.decode("ascii").split("\n")
    except UnicodeDecodeError:
        lines = []
    begun = gap and 2 <= len(lines) <= 65 and lines[0] == "c2sp.org/tlog-proof@v1" and lines[1].startswith("index ")
    need(begun, "§9.3", "authorisation.proof is no tlog-proof")
    need(number(lines[1][6:], "§9.3") == index, "§9.3", "the proof is of another entry")
    (origin, size, root), _ = open_head(note, keys, "§9.3")
    need(origin == keys[0][0], "§9.3", "the proof's tree head is that of another log")
    need(index < size, "§9.3", "the proof's tree head is older than the entry")
    place, last, hashed = index, size - 1, leaf(entry)  # RFC 9162 §2.1.3.2
    for line in lines[2:]:
        sibling = unbase64(line, "§9.3")
        need(last > 0 and len(sibling) == 32, "§9.3", "the inclusion proof is too long")
        if place & 1 or place == last:
            hashed = node(sibling, hashed)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            hashed = node(hashed, sibling)
        place, last = place >> 1, last >> 1
    need(last == 0 and hashed == root, "§9.3", "the proof does not lead to its tree head")
    need(tiles.extends(size, root), "§9.3", "the proof's tree head is not one of this log")
    return note


# -- §11 verdicts ---------------------------------------------------------------------------------------------------


def own(path: str, limit: int = 1 << 30) -> bytes:
    """One of the reader's own files."""
    try:
        with Path(path).open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None


def own_keys(paths: list[str], kind: int) -> list[tuple[str, bytes]]:
    """The reader's own copies of keys."""
    found = []
    for path in paths:
        try:
            found += parse_keys(own(path, 1 << 16).decode(), kind)
        except (Invalid, UnicodeDecodeError) as error:
            raise Unreadable(f"{path}: {error}") from None
    return found


def load_saved(path: str) -> tuple[State | None, bytes]:
    """What --since was given: a state that --save wrote, with its head; or a bare head."""
    data = own(path)
    if not data.startswith(b"{"):
        return None, data
    try:
        saved = strict_json(data, 1 << 30, "--since")
        state, note = saved["state"], saved["head"]
        whole = saved["digest"] == digested([note, state])
        whole = whole and set(state) == set(beginning([("a", bytes(32))]))
    except (Invalid, KeyError, TypeError):
        whole = False
    if not whole:
        raise Unreadable(f"{path}: not what --save of this version wrote")
    return state, note.encode()


def verify(options: argparse.Namespace) -> dict[str, Any]:
    """The verdict on a run, as a report; Invalid where a MUST is broken, Unreadable for the reader's own files."""
    run = Path(options.run)
    trusted = own_keys([options.key], LOG_KEY) if options.key else []
    witnesses = own_keys(options.witness, WITNESS_KEY)
    listed = run / "keys" / "log.pub"
    if trusted and not os.path.lexists(listed):
        chain = trusted
    else:
        try:
            chain = parse_keys(read(listed, 1 << 16, "§2.2").decode())
        except UnicodeDecodeError:
            raise Invalid("§2.2", "keys/log.pub is not UTF-8") from None
    need_folders([run / "log"], "§4.3")
    note = read(run / "log" / "checkpoint", NOTE, "§3.1")
    (origin, size, root), signers = open_head(note, [*chain, *(key for key in trusted if key not in chain)], "§3.1")
    tiles = Tiles(run / "log", size, root)
    state, skip = beginning(chain), 0
    for path in filter(None, (options.head, options.since)):
        saved, known = load_saved(path)
        (name, old, root_then), _ = open_head(known, chain + trusted, "§11.1")
        extended = name == origin and tiles.extends(old, root_then)
        need(extended, "§11.1", f"the log does not extend the head of {old} entries that you hold")
        if path == options.since:
            skip, state = old, saved or state
    if not options.log_only:
        need_folders([run / "blobs"], "§8.1")
    blobs: dict[str, None] = {}
    for bundle in range(state["size"] // 256, -(-size // 256)):
        for place, raw in enumerate(tiles.entries(bundle), bundle * 256):
            if place < state["size"]:
                continue
            try:
                key = parse_key(state["keys"][-1], LOG_KEY) if place % 256 == 0 or len(state["keys"]) > 1 else chain[0]
                kind, body = open_entry(raw, *key, signed=place >= skip)
                fold(state, kind, body, raw)
                if not options.log_only:
                    check_blobs(run, body, blobs)
            except Invalid as error:
                raise Invalid(error.clause, error.problem, place) from None
    if not state["genesis"]:
        raise Invalid("§7.1", "the log is empty: no genesis", 0)
    keys = [parse_key(line, LOG_KEY) for line in state["keys"]]
    need(keys == chain[: len(keys)], "§2.2", "keys/log.pub lists other keys than the log proves")
    need(keys[-1][1] in signers and keys[-1][0] == origin, "§3.2", "the tree head is not signed by the key in force")
    ours = not trusted or {key for _, key in trusted} & {key for _, key in keys}
    need(ours, "§2.3", "your key is none of this log's")
    if not options.log_only:
        check_models(run, state, tiles)
    fresh, why = freshness(options, note, witnesses, state["time"])
    told = f"{size} entries signed by {origin}, {'log only' if options.log_only else f'{len(blobs)} blobs by digest'}, "
    told += f"version {state['live']} live{'; ' + why if why else ''}"
    verdict = "valid and fresh" if fresh else f"valid at size {size}, freshness unproven"
    if not trusted:
        verdict = "identity unproven"
        told += "; but the key came from the run itself: verify again with --key and a copy that you keep elsewhere"
    if options.save:
        save(options.save, note.decode(), state)
    return {
        "verdict": verdict, "summary": told, "size": size, "root": root.hex(), "origin": origin, "live": state["live"],
        "promotions": len(state["versions"]) - 1, "fresh": fresh,
    }  # fmt: skip


def freshness(options: argparse.Namespace, note: bytes, witnesses: list[Any], newest: str) -> tuple[bool, str]:
    """Whether it is no old state that was put back, as far as was asked, and in words (§11)."""
    now = time.time()
    if witnesses:
        age = DAY if options.max_age is None else options.max_age
        quorum = options.quorum or len({key for _, key in witnesses})
        young = sum(now - age <= signed <= now + AHEAD for signed in cosigned(note, witnesses).values())
        return young >= quorum, f"{young} of the {quorum} witnesses required have cosigned it within {age:g} seconds"
    if options.max_age is not None:
        old = (datetime.now(UTC) - datetime.fromisoformat(newest)).total_seconds()
        return -AHEAD <= old <= options.max_age, f"the last entry is {old:.0f} seconds old"
    return bool(options.head), "it extends the head that you hold" if options.head else ""


def save(path: str, note: str, state: State) -> None:
    """Write where this verification ended, for --since; atomically."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(encoded({"head": note, "state": state, "digest": digested([note, state])}))
        temporary.replace(path)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None


def main(arguments: list[str] | None = None) -> int:
    """Print the verdict; return the exit code."""
    parser = argparse.ArgumentParser(description="Verify the trail of a Lockgate run (audits/FORMAT.md).")
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--key", metavar="FILE", help="your own copy of a key of the log")
    parser.add_argument("--head", metavar="FILE", help="a signed tree head that you hold: the log must extend it")
    parser.add_argument("--witness", metavar="FILE", action="append", default=[], help="keys of witnesses, one a line")
    parser.add_argument("--quorum", metavar="K", type=int, help="how many of them must have cosigned; all by default")
    parser.add_argument("--max-age", metavar="SECONDS", type=float, help="since the newest signed time")
    parser.add_argument("--since", metavar="FILE", help="what --save wrote, or a head: verify what is new since then")
    parser.add_argument("--save", metavar="FILE", help="write where this verification ended")
    parser.add_argument("--log-only", action="store_true", help="read neither blobs nor models")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    if options.quorum is not None and not (options.witness and options.quorum > 0):
        parser.error("--quorum is how many of the witnesses of --witness are required: 1 or more")
    if options.log_only and options.save:
        parser.error("--save is for whoever reads the blobs, too: what goes on from there takes them as read")
    asked = bool(options.head or options.witness or options.max_age is not None)
    try:
        report, code = verify(options), 0
        code = 6 if report["verdict"] == "identity unproven" else 7 if asked and not report["fresh"] else 0
    except Invalid as error:
        where = "" if error.entry is None else f"entry {error.entry}: "
        report, code = {"verdict": "invalid", "summary": f"{where}{error.problem} ({error.clause})"}, 5
        report |= {"entry": error.entry, "clause": error.clause, "problem": error.problem}
    except Unreadable as error:
        report, code = {"verdict": "error", "summary": str(error)}, 1
    line = f"{report['verdict']}: {report['summary']}"
    print(json.dumps(report) if options.json else line.encode("unicode_escape").decode().replace("\\xa7", "§"))
    return code


if __name__ == "__main__":
    sys.exit(main())
