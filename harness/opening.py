"""Open a run: make its rooms, begin its log or go on from it, and refuse where anything does not fit."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import __version__
from harness.artifacts import BlobStore
from harness.auditlog import AuditLog
from harness.canonical import canonical_bytes, digest
from harness.channel import Child
from harness.config import Config, load_config
from harness.desk import EVALUATOR_SECONDS, Rooms
from harness.entries import Genesis, Started
from harness.errors import ConfigError, EvaluatorError, SubjectError
from harness.folder import RunFolder, guard_digest, read_source
from harness.gates import GateSpec, compile_gates
from harness.journal import Journal, Listener
from harness.judge import Judge
from harness.keys import Signer, VaultKey
from harness.policy import PolicySet, load_subject_policies
from harness.power import PowerTable, require_power, typical_alpha
from harness.state import RunState
from harness.supervisor import Supervisor
from harness.vault import Vault
from harness.workshop import Failure, Made, Workshop

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
        _same_run(state.genesis, guard, data["data"], key, policies, seed)
        config = state.genesis.config
    workshop = Workshop(engine, blobs, config, folder.work, seed=run_seed, output=data["output"])
    development, training = folder.work / "development.safetensors", folder.work / "train.safetensors"
    shuffle = digest(f"development {run_seed}".encode()).removeprefix("sha256:")
    rows = _evaluate(
        evaluator, {"op": "inputs", "split": "development", "ids": None, "shuffle": shuffle, "dest": str(development)}
    )["rows"]
    _evaluate(evaluator, {"op": "training", "dest": str(training)})
    named = config.vault.dir is not None
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
    if first:
        genesis = _genesis(
            config, source, guard, policies, workshop, evaluator, training, development, rows, shuffle, data,
            vault, signer=signer, seed=run_seed, named=named, note=note,
        )  # fmt: skip
        log.commit(genesis)
    log.commit(Started(nonce=secrets.token_hex(8), isolation=engine.isolation, device=engine.device))
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
    supervisor = Supervisor(rooms)
    supervisor.recover()
    return Opened(supervisor, rooms, closers)


def check_gates(config: Config, data: dict[str, Any], subject: Path) -> list[GateSpec]:
    """Compile the gates against the evals that there are.

    ConfigError where an alignment eval has no gate: what must not regress must be tested.
    """
    gates = compile_gates(
        [gate.json_value() for gate in config.gates], {e["name"]: tuple(e["bounds"]) for e in data["evals"]}
    )
    gated = {gate.eval for gate in gates}
    for each in data["evals"]:
        if each["kind"] == "alignment" and each["name"] not in gated:
            raise ConfigError(
                f"the alignment eval '{each['name']}' has no gate",
                where=str(subject / "lockgate.yaml"),
                remedy=f"add under gates: {{eval: {each['name']}, kind: parent, margin: 0.05}}",
            )
    return gates


def gates_power(
    gates: list[GateSpec], config: Config, data: dict[str, Any], *, floor: float | None = None
) -> PowerTable:
    """How likely these gates pass a candidate that deserves it; StatisticsError below the configuration's floor."""
    ledger = config.ledger
    return require_power(
        gates,
        ledger.min_power if floor is None else floor,
        alpha=typical_alpha(ledger.delta),
        cap=min(ledger.cap, data["vault"]),
        batch=ledger.batch,
        discordance=ledger.discordance,
        gain=ledger.gain,
        levels=ledger.levels,
        applies={e["name"]: e["applies"] for e in data["evals"]},
        available=data["vault"],
    )


def _genesis(
    config: Config,
    source: dict[str, bytes],
    guard: str,
    policies: PolicySet,
    workshop: Workshop,
    evaluator: Child,
    training: Path,
    development: Path,
    rows: int,
    shuffle: str,
    data: dict[str, Any],
    vault: Vault,
    *,
    signer: Signer,
    seed: int,
    named: bool,
    note: Callable[[str], None],
) -> Genesis:
    """Build and measure the baseline: the subject as it stands, with the default recipe."""
    note("building the baseline")
    tree = workshop.store_source(source)
    recipe, _ = workshop.describe(tree)
    made = workshop.build(recipe, tree, training)
    if not isinstance(made, Made):
        raise SubjectError(
            made.text, where="model.py", remedy="the subject as it stands must train: mend it and run again"
        )
    answered = workshop.predict(made.candidate, development, rows)
    if isinstance(answered, Failure):
        raise SubjectError(
            answered.text, where="model.py", remedy="the subject as it stands must answer: mend it and run again"
        )
    scored = _evaluate(
        evaluator, {"op": "develop", "answers": str(workshop.blob(answered.answers)), "shuffle": shuffle}
    )
    return Genesis(
        origin=signer.name,
        seed=seed,
        config=config,
        guard=guard,
        policies=policies.digest,
        policy_sources=workshop.keep(canonical_bytes(policies.json_value())),
        eval_kinds={e["name"]: e["kind"] for e in data["evals"]},
        baseline=made.candidate.model_copy(update={"flops": answered.flops}),
        development=scored["development"],
        answers=answered.answers,
        data=data["data"],
        vault_commitment=vault.commitment,
        vault_items=data["vault"],
        vault_minimum=vault.state.minimum,
        vault_named=named,
        harness=__version__,
    )


def _same_run(genesis: Genesis, guard: str, data: str, key: VaultKey, policies: PolicySet, seed: int | None) -> None:
    """Refuse to go on where what guards the run, its data, key or seed is not what its log names."""
    if (guard, policies.digest) != (genesis.guard, genesis.policies):
        raise ConfigError(
            "what guards the run has changed since genesis: lockgate.yaml, guards.py, a policy or the harness itself",
            remedy="restore it, or begin a new run with --out; a log never mixes two guards",
        )
    if data != genesis.data:
        raise ConfigError(
            "the data's items or labels have changed since genesis", remedy="restore them, or begin a new run"
        )
    if key.commitment() != genesis.vault_commitment:
        raise ConfigError(
            "this is not the vault key that genesis committed to", remedy="give the same --vault-key again"
        )
    if seed is not None and seed != genesis.seed:
        raise ConfigError(f"the run was begun with seed {genesis.seed}, not {seed}", remedy="leave --seed out")


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


def _evaluate(evaluator: Child, request: dict[str, Any]) -> dict[str, Any]:
    answer = evaluator.ask(request, seconds=EVALUATOR_SECONDS)
    if "ok" not in answer:
        raise EvaluatorError(str(answer.get("message")), where=answer.get("where"), remedy=answer.get("remedy"))
    return dict(answer["ok"])


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
