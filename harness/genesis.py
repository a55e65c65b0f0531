"""The first entry: the baseline built and measured, the gates compiled and found to have power, the guard named.

And the check, at every later start, that what guards the run is still what its first entry names.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from harness import __version__
from harness.artifacts import BlobStore
from harness.canonical import canonical_bytes, parse_json
from harness.channel import Child
from harness.config import Config
from harness.decision import refuted
from harness.desk import EVALUATOR_SECONDS, Rooms
from harness.developing import develop
from harness.entries import Genesis, Guarding, GuardProposed
from harness.errors import AuditError, ConfigError, EvaluatorError, LockgateError, SubjectError
from harness.floors import check_floors
from harness.gates import GateSpec, compile_gates
from harness.guard_change import Guard, changed_policies, points
from harness.keys import Signer, VaultKey
from harness.policy import PolicySet, policy_set_of
from harness.policy_file import PolicySource
from harness.power import PowerTable, require_power, typical_alpha
from harness.records import Digest
from harness.state import RunState
from harness.vault import blinded
from harness.views import MAX_EVIDENCE
from harness.workshop import Failure, Made


def check_gates(config: Config, data: dict[str, Any], subject: Path, policies: PolicySet) -> list[GateSpec]:
    """Compile the gates, those that policies demand among them, against the evals that there are.

    ConfigError for a floor that is none of these evals', where an alignment eval has no gate, since what must not
    regress must be tested, and where the ledger is not of the kind of the held-out items.
    """
    items = "fresh" if data["generated"] else "scarce"
    if config.ledger.items != items:
        made = "generates its held-out items" if data["generated"] else "has all its held-out items at hand"
        raise ConfigError(
            f"ledger.items is {config.ledger.items}, and guards.py {made}",
            where=str(subject / "lockgate.yaml"),
            remedy=f"write `items: {items}` under `ledger`; `Generated` in guards.py is what goes with `fresh`",
        )
    bounds: dict[str, tuple[float, float]] = {e["name"]: tuple(e["bounds"]) for e in data["evals"]}
    check_floors(policies, bounds)
    gates = compile_gates([gate.json_value() for gate in config.gates], bounds)
    _check_screen(config, {each["name"] for each in data["evals"]}, subject)
    gated = {gate.eval for gate in gates}
    for each in data["evals"]:
        if each["kind"] == "alignment" and each["name"] not in gated:
            whole, bracket, _ = each["name"].partition("[")
            asked = f"'{whole}[*]'" if bracket else whole
            raise ConfigError(
                f"the alignment eval '{each['name']}' has no gate",
                where=str(subject / "lockgate.yaml"),
                remedy=f"add under gates: {{eval: {asked}, kind: parent, margin: 0.05}}",
            )
    return gates


def _check_screen(config: Config, evals: set[str], subject: Path) -> None:
    """ConfigError where the development screen names an eval that there is none of: it would stop everything."""
    unknown = sorted(config.development.max_loss.keys() - evals)
    if unknown:
        raise ConfigError(
            f"development.max_loss names '{unknown[0]}', and guards.py has no such eval",
            where=str(subject / "lockgate.yaml"),
            remedy=f"there are {', '.join(sorted(evals))}",
        )


def gates_power(
    gates: list[GateSpec], config: Config, data: dict[str, Any], *, floor: float | None = None
) -> PowerTable:
    """How likely these gates pass a candidate that deserves it; StatisticsError below the floor."""
    ledger = config.ledger
    alpha = typical_alpha(ledger.delta, fresh=ledger.items == "fresh")
    least = ledger.min_power if floor is None else floor
    return require_power(gates, least, alpha=alpha, gain=ledger.gain, levels=ledger.levels, **assumed(config, data))


def assumed(config: Config, data: dict[str, Any], available: int | None = None) -> dict[str, Any]:
    """What the power calculation takes for granted of scores, and of items: so many available, or the whole vault."""
    ledger, items = config.ledger, data["vault"] if available is None else available
    return {
        "cap": min(ledger.cap, items),
        "batch": ledger.batch,
        "discordance": ledger.discordance,
        "applies": {e["name"]: e["applies"] for e in data["evals"]},
        "available": items,
    }


def make_genesis(
    rooms: Rooms, source: dict[str, bytes], guard: Guard, data: dict[str, Any], *, signer: Signer, seed: int
) -> Genesis:
    """Build and measure the baseline: the subject as it stands, default recipe. SubjectError where it fails."""
    workshop = rooms.workshop
    tree = workshop.store_source(source)
    recipe, _ = workshop.describe(tree)
    made = workshop.build(recipe, tree, rooms.training)
    if not isinstance(made, Made):
        remedy = "the subject as it stands must train: mend it and run again"
        raise SubjectError(made.text, where="model.py", remedy=remedy)
    found = develop(lambda request: evaluate(rooms.evaluator, request), workshop, made.candidate, rooms.development)
    if isinstance(found, Failure):
        remedy = "the subject as it stands must answer: mend it and run again"
        raise SubjectError(found.text, where="model.py", remedy=remedy)
    held: dict[str, Literal["held"]] = {
        n: "held" for n, verdict in (found.properties or {}).items() if verdict == "held"
    }
    if found.properties is not None and found.counterexamples is not None and held != found.properties:
        evidence: Any = parse_json(workshop.blob(found.counterexamples).read_bytes(), max_bytes=MAX_EVIDENCE)
        against = refuted(evidence)
        raise SubjectError(
            "the subject as it stands does not keep its own properties: "
            + "; ".join(why.text for why in against.reasons),
            where="guards.py",
            remedy="mend model.py, or say in guards.py what really holds of it: a candidate is held to it, too",
        )
    return Genesis(
        origin=signer.name,
        seed=seed,
        config=rooms.config,
        guard=workshop.keep(canonical_bytes(guard.parts)),
        policies=rooms.policies.digest,
        policy_sources=workshop.keep(canonical_bytes(rooms.policies.json_value())),
        eval_kinds=rooms.eval_kinds,
        baseline=made.candidate.model_copy(update={"flops": found.flops}),
        development=found.means,
        answers=found.answers,
        asked=found.asked,
        properties=None if found.properties is None else held,
        counterexamples=found.counterexamples,
        data=rooms.vault.blind("data", data["data"]),
        training=data["training"],
        vault_commitment=rooms.vault.commitment,
        vault_items=data["vault"],
        vault_minimum=rooms.vault.state.minimum,
        vault_named=rooms.config.vault.dir is not None,
        approvers=rooms.approvers,
        harness=__version__,
    )


MAX_POLICIES = 16 << 20
MOST_CHANGES = 6
"""So many are told one by one."""


def same_run(
    state: RunState, guard: Guard, data: Digest, training: Digest, *, key: VaultKey, seed: int | None, blobs: BlobStore
) -> GuardProposed | None:
    """Whether what stands on the disk may go on with a run: ConfigError where it is not what the log names.

    `guard`, `data` and `training` are what stands there, `seed` the one asked for, if one was. Returns the change of
    the guard that was proposed, where that is what stands there; None where it is what is in force.
    """
    genesis, named = state.genesis, state.guarding
    if genesis is None:
        raise AuditError("the log has no genesis", where="entry 0")
    if key.commitment() != genesis.vault_commitment:
        raise ConfigError(
            "this is not the vault key that genesis committed to", remedy="give the same --vault-key again"
        )
    proposed = None if state.change is None else state.change.hold.guard
    stands = (guard.digest, guard.policies.digest, blinded(key, "data", data))
    if proposed is not None and stands == (proposed.guard, proposed.policies, proposed.data):
        named = proposed
    if stands[:2] != (named.guard, named.policies):
        raise ConfigError(
            f"what guards the run has changed: {_told(named, guard, blobs)}",
            remedy="restore it, or `lockgate guard propose RUN`: `lockgate guard compare RUN` says what is weaker",
        )
    # The digest is of files; what was read of them, then or now, may be another where somebody wrote to them meanwhile.
    if (guard.config, [*guard.approvers]) != (named.config, named.approvers):
        raise ConfigError(
            f"the log names other settings or approvers than its guard's files hold: {_told(named, guard, blobs)}",
            remedy="they were changed while they were read: `lockgate guard withdraw RUN`, and propose them again; "
            "where it is so from the start, begin a new run",
        )
    if stands[2] != named.data:
        raise ConfigError(
            "the data's items or labels have changed",
            remedy="restore them; where held-out items were added, `lockgate vault add RUN`",
        )
    if training != genesis.training:
        raise ConfigError("the training data have changed since genesis", remedy="restore them, or begin a new run")
    if seed is not None and seed != genesis.seed:
        raise ConfigError(f"the run was begun with seed {genesis.seed}, not {seed}", remedy="leave --seed out")
    return proposed if named is proposed else None


def policies_of(guard: Guarding, blobs: BlobStore) -> PolicySet:
    """The policies that a run is judged by, from its blobs; AuditError, PolicyError where it names others."""
    where = guard.policy_sources
    sources: Any = parse_json(blobs.get(where), max_bytes=MAX_POLICIES)
    try:
        policies = policy_set_of(PolicySource.parse(source) for source in sources)
    except (ValidationError, TypeError) as error:
        raise AuditError("the policies that the log names cannot be read", where=where) from error
    if policies.digest != guard.policies:
        raise AuditError("the policies in the blobs are not those that the log names", where=where)
    return policies


def guard_of(guard: Guarding, blobs: BlobStore) -> Guard:
    """What guards a run, from an entry and the blobs; AuditError, PolicyError where they cannot be read."""
    policies = policies_of(guard, blobs)
    parts: Any = None
    with contextlib.suppress(LockgateError):  # an older run has kept no more than the digest
        parts = parse_json(blobs.get(guard.guard), max_bytes=MAX_POLICIES)
    kept = parts if isinstance(parts, dict) else None
    return Guard(guard.config, policies, tuple(guard.approvers), guard.guard, kept)


def _told(named: Guarding, guard: Guard, blobs: BlobStore) -> str:
    """What differs from what the log names, in words."""
    try:
        old = guard_of(named, blobs)
    except LockgateError as error:
        return f"what it was cannot be read: {error}"
    told = [f"{point.where}: {point.what}" for point in points(old, guard)]
    told += changed_policies(old.policies, guard.policies)
    if len(told) > MOST_CHANGES:
        told = [*told[:MOST_CHANGES], f"and {len(told) - MOST_CHANGES} more"]
    return "; ".join(told) or "the layout of lockgate.yaml, or of the list of approvers"


def evaluate(evaluator: Child, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the evaluator, before there is a log that a failure could go into: it is raised, with place and remedy."""
    answer = evaluator.ask(request, seconds=EVALUATOR_SECONDS)
    if "ok" not in answer:
        raise EvaluatorError(str(answer.get("message")), where=answer.get("where"), remedy=answer.get("remedy"))
    return dict(answer["ok"])
