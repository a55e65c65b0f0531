"""A promoted model's folder, checked by itself: no run around it, no log, no network (audits/FORMAT.md §9.5).

What travels is the candidate (recipe, source tree, weights), the exact entry that authorised it, and a proof that this
entry is in the log under a signed tree head. That entry is the authorisation, not the decision before it: both are
claims by one signer, in one log, and an authorisation is legal only over a decision to promote (§7.10); it alone
binds candidate, weights, incumbent, guard, policies and evidence by digest, in a form that others read. A decision
that never became an authorisation (a halt, a rollback) would even say too much.

Rules. Each file is opened once, below a folder that is opened once; no link in it is followed, nothing but regular
files is read, and no more of them than the bounds allow. What was read is what is hashed and what is handed out.
Keys come from outside. The first thing that does not hold is an AuditError that names the file and the clause.

Not covered, because the folder cannot show it: that the version was swapped in at all (its authorisation may have been
voided), that it is live now or was rolled back since, and what the evidence says. The log shows these.
`schema_digest` and `flops` of candidate.json are the log's to vouch for, save for version 0: they are not handed out,
and the result names them as `unbound`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from pydantic import ValidationError

from harness.artifacts import tensor_header
from harness.canonical import canonical_bytes, digest, digest_json, parse_json
from harness.cosignature import WitnessVerifier, cosignatures
from harness.entries import Authorised, Genesis
from harness.envelope import MAX_ENTRY, key_hint, unseal
from harness.errors import ArtifactError, AuditError, CanonicalError, ConfigError
from harness.keys import Verifier, VerifierChain
from harness.kinds import kind_of, read_entry, subjects_of
from harness.live import FILES, WEIGHTS, candidate_digest
from harness.notes import LogProof, TreeHead
from harness.records import Candidate, first_problem

__all__ = ["MAX_PROOF", "MAX_WEIGHTS", "UNBOUND", "Bundle", "Trust", "read_bundle"]

MAX_WEIGHTS = 4 << 30
"""The most bytes of weights that are read unless the caller says otherwise."""

MAX_PROOF = 1 << 17
"""The most bytes that `authorisation.proof` may have."""

UNBOUND = ("schema_digest", "flops")
"""What no digest in an `authorised` entry covers (FORMAT §9.5)."""

_MAX_FILE = 1 << 20
_MAX_SOURCE = 64 << 20  # bytes of all source files together
_MAX_FILES = 1000
_MAX_DEPTH = 16


@dataclass(frozen=True)
class Trust:
    """What a reader believes, all of it from outside the folder: whose word counts, and what it must say.

    No trust in a signer makes more of `Bundle.unbound` than a note: the signer did not sign it.
    """

    keys: VerifierChain
    """The keys of the log, the oldest first. Leave one out, and nothing that it signed is believed."""
    witnesses: tuple[WitnessVerifier, ...] = ()
    quorum: int | None = None
    """How many of the witnesses must have cosigned the tree head; all of them when left out."""
    policies: str | None = None
    """The digest of the policies by which it must have been judged."""
    at_least: int = 0
    """The lowest version that is taken: a server that remembers the last one is not given an older one."""

    def __post_init__(self) -> None:
        """Refuse a quorum that nobody or everybody would meet; ConfigError, KeyFileError."""
        object.__setattr__(self, "keys", VerifierChain.of(self.keys))
        object.__setattr__(self, "witnesses", tuple(self.witnesses))
        known = len({each.key_digest for each in self.witnesses})
        if self.quorum is not None and not 1 <= self.quorum <= known:
            raise ConfigError(
                f"{self.quorum} of {known} witnesses cannot be required", remedy="name the witnesses' keys"
            )

    @classmethod
    def load(
        cls,
        key: Path | str,
        *,
        witnesses: Iterable[Path | str] = (),
        quorum: int | None = None,
        policies: str | None = None,
        at_least: int = 0,
    ) -> Self:
        """Read the reader's own copies: a file of the log's keys, files of witnesses' keys; KeyFileError."""
        read = tuple(witness for path in witnesses for witness in WitnessVerifier.load(path))
        return cls(VerifierChain.load(key), read, quorum, policies, at_least)

    @property
    def required(self) -> int:
        """How many witnesses must have cosigned."""
        return len({each.key_digest for each in self.witnesses}) if self.quorum is None else self.quorum


