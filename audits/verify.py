#!/usr/bin/env python3
"""Verify the trail of a Lockgate run: what audits/FORMAT.md says, from that page alone.

    python verify.py RUN --key FILE [--approvers FILE] [--head FILE] [--witness FILE --quorum K]
                         [--max-age SECONDS] [--since FILE] [--save FILE] [--log-only] [--json]

It needs Python 3.11 and the package `cryptography`; it shares no code with what writes runs. FILE of --key is your
own copy of a key of the log, kept outside the run, and that of --approvers your own list of those who may answer
holds, in the format of allowed_signers, in every role that they had: without them the best answer is `identity
unproven`.

Exit codes (§11): 0 valid · 1 your own files cannot be read · 2 usage · 5 invalid · 6 identity unproven ·
7 valid, but not shown to be as fresh as you asked.

What it reads is hostile until a signature or a hash says otherwise: sizes are bounded before anything is read, no
link is followed, and whatever does not fit ends as one `Invalid`, which names the entry and the clause. The log is
streamed, at most 256 entries at a time; of proposals that came to their end nothing is kept. What guards the run is
what genesis lays down, and after a change of the guard what that did (§7.18). That it is as strict is the writer's
word, where its own terms do not show otherwise.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import functools
import hashlib
import json
import math
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

SAFE = 2**53 - 1  # the integers that a double holds exactly
ENTRY, NOTE, BLOB = 65_535, 1 << 16, 16 << 20  # the most bytes of an entry, a note, and a blob that is parsed
DAY, AHEAD = 86_400, 300  # §11.2, §11.3


class Invalid(Exception):  # noqa: N818 - it is a verdict
    """A MUST that is broken: the clause, what is wrong, and the entry, where it is one."""

    def __init__(self, clause: str, problem: str, entry: int | None = None) -> None:
        super().__init__(problem)
        self.clause, self.problem, self.entry = clause, problem, entry


class Unreadable(Exception):  # noqa: N818 - the reader's own files, not the run's
    """One of the reader's own files cannot be used."""


def need(holds: object, clause: str, problem: str) -> None:
    if not holds:
        raise Invalid(clause, problem)


# -- §1 text, numbers, JSON; files ----------------------------------------------------------------------------------

NUMBER = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
TIME = re.compile(r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|\+00:00)", re.ASCII)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def number(text: str, clause: str) -> int:
    need(NUMBER.fullmatch(text), clause, f"{text[:40]!a} is no decimal number")
    return int(text)


def unbase64(text: str, clause: str) -> bytes:
    """Base64 in its one form (§1.1): what it decodes to is written as it stands, and in no other way."""
    try:
        data = binascii.a2b_base64(text)
    except ValueError:
        data = b""
    if binascii.b2a_base64(data, newline=False).decode() != text:
        raise Invalid(clause, f"not base64 in its one form: {text[:40]!a}")
    return data


def strict_json(data: bytes, limit: int, clause: str) -> Any:
    """Read I-JSON (§1.2): at most so many bytes, 32 deep; the parser's own recursion ends in an error."""
    if len(data) > limit:
        raise Invalid(clause, f"{len(data)} bytes of JSON, where at most {limit} are read")
    try:
        text = data.decode()
        try:
            value, end = DECODER.scan_once(text, 0)
        except StopIteration:
            end = None
        if end != len(text):  # blanks around it, or no JSON
            value = DECODER.decode(text)
        need(text.count("{") + text.count("[") <= 32 or depth(value) <= 32, clause, "nested too deeply")
        if "\\u" in text:  # only an escape can smuggle in a lone surrogate
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:
        raise Invalid(clause, "not UTF-8, or a lone surrogate") from None
    except (ValueError, RecursionError) as error:
        raise Invalid(clause, f"not I-JSON: {error}"[:200]) from None
    return value


def depth(value: Any) -> int:
    inner = value.values() if type(value) is dict else value if type(value) is list else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def integer(text: str) -> int:
    value = int(text)
    if value > SAFE or value < -SAFE or not text.isascii():
        raise ValueError("an integer beyond 2^53 - 1")
    return value


def real(text: str) -> float:
    if not text.isascii() or not math.isfinite(value := float(text)):
        raise ValueError("a number beyond the range of a double")
    return value


DECODER = json.JSONDecoder(parse_int=integer, parse_float=real, parse_constant=integer, object_pairs_hook=members)


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
    return canonical(value).encode("utf-8", "surrogatepass")


def moment(text: Any) -> datetime | None:
    """A time (§1.4), or None where it is none."""
    try:
        return datetime.fromisoformat(text) if TIME.fullmatch(text) else None
    except (TypeError, ValueError):
        return None


@functools.lru_cache(4096)
def straight(folder: Path) -> bool:
    """Whether no link leads to a folder; `verify` has resolved the path of the run itself."""
    return os.path.realpath(folder) == str(folder) and not folder.is_symlink()


def need_folder(folder: Path, clause: str) -> None:
    """What is called a folder here is one, and so are those above it, never links (§4.3)."""
    need(
        straight(folder), {"§3.1": "§4.3", "§4.2": "§4.3"}.get(clause, clause), f"{folder.name} is a link, or below one"
    )


@contextlib.contextmanager
def opened(path: Path, clause: str, limit: int = sys.maxsize) -> Iterator[BinaryIO]:
    """A regular file of at most `limit` bytes; no link is followed, and a pipe does not block."""
    need_folder(path.parent, clause)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            sound = stat.S_ISREG(status.st_mode) and status.st_size <= limit
            need(sound, clause, f"{path}: not a regular file of at most {limit} bytes")
            yield file
    except OSError as error:
        raise Invalid(clause, f"{path}: {error.strerror}") from None


def read(path: Path, limit: int, clause: str) -> bytes:
    with opened(path, clause, limit) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def digest_of(path: Path, clause: str) -> str:
    with opened(path, clause) as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


# -- §2 keys --------------------------------------------------------------------------------------------------------

Key = tuple[str, bytes]  # a name, and 32 bytes
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


