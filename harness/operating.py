"""What an operator does beside the loop: halt, roll back, make keys, ask for the gates' power."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from harness.channel import Child
from harness.client import Connection, SupervisorProcess
from harness.config import load_config
from harness.desk import EVALUATOR_SECONDS
from harness.durable import write_durably
from harness.entries import Halted
from harness.errors import ConfigError, ServiceError, SubjectError
from harness.folder import RunFolder
from harness.genesis import check_gates, gates_power
from harness.keys import Signer, VaultKey
from harness.opening import open_journal, read_subject
from harness.power import PowerTable


def halt(folder: RunFolder, reason: str) -> dict[str, Any]:
    """Halt a run: the kill-switch file first, which works whatever the supervisor does, then the log."""
    write_durably(folder.halt, reason.encode())
    try:
        connection = Connection(folder.root)
    except ServiceError:
        try:
            journal = open_journal(folder.root)
        except ConfigError:
            # A supervisor holds the lock but does not listen yet, or any more: the file halts it.
            return {"halted": True, "logged": False}
        try:
            if journal.state.halted is None:
                journal.commit(Halted(by="operator", reason=reason))
        finally:
            journal.close()
        return {"halted": True, "logged": True}
    try:
        connection.ask({"op": "halt", "reason": reason})
    finally:
        connection.close()
    return {"halted": True, "logged": True}


def rollback(
    folder: RunFolder, version: int, reason: str, *, subject: Path | None, vault_key: Path | None
) -> dict[str, Any]:
    """Roll back through the supervisor at work, or through one started for it."""
    request = {"op": "rollback", "version": version, "reason": reason}
    try:
        connection = Connection(folder.root)
    except ServiceError:
        if subject is None:
            subject, known = read_subject(folder)
            vault_key = vault_key or known
        arguments = {
            "out": str(folder.root),
            "subject": str(subject.absolute()),
            "vault_key": str(vault_key.absolute()) if vault_key else None,
        }
        process = SupervisorProcess(arguments, lambda _: None)
        try:
            connection = Connection(folder.root)
            result = connection.ask(request)
            connection.ask({"op": "stop"})
            connection.close()
        finally:
            process.close()
        return result
    try:
        return connection.ask(request)
    finally:
        connection.close()


def init_keys(run: Path, name: str) -> dict[str, str]:
    """Make the signing key and the vault key of a run to come. KeyFileError where they are there already."""
    folder = RunFolder(run)
    if folder.exists:
        raise ConfigError("the run has begun: its keys are there", where=str(run))
    folder.create()
    signer = Signer.generate(f"{name}-{secrets.token_hex(4)}")
    signer.save(folder.signing_key)
    signer.verifier.save(folder.public_key)
    VaultKey.create(folder.vault_key)
    return {
        "signing_key": str(folder.signing_key),
        "public_key": str(folder.public_key),
        "vault_key": str(folder.vault_key),
        "vkey": signer.verifier.vkey,
    }


def power_of(subject: Path) -> tuple[PowerTable, float]:
    """The power of a subject's gates, and the floor below which its configuration is refused."""
    import tempfile

    config = load_config(subject)
    with tempfile.TemporaryDirectory() as place:
        evaluator = Child(["-m", "harness.evaluator", str(subject)], name="evaluator", stderr=Path(place) / "stderr")
        try:
            answer = evaluator.ask({"op": "describe"}, seconds=EVALUATOR_SECONDS)
        finally:
            evaluator.close()
    if "ok" not in answer:
        raise SubjectError(str(answer["message"]), where=answer.get("where"), remedy=answer.get("remedy"))
    gates = check_gates(config, answer["ok"], subject)
    return gates_power(gates, config, answer["ok"], floor=0.0), config.ledger.min_power