@dataclass(frozen=True)
class Bundle:
    """A version of which every byte here is bound to the entry that authorised it. Made by `read_bundle` alone."""

    authorisation: Authorised | Genesis
    index: int
    """Where the authorisation stands in the log."""
    head: TreeHead
    """The tree head under which it was proved."""
    signer: Verifier
    cosigned: tuple[str, ...]
    """The names of the trusted witnesses that cosigned that head."""
    candidate: str
    """The digest of recipe, source and weights."""
    recipe_json: bytes = field(repr=False)
    source: Mapping[str, bytes] = field(repr=False)
    """Path below source/ → bytes."""
    weights: bytes = field(repr=False)
    """The safetensors file."""
    parameters: int

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.head.origin

    @property
    def version(self) -> int:
        """The number under which it was authorised; 0 is the baseline."""
        return self.authorisation.version if isinstance(self.authorisation, Authorised) else 0

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe's values, a fresh copy each time."""
        value = parse_json(self.recipe_json)
        return value if isinstance(value, dict) else {}

    @property
    def unbound(self) -> tuple[str, ...]:
        """The members of candidate.json that nothing in the folder binds: whoever holds it may have set them."""
        return () if isinstance(self.authorisation, Genesis) else UNBOUND

    @property
    def summary(self) -> str:
        """What was shown, in words."""
        entry, seen = f"entry {self.index} of {self.head.size}", f", cosigned by {', '.join(self.cosigned)}"
        return (
            f"version {self.version} of {self.origin}, candidate {self.candidate[7:19]}, authorised by {entry}"
            f"{seen if self.cosigned else ''}; whether it is live, or was rolled back, is for the log to say"
            + (f", and so are {' and '.join(self.unbound)} of candidate.json" if self.unbound else "")
        )

    def report(self) -> dict[str, Any]:
        """What was shown, for `lockgate model verify --json`."""
        return {
            "verdict": "valid",
            "summary": self.summary,
            "origin": self.origin,
            "version": self.version,
            "candidate": self.candidate,
            "weights": digest(self.weights),
            "recipe": self.recipe,
            "parameters": self.parameters,
            "unbound": list(self.unbound),
            "policies": self.authorisation.policies,
            "guard": self.authorisation.guard,
            "authorised": {"entry": self.index, "kind": kind_of(self.authorisation), "time": self.authorisation.time},
            "signer": self.signer.key_digest,
            "size": self.head.size,
            "root": self.head.root.hex(),
            "witnesses": list(self.cosigned),
        }


def read_bundle(folder: Path | str, trust: Trust, *, max_weights: int = MAX_WEIGHTS) -> Bundle:
    """Read a version's folder once and check all of it against what the reader trusts; AuditError.

    `folder` itself may be named by a link, such as a run's `current`: whatever it names is opened once.
    """
    place = Path(folder)
    files = _read(place, max_weights)
    raw = files["authorisation.json"]
    with _at(place / "authorisation.json", "§5"):
        authorisation, signer = _authorisation(raw, trust)
    with _at(place / "authorisation.proof", "§9.3"):
        proof = LogProof.parse(files["authorisation.proof"])
        head = _proved(proof, raw, authorisation, signer, trust)
    with _at(place / "authorisation.proof", "§10.2"):
        cosigned = _cosigned(proof.head, trust)
    source = {path.removeprefix("source/"): data for path, data in files.items() if path.startswith("source/")}
    candidate = _candidate(files, source, place)
    _bind(authorisation, candidate, place)
    _insist(authorisation, trust, place)
    return Bundle(
        authorisation=authorisation,
        index=proof.index,
        head=head,
        signer=signer,
        cosigned=cosigned,
        candidate=candidate.digest,
        recipe_json=files["recipe.json"],
        source=MappingProxyType(source),
        weights=files[WEIGHTS],
        parameters=candidate.parameters,
    )


@contextlib.contextmanager
def _at(where: Path, clause: str) -> Iterator[None]:
    """Whatever does not hold names this file, and a clause."""
    try:
        yield
    except AuditError as error:
        remedy = error.remedy
        raise AuditError(error.message, where=str(where), clause=error.clause or clause, remedy=remedy) from error