def key_id(name: str, key: bytes, kind: int) -> bytes:
    """The four bytes before a signature in a note."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + key).digest()[:4]


def key_line(name: str, key: bytes) -> str:
    return f"{name}+{key_id(name, key, LOG_KEY).hex()}+{base64.b64encode(bytes([LOG_KEY]) + key).decode()}"


def parse_key(line: str, kind: int = LOG_KEY, clause: str = "§2.1") -> Key:
    """A verifier key line."""
    match = VKEY.fullmatch(line)
    material = unbase64(match[3], clause) if match else b""
    if match is None or not is_name(match[1]) or len(material) != 33 or material[0] != kind:
        raise Invalid(clause, f"not a verifier key of type 0x{kind:02x}: {line[:80]!a}")
    same = key_id(match[1], material[1:], kind).hex() == match[2]
    need(same, clause, f"the key id does not belong to this key: {line[:80]!a}")
    need_sound(material[1:], clause)
    return match[1], material[1:]


def need_sound(key: bytes, clause: str) -> None:
    y = int.from_bytes(key, "little") & ((1 << 255) - 1)
    need(y < P and y not in SMALL, clause, "a key that anybody can sign for, or not in its one spelling")


def parse_keys(text: str, kind: int = LOG_KEY) -> list[Key]:
    """Verifier key lines; those of a log bear one name, and none stands twice (§2.2)."""
    keys = [parse_key(line, kind) for line in text.removesuffix("\n").split("\n")[:65]]
    alike = len({name for name, _ in keys}) == 1 and len({key for _, key in keys}) == len(keys)
    need(alike or kind != LOG_KEY, "§2.2", "the keys of a log bear one name, and none stands twice")
    need(len(keys) <= 64, "§2.2", "more than 64 keys")
    return keys


def verified(key: bytes, message: bytes, signature: bytes) -> bool:
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
    plain = not any(character < " " and character != "\n" for character in whole)
    need(gap and block.endswith("\n") and plain, clause, "not a signed note")
    lines = block[:-1].split("\n")
    found = []
    for line in lines[:101]:
        match = SIGNATURE.fullmatch(line)
        blob = unbase64(match[2], clause) if match else b""
        if match is None or not is_name(match[1]) or len(blob) < 5:
            raise Invalid(clause, f"not a signature line: {line[:80]!a}")
        found.append((match[1], blob))
    need(len(lines) <= 100, clause, "more than 100 signature lines")
    return text + "\n", found


def open_head(note: bytes, keys: list[Key], clause: str) -> tuple[tuple[str, int, bytes], set[bytes]]:
    """A tree head (origin, size, root), and which of `keys` signed it; a line by one of them must verify (§3.2)."""
    text, signed = parse_note(note, clause)
    lines, signers = text.split("\n"), set[bytes]()
    whole = len(lines) == 4 and is_name(lines[0])  # a newline ends the text, so the fourth is empty
    need(whole, clause, "a tree head has exactly three lines: origin, size, root")
    root = unbase64(lines[2], clause)
    need(len(root) == 32, clause, f"a root of {len(root)} bytes")
    head = lines[0], number(lines[1], clause), root
    clause = "§3.2" if clause == "§3.1" else clause
    known = {(name, key_id(name, key, LOG_KEY)): key for name, key in keys}
    for name, blob in signed:
        key = known.get((name, blob[:4]))
        if key is not None:
            good = verified(key, text.encode(), blob[4:])
            need(good, clause, f"the signature on the tree head is not that of {name}")
            signers.add(key)
    need(signers, clause, "no signature by a known key on the tree head")
    return head, signers


def cosigned(note: bytes, witnesses: list[Key]) -> dict[bytes, int]:
    """Which witnesses have cosigned a note, and when (§10.1); counted by their 32 bytes."""
    text, lines = parse_note(note, "§3.1")
    known = {(name, key_id(name, key, WITNESS_KEY)): key for name, key in witnesses}
    times: dict[bytes, int] = {}
    for name, blob in lines:
        key = known.get((name, blob[:4]))
        if key is not None:
            seconds = int.from_bytes(blob[4:12], "big")
            need(len(blob) == 76 and seconds < 1 << 63, "§10.1", "a cosignature is 8 bytes of time and 64 more")
            good = verified(key, f"cosignature/v1\ntime {seconds}\n{text}".encode(), blob[12:])
            need(good, "§3.2", f"the cosignature of {name} does not verify")
            times[key] = max(seconds, times.get(key, 0))
    return times


# -- §4 tiles -------------------------------------------------------------------------------------------------------


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def complete(hashes: bytes) -> bytes:
    """The root over 1, 2, 4, … hashes."""
    row = [hashes[at : at + 32] for at in range(0, len(hashes), 32)]
    while len(row) > 1:
        row = [node(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


class Tiles:
    """The tree under one head (RFC 6962 §2.1): no tile is handed out that does not lead to its root."""

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
        whole = functools.reduce(lambda right, left: node(left, right), peaks) if peaks else hashlib.sha256().digest()
        need(whole == root, "§4.2", "the tiles do not lead to the root of the tree head")

    def tile(self, level: int, index: int) -> bytes:
        """The hashes of one tile."""
        if index == self.size >> 8 * level + 8:
            return self.edge[level]
        if (level, index) not in self.cache:
            tile, above = self._fetch(level, index, 256), self.tile(level + 1, index // 256)
            under = complete(tile) == above[index % 256 * 32 :][:32]
            need(under, "§4.2", f"tile {level}/{index} is not the one under the tree head")
            if len(self.cache) > 64:
                self.cache.clear()
            self.cache[level, index] = tile
        return self.cache[level, index]

    def span(self, start: int, stop: int) -> bytes:
        """The hash of the subtree over entries [start, stop), of which the first part is complete."""
        if stop - start & stop - start - 1:
            middle = start + (1 << (stop - start - 1).bit_length() - 1)
            return node(self.span(start, middle), self.span(middle, stop))
        level, inner = divmod((stop - start).bit_length() - 1, 8)
        first = start >> 8 * level
        return complete(self.tile(level, first // 256)[first % 256 * 32 :][: 32 << inner])

    def extends(self, size: int, root: bytes) -> bool:
        """Whether this log, at an earlier size, had that root."""
        return size <= self.size and root == (self.span(0, size) if size else hashlib.sha256().digest())

    def entries(self, index: int) -> list[bytes]:
        """The entries below tile 0/`index`, each under its hash."""
        tile = self.tile(0, index)
        data, at, found = self._file(None, index, len(tile) // 32), 0, list[bytes]()
        for place in range(0, len(tile), 32):
            start, at = at + 2, at + 2 + int.from_bytes(data[at : at + 2], "big")
            entry = data[start:at]
            if at > len(data) or hashlib.sha256(b"\x00" + entry).digest() != tile[place : place + 32]:
                raise Invalid("§4.2", "not the entry under the tree head", index * 256 + place // 32)
            found.append(entry)
        need(at == len(data), "§4.2", f"bytes after the last entry of bundle {index}")
        return found

    def _fetch(self, level: int, index: int, width: int) -> bytes:
        tile = self._file(level, index, width)
        need(len(tile) == width * 32, "§4.2", f"tile {level}/{index} has {len(tile)} bytes, not {width * 32}")
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
        need_folder(partial, "§4.3")
        if os.path.lexists(partial / str(width)):
            return read(partial / str(width), limit, "§4.3")
        wider = full
        with contextlib.suppress(OSError):
            names = [name for name in os.listdir(partial) if re.fullmatch(r"[1-9][0-9]{0,2}", name, re.ASCII)]
            widths = [int(name) for name in names if width < int(name) < 256]
            wider = partial / str(min(widths)) if widths else full
        data, at = read(wider, limit, "§4.2"), 0
        for _ in range(width):  # the front of it
            at += 32 if level is not None else 2 + int.from_bytes(data[at : at + 2], "big")
        return data[:at]


# -- §5 entries -----------------------------------------------------------------------------------------------------

PAYLOAD = "application/vnd.in-toto+json"
PAE = b"DSSEv1 %d %b " % (len(PAYLOAD), PAYLOAD.encode())
PREFIX, SUMMARY = "urn:lockgate:entry:v1:", "https://slsa.dev/verification_summary/v1"


@functools.lru_cache(1)
def between(key: bytes) -> bytes:
    """What stands between payload and signature in an envelope as writers write it."""
    return b'","payloadType":"%b","signatures":[{"keyid":"%b","sig":"' % (PAYLOAD.encode(), sha256(key).encode())


def unsealed(raw: bytes, key: bytes) -> tuple[bytes, list[bytes]]:
    """Payload and signatures of an envelope (§5.1)."""
    middle = between(key)
    with contextlib.suppress(ValueError):
        payload, sig = map(binascii.a2b_base64, raw[12:-4].partition(middle)[::2])
        again = binascii.b2a_base64(payload, newline=False), middle, binascii.b2a_base64(sig, newline=False)
        if raw == b'{"payload":"%b%b%b"}]}' % again:  # as writers write it, so nothing else is in it
            return payload, [sig]
    envelope = strict_json(raw, ENTRY, "§5.1")
    if misfit("envelope", envelope) is not None or not 1 <= len(envelope["signatures"]) <= 2:
        raise Invalid("§5.1", f"not a DSSE envelope over {PAYLOAD}")
    return unbase64(envelope["payload"], "§5.1"), [unbase64(each["sig"], "§5.1") for each in envelope["signatures"]]


def open_entry(raw: bytes, name: str, key: bytes, *, signed: bool = True) -> tuple[str, dict[str, Any]]:
    """Kind and body of an entry; the signature by `key` is verified before the payload is parsed."""
    payload, made = unsealed(raw, key)
    message = b"%b%d %b" % (PAE, len(payload), payload)
    if signed and not verified(key, message, made[0]):
        raise Invalid("§5.3", f"the signature is not that of {name}, the key in force")
    statement = strict_json(payload, ENTRY, "§1.2")
    need(misfit("statement", statement) is None, "§5.5", "not an in-toto statement")
    kind, body = statement["predicateType"], statement["predicate"]
    if kind == SUMMARY:
        kind, body = "authorised", from_summary(name, body)
    elif kind.startswith(PREFIX) and kind != PREFIX + "authorised":
        kind = kind[len(PREFIX) :]
    else:
        raise Invalid("§5.6", "a predicate that is none of these kinds")
    if kind not in FIELDS:
        raise Invalid("§6", f"unknown kind of entry {kind[:60]!a}")
    wrong = misfit(kind, body)
    if wrong is not None:
        raise Invalid("§6", f"{kind}: the member {wrong[:60]!a} is missing, unknown or of another type")
    need(statement["subject"] == subjects(kind, body, name), "§5.8", "the subjects are not those of the body")
    need(len(made) == (2 if kind == "key-rotated" else 1), "§5.3", "a signature more or less than its kind has")
    if kind == "key-rotated" and signed:
        new = parse_key(body["new"], LOG_KEY, "§5.4")[1]
        need(verified(new, message, made[1]), "§5.4", "the new key has not signed its rotation")
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
    need(predicate == follows, "§5.7", "the summary does not follow from the authorisation in it")
    return {"time": predicate["timeVerified"], **inner}


def subjects(kind: str, body: dict[str, Any], origin: str) -> list[dict[str, Any]]:
    """What an entry is about (§5.8)."""
    for name in ("candidate", "baseline", "document", "evidence", "answers", "hold", "guard"):
        value = body.get(name)
        if value is not None:
            break
    else:
        name, value = "run", sha256(origin.encode())
    about = [{"name": name, "digest": {"sha256": (value if type(value) is str else value["digest"])[7:]}}]
    if kind == "authorised":
        about.append({"name": "weights.safetensors", "digest": {"sha256": body["weights"][7:]}})
    return about


ECDSA: dict[str, HashAlgorithm] = {
    "ecdsa-sha2-nistp256": SHA256(), "ecdsa-sha2-nistp384": SHA384(), "ecdsa-sha2-nistp521": SHA512(),
    "sk-ecdsa-sha2-nistp256@openssh.com": SHA256(),
}  # fmt: skip
SSH_KINDS = {"ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ssh-rsa", *ECDSA}


def strings(data: bytes) -> list[bytes]:
    """Length-prefixed strings (RFC 4251 §5), nothing after the last one; ValueError."""
    found = []
    while data:
        end = 4 + int.from_bytes(data[:4], "big")
        if len(data) < max(4, end):
            raise ValueError("cut")
        found.append(data[4:end])
        data = data[end:]
    return found


def ssh_signer(signature: str, message: bytes, clause: str) -> str:
    """The key (type, space, base64) whose signature it is, over this message, for our namespace (§5.9)."""
    try:
        return ssh_verified(unbase64(signature, clause), message, clause)
    except (ValueError, UnsupportedAlgorithm, NotImplementedError, InvalidSignature) as error:
        raise Invalid(clause, f"an SSH signature that does not verify: {error}"[:200]) from None


def ssh_verified(data: bytes, message: bytes, clause: str) -> str:
    blob, space, reserved, hashing, made = strings(data[10:])  # PROTOCOL.sshsig; any other number is a ValueError
    need(len(data) <= 4096 and data[:10] == b"SSHSIG\0\0\0\1", clause, "not an SSH signature of version 1")
    need(space == b"lockgate-approval" and hashing in (b"sha256", b"sha512"), clause, "for another purpose")
    hashed = hashlib.new(hashing.decode(), message).digest()
    signed = b"SSHSIG" + b"".join(len(each).to_bytes(4, "big") + each for each in (space, reserved, hashing, hashed))
    kind, *parts = strings(blob)
    name = kind.decode("ascii")
    need(name in SSH_KINDS, clause, f"a key of type {name[:40]!a}")
    line = f"{name} {base64.b64encode(blob).decode()}"
    key = load_ssh_public_key(line.encode())
    spelled = name.startswith("sk-") or key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() == line
    need(spelled, clause, "a key that is not in its one spelling")
    end = 8 + int.from_bytes(made[:4], "big")  # algorithm, signature, and what a token adds
    end += int.from_bytes(made[end - 4 : end], "big")
    (algorithm, raw), added = strings(made[:end]), made[end:]
    if name.startswith("sk-"):  # PROTOCOL.u2f: flags, of which 1 is the user's presence, and a counter
        need(len(added) == 5 and added[0] & 1, clause, "nobody touched the hardware key")
        signed = hashlib.sha256(parts[-1]).digest() + added + hashlib.sha256(signed).digest()
    need(name.startswith("sk-") or not added, clause, "bytes after the signature")
    if isinstance(key, rsa.RSAPublicKey):
        with_rsa = {b"rsa-sha2-256": SHA256(), b"rsa-sha2-512": SHA512()}.get(algorithm)
        need(
            with_rsa and 2048 <= key.key_size <= 8192, clause, "an RSA key or signature that is too weak, or too large"
        )
        key.verify(raw, signed, padding.PKCS1v15(), with_rsa or SHA512())
        return line
    need(algorithm == kind, clause, "a signature of another kind than its key")
    if isinstance(key, Ed25519PublicKey):
        need_sound(parts[0], clause)
        key.verify(raw, signed)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        r, s = (int.from_bytes(each, "big", signed=True) for each in strings(raw))
        need(min(r, s) > 0, clause, "no ECDSA signature")
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(ECDSA[name]))
    return line


# -- §6 bodies ------------------------------------------------------------------------------------------------------

GUARD = (
    "origin s, config o, guard d, policies d, policy_sources d, eval_kinds {s}, approvers [A], data d, vault_items i, "
    "harness s"
)
BODIES = {
    "genesis": f"{GUARD}, seed i, baseline C, development {{n}}, answers d, ?asked d, "
    "?properties {held}, ?counterexamples d, training d, vault_commitment d, "
    "vault_minimum i, vault_named b",
    "started": "nonce s, isolation s, device s, ledger_size i, ledger_root h",
    "proposed": "number i, generation i, index i, proposer s, scripted b, label s, document d",
    "screened": "number i, base d, recipe o, source d, change d, document d, judgement d, "
    "outcome pass|deny|hold|invalid, failed [s]",
    "held": "origin s, number i, stage screen|decide, incumbent d, guard d, policies d, document d, judgement d, "
    "rules [s], expires t, ?candidate d, ?gates [s]",
    "approved": "?number i, hold d, by s, key s, reason s, signature s",
    "refused": "?number i, hold d, by s, key s, reason s, signature s",
    "guard-proposed": f"{GUARD}, base d, comparison d, verdict at-least-as-strict|weaker|unknown, by s, reason s, "
    "expires t",
    "guard-rejected": "hold d, reason s",
    "guard-changed": "hold d, guard d, policies d, approvals [d], development {{n}}",
    "built": "number i, candidate C, steps i, seconds n, peak_mb n, ?read [s]",
    "developed": "number i, development {n}, answers d, ?asked d, ?properties {held|refuted}, ?counterexamples d, "
    "?flops i",
    "staked": "number i, epoch i, test i, alpha n, incumbent d, offset i, cap i, items d, ledger_size i, ledger_root h",
    "predicted": "candidate d, epoch i, offset i, cap i, answers d, ?asked d, ?number i",
    "measured": "number i, passed b, gates [G], evidence d, ?charged n, ?timed E",
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
    "D": "verdict promote|reject, reasons [R]",
    "E": "seconds [n], incumbent_seconds [n], peak_mb n, incumbent_peak_mb n",
    "A": "name name, role role, key key",
    "R": "code r, text s",
    "S": "keyid s, sig s",
    "envelope": f"payload s, payloadType {PAYLOAD}, signatures [S]",  # §5.1
    "statement": "_type https://in-toto.io/Statement/v1, predicateType s, subject l, predicate o",  # §5.5
    "tree": "source {d}",  # §8.2
    # what --save writes, appendix A
    "saved": "head s, state Z, digest d",
    "Z": "size i, keys [s], terms N, ?change K, guards [d], ?ledger l, count i, open {P}, versions [V], live i, "
    "epoch i, answered {b}, ?stake i, tests i, alphas n, burned i, used i, permits {U}, nonces [s], ?intent I, "
    "unwatched b, halted b, time t, people {i}",
    "N": "origin s, guard d, policies d, vault_named b, promotions i, delta n, fresh b, gates [l], witnesses l, "
    "agree i, approvers [A], data d, vault_items i",
    "K": "hold H, by s, free b, terms N",
    "P": "?screened s, ?built C, ?developed b, ?staked T, ?measured M, ?verdict s, ?permit i, ended b, proposer s, "
    "?shown F, ?hold H, ?over d, asked b, approvals [d]",
    "F": "base d, recipe o, source d, change d, document d, judgement d",
    "H": "stage screen|decide|guard, incumbent d, expires t, digest d, approvals [d], refused b, answered [s]",
    "T": "epoch i, incumbent d, ?alpha n",
    "M": "passed b, evidence d, ceilings [s]",
    "V": "candidate C, index i, raw d",
    "U": "number i, version i, candidate d, incumbent d, expires t, raw d",
    "I": "action promote|rollback, version i, candidate d, ?authorisation i",
}
CODES = set(
    "passed malformed unknown-base invalid-recipe no-op undeclared duplicate policy build-failed build-timeout "  # noqa: SIM905
    "build-memory build-output non-finite predict-failed predict-output property development gate-objective "
    "gate-capability gate-alignment gate-robustness inconclusive hold-unanswered hold-refused vault-exhausted budget "
    "evaluator-failed judge-failed interrupted internal".split()
)
Check = Callable[[Any], object]  # truth, or a TypeError, which is no
TYPES: dict[str, Check] = {
    "i": lambda x: type(x) is int and x >= 0,
    "n": lambda x: type(x) in (int, float),
    "s": lambda x: type(x) is str,
    "b": lambda x: type(x) is bool,
    "o": lambda x: type(x) is dict,
    "l": lambda x: type(x) is list,
    "d": DIGEST.fullmatch,
    "h": HEX.fullmatch,
    "t": moment,
    "r": CODES.__contains__,
    "name": re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}").fullmatch,
    "role": re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}").fullmatch,
    "key": lambda x: type(x) is str and len(x) <= 3000,
}


def check_of(kind: str) -> Check:
    """The check of one type of §6."""
    if kind in TYPES:
        return TYPES[kind]
    if kind in RECORDS:
        return lambda x: misfit(kind, x) is None
    if kind[0] in "[{":
        inner, container = check_of(kind[1:-1]), list if kind[0] == "[" else dict
        return lambda x: type(x) is container and all(map(inner, x.values() if type(x) is dict else x))
    return frozenset(kind.split("|")).__contains__


def fields(text: str) -> dict[str, tuple[bool, Check]]:
    """Member → (optional?, check), from one row of §6."""
    rows = [row.strip().split(" ") for row in text.split(",")]
    return {name.removeprefix("?"): (name[0] == "?", check_of(kind)) for name, kind in rows}


FIELDS = {kind: fields(text + ", time t") for kind, text in BODIES.items()}
SHAPES = FIELDS | {kind: fields(text) for kind, text in RECORDS.items()}


def misfit(kind: str, value: Any) -> str | None:
    """The first member that is missing, unknown or of another type; None where all fit (§6)."""
    if type(value) is not dict:
        return kind
    for name, (optional, check) in SHAPES[kind].items():
        member = value.get(name)
        try:
            if not (optional if member is None else check(member)):
                return name
        except TypeError:
            return name
    return None if value.keys() <= SHAPES[kind].keys() else min(value.keys() - SHAPES[kind].keys())


# -- §7 order -------------------------------------------------------------------------------------------------------

State = dict[str, Any]  # JSON, so that --save can write it (appendix A)


def beginning(keys: list[Key]) -> State:
    """The state before entry 0."""
    return {
        "size": 0, "keys": [key_line(*keys[0])], "terms": None, "change": None, "guards": [], "ledger": None,
        "count": 0, "open": {}, "versions": [], "live": 0, "epoch": 1, "answered": {}, "stake": None, "tests": 0,
        "alphas": 0.0, "burned": 0, "used": 0, "permits": {}, "nonces": [], "intent": None,
        "unwatched": False, "halted": False, "time": "", "people": {},
    }  # fmt: skip


def proposal(s: State, body: dict[str, Any], clause: str, *verdicts: str | None) -> dict[str, Any]:
    """What is known of a proposal that has not come to its end, and whose last decision is one of these."""
    found: dict[str, Any] = s["open"].get(str(body["number"]))
    need(found, clause, f"proposal {body['number']} is unknown, or has come to its end")
    need(found["verdict"] in verdicts, clause, "the last decision of the proposal is another")
    return found


def live(s: State) -> str:
    """The digest of the live candidate."""
    return str(s["versions"][s["live"]]["candidate"]["digest"])


def configured(config: dict[str, Any]) -> dict[str, Any]:
    """What §6 and §10.3 read of the configuration."""
    try:
        promotions, delta = config["budgets"]["promotions"], config["ledger"]["delta"]
        items = config["ledger"].get("items", "scarce")
        gates = sorted([gate["eval"], gate["kind"]] for gate in config["gates"])
        rule, people = config.get("witnesses") or {"require": 0, "of": []}, config.get("approvers")
        required, lines = rule["require"], [each["key"] for each in rule["of"]]
        agree = 0 if people is None else people["require"]
        sound = type(promotions) is int and promotions > 0 and type(delta) is float and 0 < delta < 0.5
        sound = sound and items in ("scarce", "fresh")
        sound = sound and len({tuple(gate) for gate in gates}) == len(gates) > 0
        sound = sound and all(type(text) is str for text in sum(gates, lines))
        sound = sound and type(required) is int and 0 <= required <= len(lines)
        sound = sound and type(agree) is int and agree >= (people is not None)
    except (KeyError, TypeError, AttributeError):
        sound = False
    need(sound, "§6", "a configuration without its gates, its budgets, or a quorum that can be")
    told = {"promotions": promotions, "delta": delta, "fresh": items == "fresh", "gates": gates, "agree": agree}
    return told | {"witnesses": [required, *lines]}


def laid_down(body: dict[str, Any], clause: str) -> dict[str, Any]:
    """What is in force where a guard is: that of genesis, or another one that was proposed."""
    terms, people = configured(body["config"]), body["approvers"]
    terms |= {name: body[name] for name in ("origin", "guard", "policies", "approvers", "data", "vault_items")}
    agree, names = terms["agree"], {each["name"] for each in people}
    need(len(names) >= agree and (agree or not names), clause, "fewer approvers than must agree, or some for nothing")
    need(len({each["key"] for each in people}) == len(people), clause, "one key, listed twice")
    need(len({(each["name"], each["role"]) for each in people}) == len(names), clause, "an approver in two roles")
    return terms


def lowered(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether the terms alone show that another guard is not as strict (§7.18)."""
    if any(gate not in new["gates"] for gate in old["gates"]) or new["promotions"] > old["promotions"]:
        return True
    same = sorted(map(canonical, old["approvers"])) == sorted(map(canonical, new["approvers"]))
    return bool(new["agree"]) and not (same and old["agree"] <= new["agree"])


