"""Entries made by hand, for tests of everything that reads a trail: small, whole, and legal where it is said."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import people

from harness import entries as e
from harness.config import parse_config
from harness.holds import Hold
from harness.keys import Signer
from harness.ledger import gamma
from harness.records import Candidate, Decision, GateVerdict, Why
from harness.state import RunState, fold

CONFIG_TEXT = """\
apiVersion: lockgate/v1
kind: Subject
name: paper
objective: accuracy
gates:
  - {eval: accuracy, kind: improve}
  - {eval: parity, kind: parent, margin: 0.1}
proposers: {scripted: 2}
"""
CONFIG = parse_config(CONFIG_TEXT)
PEOPLE = (people.ANN, people.BEN, people.CAT)
WITH_PEOPLE = parse_config(f"{CONFIG_TEXT}approvers: {{require: 2}}\n")
EVAL_KINDS = {"accuracy": "capability", "parity": "alignment"}


def sha(text: object) -> str:
    """Make up a digest, the same for the same text."""
    return f"sha256:{hashlib.sha256(str(text).encode()).hexdigest()}"


def candidate(name: object) -> Candidate:
    """Make up a candidate, the same for the same name."""
    return Candidate(
        digest=sha(f"candidate {name}"),
        recipe={"width": 8},
        source=sha(f"source {name}"),
        weights=sha(f"weights {name}"),
        parameters=10,
        bytes=100,
        schema_digest=sha("schema"),
    )


def decision(verdict: str, code: str | None = None, text: str = "because") -> Decision:
    """Make a decision with one reason."""
    return Decision(
        verdict=verdict, reasons=[Why(code=code or ("passed" if verdict == "promote" else "policy"), text=text)]
    )


GENESIS = e.Genesis(
    origin="lockgate-paper-0000",
    seed=0,
    config=CONFIG,
    guard=sha("guard"),
    policies=sha("policies"),
    policy_sources=sha("policy sources"),
    eval_kinds=EVAL_KINDS,
    baseline=candidate("baseline"),
    development={"accuracy": 0.5, "parity": 0.5},
    answers=sha("answers of baseline"),
    data=sha("data"),
    training=sha("training"),
    vault_commitment=sha("vault key"),
    vault_items=5000,
    vault_minimum=200,
    vault_named=False,
    approvers=[],
    harness="0.1.0",
)


ASKING = GENESIS.model_copy(update={"config": WITH_PEOPLE, "approvers": [each.approver for each in PEOPLE]})
"""A genesis of a run in which two of three people answer holds."""


def started(nonce: str) -> e.Started:
    """Start a supervisor."""
    return e.Started(nonce=nonce, isolation="zygote", device="cpu", ledger_size=1, ledger_root="00" * 32)


def proposed(number: int, generation: int = 1, index: int = 0) -> e.ProposedEntry:
    """Fill a slot."""
    return e.ProposedEntry(
        number=number,
        generation=generation,
        index=index,
        proposer="scripted",
        scripted=True,
        label="a label",
        document=sha(f"document {number}"),
    )


def screened(number: int, outcome: str = "pass") -> e.Screened:
    """Screen it."""
    return e.Screened(
        number=number,
        base=GENESIS.baseline.digest,
        recipe={"width": 8},
        source=sha(f"source {number}"),
        change=sha("change"),
        document=sha("screen document"),
        judgement=sha("screen judgement"),
        outcome=outcome,
        failed=[] if outcome == "pass" else ["pack/rule"],
    )


def in_force(state: RunState) -> dict[str, str]:
    """Name what guards the run now."""
    found = state.guard or GENESIS
    return {"guard": found.guard, "policies": found.policies}


def guard_proposed(state: RunState, **changes: object) -> e.GuardProposed:
    """Propose another guard, which is what is in force but for its digest, and what else is said."""
    found = state.guard or GENESIS
    fields = {name: getattr(found, name) for name in e.Guarding.model_fields}
    fields |= {
        "guard": sha("another guard"),
        "base": found.guard,
        "comparison": sha("comparison"),
        "verdict": "at-least-as-strict",
        "by": "operator",
        "reason": "a test",
        "expires": "2999-01-03T00:00:00Z",
        "time": "2026-01-01T00:00:00Z",
    }
    return e.GuardProposed(**{**fields, **changes})


def guard_changed(state: RunState, **changes: object) -> e.GuardChanged:
    """Put the guard that was proposed in force."""
    found = state.change
    fields = {
        "hold": found.hold.digest,
        "guard": found.terms.guard,
        "policies": found.terms.policies,
        "approvals": [name for name, _ in found.hold.approvals],
        "development": {state.baseline.digest: {"accuracy": 0.5, "parity": 0.5}},
        "time": "2026-01-02T00:00:00Z",
    }
    return e.GuardChanged(**{**fields, **changes})


def guard_rejected(state: RunState, reason: str = "a test") -> e.GuardRejected:
    """Let it come to nothing."""
    return e.GuardRejected(hold=state.change.hold.digest, reason=reason)


def held(number: int, state: RunState, stage: str = "decide", **changes: object) -> e.Held:
    """Let it wait for people."""
    found = state.proposals.get(number)
    made = found.built.candidate.digest if found and found.built else None
    fields = {
        "origin": GENESIS.origin,
        "number": number,
        "stage": stage,
        "incumbent": state.incumbent.digest,
        **in_force(state),
        "document": sha("screen document" if stage == "screen" else "decide document"),
        "judgement": sha("screen judgement" if stage == "screen" else "decide judgement"),
        "candidate": made if stage == "decide" else None,
        "rules": ["pack/rule"],
        "expires": "2999-01-03T00:00:00Z",
        "time": "2026-01-01T00:00:00Z",
    }
    return e.Held(**{**fields, **changes})


def built(number: int, name: object = None) -> e.Built:
    """Build it."""
    made = candidate(number if name is None else name)
    return e.Built(number=number, candidate=made, steps=3, seconds=1.0, peak_mb=2.0)


def developed(number: int) -> e.Developed:
    """Measure it where the proposer may see."""
    return e.Developed(number=number, development={"accuracy": 0.6, "parity": 0.5}, answers=sha(f"answers of {number}"))


def staked(number: int, state: RunState, **changes: object) -> e.Staked:
    """Stake for its test, in the epoch and over the incumbent of the moment."""
    fields = {
        "number": number,
        "epoch": state.epoch,
        "test": state.tests + 1,
        "alpha": CONFIG.ledger.delta * gamma(state.epoch) * gamma(state.tests + 1),
        "incumbent": state.incumbent.digest,
        "offset": state.burned,
        "items": sha("items"),
        "ledger_size": 1,
        "ledger_root": "00" * 32,
        "cap": 1000,
    }
    return e.Staked(**{**fields, **changes})


def gates(*verdicts: str) -> list[GateVerdict]:
    """Give the configuration's gates these verdicts."""
    names = [("accuracy", "improve"), ("parity", "parent")]
    return [
        GateVerdict(name=f"{name}/{kind}", eval=name, kind=kind, verdict=verdict)
        for (name, kind), verdict in zip(names, verdicts, strict=True)
    ]


