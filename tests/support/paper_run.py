"""A small whole run made by hand, with real blobs, models and proofs, and always the same bytes: for vectors and tests.

`story` gives its entries as plain bodies, in a legal order. `write` seals whatever it is given, legal or not, with
the log's key, and writes the folder that a supervisor would have left.
"""

from __future__ import annotations

import base64
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import people
from safetensors.numpy import save as safetensors_of

from harness.approval import message
from harness.artifacts import BlobStore
from harness.auditlog import AuditLog
from harness.canonical import canonical_bytes, digest, digest_json
from harness.config import parse_config
from harness.envelope import seal
from harness.errors import AuditError
from harness.fresh_ledger import charge, share
from harness.keys import Signer, VerifierChain
from harness.kinds import KINDS, subjects_of
from harness.ledger import gamma
from harness.live import candidate_digest, stage, swap
from harness.records import Candidate

ORIGIN = "lockgate-paper-00000000"
OLD, NEW, THIEF = (Signer.from_seed(ORIGIN, bytes([number] * 32)) for number in (1, 2, 3))
CONFIG = parse_config(
    """\
apiVersion: lockgate/v1
kind: Subject
name: paper
objective: accuracy
gates: [{eval: accuracy, kind: improve}, {eval: parity, kind: parent, margin: 0.1}]
proposers: {scripted: 2}
budgets: {promotions: 2}
"""
)
FIRST = CONFIG.json_value()
"""The same as the first logs had it: members that came later are left out where they say nothing new."""
del FIRST["ledger"]["items"]
EXPIRES = "2026-01-05T00:00:00Z"


@dataclass
class Item:
    """One entry to be: its kind and body; who signs and what it is about, where that is not the usual."""

    kind: str
    body: dict[str, Any]
    signers: Sequence[Signer] | None = None
    about: dict[str, str] | None = None
    raw: Callable[[bytes], bytes] | None = None
    """What is done to the sealed bytes."""


@dataclass
class Paper:
    """The parts of a run that are not entries."""

    blobs: BlobStore
    candidates: dict[str, Candidate] = field(default_factory=dict)

    def blob(self, text: str) -> str:
        """Keep a blob of some text."""
        return self.blobs.put(canonical_bytes({"text": text}))

    def candidate(self, name: str) -> Candidate:
        """Make a candidate with two source files and one small tensor."""
        import numpy as np

        files = {"model.py": f"NAME = {name!r}\n".encode(), "parts/layer.py": b"WIDTH = 3\n"}
        source = self.blobs.put(canonical_bytes({path: self.blobs.put(text) for path, text in files.items()}))
        weights = self.blobs.put(safetensors_of({"w": np.full(2, len(name), "<f4")}))
        recipe = {"name": name, "rate": 0.5}
        made = Candidate(
            digest=candidate_digest(recipe, source, weights), recipe=recipe, source=source, weights=weights,
            parameters=2, bytes=72, schema_digest=self.blob("schema"),
        )  # fmt: skip
        self.candidates[name] = made
        return made


