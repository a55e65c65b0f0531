"""Every error that Lockgate raises on purpose, in one tree.

A rejection of a proposal is a value (`records.Decision`), never an exception: an
exception here means that something could not be decided, read or done.

    LockgateError
    ├── CanonicalError      bytes that are not the JSON they claim to be
    ├── KeyFileError        a key that is missing, malformed or readable by others
    ├── AuditError          a log, note, proof or envelope that does not verify
    ├── ArtifactError       a blob or a tensor file that is not what was declared
    ├── ConfigError         lockgate.yaml, or the command line
    ├── PolicyError         a policy that does not load, compile or test
    ├── ProposalError       bytes that are not a proposal
    ├── SubjectError        model.py or guards.py of the subject
    ├── SandboxError        no sandbox, or one that does not hold
    ├── EvaluatorError      the evaluator died, or answered out of turn
    ├── StatisticsError     a score out of its bounds, a gate that cannot be tested
    ├── StateError          an entry that is illegal where it stands in the log
    ├── PromotionError      the swap could not be made, or made durable
    ├── ServiceError        the supervisor's socket: a malformed or refused request
    ├── StoppingError       the supervisor is ending: what is under way is not an entry any more
    ├── DiskError           the disk refused: full, failing, or not ours to write
    └── ProposerError       a proposer that failed, or answered nonsense
"""

from __future__ import annotations


class LockgateError(Exception):
    """The root. `where` names the place (file:line, entry index, JSON pointer); `remedy` what to do.

    `clause` is what it breaks of audits/FORMAT.md, such as `§7.10`, where it is about a trail.
    """

    def __init__(
        self, message: str, *, where: str | None = None, remedy: str | None = None, clause: str | None = None
    ) -> None:
        """Keep the parts apart, so that `--json` can show them apart."""
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy
        self.clause = clause

    def __str__(self) -> str:
        """`where: message (remedy)`, leaving out what is not known."""
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.remedy})" if self.remedy else text


class CanonicalError(LockgateError):
    """Bytes that are not strict JSON, or a value that has no canonical form."""


class KeyFileError(LockgateError):
    """A key file that is missing, malformed, or open to others."""


class AuditError(LockgateError):
    """A log, note, proof or envelope that does not verify."""


class ArtifactError(LockgateError):
    """A blob or tensor file that is not what was declared."""


class ConfigError(LockgateError):
    """A mistake in `lockgate.yaml` or on the command line."""


class PolicyError(LockgateError):
    """A policy that does not load, compile or pass its tests."""


class ProposalError(LockgateError):
    """Bytes that are not a proposal."""


class SubjectError(LockgateError):
    """A mistake in the subject's `model.py` or `guards.py`."""


class SandboxError(LockgateError):
    """No sandbox is to be had here, or the one there is does not hold."""


class EvaluatorError(LockgateError):
    """The evaluator died, was late, or answered out of turn."""


class StatisticsError(LockgateError):
    """A score out of its bounds, or a gate that cannot be tested."""


class StateError(LockgateError):
    """An entry that is illegal where it stands in the log."""


class PromotionError(LockgateError):
    """The live model could not be swapped, or the swap not made durable."""


class ServiceError(LockgateError):
    """A malformed or refused request on the supervisor's socket."""


class StoppingError(LockgateError):
    """The supervisor is ending: what is under way is not an entry any more."""


class DiskError(LockgateError):
    """The disk refused: full, failing, or not ours to write."""


class ProposerError(LockgateError):
    """A proposer that failed or answered nonsense."""
