"""What an operator does beside the loop: halt, roll back, make keys and change them, ask for the gates' power."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.artifacts import BlobStore
from harness.channel import Child
from harness.client import Connection, SupervisorProcess
from harness.config import Config, load_config
from harness.cosigning import Cosigning
from harness.desk import EVALUATOR_SECONDS
from harness.durable import write_durably
from harness.entries import Halted
from harness.errors import ConfigError, KeyFileError, LockgateError, ServiceError, SubjectError
from harness.floors import guarded
from harness.folder import RunFolder
from harness.genesis import assumed, check_gates
from harness.journal import Journal, read_run
from harness.keyring import change_passphrase, list_keys, make_keys, rotate, unlock
from harness.keys import VaultKey, VerifierChain
from harness.ledger_replay import replay_ledger
from harness.opening import open_journal, read_subject
from harness.passphrase import Passphrase, PassphraseSource
from harness.policy import load_subject_policies
from harness.power import LADDER, PowerTable, Reach, power, reach, typical_alpha
from harness.records import Record


def halt(folder: RunFolder, reason: str, source: PassphraseSource) -> dict[str, Any]:
    """Halt a run: the kill-switch file first, which works whatever the supervisor does, then the log.

    The file halts without a passphrase, too: then the log does not say so yet. Where no supervisor is at work, the
    witnesses are shown the log's new head; what they do changes nothing of the halt, and `uncosigned` says it.
    """
    write_durably(folder.halt, reason.encode())
    try:
        connection = Connection(folder.root)
    except ServiceError:
        try:
            journal = open_journal(folder.root, unlock=lambda: unlock(folder, source))
        except (ConfigError, KeyFileError) as error:
            # A supervisor holds the lock but does not listen yet, or any more, or the key does not open.
            return {"halted": True, "logged": False, "why": str(error)}
        try:
            if not journal.state.halted:
                journal.commit(Halted(by="operator", reason=reason))
            uncosigned = _show(journal, folder)
        finally:
            journal.close()
        return {"halted": True, "logged": True, "uncosigned": uncosigned}
    try:
        connection.ask({"op": "halt", "reason": reason})
    finally:
        connection.close()
    return {"halted": True, "logged": True}


def _show(journal: Journal, folder: RunFolder) -> str | None:
    """Show the head to the witnesses, a courtesy to readers; returns why there is no quorum, where one is required."""
    try:
        return Cosigning(journal, folder).show()
    except (LockgateError, OSError) as error:
        return str(error)


def rollback(
    folder: RunFolder,
    version: int,
    reason: str,
    source: PassphraseSource,
    *,
    subject: Path | None,
    vault_key: Path | None,
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
        process = SupervisorProcess(arguments, lambda _: None, unlock(folder, source, vault_key or folder.vault_key))
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


def init_keys(run: Path, name: str, choose: Callable[[], Passphrase | None]) -> dict[str, Any]:
    """Make the signing key and the vault key of a run to come. KeyFileError where they are there already.

    `choose` gives the passphrase to encrypt them under, once it is known that they are to be made.
    """
    folder = RunFolder(run)
    if folder.exists:
        raise ConfigError("the run has begun: its keys are there", where=str(run))
    if folder.signing_key.exists():
        raise KeyFileError("a key is already there", where=str(folder.signing_key), remedy="move it away first")
    passphrase = choose()
    folder.create()
    signer = make_keys(folder, name, passphrase, own=False)
    VaultKey.create(folder.vault_key, passphrase)
    return {
        "signing_key": str(folder.signing_key),
        "public_key": str(folder.public_key),
        "vault_key": str(folder.vault_key),
        "vkey": signer.verifier.vkey,
        "encrypted": passphrase is not None,
    }


def rotate_keys(folder: RunFolder, reason: str, source: PassphraseSource) -> dict[str, Any]:
    """Let a fresh key sign a run's log from here on; ConfigError while a supervisor is at work.

    The new key file is encrypted as the old one is, and where a passphrase is handed over.
    """
    passphrase: list[Passphrase | None] = []

    def opened() -> Passphrase | None:
        passphrase.append(unlock(folder, source) or source.offered())
        return passphrase[0]

    journal = open_journal(folder.root, unlock=opened)
    try:
        old = journal.verifier.vkey
        entry = rotate(folder, journal, passphrase[0], reason)
        new = journal.verifier.vkey
    finally:
        journal.close()
    return {"entry": entry, "old": old, "new": new, "encrypted": passphrase[0] is not None}


def change_keys_passphrase(
    folder: RunFolder, source: PassphraseSource, choose: Callable[[], Passphrase | None]
) -> dict[str, Any]:
    """Write a run's key files again, under another passphrase or none; ConfigError while a supervisor is at work."""
    folder.lock()
    try:
        old = unlock(folder, source, folder.vault_key)
        new = choose()
        changed = change_passphrase(folder, old, new)
    finally:
        folder.unlock()
    return {"changed": [str(path) for path in changed], "encrypted": new is not None}