@dataclass
class Teller:
    """Tells of a run, entry by entry: what is in force, what is live and which epoch it is follow from what was told."""

    paper: Paper
    base: Candidate
    items: list[Item] = field(default_factory=list)
    guarding: dict[str, Any] = field(default_factory=dict)
    """What is in force, as genesis or a change of the guard has it."""
    live: Candidate | None = None
    versions: int = 1
    epoch: int = 1
    left: float | None = None
    """Of delta, where items are fresh."""
    tests: int = 0

    def add(self, kind: str, **body: Any) -> None:
        """Add one entry."""
        self.items.append(Item(kind, body))

    def begin(self, **changes: Any) -> None:
        """Lay down what guards the run, and start."""
        blob, self.live = self.paper.blob, self.base
        self.guarding = {
            "origin": ORIGIN, "config": FIRST, "guard": digest(b"guard"), "policies": digest(b"policies"),
            "policy_sources": blob("policies"), "eval_kinds": {"accuracy": "capability", "parity": "alignment"},
            "approvers": [], "data": digest(b"data"), "vault_items": 5000, "harness": "0.1.0", **changes,
        }  # fmt: skip
        self.add(
            "genesis", **self.guarding, seed=0, baseline=self.base.json_value(), development={"accuracy": 0.5, "parity": 0.5},
            answers=blob("answers of base"), training=digest(b"training"), vault_commitment=digest(b"vault"),
            vault_minimum=200, vault_named=False,
        )  # fmt: skip
        self.add("started", nonce="n", isolation="zygote", device="cpu", ledger_size=1, ledger_root="00" * 32)

    def propose(self, number: int, outcome: str = "pass") -> None:
        """Propose and screen."""
        blob = self.paper.blob
        self.add("proposed", number=number, generation=1, index=number - 1, proposer="scripted", scripted=True,
            label=f"no. {number}", document=blob(f"document {number}"))  # fmt: skip
        self.add("screened", number=number, base=self.base.digest, recipe={"rate": 0.5}, source=self.base.source,
            change=blob(f"change {number}"), document=blob(f"shown {number}"), judgement=blob(f"judged {number}"),
            outcome=outcome, failed=[] if outcome == "pass" else ["pack/rule"])  # fmt: skip

    def test(self, number: int, made: Candidate, *verdicts: str) -> None:
        """Build, and measure with the gates in force; the first verdicts are these, and all others `pass`."""
        blob, epoch = self.paper.blob, self.epoch
        # An epoch in which anything was tested burned 300 items, whatever ended it.
        offset = 300 * len({item.body["epoch"] for item in self.items if item.kind == "staked"} - {epoch})
        self.add("built", number=number, candidate=made.json_value(), steps=3, seconds=1.5, peak_mb=20)
        development = {"accuracy": 0.6, "parity": 0.5}
        self.add("developed", number=number, development=development, answers=blob(f"seen {number}"), flops=9)
        self.add("staked", number=number, epoch=epoch, test=1, alpha=0.05 * gamma(epoch) * gamma(1),
            incumbent=self.live.digest, offset=offset, cap=1000, items=digest(b"items"), ledger_size=epoch + 1,
            ledger_root=f"{epoch:02}" * 32)  # fmt: skip
        self.add("predicted", candidate=made.digest, epoch=epoch, offset=offset, cap=1000,
            answers=blob(f"answers {number}"), number=number)  # fmt: skip
        gates = [(gate["eval"], gate["kind"]) for gate in self.guarding["config"]["gates"]]
        verdicts += ("pass",) * (len(gates) - len(verdicts))
        told = [
            {"name": f"{name}/{kind}", "eval": name, "kind": kind, "verdict": verdict}
            for (name, kind), verdict in zip(gates, verdicts, strict=True)
        ]
        passed = set(verdicts) == {"pass"}
        self.add("measured", number=number, passed=passed, gates=told, evidence=blob(f"evidence {number}"))

    def test_afresh(self, number: int, made: Candidate, *log_es: float) -> None:
        """Build, and measure on items of the test's own, to this log evidence: a gate passes at log(1/alpha)."""
        blob, k = self.paper.blob, self.tests + 1
        left = self.guarding["config"]["ledger"]["delta"] if self.left is None else self.left
        alpha, offset = left * share(k), 1000 * self.tests
        self.test(number, made, *("pass" if log_e >= -math.log(alpha) else "fail" for log_e in log_es))
        staked, predicted, measured = self.items[-3:]
        staked.body |= {
            "test": k,
            "alpha": alpha,
            "offset": offset,
            "ledger_size": k + 1,
            "ledger_root": f"{k:02}" * 32,
        }
        predicted.body |= {"offset": offset}
        self.items.insert(-1, Item("predicted", {**predicted.body, "candidate": self.live.digest,
            "answers": blob(f"answers of the incumbent to test {k}")}))  # fmt: skip
        gates = [
            {"name": gate["name"], "log_e": log_e} for gate, log_e in zip(measured.body["gates"], log_es, strict=True)
        ]
        evidence = {"result": {"gates": gates}, "salt": f"evidence {number}"}
        charged = charge(alpha, log_es)
        measured.body |= {"evidence": self.paper.blobs.put(canonical_bytes(evidence)), "charged": charged}
        self.left, self.tests = left - charged, k

    def decide(self, number: int, verdict: str, code: str) -> None:
        """Decide."""
        self.add("decided", number=number, decision={"verdict": verdict, "reasons": [{"code": code, "text": "because"}]},
            judgement=None, document=None)  # fmt: skip

    def promote(self, number: int, made: Candidate) -> None:
        """Decide to promote, and make it live."""
        blob, version = self.paper.blob, self.versions
        self.decide(number, "promote", "passed")
        permit = len(self.items)
        self.add("authorised", number=number, version=version, incumbent=self.live.digest, candidate=made.digest,
            weights=made.weights, guard=self.guarding["guard"], policies=self.guarding["policies"],
            evidence=self._evidence(number), approvals=[], nonce=str(version) * 32, expires="2030-01-01T00:00:00Z")  # fmt: skip
        intent = {"action": "promote", "version": version, "candidate": made.digest}
        self.add("intended", **intent, authorisation=permit, by="supervisor", reason="")
        self.add("promoted", number=number, version=version, candidate=made.digest)
        seen = blob(f"seen {number}")
        self.add("watched", version=version, candidate=made.digest, expected=seen, answers=seen, ok=True)
        self.live, self.versions, self.epoch = made, version + 1, self.epoch + 1

    def _evidence(self, number: int) -> str:
        return next(
            item.body["evidence"] for item in self.items if item.kind == "measured" and item.body["number"] == number
        )

    def hold(
        self, number: int, stage: str, made: Candidate | None, *said: tuple[people.Person, str], **asking: Any
    ) -> None:
        """Let a proposal wait for people, and let them answer; at the screen, right after it has asked for them.

        `asking` are the rules and gates that ask: one rule, where nothing else is said.
        """
        shown = {name: self.paper.blob(f"{name} {number} at the end") for name in ("document", "judgement")}
        if stage == "screen":
            shown = {name: self.items[-1].body[name] for name in shown}
        self.add("held", origin=ORIGIN, number=number, stage=stage, incumbent=self.live.digest,
            guard=self.guarding["guard"], policies=self.guarding["policies"], **shown,
            candidate=made and made.digest, expires=EXPIRES, **{"rules": ["pack/rule"], **asking})  # fmt: skip
        self.answer(*said, number=number)

    def answer(self, *said: tuple[people.Person, str], **about: int | None) -> None:
        """Let people answer what waits: a proposal by its number, or a change of the guard."""
        for person, verdict in said:
            self.add("approved" if verdict == "approve" else "refused", **about, who=person)

    def propose_guard(self, verdict: str, **changes: Any) -> None:
        """Propose another guard: what is in force, but for these changes."""
        compared = {"base": self.guarding["guard"], "comparison": self.paper.blob("comparison"), "verdict": verdict}
        about = {"by": "operator", "reason": "a year has passed", "expires": EXPIRES}
        self.add("guard-proposed", **{**self.guarding, **compared, **about, **changes})

    def change_guard(self) -> None:
        """Put the guard that was proposed last in force."""
        new = next(item.body for item in reversed(self.items) if item.kind == "guard-proposed")
        self.guarding = {name: new[name] for name in self.guarding}
        metrics = {self.live.digest: {"accuracy": 0.6, "parity": 0.5}}
        self.add("guard-changed", guard=new["guard"], policies=new["policies"], development=metrics)
        self.epoch += 1


