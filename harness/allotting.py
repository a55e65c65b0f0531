"""Which proposers get how many of a generation's slots: as configured, or by a bandit on what they were promoted for.

The bandit is Thompson sampling (Thompson, Biometrika 1933) of the share of a proposer's slots that end in a promotion.
A slot is the unit of compute: it is one build within `budgets.build_seconds`, and one that a screen or an error left
unused could have been another's. A share has a Beta posterior, whose prior follows from the configured slots: uniform
where all have the same. What happened counts for `MEMORY` less with each generation since, for a better incumbent is
harder to beat than an earlier one (discounted Thompson sampling, Raj and Kalyani 2017).

Rules: every proposer keeps a slot, so that one without luck is heard again; the sum is that of the configuration; the
same history, seed and generation give the same slots, so a run that is resumed asks for what it would have asked for.
A slot counts as what the proposer is told of it (`Feedback`): nothing else of held-out items decides here.

Not covered: that one build trains for longer than another. No clock is read, and a recipe's steps are its own to say.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping
from typing import Final

from harness.proposers import Feedback

__all__ = ["MEMORY", "allot"]

MEMORY: Final = 0.9
"""What a slot of one generation ago counts, beside one of the last."""


def allot(slots: Mapping[str, int], history: Iterable[Feedback], *, seed: int, generation: int) -> dict[str, int]:
    """Slots of a generation by proposer, in the order of `slots`, the configured ones; the sum is the same.

    `history` is what became of the proposals of earlier generations, in any order. A generation to which a proposer
    brought nothing counts as one slot in vain, or silence would pay.
    """
    if not slots:
        return {}
    tried, won = _counts(slots, history, generation)
    total = sum(slots.values())
    digest = hashlib.sha256(f"lockgate/allotting/{seed}/{generation}".encode()).digest()
    rng = random.Random(int.from_bytes(digest[:8], "big"))  # noqa: S311 - a search, not a secret
    allotted = dict.fromkeys(slots, 1)
    for _ in range(total - len(slots)):
        draws = {
            name: rng.betavariate(len(slots) * slots[name] / total + won[name], 1 + tried[name] - won[name])
            for name in slots
        }
        allotted[max(draws, key=draws.__getitem__)] += 1
    return allotted


def _counts(
    slots: Mapping[str, int], history: Iterable[Feedback], generation: int
) -> tuple[dict[str, float], dict[str, float]]:
    """How many slots each proposer had, and how many of them were promoted, both discounted by their age."""
    by_generation: dict[int, list[Feedback]] = {}
    for told in history:
        if told.generation < generation:
            by_generation.setdefault(told.generation, []).append(told)
    tried, won = dict.fromkeys(slots, 0.0), dict.fromkeys(slots, 0.0)
    for at in sorted(by_generation):
        weight = MEMORY ** (generation - 1 - at)
        for name in slots:
            own = [told.promoted for told in by_generation[at] if told.proposer == name]
            tried[name] += weight * max(1, len(own))
            won[name] += weight * sum(own)
    return tried, won
