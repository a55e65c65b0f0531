"""What a person does about a hold: see what waits, sign an answer with an SSH key, leave it for the supervisor.

The answer is signed by `ssh-keygen -Y sign`, so that keys in agents and on hardware tokens work as they do elsewhere;
where the key is on another machine, the bytes to sign go there and the signature comes back. Nothing of the run's own
keys is needed: who may answer is settled by the log, and the supervisor takes in only what verifies.
"""

from __future__ import annotations

import base64
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.approval import NAMESPACE, Answer, Said, answered_by, message
from harness.canonical import canonical_bytes, digest
from harness.durable import make_directory, write_durably
from harness.errors import AuditError, ConfigError, KeyFileError
from harness.folder import RunFolder
from harness.holds import Hold, expired
from harness.sshsig import dearmour
from harness.state import RunState
from harness.views import change_view, hold_view

GUARD = "guard"
"""What a change of the guard is called where a proposal has its number."""


def what(text: str) -> int | None:
    """What is answered: a proposal's number, or None for the guard; ConfigError."""
    if text == GUARD:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ConfigError(f"{text[:40]!a} is neither a proposal's number nor '{GUARD}'", where="PROPOSAL")
    return int(text)


def open_hold(state: RunState, number: int | None) -> Hold:
    """The open hold of a proposal, or of the guard; ConfigError says what waits instead."""
    if number is None:
        if state.change is None:
            raise ConfigError("no change of the guard is open", remedy="`lockgate guard propose` proposes one")
        return state.change.hold
    found = state.proposals.get(number)
    if found is None or found.hold is None:
        waiting = ", ".join(map(str, sorted(state.held)))
        raise ConfigError(
            f"proposal {number} does not wait for people",
            remedy=f"waiting: {waiting}"
            if waiting
            else "nothing is on hold: `lockgate status` says where the run stands",
        )
    return found.hold


def view(state: RunState, number: int | None) -> dict[str, Any]:
    """What waits, for people."""
    return change_view(state) if number is None else hold_view(state, number)


def to_sign(state: RunState, number: int | None, verdict: Said, reason: str) -> bytes:
    """The bytes that `ssh-keygen -Y sign -n lockgate-approval` is to sign."""
    return message(open_hold(state, number).digest, verdict, checked(reason))


def checked(reason: str) -> str:
    """A reason that fits an entry; ConfigError."""
    if len(reason) > 1000 or (reason and not reason.isprintable()):
        raise ConfigError("a reason is one line of at most 1,000 characters", where="--reason")
    return reason


def sign(key: Path, data: bytes) -> bytes:
    """Sign with an SSH key; asks for its passphrase or a touch as ssh-keygen does. KeyFileError.

    `key` is a private key, or the public half of one that an agent or a hardware token holds.
    """
    command = ["ssh-keygen", "-Y", "sign", "-n", NAMESPACE, "-f", str(key)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, check=False)
    except OSError as error:
        raise KeyFileError(
            f"ssh-keygen cannot be run: {error.strerror}", remedy="install OpenSSH, or sign elsewhere: see --message"
        ) from error
    if done.returncode:
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise KeyFileError(f"ssh-keygen did not sign: {told[-1] if told else 'no reason given'}", where=str(key))
    return done.stdout


def leave(
    folder: RunFolder, state: RunState, number: int | None, verdict: Said, reason: str, armoured: bytes
) -> dict[str, Any]:
    """Check a signed answer as the supervisor will, and leave it in the run's `approvals/`; returns what it comes to.

    ConfigError for a signature that does not count: nothing is left then.
    """
    hold = open_hold(state, number)
    approvers = state.guarding.approvers
    try:
        signature = base64.b64encode(dearmour(armoured.decode("ascii", "replace"))).decode()
        approver = answered_by(hold.digest, verdict, checked(reason), signature, approvers)
    except AuditError as error:
        listed = ", ".join(sorted({each.name for each in approvers}))
        raise ConfigError(error.message, remedy=error.remedy or f"approvers of this run: {listed}") from error
    proposer = hold.guard.by if number is None else state.proposals[number].proposed.proposer
    if approver.name == proposer:
        raise ConfigError(f"{approver.name} cannot answer their own proposal")
    if expired(datetime.now(UTC).isoformat(), hold.expires):
        raise ConfigError(
            f"the hold has expired, at {hold.expires}", remedy="`lockgate resume` ends it, as a rejection"
        )
    if hold.refused or {approver.name, approver.key} & {*hold.answered}:
        raise ConfigError(f"{approver.name} has answered already, or somebody has refused")
    answer = Answer(hold=hold.digest, verdict=verdict, reason=reason, signature=signature)
    data = canonical_bytes(answer.json_value())
    try:
        make_directory(folder.approvals)
        path = folder.approvals / f"{digest(data)[7:23]}.json"
        write_durably(path, data, mode=0o644)
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error.strerror}",
            where=str(folder.approvals),
            remedy="whoever owns the run lets approvers write into this folder, or takes the signature: see --message",
        ) from error
    return {**view(state, number), "answer": verdict, "by": approver.name, "file": str(path)}