def story(paper: Paper) -> list[Item]:
    """Tell of a proposal denied, one promoted, one not better, a halt and its end: 28 entries."""
    base, two, three = (paper.candidate(name) for name in ("base", "two", "three"))
    tell = Teller(paper, base)
    tell.begin()
    tell.propose(1, "deny")
    tell.decide(1, "reject", "policy")
    tell.propose(2)
    tell.test(2, two)
    tell.promote(2, two)
    tell.propose(3)
    tell.test(3, three, "fail", "inconclusive")
    tell.decide(3, "reject", "gate-objective")
    tell.add("halted", by="operator", reason="a look")
    tell.add("resumed", by="operator")
    for place, item in enumerate(tell.items):
        item.body["time"] = f"2026-01-02T03:{place // 60:02}:{place % 60:02}Z"
    return copy.deepcopy(tell.items)


def freshly(paper: Paper) -> list[Item]:
    """Tell of a run whose tests have items of their own: two not better, one promoted, one not better, one that was cut.

    A rejected test gets back what its evidence is worth, up to its stake; a promotion costs nothing; the test that was
    cut costs all that it staked.
    """
    base, *others = (paper.candidate(name) for name in ("base", "two", "three", "four", "five", "six", "seven"))
    tell = Teller(paper, base)
    tell.begin(config={**FIRST, "ledger": {**FIRST["ledger"], "items": "fresh"}}, vault_items=1_000_000)

    def rejected(number: int, *log_es: float, code: str = "gate-objective") -> None:
        tell.propose(number)
        tell.test_afresh(number, others[number - 1], *log_es)
        tell.decide(number, "reject", code)

    rejected(1, -2.5, 0.75)
    rejected(2, 9.0, 0.5, code="gate-alignment")
    tell.propose(3)
    tell.test_afresh(3, others[2], 9.0, 11.5)
    tell.promote(3, others[2])
    rejected(4, -0.25, -1.5)
    tell.propose(5)
    tell.test_afresh(5, others[4], -1.0, -1.0)
    cut = tell.items.pop()
    staked = next(item for item in reversed(tell.items) if item.kind == "staked")
    tell.left -= staked.body["alpha"] - cut.body["charged"]
    tell.decide(5, "reject", "evaluator-failed")
    rejected(6, -3.0, 0.0)
    for place, item in enumerate(tell.items):
        item.body["time"] = f"2026-01-02T03:{place // 60:02}:{place % 60:02}Z"
    return copy.deepcopy(tell.items)


