"""The screen on development items: what a candidate must show there before a test on held-out items is staked.

Development items cost nothing to look at again, a test spends error for good, and a promotion retires items. So what
the development items show to gain too little, or to starve another eval, is stopped before. The screen decides nothing
in a candidate's favour: it is the tests that promote, and their error is bounded whatever was screened.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.config import DevelopmentRule


def falls_short(
    rule: DevelopmentRule, objective: str, mine: Mapping[str, float], theirs: Mapping[str, float]
) -> str | None:
    """Why the development metrics of a candidate do not suffice beside the incumbent's, in words; None where they do.

    A metric that is missing, or no number, does not suffice.
    """
    for name in (objective, *sorted(rule.max_loss)):
        if name not in mine or name not in theirs:
            return f"{name} has no mean on the development items"
        told = f"{name} {mine[name]:.4f} on the development items, the incumbent {theirs[name]:.4f}"
        if name == objective and not mine[name] - theirs[name] > rule.min_gain:
            return told
        if name != objective and not theirs[name] - mine[name] <= rule.max_loss[name]:
            return f"{told}: it may lose {rule.max_loss[name]:g}"
    return None
