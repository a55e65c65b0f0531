"""The first entry: the baseline built and measured, the gates compiled and found to have power, the guard named.

And the check, at every later start, that what guards the run is still what its first entry names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness import __version__
from harness.artifacts import BlobStore
from harness.canonical import canonical_bytes, parse_json
from harness.channel import Child
from harness.config import Config
from harness.desk import EVALUATOR_SECONDS, Rooms
from harness.entries import Genesis
from harness.errors import ConfigError, EvaluatorError, LockgateError, SubjectError
from harness.gates import GateSpec, compile_gates
from harness.keys import Signer, VaultKey
from harness.plain import plain
from harness.policy import PolicySet, policy_set_of
from harness.policy_file import PolicySource
from harness.power import PowerTable, require_power, typical_alpha
from harness.quorum import Approver
from harness.records import Digest
from harness.vault import blinded
from harness.workshop import Failure, Made


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
    """How likely these gates pass a candidate that deserves it; StatisticsError below the floor."""
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


def make_genesis(
    rooms: Rooms, source: dict[str, bytes], guard: Digest, data: dict[str, Any], *, signer: Signer, seed: int
) -> Genesis:
    """Build and measure the baseline: the subject as it stands, default recipe. SubjectError where it fails."""
    workshop = rooms.workshop
    tree = workshop.store_source(source)
    recipe, _ = workshop.describe(tree)
    made = workshop.build(recipe, tree, rooms.training)
    if not isinstance(made, Made):
        remedy = "the subject as it stands must train: mend it and run again"
        raise SubjectError(made.text, where="model.py", remedy=remedy)
    answered = workshop.predict(made.candidate, rooms.development, rooms.development_rows)
    if isinstance(answered, Failure):
        remedy = "the subject as it stands must answer: mend it and run again"
        raise SubjectError(answered.text, where="model.py", remedy=remedy)
    request = {
        "op": "develop",
        "answers": str(workshop.blob(answered.answers)),
        "shuffle": rooms.development_shuffle,
    }
    scored = evaluate(rooms.evaluator, request)
    return Genesis(
        origin=signer.name,
        seed=seed,
        config=rooms.config,
        guard=guard,
        policies=rooms.policies.digest,
        policy_sources=workshop.keep(canonical_bytes(rooms.policies.json_value())),
        eval_kinds=rooms.eval_kinds,
        baseline=made.candidate.model_copy(update={"flops": answered.flops}),
        development=scored["development"],
        answers=answered.answers,
        data=rooms.vault.blind("data", data["data"]),
        training=data["training"],
        vault_commitment=rooms.vault.commitment,
        vault_items=data["vault"],
        vault_minimum=rooms.vault.state.minimum,
        vault_named=rooms.config.vault.dir is not None,
        approvers=rooms.approvers,
        harness=__version__,
    )


MOST_CHANGES = 6
"""So many are told one by one."""


class Standing(Protocol):
    """What a run stands on at this start, as `opening.Ground` has it."""

    @property
    def config(self) -> Config:
        """The configuration on the disk."""

    @property
    def policies(self) -> PolicySet:
        """The policies on the disk."""

    @property
    def key(self) -> VaultKey:
        """The vault key in hand."""

    @property
    def seed(self) -> int | None:
        """The seed asked for, if one was."""


def check_same_run(
    genesis: Genesis,
    ground: Standing,
    guard: Digest,
    data: Digest,
    training: Digest,
    *,
    approvers: Sequence[Approver],
    blobs: BlobStore,
) -> None:
    """Refuse to go on where what guards the run, its data, key or seed is not what its log names."""
    if (guard, ground.policies.digest) != (genesis.guard, genesis.policies):
        told = "; ".join(guard_changes(genesis, ground, approvers, blobs))
        raise ConfigError(
            f"what guards the run has changed since genesis: {told}",
            remedy="restore it, or begin a new run with --out; a log never mixes two guards",
        )
    if ground.key.commitment() != genesis.vault_commitment:
        raise ConfigError(
            "this is not the vault key that genesis committed to", remedy="give the same --vault-key again"
        )
    if (blinded(ground.key, "data", data), training) != (genesis.data, genesis.training):
        raise ConfigError(
            "the data's items or labels have changed since genesis", remedy="restore them, or begin a new run"
        )
    if ground.seed is not None and ground.seed != genesis.seed:
        raise ConfigError(f"the run was begun with seed {genesis.seed}, not {ground.seed}", remedy="leave --seed out")


def guard_changes(genesis: Genesis, ground: Standing, approvers: Sequence[Approver], blobs: BlobStore) -> list[str]:
    """What differs from what genesis names, in words, as far as it has kept more of it than a digest."""
    told = [f"lockgate.yaml: {each}" for each in _differences(genesis.config.json_value(), ground.config.json_value())]
    if ground.policies.digest != genesis.policies:
        told += _changed_policies(genesis, ground.policies, blobs)
    before, now = ({(each.name, each.role, each.key) for each in every} for every in (genesis.approvers, approvers))
    told += [f"approver {name} ({role}) is gone" for name, role, _ in sorted(before - now)]
    told += [f"approver {name} ({role}) is new" for name, role, _ in sorted(now - before)]
    if len(told) > MOST_CHANGES:
        told = [*told[:MOST_CHANGES], f"and {len(told) - MOST_CHANGES} more"]
    return told or [
        "guards.py, another file that it may import, the layout of lockgate.yaml, a package, or the harness"
    ]


def _changed_policies(genesis: Genesis, policies: PolicySet, blobs: BlobStore) -> list[str]:
    """The policies that are new, gone, or other than those that genesis keeps; and how to compare them."""
    try:
        sources: Any = parse_json(blobs.get(genesis.policy_sources), max_bytes=16 << 20)
        before = {each.name: each for each in policy_set_of(PolicySource.parse(each) for each in sources).policies}
    except LockgateError as error:
        return [f"the policies (those of genesis cannot be read: {error})"]
    now = {each.name: each for each in policies.policies}
    words = [f"policy {name} is gone" for name in sorted(before.keys() - now.keys())]
    words += [f"policy {name} is new" for name in sorted(now.keys() - before.keys())]
    words += [
        f"policy {name} is another" for name in sorted(before.keys() & now.keys())
        if (before[name].document, before[name].params) != (now[name].document, now[name].params)
    ]  # fmt: skip
    return words or ["the policies' texts, though not what they say"]


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Each value that differs, by its path."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(name), new.get(name), f"{path}.{name}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(*pair, f"{path}[{index}]")
    elif old != new:
        yield plain(f"{path} {json.dumps(old)} → {json.dumps(new)}", 200)


def evaluate(evaluator: Child, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the evaluator, before there is a log that a failure could go into: it is raised, with place and remedy."""
    answer = evaluator.ask(request, seconds=EVALUATOR_SECONDS)
    if "ok" not in answer:
        raise EvaluatorError(str(answer.get("message")), where=answer.get("where"), remedy=answer.get("remedy"))
    return dict(answer["ok"])
