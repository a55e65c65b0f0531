"""The run's folder: where everything lies, who holds its lock, and the digest of what guards it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import __version__
from harness.canonical import digest_file, digest_json
from harness.config import Config
from harness.durable import TEMPORARY, make_directory
from harness.errors import ConfigError
from harness.live import MODELS
from harness.records import Digest

HALT = "HALT"
GUARDED = ("guards.py", "lockgate.yaml")
"""What no proposal may ever change."""


JUDGED_BY = ("cel-expr-python", "numpy", "pydantic", "safetensors")
"""Packages by which candidates are judged, measured and checked."""


LOCKS = ("pylock.toml", "poetry.lock", "requirements.lock", "requirements.txt", "uv.lock")
"""Lock files, which a subject may have beside lockgate.yaml: what is installed by them is guarded with them."""


IMPORTED = {".py", ".pyc", ".so"}
"""Endings of what an import may find: compiled modules come before their source."""


class RunFolder:
    """Paths below one run's folder."""

    def __init__(self, root: Path) -> None:
        """Name the folder; nothing is touched."""
        self.root = root.absolute()
        self.log = self.root / "log"
        self.public_key = self.root / "keys" / "log.pub"
        self.blobs = self.root / "blobs"
        self.models = self.root / MODELS
        self.private = self.root / "private"
        self.own_key = self.root / "keys" / "own.pub"
        """The run's first key, where the run has made it itself."""
        self.signing_key = self.private / "signing.key"
        self.next_signing_key = self.private / "signing.key.next"
        self.vault_key = self.private / "vault.key"
        self.vault = self.root / "vault"
        self.work = self.root / "work"
        self.socket = self.root / "supervisor.sock"
        self.halt = self.root / HALT
        self.witnesses = self.root / "witnesses.json"
        self.approvals = self.root / "approvals"
        """Where people leave their answers to holds, for the supervisor to take in."""
        self.subject_link = self.root / "subject.path"
        self._lock: int | None = None

    @property
    def exists(self) -> bool:
        """Whether a run was begun here: its log has a tree head."""
        return (self.log / "checkpoint").exists()

    def create(self) -> None:
        """Make the folders, the private one closed to others. ConfigError where the disk refuses."""
        try:
            for path in (self.root, self.models, self.root / "keys"):
                make_directory(path)
            # Evidence is confidential, and its blobs lie among the others: both folders are their owner's alone.
            for path in (self.private, self.blobs, self.work):
                make_directory(path, mode=0o700)
        except OSError as error:
            raise ConfigError(
                f"cannot be created: {error.strerror}", where=str(self.root), remedy="name another with --out"
            ) from error

    def lock(self) -> None:
        """Take the run's lock for this process's life; ConfigError where another supervisor holds it."""
        handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise ConfigError(
                "another supervisor is at work on this run",
                where=str(self.root),
                remedy="wait for it, `lockgate halt` it, or give this run a folder of its own with --out",
            ) from error
        self._lock = handle
        for leftover in self.private.glob(f"{TEMPORARY}*"):  # of a write that was cut: it may hold a key in the clear
            with contextlib.suppress(OSError):
                leftover.unlink()

    def unlock(self) -> None:
        """Give the lock back; a second time does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def guard_files(subject: Path, config: Config) -> dict[str, Digest]:
    """The subject's files that guard a run, by digest: lockgate.yaml, guards.py and its imports, approvers, lock files.

    These are all files that Python may import and proposals may not change, but for hidden folders and runs that
    lie below the subject, which grow while it is guarded.
    """
    named = [*sorted(GUARDED), *([config.approvers.file] if config.approvers else [])]
    named += [name for name in LOCKS if (subject / name).is_file()]
    files = {name: digest_file(subject / name) for name in named}
    mutable = {path for pattern in config.mutable for path in subject.glob(pattern)}
    for path in sorted(path for path in subject.rglob("*") if path.suffix in IMPORTED and path.is_file()):
        inner = path.relative_to(subject)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inner.parts)
        run = any((subject / above / "log" / "checkpoint").exists() for above in inner.parents)
        if path not in mutable and not hidden and not run:
            files[inner.as_posix()] = digest_file(path)
    return files


def guard_parts(files: dict[str, Digest], policies: Digest, distributions: Iterable[str]) -> dict[str, Any]:
    """What guards a run: the subject's guard files, every policy, the harness, its packages' versions.

    Its digest (`digest_json`) is the run's guard digest, so a blob of it has that name. `distributions` are what
    candidates are built with.
    """
    packages = {name: version(name) for name in sorted({*distributions, *JUDGED_BY})}
    harness = Path(__file__).parent
    code = {p.relative_to(harness).as_posix(): digest_file(p) for p in sorted(harness.rglob("*.py"))}
    return {
        "files": files,
        "policies": policies,
        "harness": __version__,
        "code": digest_json(code),
        "packages": packages,
    }


def read_source(subject: Path, config: Config) -> dict[str, bytes]:
    """The subject's source tree that proposals may change: path → bytes. ConfigError where a glob finds nothing."""
    tree: dict[str, bytes] = {}
    for pattern in config.mutable:
        for path in sorted(subject.glob(pattern)):
            if path.is_file() and not path.is_symlink():
                name = path.relative_to(subject).as_posix()
                if name in GUARDED:
                    raise ConfigError(
                        f"'{pattern}' among the mutable files takes in {name}, which guards the run",
                        where=str(subject / "lockgate.yaml"),
                        remedy="name the files that proposals may change one by one",
                    )
                tree[name] = path.read_bytes()
    if "model.py" not in tree:
        raise ConfigError(
            "no model.py among the mutable files",
            where=str(subject),
            remedy="it holds Recipe, build, train and predict",
        )
    return tree
