"""Score the logged answers of a run again, with the subject's guards and the vault key, which reviewers may be given.

The evaluator must come to the very evidence that the log names. What follows from evidence is `replay`'s.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts import BlobStore
from harness.canonical import digest_file, parse_json
from harness.changing import guards
from harness.channel import Child
from harness.config import load_config
from harness.developing import development_shuffle
from harness.entries import Entry, Genesis, Guarding
from harness.errors import AuditError
from harness.folder import IMPORTED, RunFolder
from harness.gates import compile_gates
from harness.genesis import evaluate, guard_of
from harness.journal import read_run
from harness.keys import VaultKey, VerifierChain
from harness.state import ProposalState, RunState
from harness.vault import blinded, item_list, order_of, shuffle_of
from harness.views import MAX_EVIDENCE, properties_of

MAX_BLOB = 16 << 20


def rescore(folder: RunFolder, subject: Path, key: VaultKey) -> dict[str, int]:
    """Score the logged answers of every measured proposal again; returns how many, and how many other evals measured.

    So are properties judged again, by the same search for counterexamples among the logged answers: `properties` is of
    how many proposals. One by another release of Hypothesis, which may draw other cases, is left out.

    Those are of another guard's evals or items than the subject's, before or after a change of the guard: the subject
    as it was then scores them. AuditError where the data or the key is not what any guard of the log names, or where
    the evaluator comes to other evidence.
    """
    state, entries = read_run(folder.log, VerifierChain.load(folder.public_key))
    genesis, blobs = entries[0], BlobStore(folder.blobs)
    if not isinstance(genesis, Genesis):
        raise AuditError("the log has no genesis", where="entry 0")
    if key.commitment() != genesis.vault_commitment:
        raise AuditError("this is not the vault key that genesis committed to", where="entry 0")
    measured = [found for _, found in sorted(state.proposals.items()) if found.measured]
    with tempfile.TemporaryDirectory(prefix="lockgate-replay-") as place:
        evaluator = Child(["-m", "harness.evaluator", str(subject)], name="evaluator", stderr=Path(place) / "stderr")
        try:
            data = evaluate(evaluator, {"op": "describe"})
            sizes = sizes_of(entries, blinded(key, "data", data["data"]))
            if not sizes:
                raise AuditError("the subject's items or labels are not those of the log", where=str(subject))
            bounds = {each["name"]: tuple(each["bounds"]) for each in data["evals"]}
            order = range(sizes[-1]) if data["generated"] else order_of(key, *sizes)
            scorer = _Scorer(evaluator, blobs, key, order, bounds, genesis)
            ours = [found for found in measured if _measures(subject, found.guard, blobs)]
            ours = [found for found in ours if found.guard.vault_items <= sizes[-1]]
            for found in ours:
                scorer.score(state, found)
            searched = [found for _, found in sorted(state.proposals.items()) if found.developed]
            searched = [found for found in searched if _measures(subject, found.guard, blobs)]
            derived = sum(scorer.search(state, found, Path(place) / "evidence.json") for found in searched)
        finally:
            evaluator.close()
    counts = {"measurements": len(ours), "other_evals": len(measured) - len(ours)}
    return counts | ({"properties": derived} if derived else {})


def sizes_of(entries: list[Entry], data: str) -> list[int]:
    """How many held-out items there were, at first and after each time that some were added, up to these data."""
    sizes: list[int] = []
    for _, guard, _ in guards(entries):
        if guard.vault_items not in sizes:
            sizes.append(guard.vault_items)
        if guard.data == data:
            return sizes
    return []


def _measures(subject: Path, guard: Guarding, blobs: BlobStore) -> bool:
    """Whether the subject's code that measures is that of a guard; where the run kept no list of it, it is tried."""
    if load_config(subject).evals != guard.config.evals:
        return False
    parts = guard_of(guard, blobs).parts
    if parts is None:
        return True
    files = {name: each for name, each in parts["files"].items() if Path(name).suffix in IMPORTED}
    return all((subject / name).is_file() and digest_file(subject / name) == each for name, each in files.items())


@dataclass(frozen=True)
class _Scorer:
    """Scores logged answers again."""

    evaluator: Child
    blobs: BlobStore
    key: VaultKey
    order: Sequence[int]
    bounds: dict[str, tuple[float, float]]
    genesis: Genesis

    def score(self, state: RunState, found: ProposalState) -> None:
        """Score one proposal's; AuditError where the evidence is another."""
        where, stake, config, blobs = f"proposal {found.proposed.number}", found.staked, found.guard.config, self.blobs
        if stake is None or found.built is None or found.measured is None:
            raise AuditError("measured without a stake", where=where)
        roles = {
            "candidate": found.built.candidate.digest,
            "incumbent": stake.incumbent,
            "baseline": self.genesis.baseline.digest,
        }
        keys = {role: (name, stake.epoch, stake.offset, stake.cap) for role, name in roles.items()}
        answers = {role: state.answers[key] for role, key in keys.items()}
        tables = {role: state.asked.get(key) for role, key in keys.items()}
        for name in (*answers.values(), *filter(None, tables.values())):
            blobs.check(name)
        asked = list(self.order[stake.offset : stake.offset + stake.cap])
        if blinded(self.key, "items", item_list(asked)) != stake.items:
            raise AuditError("the items asked are not those that the log names", where=where)
        gates = compile_gates([gate.json_value() for gate in config.gates], self.bounds)
        again = evaluate(
            self.evaluator,
            {
                "op": "test",
                "ids": asked,
                "shuffle": shuffle_of(self.key, stake.offset, stake.cap),
                **{role: str(blobs.path(name)) for role, name in answers.items()},
                "asked": {role: name and str(blobs.path(name)) for role, name in tables.items()},
                "gates": [gate.json_value() for gate in gates],
                "batch": config.ledger.batch,
                "alpha": stake.alpha,
                "cap": min(stake.cap, config.ledger.cap),
            },
        )
        logged: Any = parse_json(blobs.get(found.measured.evidence), max_bytes=MAX_BLOB)
        if again["result"] != logged["result"]:
            told = f"{again['result']!r} against {logged['result']!r}"
            raise AuditError(f"the evidence derived again differs from the log: {told}"[:600], where=where)

    def search(self, state: RunState, found: ProposalState, dest: Path) -> bool:
        """Search one proposal's answers for counterexamples again; whether it can be; AuditError for other evidence."""
        where, developed, blobs = f"proposal {found.proposed.number}", found.developed, self.blobs
        if developed is None or developed.counterexamples is None:
            return False
        before = state.counterexamples(found.proposed.generation)
        for name in (developed.answers, developed.asked, *before.values()):
            if name is not None:
                blobs.check(name)
        stored = [{"number": number, "evidence": str(blobs.path(name))} for number, name in before.items()]
        again = evaluate(
            self.evaluator,
            {
                "op": "develop",
                "answers": str(blobs.path(developed.answers)),
                "asked": developed.asked and str(blobs.path(developed.asked)),
                "shuffle": development_shuffle(self.genesis.seed),
                "stored": stored,
                "dest": str(dest),
            },
        )
        if again["properties"] is None:
            raise AuditError("properties were judged that the subject does not have", where=where)
        derived: Any = parse_json(dest.read_bytes(), max_bytes=MAX_EVIDENCE)
        logged = properties_of(developed, blobs)
        if derived["hypothesis"] != logged["hypothesis"]:
            return False
        if derived != logged or again["development"] != developed.development:
            told = f"{again['properties']!r} against {developed.properties!r}"
            raise AuditError(f"what properties are found to be differs from the log: {told}"[:600], where=where)
        return True
