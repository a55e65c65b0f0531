"""Random search over the declared space: what every other proposer has to beat.

Each proposal is a point drawn evenly over the whole space (on the logarithm where a knob says so), with the
incumbent's files. No point is proposed twice, and nothing is learned from what became of earlier ones. It is a pure
function of the ask. Source: Bergstra and Bengio 2012, "Random search for hyper-parameter optimization".

There are no settings.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

from harness.canonical import canonical_bytes
from harness.errors import ProposerError
from harness.proposers import Ask
from harness.proposers.space import Knob, Scalar, options, read_space, same, uniform

__all__ = ["propose"]

_DRAWS = 64  # for one slot, before it is left empty: in a small space everything may have been tried


def propose(ask: Ask) -> list[dict[str, Any]]:
    """Return up to `ask.count` proposals, different from each other and from every point that was proposed before.

    Raises ProposerError for settings, of which there are none, and for a Recipe without a knob to search.
    """
    if ask.settings:
        raise ProposerError(f"there is no setting {min(ask.settings)!r}: there are none", where="random")
    space = {name: knob for name, knob in sorted(read_space(ask.schema_).items()) if knob.searchable}
    if not space:
        raise ProposerError(
            "the Recipe has no knob to search",
            where="random",
            remedy="give fields bounds with Field(ge=…, le=…), or choices with Literal",
        )
    before = {name: ask.incumbent.recipe.get(name) for name in space}
    taken = {_key(before), *(_key(point) for point in _proposed(ask, space))}
    documents = []
    for slot in range(ask.count):
        seed = hashlib.sha256(f"lockgate/random/{ask.seed}/{ask.generation}/{slot}".encode()).digest()
        rng = random.Random(int.from_bytes(seed[:8], "big"))  # noqa: S311 - a search, not a secret
        drawn = ({name: _value(rng, knob) for name, knob in space.items()} for _ in range(_DRAWS))
        point = next((point for point in drawn if _key(point) not in taken), None)
        if point is None:
            continue
        taken.add(_key(point))
        changes = {name: value for name, value in point.items() if not same(value, before[name])}
        shaping = any(space[name].group == "architecture" for name in changes)
        kind = "architecture" if shaping else "hyperparameters"
        documents.append({"kind": kind, "base": ask.incumbent.digest, "changes": changes, "rationale": "drawn evenly"})
    return documents


def _value(rng: random.Random, knob: Knob) -> Scalar:
    few = options(knob)
    return rng.choice(few) if few else uniform(rng, knob)


def _proposed(ask: Ask, space: dict[str, Knob]) -> list[dict[str, Scalar]]:
    """What has been proposed or built of the space: points that need no second look."""
    known = {each.digest: each for each in (*ask.archive, ask.incumbent)}
    points = [each.recipe for each in known.values()]
    for entry in ask.history:
        base, changes = known.get(str(entry.proposal.get("base"))), entry.proposal.get("changes")
        if base is not None and isinstance(changes, dict):
            points.append({**base.recipe, **changes})
    return [{name: point.get(name) for name in space} for point in points]


def _key(point: dict[str, Scalar]) -> bytes:
    """Name a point so that equal points have equal names: 1 and 1.0 are one number."""
    return canonical_bytes(point)