def next_epoch(s: State) -> None:
    s["epoch"], s["tests"], s["answered"] = s["epoch"] + 1, s["tests"] if s["terms"]["fresh"] else 0, {}


def share(test: int) -> float:
    """Which part of what is left a test of fresh items may stake: test^-1.2 over the sum from there on (§7.6)."""
    far = max(test, 1000)
    beyond = 5 * far**-0.2 + far**-1.2 / 2 + far**-2.2 / 10  # Euler and Maclaurin, to 3e-15
    return float(test**-1.2 / (math.fsum(j**-1.2 for j in range(test, far)) + beyond))


def spend(s: State, body: dict[str, Any]) -> None:
    """Spent error comes back from no backup (§7.3)."""
    size, root = s["ledger"] or [-1, ""]
    grown = body["ledger_size"] > size or (body["ledger_size"] == size and body["ledger_root"] == root)
    need(grown, "§7.3", "the vault's ledger has shrunk or changed")
    s["ledger"] = [body["ledger_size"], body["ledger_root"]]


CLAUSES = {
    "genesis": "§7.1", "started": "§7.3", "proposed": "§7.4", "screened": "§7.5", "built": "§7.5", "developed": "§7.5",
    "staked": "§7.6", "predicted": "§7.7", "measured": "§7.8", "decided": "§7.9", "authorised": "§7.10",
    "intended": "§7.11", "promoted": "§7.12", "rolled-back": "§7.12", "watched": "§7.13", "voided": "§7.14",
    "halted": "§7.15", "resumed": "§7.15", "key-rotated": "§7.16", "held": "§7.17", "approved": "§7.17",
    "refused": "§7.17", "guard-proposed": "§7.18", "guard-rejected": "§7.18", "guard-changed": "§7.18",
}  # fmt: skip
STAGES = ("screened", "built", "developed", "staked", "measured")
UNTOUCHED = dict.fromkeys((*STAGES, "verdict", "permit", "shown", "hold", "over"))


