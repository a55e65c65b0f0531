"""Verify a run's trail from the outside: the log, the blobs, the live model; no supervisor.

This shares the fold with the supervisor on purpose: it is the very machine that ran. A
verifier that shares nothing with it is `audits/verify.py`; both answer in the words of audits/FORMAT.md §11.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness import saved
from harness.approval import parse_allowed_signers
from harness.artifacts import BlobStore
from harness.canonical import canonical_bytes, parse_json
from harness.cosignature import WitnessVerifier, cosignatures
from harness.entries import Measured
from harness.errors import AuditError, ConfigError, KeyFileError, LockgateError, PromotionError
from harness.folder import RunFolder
from harness.fresh_ledger import charge
from harness.journal import Step, verify
from harness.keys import Verifier, VerifierChain
from harness.kinds import blob_digests, candidate_of, kind_of
from harness.live import FILES, check_version, live_version
from harness.logreader import LogReader
from harness.notes import LogProof, TreeHead, open_head
from harness.order import Order
from harness.quorum import Approver
from harness.records import Candidate
from harness.regular import read_regular

MAX_BLOB = 16 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
AHEAD = 300
"""Seconds by which a signed time may be ahead of the reader's clock (FORMAT §11.2)."""
DAY = 86_400


@dataclass(frozen=True)
class Freshness:
    """What a reader holds against an old state that was put back: all from outside the run (FORMAT §11)."""

    head: Path | None = None
    """A signed head that the log must extend."""
    witnesses: Sequence[WitnessVerifier] = ()
    quorum: int = 0
    max_age: float | None = None
    """Seconds."""

    @property
    def asked(self) -> bool:
        """Whether anything was asked for."""
        return self.head is not None or bool(self.witnesses) or self.max_age is not None


def verify_run(
    folder: RunFolder,
    key: Path | None,
    *,
    freshness: Freshness = Freshness(),
    log_only: bool = False,
    approvers: Path | None = None,
    since: Path | None = None,
    save: Path | None = None,
) -> dict[str, Any]:
    """Verify everything that can be seen from the run's folder; AuditError or StateError at the first defect.

    The log is streamed: what is held of it is its order. `key` is the reviewer's own copy of a key of the log; without
    it the verdict is `identity unproven`, for whoever replaced the log would have replaced the key in it, too. So it is
    without `approvers`, the reviewer's own list of who may answer holds (allowed_signers), where people have answered.
    With `log_only` neither blobs nor models are read, by a reader who has no access to them.

    `save` is written where all of it held, and says where this ended; given as `since`, the entries up to there and
    their blobs are taken as verified and not read again, and everything else is (models are, all of them). So whoever
    saves reads blobs: ValueError for `save` with `log_only`. LockgateError where one of the reader's own files, these
    two or the head, is not what it should be or cannot be read or written.
    """
    if log_only and save is not None:
        raise ValueError("what goes on from a saved state takes its blobs as read")
    trusted = None if key is None else VerifierChain.load(key)
    people = None if approvers is None else read_approvers(approvers)
    chain = _chain(folder, trusted)
    if os.path.lexists(folder.log):
        _need_folder(folder.log, "§4.3")
    with _clause("§4.2"):
        reader = LogReader.open(folder.log, [*chain, *(trusted or ())])
    _check_head(reader, freshness, [*chain, *(trusted or ())])
    state = Order() if since is None else _begin(since, reader, [*chain, *(trusted or ())])
    if not log_only:
        _need_folder(folder.blobs, "§8.1")
    blobs = _Blobs(folder)
    with _clause("§4.2"):
        for step in verify(reader, chain, state if since else None):
            if not log_only:
                blobs.check(step)
            state = step.state
    if state.terms is None:
        raise AuditError("the log is empty: no genesis", where="entry 0", clause="§7.1")
    if trusted is not None and not any(ours.key == theirs.key for ours in trusted for theirs in state.keys):
        raise AuditError("the key given is none of this log's", where=str(key), clause="§2.3")
    listed = people and {(each.name, each.role, each.key) for each in people}
    for who, index in sorted(state.people.items(), key=lambda each: each[1]):
        if listed is not None and who not in listed:
            message = f"answered by {who[0]}, whom your list of approvers does not have with that key and role"
            raise AuditError(message, where=f"entry {index}", clause="§11")
    if not log_only:
        _check_models(folder, reader, state)
    fresh = _fresh(reader, state, freshness)
    unproven = ""
    if trusted is None:
        unproven = "the key came from the run itself: verify again with --key and a copy"
    elif state.people and people is None:
        unproven = "people have answered holds: verify again with --approvers and a list"
    if save is not None:
        saved.save(save, state, reader)
    return _report(reader, state, fresh, blobs.count, unproven=unproven, log_only=log_only)


