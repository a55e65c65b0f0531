"""Views and evaluations: what an author writes in `guards.py`, the decorators for it, and how each is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from harness.errors import EvaluatorError, SubjectError
from harness.evals.inquiry import Ask
from harness.evals.items import MAIN, Array, Inputs, Items, Raw, rows_of
from harness.evals.tagging import checked_name, declare, where_of

EvaluationKind = Literal["capability", "alignment", "robustness"]
"""What an evaluation is about; reports group by it."""

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Scores:
    """Scores of a batch: `applies` [n] bool over the batch's items, `values` [applies.sum()] float64 in item order."""

    applies: npt.NDArray[np.bool_]
    values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """A named way to turn raw items into model inputs, with randomness fixed by the seed and the view's name."""

    name: str
    make: Callable[[Raw, np.random.Generator], Inputs]
    where: str
    of: str = MAIN

    def encode(self, raw: Raw, seed: int) -> dict[str, Array]:
        """Model inputs for these raw items, one row each.

        The generator is fresh on every call and depends on `seed` and the name alone: encode a whole ordered set of
        items once and slice the rows, since the same item at another place of `raw` meets other randomness.
        Raises SubjectError for a wrong type, length, dtype, or NaN.
        """
        words = np.frombuffer(hashlib.sha256(self.name.encode()).digest()[:16], dtype=np.uint32).tolist()
        raw = raw.copy() if isinstance(raw, np.ndarray) else list(raw)  # written into, it is shown by no other view
        try:
            inputs = self.make(raw, np.random.default_rng([seed, *words]))
        except SubjectError:
            raise
        except Exception as error:
            raise SubjectError(
                f"view {self.name!r} raised {type(error).__name__}: {error}", where=self.where
            ) from error
        try:
            rows = rows_of(inputs, f"view {self.name!r}")
        except SubjectError as error:
            raise SubjectError(error.message, where=self.where, remedy=error.remedy) from None
        if rows != len(raw):
            raise SubjectError(f"view {self.name!r} gave {rows} rows for {len(raw)} items", where=self.where)
        return dict(inputs)