def refuting(paper: Paper) -> list[Item]:
    """Tell the story of a run with properties: the candidate promoted has them, and one of the last is refuted."""
    items = story(paper)
    for item in items:
        if item.kind in ("genesis", "developed"):
            item.body |= {
                "properties": {"alone": "held", "steady": "held"},
                "counterexamples": paper.blob(f"tried {item.body.get('number', 0)}"),
            }
    place = next(place for place, item in enumerate(items) if item.kind == "developed" and item.body["number"] == 3)
    items[place].body["properties"]["steady"] = "refuted"
    end = next(place for place, item in enumerate(items) if item.kind == "decided" and item.body["number"] == 3)
    items[end].body["decision"] = {"verdict": "reject", "reasons": [{"code": "property", "text": "steady"}]}
    return items[: place + 1] + items[end:]


def declaring(paper: Paper) -> list[Item]:
    """Tell the story of a run that records what builds read: the last candidate is not the one that was proposed."""
    items = story(paper)
    for item in items:
        if item.kind == "built":
            item.body["read"] = ["hidden", "lr"]
    place = next(place for place, item in enumerate(items) if item.kind == "built" and item.body["number"] == 3)
    end = next(place for place, item in enumerate(items) if item.kind == "decided" and item.body["number"] == 3)
    reasons = [{"code": "undeclared", "text": "'lr' came out of the build as 0.05, and 0.01 was proposed"}]
    items[end].body["decision"] = {"verdict": "reject", "reasons": reasons}
    return items[: place + 1] + items[end:]


ASKED = (*people.PEOPLE, *people.OTHERS)


