"""The live model: staged beside the others, made live by one rename.

    models/<version>/   recipe.json  candidate.json  source/…  weights.safetensors
                        authorisation.json  authorisation.proof (FORMAT §9)
    current             a symbolic link to models/<version>; renaming over it is the only point of application

Every write is durable before the next step begins (Sunlight's order: stage, check, apply,
publish). A version's folder is never written again, so an earlier one comes back bit-identical.

Not covered: when this may be called; see `promotion.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Container
from datetime import UTC, datetime
from pathlib import Path

from harness.artifacts import BlobStore, open_regular
from harness.canonical import canonical_bytes, digest_file, digest_json, parse_json
from harness.durable import make_directory, sync_directory, write_durably
from harness.errors import ArtifactError, CanonicalError, LockgateError, PromotionError
from harness.records import Candidate

_RECIPE = 1 << 20
CURRENT = "current"
MODELS = "models"
DAMAGED = "damaged"
"""Where `lockgate repair` keeps what it replaces."""
WEIGHTS = "weights.safetensors"
FILES = {"recipe.json", "candidate.json", "authorisation.json", "authorisation.proof", "source", WEIGHTS}
"""What a version's folder holds, and nothing else (FORMAT §9.1)."""

REPAIR = "somebody changed it by hand: find out who; `lockgate repair RUN` puts back what the log names"


def candidate_digest(recipe: object, source: str, weights: str) -> str:
    """The digest that binds a candidate's recipe, source tree and weights."""
    return digest_json({"recipe": recipe, "source": source, "weights": weights})


def stage(run: Path, version: int, candidate: Candidate, blobs: BlobStore, authorisation: bytes, proof: bytes) -> Path:
    """Write `models/<version>` whole and durably; returns the folder. Idempotent: a leftover is replaced.

    `authorisation` is the exact entry that allows it, `proof` the tlog-proof of that entry: they travel with the model.

    Raises PromotionError where a blob is missing or does not match, or the disk fails.
    """
    target = run / MODELS / str(version)
    if target.exists() and live_version(run) == version:
        raise PromotionError(f"version {version} is live already")
    staging = _written(run, version, candidate, blobs, authorisation, proof)
    try:
        # Left by a crash between staging and intent: nothing live points there, for versions are never reused.
        _remove(target)
        staging.rename(target)
        sync_directory(run / MODELS)
    except OSError as error:
        raise PromotionError(f"staging failed: {error}", where=str(staging)) from error
    check_version(run, version, candidate)
    return target


def restore(
    run: Path, version: int, candidate: Candidate, blobs: BlobStore, authorisation: bytes, proof: bytes
) -> Path | None:
    """Write `models/<version>` anew, live or not, in the place of what is there; returns where that is kept.

    Whole and durable beside it first, then two renames: cut anywhere, a second call ends it. PromotionError.
    """
    staging = _written(run, version, candidate, blobs, authorisation, proof)
    target = run / MODELS / str(version)
    kept = set_aside(run, target)
    try:
        staging.rename(target)
        sync_directory(run / MODELS)
    except OSError as error:
        raise PromotionError(f"staging failed: {error}", where=str(staging)) from error
    check_version(run, version, candidate)
    return kept


def set_aside(run: Path, path: Path) -> Path | None:
    """Move what is damaged, whatever it is, to `damaged/`, where nothing reads it; None where nothing is there."""
    if not os.path.lexists(path):
        return None
    folder = run / DAMAGED
    kept = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{path.name}"
    try:
        make_directory(folder, mode=0o700)
        path.rename(kept)
        sync_directory(folder)
        sync_directory(path.parent)
    except OSError as error:
        raise PromotionError(f"cannot be set aside: {error.strerror}", where=str(path)) from error
    return kept


