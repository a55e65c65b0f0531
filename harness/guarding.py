"""What guards a run, beside what stands on the disk: compare it, propose it as the run's guard, or take that back.

A proposal is an entry of the run's log, written while no supervisor is at work; `regime` puts it in force at a start.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from harness import __version__, bringing
from harness.approval import load_approvers
from harness.artifacts import BlobStore
from harness.canonical import canonical_bytes
from harness.channel import Child
from harness.config import Config, load_config
from harness.desk import EVALUATOR_SECONDS
from harness.entries import GuardProposed, GuardRejected
from harness.errors import ConfigError, SubjectError
from harness.floors import guarded
from harness.folder import RunFolder, guard_files, guard_parts
from harness.genesis import check_gates, evaluate, gates_power, guard_of
from harness.guard_change import ITEMS, Guard, GuardComparison, Point, changed_policies, compare_guards, points
from harness.journal import read_run
from harness.keyring import unlock
from harness.keys import VaultKey, VerifierChain
from harness.ledger_replay import replay_ledger
from harness.opening import open_journal, read_subject
from harness.passphrase import PassphraseSource
from harness.plain import plain
from harness.policy import load_subject_policies
from harness.records import Digest
from harness.regime import fingerprint_of, settle_change
from harness.state import RunState
from harness.strictness import worst
from harness.vault import blinded
from harness.views import change_view

HOURS = 72.0
"""For which a proposed guard may be put in force, where the one in force names no time for people."""


def guard_on_disk(subject: Path) -> Guard:
    """What a run over `subject` would be guarded by, were it begun now; ConfigError, PolicyError, SandboxError.

    Where a gate stands for every slice of an eval, the evals are asked for, too: SubjectError.
    """
    from harness.sandbox import Site

    config = load_config(subject)
    policies = load_subject_policies(config.policies, subject)
    config = guarded(config, policies)
    approvers = load_approvers(subject, config.approvers) if config.approvers else []
    try:
        files = guard_files(subject, config)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(error.filename)) from error
    if config.names_slices:
        evals = [each["name"] for each in _described(subject, files)["evals"]]
        config = config.with_slices(evals, str(subject / "lockgate.yaml"))
    site = Site.minimal(extra=config.packages)
    parts = guard_parts(files, policies.digest, [*site.distributions, *bringing.distributions(config)])
    return Guard.of(config, policies, approvers, parts)


def _described(subject: Path, files: dict[str, Digest]) -> dict[str, Any]:
    """What the evaluator says of a subject's data and evals, from the very files that are named; SubjectError."""
    with tempfile.TemporaryDirectory(prefix="lockgate-guard-") as place:
        arguments = ["-m", "harness.evaluator", str(subject), json.dumps(files)]
        evaluator = Child(arguments, name="evaluator", stderr=Path(place) / "stderr")
        try:
            answer = evaluator.ask({"op": "describe"}, seconds=EVALUATOR_SECONDS)
        finally:
            evaluator.close()
    if "ok" not in answer:
        raise SubjectError(str(answer["message"]), where=answer.get("where"), remedy=answer.get("remedy"))
    return dict(answer["ok"])


def compare_with_run(folder: RunFolder, subject: Path | None, *, seconds: float) -> tuple[GuardComparison, Digest]:
    """Compare what guards a run with its subject as it stands, or with another's; AuditError, ConfigError.

    With it comes the digest of the latter: whoever is asked to approve a guard compares it with the one they sign.
    """
    if not folder.exists:
        where = str(folder.root)
        raise ConfigError("no run here", where=where, remedy="`lockgate run SUBJECT --out DIR` begins one")
    state, _ = read_run(folder.log, VerifierChain.load(folder.public_key))
    new = guard_on_disk(read_subject(folder)[0] if subject is None else subject)
    return compare_guards(guard_of(state.guarding, BlobStore(folder.blobs)), new, seconds=seconds), new.digest


