"""Is one set of policies at least as strict as another? Proved, refuted by a document, or not known.

Strict means: no document has a better outcome with NEW than with OLD, where deny (and invalid) > a hold for the people
that a rule asks for (it reads `approvals`) > a hold that any quorum answers > pass. A rule of
OLD is settled by structure where the same rule or a tighter one stands in NEW; else z3 is asked, in a process of its
own, for a document that OLD stops and NEW lets through. Where it has no answer, some documents are tried. Every one is
judged by the real engine, with both sets, before it is believed.

Rules: `at-least-as-strict` is said only with a proof for every rule of OLD; an evaluation that ends in an error
denies, and no proof may overlook it. Whatever stops a proof is named, with its place, and the answer is `unknown`:
then people decide.

It does not cover the judge's own limits of time and memory, which are those of its machine. The limit on the
iterations of one evaluation is covered: a rule of OLD that may meet it is only ever proved by the same rule.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from harness.base_document import base_document
from harness.entailment import Formula, Prover, holds
from harness.judge import Judge
from harness.judgement import Judgement, Outcome, rank
from harness.policy import PolicySet
from harness.policy_compiler import compile_policy
from harness.policy_document import KINDS, STAGES, Stage
from harness.probing import probes
from harness.records import Digest, Kind, Record
from harness.solver import Goal, Solved, Solver
from harness.term_facts import MAX_ITERATIONS, cannot_fail, iterations
from harness.terms import RuleTerm, Term, rule_terms

SECONDS = 30.0
MAX_PROBES = 200  # documents that are tried for a rule without an answer

Verdict = Literal["at-least-as-strict", "weaker", "unknown"]


class Witness(Record):
    """A document that NEW lets further than OLD, as the real engine judged it."""

    stage: Stage
    kind: Kind
    changed: dict[str, Any]
    """Where it differs from an ordinary document (`base_document`), by path."""
    document: dict[str, Any]
    before: Outcome
    after: Outcome
    stopped_by: list[str]
    """The rules of OLD that it does not satisfy, as policy/rule."""


class RuleComparison(Record):
    """What became of one rule of OLD, at the kinds of proposal where the same policies apply."""

    policy: str
    rule: str
    where: str
    """file:line of the rule in OLD."""
    stage: Stage
    kinds: list[Kind]
    verdict: Verdict
    why: str
    constructs: list[str]
    """For `unknown`: what stopped the proof, each as file:line:column: what."""
    witness: Witness | None = None


class Comparison(Record):
    """The answer, and what it rests on."""

    verdict: Verdict
    old: Digest
    new: Digest
    rules: list[RuleComparison]
    added: list[str]
    """Rules of NEW that OLD has not, as policy/rule."""
    notes: list[str]


@dataclass(frozen=True)
class _Group:
    """Kinds of proposal to which the same policies apply, and their rules."""

    stage: Stage
    kinds: tuple[Kind, ...]
    old: tuple[RuleTerm, ...]
    new: tuple[RuleTerm, ...]


def compare_sets(
    old: PolicySet,
    new: PolicySet,
    *,
    seconds: float = SECONDS,
    judge: Judge | None = None,
    solver: Solver | None = None,
) -> Comparison:
    """Compare two sets; `seconds` bound the solver. Raises PolicyError where a set does not compile, nothing else."""
    if judge is None:
        with Judge() as own:
            return compare_sets(old, new, seconds=seconds, judge=own, solver=solver)
    groups = _groups(old, new)
    goals = [(group, rule, _by_structure(group, rule)) for group in groups for rule in group.old]
    asked = [(group, rule) for group, rule, why in goals if why is None]
    answered = iter(_by_solver(asked, old, new, solver or Solver(seconds=seconds), judge))
    lines = [
        next(answered) if why is None else _line(group, rule, "at-least-as-strict", why) for group, rule, why in goals
    ]
    lines += [_opened(group, old, new, judge) for group in groups if group.new and not group.old]
    known = {(group.stage, rule.name) for group in groups for rule in group.old}
    added = dict.fromkeys(r.name for group in groups for r in group.new if (group.stage, r.name) not in known)
    notes = [
        f"no rule of NEW applies to {', '.join(g.kinds)} at {g.stage}: nothing can pass there"
        for g in groups
        if g.old and not g.new
    ]
    verdict = worst(line.verdict for line in lines)
    return Comparison(verdict=verdict, old=old.digest, new=new.digest, rules=lines, added=list(added), notes=notes)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on a whole, which is the worst one of its parts; of nothing, that it is as strict."""
    found = set(verdicts)
    return "weaker" if "weaker" in found else "unknown" if "unknown" in found else "at-least-as-strict"


