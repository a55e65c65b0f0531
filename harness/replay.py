"""Derive a run's decisions again: from its log and blobs, without the supervisor, and report the first difference.

The measurements behind them are derived again by `rescoring`, for whoever has labels and vault key.

It shares the fold, the rules and the statistics with the supervisor on purpose: they are what is replayed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from harness.artifacts import BlobStore
from harness.canonical import canonical_bytes, digest, parse_json
from harness.changing import guards
from harness.costs import cost_facts
from harness.decision import decide, judged, refuted
from harness.effect import shortcoming
from harness.entries import (
    Decided,
    Entry,
    Genesis,
    Guarding,
    GuardProposed,
    Held,
    Measured,
    ProposedEntry,
    Screened,
    Staked,
)
from harness.errors import ArtifactError, AuditError, ConfigError
from harness.floors import bare, guarded
from harness.folder import RunFolder
from harness.gates import theta_of
from harness.genesis import guard_of, policies_of
from harness.guard_change import ITEMS, compare_guards
from harness.history import History
from harness.holds import Hold
from harness.journal import read_run
from harness.judge import Judge
from harness.judgement import Judgement
from harness.keys import VerifierChain
from harness.latency import UNKNOWN
from harness.ledger_replay import replay_ledger
from harness.policy import PolicySet
from harness.records import first_problem
from harness.rules import past
from harness.shortfall import falls_short
from harness.state import ProposalState, RunState, fold
from harness.views import properties_of

MAX_BLOB = 16 << 20
UNTOLD = cost_facts(None, UNKNOWN)
"""What a document that is older than these facts did not show: then nothing of it was known, and no rule read it."""
UNBEGUN = {"start": "scratch"}
"""Likewise of the proposal: before there were starts, all training began from scratch."""
COMPARING = 120.0
"""Seconds of the solver for one comparison of guards: more than whoever made it could have (`guard propose`)."""


def replay_run(folder: RunFolder) -> dict[str, Any]:
    """Derive every stake, judgement and decision again from log and blobs; AuditError at the first difference.

    The gates' verdicts are checked against their own evidence. That the evidence follows from answers and labels
    can be derived only by whoever holds the labels and the vault key: see `rescoring`.
    """
    state, entries = read_run(folder.log, VerifierChain.load(folder.public_key))
    genesis = entries[0]
    if not isinstance(genesis, Genesis):
        raise AuditError("the log has no genesis", where="entry 0")
    blobs = BlobStore(folder.blobs)
    stakes = 0
    if not genesis.vault_named:
        stakes = replay_ledger(entries, state, blobs).stakes
    _replay_moments(entries, state, blobs)
    decisions = 0
    with Judge() as judge:
        policies = _Policies(blobs)
        for number in sorted(state.proposals):
            decisions += _replay_proposal(state, number, blobs, policies.of(state.proposals[number].guard), judge)
        _replay_floors(entries, policies)
        guards = _replay_guards(entries, blobs, judge)
    return {"decisions": decisions, "stakes": stakes, "guards": guards, "entries": state.size}


class _Policies:
    """The policies of each guard, read once."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._known: dict[str, PolicySet] = {}

    def of(self, guard: Guarding) -> PolicySet:
        if guard.policies not in self._known:
            self._known[guard.policies] = policies_of(guard, self._blobs)
        return self._known[guard.policies]


def _replay_floors(entries: list[Entry], policies: _Policies) -> None:
    """That the gates of each guard are those of its lockgate.yaml, and one for each floor that its policies demand."""
    for index, guard, _ in guards(entries):
        where = f"entry {index}"
        try:
            again = guarded(bare(guard.config), policies.of(guard)).gates
        except ConfigError as error:
            raise AuditError(f"its policies and gates contradict each other: {error.message}", where=where) from error
        _same(where, "the gates with the floors that policies demand", again, guard.config.gates)