def waiting(named: str, stage: str, incumbent: str, expires: str) -> dict[str, Any]:
    """A hold that nobody has answered."""
    begun = {"digest": named, "approvals": [], "refused": False, "answered": []}
    return begun | {"stage": stage, "incumbent": incumbent, "expires": expires}


def let_go(s: State, found: dict[str, Any], stage: str, body: dict[str, Any], clause: str) -> None:
    """People have let a held proposal go on (§7.17): as many as must agree, in time, over this incumbent."""
    hold = found["hold"]
    good = hold["stage"] == stage and not hold["refused"] and len(hold["approvals"]) >= s["terms"]["agree"]
    good = good and hold["incumbent"] == live(s) and earlier(body["time"], hold["expires"])
    need(good, clause, "held, and people have not let it go on")
    found["hold"], found["asked"] = None, stage == "decide"
    found["approvals"] += hold["approvals"]


def earlier(time: str, end: str) -> bool:
    return datetime.fromisoformat(time) < datetime.fromisoformat(end)


def fold(s: State, kind: str, body: dict[str, Any], raw: bytes) -> None:
    """Let one entry change the state, or refuse it where it stands."""
    index, intent, run, clause = s["size"], s["intent"], s["terms"], CLAUSES[kind]
    need((kind == "genesis") == (index == 0), "§7.1", "genesis is entry 0, and no other")
    if intent and kind not in ("promoted", "rolled-back", "voided", "started", "halted"):
        raise Invalid("§7.2", "an intent is open: its outcome comes first")
    found: dict[str, Any] = {}
    if kind in STAGES or kind == "decided":
        found = proposal(s, body, clause, None)
        need(kind in ("screened", "decided") or not found["hold"], clause, "held: people have not answered")
    elif kind in ("approved", "refused") and body.get("number") is None:
        found, clause = s["change"], "§7.18"
        need(found, clause, "no change of the guard is open")
    elif kind in ("held", "approved", "refused"):
        found = proposal(s, body, clause, None)
        need(bool(found["hold"]) == (kind != "held"), clause, "held already, or not held")
    elif kind in ("authorised", "voided"):
        found = proposal(s, body, clause, "promote")

    def must(holds: object, problem: str) -> None:
        if not holds:
            raise Invalid(clause, problem)

    match kind:
        case "genesis":
            s["terms"] = laid_down(body, clause) | {"vault_named": body["vault_named"]}
            must(body["origin"] == parse_key(s["keys"][0])[0], "the origin is not the log's")
            s["versions"] = [{"candidate": body["baseline"], "index": 0, "raw": sha256(raw)}]
        case "started":
            spend(s, body)
        case "proposed":
            must(body["number"] == s["count"] + 1, "a number that is not the next")
            s["count"] += 1
            fresh = {"proposer": body["proposer"], "ended": False, "asked": False, "approvals": []}
            s["open"][str(body["number"])] = UNTOUCHED | fresh
        case "screened":
            shown = {name: body[name] for name in ("base", "recipe", "source", "change", "document", "judgement")}
            if found["hold"] and found["shown"]:
                same = all(shown[name] == found["shown"][name] for name in ("base", "recipe", "source", "change"))
                must(same and body["outcome"] == "pass", "the second screen is of another change, or not `pass`")
                let_go(s, found, "screen", body, clause)
                found["over"] = live(s)
            else:
                must(not found["screened"], "screened already")
            found["screened"], found["shown"] = body["outcome"], shown if body["outcome"] == "hold" else None
        case "held":
            about = ("origin", "guard", "policies")
            must(run["agree"], "the run has no approvers")
            must(all(body[name] == run[name] for name in about), "another log, guard or policies than this run's")
            must(body["incumbent"] == live(s), "another incumbent than the live one")
            asks = body["rules"] or body.get("gates")
            must(asks and earlier(body["time"], body["expires"]), "nothing that asks, or expired at once")
            measured = found["measured"] if body["stage"] == "decide" else None
            gates = measured["ceilings"] if measured else []
            must(body.get("gates") == (gates or None), "other gates than those that ask for people")
            if body["stage"] == "screen":
                shown = found["shown"] or {}
                same = all(shown.get(name) == body[name] for name in ("document", "judgement"))
                must(same and body.get("candidate") is None, "no screen asks for people, or another one")
            else:
                good = measured and (measured["passed"] or gates) and not found["asked"]
                must(good, "its gates have not passed, or people have answered this")
                must(body.get("candidate") == found["built"]["digest"], "another candidate than the one measured")
            known = {name: value for name, value in body.items() if name != "gates" or value is not None}
            named = sha256(encoded({"candidate": None} | known))
            found["hold"] = waiting(named, body["stage"], body["incumbent"], body["expires"])
        case "approved" | "refused":
            hold, verdict = found["hold"], {"approved": "approve"}.get(kind, "refuse")
            must(body["hold"] == hold["digest"], "an answer to another hold")
            must(not hold["refused"], "refused already: nothing more is answered")
            said = encoded({"hold": body["hold"], "reason": body["reason"], "verdict": verdict})
            must(body["key"] == ssh_signer(body["signature"], said, clause), "not signed by the key that it names")
            who = body["by"], body["key"]
            roles = [each["role"] for each in run["approvers"] if (each["name"], each["key"]) == who]
            must(roles, "the key is none of the approvers', or under another name")
            must(body["by"] != found.get("proposer", found.get("by")), "an answer to one's own proposal")
            must(not {body["by"], body["key"]} & {*hold["answered"]}, "answered already")
            must(earlier(body["time"], hold["expires"]), "the hold has expired")
            hold["answered"] += [body["by"], body["key"]]
            hold["refused"] = kind == "refused"
            hold["approvals"] += [sha256(encoded({"number": None} | body))] if kind == "approved" else []
            s["people"].setdefault(f"{body['by']} {roles[0]} {body['key']}", index)
        case "guard-proposed":
            new, named, same = run | laid_down(body, clause), sha256(encoded(body)), body["data"] == run["data"]
            must(s["change"] is None, "another change of the guard is open")
            must(named not in s["guards"], "the very body that was proposed before")
            must(
                body["origin"] == run["origin"] and body["base"] == run["guard"], "another log or guard than this run's"
            )
            must(not same or body["guard"] != run["guard"], "nothing that it would change")
            for_good = ("delta", "fresh", "witnesses")
            must(all(new[name] == run[name] for name in for_good), "another delta, other items or other witnesses")
            more = body["vault_items"] - run["vault_items"]
            must(more == 0 if same else more > 0, "held-out items are only ever added")
            must(earlier(body["time"], body["expires"]), "expired at once")
            free = body["verdict"] == "at-least-as-strict"
            must(not free or not lowered(run, new), "said to be as strict, and not so by its own terms")
            hold = waiting(named, "guard", body["base"], body["expires"])
            s["change"] = {"hold": hold, "by": body["by"], "free": free and same, "terms": new}
            s["guards"].append(named)
        case "guard-rejected" | "guard-changed":
            change = s["change"]
            must(change and body["hold"] == change["hold"]["digest"], "no such change of the guard is open")
            if kind == "guard-rejected":
                must(body["reason"], "rejected without a reason")
            else:
                hold, new = change["hold"], change["terms"]
                must(all(body[name] == new[name] for name in ("guard", "policies")), "another guard than proposed")
                must(not s["open"], "a proposal has not come to its end")
                must(not s["unwatched"], "a promotion waits for its smoke test")
                must(not hold["refused"] and earlier(body["time"], hold["expires"]), "refused, or expired")
                must(change["free"] or 0 < run["agree"] <= len(hold["approvals"]), "people have not let it go on")
                must(body["approvals"] == hold["approvals"], "other approvals than those given")
                known = {each["candidate"]["digest"] for each in s["versions"]}
                must(body["development"].keys() <= known, "development metrics of what was never live")
                s["terms"] = new
                next_epoch(s)
            s["change"] = None
        case "built":
            must(not found["built"] and found["screened"] == "pass", "built already, or not through the screen")
            found["built"] = body["candidate"]
        case "developed":
            must(found["developed"] is None and found["built"], "developed already, or not built")
            found["developed"] = "refuted" not in (body.get("properties") or {}).values()
        case "staked":
            must(not found["staked"] and found["developed"] is not None, "staked already, or not developed")
            must(found["developed"], "a property is refuted: nothing is staked on it")
            must(not any(each["hold"] for each in s["open"].values()), "a hold is open: nothing is tested meanwhile")
            must(s["stake"] is None, "another stake is open")
            must(body["epoch"] == s["epoch"] and body["incumbent"] == live(s), "of another epoch or incumbent")
            must(found["over"] in (None, body["incumbent"]), "people let it go on over another incumbent")
            spend(s, body)
            delta, alpha, test = run["delta"], body["alpha"], body["test"]
            must(alpha > 0 and s["alphas"] + alpha <= delta, "more is staked than the budget of error allows")
            own, named, offset = s["tests"] + 1, run["vault_named"], body["offset"]
            if run["fresh"]:
                must(test == own or (named and test > own), f"expected test {own} of the ledger's life")
                must(offset == s["used"] or (named and offset > s["used"]), "items that were asked before, or left out")
                rule = (delta - s["alphas"]) * share(test)
                low = named or alpha >= rule * (1 - 1e-12)
                must(low and alpha <= rule * (1 + 1e-12), f"the rule gives alpha {rule!r}")
                own = test
            else:
                must(offset >= s["burned"], "items that are burned")
            if not run["fresh"] and not named:
                must(offset <= (s["burned"] if s["tests"] else s["used"]), "items left out that no test burned")
                must(test == own, f"expected test {own}")
                rule = delta * test**-1.2 * body["epoch"] ** -1.2 / 5.5916**2
                must(math.isclose(alpha, rule, rel_tol=1e-12), f"the rule gives alpha {rule!r}")
            found["staked"] = {"epoch": body["epoch"], "incumbent": body["incumbent"]}
            found["staked"]["alpha"] = alpha if run["fresh"] else None
            s["stake"], s["tests"], s["alphas"] = body["number"], own, s["alphas"] + alpha
            s["burned"], s["used"] = offset, offset + body["cap"]
        case "predicted":
            asked = f"{body['candidate']} {body['offset']} {body['cap']}"
            must(body["epoch"] == s["epoch"], "answers to another epoch's items")
            must(asked not in s["answered"], "these items were answered already")
            s["answered"][asked] = True
        case "measured":
            gates, passed = body["gates"], body["passed"]
            must(s["stake"] == body["number"], "not the open stake's")
            must(gates and passed == all(gate["verdict"] == "pass" for gate in gates), "`passed` does not follow")
            pairs = sorted([gate["eval"], gate["kind"]] for gate in gates)
            must(pairs == run["gates"], "other gates than those of the configuration")
            named = all(gate["name"].partition("@")[0] == f"{gate['eval']}/{gate['kind']}" for gate in gates)
            must(named, "a gate under another's name")
            charged, alpha = body.get("charged"), found["staked"]["alpha"]
            must((charged is None) == (alpha is None), "what a test costs is said of fresh items, and only of them")
            if alpha is not None:
                must(0 <= charged <= alpha, "a test costs no more than its stake, and no less than nothing")
                must(not (passed and charged), "a test that passed costs nothing")
                s["alphas"] -= alpha - charged
            missed = [gate for gate in gates if gate["verdict"] != "pass"]
            only = all(gate["kind"] == "ceiling" for gate in missed)
            asking = sorted(f"{gate['eval']}/{gate['kind']}" for gate in missed) if only else []
            found["measured"] = {"passed": passed, "evidence": body["evidence"], "ceilings": asking}
            s["stake"] = None
        case "decided":
            verdict, measured = body["decision"]["verdict"], found["measured"]
            good = measured and (measured["passed"] or (measured["ceilings"] and found["hold"]))
            must(verdict != "promote" or good, "promoted without a passed measurement, or without those to be asked")
            must(verdict == "promote" or body["decision"]["reasons"], "not promoted, without a reason")
            if found["hold"] and verdict == "promote":
                let_go(s, found, "decide", body, clause)
            s["stake"] = None if s["stake"] == body["number"] else s["stake"]
            found["verdict"], found["ended"] = verdict, verdict == "reject"
        case "authorised":
            made, staked = found["built"], found["staked"]
            must(found["permit"] is None, "authorised already")
            must(staked["epoch"] == s["epoch"], "the epoch of its test has ended")
            must(not s["halted"], "the run is halted")
            must(body["candidate"] == made["digest"], "another candidate than the one decided on")
            must(body["weights"] == made["weights"], "other weights than those decided on")
            must(body["evidence"] == found["measured"]["evidence"], "other evidence than the one decided on")
            must(body["guard"] == run["guard"] and body["policies"] == run["policies"], "another guard")
            must(body["incumbent"] == live(s) == staked["incumbent"], "the incumbent has moved")
            must(body["version"] == len(s["versions"]), f"expected version {len(s['versions'])}")
            must(len(s["versions"]) - 1 < run["promotions"], "the budget of promotions is spent")
            must(body["approvals"] == found["approvals"], "other approvals than those by which it went on")
            must(body["nonce"] not in s["nonces"], "its nonce was used before")
            found["permit"] = index
            s["nonces"].append(body["nonce"])
            names = ("number", "version", "candidate", "incumbent", "expires")
            s["permits"][str(index)] = {**{name: body[name] for name in names}, "raw": sha256(raw)}
        case "intended":
            version, candidate, used = body["version"], body["candidate"], body.get("authorisation")
            if body["action"] == "promote":
                permit = s["permits"].get(str(used))
                must(permit, "no unused authorisation stands behind it")
                must(not s["halted"], "the run is halted")
                must((permit["version"], permit["candidate"]) == (version, candidate), "another than was authorised")
                must(permit["incumbent"] == live(s), "the incumbent has moved")
                epoch = s["open"][str(permit["number"])]["staked"]["epoch"]
                must(epoch == s["epoch"], "the epoch of its test has ended")
                must(earlier(body["time"], permit["expires"]), "the authorisation has expired")
            else:
                must(version < len(s["versions"]) and version != s["live"], "no earlier version, or live already")
                must(
                    s["versions"][version]["candidate"]["digest"] == candidate, "another candidate than that version's"
                )
                must(used is None, "a rollback uses no authorisation")
            s["intent"] = {"action": body["action"], "version": version, "candidate": candidate, "authorisation": used}
        case "promoted" | "rolled-back":
            must(intent and intent["action"] == {"promoted": "promote"}.get(kind, "rollback"), "no such intent is open")
            same = (intent["version"], intent["candidate"]) == (body["version"], body["candidate"])
            must(same, "another version than the one intended")
            if kind == "promoted":
                permit, found = s["permits"].pop(str(intent["authorisation"])), s["open"].get(str(body["number"]))
                must(permit["number"] == body["number"], "another proposal than the one authorised")
                known = {"candidate": found["built"], "index": intent["authorisation"], "raw": permit["raw"]}
                s["versions"].append(known)
                found["ended"] = True
                s["burned"] += 1  # it scored one item at least
            else:
                s["stake"] = None
            s["intent"], s["live"], s["unwatched"] = None, body["version"], kind == "promoted"
            next_epoch(s)
        case "watched":
            same = (body["version"], body["candidate"]) == (s["live"], live(s))
            must(s["unwatched"] and same, "no promotion waits for its smoke test")
            must(body["ok"] == (body.get("answers") == body["expected"]), "`ok` does not follow from the answers")
            s["unwatched"] = False
        case "voided":
            own = found["permit"] is not None and intent and intent["authorisation"] == found["permit"]
            must(own or not intent, "another intent is open")
            s["permits"].pop(str(found["permit"]), None)
            s["intent"], found["ended"] = None, True
        case "halted":
            s["halted"] = True
        case "resumed":
            must(s["halted"], "the run is not halted")
            s["halted"] = False
        case "key-rotated":
            name, new = parse_key(body["new"], LOG_KEY, clause)
            before = [parse_key(line) for line in s["keys"]]
            must(body["old"] == s["keys"][-1], "`old` is not the key in force")
            must(name == before[0][0] and new not in [key for _, key in before], "another name, or in force before")
            s["keys"].append(body["new"])
    if found and found.get("ended"):
        del s["open"][str(body["number"])]  # of what has come to its end, nothing is asked any more
    s["size"], s["time"] = index + 1, body["time"]