def _groups(old: PolicySet, new: PolicySet) -> list[_Group]:
    terms = {
        id(policy): tuple(rule_terms(compile_policy(policy))) for policies in (old, new) for policy in policies.policies
    }
    groups = []
    for stage in STAGES:
        alike: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Kind]] = {}
        for kind in KINDS:
            names = (
                tuple(policy.name for policy in old.applicable(stage, kind)),
                tuple(policy.name for policy in new.applicable(stage, kind)),
            )
            alike.setdefault(names, []).append(kind)
        for kinds in alike.values():
            rules = [
                tuple(rule for policy in policies.applicable(stage, kinds[0]) for rule in terms[id(policy)])
                for policies in (old, new)
            ]
            groups.append(_Group(stage, tuple(kinds), rules[0], rules[1]))
    return groups


def _line(
    group: _Group, rule: RuleTerm, verdict: Verdict, why: str, constructs: Sequence[str] = (), witness: Any = None
) -> RuleComparison:
    return RuleComparison(
        policy=rule.policy,
        rule=rule.rule,
        where=rule.where,
        stage=group.stage,
        kinds=list(group.kinds),
        verdict=verdict,
        why=why,
        constructs=list(constructs),
        witness=witness,
    )


# --- by structure -----------------------------------------------------------------------------------------


def _by_structure(group: _Group, rule: RuleTerm) -> str | None:
    """Return why the new rules stop all that a rule of the old stops, or None where structure does not say."""
    if not group.new:
        return "no rule of NEW applies here, so that nothing can pass"
    for other in group.new:
        # the same term in another way of writing may take other iterations
        same = other.source == rule.source or (other.term == rule.term and not may_run_out(rule))
        if same and other.strength >= rule.strength:
            stricter = " and denies now" if other.otherwise != rule.otherwise else ""
            return ("the same" if other.name == rule.name else f"the same as {other.name}") + stricter
    if may_run_out(rule):
        return None
    # a rule that holds may be stopped by one that holds, but its error is a denial, which only a denial equals
    enough = rule.strength if cannot_fail(rule.term) else 3
    premises = [other for other in group.new if other.strength >= enough]
    goal = _said(rule.term)
    prover = Prover()  # one for all attempts: what they take together is bounded
    for other in premises:
        if other.name == rule.name and prover.proves([_said(other.term)], goal):
            return "tightened"
    for other in premises:
        if other.name != rule.name and other.reads & rule.reads and prover.proves([_said(other.term)], goal):
            return f"follows from {other.name}"
    near = [_said(other.term) for other in premises if other.reads & rule.reads]
    if len(near) > 1 and prover.proves(near, goal):
        return "follows from several rules of NEW"
    return "always true" if prover.proves([], goal) else None


@lru_cache(maxsize=1_000)
def _said(term: Term) -> Formula:
    return holds(term)


def may_run_out(rule: RuleTerm) -> bool:
    """Return whether an evaluation of the rule may meet the engine's limit on iterations, and so end in an error."""
    parts = rule.term.args if rule.term.op == "strict" else (rule.term,)
    return any(iterations(part) > MAX_ITERATIONS for part in parts)  # each variable is an evaluation of its own


# --- by a solver, and by the engine -----------------------------------------------------------------------