def propose_guard(
    folder: RunFolder,
    subject: Path | None,
    source: PassphraseSource,
    *,
    by: str,
    reason: str,
    vault_key: Path | None,
    seconds: float,
    check: Callable[[Guard, Guard, int], None] = lambda _old, _new, _added: None,
) -> dict[str, Any]:
    """Propose what stands in `subject`, or in the run's own, as what guards it from here on.

    It is loaded as a start would: its gates compile and have power, its data are those of the run, or have held-out
    items added. What is not at least as strict waits for the approvers in force; where there are none, the log has it
    as rejected. ConfigError where it may not be proposed at all: then nothing is logged. `check` may raise it, too: it
    is told the guard in force, the new one, and how many held-out items were added.
    """
    known_subject, known_key = read_subject(folder)
    subject, vault_key = subject or known_subject, vault_key or known_key or folder.vault_key
    passphrase = unlock(folder, source, vault_key)
    new = guard_on_disk(subject)
    key = VaultKey.load(vault_key, passphrase)
    journal = open_journal(folder.root, unlock=lambda: passphrase)
    try:
        _check_swapped(journal.state, folder)
        settle_change(folder, journal)
        state = journal.state
        if state.change is not None:
            raise ConfigError(
                f"a change of the guard is open, until {state.change.hold.expires}",
                remedy=f"answer it: `lockgate approve {folder.root} guard`; or `lockgate guard withdraw {folder.root}`",
            )
        blobs = BlobStore(folder.blobs)
        data, kinds, items = _data(subject, new, state, key)
        old = guard_of(state.guarding, blobs)
        _check_kept(old.config, new.config, grows=items > state.guarding.vault_items)
        check(old, new, items - state.guarding.vault_items)
        if (new.digest, data) == (state.guarding.guard, state.guarding.data):
            raise ConfigError("nothing has changed of what guards the run", where=str(subject))
        comparison = compare_guards(old, new, seconds=seconds)
        if data != state.guarding.data:
            comparison = _with_items(comparison, items - state.guarding.vault_items)
        entry = _proposal(new, state, comparison, blobs, by=by, reason=reason, data=data, items=items, kinds=kinds)
        journal.commit(entry)
        told = {**change_view(journal.state), "comparison": comparison.json_value()}
        change = journal.state.change
        rule = state.guarding.config.approvers
        told["rejected"] = None
        if change is not None and not change.free and rule is None:
            told["rejected"] = "it is not at least as strict, and the run has no approvers"
            journal.commit(GuardRejected(hold=change.hold.digest, reason=told["rejected"]))
        return told
    finally:
        journal.close()


def add_items(
    folder: RunFolder,
    subject: Path | None,
    source: PassphraseSource,
    *,
    by: str,
    reason: str,
    vault_key: Path | None,
    expected: int | None = None,
) -> dict[str, Any]:
    """Propose held-out items that were added at the end of the vault, and nothing else; with how long they may last.

    That is a change of the guard of which only the data differ: no code, setting or package has to be read again, and
    what people decide is whether the items are as good as those that were there. ConfigError where anything else
    differs, where none were added, or not as many as `expected`; SubjectError where one was held out or seen before.
    """

    def only_items(old: Guard, new: Guard, added: int) -> None:
        where = str(subject or read_subject(folder)[0])
        told = [f"{point.where}: {point.what}" for point in points(old, new)]
        told += changed_policies(old.policies, new.policies) if old.policies.digest != new.policies.digest else []
        if told or old.digest != new.digest:
            raise ConfigError(
                f"more than held-out items differs from the guard in force: {plain('; '.join(told), 1000)}",
                where=where,
                remedy=f"restore it: `lockgate guard compare {folder.root}` says what is weaker, and `guard propose` "
                "proposes it all. Items that load() reads from a data file beside guards.py are added without touching "
                "code",
            )
        if not added:
            raise ConfigError("no held-out items were added", where=where, remedy="add them at the end of the vault")
        if expected is not None and added != expected:
            raise ConfigError(f"{added} held-out items were added, and not {expected}", where=f"{where}: --items")

    told = propose_guard(
        folder, subject, source, by=by, reason=reason, vault_key=vault_key, seconds=1.0, check=only_items
    )
    state, entries = read_run(folder.log, VerifierChain.load(folder.public_key))
    history = replay_ledger(entries, state, BlobStore(folder.blobs))
    items = state.guarding.vault_items + told["items_added"]
    return {**told, "lasts": history.lasts(items, state.guarding.config.ledger.cap)}


def withdraw_guard(folder: RunFolder, source: PassphraseSource, *, reason: str) -> dict[str, Any]:
    """Take back the change of the guard that is open; ConfigError where there is none."""
    journal = open_journal(folder.root, unlock=lambda: unlock(folder, source))
    try:
        _check_swapped(journal.state, folder)
        change = journal.state.change
        if change is None:
            raise ConfigError("no change of the guard is open", where=str(folder.root))
        told = change_view(journal.state)
        journal.commit(GuardRejected(hold=change.hold.digest, reason=f"withdrawn: {reason}"))
        return told
    finally:
        journal.close()