# -- §8 blobs, §9 models --------------------------------------------------------------------------------------------


def check_blobs(run: Path, body: dict[str, Any], seen: dict[str, None]) -> None:
    """Every blob that an entry names is there, byte for byte, and every file of its source tree."""
    members = ("document", "change", "judgement", "answers", "asked", "counterexamples", "evidence", "policy_sources",
               "comparison")  # fmt: skip
    names = [body.get(name) for name in members]
    record = body.get("candidate", body.get("baseline"))
    if type(record) is dict:
        names += [record[name] for name in ("weights", "schema_digest")]
        data = read(blob_path(run, record["source"]), BLOB, "§8.1")
        need(sha256(data) == record["source"], "§8.1", f"the blob {record['source']} has other bytes")
        manifest = strict_json(data, BLOB, "§8.2")
        need(misfit("tree", {"source": manifest}) is None, "§8.2", "a source tree is an object, path to digest")
        names += manifest.values()
        seen[record["source"]] = None
    for name in names:
        if name is not None and name not in seen:
            need(digest_of(blob_path(run, name), "§8.1") == name, "§8.1", f"the blob {name} has other bytes")
            seen[name] = None
            if len(seen) > 4096:
                del seen[next(iter(seen))]


def check_charged(run: Path, body: dict[str, Any], staked: dict[str, Any]) -> None:
    """What a test of fresh items costs follows from its evidence (§8.5)."""
    evidence = strict_json(read(blob_path(run, body["evidence"]), BLOB, "§8.1"), BLOB, "§8.5")
    try:
        gates = [(gate["name"], gate["log_e"]) for gate in evidence["result"]["gates"]]
        sound = [name for name, _ in gates] == [gate["name"] for gate in body["gates"]]
        sound = sound and all(type(log_e) in (int, float) for _, log_e in gates)
    except (KeyError, TypeError):
        sound = False
    need(sound, "§8.5", "no evidence of the gates measured")
    costs = staked["alpha"] * -math.expm1(min(0.0, *(log_e for _, log_e in gates)))
    same = abs(costs - body["charged"]) <= 1e-9 * staked["alpha"]
    need(same, "§8.5", f"its evidence costs {costs!r}, and not {body['charged']!r}")