def asking(paper: Paper) -> list[Item]:
    """Tell the story of a run that asks people: let go on at both stages, by every kind of key, and refused once."""
    told, items = story(paper), list[Item]()
    told[0].body["config"] = {**told[0].body["config"], "approvers": {"require": 2, "file": "approvers", "hours": 72.0}}
    told[0].body["approvers"] = [person.approver.json_value() for person in ASKED]

    def hold(number: int, stage: str, screened: Item, candidate: str | None, *said: tuple[people.Person, str]) -> None:
        shown = {name: screened.body[name] for name in ("document", "judgement")} if stage == "screen" else {
            name: paper.blob(f"{name} {number} at the end") for name in ("document", "judgement")
        }  # fmt: skip
        incumbent = told[0].body["baseline"]["digest"] if number == 2 else paper.candidates["two"].digest
        items.append(Item("held", {
            "origin": ORIGIN, "number": number, "stage": stage, "incumbent": incumbent, "guard": digest(b"guard"),
            "policies": digest(b"policies"), **shown, "candidate": candidate, "rules": ["pack/rule"],
            "expires": EXPIRES,
        }))  # fmt: skip
        for person, verdict in said:
            items.append(Item("approved" if verdict == "approve" else "refused", {"number": number, "who": person}))

    for item in told:
        if item.kind == "screened" and item.body["number"] == 2:
            first = Item("screened", {**item.body, "outcome": "hold", "failed": ["pack/rule"]})
            items.append(first)
            hold(2, "screen", first, None, (people.ANN, "approve"), (people.BEN, "approve"))
            item.body |= {"document": paper.blob("shown 2 again"), "judgement": paper.blob("judged 2 again")}
        if item.kind == "decided" and item.body["number"] == 2:
            said = [(person, "approve") for person in people.OTHERS]
            hold(2, "decide", item, paper.candidates["two"].digest, *said)
        items.append(item)
    asked = copy.deepcopy([item for item in told if item.body.get("number") == 1])
    for item in asked:
        item.body["number"] = 4
    asked[1].body |= {"outcome": "hold", "base": paper.candidates["two"].digest}
    asked[0].body |= {"index": 3, "label": "no. 4"}
    items += asked[:2]
    hold(4, "screen", asked[1], None, (people.CAT, "refuse"))
    asked[2].body["decision"] = {"verdict": "reject", "reasons": [{"code": "hold-refused", "text": "cat refused"}]}
    items.append(asked[2])
    return signed(items)


DAN, ANN_LATER = people.Person("dan"), people.Person(people.ANN.name, role="release")
LISTED = (*people.PEOPLE, DAN, ANN_LATER)
"""Everybody who ever was an approver of the run below, in every role."""


GATES = FIRST["gates"]
MORE = {**GATES[1], "kind": "floor", "margin": None, "threshold": 0.4}
"""A gate more."""


def config_of(promotions: int, *more: dict[str, Any], require: int | None = 2) -> dict[str, Any]:
    """Configure a run with so many promotions and these gates more, of whose approvers so many must agree."""
    told = {**FIRST, "gates": [*GATES, *more]}
    told["approvers"] = require and {"require": require, "file": "approvers", "hours": 72.0}
    return {**told, "budgets": {**told["budgets"], "promotions": promotions}}


def listed(*who: people.Person) -> list[dict[str, Any]]:
    """List approvers as genesis does."""
    return [person.approver.json_value() for person in who]


def changing(paper: Paper) -> list[Item]:
    """Tell of a run whose guard is changed: to a stricter one, to a weaker one by other people, and by more items.

    Each time something is tested, and made live, by what is in force then. One change is refused, one is open at the end.
    """
    base, two, three, four, five = (paper.candidate(name) for name in ("base", "two", "three", "four", "five"))
    tell = Teller(paper, base)
    ann, ben, cat, dan = ((person, "approve") for person in (people.ANN, people.BEN, people.CAT, DAN))
    tell.begin(config=config_of(3), approvers=listed(*people.PEOPLE))
    tell.propose(1)
    tell.test(1, two)
    tell.promote(1, two)
    # A gate more and a promotion fewer: nobody need be asked, though somebody may agree. What is under way goes on
    # by the old guard.
    stricter = {
        "guard": digest(b"stricter"),
        "policies": digest(b"more policies"),
        "policy_sources": paper.blob("more"),
    }
    tell.propose_guard("at-least-as-strict", config=config_of(2, MORE), **stricter)
    tell.answer(cat)
    tell.propose(2)
    tell.test(2, four, "fail")
    tell.decide(2, "reject", "gate-objective")
    tell.change_guard()
    tell.propose(3)
    tell.test(3, three)
    tell.hold(3, "decide", three, ann, ben)
    tell.promote(3, three)
    # A gate fewer and more promotions: ben leaves, dan is new, ann has another role.
    others = listed(ANN_LATER, people.CAT, DAN)
    tell.propose_guard("weaker", config=config_of(4), guard=digest(b"weaker"), approvers=others)
    tell.answer(ann, number=None)
    tell.answer(ben)
    tell.change_guard()
    tell.propose(4, "hold")
    tell.hold(4, "screen", None, (ANN_LATER, "approve"), dan)
    passed = {**tell.items[-4].body, "outcome": "pass", "failed": []}
    tell.add("screened", **passed)
    tell.test(4, five)
    tell.promote(4, five)
    tell.propose_guard("weaker", config=config_of(9), guard=digest(b"weaker still"))
    tell.answer((people.CAT, "refuse"))
    tell.add("guard-rejected", reason="cat refused")
    # Held-out items are added, to the same guard.
    tell.propose_guard("at-least-as-strict", data=digest(b"more data"), vault_items=6000)
    tell.answer(dan, cat, (ANN_LATER, "approve"))
    tell.change_guard()
    tell.propose(5)
    tell.test(5, four, "pass", "fail")
    tell.decide(5, "reject", "gate-alignment")
    tell.propose_guard("unknown", guard=digest(b"another"))
    tell.answer(dan)
    return signed(copy.deepcopy(tell.items))


