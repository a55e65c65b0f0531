"""Weights proposals: training that goes on from known candidates instead of from scratch.

Four ways (`harness.starting`): **continue** the training of a candidate, at first as it is, then with other knobs of
training, rates rather lower than before; **average** candidates of one architecture, the best ones mostly (a model
soup); train deltas of **low-rank** only; fine-tune by **reinforce** on whether sampled answers are the training label,
where the settings name the label. A way that gained on development items is taken more often, one that was tried and
gained nothing less.

It is a pure function of the ask: every random number comes from (seed, generation, slot), and nothing that was
proposed before is proposed again.

Settings, all optional: `methods` (which ways; default all), `label` (the training tensor of right answers; without it
there is no `reinforce`), `ranks`, `steps` and `lr` (of `reinforce`, around which it varies).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.proposers import Archived, Ask, Feedback, settings_of
from harness.proposers.space import Knob, Scalar, options, read_space, same, snapped
from harness.records import Record
from harness.starting import TRAINING, TensorName

__all__ = ["Settings", "propose"]

Method = Literal["continue", "average", "low-rank", "reinforce"]

_DRAWS = 32  # for one slot, before it is left empty
_BEST = 6  # relatives that are averaged


class Settings(Record):
    """What a configuration may set; see the module's docstring."""

    methods: Annotated[list[Method], Field(min_length=1)] = ["continue", "average", "low-rank", "reinforce"]
    label: TensorName | None = None
    ranks: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1)] = [2, 4, 8]
    steps: Annotated[int, Field(ge=4, le=1000)] = 200
    lr: Annotated[float, Field(ge=1e-6, le=0.1)] = 0.001


def propose(ask: Ask) -> list[dict[str, Any]]:
    """Return up to `ask.count` proposals of weights, none of them made before.

    Raises ProposerError for settings that do not fit.
    """
    settings = settings_of(ask, Settings, "weights")
    search = _Search(ask, settings)
    drawn = (search.draw(slot) for slot in range(ask.count))
    return [document for document in drawn if document is not None]


