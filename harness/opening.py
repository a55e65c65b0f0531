"""Open a run: make its rooms, begin its log or go on from it, and refuse where anything does not fit."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import bringing
from harness.approval import load_approvers
from harness.artifacts import BlobStore
from harness.auditlog import AuditLog
from harness.channel import Child
from harness.config import Config, load_config
from harness.desk import EVALUATOR_SECONDS, Rooms
from harness.developing import Shown, development_shuffle
from harness.durable import write_durably
from harness.entries import GuardProposed, Started
from harness.errors import ConfigError, SubjectError
from harness.floors import guarded
from harness.folder import RunFolder, guard_files, guard_parts, read_source
from harness.genesis import check_gates, evaluate, gates_power, make_genesis, same_run
from harness.guard_change import Guard
from harness.journal import Journal, Listener
from harness.judge import Judge
from harness.keyring import key_in_force, make_keys
from harness.keys import Signer, VaultKey, VerifierChain
from harness.passphrase import Passphrase
from harness.policy import PolicySet, load_subject_policies
from harness.records import Digest
from harness.regime import check_may_change, fingerprint_of, put_in_force, settle_change
from harness.state import RunState
from harness.supervisor import Supervisor
from harness.vault import Vault
from harness.workshop import Workshop

OWN_FILES = {"lock", "supervisor.stderr", "supervisor.jsonl"}
MINIMUM_ITEMS = 200
"""With fewer unspent held-out items, no test is begun."""


class Opened:
    """A supervisor with its rooms, and how to leave them."""

    def __init__(self, supervisor: Supervisor, rooms: Rooms, closers: list[Callable[[], None]]) -> None:
        """Keep what must be closed, in reverse order of opening."""
        self.supervisor = supervisor
        self.rooms = rooms
        self._closers = closers

    def close(self) -> None:
        """Close every room. The journal is frozen first, so that nothing which the closing does becomes an entry."""
        for close in self._closers:
            close()
        self.supervisor.close()


def open_run(
    out: Path,
    subject: Path,
    *,
    seed: int | None = None,
    workers: int | None = None,
    vault_key: Path | None = None,
    passphrase: Passphrase | None = None,
    listener: Listener | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Opened:
    """Open the run in `out` over `subject`, beginning it where there is none.

    `passphrase` opens its key files, and encrypts those that are made. `note` is told, in words, what takes its time,
    and that the run makes keys of its own, where it does. Raises LockgateError, with a remedy, where the subject,
    its policies or gates are not sound, where the sandbox does not hold, where another supervisor is at work,
    or where what guards the run is not what its log names.
    """
    config = load_config(subject)
    source = read_source(subject, config)
    folder = RunFolder(out)
    fresh = not folder.exists
    strangers = {p.name for p in out.iterdir()} - OWN_FILES if fresh and out.exists() else set()
    if strangers and not folder.private.exists():
        raise ConfigError("the folder is not empty, and holds no run", where=str(out), remedy="name another with --out")
    folder.create()
    folder.lock()
    closers: list[Callable[[], None]] = []
    try:
        known = _remembered(folder)
        # An earlier start may have died before genesis, which takes a while: its seed is kept.
        first_seed = int(known.get("seed") or 0) if seed is None else seed
        if fresh:
            write_subject(folder, subject, vault_key, first_seed)
        policies = load_subject_policies(config.policies, subject)
        config = guarded(config, policies)
        signer = _signer(folder, config.name, passphrase, note)
        key = _vault_key(vault_key or folder.vault_key, passphrase, begun=not fresh)
        ground = Ground(
            folder=folder,
            subject=subject,
            config=config,
            source=source,
            files=guard_files(subject, config),
            policies=policies,
            signer=signer,
            key=key,
            seed=seed,
            first_seed=first_seed,
            workers=workers,
        )
        opened = _open(ground, closers, listener, note)
        genesis = opened.supervisor.state.genesis
        # Only now is it known to be this run's subject.
        write_subject(folder, subject, vault_key, genesis.seed if genesis else None)
    except BaseException:
        for close in closers:
            close()
        folder.unlock()
        raise
    return opened


@dataclass(frozen=True)
class Ground:
    """What a run stands on: read and checked before any process is started."""

    folder: RunFolder
    subject: Path
    config: Config
    source: dict[str, bytes]
    files: dict[str, Digest]
    policies: PolicySet
    signer: Signer
    key: VaultKey
    seed: int | None
    """The seed asked for at this start, if one was."""
    first_seed: int
    """The seed of genesis, where there is none yet."""
    workers: int | None


def _open(
    ground: Ground,
    closers: list[Callable[[], None]],
    listener: Listener | None,
    note: Callable[[str], None],
) -> Opened:
    from harness.engines.local import LocalEngine
    from harness.sandbox import Site, probe

    folder, subject, config, signer = ground.folder, ground.subject, ground.config, ground.signer
    site = Site.minimal(extra=config.packages)
    parts = guard_parts(ground.files, ground.policies.digest, [*site.distributions, *bringing.distributions(config)])
    arguments = ["-m", "harness.evaluator", str(subject), json.dumps(ground.files)]
    evaluator = Child(arguments, name="evaluator", stderr=folder.work / "evaluator.stderr")
    closers.append(evaluator.close)
    with ThreadPoolExecutor(2) as aside:
        note("opening the sandbox and the evaluator")
        # Loading the data, probing the walls and warming the worker take seconds each: side by side.
        described = aside.submit(evaluator.ask, {"op": "describe"}, seconds=EVALUATOR_SECONDS)
        probed = aside.submit(probe, config.workers.isolation)
        count = ground.workers or config.workers.count
        engine = LocalEngine(count=count, isolation=config.workers.isolation, site=site, device=config.workers.device)
        closers.insert(0, engine.close)
        engine.warm()
        probed.result().require()
        answer = described.result()
    if "ok" not in answer:
        place = answer.get("where") or str(subject / "guards.py")
        raise SubjectError(str(answer["message"]), where=place, remedy=answer.get("remedy"))
    config = config.with_slices([each["name"] for each in answer["ok"]["evals"]], str(subject / "lockgate.yaml"))
    approvers = load_approvers(subject, config.approvers) if config.approvers else []
    guard = Guard.of(config, ground.policies, approvers, parts)
    evaluator.expect({"op": "describe"}, answer, seconds=EVALUATOR_SECONDS)
    data = dict(answer["ok"])  # a copy: what is added to it is no part of the greeting
    gates = check_gates(config, data, subject, ground.policies)
    gates_power(gates, config, data)
    judge = Judge()
    closers.append(judge.close)
    blobs = BlobStore(folder.blobs)
    log, state = _log(folder, signer, listener)
    closers.append(log.close)
    closers.insert(0, log.freeze)  # before the rooms: what they answer while they are closed is no entry
    first = state.genesis is None
    run_seed = ground.first_seed if state.genesis is None else state.genesis.seed
    workshop = Workshop(engine, blobs, config, folder.work, seed=run_seed, output=data["output"])
    development, training = folder.work / "rows.safetensors", folder.work / "train.safetensors"
    shuffle = development_shuffle(run_seed)
    rows = evaluate(
        evaluator, {"op": "inputs", "split": "development", "ids": None, "shuffle": shuffle, "dest": str(development)}
    )["rows"]
    trained_on = evaluate(evaluator, {"op": "training", "dest": str(training)})["digest"]
    proposed: GuardProposed | None = None
    if not first:
        settle_change(folder, log)
        state = log.state
        proposed = same_run(state, guard, data["data"], trained_on, key=ground.key, seed=ground.seed, blobs=blobs)
        if proposed is not None:
            check_may_change(state)
        config = (proposed or state.guarding).config
    place = folder.vault if config.vault.dir is None else (subject / config.vault.dir)
    vault = Vault(
        place,
        ground.key,
        data=data["data"],
        items=data["vault"],
        delta=config.ledger.delta,
        minimum=min(MINIMUM_ITEMS, data["vault"]),
        fresh=config.ledger.items == "fresh",
        known=state.ledger,
        own=signer.name,
        # a vault that other runs use is theirs, too: it does not grow for one of them
        first=fingerprint_of(evaluator) if config.vault.dir is None else None,
    )
    closers.append(vault.close)
    rooms = Rooms(
        folder=folder,
        config=config,
        workers=count,
        journal=log,
        blobs=blobs,
        workshop=workshop,
        evaluator=evaluator,
        judge=judge,
        policies=ground.policies,
        vault=vault,
        gates=gates,
        approvers=approvers,
        eval_kinds={e["name"]: e["kind"] for e in data["evals"]},
        training=training,
        development=Shown(development, rows, shuffle),
    )
    if first:
        note("building the baseline")
        data["training"] = trained_on
        log.commit(make_genesis(rooms, ground.source, guard, data, signer=signer, seed=run_seed))
    size, root = vault.head
    nonce = secrets.token_hex(8)
    log.commit(
        Started(nonce=nonce, isolation=engine.isolation, device=engine.device, ledger_size=size, ledger_root=root)
    )
    supervisor = Supervisor(rooms)
    supervisor.recover()
    if proposed is not None:
        note("putting the proposed guard in force")
        put_in_force(rooms)
        supervisor.recover()  # ends the epoch in the vault's ledger
    if problem := supervisor.show_witnesses():
        note(f"nothing can be promoted: {problem}")
    return Opened(supervisor, rooms, closers)


def _log(folder: RunFolder, signer: Signer, listener: Listener | None) -> tuple[Journal, RunState]:
    log = AuditLog.open(folder.log, signer) if folder.exists else AuditLog.create(folder.log, signer, signer.name)
    journal = Journal(log, signer, listener, folder.unlock, chain=VerifierChain.load(folder.public_key))
    return journal, journal.state


def open_journal(
    out: Path, listener: Listener | None = None, unlock: Callable[[], Passphrase | None] = lambda: None
) -> Journal:
    """The log of a run that no supervisor is at work on, to add a word of the operator's to it.

    `unlock` gives the passphrase of its key; it is called once the run is known to be free.
    """
    folder = RunFolder(out)
    if not folder.exists:
        raise ConfigError("no run here", where=str(out), remedy="`lockgate run SUBJECT --out DIR` begins one")
    folder.lock()
    try:
        signer = key_in_force(folder, unlock())
        chain = VerifierChain.load(folder.public_key)
        journal = Journal(AuditLog.open(folder.log, signer), signer, listener, folder.unlock, chain=chain)
    except BaseException:
        folder.unlock()
        raise
    if journal.state.genesis is None:
        journal.close()
        raise ConfigError("the run has not begun yet: its log is empty", where=str(out), remedy="run it again")
    return journal


def _signer(folder: RunFolder, subject: str, passphrase: Passphrase | None, note: Callable[[str], None]) -> Signer:
    """The run's signing key; made at the first start, where nobody has made one for it."""
    if not folder.signing_key.exists():
        if folder.exists:
            raise ConfigError(
                "the run's signing key is gone", where=str(folder.signing_key), remedy="restore it from a backup"
            )
        note("no keys are configured: this run makes its own")
        return make_keys(folder, f"lockgate-{subject}", passphrase, own=True)
    if folder.exists and not folder.public_key.exists():
        raise ConfigError(
            "the run's public keys are gone", where=str(folder.public_key), remedy="put back a copy: reviewers have one"
        )
    signer = key_in_force(folder, passphrase)
    if not folder.public_key.exists():
        signer.verifier.save(folder.public_key)
    return signer