def measured(number: int, *verdicts: str, **changes: object) -> e.Measured:
    """Measure it on held-out items."""
    found = gates(*(verdicts or ("pass", "pass")))
    fields = {
        "number": number,
        "passed": all(gate.verdict == "pass" for gate in found),
        "gates": found,
        "evidence": sha(f"evidence {number}"),
    }
    return e.Measured(**{**fields, **changes})


def decided(number: int, verdict: str = "promote", code: str | None = None) -> e.Decided:
    """Decide."""
    return e.Decided(number=number, decision=decision(verdict, code))


def authorised(number: int, state: RunState, **changes: object) -> e.Authorised:
    """Authorise it as the next version over the incumbent of the moment."""
    found = state.proposals.get(number)
    name = found.built.candidate.digest if found and found.built else sha("nothing")
    fields = {
        "number": number,
        "version": len(state.versions),
        "incumbent": state.incumbent.digest,
        "candidate": name,
        **in_force(state),
        "weights": found.built.candidate.weights if found and found.built else sha("nothing"),
        "evidence": sha(f"evidence {number}"),
        "approvals": found.approvals if found else [],
        "nonce": f"{len(state.nonces):032x}",
        "expires": "2030-01-01T00:00:00+00:00",
    }
    return e.Authorised(**{**fields, **changes})


def intended(state: RunState, **changes: object) -> e.Intended:
    """Intend the swap of the newest unused authorisation."""
    index, found = max(state.authorised.items(), default=(0, None))
    fields = {
        "action": "promote",
        "version": found.version if found else 1,
        "candidate": found.candidate if found else sha("nothing"),
        "authorisation": index,
        "by": "supervisor",
        "reason": "",
    }
    return e.Intended(**{**fields, **changes})


def rollback(state: RunState, version: int, **changes: object) -> e.Intended:
    """Intend the return to an earlier version."""
    known = state.versions.get(version)
    fields = {"action": "rollback", "version": version, "candidate": known.digest if known else sha("nothing")}
    return e.Intended(**{**fields, "by": "operator", "reason": "a test", **changes})