class _Search:
    """One ask's search."""

    def __init__(self, ask: Ask, settings: Settings) -> None:
        self._ask = ask
        self._settings = settings
        self._known = {each.digest: each for each in (*ask.archive, ask.incumbent)}
        space = dict(sorted(read_space(ask.schema_).items()))
        self._shaping = [name for name, knob in space.items() if knob.group == "architecture"]
        self._training = [knob for knob in space.values() if knob.group == "training" and knob.searchable]
        # Of the incumbent's code and architecture, the best on development items first: what can be averaged with it.
        relatives = [each for each in self._known.values() if self._related(each)]
        self._relatives = sorted(relatives, key=lambda each: (-self._score(each.development), each.digest))
        self._taken = {_key(entry.proposal) for entry in ask.history if entry.proposal.get("kind") == "weights"}
        self._gains = self._learned()

    def draw(self, slot: int) -> dict[str, Any] | None:
        """Draw one proposal that is new, or None when none is found in a bounded number of draws."""
        seed = hashlib.sha256(f"lockgate/weights/{self._ask.seed}/{self._ask.generation}/{slot}".encode()).digest()
        rng = random.Random(int.from_bytes(seed[:8], "big"))  # noqa: S311 - a search, not a secret
        ways: dict[str, Callable[[random.Random], dict[str, Any]]] = {
            "continue": self._continued,
            "average": self._averaged,
            "low-rank": self._low_rank,
            "reinforce": self._reinforced,
        }
        methods = [method for method in self._settings.methods if self._possible(method)]
        for _ in range(_DRAWS if methods else 0):
            method = rng.choices(methods, weights=[self._appeal(each) for each in methods])[0]
            document = {"kind": "weights", **ways[method](rng)}
            if _key(document) not in self._taken:
                self._taken.add(_key(document))
                return document
        return None

    def _possible(self, method: Method) -> bool:
        if method == "average":
            return len(self._relatives) > 1
        return method != "reinforce" or self._settings.label is not None

    def _related(self, other: Archived) -> bool:
        mine = self._ask.incumbent
        alike = all(same(other.recipe.get(name), mine.recipe.get(name)) for name in self._shaping)
        return alike and other.files == mine.files

    def _source(self, rng: random.Random) -> Archived:
        """The incumbent, or one time in four the best other candidate, of whatever architecture."""
        others = [each for each in self._known.values() if each.digest != self._ask.incumbent.digest]
        if others and rng.random() < 0.25:
            return max(others, key=lambda each: (self._score(each.development), each.digest))
        return self._ask.incumbent

    # The four ways

    def _continued(self, rng: random.Random) -> dict[str, Any]:
        source = self._source(rng)
        plain = self._document(source, {"method": "continue"}, {}, "go on training")
        if _key({"kind": "weights", **plain}) not in self._taken:
            return plain
        return self._document(source, {"method": "continue"}, self._moved(rng, source), "go on training")

    def _low_rank(self, rng: random.Random) -> dict[str, Any]:
        source, rank = self._source(rng), rng.choice(self._settings.ranks)
        changes = self._moved(rng, source) if rng.random() < 0.7 else {}
        return self._document(source, {"method": "low-rank", "rank": rank}, changes, f"train deltas of rank {rank}")

    def _averaged(self, rng: random.Random) -> dict[str, Any]:
        best = self._relatives[:_BEST]
        count = rng.randint(2, min(4, len(best)))
        chosen = sorted(rng.sample(range(len(best)), count))
        sources = [best[place] for place in chosen]
        return {
            "base": sources[0].digest,
            "start": {"method": "average", "sources": [each.digest for each in sources]},
            "rationale": f"the mean of {count} candidates of one architecture",
        }

    def _reinforced(self, rng: random.Random) -> dict[str, Any]:
        start = {
            "method": "reinforce",
            "label": self._settings.label,
            "steps": max(1, round(self._settings.steps * rng.choice((0.5, 1, 2)))),
            "lr": float(f"{self._settings.lr * rng.choice((0.3, 1, 3)):.3g}"),
            "kl": rng.choice((0.0, 0.02, 0.1)),
        }
        return self._document(self._source(rng), start, {}, f"reward right {self._settings.label}")

    def _document(
        self, source: Archived, start: dict[str, Any], changes: dict[str, Scalar], how: str
    ) -> dict[str, Any]:
        told = ", ".join(
            f"{name} {json.dumps(source.recipe.get(name))} to {json.dumps(changes[name])}" for name in changes
        )
        document: dict[str, Any] = {
            "base": source.digest,
            "start": {**start, "sources": [source.digest]},
            "rationale": f"{how} from {'the incumbent' if source is self._ask.incumbent else 'an archived candidate'}"
            + (f": {told}" if told else "")[:1000],
        }
        return {**document, "changes": changes} if changes and start["method"] in TRAINING else document

    def _moved(self, rng: random.Random, source: Archived) -> dict[str, Scalar]:
        """Other values for one or two knobs of training."""
        count = min(len(self._training), rng.choice((1, 1, 2)))
        changes = {}
        for knob in rng.sample(self._training, count):
            value = source.recipe.get(knob.name)
            new = _other(rng, knob, value)
            if knob.admits(new) and not same(new, value):
                changes[knob.name] = new
        return changes

    # What the history says

    def _score(self, development: dict[str, float]) -> float:
        if self._ask.objective:
            return development.get(self._ask.objective, -math.inf)
        return fmean(development.values()) if development else -math.inf

    def _learned(self) -> dict[str, list[float]]:
        """What each way gained on development items over the candidate that it began with, each time."""
        gains: dict[str, list[float]] = {}
        for entry in self._ask.history:
            start = entry.proposal.get("start")
            if entry.proposal.get("kind") == "weights" and isinstance(start, dict):
                gains.setdefault(str(start.get("method")), []).append(self._gain(entry))
        return gains

    def _gain(self, entry: Feedback) -> float:
        parent = self._known.get(str(entry.proposal.get("base")))
        if parent is None or not entry.development:
            return 0.0
        gain = self._score(entry.development) - self._score(parent.development)
        return gain if math.isfinite(gain) else 0.0

    def _appeal(self, method: Method) -> float:
        gains = self._gains.get(method)
        if not gains:
            return 1.0
        return 2.0 if max(gains) > 0 else 0.4


def _other(rng: random.Random, knob: Knob, value: Scalar) -> Scalar:
    """Another value near the present one: of a rate rather a lower one, for what is trained already."""
    if few := [option for option in options(knob) if not same(option, value)]:
        return rng.choice(few)
    if isinstance(value, bool) or not isinstance(value, int | float) or knob.low is None or knob.high is None:
        return value
    if knob.log and value > 0:
        low, high = (math.log(0.1), math.log(1.5)) if knob.type == "float" else (math.log(0.4), math.log(2.5))
        return snapped(knob, value * math.exp(rng.uniform(low, high)), value)
    return snapped(knob, value + rng.uniform(-0.3, 0.3) * (knob.high - knob.low), value)


def _key(document: dict[str, Any]) -> str:
    """Name a proposal by what it asks for: base, start and changes."""
    asked = {name: document.get(name) or {} for name in ("base", "start", "changes")}
    return json.dumps(_plain(asked), sort_keys=True)


def _plain(value: Any) -> Any:
    """One form for a number: 1 and 1.0 are one."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return float(value) if type(value) is int else value