def _check_swapped(state: RunState, folder: RunFolder) -> None:
    """ConfigError while a swap is open, which a crash has cut: its outcome comes first."""
    if state.intent is not None:
        remedy = f"`lockgate resume {folder.root}`, with the guard that is in force on the disk, finishes it"
        raise ConfigError("a swap of the live model was cut", where=str(folder.root), remedy=remedy)


def _data(subject: Path, new: Guard, state: RunState, key: VaultKey) -> tuple[str, dict[str, str], int]:
    """The data's blinded digest, the evals' kinds, and how many held-out items there are; ConfigError, SubjectError.

    They come from the very files that the guard names, or not at all.
    """
    genesis, named, config = state.genesis, state.guarding, new.config
    files = {} if new.parts is None else new.parts["files"]
    if genesis is None or key.commitment() != genesis.vault_commitment:
        raise ConfigError("this is not the vault key that genesis committed to", remedy="give the run's --vault-key")
    with tempfile.TemporaryDirectory(prefix="lockgate-guard-") as place:
        arguments = ["-m", "harness.evaluator", str(subject), json.dumps(files)]
        evaluator = Child(arguments, name="evaluator", stderr=Path(place) / "stderr")
        try:
            answer = evaluator.ask({"op": "describe"}, seconds=EVALUATOR_SECONDS)
            if "ok" not in answer:
                raise SubjectError(str(answer["message"]), where=answer.get("where"), remedy=answer.get("remedy"))
            described = answer["ok"]
            gates_power(check_gates(config, described, subject, new.policies), config, described)
            data, items = blinded(key, "data", described["data"]), int(described["vault"])
            if data != named.data:
                first = fingerprint_of(evaluator)(named.vault_items)
                if items <= named.vault_items or blinded(key, "data", first) != named.data:
                    raise ConfigError(
                        "the items or labels are not the run's with held-out items added at the end",
                        where=str(subject / "guards.py"),
                        remedy="restore them: what was measured on other items cannot be compared; or begin a new run",
                    )
                evaluate(evaluator, {"op": "added", "before": named.vault_items})
        finally:
            evaluator.close()
    return data, {each["name"]: each["kind"] for each in described["evals"]}, items


def _check_kept(old: Config, new: Config, *, grows: bool) -> None:
    """ConfigError where what is a run's for good has changed."""
    for name, was, is_ in (
        ("ledger.delta", old.ledger.delta, new.ledger.delta),
        ("ledger.items", old.ledger.items, new.ledger.items),
        ("vault", old.vault, new.vault),
        ("witnesses", old.witnesses, new.witnesses),
    ):
        if was != is_:
            raise ConfigError(
                f"{name} is the run's for good, and has changed", where="lockgate.yaml", remedy="begin a new run"
            )
    if grows and new.vault.dir is not None:
        raise ConfigError(
            "held-out items cannot be added to a vault that lockgate.yaml names: other runs use it",
            where="lockgate.yaml: vault",
            remedy="begin a run with another vault",
        )


def _with_items(comparison: GuardComparison, added: int) -> GuardComparison:
    """The comparison, and that held-out items were added: whether they are as good as the others is not known."""
    point = Point(where=ITEMS, what=f"{added} were added", verdict="unknown")
    return GuardComparison(
        verdict=worst([comparison.verdict, point.verdict]),
        points=[*comparison.points, point],
        policies=comparison.policies,
    )


def _proposal(
    new: Guard,
    state: RunState,
    comparison: GuardComparison,
    blobs: BlobStore,
    *,
    by: str,
    reason: str,
    data: str,
    items: int,
    kinds: dict[str, str],
) -> GuardProposed:
    rule = state.guarding.config.approvers
    expires = datetime.now(UTC) + timedelta(hours=rule.hours if rule else HOURS)
    return GuardProposed(
        origin=state.guarding.origin,
        base=state.guarding.guard,
        config=new.config,
        guard=blobs.put(canonical_bytes(new.parts)),
        policies=new.policies.digest,
        policy_sources=blobs.put(canonical_bytes(new.policies.json_value())),
        eval_kinds=kinds,
        approvers=list(new.approvers),
        data=data,
        vault_items=items,
        harness=__version__,
        comparison=blobs.put(canonical_bytes(comparison.json_value())),
        verdict=comparison.verdict,
        by=by,
        reason=reason,
        expires=expires.isoformat(timespec="milliseconds"),
    )