def _replay_guards(entries: list[Entry], blobs: BlobStore, judge: Judge) -> int:
    """Compare each proposed guard again with the one that it would replace; returns how many changes were made.

    What people were shown must be what the comparison finds, and what too few have approved must be as strict.
    """
    changed = 0
    for (_, old, _), (index, new, entry) in itertools.pairwise(guards(entries)):
        where, rule = f"entry {index}", old.config.approvers
        if not isinstance(new, GuardProposed) or entry is None:
            raise AuditError("a guard that nobody proposed", where=where)
        again = compare_guards(guard_of(old, blobs), guard_of(new, blobs), seconds=COMPARING, judge=judge)
        shown = _plain(blobs, new.comparison).get("points", [])
        told = [point.json_value() for point in again.points]
        _same(where, "the differences of the guards", told, [each for each in shown if each.get("where") != ITEMS])
        agreed = rule is not None and len(entry.approvals) >= rule.require
        if not agreed and again.verdict != "at-least-as-strict":
            raise AuditError(f"a guard that too few approved is {again.verdict} when compared again", where=where)
        changed += 1
    return changed


def _replay_moments(entries: list[Entry], state: RunState, blobs: BlobStore) -> None:
    """That what was decided on the way follows from the state of its moment; and the time and history that rules saw.

    Of which moment those are, is left open by the entries that other workers wrote while the document was made.
    """
    moments: list[tuple[History, str, Mapping[int, ProposalState]]] = []
    begun: dict[int, int] = {}
    folded = RunState()
    for index, entry in enumerate(entries):
        number = getattr(entry, "number", 0)
        if isinstance(entry, (Screened, Held, Decided)) and entry.document is not None and number in begun:
            shown: Any = parse_json(blobs.get(str(entry.document)), max_bytes=MAX_BLOB)
            told = {"history": shown.get("history"), "now": shown.get("now")}
            generation = state.proposals[number].proposed.generation
            if all(past(*moment, generation) != told for moment in moments[begun[number] : index]):
                raise AuditError(
                    "the time or the history that its rules were shown is not the log's", where=f"proposal {number}"
                )
        if isinstance(entry, (Staked, Decided)):
            _replay_development(folded, entry)
        if isinstance(entry, (ProposedEntry, Measured)):
            begun[number] = index
        folded = fold(folded, index, entry)
        moments.append((folded.history, folded.last_time, folded.proposals))


def _replay_development(before: RunState, entry: Staked | Decided) -> None:
    """That the screen on development items stopped what it says, and nothing was staked that it should have stopped."""
    found, where = before.proposals[entry.number], f"proposal {entry.number}"
    screened = isinstance(entry, Decided) and entry.decision.reasons[0].code == "development"
    if found.developed is None:
        if screened:
            raise AuditError("stopped on development items that it never answered", where=where)
        return
    if isinstance(entry, Decided) and not screened:
        return
    config, theirs = before.guarding.config, before.candidates()[before.incumbent.digest][1]
    short = falls_short(config.development, config.objective, found.developed.development, theirs)
    logged = entry.decision.reasons[0].text if isinstance(entry, Decided) else None
    _same(where, "what the development items show", short, logged)