def keys_of(run: Path) -> dict[str, Any]:
    """What there is to know of the keys of a run, or of one to come, without a passphrase."""
    folder = RunFolder(run)
    try:
        vault_key = read_subject(folder)[1]
    except ConfigError:
        vault_key = None
    return list_keys(folder, vault_key or folder.vault_key)


class NextTest(Record):
    """Where a run's ledger stands: what its next test would stake and may use, if the one that is open is rejected.

    `in_force` is false where the gates on the disk are others than those that the run's log names.
    """

    epoch: int
    test: int
    alpha: float | None
    items_left: int
    minimum: int
    in_force: bool


class GatesPower(Record):
    """What the gates of a subject can find out, at a typical stake or at the next one of a run.

    `run` is None where no run was named; `table` and `reach` are where the run's vault is exhausted: no test begins.
    """

    floor: float
    table: PowerTable | None
    reach: tuple[Reach, ...]
    run: NextTest | None

    @property
    def ok(self) -> bool:
        """Whether a candidate that deserves it passes often enough."""
        return self.table is not None and self.table.joint >= self.floor


def power_of(subject: Path, run: RunFolder | None = None, effects: Sequence[float] = LADDER) -> GatesPower:
    """The power of a subject's gates, and how many items each needs for these effects.

    Without a run, alpha is that of a typical test and the whole vault is there; with one, its log says what is left of
    both. ConfigError where the run is of another subject, or its vault one that other runs may use.
    """
    import tempfile

    config = load_config(subject)
    policies = load_subject_policies(config.policies, subject)
    config = guarded(config, policies)
    with tempfile.TemporaryDirectory() as place:
        evaluator = Child(["-m", "harness.evaluator", str(subject)], name="evaluator", stderr=Path(place) / "stderr")
        try:
            answer = evaluator.ask({"op": "describe"}, seconds=EVALUATOR_SECONDS)
        finally:
            evaluator.close()
    if "ok" not in answer:
        raise SubjectError(str(answer["message"]), where=answer.get("where"), remedy=answer.get("remedy"))
    config = config.with_slices([each["name"] for each in answer["ok"]["evals"]], str(subject / "lockgate.yaml"))
    described, rule = answer["ok"], config.ledger
    standing = None if run is None else _next_test(config, run)
    gates = check_gates(config, described, subject, policies)
    alpha = typical_alpha(rule.delta, fresh=rule.items == "fresh") if standing is None else standing.alpha
    if alpha is None:
        return GatesPower(floor=rule.min_power, table=None, reach=(), run=standing)
    given = assumed(config, described, None if standing is None else standing.items_left)
    return GatesPower(
        floor=rule.min_power,
        table=power(gates, alpha=alpha, gain=rule.gain, levels=rule.levels, **given),
        reach=reach(gates, effects, alpha=alpha, **given),
        run=standing,
    )


def _next_test(config: Config, run: RunFolder) -> NextTest:
    """What the run's ledger would give to its next test."""
    state, entries = read_run(run.log, VerifierChain.load(run.public_key))
    if state.genesis is None:
        raise ConfigError("the run has not begun: its log has no genesis", where=str(run.root))
    if state.genesis.config.name != config.name:
        raise ConfigError(f"the run is of '{state.genesis.config.name}', not of '{config.name}'", where=str(run.root))
    if state.genesis.vault_named:
        raise ConfigError(
            "the run's vault is a named one: its ledger is not in the log of one run alone",
            where=str(run.root),
            remedy="leave --run out: power is then told at a typical stake",
        )
    ledger = replay_ledger(entries, state, BlobStore(run.blobs)).ledger
    if ledger.pending is not None:
        ledger = ledger.reject(ledger.pending.key, 0)
    # The ledger itself is asked what it would stake: what it answers is kept nowhere.
    stake = None if ledger.exhausted else ledger.stake("next", config.ledger.cap)[1]
    ruling = state.guarding.config
    return NextTest(
        epoch=ledger.epoch,
        test=ledger.test + 1,
        alpha=None if stake is None else stake.alpha,
        items_left=ledger.remaining,
        minimum=ledger.minimum,
        in_force=(ruling.gates, ruling.ledger) == (config.gates, config.ledger),
    )
