"""What proposers are told, searched byte for byte in every ask of a real run: no held-out item, number, evidence or time.

By construction `Feedback` is all that is told of a proposal (tests/test_views.py). Here every ask that a proposer gets is
kept as the sandbox would be given it, and searched for what the run's log, its evidence and its vault hold.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
import rigs

from harness.artifacts import BlobStore
from harness.evals import load_guards
from harness.kinds import kind_of
from harness.proposers import Feedback
from harness.proposing import Proposing
from harness.run import Watcher, guarded_loop
from harness.views import evidence_view

SUBJECT = Path(__file__).parent / "subjects" / "digits"
OPEN = {"screened", "built", "developed"}
"""Entries whose contents proposers are told, in part."""


class Heard:
    """Every ask of a run, as bytes, with the size of the log when it came and when it was answered."""

    def __init__(self, run: Path):
        """Begin with none."""
        self.asks: list[bytes] = []
        self.sizes: list[tuple[int, int]] = []
        self.undecided: list[int] = []
        self._run = run

    def patched(self, patch: pytest.MonkeyPatch) -> None:
        """Listen to what proposers are asked."""
        real = Proposing.propose

        def propose(proposing, name, ask, *more):
            state, entries = rigs.trail_of(self._run)
            self.undecided.append(sum(found.decision is None for found in state.proposals.values()))
            self.asks.append(json.dumps(ask.json_value(), sort_keys=True).encode())
            documents = real(proposing, name, ask, *more)
            self.sizes.append((len(entries), len(rigs.trail_of(self._run)[1])))
            return documents

        patch.setattr(Proposing, "propose", propose)


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """Run the digits' plan, and an evolution beside it, with promotions and rejections; keep what was asked."""
    out = tmp_path_factory.mktemp("feedback") / "run"
    rigs.lay_vault_key(out)
    listener = Heard(out)
    with pytest.MonkeyPatch.context() as patch:
        listener.patched(patch)
        wanted = {"scripted": None, "evolution": 2, "reinforcement": 1, "weights": 1}
        guarded_loop(SUBJECT, out, Watcher(lambda _: None, lambda _: None), generations=3, proposers=wanted)
    return listener, out


def words(value, *, fields=()) -> set[str]:
    """Every number of six signs or more, and every digest, in a JSON value; below `fields` alone, where some are named."""
    found: set[str] = set()
    if isinstance(value, dict):
        for name, each in value.items():
            if not fields or name in fields:
                found |= words(each)
    elif isinstance(value, list):
        for each in value:
            found |= words(each)
    elif isinstance(value, float | int) and not isinstance(value, bool) and len(repr(value)) >= 6:
        found.add(repr(value))
    elif isinstance(value, str) and len(value) >= 20:
        found.add(value)
    return found


def secrets(out: Path) -> dict[str, set[str]]:
    """What the log and the evidence hold that no proposer may read, by where it comes from."""
    state, entries = rigs.trail_of(out)
    blobs = BlobStore(out / "blobs")
    told: set[str] = set()
    for entry in entries:
        body = entry.json_value()
        if kind_of(entry) in OPEN | {"genesis", "proposed"}:
            told |= words(
                body,
                fields=(
                    "candidate",
                    "baseline",
                    "recipe",
                    "development",
                    "schema_digest",
                    "seed",
                    "failed",
                    "refuted",
                    "label",
                ),
            )
    hidden: dict[str, set[str]] = {"log": set(), "evidence": set(), "time": set()}
    for entry in entries:
        body = entry.json_value()
        hidden["time"].add(str(body["time"]))
        hidden["log"] |= words(body) - told
    for found in state.proposals.values():
        for gate in evidence_view(found, blobs):
            hidden["evidence"] |= words({name: gate[name] for name in ("log_e", "interval", "mean")}) - told
    return hidden


def test_something_was_asked_and_told(heard):
    """The run has promoted and rejected, on held-out items, and its asks tell which."""
    listener, out = heard
    state, _ = rigs.trail_of(out)
    assert sum(found.measured is not None for found in state.proposals.values()) >= 3
    last = json.loads(listener.asks[-1])
    assert {each["promoted"] for each in last["history"]} == {True, False}
    assert len(listener.asks) == 12


def test_no_word_of_the_log_or_the_evidence_is_in_an_ask(heard):
    """No number or digest that the log or the evidence holds, besides what is told by design, stands in any ask."""
    listener, out = heard
    hidden = secrets(out)
    assert len(hidden["log"]) > 100
    assert len(hidden["evidence"]) > 20
    for where, all_of in hidden.items():
        for word in all_of:
            assert not [ask for ask in listener.asks if word.encode() in ask], (where, word)


def test_no_time_is_in_an_ask(heard):
    """No ask holds a field of time or of seconds, or anything like a date: a vault test's length cannot be read."""
    listener, _ = heard
    for ask in listener.asks:
        assert not re.search(rb'"(time|seconds|expires|wall|peak_mb|flops)"|20\d\d-\d\d-\d\d', ask)


def test_no_held_out_item_or_label_is_in_an_ask(heard):
    """No held-out item stands in an ask, in any of the ways in which bytes are written; a planted one is found."""
    listener, _ = heard
    data = load_guards(SUBJECT / "guards.py").load()
    everything = b"".join(listener.asks)

    def found(haystack: bytes, row) -> bool:
        raw = bytes(row)
        dots = [dot for dot in row.tolist() if dot][:8]
        ways = (raw, raw.hex().encode(), base64.b64encode(raw)[:40], json.dumps(dots)[1:-1].encode())
        return any(way in haystack for way in ways)

    for row in data.vault.raw[:200]:
        assert not found(everything, row)
    assert found(everything + json.dumps(data.vault.raw[0].tolist()).encode().replace(b"0, ", b""), data.vault.raw[0])


def test_the_search_finds_what_is_planted(heard):
    """Positive control: the same search finds a number of the evidence where one stands, and told numbers are there."""
    listener, out = heard
    word = min(secrets(out)["evidence"])
    planted = json.loads(listener.asks[-1])
    planted["history"][0]["development"] = {"accuracy": json.loads(word)}
    assert word.encode() in json.dumps(planted).encode()
    state, _ = rigs.trail_of(out)
    measured = next(found.developed.development for found in state.proposals.values() if found.developed)
    assert repr(measured["accuracy"]).encode() in listener.asks[-1]


def test_no_proposer_runs_while_a_generation_is_open(heard):
    """When a proposer is asked every proposal has been decided, and nothing is logged until it has answered."""
    listener, _ = heard
    assert listener.undecided == [0] * len(listener.asks)
    assert all(before == after for before, after in listener.sizes)


def test_feedback_is_closed(heard):
    """A feedback with any other field is refused, and every stage that was told is one before the vault."""
    told = {"generation": 1, "index": 0, "proposer": "x", "proposal": {}, "stage": "developed"}
    assert Feedback.parse(told).promoted is False
    for more in ("log_e", "seconds", "vault", "reasons"):
        with pytest.raises(ValueError, match=more):
            Feedback.parse({**told, more: 1})
    listener, _ = heard
    stages = {entry["stage"] for ask in listener.asks for entry in json.loads(ask)["history"]}
    assert {"developed"} <= stages <= {"proposed", "screened", "built", "developed"}