def hold_of(state: RunState, number: int | None) -> Hold:
    """Find the hold of a proposal; without a number, of the change of the guard."""
    return state.change.hold if number is None else state.proposals[number].hold


@dataclass
class Trail:
    """A trail under construction: what was added, and the state that it folds to."""

    entries: list[e.Entry] = field(default_factory=list)
    state: RunState = field(default_factory=RunState)

    def add(self, *new: e.Entry) -> Trail:
        """Fold entries in; StateError passes through and leaves the trail as it was."""
        for entry in new:
            self.state = fold(self.state, self.state.size, entry)
            self.entries.append(entry)
        return self

    def begin(self, genesis: e.Genesis = GENESIS) -> Trail:
        """Write genesis and a start."""
        return self.add(genesis, started("00"))

    def answer(self, number: int | None, *people: people.Person, verdict: str = "approve") -> Trail:
        """Let people answer the hold of a proposal; without a number, the change of the guard."""
        for person in people:
            self.add(person.answer(hold_of(self.state, number), verdict))
        return self

    def propose_guard(self, **changes: object) -> Trail:
        """Propose another guard."""
        return self.add(guard_proposed(self.state, **changes))

    def change_guard(self, **changes: object) -> Trail:
        """Put it in force."""
        return self.add(guard_changed(self.state, **changes))

    def develop(self, number: int, generation: int = 1, index: int = 0) -> Trail:
        """Bring a new proposal as far as development."""
        return self.add(proposed(number, generation, index), screened(number), built(number), developed(number))

    def measure(self, number: int, *verdicts: str) -> Trail:
        """Stake and measure."""
        return self.add(staked(number, self.state)).add(measured(number, *verdicts))

    def promote(self, number: int) -> Trail:
        """Decide where it is not decided yet, authorise, intend, promote and watch."""
        if self.state.proposals[number].decision is None:
            self.add(decided(number))
        self.add(authorised(number, self.state)).add(intended(self.state))
        name, version = self.state.intent.candidate, self.state.intent.version
        self.add(e.Promoted(number=number, version=version, candidate=name))
        answers = sha(f"answers of {number}")
        return self.add(e.Watched(version=version, candidate=name, expected=answers, answers=answers, ok=True))

    def roll_back(self, version: int) -> Trail:
        """Return to an earlier version."""
        self.add(rollback(self.state, version))
        name = self.state.intent.candidate
        return self.add(e.RolledBack(version=version, candidate=name, by="operator", reason="a test"))


KEYS = [Signer.from_seed(GENESIS.origin, bytes([number] * 32)) for number in (1, 2)]
ROTATION = e.KeyRotated(old=KEYS[0].verifier.vkey, new=KEYS[1].verifier.vkey, reason="a test")
"""From the first to the second of two made-up keys of the log."""


def samples() -> list[e.Entry]:
    """Give one entry of every kind, each with every field set."""
    trail = Trail().begin(ASKING).develop(1).measure(1)
    trail.add(held(1, trail.state)).answer(1, *PEOPLE[:2])
    trail.add(decided(1).model_copy(update={"time": "2026-01-02T00:00:00Z"})).promote(1)
    trail.roll_back(0).add(e.Halted(by="operator", reason="a test"), e.Resumed(by="operator"))
    answers = e.Predicted(
        candidate=sha("candidate 1"), epoch=3, offset=0, cap=1000, answers=sha("held-out answers"), number=1
    )
    trail.add(answers).develop(2).measure(2).add(decided(2), e.Voided(number=2, reason="a test"))
    trail.propose_guard(verdict="weaker").answer(None, PEOPLE[0], verdict="refuse").add(guard_rejected(trail.state))
    trail.propose_guard(verdict="unknown", reason="another").answer(None, *PEOPLE[:2]).change_guard()
    trail.add(proposed(3), screened(3, "hold")).add(held(3, trail.state, "screen")).answer(3, PEOPLE[1])
    return trail.answer(3, PEOPLE[2], verdict="refuse").add(decided(3, "reject", "hold-refused")).entries


def answered_again(entry: e.Entry, state: RunState) -> e.Entry:
    """Give an entry that speaks of a hold anew for the holds of this state, whose times are others."""
    match entry:
        case e.Approved() | e.Refused():
            person = next(each for each in PEOPLE if each.name == entry.by)
            verdict = "approve" if isinstance(entry, e.Approved) else "refuse"
            return person.answer(hold_of(state, entry.number), verdict)
        case e.GuardChanged():
            return guard_changed(state)
        case e.GuardRejected():
            return guard_rejected(state)
        case e.Authorised():
            return entry.model_copy(update={"approvals": state.proposals[entry.number].approvals})
    return entry
