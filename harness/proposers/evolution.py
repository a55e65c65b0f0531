"""Evolution over hyperparameters and architecture.

Each generation is shared by two ways of searching, because neither does alone in the few dozen trials that a
guarded loop can afford:

* **Mutation** of a parent, mostly the incumbent: one leading knob and a few more. Choices that nothing has
  tried yet lead now and then; a direction that paid before is followed; with no experience yet, whole numbers
  (sizes and durations) rather grow, because a first version is more often too small and too briefly trained
  than too large.
* **Sampling** of the whole space, crossed with the incumbent, by an optuna sampler that is told all of the
  history: `tpe` (the tree-structured Parzen estimator, Bergstra et al. 2011), `nsga2` (Deb et al. 2002) or `cmaes`
  (for one objective; it moves numbers, and choices are drawn by `tpe`).

It is a pure function of the ask. Optuna's study is rebuilt from the history each time, and every random
number comes from (seed, generation, slot). Proposals that a static rule or a property stopped, or that left nothing to
measure, are told as infeasible, each with the constraints that it broke: they repel.

Settings, all optional: `sampler` ("tpe", "nsga2" or "cmaes"), `objectives` (names of development metrics; default: the
subject's objective), `minimise` (those that are to shrink, such as a latency; `parameters` always is), `explore` (share
of a generation that the sampler draws, 0 to 1), `upward` (probability that an untried whole number grows).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from harness.errors import ProposerError
from harness.proposers import Archived, Ask, Feedback, settings_of
from harness.proposers.objectives import Objectives
from harness.proposers.space import (
    Knob,
    Scalar,
    active,
    direction,
    options,
    ordered,
    read_space,
    same,
    snapped,
    uniform,
)
from harness.proposers.study import STARTUP, Sampler, Study, Trial
from harness.records import Record

__all__ = ["Settings", "propose", "search"]

_DRAWS = 64  # draws for one slot before it is left empty: in a small space everything may have been tried
_ARCHIVED = 0.2  # how often a parent comes from the archive
_NEAR = 0.05  # of the objective: how much less a parent of other code may have


class Settings(Record):
    """What a configuration may set; see the module's docstring."""

    sampler: Sampler = "tpe"
    objectives: list[str] = []
    minimise: list[str] = []
    explore: Annotated[float, Field(ge=0, le=1)] = 0.34
    upward: Annotated[float, Field(ge=0, le=1)] = 0.8


def propose(ask: Ask) -> list[dict[str, Any]]:
    """Return up to `ask.count` proposals, different from each other and from everything proposed before.

    Raises ProposerError for settings that do not fit, or a Recipe without a knob that could be searched.
    """
    settings = settings_of(ask, Settings, "evolution")
    return search(ask, settings, who="evolution")


def search(
    ask: Ask, settings: Settings, *, who: str, of: Callable[[Knob], bool] = lambda _: True
) -> list[dict[str, Any]]:
    """Return up to `ask.count` proposals that change knobs `of` a kind alone, for a proposer called `who`.

    Raises ProposerError where the Recipe has no such knob that could be searched, or an objective is not measured.
    """
    every = read_space(ask.schema_)
    space = {name: knob for name, knob in every.items() if knob.searchable and of(knob)}
    if not space:
        raise ProposerError(
            "the Recipe has no knob to search",
            where=who,
            remedy="give fields bounds with Field(ge=…, le=…), or choices with Literal",
        )
    if settings.sampler == "cmaes" and len(settings.objectives) > 1:
        raise ProposerError(
            "CMA-ES searches for one objective", where=f"{who}: sampler", remedy="name one objective, or take nsga2"
        )
    Objectives(settings.objectives, settings.minimise).check(ask.incumbent.development, f"{who}: objectives")
    found = _Search(ask, settings, space, every)
    # A sampler that has seen next to nothing draws blindly, which is the poorest of moves.
    sampled = min(round(ask.count * settings.explore), ask.count) if len(found.trials) >= STARTUP else 0
    drawn = (found.draw(slot, sample=slot >= ask.count - sampled) for slot in range(ask.count))
    return [document for document in drawn if document is not None]