def _report(
    reader: LogReader, state: Order, fresh: str, blobs: int, *, unproven: str, log_only: bool
) -> dict[str, Any]:
    size, shown = reader.size, fresh.startswith("fresh")
    verdict = "valid and fresh" if shown else f"valid at size {size}, freshness unproven"
    told = f"{size} entries signed by {state.keys[-1].name}, "
    told += "log only" if log_only else f"every blob by its digest, {len(state.versions)} versions"
    told += f", version {state.live} live" + (f"; {fresh}" if fresh else "")
    if unproven:
        verdict = "identity unproven"
        told += f"; but {unproven} that you keep elsewhere"
    return {
        "verdict": verdict,
        "summary": told,
        "size": size,
        "root": reader.root.hex(),
        "origin": reader.origin,
        "blobs": blobs,
        "live": state.live,
        "promotions": state.promotions,
        "fresh": shown,
    }


def read_approvers(path: Path) -> list[Approver]:
    """Names, roles and keys on the reader's own list, in the format of allowed_signers; ConfigError.

    A person may stand there in several roles: whoever had another one before a change of the guard.
    """
    try:
        text = path.read_bytes().decode()  # as it stands: a return character ends no line
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from error
    return parse_allowed_signers(text, str(path), over_time=True)


def read_witnesses(files: Sequence[Path]) -> list[WitnessVerifier]:
    """The reader's own copies of witnesses' keys, one a line; KeyFileError."""
    return [witness for path in files for witness in WitnessVerifier.load(path)]


def _chain(folder: RunFolder, trusted: VerifierChain | None) -> Sequence[Verifier]:
    """The log's keys as the run names them, a hint; the reader's own where the run names none."""
    if trusted is not None and not os.path.lexists(folder.public_key):
        return trusted
    if folder.public_key.parent.is_symlink():
        raise AuditError("a link to a folder", where=str(folder.public_key.parent), clause="§2.2")
    try:
        text = _small(folder.public_key, "§2.2").decode("utf-8")
    except UnicodeDecodeError as error:
        raise AuditError("the run's public key is not UTF-8", clause="§2.2") from error
    try:
        keys = [Verifier.parse(line) for line in text.removesuffix("\n").split("\n")[:65]]
    except KeyFileError as error:
        raise AuditError(f"the run's public key cannot be read: {error}", clause="§2.1") from error
    try:
        return VerifierChain.of(keys)
    except KeyFileError as error:
        raise AuditError(f"the run's public keys are not those of a log: {error}", clause="§2.2") from error


@contextlib.contextmanager
def _clause(clause: str) -> Iterator[None]:
    """Give errors that name no clause this one: of a log's files, those that know better name their own."""
    try:
        yield
    except AuditError as error:
        if error.clause is not None:
            raise
        raise AuditError(error.message, where=error.where, remedy=error.remedy, clause=clause) from error


def _check_head(reader: LogReader, freshness: Freshness, keys: Sequence[Verifier]) -> None:
    """The log must extend the head that the reader holds; LockgateError where that is not readable."""
    if freshness.head is None:
        return
    try:
        with freshness.head.open("rb") as file:
            note = file.read(1 << 16)
    except OSError as error:
        raise LockgateError(f"cannot be read: {error.strerror}", where=str(freshness.head)) from error
    _extended(reader, note, keys)


def _begin(since: Path, reader: LogReader, keys: Sequence[Verifier]) -> Order:
    """The order to go on from, of a log that this one extends; LockgateError, AuditError."""
    order, note = saved.load(since)
    if _extended(reader, note, keys).size != order.size:
        raise LockgateError("not what --save of this version wrote", where=str(since))
    return order


def _extended(reader: LogReader, note: bytes, keys: Sequence[Verifier]) -> TreeHead:
    """A tree head, signed by one of `keys`, that the log extends; AuditError."""
    try:
        known = open_head(note, keys)
        reader.check_extends(known)
    except AuditError as error:
        raise AuditError(error.message, where=error.where, clause="§11.1") from error
    return known


