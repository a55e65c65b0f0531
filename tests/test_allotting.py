"""harness.allotting: a generation's slots, by what was promoted for them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import rigs
from hypothesis import given
from hypothesis import strategies as st

from harness.allotting import allot
from harness.proposers import Feedback
from harness.run import Watcher, guarded_loop

NAMES = ("evolution", "codegen", "llm", "weights")
SLOTS = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 9), min_size=1)
TOLD = st.builds(
    Feedback,
    generation=st.integers(1, 40),
    index=st.integers(0, 8),
    proposer=st.sampled_from((*NAMES, "gone")),
    proposal=st.just({}),
    stage=st.sampled_from(["proposed", "screened", "built", "developed"]),
    promoted=st.booleans(),
)
HISTORIES = st.lists(TOLD, max_size=60)
SEEDS = st.integers(0, 2**53 - 1)
GENERATIONS = st.integers(1, 60)


def told(generation, index, proposer, *, promoted):
    """Make what is told of one proposal."""
    return Feedback(
        generation=generation, index=index, proposer=proposer, proposal={}, stage="developed", promoted=promoted
    )


@given(SLOTS, HISTORIES, SEEDS, GENERATIONS)
def test_the_sum_is_that_of_the_configuration_and_nobody_starves(slots, history, seed, generation):
    """Whatever happened, all slots are given out, in the configured order, and each proposer has one at least."""
    found = allot(slots, history, seed=seed, generation=generation)
    assert list(found) == list(slots)
    assert sum(found.values()) == sum(slots.values())
    assert min(found.values()) >= 1


@given(SLOTS, HISTORIES, SEEDS, GENERATIONS, st.sampled_from(NAMES))
def test_who_is_tried_in_pairs_has_a_pair(slots, history, seed, generation, paired):
    """One of which other settings are tried has two slots, where there is one to spare; nobody starves for it."""
    found = allot(slots, history, seed=seed, generation=generation, paired=paired)
    assert sum(found.values()) == sum(slots.values())
    assert min(found.values()) >= 1
    if paired in slots and sum(slots.values()) > len(slots):
        assert found[paired] >= 2


@given(SLOTS, HISTORIES, SEEDS, GENERATIONS, st.randoms(use_true_random=False))
def test_the_same_input_has_the_same_slots(slots, history, seed, generation, random):
    """The same history gives the same slots, in whatever order it is told."""
    again = list(history)
    random.shuffle(again)
    assert allot(slots, again, seed=seed, generation=generation) == allot(
        slots, history, seed=seed, generation=generation
    )


@given(SLOTS, SEEDS)
def test_no_history_is_no_error(slots, seed):
    """Before the first generation all slots are given out by the configuration's prior."""
    assert sum(allot(slots, [], seed=seed, generation=1).values()) == sum(slots.values())


@given(SLOTS, HISTORIES, SEEDS, GENERATIONS, HISTORIES)
def test_what_is_not_over_yet_decides_nothing(slots, history, seed, generation, later):
    """Of the generation itself and of later ones nothing counts: a generation that was cut off is asked for again."""
    beyond = [each.model_copy(update={"generation": each.generation + generation}) for each in later]
    same = [each.model_copy(update={"generation": generation}) for each in later]
    want = allot(slots, [each for each in history if each.generation < generation], seed=seed, generation=generation)
    assert allot(slots, [*history, *beyond, *same], seed=seed, generation=generation) == want


def lives(slots, pays, seed, last):
    """Give the slots of every generation where exactly the proposals of some proposers are promoted."""
    history, given_out = [], []
    for generation in range(1, last + 1):
        found = allot(slots, history, seed=seed, generation=generation)
        given_out.append(found)
        history += [
            told(generation, index, name, promoted=name in pays) for name in found for index in range(found[name])
        ]
    return given_out


@given(st.lists(st.sampled_from(NAMES), min_size=2, unique=True), st.integers(1, 6), SEEDS)
def test_who_is_promoted_has_more_than_who_never_is(names, spare, seed):
    """Over 20 generations a proposer whose proposals are promoted has more slots than one whose never are."""
    slots = dict.fromkeys(names, 1) | {names[-1]: 1 + spare}  # who is to lose has the better start
    total = {name: sum(found[name] for found in lives(slots, {names[0]}, seed, 20)) for name in names}
    assert all(total[names[0]] > total[name] for name in names[1:])


@given(SEEDS)
def test_silence_does_not_pay(seed):
    """One that proposes nothing at all loses its slots to one that is promoted now and then."""
    history, slots, total = [], {"silent": 4, "evolution": 4}, {"silent": 0, "evolution": 0}
    for generation in range(1, 31):
        found = allot(slots, history, seed=seed, generation=generation)
        total = {name: total[name] + found[name] for name in slots}
        history += [
            told(generation, index, "evolution", promoted=index == 0 and generation % 2 == 0)
            for index in range(found["evolution"])
        ]
    assert total["evolution"] > total["silent"]


@given(SEEDS)
def test_luck_of_long_ago_wears_off(seed):
    """After who was promoted and who was not change places, the slots follow them."""
    slots, history, late = {"evolution": 4, "codegen": 4}, [], {"evolution": 0, "codegen": 0}
    for generation in range(1, 61):
        found = allot(slots, history, seed=seed, generation=generation)
        pays = "evolution" if generation <= 20 else "codegen"
        history += [
            told(generation, index, name, promoted=name == pays) for name in found for index in range(found[name])
        ]
        if generation > 40:
            late = {name: late[name] + found[name] for name in slots}
    assert late["codegen"] > late["evolution"]


def test_the_configured_slots_are_the_prior():
    """Before anything happened, one with three times the slots has more on average, over many seeds."""
    found = [allot({"evolution": 6, "codegen": 2}, [], seed=seed, generation=1) for seed in range(400)]
    mean = sum(each["evolution"] for each in found) / len(found)
    assert mean > sum(each["codegen"] for each in found) / len(found) + 1
    assert len({each["evolution"] for each in found}) > 3, "and it is no fixed share"


@pytest.mark.usefixtures("quick_disk")
def test_a_run_that_is_resumed_allots_as_one_that_was_not(digits, tmp_path):
    """The loop with a bandit, cut off after each generation and begun again, proposes what it proposes in one go."""
    subject = rigs.vary(
        digits,
        tmp_path / "subject",
        ("proposers: {scripted: 4}", "proposers: {evolution: 2, codegen: 3}\nallotment: bandit"),
    )
    watcher = Watcher(note=lambda _: None, event=lambda _: None)
    key = tmp_path / "cut" / "private" / "vault.key"
    for last in (1, 2):
        cut = guarded_loop(subject, tmp_path / "cut", watcher, seed=7, generations=last)
    whole = guarded_loop(subject, tmp_path / "whole", watcher, seed=7, generations=2, vault_key=key)
    assert rigs.essence(tmp_path / "whole") == rigs.essence(tmp_path / "cut")
    made = [(each["generation"], each["proposer"]) for each in cut["details"]]
    assert made == [(each["generation"], each["proposer"]) for each in whole["details"]]
    counts = [tuple(made.count((at, name)) for name in ("evolution", "codegen")) for at in (1, 2)]
    assert all(sum(each) <= 5 and min(each) >= 1 for each in counts)
    assert any(one != other for one, other in pairwise([(2, 3), *counts])), "the slots are not the fixed ones"