CEILING = {**GATES[1], "eval": "jumps", "kind": "ceiling", "margin": None, "threshold": 0.5}
KINDS_OF = {"accuracy": "capability", "parity": "alignment", "jumps": "capability"}


def reaching(paper: Paper) -> list[Item]:
    """Tell of a run with a ceiling: people let one go on that is not below it, and refuse another; a third is below it."""
    base, two, three, four = (paper.candidate(name) for name in ("base", "two", "three", "four"))
    tell, asks = Teller(paper, base), {"gates": ["jumps/ceiling"]}
    ann, ben = ((person, "approve") for person in (people.ANN, people.BEN))
    tell.begin(config=config_of(3, CEILING), approvers=listed(*people.PEOPLE), eval_kinds=KINDS_OF)
    tell.propose(1)
    tell.test(1, two, "pass", "pass", "inconclusive")
    tell.hold(1, "decide", two, ann, ben, rules=[], **asks)
    tell.promote(1, two)
    tell.propose(2)
    tell.test(2, three, "pass", "pass", "inconclusive")
    tell.hold(2, "decide", three, ann, (people.CAT, "refuse"), **asks)
    tell.decide(2, "reject", "hold-refused")
    tell.propose(3)
    tell.test(3, four)
    tell.items[-3].body |= {"test": 2, "alpha": 0.05 * gamma(2) * gamma(2), "ledger_size": 4}
    tell.hold(3, "decide", four, ann, ben, gates=None)  # null is as good as left out
    tell.promote(3, four)
    return signed(copy.deepcopy(tell.items))


def demanding(paper: Paper) -> list[Item]:
    """Tell of a run whose policies demand a floor: one not above it, one promoted."""
    base, two, three = (paper.candidate(name) for name in ("base", "two", "three"))
    tell = Teller(paper, base)
    tell.begin(config=config_of(3, {**MORE, "policy": "core"}, require=None))
    tell.propose(1)
    tell.test(1, two, "pass", "pass", "fail")
    tell.decide(1, "reject", "gate-alignment")
    tell.propose(2)
    tell.test(2, three)
    tell.items[-3].body |= {"test": 2, "alpha": 0.05 * gamma(1) * gamma(2), "ledger_size": 3}
    for item in tell.items:
        for gate in item.body.get("gates", []):
            gate["name"] += "@core" if gate["kind"] == "floor" else ""
    tell.promote(2, three)
    return signed(copy.deepcopy(tell.items))


def hold_digest(body: dict[str, Any]) -> str:
    """What people sign of a hold (FORMAT §5.9)."""
    return digest_json({name: value for name, value in body.items() if name != "gates" or value is not None})