class _Search:
    """One ask's search: the history as trials, and the points that are taken."""

    def __init__(self, ask: Ask, settings: Settings, space: dict[str, Knob], every: dict[str, Knob]) -> None:
        self._ask = ask
        self._every = every
        self._settings = settings
        self._space = dict(sorted(space.items()))  # canonical JSON has no order of fields: neither has the search
        self._known = {known.digest: known for known in (*ask.archive, ask.incumbent)}
        self._objectives = Objectives(
            settings.objectives or ([ask.objective] if ask.objective else []), settings.minimise
        )
        self._taken = {self._name(known.recipe, self._point(known.recipe)) for known in self._known.values()}
        self.trials = [trial for entry in ask.history if (trial := self._trial(entry)) is not None]
        # What has been tried, by knob: the incumbent's own value counts, and so does every proposal's.
        self._tried = {
            name: [
                point[name] for point in (self._point(ask.incumbent.recipe), *(trial.values for trial in self.trials))
            ]
            for name in space
        }
        known = (*ask.archive, ask.incumbent)
        self._measured = [
            (self._point(candidate.recipe), scores[0])
            for candidate in known
            if (scores := self._objectives.scores(candidate.development)) is not None
        ]
        self._credit = self._directions()
        self._study: Study | None = None

    def draw(self, slot: int, *, sample: bool) -> dict[str, Any] | None:
        """Draw one proposal that is new, or None when none is found in a bounded number of draws."""
        rng = random.Random(self._seed(f"slot {slot}"))  # noqa: S311 - a search, not a secret
        for attempt in range(_DRAWS):
            # A sampler that keeps saying what is taken has converged: the rest of the draws are mutations.
            if sample and attempt < _DRAWS // 4:
                base = self._ask.incumbent
                point = self._crossed(rng, self._point(base.recipe), self._sampled())
                how = f"sampled by {self._settings.sampler}"
            else:
                base = self._parent(rng)
                point = self._mutated(rng, slot, self._point(base.recipe))
                how = f"mutated from {'the incumbent' if base is self._ask.incumbent else 'an archived candidate'}"
            means = active(self._every, {**base.recipe, **point})
            point = {name: value if name in means else base.recipe.get(name) for name, value in point.items()}
            name = self._name(base.recipe, point)
            if name not in self._taken:
                self._taken.add(name)
                return self._document(base, point, how)
        return None

    def _name(self, recipe: dict[str, Any], point: dict[str, Scalar]) -> str:
        """Name a point by the knobs that mean something in it: the others make no difference."""
        means = active(self._every, {**recipe, **point})
        return _key({name: value for name, value in point.items() if name in means})

    def _document(self, base: Archived, point: dict[str, Scalar], how: str) -> dict[str, Any]:
        before = self._point(base.recipe)
        changes = {name: value for name, value in point.items() if not same(value, before[name])}
        for name, value in changes.items():
            self._tried[name].append(value)
        shaping = any(self._space[name].group == "architecture" for name in changes)
        told = ", ".join(f"{name} {_plain(before[name])} to {_plain(new)}" for name, new in changes.items())
        return {
            "kind": "architecture" if shaping else "hyperparameters",
            "base": base.digest,
            "changes": changes,
            "rationale": f"{how}: {told}"[:2000],
        }

    def _seed(self, purpose: str) -> int:
        text = f"lockgate/evolution/{self._ask.seed}/{self._ask.generation}/{purpose}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    def _point(self, recipe: dict[str, Any]) -> dict[str, Scalar]:
        """Reduce a recipe to the knobs that are searched."""
        return {name: recipe.get(name) for name in self._space}

    # What the history says

    def _trial(self, entry: Feedback) -> Trial | None:
        """Place an earlier proposal in the space, and take its point.

        None where its base is not known, or where what it began with tells.
        """
        if entry.proposal.get("kind") == "weights":
            return None
        base = entry.proposal.get("base")
        parent = self._ask.incumbent if base == "incumbent" else self._known.get(str(base))
        made = self._known.get(entry.candidate) if entry.candidate else None
        changes = entry.proposal.get("changes", {})
        if made is not None:
            recipe = made.recipe
        elif parent is not None and isinstance(changes, dict):
            recipe = {**parent.recipe, **changes}
        else:
            return None
        values = self._point(recipe)
        if entry.proposal.get("kind") == "code" and self._same_point(values, parent):
            return None  # another text of the same point says nothing about the point
        self._taken.add(self._name(recipe, values))
        scores = self._objectives.scores(entry.development)
        return Trial(
            values=values,
            parent=self._point(parent.recipe) if parent else values,
            scores=scores,
            gain=self._objectives.gain(entry.development, parent.development) if parent else None,
            broken=_broken(entry, scores),
        )

    def _same_point(self, values: dict[str, Scalar], parent: Archived | None) -> bool:
        return parent is not None and _key(values) == _key(self._point(parent.recipe))

    def _directions(self) -> dict[str, float]:
        """Return for each knob whether larger values went with gains (above 0) or losses, as far as measured."""
        credit = dict.fromkeys(self._space, 0.0)
        for trial in self.trials:
            if trial.gain is None:
                continue
            old, new = trial.parent, trial.values
            moved = {name: direction(knob, old[name], new[name]) for name, knob in self._space.items()}
            changed = sum(map(abs, moved.values()))
            for name, sign in moved.items():
                credit[name] += trial.gain * sign / max(1, changed)
        return credit

    # Mutation

    def _parent(self, rng: random.Random) -> Archived:
        """Pick the incumbent, or one time in five the best of three of the archive.

        Those may be of its code, if they gained and lost nothing by it; or of other code that was once promoted. Other
        code that never was has a fine score and a reason to be kept from children.
        """
        present = self._ask.incumbent
        promoted = {entry.candidate for entry in self._ask.history if entry.promoted}
        others = [
            (gain, known.digest)
            for known in self._ask.archive
            if known.digest != present.digest
            and self._fits(known)
            and (gain := self._objectives.gain(known.development, present.development)) is not None
            and (gain > 0 if known.files == present.files else gain > -_NEAR and known.digest in promoted)
        ]
        if others and rng.random() < _ARCHIVED:
            return self._known[max(rng.sample(others, min(3, len(others))))[1]]
        return present

    def _fits(self, known: Archived) -> bool:
        """Whether a candidate's recipe is a point of the incumbent's space."""
        recipe = known.recipe
        return recipe.keys() == self._ask.incumbent.recipe.keys() and all(
            knob.admits(recipe.get(name)) for name, knob in self._space.items()
        )

    def _mutated(self, rng: random.Random, slot: int, point: dict[str, Scalar]) -> dict[str, Scalar]:
        """Change one leading knob and a few more; every second or third slot leads with an untried option."""
        fresh = [name for name, knob in self._space.items() if self._untried(knob)]
        unmoved = any(self._turn(name)[:2] <= (1, False) for name in fresh)  # something of the network never moved
        if fresh and slot % (2 if unmoved else 3) == 0:
            # Nothing else moves along, so that the choice is what is learned about.
            lead = min(fresh, key=self._turn)
            share = 0.0
        else:
            names = list(self._space)
            lead = rng.choices(names, weights=[self._weight(name, point[name]) for name in names])[0]
            share = 2.0 / len(self._space)
        return {
            name: self._moved(rng, knob, point[name])
            if name == lead or rng.random() < min(0.5, share * min(1.0, self._weight(name, point[name])))
            else point[name]
            for name, knob in self._space.items()
        }

    def _weight(self, name: str, value: Scalar) -> float:
        """Return how much a knob deserves to move from this value, 1 being ordinary."""
        knob = self._space[name]
        if knob.type in ("int", "float"):
            weight = 2.0 if knob.type == "int" else 1.0  # sizes and durations before rates
            return weight * (2.0 if self._credit[name] > 0 else 1.0)
        return 1.0 if self._promising(knob, value) else 0.05

    def _promising(self, knob: Knob, value: Scalar) -> list[Scalar]:
        """Return the choices that are untried, or have been seen to do at least as well as the present one."""
        present = self._best(knob, value)
        return [
            option
            for option in options(knob)
            if not same(option, value)
            and ((best := self._best(knob, option)) is None or present is None or best >= present)
        ]

    def _best(self, knob: Knob, option: Scalar) -> float | None:
        """Return the best first objective measured with this choice; -inf where all that had it were rejected."""
        if not any(same(option, value) for value in self._tried[knob.name]):
            return None
        scores = [score for point, score in self._measured if same(point[knob.name], option)]
        return max(scores, default=-math.inf)

    def _turn(self, name: str) -> tuple[int, bool, int, str]:
        """Order knobs with untried options: tried least, the network's before the training's, counts before names."""
        knob = self._space[name]
        tried = len(options(knob)) - len(self._untried(knob))
        return tried, knob.group != "architecture", ("int", "choice", "bool").index(knob.type), name

    def _untried(self, knob: Knob) -> list[Scalar]:
        tried = self._tried[knob.name]
        return [option for option in options(knob) if not any(same(option, value) for value in tried)]

    def _moved(self, rng: random.Random, knob: Knob, value: Scalar) -> Scalar:
        """Return another value of the knob, near the present one where nearness has a meaning."""
        if knob.type == "bool":
            return not value
        if options(knob):
            return self._other_option(rng, knob, value)
        if knob.low is None or knob.high is None or isinstance(value, bool) or not isinstance(value, int | float):
            return uniform(rng, knob)
        up = rng.random() < self._upward(knob.name)
        if knob.log and value > 0:
            step = min(math.log(rng.uniform(1.4, 3.2)), 0.5 * math.log(knob.high / knob.low))
            steps = [value * math.exp(step), value * math.exp(-step)]
        else:
            step = rng.uniform(0.05, 0.3) * (knob.high - knob.low)
            steps = [value + step, value - step]
        for target in steps if up else reversed(steps):
            moved = snapped(knob, target, value)
            if not same(moved, value):
                return moved
        return value

    def _other_option(self, rng: random.Random, knob: Knob, value: Scalar) -> Scalar:
        """Return another of a few options: an untried one first, and of those with an order one that is near."""
        others = [option for option in options(knob) if not same(option, value)]
        wanted = self._untried(knob) or self._promising(knob, value) or others
        numbers = ordered(knob)
        if not numbers or isinstance(value, bool) or not isinstance(value, int | float):
            return rng.choice(wanted)
        up = rng.random() < self._upward(knob.name)
        place = numbers.index(value) if value in numbers else 0
        ranks = {number: rank - place for rank, number in enumerate(numbers)}
        pool = [number for number in numbers if any(same(number, option) for option in wanted) and number != value]
        return min(pool or others, key=lambda number: (abs(ranks[number]), (ranks[number] > 0) != up))

    def _upward(self, name: str) -> float:
        credit = self._credit[name]
        if credit == 0:
            return 0.5 if self._space[name].type == "float" else self._settings.upward
        return 0.8 if credit > 0 else 0.2

    # Sampling

    def _sampled(self) -> dict[str, Scalar]:
        """Draw a point of the whole space from the study."""
        if self._study is None:
            self._study = Study(
                self._space,
                self.trials,
                sampler=self._settings.sampler,
                seed=self._seed("sampler") % 2**32,
                population=max(4, self._ask.count),
            )
        return self._study.draw()

    def _crossed(self, rng: random.Random, point: dict[str, Scalar], drawn: dict[str, Scalar]) -> dict[str, Scalar]:
        """Take each knob from one of two points: a whole new point is too far from what is known to be good."""
        return {name: drawn[name] if rng.random() < 0.5 else point[name] for name in point}


def _broken(entry: Feedback, scores: list[float] | None) -> list[str]:
    """Name the constraints that an earlier proposal broke."""
    names = [f"rule {rule}" for rule in entry.failed_rules] + [f"property {name}" for name in entry.refuted]
    if scores is None and not names:
        names.append("measured" if entry.stage == "built" else "built")
    return names


def _plain(value: Scalar) -> str:
    """Write a value as JSON, with one form for a number: 1.0 is written 1."""
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def _key(point: dict[str, Scalar]) -> str:
    """Name a point so that equal points have equal names: 1 and 1.0 are one number."""
    plain = {name: float(value) if type(value) is int else value for name, value in point.items()}
    return json.dumps(plain, sort_keys=True)
