"""The held-out items that are retired: which they are, and the digests of what they hold.

What held-out items say is confidential until they are retired (FORMAT §8.3): nothing is asked of them again, so they
may be published, with the answers to them. Which they are, only the vault key can tell. In `load()` they stay
where they stand.

It covers the vault of a run's own: that of one which `lockgate.yaml` names is used by others, whose logs are elsewhere.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness.artifacts import BlobStore
from harness.channel import Child
from harness.errors import ConfigError
from harness.folder import RunFolder
from harness.fresh_ledger import FreshState
from harness.genesis import evaluate
from harness.journal import read_run
from harness.keys import VaultKey, VerifierChain
from harness.ledger_replay import replay_ledger
from harness.records import Digest, Record
from harness.rescoring import sizes_of
from harness.vault import blinded, order_of

_ASKED = 10_000
"""Digests that are asked for at once: an answer's line stays well below what a channel carries."""


class Retired(Record):
    """A retired item: its place among the held-out items of `load()`, when it was retired, and its content's digest."""

    place: int
    epoch: int
    digest: Digest


def retired_items(folder: RunFolder, subject: Path, key: VaultKey) -> list[Retired]:
    """List the retired items of a run's own vault, in order of place; never one that may be asked again.

    ConfigError where items are generated, or where the key, or the subject's items and labels, are not those that the
    log names; AuditError where the ledger does not follow from the log, or the vault is not the run's own.
    """
    state, entries = read_run(folder.log, VerifierChain.load(folder.public_key))
    history = replay_ledger(entries, state, BlobStore(folder.blobs))
    if isinstance(history.ledger, FreshState):
        raise ConfigError(
            "the run's held-out items are generated, each for one test: none stands in load() to be published",
            where=str(subject / "guards.py"),
            remedy=f"`lockgate vault status {folder.root}` says how many were spent",
        )
    if state.genesis is None or key.commitment() != state.genesis.vault_commitment:
        raise ConfigError("this is not the vault key that genesis committed to", remedy="give the run's --vault-key")
    with tempfile.TemporaryDirectory(prefix="lockgate-retired-") as place:
        evaluator = Child(["-m", "harness.evaluator", str(subject)], name="evaluator", stderr=Path(place) / "stderr")
        try:
            data = evaluate(evaluator, {"op": "describe"})
            sizes = sizes_of(entries, blinded(key, "data", data["data"]))
            if not sizes or sizes[-1] < history.ledger.size:
                raise ConfigError(
                    "the subject's items or labels are not those of the log",
                    where=str(subject / "guards.py"),
                    remedy="name the subject as the guard in force has it",
                )
            order = order_of(key, *sizes)[: history.ledger.offset]
            epochs = [each.epoch for each in history.epochs for _ in range(each.retired)]
            digests: list[str] = []
            for start in range(0, len(order), _ASKED):
                request = {"op": "digests", "ids": order[start : start + _ASKED]}
                digests += evaluate(evaluator, request)["digests"]
        finally:
            evaluator.close()
    rows = zip(order, epochs, digests, strict=True)
    return sorted((Retired(place=p, epoch=e, digest=d) for p, e, d in rows), key=lambda each: each.place)
