"""Proposals of weights, through the real loop: built in the sandbox from known candidates' weights, and decided."""

from __future__ import annotations

import pytest

from harness.folder import RunFolder
from harness.replay import replay_run
from rigs import generation, knobs

pytestmark = pytest.mark.usefixtures("quick_disk")


def weights(method: str, *sources: str, base: str = "incumbent", **more) -> dict:
    """Make a proposal of weights; what is no field of a start is a change of knobs."""
    start = {"method": method, "sources": list(sources or ["incumbent"])}
    changes = more.pop("changes", None)
    document = {"kind": "weights", "base": base, "start": {**start, **more}, "rationale": "a test"}
    return document if changes is None else {**document, "changes": changes}


def ends(opened, number: int) -> tuple[str, str]:
    """How a proposal ended: the first reason's code and its text."""
    reason = opened.supervisor.state.proposals[number].decision.reasons[0]
    return reason.code, reason.text


def test_every_start_is_built_decided_and_replayed(rig, digits, tmp_path):
    """All starts go through the real loop, each to a decision that a replay derives again."""
    assert digits
    opened = rig.open(tmp_path / "run", seed=0)
    try:
        generation(opened, 1, knobs(lr=0.02), knobs(lr=0.03))
        state = opened.supervisor.state
        one, two = (state.proposals[number].built.candidate.digest for number in (1, 2))
        generation(
            opened,
            2,
            weights("continue"),
            weights("average", one, two),
            weights("low-rank", rank=2, changes={"steps": 100}),
            weights("reinforce", label="digit", steps=20),
            {**knobs("architecture", hidden=24), "inherit": True},
        )
        state = opened.supervisor.state
        for number in range(3, 8):
            found = state.proposals[number]
            assert found.developed is not None, ends(opened, number)
            assert found.decision is not None
        assert opened.supervisor.state.proposals[3].outcome == "promoted", ends(opened, 3)
    finally:
        opened.close()
    assert replay_run(RunFolder(tmp_path / "run"))["decisions"] == 7