def _by_solver(
    goals: Sequence[tuple[_Group, RuleTerm]], old: PolicySet, new: PolicySet, solver: Solver, judge: Judge
) -> list[RuleComparison]:
    if not goals:
        return []
    asked = [Goal(stage=group.stage, kinds=list(group.kinds), rule=rule.name) for group, rule in goals]
    with ThreadPoolExecutor(1) as pool:
        # The judge's process takes as long to start as the solver's. Where the engine is in this process the solver may
        # be, too, and z3 is not safe under threads: its objects may be collected by the other one.
        if isinstance(judge, Judge):
            pool.submit(replay, goals[0][0].stage, base_document(goals[0][0].stage), old, new, judge)
        answers = solver.solve(old, new, asked)
    undecided = sum(not answer.proved and answer.document is None for answer in answers)
    tries = min(MAX_PROBES, 10 * MAX_PROBES // max(undecided, 1))
    return [
        _answered(group, rule, answer, old, new, judge, tries)
        for (group, rule), answer in zip(goals, answers, strict=True)
    ]


def _answered(
    group: _Group, rule: RuleTerm, answer: Solved, old: PolicySet, new: PolicySet, judge: Judge, tries: int
) -> RuleComparison:
    documents = iter(() if answer.document is None else (answer.document,))
    if not answer.proved:
        same = [other for other in group.new if other.name == rule.name]
        documents = itertools.chain(documents, probes(group.stage, group.kinds, [rule, *same], tries))
    for document in documents:
        witness = replay(group.stage, document, old, new, judge)
        if witness is not None:
            why = f"a document that OLD stops ({witness.before}) and NEW does not ({witness.after})"
            if witness.before == witness.after:
                why = "a document that OLD holds for the people that a rule asks for, and NEW for any quorum"
            return _line(group, rule, "weaker", why, witness=witness)
    if answer.proved and may_run_out(rule):
        why = f"an evaluation may take more than {MAX_ITERATIONS} iterations, which ends in an error"
        return _line(group, rule, "unknown", why, [f"{rule.term.place}: {why}"])
    if answer.proved:
        return _line(group, rule, "at-least-as-strict", "proved by the solver")
    return _line(group, rule, "unknown", answer.why, answer.constructs or [f"{rule.term.place}: {answer.why}"])


def _opened(group: _Group, old: PolicySet, new: PolicySet, judge: Judge) -> RuleComparison:
    """Where no rule of OLD applied nothing could pass; now something may."""
    nothing = RuleTerm("", "", "policies", "deny", of_people=False, term=group.new[0].term, source="")
    for kind in group.kinds:
        document = base_document(group.stage)
        document["proposal"]["kind"] = kind
        witness = replay(group.stage, document, old, new, judge)
        if witness is not None:
            return _line(group, nothing, "weaker", "no rule of OLD applies here: nothing could pass", witness=witness)
    why = "no rule of OLD applies here, so that nothing could pass; whether now something can is not known"
    return _line(group, nothing, "unknown", why, [f"{rule.where}: {rule.name} of NEW" for rule in group.new])


def replay(stage: Stage, document: dict[str, Any], old: PolicySet, new: PolicySet, judge: Judge) -> Witness | None:
    """Judge a document by both sets in the real engine; return it as a witness only where NEW is weaker on it."""
    kind: Kind = document["proposal"]["kind"]
    before, after = judge.decide(old, stage, kind, document), judge.decide(new, stage, kind, document)
    # an answer without verdicts, where rules apply, is about the judge or the document, and shows nothing
    if not (_judged(before, old, stage, kind) and _judged(after, new, stage, kind)):
        return None
    if rank(after) >= rank(before):
        return None
    return Witness(
        stage=stage,
        kind=kind,
        changed={path: value for path, _, value in differences(base_document(stage), document)},
        document=document,
        before=before.outcome,
        after=after.outcome,
        stopped_by=before.failed,
    )


def _judged(judgement: Judgement, policies: PolicySet, stage: Stage, kind: Kind) -> bool:
    return bool(judgement.verdicts) or not policies.applicable(stage, kind)


_GONE = object()


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each value that differs between two JSON values, by its path; lists are one value, what is not there is None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in (*old, *(name for name in new if name not in old)):
            yield from differences(old.get(name, _GONE), new.get(name, _GONE), f"{path}.{name}" if path else name)
    elif old is _GONE or new is _GONE or json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
        # as text, for `true` is not 1, nor 1 the double 1.0; and a name that is not there is no null
        yield path, None if old is _GONE else old, None if new is _GONE else new
