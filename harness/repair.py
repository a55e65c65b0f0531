"""Put back what the log names: versions' folders and the live link, after somebody or something damaged them.

A version's folder is nothing but a copy. Its candidate stands in the log and its files are blobs, named by digest; its
authorisation is an entry, and a proof of an entry under any later tree head serves as well as the first one (FORMAT
§9.3, §10.3). So the bytes that were measured come back, or none do.

Rules. This is an operator's act and never happens by itself: a live model that is not the one in the log is somebody's
doing, and whoever runs it should know. Only versions that the log says were live are rebuilt. What is replaced is kept
in `damaged/`. A proof that still holds stays, with the cosignatures it has; a new one needs the quorum that the run
requires. Every rename comes after all that it makes visible is durable: cut anywhere, a second repair ends it. What an
open intent is to come to is left to the supervisor.

Not covered: blobs and the log, which are the source of it all. Where those are damaged, only a backup helps. A log that
is older than the head in a version's proof was cut or put back: nothing is made to agree with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts import BlobStore
from harness.bundle import MAX_PROOF, Trust, read_bundle
from harness.canonical import canonical_bytes, parse_json
from harness.cosignature import WitnessVerifier, cosignatures
from harness.entries import Intended
from harness.errors import ArtifactError, AuditError, LockgateError, PromotionError
from harness.folder import RunFolder
from harness.journal import follow
from harness.keys import VerifierChain
from harness.live import CURRENT, DAMAGED, MODELS, WEIGHTS, live_version, restore, set_aside, swap
from harness.logreader import LogReader
from harness.notes import LogProof, open_head, with_lines
from harness.quorum import Witnesses
from harness.records import Candidate
from harness.regular import read_regular
from harness.state import RunState
from harness.witnessing import Quorum

__all__ = ["Repaired", "repair"]

PROOF = "authorisation.proof"


@dataclass(frozen=True)
class Repaired:
    """One thing that was put back."""

    what: str
    """`models`, `models/VERSION` or `current`."""
    why: str
    """What was wrong with it."""
    kept: Path | None
    """Where the damaged thing lies now; None where it was gone."""


def repair(folder: RunFolder, tell: Callable[[Repaired], None]) -> None:
    """Put back every version's folder and the live link; `tell` is called for each thing that was.

    ConfigError while a supervisor is at work; AuditError or StateError where the log itself does not hold. Where one
    thing cannot be put back, the rest is; then PromotionError names the blob that is missing, or AuditError the
    witnesses.
    """
    folder.lock()
    try:
        work = _Repair(folder, tell)
        work.need_whole_log()
        work.models_folder()
        failed: list[LockgateError] = []
        for version in work.order():
            try:
                work.version(version)
            except LockgateError as error:
                failed.append(error)
        work.link()
        if failed:
            raise failed[0]
    finally:
        folder.unlock()


class _Repair:
    """One run, its log verified and folded."""

    def __init__(self, folder: RunFolder, tell: Callable[[Repaired], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._blobs = BlobStore(folder.blobs)
        chain = VerifierChain.load(folder.public_key)
        self._reader = LogReader.open(folder.log, chain)
        self._state, self._allowed_by = RunState(), {0: 0}
        for step in follow(self._reader, chain):
            self._state = step.state
            if isinstance(step.entry, Intended) and step.entry.authorisation is not None:
                self._allowed_by[step.entry.version] = step.entry.authorisation
        genesis = self._state.genesis
        if genesis is None:
            raise AuditError("the log has no genesis: there is nothing to repair", where=str(folder.log))
        self._rule: Witnesses | None = genesis.config.witnesses
        self._keys = VerifierChain.of(self._state.keys)

    def order(self) -> list[int]:
        """The versions that were ever live, the one that is first of all."""
        return sorted(self._state.versions, key=lambda version: (version != self._state.live, -version))

    def need_whole_log(self) -> None:
        """The log is no older than what it signed before: a proof may be all that tells of it. AuditError."""
        for version in self.order():
            try:
                path = self._folder.models / str(version) / PROOF
                known = open_head(LogProof.parse(_small(path)).head, self._keys)
            except (OSError, AuditError):
                continue  # damaged, and evidence of nothing
            try:
                self._reader.check_extends(known)
            except AuditError as error:
                raise AuditError(
                    f"the proof of version {version} is under a head of {known.size} entries: {error.message}",
                    where=str(self._folder.log),
                    clause="§9.3",
                    remedy="it is the log that is damaged: restore it; nothing is repaired from this one",
                ) from error

    def models_folder(self) -> None:
        """`models` itself is a folder, and no link to one."""
        models = self._folder.models
        if models.is_symlink() or (os.path.lexists(models) and not models.is_dir()):
            self._tell(Repaired("models", "not a folder of the run's own", set_aside(self._folder.root, models)))

    def version(self, version: int) -> None:
        """One version's folder is what the log names; PromotionError or AuditError where it cannot be."""
        candidate = self._state.versions[version]
        why = self._damage(version, candidate)
        if why is None:
            return
        self._need_blobs(version, candidate)
        kept = restore(self._folder.root, version, candidate, self._blobs, self._entry(version), self._proof(version))
        left = self._damage(version, candidate)
        if left is not None:
            raise PromotionError(f"version {version} was rebuilt and does not hold: {left}", where=str(kept))
        self._tell(Repaired(f"models/{version}", why, kept))

    def link(self) -> None:
        """`current` names the live version, or, inside a swap, the one intended, where that is whole."""
        root, state = self._folder.root, self._state
        allowed = {state.live}
        if state.intent is not None and self._damage(state.intent.version, self._intended()) is None:
            allowed.add(state.intent.version)
        try:
            live = live_version(root)
            why = "there was none" if live is None else f"it named version {live}"
        except PromotionError as error:
            live, why = None, error.message
        if live in allowed:
            return
        kept = None if (root / CURRENT).is_symlink() else set_aside(root, root / CURRENT)
        swap(root, state.live)
        self._tell(Repaired(CURRENT, why, kept))

    def _intended(self) -> Candidate | None:
        """The candidate of the open intent."""
        intent = self._state.intent
        if intent is None or intent.authorisation is None:
            return None if intent is None else self._state.versions[intent.version]
        built = self._state.proposals[self._state.authorised[intent.authorisation].number].built
        return None if built is None else built.candidate

    def _entry(self, version: int) -> bytes:
        """The exact entry that allowed a version."""
        index = self._allowed_by[version]
        return next(iter(self._reader.read(index, index + 1)))

    def _damage(self, version: int, candidate: Candidate | None) -> str | None:
        """What is wrong with a version's folder; None where every byte is the log's (FORMAT §9)."""
        place = self._folder.models / str(version)
        try:
            if place.is_symlink() or not place.is_dir():
                return "the folder was gone, or a link to another"
            limit = (place / WEIGHTS).lstat().st_size
            read_bundle(place, Trust(self._keys), max_weights=limit)
            if candidate is None or (place / "candidate.json").read_bytes() != canonical_bytes(candidate.json_value()):
                return "candidate.json is not the record in the log"
            if (place / "authorisation.json").read_bytes() != self._entry(version):
                return f"authorisation.json is not entry {self._allowed_by[version]}"
            return None if self._standing(place / PROOF, version) else "authorisation.proof does not hold in this log"
        except AuditError as error:
            return f"{Path(error.where).name}: {error.message}" if error.where else error.message
        except OSError as error:
            return f"it cannot be read: {error.strerror}"

    def _standing(self, path: Path, version: int) -> bytes | None:
        """The proof in a file where it still holds for a version."""
        try:
            data, entry = _small(path), self._entry(version)
            proof = LogProof.parse(data)
            self._reader.check_extends(proof.verify(entry, self._keys, origin=self._keys.last.name))
            enough = proof.index == self._allowed_by[version] and self._cosigned(proof.head)
        except (OSError, AuditError):
            return None
        return data if enough else None

    def _proof(self, version: int) -> bytes:
        """The proof that stands, or a new one under the present head and the quorum that the run requires (§10.3)."""
        aside = self._folder.root / DAMAGED  # a repair that was cut may have left it there
        kept = [*aside.glob(f"*-{version}/{PROOF}"), *aside.glob(f"*-{MODELS}/{version}/{PROOF}")]
        for path in [self._folder.models / str(version) / PROOF, *sorted(kept, reverse=True)]:
            # Its cosignatures may be had from nobody else.
            if (standing := self._standing(path, version)) is not None:
                return standing
        head = self._reader.head
        if self._rule is not None and not self._cosigned(head):
            quorum = Quorum(self._rule)
            gathered = quorum.gather(self._reader)
            quorum.require(gathered)
            head = with_lines(head, gathered.lines)
        index = self._allowed_by[version]
        return LogProof(index, tuple(self._reader.inclusion_proof(index)), head).encode()

    def _cosigned(self, head: bytes) -> bool:
        """Whether a head bears the quorum that the run requires."""
        if self._rule is None:
            return True
        return (
            len(cosignatures(head, [WitnessVerifier.parse(each.key) for each in self._rule.of])) >= self._rule.require
        )

    def _need_blobs(self, version: int, candidate: Candidate) -> None:
        """Every blob that a version is made of is there and whole, before anything is touched; PromotionError."""
        for name in [candidate.source, candidate.weights]:
            self._need_blob(version, name)
        manifest = parse_json(self._blobs.get(candidate.source))
        for name in sorted(str(each) for each in manifest.values()) if isinstance(manifest, dict) else []:
            self._need_blob(version, name)

    def _need_blob(self, version: int, name: str) -> None:
        try:
            self._blobs.check(name)
        except ArtifactError as error:
            raise PromotionError(
                f"version {version} cannot be rebuilt, its blob {name} is missing or damaged: {error.message}",
                where=str(self._blobs.path(name)),
                remedy="restore this file from a backup of blobs/, then repair again",
            ) from error


def _small(path: Path) -> bytes:
    """The bytes of a proof; AuditError for what cannot be one, OSError."""
    try:
        return read_regular(path, MAX_PROOF)
    except ValueError as error:
        raise AuditError("no proof", where=str(path)) from error
