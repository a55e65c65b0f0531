"""What public entries tell a proposer of held-out items and scores: attacks on their commitments, each with its control.

The adversary holds every entry of the log, the subject with its data, all proposals, and here even the very evidence but
for its salt. What it lacks is the vault key and the blobs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import stat

import pytest
import rigs
from safetensors.numpy import load, save

from harness.canonical import canonical_bytes, digest
from harness.entries import Decided, Genesis, Measured, Predicted, Staked
from harness.folder import RunFolder
from harness.keys import VaultKey
from harness.vault import blinded, item_list, order_of


@pytest.fixture(scope="module")
def known(finished):
    """Give the run's folder, its entries and its vault key."""
    folder = RunFolder(finished)
    return folder, rigs.trail_of(finished)[1], VaultKey.load(folder.vault_key)


def of_kind(known, kind):
    """Give the entries of a kind; there must be some."""
    found = [entry for entry in known[1] if isinstance(entry, kind)]
    assert found
    return found


def blob(known, name):
    """Read a blob, as a reviewer with access."""
    text = name.removeprefix("sha256:")
    return (known[0].blobs / "sha256" / text[:2] / text).read_bytes()


def plain_commitments(text):
    """Every commitment to a text that needs no secret: what a dictionary attack tries."""
    data = text.encode()
    keys = [b"", bytes(32), b"items", b"data", b"blind items v1", b"blind data v1"]
    hashed = [digest(data), *("sha256:" + hashlib.new("sha256", key + data).hexdigest() for key in keys)]
    return {*hashed, *(blinded(VaultKey(bytes(32)), label, text) for label in ("items", "data"))}


def test_items_are_not_found_by_guessing(known):
    """No prefix of the items in any order that is known without the key has the commitment of a stake; the true one has."""
    size = of_kind(known, Genesis)[0].vault_items
    order = order_of(known[2], size)
    for entry in of_kind(known, Staked):
        asked = order[entry.offset : entry.offset + entry.cap]
        guesses = [
            range(size),
            range(size - 1, -1, -1),
            range(entry.offset, size),
            sorted(asked),
            sorted(asked)[::-1],
            asked,
        ]
        tried = set().union(*(plain_commitments(item_list(list(guess)[: entry.cap])) for guess in guesses))
        assert entry.items not in tried
        assert entry.items == blinded(known[2], "items", item_list(asked))


def test_the_data_are_not_found_by_guessing(known, rig):
    """Who has the very data cannot confirm by genesis that they are the run's; who has the key can."""
    data = rig.evaluator.ask({"op": "describe"}, seconds=60)["ok"]["data"]
    genesis = of_kind(known, Genesis)[0]
    assert genesis.data not in {*plain_commitments(data), data}
    assert genesis.data == blinded(known[2], "data", data)


def after_held_out(entry):
    """Whether an entry was made when held-out items had been read: a judgement of the screen was not."""
    return not isinstance(entry, Decided) or entry.document is not None


SALTED = [(Measured, "evidence"), (Decided, "document"), (Decided, "judgement")]


@pytest.mark.parametrize(("kind", "member"), SALTED, ids=[member for _, member in SALTED])
def test_scores_are_not_confirmed_by_guessing(known, kind, member):
    """Who knows every score and count, and all but the salt, cannot confirm it by the public digest; with the salt he can."""
    checked = 0
    for entry in of_kind(known, kind):
        if not after_held_out(entry):
            continue
        name = getattr(entry, member)
        value = json.loads(blob(known, name))
        salt = value.pop("salt")
        assert len(bytes.fromhex(salt)) == 16
        for guess in (value, {**value, "salt": ""}, {**value, "salt": "0" * 32}, {**value, "salt": known[1][0].origin}):
            assert digest(canonical_bytes(guess)) != name
        assert digest(canonical_bytes({**value, "salt": salt})) == name
        checked += 1
    assert checked


def test_salts_are_fresh(known):
    """No salt is used twice, so no two equal scores are seen to be equal."""
    names = {getattr(e, member) for kind, member in SALTED for e in of_kind(known, kind) if after_held_out(e)}
    salts = [json.loads(blob(known, name))["salt"] for name in names]
    assert len(set(salts)) == len(salts) > 3


def test_answers_are_not_confirmed_by_guessing(known):
    """Who can make every answer does not know their order, and another order has another digest; the true one has it."""
    for entry in of_kind(known, Predicted):
        tensors = load(blob(known, entry.answers))
        ((name, rows),) = tensors.items()
        assert digest(save({name: rows})) == entry.answers
        in_order = rows[sorted(range(len(rows)), key=lambda row: rows[row].tobytes())]
        for guess in (in_order, in_order[::-1], rows[::-1]):
            assert digest(save({name: guess.copy()})) != entry.answers


def numbers(value):
    """Every number in a document that is no small count: what could be a score."""
    if isinstance(value, dict):
        return set().union(*(numbers(each) for each in value.values()))
    if isinstance(value, list):
        return set().union(*(numbers(each) for each in value))
    return {value} if isinstance(value, float) and len(repr(value)) > 6 else set()


def test_no_score_stands_in_an_entry(known):
    """No mean, bound or wealth of the evidence is a number of any entry, or printed in one."""
    secret = set().union(
        *(numbers(json.loads(blob(known, entry.evidence))["result"]) for entry in of_kind(known, Measured))
    )
    alphas = {entry.alpha for entry in of_kind(known, Staked)}
    secret = {number for number in secret if not any(abs(number - alpha) < 1e-12 for alpha in alphas)}
    assert len(secret) > 10
    public = [entry.json_value() for entry in known[1]]
    assert not secret & set().union(*(numbers(body) for body in public))
    text = json.dumps(public)
    assert not [number for number in secret if repr(number) in text or f"{number:.6f}" in text]


def test_another_key_shares_no_commitment(known, rig, tmp_path):
    """The same data, seed and proposals under another vault key give no commitment that the first run has."""
    rigs.lay_vault_key(tmp_path / "run", bytes(32))
    opened = rig.open(tmp_path / "run", seed=0)
    try:
        rigs.drive(opened, 1)
    finally:
        opened.close()

    def commitments(entries):
        found = [[e.data, e.vault_commitment] for e in entries if isinstance(e, Genesis)]
        found += [[e.items] for e in entries if isinstance(e, Staked)] + [
            [e.evidence] for e in entries if isinstance(e, Measured)
        ]
        return set(itertools.chain(*found))

    ours, theirs = commitments(known[1]), commitments(rigs.trail_of(tmp_path / "run")[1])
    assert len(theirs) >= 4
    assert not ours & theirs


def test_the_blobs_are_their_owner_s(known):
    """What stands behind the entries, and the keys, can be reached by the run's owner alone."""
    for folder in (known[0].blobs, known[0].private, known[0].work):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