def _fresh(reader: LogReader, state: Order, freshness: Freshness) -> str:
    """Why the log is fresh, beginning with `fresh`; or why that is not shown; or nothing, where it was not asked."""
    now = time.time()
    if freshness.witnesses:
        age = DAY if freshness.max_age is None else freshness.max_age
        times = cosignatures(reader.head, freshness.witnesses)
        young = [signed for signed in times.values() if now - age <= signed <= now + AHEAD]
        quorum = freshness.quorum or len({each.key_digest for each in freshness.witnesses})
        if len(young) < quorum:
            return f"{len(young)} of {quorum} witnesses have cosigned this head within {age:g} seconds"
        return f"fresh: {len(young)} witnesses have cosigned this head within {age:g} seconds"
    if freshness.max_age is not None:
        old = now - datetime.fromisoformat(state.last_time).timestamp()
        if not -AHEAD <= old <= freshness.max_age:
            return f"the last entry is {old:.0f} seconds old, more than {freshness.max_age:g}, or in the future"
        return f"fresh: the last entry is {max(old, 0):.0f} seconds old"
    return "" if freshness.head is None else "fresh: it extends the head that you hold"


class _Blobs:
    """The blobs behind entries, each hashed once, with a bounded memory of which."""

    def __init__(self, folder: RunFolder) -> None:
        self._store = BlobStore(folder.blobs)
        self._seen: dict[str, None] = {}
        self.count = 0

    def check(self, step: Step[Order]) -> None:
        """Every blob that an entry names is there, byte for byte (FORMAT §8); AuditError names the entry."""
        for name in sorted(blob_digests(step.entry)):
            self._one(name, step)
        candidate = candidate_of(step.entry)
        for name in () if candidate is None else self._manifest(candidate.source, step):
            self._one(name, step)
        if isinstance(step.entry, Measured) and step.entry.charged is not None:
            self._charged(step.entry, step)

    def _charged(self, entry: Measured, step: Step[Order]) -> None:
        """What a test of fresh items costs follows from its evidence (FORMAT §8.5)."""
        where, staked = f"entry {step.index}", step.state.open[entry.number].staked
        try:
            evidence: Any = parse_json(self._store.get(entry.evidence, max_bytes=MAX_BLOB), max_bytes=MAX_BLOB)
            gates = [(gate["name"], gate["log_e"]) for gate in evidence["result"]["gates"]]
        except (LockgateError, KeyError, TypeError) as error:
            raise AuditError(f"the evidence cannot be read: {error}", where=where, clause="§8.5") from error
        sound = [name for name, _ in gates] == [gate.name for gate in entry.gates]
        if not sound or not all(type(log_e) in (int, float) for _, log_e in gates):
            raise AuditError("no evidence of the gates measured", where=where, clause="§8.5")
        if staked is None or staked.alpha is None or entry.charged is None:
            raise AuditError("charged without a stake", where=where, clause="§8.5")
        costs = charge(staked.alpha, [float(log_e) for _, log_e in gates])
        if abs(costs - entry.charged) > 1e-9 * staked.alpha:
            message = f"its evidence costs {costs!r}, and not {entry.charged!r}"
            raise AuditError(message, where=where, clause="§8.5")

    def _one(self, name: str, step: Step[Order]) -> None:
        if name in self._seen:
            return
        try:
            self._store.check(name)
        except LockgateError as error:
            message = f"{kind_of(step.entry)}: {error}"
            raise AuditError(message, where=f"entry {step.index}", clause="§8.1") from error
        self.count += 1
        self._seen[name] = None
        if len(self._seen) > 4096:
            self._seen.pop(next(iter(self._seen)))

    def _manifest(self, source: str, step: Step[Order]) -> list[str]:
        try:
            manifest = parse_json(self._store.get(source, max_bytes=MAX_BLOB), max_bytes=MAX_BLOB)
        except LockgateError as error:
            raise AuditError(f"a source tree: {error}", where=f"entry {step.index}", clause="§8.2") from error
        named = manifest.values() if isinstance(manifest, dict) else [None]
        if not all(isinstance(name, str) and _DIGEST.fullmatch(name) for name in named):
            raise AuditError("a source tree that is no object of digests", where=f"entry {step.index}", clause="§8.2")
        return sorted(map(str, named))


