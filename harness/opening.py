"""Open a run: make its rooms, begin its log or go on from it, and refuse where anything does not fit."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.artifacts import BlobStore
from harness.auditlog import AuditLog
from harness.canonical import digest
from harness.channel import Child
from harness.config import Config, load_config
from harness.desk import EVALUATOR_SECONDS, Rooms
from harness.entries import Started
from harness.errors import ConfigError, SubjectError
from harness.folder import RunFolder, guard_digest, read_source
from harness.genesis import check_gates, check_same_run, evaluate, gates_power, make_genesis
from harness.journal import Journal, Listener
from harness.judge import Judge
from harness.keys import Signer, VaultKey
from harness.policy import PolicySet, load_subject_policies
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
        """Close every room; the log last of all."""
        self.supervisor.close()
        for close in self._closers:
            close()


def open_run(
    out: Path,
    subject: Path,
    *,
    seed: int | None = None,
    workers: int | None = None,
    vault_key: Path | None = None,
    listener: Listener | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Opened:
    """Open the run in `out` over `subject`, beginning it where there is none.

    `note` is told, in words, what takes its time. Raises LockgateError, with a remedy, where the subject,
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
        policies = load_subject_policies(config.policies, subject)
        if fresh:
            write_subject(folder, subject, vault_key)
        guard = guard_digest(subject, config, policies.digest)
        signer = _signer(folder, config.name)
        key = _vault_key(vault_key or folder.vault_key)
        opened = _open(
            folder,
            subject,
            config,
            source,
            guard,
            policies,
            signer,
            key,
            closers,
            seed=seed,
            workers=workers,
            listener=listener,
            note=note,
        )
        write_subject(folder, subject, vault_key)  # only now is it known to be this run's subject
    except BaseException:
        for close in closers:
            close()
        folder.unlock()
        raise
    return opened


def _open(
    folder: RunFolder,
    subject: Path,
    config: Config,
    source: dict[str, bytes],
    guard: str,
    policies: PolicySet,
    signer: Signer,
    key: VaultKey,
    closers: list[Callable[[], None]],
    *,
    seed: int | None,
    workers: int | None,
    listener: Listener | None,
    note: Callable[[str], None],
) -> Opened:
    from harness.engines.local import LocalEngine
    from harness.sandbox import Site, probe

    evaluator = Child(
        ["-m", "harness.evaluator", str(subject)], name="evaluator", stderr=folder.work / "evaluator.stderr"
    )
    closers.append(evaluator.close)
    with ThreadPoolExecutor(2) as aside:
        note("opening the sandbox and the evaluator")
        # Loading the data, probing the walls and warming the worker take seconds each: side by side.
        described = aside.submit(evaluator.ask, {"op": "describe"}, seconds=EVALUATOR_SECONDS)
        probed = aside.submit(probe, config.workers.isolation)
        count = workers or config.workers.count
        engine = LocalEngine(
            count=count,
            isolation=config.workers.isolation,
            site=Site.minimal(extra=config.packages),
            device=config.workers.device,
        )
        closers.insert(0, engine.close)
        engine.warm()
        probed.result().require()
        answer = described.result()
    if "ok" not in answer:
        raise SubjectError(
            str(answer["message"]), where=answer.get("where") or str(subject / "guards.py"), remedy=answer.get("remedy")
        )
    data = answer["ok"]
    gates = check_gates(config, data, subject)
    gates_power(gates, config, data)
    judge = Judge()
    closers.append(judge.close)
    blobs = BlobStore(folder.blobs)
    log, state = _log(folder, signer, listener)
    closers.append(log.close)
    first = state.genesis is None
    run_seed = (0 if seed is None else seed) if state.genesis is None else state.genesis.seed
    if state.genesis is not None:
        check_same_run(state.genesis, guard, data["data"], key, policies, seed)
        config = state.genesis.config
    workshop = Workshop(engine, blobs, config, folder.work, seed=run_seed, output=data["output"])
    development, training = folder.work / "development.safetensors", folder.work / "train.safetensors"
    shuffle = digest(f"development {run_seed}".encode()).removeprefix("sha256:")
    rows = evaluate(
        evaluator, {"op": "inputs", "split": "development", "ids": None, "shuffle": shuffle, "dest": str(development)}
    )["rows"]
    evaluate(evaluator, {"op": "training", "dest": str(training)})
    place = folder.vault if config.vault.dir is None else (subject / config.vault.dir)
    vault = Vault(
        place,
        key,
        data=data["data"],
        items=data["vault"],
        delta=config.ledger.delta,
        minimum=min(MINIMUM_ITEMS, data["vault"]),
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
        policies=policies,
        vault=vault,
        gates=gates,
        eval_kinds={e["name"]: e["kind"] for e in data["evals"]},
        verifier=signer.verifier,
        training=training,
        development=development,
        development_rows=rows,
        development_shuffle=shuffle,
    )
    if first:
        note("building the baseline")
        log.commit(make_genesis(rooms, source, guard, data, signer=signer, seed=run_seed))
    log.commit(Started(nonce=secrets.token_hex(8), isolation=engine.isolation, device=engine.device))
    supervisor = Supervisor(rooms)
    supervisor.recover()
    return Opened(supervisor, rooms, closers)


def _log(folder: RunFolder, signer: Signer, listener: Listener | None) -> tuple[Journal, RunState]:
    log = AuditLog.open(folder.log, signer) if folder.exists else AuditLog.create(folder.log, signer, signer.name)
    journal = Journal(log, signer, listener, folder.unlock)
    return journal, journal.state


def open_journal(out: Path, listener: Listener | None = None) -> Journal:
    """The log of a run that no supervisor is at work on, to add a word of the operator's to it."""
    folder = RunFolder(out)
    if not folder.exists:
        raise ConfigError("no run here", where=str(out), remedy="`lockgate run SUBJECT --out DIR` begins one")
    folder.lock()
    try:
        signer = Signer.load(folder.signing_key)
        return Journal(AuditLog.open(folder.log, signer), signer, listener, folder.unlock)
    except BaseException:
        folder.unlock()
        raise


def _signer(folder: RunFolder, subject: str) -> Signer:
    """The run's signing key; made at the first start."""
    if not folder.signing_key.exists():
        if folder.exists:
            raise ConfigError(
                "the run's signing key is gone", where=str(folder.signing_key), remedy="restore it from a backup"
            )
        signer = Signer.generate(f"lockgate-{subject}-{secrets.token_hex(4)}")
        signer.save(folder.signing_key)
        signer.verifier.save(folder.public_key)
        return signer
    signer = Signer.load(folder.signing_key)
    if not folder.public_key.exists():
        signer.verifier.save(folder.public_key)
    return signer


def _vault_key(path: Path) -> VaultKey:
    if path.exists():
        return VaultKey.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return VaultKey.create(path)


def write_subject(folder: RunFolder, subject: Path, vault_key: Path | None) -> None:
    """Remember what a run is about and where its vault key lies, so that `resume` need not be told."""
    key = str(vault_key.absolute()) if vault_key else None
    folder.subject_link.write_text(json.dumps({"subject": str(subject.absolute()), "vault_key": key}), encoding="utf-8")


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