def _replay_proposal(state: RunState, number: int, blobs: BlobStore, policies: PolicySet, judge: Judge) -> int:
    """One proposal: judge its documents again, check gates against evidence and answers, decide again."""
    found = state.proposals[number]
    where = f"proposal {number}"
    for hold in (*found.released, *([found.hold] if found.hold else [])):
        _replay_hold(where, hold, blobs, policies, judge)
    held = {hold.stage: hold for hold in found.released}
    if found.screened is not None:
        again = _judge_again(judge, policies, "screen", found.screened.document, blobs)
        _same(where, "the screen's judgement", digest(canonical_bytes(again.json_value())), found.screened.judgement)
        if "screen" in held:
            _replay_shown(where, held["screen"], found.screened.document, blobs)
        against = judged(again, answered="screen" in held)
        if found.decision is not None and against and found.hold is None:
            _same(where, "the decision", found.decision.reasons, against)
    _replay_effect(where, state, found, blobs)
    if found.developed is not None and found.developed.properties is not None:
        shown = properties_of(found.developed, blobs)
        if found.developed.refuted and found.decision is not None:
            _same(where, "the decision", refuted(shown), found.decision)
    if found.decision is None:
        return 0
    if found.hold is not None:
        return _replay_ended(where, found, blobs, policies, judge)
    if found.measured is None or found.judgement is None or found.document is None:
        if found.decision.verdict == "promote":
            raise AuditError("promoted, and nothing says what its rules judged", where=where)
        return 1
    evidence: Any = parse_json(blobs.get(found.measured.evidence), max_bytes=MAX_BLOB)
    _check_records(where, evidence, blobs)
    from harness.statistics import TestResult

    # TestResult's own rule is that verdicts follow from log_e and the threshold: parsing checks it.
    try:
        result = TestResult.parse(evidence["result"])
    except (ValidationError, KeyError, TypeError) as error:
        message = first_problem(error)[1] if isinstance(error, ValidationError) else "it holds no result"
        raise AuditError(f"the evidence is not that of a test: {message}", where=where, clause="§8.3") from error
    _same(
        where,
        "the gates' verdicts",
        [(g.name, g.verdict) for g in result.gates],
        [(g.name, g.verdict) for g in found.measured.gates],
    )
    told = [(g.eval, g.kind, g.name) for g in found.measured.gates]
    bound = {gate.name: (gate.eval, gate.kind, gate.name) for gate in found.guard.config.gates}
    _same(where, "the gates by eval, kind and name", told, [bound.get(g.name) for g in result.gates])
    _same(where, "the bars of the gates", {g.name: g.theta for g in result.gates}, _bars(found.guard))
    if found.staked is not None:
        _same(where, "the test's alpha", result.alpha, found.staked.alpha)
    again = _judge_decided(where, "decide", found.document, found.judgement, blobs, policies, judge)
    if found.built is not None:
        shown = _plain(blobs, found.document)
        for name, derived in cost_facts(found.measured.timed, found.built.peak_mb).items():
            if name in shown or found.measured.timed is not None:
                _same(where, f"`{name}`, shown to the rules,", derived, shown.get(name))
    approvers = held["decide"].approvers if "decide" in held else []
    if approvers:
        _replay_shown(where, held["decide"], found.document, blobs)
    decision = decide(found.measured.gates, found.guard.eval_kinds, again, approvers=approvers)
    _same(where, "the decision", decision, found.decision)
    return 1


def _replay_effect(where: str, state: RunState, found: ProposalState, blobs: BlobStore) -> None:
    """That what was measured is what was declared, and something; and what was stopped for that is not."""
    if found.screened is None or found.built is None:
        return
    base, _ = state.candidates()[found.screened.base]
    against = shortcoming(blobs, found.screened, base, found.built)
    if found.developed is not None:
        _same(where, "what it changes in effect", against, None)
    elif found.decision is not None and found.decision.reasons[0].code in ("no-op", "undeclared"):
        _same(where, "what it changes in effect", against, found.decision)


def _check_records(where: str, evidence: Any, blobs: BlobStore) -> None:
    """That what evals kept for people to read, which no entry names, is what they kept; AuditError."""
    try:
        for record in evidence.get("records", []):
            blobs.check(record["record"])
    except ArtifactError as error:
        raise AuditError(
            f"the record of an eval is not the one that the evidence names: {error.message}",
            where=f"{where}: {error.where}",
            clause="§8.3",
        ) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise AuditError(f"the evidence's records are malformed: {error}", where=where, clause="§8.3") from error


def _bars(guard: Guarding) -> dict[str, float]:
    """What each gate of a guard is tested against, by its name."""
    return {gate.name: theta_of(gate.kind, gate.bar or 0.0) for gate in guard.config.gates}