def blob_path(run: Path, name: str) -> Path:
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
    versions = [*s["versions"]]
    if link != f"models/{s['live']}" and s["intent"]["action"] == "promote":  # cut after the rename (§9.4)
        permit = s["permits"][str(s["intent"]["authorisation"])]
        made = s["open"][str(permit["number"])]["built"]
        versions.append({"candidate": made, "index": s["intent"]["authorisation"], "raw": permit["raw"]})
    keys = [parse_key(line) for line in s["keys"]]
    for version, known in enumerate(versions):
        folder, record = run / "models" / str(version), known["candidate"]
        need_folder(folder / "source", "§9.1")
        files = {"recipe.json", "candidate.json", "authorisation.json", "authorisation.proof", "weights.safetensors"}
        try:
            names = set(os.listdir(folder))
            need(names == files | {"source"}, "§9.1", f"models/{version} has other files than a version has")
            tree = {path: digest_of(folder / "source" / path, "§9.2") for path in files_below(folder / "source")}
        except OSError as error:
            raise Invalid("§9.1", f"models/{version}: {error.strerror}") from None
        recipe, source = read(folder / "recipe.json", BLOB, "§9.2"), sha256(encoded(tree))
        strict_json(recipe, BLOB, "§9.2")
        weights = digest_of(folder / "weights.safetensors", "§9.2")
        parts = encoded({"recipe": record["recipe"], "source": source, "weights": weights})
        same = recipe == encoded(record["recipe"]) and sha256(parts) == record["digest"]
        same = same and (source, weights) == (record["source"], record["weights"])
        need(same, "§9.2", f"models/{version} is not the candidate that was authorised")
        # `flops` may be left out or null in the log; the file says it (§9.2).
        told = read(folder / "candidate.json", BLOB, "§9.2") == encoded({"flops": None} | record)
        need(told, "§9.2", f"models/{version}: candidate.json is another")
        entry = read(folder / "authorisation.json", ENTRY, "§9.3")
        need(sha256(entry) == known["raw"], "§9.3", f"models/{version}: not the entry that authorised it")
        note = check_proof(read(folder / "authorisation.proof", 2 * NOTE, "§9.3"), entry, known["index"], keys, tiles)
        required, *lines = s["terms"]["witnesses"]
        if required:
            signed = len(cosigned(note, [parse_key(line, WITNESS_KEY, "§10.3") for line in lines]))
            need(signed >= required, "§10.3", f"{signed} of {required} witnesses have cosigned what allowed {version}")