def _check_models(folder: RunFolder, reader: LogReader, state: Order) -> None:
    """Every version's folder is what was authorised, and the link names the live one (FORMAT §9); AuditError."""
    try:
        live = live_version(folder.root)
    except PromotionError as error:
        raise AuditError(error.message, where=error.where, clause="§9.4") from error
    # Cut inside a swap, the link names the version before it or the one that the open intent names: nothing else.
    if live not in {state.live, state.live if state.intent is None else state.intent.version}:
        message = f"version {live} is live, the log says {state.live}"
        raise AuditError(message, where=str(folder.root / "current"), clause="§9.4")
    _need_folder(folder.models, "§9.1")
    for version, (candidate, index) in _shown(state, live).items():
        place = folder.models / str(version)
        _check_listing(place)
        try:
            check_version(folder.root, version, candidate)
        except PromotionError as error:
            raise AuditError(error.message, where=error.where, clause="§9.2", remedy=error.remedy) from error
        raw = next(reader.read(index, index + 1))
        if _small(place / "candidate.json", "§9.2") != canonical_bytes(candidate.json_value()):
            raise AuditError("candidate.json is not the record in the log", where=str(place), clause="§9.2")
        if _small(place / "authorisation.json", "§9.3") != raw:
            raise AuditError(f"authorisation.json is not entry {index}", where=str(place), clause="§9.3")
        try:
            proof = LogProof.parse(_small(place / "authorisation.proof", "§9.3"))
            if proof.index != index:
                raise AuditError(f"the proof is of entry {proof.index}")  # noqa: TRY301 - one way out
            reader.check_extends(proof.verify(raw, state.keys, origin=reader.origin))
        except AuditError as error:
            raise AuditError(f"authorisation.proof: {error}", where=str(place), clause="§9.3") from error
        _check_quorum(proof.head, state, place)


def _shown(state: Order, live: int | None) -> dict[int, tuple[Candidate, int]]:
    """The versions whose folders must hold, with the entry that allowed each: those promoted, and a cut swap (§9.4)."""
    shown = {version: (candidate, state.allowed_by[version]) for version, candidate in state.versions.items()}
    intent = state.intent
    if intent is None or intent.action != "promote" or intent.authorisation is None or live != intent.version:
        return shown
    found = state.open[state.authorised[intent.authorisation].number]
    if found.built is None:
        raise AuditError("an open intent without a candidate", clause="§7.11")
    return {**shown, intent.version: (found.built, intent.authorisation)}


def _need_folder(place: Path, clause: str) -> None:
    """What is called a folder is one, and no link to another; AuditError."""
    if place.is_symlink() or not place.is_dir():
        raise AuditError("no folder, or a link to one", where=str(place), clause=clause)


def _check_quorum(head: bytes, state: Order, place: Path) -> None:
    """Where the run requires witnesses, as many of them have cosigned what allowed a version (FORMAT §10.3)."""
    terms = state.terms
    if terms is None or not terms.required:
        return
    signed = len(cosignatures(head, [WitnessVerifier.parse(key) for key in terms.witnesses]))
    if signed < terms.required:
        message = f"{signed} of the {terms.required} witnesses that the run requires have cosigned its authorisation"
        raise AuditError(message, where=str(place), clause="§10.3")


def _check_listing(place: Path) -> None:
    """A version's folder holds exactly a version's files, and its source tree files and folders alone (§9.1)."""
    _need_folder(place, "§9.1")
    _need_folder(place / "source", "§9.1")
    try:
        if {path.name for path in place.iterdir()} != FILES:
            raise AuditError("other files than a version has", where=str(place), clause="§9.1")
        folders = [place / "source"]
        while folders:
            with os.scandir(folders.pop()) as listing:
                for each in listing:
                    if each.is_dir(follow_symlinks=False):
                        folders.append(Path(each.path))
                    elif not each.is_file(follow_symlinks=False):
                        raise AuditError("neither a file nor a folder", where=each.path, clause="§9.1")
    except OSError as error:
        raise AuditError(f"cannot be read: {error.strerror}", where=str(place), clause="§9.1") from error


def _small(path: Path, clause: str) -> bytes:
    """The bytes of a small regular file; AuditError."""
    try:
        return read_regular(path, 1 << 20)
    except OSError as error:
        raise AuditError(f"cannot be read: {error.strerror}", where=str(path), clause=clause) from error
    except ValueError as error:
        raise AuditError(str(error), where=str(path), clause=clause) from error
