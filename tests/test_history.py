"""Facts about what policies read of a run's past."""

from __future__ import annotations

import os
import time

import pytest
import trails

from harness.entries import Promoted, ProposedEntry, RolledBack
from harness.history import History, instant
from harness.policy_document import NEVER, SHAPES
from harness.records import Decision, Why
from harness.rules import past
from harness.shapes import Room
from harness.state import ProposalState

SHA = "sha256:" + "0" * 64


def promoted(at: str) -> Promoted:
    """Return a promotion at a time of one day."""
    return Promoted(time=f"2026-01-01T{at}Z", number=1, version=1, candidate=SHA)


def rolled_back(at: str) -> RolledBack:
    """Return a rollback at a time of one day."""
    return RolledBack(time=f"2026-01-01T{at}Z", version=0, candidate=SHA, by="operator", reason="r")


def at(text: str) -> float:
    """Return a time of that day in seconds."""
    return instant(f"2026-01-01T{text}Z")


def test_nothing_yet_is_never() -> None:
    """Before the first promotion and rollback the spans are those of never, and the counts are 0."""
    facts = History().facts(1e9)
    assert facts == {
        "promotions": 0,
        "promotions_last_hour": 0,
        "seconds_since_promotion": NEVER,
        "rollbacks": 0,
        "seconds_since_rollback": NEVER,
    }


def test_promotions_count_for_an_hour() -> None:
    """A promotion counts in the last hour until an hour is over, and in all for good."""
    history = History()
    for when in ("10:00:00", "10:30:00", "11:00:00"):
        history = history.after(promoted(when))
    counts = {when: history.facts(at(when))["promotions_last_hour"] for when in ("11:00:00", "11:29:59", "11:30:00")}
    assert counts == {"11:00:00": 2, "11:29:59": 2, "11:30:00": 1}
    assert history.facts(at("23:00:00"))["promotions_last_hour"] == 0
    assert history.facts(at("23:00:00"))["promotions"] == 3
    assert history.facts(at("11:00:07.5"))["seconds_since_promotion"] == 7.5


def test_what_is_kept_does_not_grow() -> None:
    """The fold keeps no more promotions than an hour holds."""
    history = History()
    for hour in range(24):
        history = history.after(promoted(f"{hour:02}:00:00"))
    assert (history.promotions, len(history.promoted)) == (24, 1)


def test_a_rollback_is_counted_and_timed() -> None:
    """A rollback is counted, and the span since the last one begins anew."""
    history = History().after(rolled_back("10:00:00")).after(rolled_back("12:00:00"))
    facts = history.facts(at("12:01:00"))
    assert (facts["rollbacks"], facts["seconds_since_rollback"]) == (2, 60.0)


def test_a_clock_set_back_makes_the_past_recent() -> None:
    """With a clock before the promotion's the span is 0 and the promotion counts: it fails closed."""
    facts = History().after(promoted("12:00:00")).facts(at("09:00:00"))
    assert (facts["seconds_since_promotion"], facts["promotions_last_hour"]) == (0.0, 1)


def test_times_are_the_same_instant_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time means one instant whatever the machine's zone, and no time is 0."""
    values = set()
    try:
        for zone in ("UTC", "Asia/Tokyo"):
            monkeypatch.setitem(os.environ, "TZ", zone)
            time.tzset()
            values.add((instant("2026-01-01T00:00:00"), instant("2026-01-01T00:00:00Z")))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert values == {(1767225600.0, 1767225600.0)}
    assert instant("") == 0.0


def proposal(number: int, generation: int, verdict: str | None) -> ProposalState:
    """Return a proposal that was decided so, or not yet."""
    entry = ProposedEntry(
        number=number, generation=generation, index=0, proposer="p", scripted=False, label="", document=SHA
    )
    reasons = [Why(code="policy", text="t")]
    decision = (
        Decision.parse({"verdict": verdict, "reasons": [why.json_value() for why in reasons]}) if verdict else None
    )
    return ProposalState(entry, trails.GENESIS, decision=decision)


@pytest.mark.parametrize(
    ("verdicts", "row"),
    [
        ([], 0),
        (["reject"], 1),
        (["promote"], 0),
        (["reject", "promote", "reject", "reject"], 2),
        (["reject", "reject", "promote"], 0),
        (["promote", "reject", None, "reject", None], 2),
    ],
)
def test_rejections_in_a_row_end_at_a_promotion(verdicts: list[str | None], row: int) -> None:
    """They are counted back from the last proposal; what waits for people or is not decided neither counts nor ends."""
    proposals = {n: proposal(n, 1, verdict) for n, verdict in enumerate(verdicts, 1)}
    assert past(History(), "", proposals, 2)["history"]["rejected_in_a_row"] == row


def test_rejections_of_the_same_generation_do_not_count() -> None:
    """Proposals of one generation are worked on side by side: what one reads may not depend on which came first."""
    proposals = {1: proposal(1, 1, "reject"), 2: proposal(2, 2, "reject"), 3: proposal(3, 2, "promote")}
    assert past(History(), "", proposals, 2)["history"]["rejected_in_a_row"] == 1


def test_history_is_of_the_declared_shape() -> None:
    """What the fold gives to the rules is in its ranges, also at the earliest and latest times."""
    for last in ("", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"):
        told = past(History().after(promoted("12:00:00")), last, {}, 0)
        for name, value in told.items():
            assert Room().take(SHAPES["screen"].fields[name], value, name) == value
