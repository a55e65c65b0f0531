"""Facts about the solver's process: it is killed at its deadline and at its cap, and never missed silently."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness import solver as room
from harness.judge import Judge
from harness.policy import PolicySet, load_policies, policy_set_of
from harness.policy_file import PolicySource
from harness.solver import Goal, Solver
from harness.strictness import compare_sets

BASELINE = Path(__file__).parent.parent / "policies" / "baseline.yaml"
GOAL = Goal(stage="screen", kinds=["code"], rule="baseline-screen/small-diff")


def edit(old: str, new: str) -> PolicySet:
    """Return the baseline with one place changed."""
    return policy_set_of([PolicySource(name="new.yaml", text=BASELINE.read_text().replace(old, new))])


def test_the_processes_agree_with_each_other() -> None:
    """Through the real processes: the solver finds a document, and the judge judges it by both sets."""
    with Judge() as judge:
        weaker = compare_sets(load_policies([BASELINE]), edit("max_lines: 400", "max_lines: 401"), judge=judge)
        same = compare_sets(
            load_policies([BASELINE]), edit("promotions_left > 0", "promotions_left * 2 > 1"), judge=judge
        )
    (line,) = [line for line in weaker.rules if line.witness]
    assert (weaker.verdict, line.rule) == ("weaker", "small-diff")
    assert line.witness is not None
    assert line.witness.changed == {"change.lines_changed": 401}
    assert same.verdict == "at-least-as-strict"
    assert {line.why for line in same.rules} == {"the same", "proved by the solver"}


def test_without_z3_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where z3 is not installed, what structure leaves open is unknown, with the remedy, or refuted by trying."""
    monkeypatch.setattr(room.importlib.util, "find_spec", lambda _name: None)
    open_ = compare_sets(load_policies([BASELINE]), edit("promotions_left > 0", "promotions_left * 2 > 1"))
    (line,) = [line for line in open_.rules if line.verdict == "unknown"]
    assert open_.verdict == "unknown"
    assert "pip install lockgate[compare]" in line.why
    assert line.constructs[0].partition(":")[0].endswith("baseline.yaml")
    assert compare_sets(load_policies([BASELINE]), edit("max_lines: 400", "max_lines: 401")).verdict == "weaker"


def test_at_its_deadline_it_is_killed() -> None:
    """A deadline that nothing can meet ends in an answer for each goal, in that time, and no process is left."""
    policies = load_policies([BASELINE])
    started = time.monotonic()
    answers = Solver(seconds=0.05).solve(policies, policies, [GOAL, GOAL])
    assert time.monotonic() - started < 5
    assert [answer.goal for answer in answers] == [0, 1]
    assert all("did not answer within 0.05 s" in answer.why and not answer.proved for answer in answers)


def test_at_its_memory_cap_it_ends() -> None:
    """A process that may not even load ends without an answer, and that is no proof."""
    policies = load_policies([BASELINE])
    (answer,) = Solver(memory_mb=60).solve(policies, policies, [GOAL])
    assert not answer.proved
    assert answer.document is None
    assert "ended without an answer" in answer.why


def test_only_whole_sound_lines_are_answers() -> None:
    """A line that is cut, or that is no answer, counts for nothing."""
    sound = b'{"goal": 0, "proved": true}\n'
    assert room._read(sound)[0].proved
    assert room._read(sound[:-1]) == {}
    assert room._read(b'{"goal": 0, "proved": 1}\nnonsense\n{"goal": 0, "proved": true, "more": 1}\n') == {}
