"""What guards a run, beside what stands on the disk: whether it is the same, or as strict."""

from __future__ import annotations

from pathlib import Path

from harness.approval import load_approvers
from harness.artifacts import BlobStore
from harness.config import load_config
from harness.errors import ConfigError
from harness.folder import RunFolder, guard_files, guard_parts
from harness.genesis import guard_of
from harness.guard_change import Guard, GuardComparison, compare_guards
from harness.journal import read_run
from harness.keys import VerifierChain
from harness.opening import read_subject
from harness.policy import load_subject_policies


def guard_on_disk(subject: Path) -> Guard:
    """What a run over `subject` would be guarded by, were it begun now; ConfigError, PolicyError, SandboxError."""
    from harness.sandbox import Site

    config = load_config(subject)
    policies = load_subject_policies(config.policies, subject)
    approvers = load_approvers(subject, config.approvers) if config.approvers else []
    try:
        files = guard_files(subject, config)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(error.filename)) from error
    parts = guard_parts(files, policies.digest, Site.minimal(extra=config.packages).distributions)
    return Guard.of(config, policies, approvers, parts)


def compare_with_run(folder: RunFolder, subject: Path | None, *, seconds: float) -> GuardComparison:
    """Compare what guards a run with its subject as it stands, or with another's; AuditError, ConfigError."""
    if not folder.exists:
        where = str(folder.root)
        raise ConfigError("no run here", where=where, remedy="`lockgate run SUBJECT --out DIR` begins one")
    state, _ = read_run(folder.log, VerifierChain.load(folder.public_key))
    new = guard_on_disk(read_subject(folder)[0] if subject is None else subject)
    return compare_guards(guard_of(state.guarding, BlobStore(folder.blobs)), new, seconds=seconds)