def _replay_hold(where: str, hold: Hold, blobs: BlobStore, policies: PolicySet, judge: Judge) -> None:
    """A hold follows from its document: nothing denies it, and the rules that it names ask for people.

    That the gates which it names do is the order's to say (`asking`).
    """
    entry = hold.said
    again = _judge_decided(where, entry.stage, entry.document, entry.judgement, blobs, policies, judge)
    outcome = "pass" if entry.gates and not entry.rules else "hold"
    _same(where, "why it was held", (again.outcome, again.failed), (outcome, entry.rules))


def _replay_ended(where: str, found: ProposalState, blobs: BlobStore, policies: PolicySet, judge: Judge) -> int:
    """A hold that ended in a rejection: refused, not answered in time, or answered while a rule denies."""
    hold, decision, rule = found.hold, found.decision, found.guard.config.approvers
    if hold is None or decision is None or rule is None:
        raise AuditError("a hold without approvers", where=where)
    if found.document is not None and found.judgement is not None:
        again = _judge_decided(where, hold.stage, found.document, found.judgement, blobs, policies, judge)
        _replay_shown(where, hold, found.document, blobs)
        _same(where, "the decision", decision.reasons, judged(again, answered=True))
    elif decision.reasons[0].code in ("hold-refused", "hold-unanswered"):
        _same(where, "the decision", hold.ended(rule.require, hold.expires, hold.incumbent), decision)
    return 1


def _judge_decided(
    where: str, stage: str, document: str, judgement: str, blobs: BlobStore, policies: PolicySet, judge: Judge
) -> Judgement:
    """Judge a document again, and compare with the judgement that was kept of it; both salted at the decide stage."""
    read = _unsalted if stage == "decide" else _plain
    shown, logged = read(blobs, document), read(blobs, judgement)
    if stage == "decide":
        shown = UNTOLD | shown
    shown = {**shown, "proposal": UNBEGUN | shown["proposal"]}
    again = judge.decide(policies, stage, shown["proposal"]["kind"], shown)
    _same(where, "the judgement", canonical_bytes(again.json_value()), canonical_bytes(logged))
    return again


def _replay_shown(where: str, hold: Hold, document: str, blobs: BlobStore) -> None:
    """What the rules were shown once people had answered is what people were asked about, and their answers."""
    asked, shown = _plain(blobs, hold.said.document), _plain(blobs, document)
    _same(where, "the approvals shown", shown.get("approvals"), hold.facts)
    for name in sorted((asked.keys() | shown.keys()) - {"approvals", "budgets", "history", "now", "salt"}):
        _same(where, f"`{name}`, shown after people were asked,", shown.get(name), asked.get(name))


def _plain(blobs: BlobStore, name: str) -> dict[str, Any]:
    value: Any = parse_json(blobs.get(name, max_bytes=MAX_BLOB), max_bytes=MAX_BLOB)
    if not isinstance(value, dict):
        raise AuditError("a blob that is no object", where=name, clause="§8.1")
    return value


def _unsalted(blobs: BlobStore, name: str) -> dict[str, Any]:
    """What a blob of the decide stage says, without the salt that keeps its digest from telling scores."""
    value: Any = parse_json(blobs.get(name), max_bytes=MAX_BLOB)
    if not isinstance(value, dict) or "salt" not in value:
        raise AuditError("a blob of the decide stage without its salt", where=name, clause="§8.3")
    return {member: each for member, each in value.items() if member != "salt"}


def _judge_again(judge: Judge, policies: PolicySet, stage: str, name: str, blobs: BlobStore) -> Judgement:
    shown: Any = parse_json(blobs.get(name), max_bytes=MAX_BLOB)
    document = {**shown, "proposal": UNBEGUN | shown["proposal"]}
    return judge.decide(policies, stage, document["proposal"]["kind"], document)


def _same(where: str, what: str, derived: object, logged: object) -> None:
    if derived != logged:
        raise AuditError(
            f"{what} derived again differs from the log: {derived!r} against {logged!r}"[:600], where=where
        )