def _authorisation(raw: bytes, trust: Trust) -> tuple[Authorised | Genesis, Verifier]:
    """The entry that allows the version, and who signed it (FORMAT §5, §9.3)."""
    # The hint names the key to try. Which of a log's keys was in force is the log's to show: a reader who doubts an
    # old key leaves it out of his trust, or asks for witnesses.
    signer = trust.keys.find(key_hint(raw))
    if signer is None:
        raise AuditError(
            "signed by none of the keys that are trusted",
            clause="§2.3",
            remedy="if the log has had several keys, give them all, from a copy that you keep elsewhere",
        )
    sealed = unseal(raw, signer)
    entry = read_entry(sealed.kind, sealed.body, 0)
    if not isinstance(entry, (Authorised, Genesis)):
        raise AuditError(f"an entry of kind {sealed.kind}, which authorises nothing", clause="§9.3")
    if sealed.subjects != subjects_of(entry):
        raise AuditError("the subjects are not those of its body", clause="§5.8")
    if isinstance(entry, Genesis) and entry.origin != signer.name:
        raise AuditError(f"the genesis of {entry.origin!a}, signed in the name of {signer.name!a}", clause="§7.1")
    if isinstance(entry, Authorised) and entry.version < 1:
        raise AuditError("version 0 is authorised by genesis alone", clause="§7.10")
    return entry, signer


def _proved(proof: LogProof, raw: bytes, entry: Authorised | Genesis, signer: Verifier, trust: Trust) -> TreeHead:
    """That the entry is in the log, under a head by its own signer's key or a later one (FORMAT §9.3)."""
    if isinstance(entry, Genesis) != (proof.index == 0):
        raise AuditError(f"a proof of entry {proof.index}, where {kind_of(entry)} cannot stand", clause="§7.1")
    # A key that was in force before the entry's signs no head that has the entry in it (FORMAT §3.2).
    try:
        return proof.verify(raw, trust.keys[trust.keys.index(signer) :], origin=signer.name)
    except AuditError as error:  # a head in a proof, not the log's own (§3.2)
        raise AuditError(error.message, clause="§9.3", remedy=error.remedy) from error


def _cosigned(head: bytes, trust: Trust) -> tuple[str, ...]:
    """The names of the trusted witnesses under a head; AuditError unless they are enough (FORMAT §10.2)."""
    signed = cosignatures(head, trust.witnesses)
    if len(signed) < trust.required:
        raise AuditError(f"{len(signed)} of {trust.required} required witnesses have cosigned its tree head")
    names = {each.key_digest: each.name for each in trust.witnesses}
    return tuple(sorted(names[each] for each in signed))


def _candidate(files: Mapping[str, bytes], source: Mapping[str, bytes], place: Path) -> Candidate:
    """The candidate record, every part of it that can be derived from the other files derived (FORMAT §9.2)."""

    def refuse(name: str, message: str) -> AuditError:
        return AuditError(message, where=str(place / name), clause="§9.2")

    try:
        value = parse_json(files["candidate.json"])
        record = Candidate.parse(value)
        if canonical_bytes(record.json_value()) != files["candidate.json"]:
            raise refuse("candidate.json", "not in the form of RFC 8785")
        recipe = parse_json(files["recipe.json"])
        if canonical_bytes(record.recipe) != files["recipe.json"]:
            raise refuse("recipe.json", "not the recipe of candidate.json, in the form of RFC 8785")
        if digest_json({path: digest(data) for path, data in source.items()}) != record.source:
            raise refuse("source", "not the source tree of candidate.json")
        if digest(files[WEIGHTS]) != record.weights:
            raise refuse(WEIGHTS, "not the weights of candidate.json")
        if candidate_digest(recipe, record.source, record.weights) != record.digest:
            raise refuse("candidate.json", "its digest is not that of its recipe, source and weights")
        counted = sum(spec.items for spec in tensor_header(files[WEIGHTS]).values())
    except ValidationError as error:
        where, message = first_problem(error)
        raise refuse("candidate.json", f"{where}: {message}") from error
    except CanonicalError as error:
        raise refuse("candidate.json and recipe.json", str(error)) from error
    except ArtifactError as error:
        raise refuse(WEIGHTS, str(error)) from error
    if (record.bytes, record.parameters) != (len(files[WEIGHTS]), counted):
        raise refuse("candidate.json", "its size and number of parameters are not those of the weights")
    return record


