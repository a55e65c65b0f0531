"""Approvals: who may answer a hold, what they sign, and what counts as an answer.

Approvers stand in a file of OpenSSH's `allowed_signers` format, so that they use the keys they have:

    alice@example.org,role:safety namespaces="lockgate-approval" ssh-ed25519 AAAA…

The first principal is the person's name in the log, `role:ROLE` what policies call them (`human` where there is none).
An answer is a signature over the digest of the hold and the verdict, in a namespace of its own: it is good for that
hold, in that log, and for nothing else; an approval cannot be turned into a refusal, nor the other way round.

Not covered: certificates, and keys that are valid for a time only (a line that ends is taken out, by a guard change).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import StringConstraints, ValidationError, model_validator

from harness.canonical import canonical_bytes, decode_base64, parse_json
from harness.errors import AuditError, CanonicalError, ConfigError, KeyFileError
from harness.quorum import Approver, Approvers
from harness.records import Digest, Record, first_problem

__all__ = ["NAMESPACE", "Answer", "answered_by", "fingerprint", "load_approvers", "message", "parse_allowed_signers"]

NAMESPACE: Final = "lockgate-approval"
"""PROTOCOL.sshsig §2: a signature for another purpose does not count here."""
ROLE: Final = "human"
MAX_FILE = 1 << 18
MAX_APPROVERS = 256

Said = Literal["approve", "refuse"]
_PRINCIPALS = re.compile(r"(?P<name>[^,]+)(,role:(?P<role>[^,]+))?", re.ASCII)


class Answer(Record):
    """One signed answer to a hold, as it lies in the run's `approvals/` until the supervisor has taken it in."""

    hold: Digest
    verdict: Said
    reason: Annotated[str, StringConstraints(max_length=1000)]
    signature: Annotated[str, StringConstraints(max_length=6000)]
    """Base64 of an SSH signature of `message(…)`."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not self.reason.isprintable():
            raise ValueError("the reason is one line of text")
        return self

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Read one answer; AuditError for anything else."""
        try:
            return cls.parse(parse_json(data, max_bytes=1 << 15))
        except CanonicalError as error:
            raise AuditError(f"not an answer to a hold: {error}") from error
        except ValidationError as error:
            place, problem = first_problem(error)
            raise AuditError(f"not an answer to a hold: {place}: {problem}") from error


def message(hold: Digest, verdict: Said, reason: str) -> bytes:
    """The bytes that an approver signs (FORMAT §5.9)."""
    return canonical_bytes({"hold": hold, "reason": reason, "verdict": verdict})


def fingerprint(key: str) -> str:
    """The fingerprint of a key `TYPE BASE64`, as `ssh-keygen -l` prints it; empty where it is none."""
    from harness.sshsig import SshKey

    try:
        return SshKey.parse(key).fingerprint
    except KeyFileError:
        return ""


def answered_by(hold: Digest, verdict: Said, reason: str, signature: str, approvers: Iterable[Approver]) -> Approver:
    """Whose answer it is; AuditError where the signature does not verify, or is by none of the approvers."""
    from harness.sshsig import verify  # `cryptography` is slow to import, and most runs have no holds

    try:
        blob = decode_base64(signature)
    except CanonicalError as error:
        raise AuditError("the signature is not base64") from error
    key = verify(blob, message(hold, verdict, reason), NAMESPACE)
    for approver in approvers:
        if approver.key == key.line:
            return approver
    raise AuditError(f"the key {key.fingerprint} is none of this run's approvers'")


def load_approvers(subject: Path, rule: Approvers) -> list[Approver]:
    """The approvers of a subject, in the file's order; ConfigError names file and line."""
    path = subject / rule.file
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            remedy="list approvers there, in the format of OpenSSH's allowed_signers",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8", where=str(path)) from error
    if len(data) > MAX_FILE:
        raise ConfigError(f"larger than {MAX_FILE} bytes", where=str(path))
    approvers = parse_allowed_signers(text, str(path))
    people = len({approver.name for approver in approvers})
    if people < rule.require:
        message = f"{rule.require} must agree, and {people} are listed"
        raise ConfigError(message, where=str(path), remedy="list more, or lower `require`")
    return approvers


def parse_allowed_signers(text: str, name: str, *, over_time: bool = False) -> list[Approver]:
    """Read the lines of an allowed_signers file; ConfigError names `name:line`.

    `over_time`: the list is a reader's, of a whole log, in which a change of guard may give a person another role.
    """
    from harness.sshsig import SshKey

    found, secrets = list[Approver](), dict[bytes, str]()
    for number, each in enumerate(text.split("\n"), 1):
        line = each.strip(" \t\r")
        if line and not line.startswith("#"):
            try:
                found.append(_approver(line))
            except (ValueError, KeyFileError) as error:
                remedy = getattr(error, "remedy", None) or (
                    f'a line is: NAME[,role:ROLE] namespaces="{NAMESPACE}" TYPE KEY'
                )
                told = error.message if isinstance(error, KeyFileError) else str(error)
                raise ConfigError(told, where=f"{name}:{number}", remedy=remedy) from error
            secret = SshKey.parse(found[-1].key).secret  # one hand, whatever the type, or the application of a token
            if secret in secrets and not (over_time and secrets[secret] == found[-1].name):
                raise ConfigError("this key is listed above already", where=f"{name}:{number}")
            secrets[secret] = found[-1].name
            if {each.name for each in found if each.name.casefold() == found[-1].name.casefold()} != {found[-1].name}:
                raise ConfigError(f"{found[-1].name} is listed above in other letters", where=f"{name}:{number}")
            roles = {each.role for each in found if each.name == found[-1].name}
            if len(roles) > 1 and not over_time:
                message = f"{found[-1].name} has two roles"
                raise ConfigError(message, where=f"{name}:{number}", remedy="a person has one role, with every key")
    if len(found) > MAX_APPROVERS:
        raise ConfigError(f"more than {MAX_APPROVERS} keys", where=name)
    return found


def _approver(line: str) -> Approver:
    """One line; ValueError, KeyFileError."""
    from harness.sshsig import KEY_TYPES, SshKey

    words = line.split()
    options = ""
    if len(words) > 3 and words[1] not in KEY_TYPES:
        options = words.pop(1)
    if len(words) < 3:
        raise ValueError("not a line of allowed_signers")
    allowed = re.fullmatch(r'namespaces="([^"]*)"', options)
    if options and allowed is None:
        raise ValueError(f"the option {options[:60]!a} is not read: an approver is one while the line stands")
    if allowed is not None and NAMESPACE not in allowed[1].split(","):
        raise ValueError(f"the key is for other namespaces than {NAMESPACE}")
    principals = _PRINCIPALS.fullmatch(words[0])
    if principals is None:
        raise ValueError("principals are a name, and at most one role:ROLE")
    key = SshKey.parse(f"{words[1]} {words[2]}")
    try:
        return Approver(name=principals["name"], role=principals["role"] or ROLE, key=key.line)
    except ValidationError as error:
        place, problem = first_problem(error)
        raise ValueError(f"{place}: {problem}") from error