def files_below(root: Path) -> list[str]:
    """The files below a folder, by path; anything but files and folders is refused."""
    found: list[str] = []
    stack = [""]
    while stack:
        inner = stack.pop()
        with os.scandir(root / inner) as listing:
            for each in listing:
                path = f"{inner}/{each.name}" if inner else each.name
                need(each.is_dir(follow_symlinks=False) or each.is_file(follow_symlinks=False), "§9.1", path[:80])
                (stack if each.is_dir(follow_symlinks=False) else found).append(path)
    return found


def check_proof(data: bytes, entry: bytes, index: int, keys: list[Key], tiles: Tiles) -> bytes:
    """A tlog-proof of an entry, under a head that this log extends (§9.3); returns the head's note."""
    before, gap, note = data.partition(b"\n\n")
    lines = before.decode("ascii", "replace").split("\n")
    begun = gap and 2 <= len(lines) <= 65 and lines[0] == "c2sp.org/tlog-proof@v1" and lines[1].startswith("index ")
    need(begun, "§9.3", "authorisation.proof is no tlog-proof")
    need(number(lines[1][6:], "§9.3") == index, "§9.3", "the proof is of another entry")
    (origin, size, root), _ = open_head(note, keys, "§9.3")
    need(origin == keys[0][0], "§9.3", "the proof's tree head is that of another log")
    need(index < size, "§9.3", "the proof's tree head is older than the entry")
    place, last, hashed = index, size - 1, hashlib.sha256(b"\x00" + entry).digest()  # RFC 9162 §2.1.3.2
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