def _bind(entry: Authorised | Genesis, candidate: Candidate, place: Path) -> None:
    """That the candidate in the folder is the one that the entry authorises."""
    where = str(place / "candidate.json")
    if isinstance(entry, Genesis):
        if entry.baseline != candidate:
            raise AuditError("not the baseline that genesis names", where=where, clause="§9.3")
    elif (entry.candidate, entry.weights) != (candidate.digest, candidate.weights):
        raise AuditError("authorisation.json authorises another candidate", where=where, clause="§9.3")


def _insist(entry: Authorised | Genesis, trust: Trust, place: Path) -> None:
    """What this reader demands besides."""
    where = str(place / "authorisation.json")
    version = entry.version if isinstance(entry, Authorised) else 0
    if version < trust.at_least:
        raise AuditError(f"version {version}, where at least {trust.at_least} is asked for", where=where, clause="§9.6")
    if trust.policies is not None and entry.policies != trust.policies:
        raise AuditError("judged by other policies than those asked for", where=where, clause="§9.6")


# Reading: one descriptor for each folder, and every name looked up below it, so that no path is walked twice.


def _read(place: Path, max_weights: int) -> dict[str, bytes]:
    """Every file of a version's folder by its path, read once; AuditError (FORMAT §9.1)."""
    limits = {"authorisation.json": MAX_ENTRY, "authorisation.proof": MAX_PROOF, WEIGHTS: max_weights}
    found: dict[str, bytes] = {}
    try:
        root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise AuditError(f"cannot be opened: {error.strerror}", where=str(place), clause="§9.1") from error
    try:
        names = set(_names(root, place))
        if names != FILES:
            odd = ", ".join(ascii(name) for name in sorted(names ^ FILES))
            message = f"these are missing, or nothing that a version has: {odd}"[:300]
            raise AuditError(message, where=str(place), clause="§9.1")
        for name in sorted(FILES - {"source"}):
            found[name] = _file(name, root, place / name, limits.get(name, _MAX_FILE))
        _tree("source", root, place, found)
    finally:
        os.close(root)
    return found


def _tree(path: str, parent: int, place: Path, found: dict[str, bytes]) -> None:
    """Read a folder of source files into `found`, and what lies below it."""
    where = place / path
    handle = _open(path.rpartition("/")[2], parent, where, os.O_DIRECTORY)
    try:
        names = _names(handle, where)
        if not names or path.count("/") > _MAX_DEPTH:
            raise AuditError("an empty folder, or one nested too deeply", where=str(where), clause="§9.1")
        for name in names:
            inner = f"{path}/{name}"
            if stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
                _tree(inner, handle, place, found)
                continue
            found[inner] = _file(name, handle, place / inner, _MAX_FILE)
            sizes = [len(data) for file, data in found.items() if file.startswith("source/")]
            if len(sizes) > _MAX_FILES or sum(sizes) > _MAX_SOURCE:
                message = f"more than {_MAX_FILES} files, or {_MAX_SOURCE} bytes"
                raise AuditError(message, where=str(place / "source"), clause="§9.1")
    except OSError as error:  # a name that went away between the list and the look
        raise AuditError(f"cannot be read: {error.strerror}", where=str(where), clause="§9.1") from error
    finally:
        os.close(handle)


def _names(handle: int, where: Path) -> list[str]:
    """The names in an open folder, sorted; AuditError where there are too many."""
    try:
        names: list[str] = []
        with os.scandir(handle) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) > _MAX_FILES:
                    raise AuditError(f"more than {_MAX_FILES} names", where=str(where), clause="§9.1")
    except OSError as error:
        raise AuditError(f"cannot be read: {error.strerror}", where=str(where), clause="§9.1") from error
    return sorted(names)


def _open(name: str, parent: int, where: Path, flags: int = 0) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=parent)
    except OSError as error:
        raise AuditError(f"cannot be opened: {error.strerror}", where=str(where), clause="§9.1") from error


def _file(name: str, parent: int, where: Path, limit: int) -> bytes:
    """The bytes of one regular file of at most `limit` bytes; AuditError."""
    handle = _open(name, parent, where)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise AuditError(f"not a regular file of at most {limit} bytes", where=str(where), clause="§9.1")
        with os.fdopen(handle, "rb", closefd=False) as stream:
            data = stream.read(status.st_size + 1)  # a larger number would be allocated whole
    except OSError as error:
        raise AuditError(f"cannot be read: {error.strerror}", where=str(where), clause="§9.1") from error
    finally:
        os.close(handle)
    if len(data) != status.st_size:
        raise AuditError("it changed while it was read", where=str(where), clause="§9.1")
    return data
