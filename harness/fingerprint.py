"""What the evaluator says of a subject's data and evals before it is asked to score: sizes, digests, names."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from harness.evals import Data, Evaluation, Inquiry, Suite, item_key


def describe(suite: Suite, data: Data) -> dict[str, Any]:
    """What there is: sizes, evals with their kinds and bounds, the shape of an answer, the data's digest."""
    return {
        "data": fingerprint(data, data.count("vault")),
        "development": data.count("development"),
        "vault": data.count("vault"),
        "generated": bool(data.generated),
        "output": list(data.output),
        "evals": [
            {
                "name": e.name,
                "kind": e.kind,
                "views": list(getattr(e, "views", ())),
                "bounds": list(e.bounds),
                "applies": _share(e, data),
            }
            for e in suite.evaluations.values()
        ],
    }


def _share(evaluation: Evaluation | Inquiry, data: Data) -> float:
    """The share of held-out items that an eval applies to, as its population's development items have it."""
    population = data.populations[evaluation.of]
    return float(evaluation.mask(population.development.labels).mean()) * (len(population.vault) / data.count("vault"))


def fingerprint(data: Data, vault: int) -> str:
    """A digest over every item and label, in order: what the guarantees are about.

    Of the held-out items, the first `vault` ones: what there was before more were added. Where they are generated,
    how many there may be, how populations take turns, and a sample under a seed that everybody knows: it shows a
    generator that has changed, whose code the guard's digest covers.
    """
    whole = hashlib.sha256()
    count = min(vault, data.count("vault"))
    if data.generated:
        whole.update(f"generated {count} {data.turns()}\n".encode())
        known = data.known()
        held = {name: each.sample(known) for name, each in data.generated.items()}
    else:
        held = {name: each.items for name, each in data.choose("vault", range(count)).items()}
    for name, development in data.split("development").items():
        if name in data.also:
            whole.update(f"population {name}\n".encode())
        for items in (development, held[name]):
            whole.update(len(items).to_bytes(8, "big"))
            for raw in items.raw:
                key = item_key(raw)
                whole.update(len(key).to_bytes(8, "big") + key)
            whole.update(np.ascontiguousarray(items.labels).tobytes())
    return f"sha256:{whole.hexdigest()}"


def item_digests(data: Data, ids: list[int]) -> list[str]:
    """Name some held-out items by the digests of their contents, labels left out."""
    named: dict[int, bytes] = {}
    for each in data.choose("vault", ids).values():
        named |= dict(zip(each.places.tolist(), map(item_key, each.items.raw), strict=True))
    return [f"sha256:{named[place].hex()}" for place in range(len(ids))]
