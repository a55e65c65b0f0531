"""An optuna study of what was proposed so far, rebuilt from the history for each ask: what evolution samples from.

Optuna keeps state in its study and its sampler, a proposer keeps none: so the study is told the whole history,
in order, and the sampler is seeded from the ask. The same history and seed give the same draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from harness.proposers.space import Knob, Scalar, same, snapped
from harness.records import Record

__all__ = ["STARTUP", "Sampler", "Study", "Trial"]

Sampler: TypeAlias = Literal["tpe", "nsga2"]
"""Bergstra et al. 2011, or Deb et al. 2002."""

STARTUP = 5
"""Earlier trials before a sampler is worth asking: until then it draws blindly."""


class Trial(Record):
    """One earlier proposal as a point of the space.

    `parent` is the point that it started from, `scores` the objectives (to be maximised; None: nothing was measured),
    `gain` what it gained on its parent, as far as both were measured, `rejected` whether it counts as infeasible.
    """

    values: dict[str, Scalar]
    parent: dict[str, Scalar]
    scores: list[float] | None
    gain: float | None
    rejected: bool


class Study:
    """Draws points of a space by a sampler that knows all earlier trials."""

    def __init__(
        self, space: Mapping[str, Knob], trials: Sequence[Trial], *, sampler: Sampler, seed: int, population: int
    ) -> None:
        """Tell a fresh study all trials that the space still admits; one without a score gets the worst one seen."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = dict(space)
        self._distributions = {name: _distribution(knob) for name, knob in self._space.items()}
        width = max((len(trial.scores) for trial in trials if trial.scores), default=1)
        measured = [trial.scores for trial in trials if trial.scores and len(trial.scores) == width]
        worst = [min(scores[axis] for scores in measured) for axis in range(width)] if measured else [0.0] * width
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # optuna marks whole features as experimental
            if sampler == "nsga2":
                chosen: Any = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
            else:
                chosen = optuna.samplers.TPESampler(n_startup_trials=STARTUP, constant_liar=True, seed=seed)
            self._study: Any = optuna.create_study(directions=["maximize"] * width, sampler=chosen)
            # A change of code may have moved the bounds since: what they no longer admit is left out.
            usable = [trial for trial in trials if all(knob.admits(trial.values[name]) for name, knob in space.items())]
            for number, trial in enumerate(usable):
                self._study.add_trial(
                    optuna.trial.create_trial(
                        values=trial.scores if trial.scores and len(trial.scores) == width else worst,
                        params={name: _drawn(knob, trial.values[name]) for name, knob in self._space.items()},
                        distributions=self._distributions,
                        # NSGA-II breeds from trials that bear a generation of its own counting, by populations.
                        system_attrs={"NSGAIISampler:generation": number // population},
                        constraints={"rejected": 1.0 if trial.rejected else -1.0},
                    )
                )

    def draw(self) -> dict[str, Scalar]:
        """Draw the next point; it need not be new."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            params = self._study.ask(self._distributions).params
        drawn = {name: _undrawn(knob, params[name]) for name, knob in self._space.items()}
        return {name: snapped(self._space[name], value, value) for name, value in drawn.items()}


def _distribution(knob: Knob) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if knob.type == "bool":
        return CategoricalDistribution([False, True])
    if knob.type == "choice":
        return CategoricalDistribution(list(range(len(knob.choices))))
    low, high = knob.low or 0.0, knob.high or 0.0  # a knob that is searched has both
    if knob.type == "int" and knob.step is None:
        return IntDistribution(int(low), int(high), log=knob.log)
    return FloatDistribution(low, high, log=knob.log)


def _drawn(knob: Knob, value: Scalar) -> Any:
    """Return the value as optuna holds it: a choice by its index, because 1 and true would be one choice."""
    if knob.type == "choice":
        return next(index for index, choice in enumerate(knob.choices) if same(choice, value))
    return value


def _undrawn(knob: Knob, drawn: Any) -> Scalar:
    value: Scalar = knob.choices[drawn] if knob.type == "choice" else drawn
    return value
