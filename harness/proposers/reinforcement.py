"""Reinforcement learning: a controller edits the incumbent's recipe token by token, and learns from what came of it.

The reward of a proposal is the gain of the objective on development items over the version that it changed, or over
the mean of its generation where that is not known any more; one that a rule stopped, that could not be built, or whose
properties were refuted, gets less than the worst that was measured; the one bit of the gates, promoted, adds to it.
Held-out scores are in no ask, so they cannot be in a reward.

It is a pure function of the ask. The controller's state is the log: each time, it is drawn from the seed and taught
the history again, one step a generation, so a resumed run proposes what it would have proposed, and there is no file
that could differ from the trail. Teaching 500 proposals takes well under a second; the last `MAX_EPISODES` count.

Settings, all optional: `lr` (Adam's), `entropy` (weight of the bonus that keeps it trying), `hidden` (units of its
GRU), `bins` (values of a knob that has many), `bonus` (what promoted adds, in spreads of the scores), `keep` (how
likely, at first, a knob is left alone).
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterator
from itertools import groupby
from typing import Annotated, Any

from pydantic import Field

from harness.errors import ProposerError
from harness.proposers import Ask, Feedback, settings_of
from harness.proposers.points import Points
from harness.records import Record

__all__ = ["MAX_EPISODES", "Settings", "propose"]

MAX_EPISODES = 1000
"""How many of its own earlier proposals the controller is taught."""

_DRAWS = 64  # for one slot, before it is left empty
_NAME = "reinforcement"


class Settings(Record):
    """What a configuration may set; see the module's docstring."""

    lr: Annotated[float, Field(gt=0)] = 0.03
    entropy: Annotated[float, Field(ge=0, le=10)] = 0.02
    hidden: Annotated[int, Field(ge=4, le=256)] = 32
    bins: Annotated[int, Field(ge=2, le=32)] = 7
    bonus: Annotated[float, Field(ge=0, le=10)] = 1.0
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5


def propose(ask: Ask) -> list[dict[str, Any]]:
    """Return up to `ask.count` proposals, none of a point that was proposed before.

    Raises ProposerError for settings that do not fit, for a Recipe without a knob to search, and where the controller
    diverges.
    """
    settings = settings_of(ask, Settings, _NAME)
    points = Points(ask, _NAME)
    from harness.proposers.controller import Diverged

    try:
        return _drawn(ask, settings, points)
    except Diverged as error:
        raise ProposerError(
            f"the controller diverged: {error}", where=_NAME, remedy=f"set an lr below {settings.lr:g}"
        ) from error


def _drawn(ask: Ask, settings: Settings, points: Points) -> list[dict[str, Any]]:
    from harness.proposers.controller import Controller, Episode, nearest, values

    every = {name: values(knob, settings.bins) for name, knob in points.knobs.items()}
    controller = Controller(
        [len(each) for each in every.values()],
        seed=_seed(ask, "parameters"),
        hidden=settings.hidden,
        lr=settings.lr,
        entropy=settings.entropy,
        keep=settings.keep,
    )
    for told in _lessons(ask, settings.bonus):
        episodes = []
        for entry, advantage in told:
            changes = entry.proposal.get("changes", {})
            tokens = [
                nearest(knob, every[name], changes[name]) if name in changes else 0
                for name, knob in points.knobs.items()
            ]
            episodes.append(Episode(tokens, advantage))
        controller.learn(episodes)
    before = points.present
    documents = []
    for slot in range(ask.count):
        for attempt in range(_DRAWS):
            tokens = controller.draw(_seed(ask, f"{ask.generation}/{slot}/{attempt}"))
            point = {
                name: before[name] if token == 0 else every[name][token - 1]
                for name, token in zip(points.knobs, tokens, strict=True)
            }
            document = points.take(point, "drawn by the controller")
            if document is not None:
                documents.append(document)
                break
    return documents


def _lessons(ask: Ask, bonus: float) -> Iterator[list[tuple[Feedback, float]]]:
    """Yield the controller's own proposals with their advantages, by generation and in order.

    An advantage is the gain less the moving mean of gains, in spreads of what was measured up to then.
    """
    known = {each.digest: each.development for each in (*ask.archive, ask.incumbent)}
    own = [
        entry for entry in ask.history if entry.proposer == _NAME and isinstance(entry.proposal.get("changes"), dict)
    ][-MAX_EPISODES:]
    seen: list[float] = []
    for _, group in groupby(own, key=lambda entry: entry.generation):
        entries = list(group)
        scores = {entry.index: _score(entry, ask.objective) for entry in entries}
        measured = [score for score in scores.values() if score is not None]
        mean = statistics.fmean(measured) if measured else 0.0
        gains: dict[int, float | None] = {}
        for entry in entries:
            score, base = scores[entry.index], known.get(str(entry.proposal.get("base")))
            start = mean if base is None else _mean(base, ask.objective)
            gains[entry.index] = None if score is None else score - (mean if start is None else start)
        seen += [gain for gain in gains.values() if gain is not None]
        spread = max(statistics.pstdev(seen) if len(seen) > 1 else 0.0, 1e-3)
        middle = statistics.fmean(seen) if seen else 0.0
        worst = min(seen, default=0.0) - spread
        yield [
            (
                entry,
                ((worst if (gain := gains[entry.index]) is None else gain) - middle) / spread
                + (bonus if entry.promoted else 0.0),
            )
            for entry in entries
        ]


def _score(entry: Feedback, objective: str) -> float | None:
    """What a proposal came to on development items; None for one that was stopped before, or refuted."""
    if not entry.development or entry.failed_rules or entry.refuted:
        return None
    return _mean(entry.development, objective)


def _mean(development: dict[str, float], objective: str) -> float | None:
    if objective:
        return development.get(objective)
    return statistics.fmean(development.values()) if development else None


def _seed(ask: Ask, purpose: str) -> int:
    digest = hashlib.sha256(f"lockgate/{_NAME}/{ask.seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch's seeds are signed
