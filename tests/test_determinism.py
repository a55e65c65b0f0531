"""P9: the same seed, configuration and vault key give the same decisions, with one worker or many."""

from __future__ import annotations

import pytest
import rigs

from harness.proposers import Ask, names, propose
from harness.views import ask_view

pytestmark = pytest.mark.usefixtures("quick_disk")


def again(rig, finished, place, *, seed, workers, last=3):
    """Run the plan again under the vault key of the finished run; give what must be equal."""
    opened = rig.open(place / "run", seed=seed, workers=workers, vault_key=finished / "private" / "vault.key")
    try:
        rigs.drive(opened, last)
    finally:
        opened.close()
    return rigs.essence(place / "run")


def test_one_worker_decides_as_two(rig, finished, tmp_path):
    """Run again with one worker, every candidate, stake, verdict and decision is that of the run with two."""
    assert again(rig, finished, tmp_path, seed=0, workers=1) == rigs.essence(finished)


def test_the_same_seed_twice_decides_the_same(rig, finished, tmp_path):
    """Run again with as many workers, every candidate, stake, verdict and decision is the same."""
    facts = again(rig, finished, tmp_path, seed=0, workers=2)
    assert facts == rigs.essence(finished)
    assert {fact[0] for fact in facts} >= {"built", "staked", "predicted", "measured", "decided", "promoted"}


def test_another_seed_is_another_run(rig, finished, tmp_path):
    """Under another seed, baseline and candidates are other ones."""
    facts = again(rig, finished, tmp_path, seed=1, workers=2, last=1)
    ours, theirs = (
        {fact[1] for fact in each if fact[0] in ("genesis", "built")} for each in (facts, rigs.essence(finished))
    )
    assert len(ours) == 2
    assert not ours & theirs


def test_another_vault_key_is_another_order_of_items(rig, finished, tmp_path):
    """Under another vault key the candidates are the same, and the held-out items that they answer are others."""
    rigs.lay_vault_key(tmp_path / "run", bytes(32))
    opened = rig.open(tmp_path / "run", seed=0)
    try:
        rigs.drive(opened, 1)
    finally:
        opened.close()

    def answers(facts):
        return {fact[-1] for fact in facts if fact[0] == "predicted"}

    def candidates(facts):
        return {fact[1] for fact in facts if fact[0] in ("genesis", "built")}

    ours, theirs = rigs.essence(tmp_path / "run"), rigs.essence(finished)
    assert candidates(ours) <= candidates(theirs)
    assert answers(ours)
    assert not answers(ours) & answers(theirs)


def test_all_proposers_together_decide_the_same_twice(rig, finished, tmp_path):
    """Two generations of every proposer but the language model: the same bytes proposed, and the same decisions."""
    asked = [name for name in names() if name not in ("scripted", "llm", "improver")]

    def played(place):
        opened = rig.open(place / "run", seed=0, vault_key=finished / "private" / "vault.key")
        proposed = []
        try:
            supervisor, blobs = opened.supervisor, opened.rooms.blobs
            for generation in (1, 2):
                view = ask_view(supervisor.state, blobs)
                documents = [
                    document
                    for name in asked
                    for document in propose(name, Ask.parse({**view, "count": 1, "settings": {}}))
                ]
                proposed.append(documents)
                rigs.generation(opened, generation, *documents)
        finally:
            opened.close()
        return proposed, rigs.essence(place / "run")

    one, other = played(tmp_path / "one"), played(tmp_path / "other")
    assert one == other
    assert [len(documents) for documents in one[0]] == [len(asked), len(asked)]
    kinds = {document["kind"] for documents in one[0] for document in documents}
    assert kinds == {"architecture", "code", "hyperparameters", "weights"}
