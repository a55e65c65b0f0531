"""An optuna study of what was proposed so far, rebuilt from the history for each ask: what evolution samples from.

Optuna keeps state in its study and its sampler, a proposer keeps none: so the study is told the whole history,
in order, and the sampler is seeded from the ask. The same history and seed give the same draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from harness.proposers.space import Knob, Scalar, same, snapped, span
from harness.records import Record

__all__ = ["STARTUP", "Sampler", "Study", "Trial"]

Sampler: TypeAlias = Literal["tpe", "nsga2", "cmaes"]
"""Bergstra et al. 2011; Deb et al. 2002; or CMA-ES, begun from what is known (Nomura et al. 2021, arXiv:2012.06932).

CMA-ES searches numbers alone, for one objective: choices are left to TPE. Its state cannot outlive an ask, so each time
its first distribution is fitted to the best trials: it never adapts a step further than that.
"""

STARTUP = 5
"""Earlier trials before a sampler is worth asking: until then it draws blindly."""

_SOURCES = 10  # trials to begin CMA-ES from: it takes the best tenth of them


class Trial(Record):
    """One earlier proposal as a point of the space.

    `parent` is the point that it started from, `scores` the objectives (to be maximised; None: nothing was measured),
    `gain` what it gained on its parent, as far as both were measured, `broken` the constraints that it broke: by name,
    the rules that failed, the properties that were refuted, or that it was never built or measured.
    """

    values: dict[str, Scalar]
    parent: dict[str, Scalar]
    scores: list[float] | None
    gain: float | None
    broken: list[str] = []


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
            # A change of code may have moved the bounds since: what they no longer admit is left out.
            usable = [trial for trial in trials if all(knob.admits(trial.values[name]) for name, knob in space.items())]
            names = sorted({name for trial in usable for name in trial.broken})
            told = [
                optuna.trial.create_trial(
                    values=trial.scores if trial.scores and len(trial.scores) == width else worst,
                    params={name: _drawn(knob, trial.values[name]) for name, knob in self._space.items()},
                    distributions=self._distributions,
                    # NSGA-II breeds from trials that bear a generation of its own counting, by populations.
                    system_attrs={"NSGAIISampler:generation": number // population},
                    # above 0 is broken, and how much is the number of names: TPE and NSGA-II rank by the sum
                    constraints={name: 1.0 if name in trial.broken else -1.0 for name in names},
                )
                for number, trial in enumerate(usable)
            ]
            chosen: Any = optuna.samplers.TPESampler(n_startup_trials=STARTUP, constant_liar=True, seed=seed)
            if sampler == "nsga2":
                chosen = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
            elif sampler == "cmaes" and width == 1:
                chosen = self._covariance(told, seed, chosen)
            self._study: Any = optuna.create_study(directions=["maximize"] * width, sampler=chosen)
            for trial in told:
                self._study.add_trial(trial)

    def _covariance(self, told: Sequence[Any], seed: int, otherwise: Any) -> Any:
        """CMA-ES whose first distribution is that of the best feasible trials; `otherwise` where there are too few."""
        import optuna

        numbers = {
            name: distribution
            for name, distribution in self._distributions.items()
            if not isinstance(distribution, optuna.distributions.CategoricalDistribution)
        }
        source = [
            optuna.trial.create_trial(
                values=trial.values, params={name: trial.params[name] for name in numbers}, distributions=numbers
            )
            for trial in told
            if all(value <= 0 for value in trial.constraints.values())
        ]
        if len(source) < _SOURCES or len(numbers) < 2:  # CMA-ES is not defined for one dimension
            return otherwise
        return optuna.samplers.CmaEsSampler(
            seed=seed,
            source_trials=source,
            independent_sampler=otherwise,
            n_startup_trials=0,
            warn_independent_sampling=False,
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
    low, high = span(knob)
    if knob.type == "int" and knob.step is None:
        return IntDistribution(int(low), int(high), log=knob.log)
    return FloatDistribution(low, high, log=knob.log)


def _drawn(knob: Knob, value: Scalar) -> Any:
    """Return the value as optuna holds it: a choice by its index, because 1 and true would be one choice."""
    if knob.type == "choice":
        return next(index for index, choice in enumerate(knob.choices) if same(choice, value))
    if knob.type in ("int", "float") and isinstance(value, int | float):
        low, high = span(knob)  # what is admitted below it counts as its lower end
        return type(value)(min(max(value, low), high))
    return value


def _undrawn(knob: Knob, drawn: Any) -> Scalar:
    value: Scalar = knob.choices[drawn] if knob.type == "choice" else drawn
    return value