def own_keys(paths: list[str], kind: int) -> list[Key]:
    """The reader's own copies of keys."""
    found = []
    for path in paths:
        try:
            found += parse_keys(own(path, 1 << 16).decode(), kind)
        except (Invalid, UnicodeDecodeError) as error:
            raise Unreadable(f"{path}: {error}") from None
    return found


def own_people(path: str) -> set[str]:
    """The reader's own list of approvers, `NAME ROLE TYPE KEY` of each line of allowed_signers; a role may change."""
    people, keys = set[str](), dict[str, str]()
    try:
        for line in own(path, 1 << 18).decode().split("\n"):
            words = line.split()
            if words and not words[0].startswith("#"):
                if words[1] not in SSH_KINDS:  # any other option could take the line back
                    spaces = re.fullmatch(r'namespaces="([^"]*)"', words.pop(1))
                    need(spaces and "lockgate-approval" in spaces[1].split(","), "§11", "a key for other purposes")
                name, asked, role = words[0].partition(",role:")
                each = {"name": name, "role": role if asked else "human", "key": f"{words[1]} {words[2]}"}
                sound = words[1] in SSH_KINDS and strings(unbase64(words[2], "§11"))[0] == words[1].encode()
                sound = sound and keys.setdefault(each["key"], name) == name
                need(sound and misfit("A", each) is None, "§11", "no approver")
                people.add(" ".join(each.values()))
    except (ValueError, IndexError, Invalid):
        raise Unreadable(f"{path}: not in the format of allowed_signers") from None
    return people


def load_saved(path: str) -> tuple[State | None, bytes]:
    """What --since was given: a state that --save wrote (appendix A), with its head; or a bare head."""
    data = own(path)
    try:
        if not data.startswith(b"{"):
            parse_note(data, "§3.1")
            return None, data
        # Not by strict_json: a recipe may be nested as deep as an entry lets it, and lies deeper here.
        saved = DECODER.decode(data.decode())
        wrong = misfit("saved", saved)
        need(wrong is None, "appendix A", f"the member {wrong!a} is missing, unknown or of another type")
        state, note = saved["state"], saved["head"]
        need(saved["digest"] == sha256(encoded([note, state])), "appendix A", "it was changed since it was saved")
        size = number(parse_note(note.encode(), "§3.1")[0].split("\n")[1], "§3.1")
        own_chain = parse_keys("\n".join(state["keys"]))[0][0] == state["terms"]["origin"]
        fits = own_chain and state["size"] == size > 0 and state["live"] < len(state["versions"])
        need(fits, "appendix A", "its state is not one under its head")
    except (Invalid, ValueError, RecursionError) as error:
        raise Unreadable(f"{path}: neither a tree head nor what --save wrote: {error}") from None
    known = {place: {**UNTOUCHED, **found} for place, found in state["open"].items()}
    return {**beginning([("", b"")]), **state, "open": known}, note.encode()


def verify(options: argparse.Namespace) -> dict[str, Any]:
    """The verdict on a run, as a report; Invalid where a MUST is broken, Unreadable for the reader's own files."""
    run = Path(os.path.realpath(options.run))
    straight.cache_clear()
    trusted = own_keys([options.key], LOG_KEY) if options.key else []
    witnesses = own_keys(options.witness, WITNESS_KEY)
    people = own_people(options.approvers) if options.approvers else None
    listed, chain = run / "keys" / "log.pub", trusted
    if not trusted or os.path.lexists(listed):
        try:
            chain = parse_keys(read(listed, 1 << 16, "§2.2").decode())
        except UnicodeDecodeError:
            raise Invalid("§2.2", "keys/log.pub is not UTF-8") from None
    note = read(run / "log" / "checkpoint", NOTE, "§3.1")
    (origin, size, root), signers = open_head(note, [*chain, *(key for key in trusted if key not in chain)], "§3.1")
    tiles = Tiles(run / "log", size, root)
    state, skip = beginning(chain), 0
    for path in filter(None, (options.head, options.since)):
        saved, known = load_saved(path) if path == options.since else (None, own(path))
        (name, old, root_then), _ = open_head(known, chain + trusted, "§11.1")
        extended = name == origin and tiles.extends(old, root_then)
        need(extended, "§11.1", f"the log does not extend the head of {old} entries that you hold")
        if path == options.since:
            skip, state = old, saved or state
    if not options.log_only:
        need_folder(run / "blobs", "§8.1")
        need((run / "blobs").is_dir(), "§8.1", "there is no folder of blobs")
    blobs: dict[str, None] = {}
    key = parse_key(state["keys"][-1])
    for bundle in range(state["size"] // 256, -(-size // 256)):
        for place, raw in enumerate(tiles.entries(bundle), bundle * 256):
            if place < state["size"]:
                continue
            try:
                kind, body = open_entry(raw, *key, signed=place >= skip)
                fold(state, kind, body, raw)
                if not options.log_only:
                    check_blobs(run, body, blobs)
                    if kind == "measured" and state["terms"]["fresh"]:
                        check_charged(run, body, state["open"][str(body["number"])]["staked"])
            except Invalid as error:
                raise Invalid(error.clause, error.problem, place) from None
            if kind == "key-rotated":
                key = parse_key(body["new"])
    if not state["terms"]:
        raise Invalid("§7.1", "the log is empty: no genesis", 0)
    keys = [parse_key(line) for line in state["keys"]]
    need(keys == chain[: len(keys)], "§2.2", "keys/log.pub lists other keys than the log proves")
    need(keys[-1][1] in signers and keys[-1][0] == origin, "§3.2", "the tree head is not signed by the key in force")
    ours = not trusted or {key for _, key in trusted} & {key for _, key in keys}
    need(ours, "§2.3", "your key is none of this log's")
    for who, index in sorted(state["people"].items(), key=lambda each: each[1]):
        if people is not None and who not in people:
            raise Invalid("§11", f"answered by {who[:80]!a}, whom your list of approvers does not have so", index)
    if not options.log_only:
        check_models(run, state, tiles)
    fresh, why = freshness(options, note, witnesses, state["time"])
    told = f"{size} entries signed by {origin}, {'log only' if options.log_only else f'{len(blobs)} blobs by digest'}, "
    told += f"version {state['live']} live{'; ' + why if why else ''}"
    verdict = "valid and fresh" if fresh else f"valid at size {size}, freshness unproven"
    if trusted and state["people"] and people is None:
        verdict = "identity unproven"
        told += "; but people have answered holds: verify again with --approvers and a list that you keep elsewhere"
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
        temporary.write_bytes(encoded({"head": note, "state": state, "digest": sha256(encoded([note, state]))}))
        temporary.replace(path)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None


def main(arguments: list[str] | None = None) -> int:
    """Print the verdict; return the exit code."""
    parser = argparse.ArgumentParser(description="Verify the trail of a Lockgate run (audits/FORMAT.md).")
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--key", metavar="FILE", help="your own copy of a key of the log")
    parser.add_argument("--approvers", metavar="FILE", help="your own list of approvers, as allowed_signers")
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