def signed(items: list[Item]) -> list[Item]:
    """Give entries their times, and what follows from them: what people signed, and where a permission stands.

    What belongs to a change of the guard belongs to no number.
    """
    held, approvals = dict[int | None, str](), dict[int | None, list[str]]()
    for place, item in enumerate(items):
        body = item.body
        body["time"] = f"2026-01-02T03:{place // 60:02}:{place % 60:02}Z"
        number = body.get("number")
        if item.kind == "guard-proposed":
            approvals[None] = []
        elif item.kind in ("guard-rejected", "guard-changed"):
            body["hold"] = held[None]
        if item.kind in ("held", "guard-proposed"):
            held[number] = hold_digest(body)
        elif "who" in body:
            person, verdict = body.pop("who"), "approve" if item.kind == "approved" else "refuse"
            name, reason = held[number], f"as {person.name} sees it"
            made = base64.b64encode(person.sign(message(name, verdict, reason))).decode()
            body |= {"hold": name, "by": person.name, "key": person.key.line, "reason": reason, "signature": made}
            if item.kind == "approved":
                approvals.setdefault(number, []).append(digest_json({"number": None, **body}))
        elif item.kind == "authorised":
            body["approvals"] = approvals.get(number, [])
        elif item.kind == "guard-changed":
            body["approvals"] = approvals[None]
        elif item.kind == "intended":
            body["authorisation"] = place - 1
    return items


def rotation(time: str = "2026-01-02T04:00:00Z") -> Item:
    """Let the new key follow the old one."""
    body = {"time": time, "old": OLD.verifier.vkey, "new": NEW.verifier.vkey, "reason": "a year has passed"}
    return Item("key-rotated", body, signers=(OLD, NEW))


def sealed(item: Item, signer: Signer) -> bytes:
    """Seal one item, legal or not."""
    signers = item.signers or (signer,)
    about = item.about
    if about is None:
        try:
            about = subjects_of(KINDS[item.kind].model_construct(**_records(item)))
        except (KeyError, AttributeError, TypeError):
            about = {}
    try:
        raw = seal(item.kind, item.body, about, *signers)
    except AuditError:
        raw = seal(item.kind, item.body, {}, *signers)
    return item.raw(raw) if item.raw else raw


def _records(item: Item) -> dict[str, Any]:
    """The body as `subjects_of` reads it: a candidate record is one."""
    body = dict(item.body)
    for name in ("candidate", "baseline"):
        if isinstance(body.get(name), dict):
            body[name] = Candidate.model_construct(**body[name])
    for name in ("document", "evidence", "answers", "candidate", "baseline", "hold", "guard"):
        body.setdefault(name, None)
    return body


def write_log(folder: Path, items: Sequence[Item]) -> None:
    """Write the log of these entries, in the groups of one that a careful supervisor would write."""
    signer = OLD
    with AuditLog.create(folder / "log", signer, ORIGIN) as log:
        for item in items:
            raw = sealed(item, signer)
            if item.kind == "key-rotated" and item.signers == (OLD, NEW):
                signer = item.signers[-1]
                log.sign_with(signer)
            log.append([raw])


def write(folder: Path, tell: Callable[[Paper], list[Item]] = story) -> Paper:
    """Write a whole run folder: blobs, log, keys, both versions, the live one."""
    (folder / "keys").mkdir(parents=True)
    paper = Paper(BlobStore(folder / "blobs"))
    items = tell(paper)
    write_log(folder, items)
    rotated = any(item.kind == "key-rotated" for item in items)
    VerifierChain.of([OLD.verifier, NEW.verifier] if rotated else [OLD.verifier]).save(folder / "keys" / "log.pub")
    stage_models(folder, paper, items)
    return paper


def stage_models(folder: Path, paper: Paper, items: Sequence[Item]) -> None:
    """Stage every version that was authorised, with its proof, and make the last one live."""
    signer = NEW if any(item.kind == "key-rotated" for item in items) else OLD
    (folder / "models").mkdir(exist_ok=True)
    by_digest = {made.digest: made for made in paper.candidates.values()}
    with AuditLog.open(folder / "log", signer) as log:
        for index, item in enumerate(items):
            if item.kind in ("genesis", "authorised"):
                name = item.body["baseline"]["digest"] if item.kind == "genesis" else item.body["candidate"]
                version = item.body.get("version", 0)
                raw = next(iter(log.read(index, index + 1)))
                stage(folder, version, by_digest[name], paper.blobs, raw, log.prove(index).encode())
                swap(folder, version)