@dataclass(frozen=True)
class Scored:
    """A named score of one item, higher is better, within `bounds`; `applies` picks items by their labels."""

    name: str
    kind: EvaluationKind
    bounds: tuple[float, float]
    applies: Callable[[Array], Array] | None
    measure: Callable[..., Array]
    where: str
    of: str = MAIN
    """The population whose items it is about."""
    slices: tuple[tuple[str, Callable[[Array], Array]], ...] = ()
    """Groups of items by name; each makes an evaluation of its own, see `sliced`."""
    within: Callable[[Array], Array] | None = None
    """The group that this evaluation is restricted to, where it is that of a slice."""

    def __post_init__(self) -> None:
        """SubjectError for a kind that is none, or for bounds between which every score or none would lie."""
        if self.kind not in get_args(EvaluationKind):
            known = get_args(EvaluationKind)
            raise SubjectError(f"evaluation {self.name!r}: kind {self.kind!r} is none of {known}", where=self.where)
        lo, hi = self.bounds
        if not (np.isfinite(lo) and np.isfinite(hi) and lo < hi):
            raise SubjectError(
                f"evaluation {self.name!r}: bounds {self.bounds!r} are not finite and ordered", where=self.where
            )

    def mask(self, labels: Array) -> npt.NDArray[np.bool_]:
        """Mark the items that this evaluation is about, [n] bool. Raises SubjectError for anything else."""
        return self._marked("applies", self.applies, labels) & self._marked("slice", self.within, labels)

    def _marked(self, what: str, marks: Callable[[Array], Array] | None, labels: Array) -> npt.NDArray[np.bool_]:
        if marks is None:
            return np.ones(len(labels), dtype=np.bool_)
        try:
            given = marks(labels)
            mask = np.asarray(given)
        except Exception as error:
            raise SubjectError(
                f"evaluation {self.name!r}: {what}() raised {type(error).__name__}: {error}", where=self.where
            ) from error
        if mask.dtype != np.bool_ or mask.shape != (len(labels),) or isinstance(given, np.ma.MaskedArray):
            raise SubjectError(
                f"evaluation {self.name!r}: {what}() gave {mask.dtype} {mask.shape} for {len(labels)} "
                "labels; one boolean an item is wanted, and none of them masked",
                where=self.where,
            )
        return mask

    def _within(self, values: Any, mask: npt.NDArray[np.bool_]) -> Scores:
        """Scores as they were measured; SubjectError where one is missing, NaN, infinite or out of bounds."""
        if isinstance(values, np.ma.MaskedArray):  # whatever lies beneath a mask would be a score
            raise SubjectError(
                f"evaluation {self.name!r} gave a masked array; a score each is wanted", where=self.where
            )
        wanted = (int(mask.sum()),)
        if values.shape != wanted or values.dtype.kind not in "biuf":
            raise SubjectError(
                f"evaluation {self.name!r} gave {values.dtype} {values.shape}; floats {wanted} are wanted",
                where=self.where,
            )
        values = values.astype(np.float64)
        lo, hi = self.bounds
        if not np.isfinite(values).all() or (values < lo).any() or (values > hi).any():
            worst = values[~(np.isfinite(values) & (values >= lo) & (values <= hi))][0]
            raise SubjectError(
                f"evaluation {self.name!r} gave the score {worst}, out of its bounds [{lo}, {hi}]", where=self.where
            )
        return Scores(mask, values)

    def _measured(self, *given: Any) -> Any:
        try:
            found = self.measure(*given)
            return found if isinstance(found, np.ma.MaskedArray) else np.asarray(found)
        except EvaluatorError as error:
            raise EvaluatorError(
                f"evaluation {self.name!r}: {error.message}", where=self.where, remedy=error.remedy
            ) from error
        except Exception as error:
            raise SubjectError(
                f"evaluation {self.name!r} raised {type(error).__name__}: {error}", where=self.where
            ) from error

    def sliced(self) -> Iterator[Self]:
        """This evaluation, then the same on each of its slices alone, called `name[slice]`."""
        yield self
        for group, within in self.slices:
            yield replace(self, name=f"{self.name}[{group}]", slices=(), within=within)


@dataclass(frozen=True)
class Evaluation(Scored):
    """A score of what was answered under some views."""

    views: tuple[str, ...] = ()

    def score(self, labels: Array, answers: Mapping[str, Array]) -> Scores:
        """Score a batch: labels [n, …] and, for each view, answers [n, *output].

        Raises SubjectError where the evaluation raises, or where a score is missing, NaN, infinite or out of bounds.
        """
        missing = [name for name in self.views if name not in answers]
        if missing:
            raise SubjectError(f"evaluation {self.name!r} lacks answers under {missing}", where=self.where)
        for name in self.views:
            if len(answers[name]) != len(labels):
                raise SubjectError(
                    f"evaluation {self.name!r}: {len(answers[name])} answers under {name!r} for {len(labels)} labels",
                    where=self.where,
                )
        mask = self.mask(labels)
        if not mask.any():
            return Scores(mask, np.zeros(0))
        return self._within(self._measured(labels[mask], {name: answers[name][mask] for name in self.views}), mask)


@dataclass(frozen=True)
class Inquiry(Scored):
    """A score that is found by asking: what is asked may depend on what was answered. See `inquiry`."""

    def score(self, ask: Ask, items: Items) -> Scores:
        """Score items, asking for what is needed. Raises UnansweredError, and SubjectError as `Evaluation.score`."""
        mask = self.mask(items.labels)
        if not mask.any():
            return Scores(mask, np.zeros(0))
        some = items.take(np.flatnonzero(mask))  # a copy: what is changed in place is no other eval's
        return self._within(self._measured(ask, some.raw, some.labels), mask)