def _written(
    run: Path, version: int, candidate: Candidate, blobs: BlobStore, authorisation: bytes, proof: bytes
) -> Path:
    """Write a version's folder under a name that no version has, whole and durably; PromotionError."""
    models = run / MODELS
    staging = models / f".staging-{version}"
    try:
        make_directory(models)
        _remove(staging)
        make_directory(staging / "source")
        manifest = parse_json(blobs.get(candidate.source))
        if not isinstance(manifest, dict):
            raise PromotionError("the source tree's manifest is malformed", where=candidate.source)
        for name, blob in sorted(manifest.items()):
            path = staging / "source" / name
            make_directory(path.parent)
            write_durably(path, blobs.get(str(blob)))
        write_durably(staging / "recipe.json", canonical_bytes(candidate.recipe))
        write_durably(staging / "candidate.json", canonical_bytes(candidate.json_value()))
        write_durably(staging / "authorisation.json", authorisation)
        write_durably(staging / "authorisation.proof", proof)
        write_durably(staging / WEIGHTS, blobs.get(candidate.weights))
        sync_directory(staging)
    except (OSError, ArtifactError, CanonicalError) as error:
        raise PromotionError(f"staging failed: {error}", where=str(staging)) from error
    return staging


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def check_version(run: Path, version: int, candidate: Candidate) -> None:
    """Hash a staged folder again, from the disk; PromotionError unless it is exactly `candidate` (FORMAT §9.2)."""
    folder = run / MODELS / str(version)
    try:
        strangers = {path.name for path in folder.iterdir()} ^ FILES
        linked = any(path.is_symlink() for path in (folder.parent, folder, *(folder / name for name in FILES)))
        with open_regular(folder / "recipe.json", max_bytes=_RECIPE) as file:
            recipe = file.read()
        source = digest_json(source_manifest(folder / "source"))
        with open_regular(folder / WEIGHTS) as file:  # a FIFO would wait for a writer for ever
            weights = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        digested = candidate_digest(parse_json(recipe), source, weights)
        changed = recipe != canonical_bytes(candidate.recipe) or digested != candidate.digest
    except (OSError, LockgateError) as error:
        raise PromotionError(f"version {version} cannot be read: {error}", where=str(folder), remedy=REPAIR) from error
    if strangers or linked:
        raise PromotionError(
            f"version {version} has other files than a version has: {', '.join(sorted(strangers)) or 'links'}"[:300],
            where=str(folder),
            remedy=REPAIR,
        )
    if changed or weights != candidate.weights or source != candidate.source:
        raise PromotionError(
            f"version {version} is not the candidate that was authorised",
            where=str(folder),
            remedy=REPAIR,
        )


def source_manifest(root: Path) -> dict[str, str]:
    """Path → digest of every file below `root`: the source tree, as it is hashed."""
    manifest = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise PromotionError("neither a file nor a folder", where=str(path))
        if path.is_file():
            manifest[path.relative_to(root).as_posix()] = digest_file(path)
    return manifest


def forget_unused(run: Path, versions: Container[int]) -> None:
    """Remove what was staged for versions that never came to be, as far as the disk lets us; the live one is kept.

    Such a folder carries an authorisation with its proof: it must not travel as if it had been used.
    """
    live = live_version(run)
    with contextlib.suppress(OSError):
        for folder in (run / MODELS).iterdir():
            name = folder.name.removeprefix(".staging-")
            unused = name != folder.name or (name.isdecimal() and int(name) not in versions and int(name) != live)
            if unused and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)


def swap(run: Path, version: int) -> None:
    """Make `version` live: one atomic rename over `current`, made durable. The only point of application."""
    link = run / ".current-next"
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(f"{MODELS}/{version}")
        link.rename(run / CURRENT)
        sync_directory(run)
    except OSError as error:
        raise PromotionError(f"the swap failed: {error}", where=str(run / CURRENT)) from error


def sync(run: Path) -> None:
    """Make the link `current` durable as it stands; PromotionError where the disk refuses."""
    try:
        sync_directory(run)
    except OSError as error:
        raise PromotionError(f"the swap may not be durable: {error}", where=str(run / CURRENT)) from error


def live_version(run: Path) -> int | None:
    """The version that `current` names, or None where there is no link; PromotionError where it names anything else."""
    link = run / CURRENT
    try:
        target = os.readlink(link)  # noqa: PTH115 - a Path would make one spelling of several
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PromotionError("not a symbolic link", where=str(link), remedy=REPAIR) from error
    if not re.fullmatch(rf"{MODELS}/(0|[1-9][0-9]{{0,8}})", target):
        raise PromotionError(f"names {target[:80]!a}, which is no version", where=str(link), remedy=REPAIR)
    return int(target.removeprefix(f"{MODELS}/"))
