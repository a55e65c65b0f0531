"""A small whole run made by hand, with real blobs, models and proofs, and always the same bytes: for vectors and tests.

`story` gives its entries as plain bodies, in a legal order. `write` seals whatever it is given, legal or not, with
the log's key, and writes the folder that a supervisor would have left.
"""

from __future__ import annotations

import base64
import copy
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
from harness.entries import KINDS, subjects_of
from harness.envelope import seal
from harness.errors import AuditError
from harness.keys import Signer, VerifierChain
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


def story(paper: Paper) -> list[Item]:
    """Tell of a proposal denied, one promoted, one not better, a halt and its end: 28 entries."""
    base, two, three = (paper.candidate(name) for name in ("base", "two", "three"))
    blob = paper.blob
    items: list[Item] = []

    def add(kind: str, **body: Any) -> None:
        items.append(Item(kind, body))

    add(
        "genesis", origin=ORIGIN, seed=0, config=CONFIG.json_value(), guard=digest(b"guard"),
        policies=digest(b"policies"), policy_sources=blob("policies"), eval_kinds={"accuracy": "capability", "parity": "alignment"},
        baseline=base.json_value(), development={"accuracy": 0.5, "parity": 0.5}, answers=blob("answers of base"),
        data=digest(b"data"), training=digest(b"training"), vault_commitment=digest(b"vault"), vault_items=5000,
        vault_minimum=200, vault_named=False, approvers=[], harness="0.1.0",
    )  # fmt: skip
    add("started", nonce="n", isolation="zygote", device="cpu", ledger_size=1, ledger_root="00" * 32)

    def propose(number: int, outcome: str = "pass") -> None:
        add("proposed", number=number, generation=1, index=number - 1, proposer="scripted", scripted=True,
            label=f"no. {number}", document=blob(f"document {number}"))  # fmt: skip
        add("screened", number=number, base=base.digest, recipe={"rate": 0.5}, source=base.source,
            change=blob(f"change {number}"), document=blob(f"shown {number}"), judgement=blob(f"judged {number}"),
            outcome=outcome, failed=[] if outcome == "pass" else ["pack/rule"])  # fmt: skip

    def test(number: int, made: Candidate, incumbent: Candidate, epoch: int, *verdicts: str) -> None:
        add("built", number=number, candidate=made.json_value(), steps=3, seconds=1.5, peak_mb=20)
        add(
            "developed",
            number=number,
            development={"accuracy": 0.6, "parity": 0.5},
            answers=blob(f"seen {number}"),
            flops=9,
        )
        add("staked", number=number, epoch=epoch, test=1, alpha=0.05 * gamma(epoch) * gamma(1), incumbent=incumbent.digest,
            offset=300 * (epoch - 1), cap=1000, items=digest(b"items"), ledger_size=epoch + 1, ledger_root=f"{epoch:02}" * 32)  # fmt: skip
        add("predicted", candidate=made.digest, epoch=epoch, offset=300 * (epoch - 1), cap=1000,
            answers=blob(f"answers {number}"), number=number)  # fmt: skip
        gates = [("accuracy", "improve"), ("parity", "parent")]
        told = [
            {"name": f"{name}/{kind}", "eval": name, "kind": kind, "verdict": verdict}
            for (name, kind), verdict in zip(gates, verdicts, strict=True)
        ]
        add(
            "measured", number=number, passed=set(verdicts) == {"pass"}, gates=told, evidence=blob(f"evidence {number}")
        )

    def decide(number: int, verdict: str, code: str) -> None:
        add("decided", number=number, decision={"verdict": verdict, "reasons": [{"code": code, "text": "because"}]},
            judgement=None, document=None)  # fmt: skip

    propose(1, "deny")
    decide(1, "reject", "policy")
    propose(2)
    test(2, two, base, 1, "pass", "pass")
    decide(2, "promote", "passed")
    permit = len(items)
    add("authorised", number=2, version=1, incumbent=base.digest, candidate=two.digest, weights=two.weights,
        guard=digest(b"guard"), policies=digest(b"policies"), evidence=blob("evidence 2"), approvals=[], nonce="1" * 32,
        expires="2030-01-01T00:00:00Z")  # fmt: skip
    add("intended", action="promote", version=1, candidate=two.digest, authorisation=permit, by="supervisor", reason="")
    add("promoted", number=2, version=1, candidate=two.digest)
    add("watched", version=1, candidate=two.digest, expected=blob("seen 2"), answers=blob("seen 2"), ok=True)
    propose(3)
    test(3, three, two, 2, "fail", "inconclusive")
    decide(3, "reject", "gate-objective")
    add("halted", by="operator", reason="a look")
    add("resumed", by="operator")
    for place, item in enumerate(items):
        item.body["time"] = f"2026-01-02T03:{place // 60:02}:{place % 60:02}Z"
    return copy.deepcopy(items)


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
            "expires": "2026-01-05T00:00:00Z",
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


def signed(items: list[Item]) -> list[Item]:
    """Give entries their times, and what follows from them: what people signed, and where a permission stands."""
    held, approvals = dict[int, str](), list[str]()
    for place, item in enumerate(items):
        body = item.body
        body["time"] = f"2026-01-02T03:{place // 60:02}:{place % 60:02}Z"
        if item.kind == "held":
            held[body["number"]] = digest_json(body)
        elif "who" in body:
            person, verdict = body.pop("who"), "approve" if item.kind == "approved" else "refuse"
            name, reason = held[body["number"]], f"as {person.name} sees it"
            made = base64.b64encode(person.sign(message(name, verdict, reason))).decode()
            body |= {"hold": name, "by": person.name, "key": person.key.line, "reason": reason, "signature": made}
            if item.kind == "approved":
                approvals.append(digest_json(body))
        elif item.kind == "authorised":
            body["approvals"] = list(approvals)
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
    for name in ("document", "evidence", "answers", "candidate", "baseline", "hold"):
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