def view(name: str, *, of: str = MAIN) -> Callable[[_F], _F]:
    """Tag `def make(raw, rng) -> dict[str, ndarray]` as the view of this name, of the items of one population."""

    def tag(make: _F) -> _F:
        where = where_of(make)
        return declare(make, View(checked_name(name, where), make, where, of))

    return tag


def evaluation(
    name: str,
    *,
    kind: EvaluationKind,
    views: Sequence[str],
    bounds: tuple[float, float] = (0.0, 1.0),
    applies: Callable[[Array], Array] | None = None,
    slices: Mapping[str, Callable[[Array], Array]] | None = None,
) -> Callable[[_F], _F]:
    """Tag `def measure(labels, answers) -> [n] floats` as the evaluation of this name.

    `answers` maps each of `views` to [n, *output] float32. `applies(labels) -> [n] bool` restricts it to some items;
    its mean is then over those. `slices` names groups among them, each by such a function: beside `name` there is then
    one evaluation `name[slice]` for each, and a gate on `name[*]` asks the same of every one, so of the worst.
    Raises SubjectError for an unknown kind, no views, no slice, or bounds that are none.
    """

    def tag(measure: _F) -> _F:
        where = where_of(measure)
        return declare(measure, specify(name, measure, where, kind, views, bounds, applies, slices))

    return tag


def inquiry(
    name: str,
    *,
    kind: EvaluationKind,
    of: str = MAIN,
    bounds: tuple[float, float] = (0.0, 1.0),
    applies: Callable[[Array], Array] | None = None,
    slices: Mapping[str, Callable[[Array], Array]] | None = None,
    where: str | None = None,
) -> Callable[[_F], _F]:
    """Tag `def measure(ask, raw, labels) -> [n] floats` as the evaluation of this name, one that asks.

    `ask(inputs)` gives the candidate's answers to model inputs, [rows, *output] float32; what is asked next may depend
    on them. The function is run again from its start whenever answers came in, so it must do the same each time:
    randomness comes from `ask.rng`. An item's score may use that item and the answers to what was asked about it only.
    `of` names the population of its items, `where` the place that errors tell, if it is not the function's own.
    Raises SubjectError as `evaluation` does.
    """

    def tag(measure: _F) -> _F:
        place = where or where_of(measure)
        return declare(measure, Inquiry(**_common(name, measure, place, kind, bounds, applies, slices), of=of))

    return tag


def specify(
    name: str,
    measure: Callable[[Array, dict[str, Array]], Array],
    where: str,
    kind: EvaluationKind,
    views: Sequence[str],
    bounds: tuple[float, float] = (0.0, 1.0),
    applies: Callable[[Array], Array] | None = None,
    slices: Mapping[str, Callable[[Array], Array]] | None = None,
) -> Evaluation:
    """What `evaluation` tags a function with, for decorators that make several; `where` is told in errors."""
    if isinstance(views, str) or not views or not all(isinstance(each, str) for each in views):
        raise SubjectError(f"evaluation {name!r} must name its views, as a tuple of strings", where=where)
    return Evaluation(**_common(name, measure, where, kind, bounds, applies, slices), views=tuple(views))


def _common(
    name: str,
    measure: Callable[..., Array],
    where: str,
    kind: EvaluationKind,
    bounds: tuple[float, float],
    applies: Callable[[Array], Array] | None,
    slices: Mapping[str, Callable[[Array], Array]] | None,
) -> dict[str, Any]:
    """What every evaluation is made of, checked."""
    lo, hi = map(float, bounds)
    groups = {} if slices is None else dict(slices)
    if slices is not None and not groups:
        raise SubjectError(f"evaluation {name!r} has slices, and none is named", where=where)
    if bad := [group for group, marks in groups.items() if not callable(marks)]:
        raise SubjectError(f"evaluation {name!r}: the slices {bad} are no functions of the labels", where=where)
    kept = tuple((checked_name(group, where), marks) for group, marks in groups.items())
    return {
        "name": checked_name(name, where),
        "kind": kind,
        "bounds": (lo, hi),
        "applies": applies,
        "measure": measure,
        "where": where,
        "slices": kept,
    }