def _vault_key(path: Path, passphrase: Passphrase | None, *, begun: bool) -> VaultKey:
    """The vault key; made at the first start. ConfigError where the run has begun and the key is not there."""
    if path.exists():
        return VaultKey.load(path, passphrase)
    if begun:
        raise ConfigError("the run's vault key is not there", where=str(path), remedy="give the same --vault-key again")
    path.parent.mkdir(parents=True, exist_ok=True)
    return VaultKey.create(path, passphrase)


def _remembered(folder: RunFolder) -> dict[str, Any]:
    """What an earlier start wrote down; nothing where there was none."""
    try:
        known = json.loads(folder.subject_link.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_subject(folder: RunFolder, subject: Path, vault_key: Path | None, seed: int | None) -> None:
    """Remember what a run is about, where its vault key lies, and its seed, so that `resume` need not be told."""
    key = str(vault_key.absolute()) if vault_key else None
    known = {"subject": str(subject.absolute()), "vault_key": key, "seed": seed}
    write_durably(folder.subject_link, json.dumps(known).encode(), mode=0o644)


def read_subject(folder: RunFolder) -> tuple[Path, Path | None]:
    """The subject of a run, and its vault key where that lies elsewhere; ConfigError where it is not known any more."""
    try:
        known = json.loads(folder.subject_link.read_text(encoding="utf-8"))
        return Path(known["subject"]), Path(known["vault_key"]) if known["vault_key"] else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "the run does not say which subject it is about",
            where=str(folder.root),
            remedy="`lockgate run SUBJECT --out RUN` goes on with it",
        ) from error
