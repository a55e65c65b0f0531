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

from harness.errors import ProposerError
from harness.proposers import Ask
from harness.proposers.points import Points
from harness.proposers.space import Knob, Scalar, options, uniform

__all__ = ["propose"]

_DRAWS = 64  # for one slot, before it is left empty: in a small space everything may have been tried


def propose(ask: Ask) -> list[dict[str, Any]]:
    """Return up to `ask.count` proposals, different from each other and from every point that was proposed before.

    Raises ProposerError for settings, of which there are none, and for a Recipe without a knob to search.
    """
    if ask.settings:
        raise ProposerError(f"there is no setting {min(ask.settings)!r}: there are none", where="random")
    points = Points(ask, "random")
    documents = []
    for slot in range(ask.count):
        seed = hashlib.sha256(f"lockgate/random/{ask.seed}/{ask.generation}/{slot}".encode()).digest()
        rng = random.Random(int.from_bytes(seed[:8], "big"))  # noqa: S311 - a search, not a secret
        for _ in range(_DRAWS):
            document = points.take({name: _value(rng, knob) for name, knob in points.knobs.items()}, "drawn evenly")
            if document is not None:
                documents.append(document)
                break
    return documents


def _value(rng: random.Random, knob: Knob) -> Scalar:
    few = options(knob)
    return rng.choice(few) if few else uniform(rng, knob)
